"""The groups of commands: each is thin, and imports what it needs when it runs."""
