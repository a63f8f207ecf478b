"""A provider's patient ways as a backend: rows are gathered, sent as files or as background
responses, and read back."""
