"""`carpool bench`: the same work sent to several models, and how each of them did it."""
