"""Prompts that begin alike have keys that begin alike, 16 bits for each length they share."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from carpool.prefix import LENGTHS_BYTES, prefix_key

BITS = 16
lengths = st.sampled_from(range(len(LENGTHS_BYTES)))
seeds = st.binary(min_size=1, max_size=64)


def grown(seed: bytes, length: int) -> bytes:
    return (seed * (length // len(seed) + 1))[:length]


def unsigned(key: int) -> int:
    return key & ((1 << 64) - 1)


@given(st.binary(max_size=2000))
def test_a_key_is_a_signed_64_bit_number(prompt: bytes) -> None:
    assert -(2**63) <= prefix_key(prompt) < 2**63
    assert prefix_key(prompt) == prefix_key(bytes(prompt))


@given(seeds, st.binary(max_size=500), st.binary(max_size=500), lengths)
def test_prompts_share_as_much_of_the_key_as_of_their_beginning(
    seed: bytes, one: bytes, other: bytes, place: int
) -> None:
    common = grown(seed, LENGTHS_BYTES[place])
    shared = (place + 1) * BITS
    keys = [unsigned(prefix_key(common + rest)) >> (64 - shared) for rest in (one, other)]
    assert keys[0] == keys[1]


@given(seeds, lengths)
def test_prompts_that_differ_early_differ_in_all_that_follows(seed: bytes, place: int) -> None:
    """The hash is chained, so that an equal middle does not bring unequal prompts together."""
    length = LENGTHS_BYTES[place]
    prompt = grown(seed, LENGTHS_BYTES[-1])
    changed = bytearray(prompt)
    changed[length - 1] ^= 0xFF
    same = place * BITS
    difference = unsigned(prefix_key(prompt)) ^ unsigned(prefix_key(bytes(changed)))
    assert difference >> (64 - same) == 0
    parts = [(difference >> (48 - BITS * part)) & 0xFFFF for part in range(4)]
    assert all(parts[place:])


@given(seeds, st.binary(min_size=1, max_size=500))
def test_what_lies_beyond_the_longest_prefix_does_not_count(seed: bytes, rest: bytes) -> None:
    longest = grown(seed, LENGTHS_BYTES[-1])
    assert prefix_key(longest) == prefix_key(longest + rest)


def test_sorted_by_key_the_groups_lie_together() -> None:
    groups = [b"%d " % number * 200 for number in range(40)]
    prompts = [
        (number, group + b"%d" % own) for number, group in enumerate(groups) for own in range(5)
    ]
    ordered = [number for number, _ in sorted(prompts, key=lambda p: prefix_key(p[1]))]
    changes = sum(one != other for one, other in pairwise(ordered))
    assert changes == len(groups) - 1
