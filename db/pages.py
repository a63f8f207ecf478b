"""Pages of rows with bodies: bounded by their number, and by the memory that they take."""

PAGE_BYTES = 8_000_000
"""Of bodies on one page; what passes it is the last of its page."""


def bounded(query: str, order: str) -> str:
    """A query, with a ``body`` and ordered as said, cut where its bodies fill a page."""
    return f"""
select * from (
    select q.*, sum(octet_length(q.body)) over (
        order by {order} rows between unbounded preceding and 1 preceding
    ) as bytes_before
    from ({query}) q
) page
where coalesce(bytes_before, 0) < {PAGE_BYTES}
order by {order}
"""  # noqa: S608 - texts of our own
