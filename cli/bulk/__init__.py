"""Bulk work from the command line: `carpool submit` and `carpool batches`."""
