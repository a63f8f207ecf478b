"""The files of `deploy/`: whether they are valid, true to the code, and work as processes."""
