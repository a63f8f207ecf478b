"""What a store's library raises is told in one line, without a secret, by Carpool's own errors."""

import pytest

from carpool.errors import FileMissing, StoreAway
from carpool.store.failures import reading, reason, writing

SIGNED = "Generic error: PUT https://host/c/a?sig=secret&se=1 in 3 ms - 503\n\nDebug source: secret"


class Foreign(Exception):
    """An error of somebody's library."""


def test_a_reason_is_one_line_without_a_query() -> None:
    assert reason(Foreign(SIGNED)) == "Generic error: PUT https://host/c/a in 3 ms - 503"
    assert reason(Foreign()) == "Foreign"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Foreign(SIGNED)])
def test_what_fails_is_away(error: Exception) -> None:
    for how in (reading, writing):
        with pytest.raises(StoreAway, match=r"^files/a: ") as caught, how("files/a", Foreign):
            raise error
        assert "secret" not in str(caught.value)


def test_what_is_absent_is_missing_to_a_reader_alone() -> None:
    with pytest.raises(FileMissing), reading("files/a"):
        raise FileNotFoundError
    with pytest.raises(StoreAway), writing("files/a"):
        raise FileNotFoundError


@pytest.mark.parametrize("error", [Foreign("x"), KeyError("x"), FileMissing("x")])
def test_what_is_not_the_stores_passes(error: Exception) -> None:
    with pytest.raises(type(error)), writing("files/a"):
        raise error
