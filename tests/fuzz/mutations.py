"""Inputs from good ones by blind mutation: bits, bytes, numbers, pieces that parsers stumble over, cuts and repeats."""

from __future__ import annotations

import random
from collections.abc import Sequence

PIECES = (
    b"\0", b"\xff", b"\n", b"\r", b",", b'"', b"'", b"=", b"%", b"-", b"../", b"/", b"\\", b"[", b"{", b"]", b"}",
    b"null", b"NaN", b"Infinity", b"-1", b"1e999", b"9" * 400, b"9" * 5000, b"\xe2\x80\xae", b"\xef\xbb\xbf",
    b"[" * 3000, b"__reduce__", b"\x80\x04", b"PK\x03\x04", b"\x93NUMPY", b"'descr': '|O'", b"(2**40, 1)",
    b"x" * 300,
)  # fmt: skip
NUMBERS = (0, 1, -1, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)


def mutated(seeds: Sequence[bytes], draw: random.Random) -> bytes:
    """One input: a seed after 0 to 6 mutations; now and then nothing but noise."""
    if draw.random() < 0.02:
        return draw.randbytes(draw.randrange(200))
    data = bytearray(draw.choice(seeds))
    for _ in range(draw.choice((0, 1, 1, 1, 2, 2, 3, 6))):
        at = draw.randrange(len(data) + 1)
        end = min(len(data), at + draw.choice((1, 1, 2, 4, 16, 64)))
        kind = draw.randrange(8)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << draw.randrange(8)
        elif kind == 1 and data:
            data[at % len(data)] = draw.randrange(256)
        elif kind == 2:
            data[at:at] = draw.choice(PIECES)
        elif kind == 3:
            data[at:end] = draw.choice(PIECES)
        elif kind == 4:
            del data[at:end]
        elif kind == 5:
            data[at:at] = data[at:end] * draw.choice((1, 2, 50))
        elif kind == 6:
            width = draw.choice((1, 2, 4, 8))
            number = draw.choice(NUMBERS) % 2 ** (8 * width)
            data[at : at + width] = number.to_bytes(width, draw.choice(("little", "big")))
        else:
            other = draw.choice(seeds)
            data[at:] = other[draw.randrange(len(other) + 1) :] if draw.random() < 0.5 else b""
    return bytes(data)
