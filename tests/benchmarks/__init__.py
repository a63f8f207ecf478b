"""Measures Carpool against DESIGN.md's budgets: `python -m tests.benchmarks` prints the table."""
