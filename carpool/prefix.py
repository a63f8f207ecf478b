"""A key that brings requests with a common beginning next to each other."""

from typing import Final
from zlib import crc32

LENGTHS_BYTES: Final = (256, 1024, 4096, 16384)
"""The growing prefixes that are compared: about 64, 256, 1,024 and 4,096 tokens."""


def prefix_key(prompt: bytes) -> int:
    """A signed 64-bit key: 16 bits each of a chained hash of four growing prefixes.

    Sorted by it, requests lie together by the length of the prefix that they share (DESIGN.md,
    section 3). ``prompt`` is the canonical prompt: the request's JSON from its messages on.
    """
    key = chained = begin = 0
    for end in LENGTHS_BYTES:
        chained = crc32(prompt[begin:end], chained)
        key = key << 16 | (chained ^ chained >> 16) & 0xFFFF
        begin = end
    return key - (1 << 64) if key >> 63 else key
