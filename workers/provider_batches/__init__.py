"""A provider's Batch API as a backend: rows are gathered, sent as files, and read back."""
