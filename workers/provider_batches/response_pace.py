"""How often a background response is looked at: the older it is, the less often. Pure."""

from collections.abc import Iterable, Sequence

from db.provider_responses import OpenResponse

SHARE_OF_AGE = 0.1
"""So much later than it could be an answer is read, at most."""
SHARE_OF_WINDOW = 0.05


class Pace:
    """When each response of a window is to be looked at again; times are of one clock, in seconds.

    A response of two hours is looked at 40 times, if a poll lasts a minute.
    """

    def __init__(self, *, window_seconds: float, poll_seconds: float) -> None:
        self._longest = SHARE_OF_WINDOW * window_seconds
        self._shortest = poll_seconds
        self._next: dict[str, float] = {}

    def pause_seconds(self, age_seconds: float) -> float:
        """Between two looks at one that is so old."""
        return max(self._shortest, min(SHARE_OF_AGE * age_seconds, self._longest))

    def due(self, responses: Iterable[OpenResponse], now: float) -> Sequence[OpenResponse]:
        """Those whose time has come, in their order; one that is new waits for a first pause."""
        found = []
        for response in responses:
            at = self._next.setdefault(response.response, now + self._first_wait(response))
            if at <= now:
                found.append(response)
        return found

    def looked(self, response: OpenResponse, now: float) -> None:
        """It is not over yet."""
        self._next[response.response] = now + self.pause_seconds(response.age_seconds)

    def forget(self, response: str) -> None:
        """It is looked at no more."""
        self._next.pop(response, None)

    def _first_wait(self, response: OpenResponse) -> float:
        """None for those of an earlier keeper, which may have been over for long."""
        return max(self._shortest - response.age_seconds, 0.0)
