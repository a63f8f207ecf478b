"""What the simulated backend says: words and vectors that follow from the prompt alone."""

import base64
import math
import struct
from hashlib import blake2b, shake_128

Prompt = str | list[int]

_FIRST_WORD = "simulated:"
_WORDS = """
a about above across air all along and any around at away back before below best between bright
bus by calm car carries city clear close cloud company corner day door down driver each early east
engine evening every fair far fast field first five follow for four friend from full garage gate
gently glass go good green half hand happy harbour here high hill home hour house in into island
its journey just keep kind lake lamp lane large last late lead left light line little long low
main many map market mile minute moon more morning most motor mountain move near new next night
noon north of old on one open orange other our out over park part pass path people place plain
plan point quick quiet rain ready rest ride right river road roof room round route run sea seat
second see seven share ship shore short side sign six sky slow small snow soft some song soon
sound south spring square star start station steady still stone stop street summer sun sure table
take team ten that the their then there they three through ticket time to today together town
track train travel tree turn twelve two under up valley village wait walk wall warm water way we
west wheel when where white wide wind window winter with wood yard year yellow yes you young zone
"""
_TOKENS = [f" {word}" for word in _WORDS.split()]


def digest(prompt: Prompt, choice: int = 0) -> bytes:
    """64 bytes that follow from the prompt and the index of the choice."""
    return blake2b(_bytes(prompt), salt=choice.to_bytes(4, "little")).digest()


def tokens(seed: bytes, count: int) -> list[str]:
    """As many word-like tokens; joined, they are the text."""
    size = len(_TOKENS)
    return [_FIRST_WORD, *[_TOKENS[(seed[i & 63] + i) % size] for i in range(1, count)]]


def count(prompt: Prompt) -> int:
    """The prompt's length: its words, which pass for tokens here, or its token ids."""
    if isinstance(prompt, str):
        return prompt.count(" ") + prompt.count("\n") + 1
    return len(prompt)


def vector(prompt: Prompt, dimensions: int) -> list[float]:
    """A unit vector; no component is zero."""
    raw = struct.unpack(f"<{dimensions}H", shake_128(_bytes(prompt)).digest(2 * dimensions))
    centred = [value - 32767.5 for value in raw]
    length = math.sqrt(math.fsum(value * value for value in centred))
    return [value / length for value in centred]


def packed(values: list[float]) -> str:
    """Base64 of little-endian float32, which is what OpenAI's client asks for by default."""
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def _bytes(prompt: Prompt) -> bytes:
    if isinstance(prompt, str):
        return prompt.encode("utf-8", "surrogatepass")
    return ",".join(map(str, prompt)).encode()
