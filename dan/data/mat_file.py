"""MATLAB's level-5 files (save -v6, -v7): the real, dense matrices of numbers in them, and the names of all else.

    file     128 bytes of header, then elements
    element  type, size, content, and 0 to 7 bytes up to a multiple of 8; 1 to 4 bytes of content may lie in the tag
    matrix   elements: flags (its class), dimensions, name, values in column order

Read here rather than by scipy, whose reader, written for files of one's own, ends the process on some damaged ones.
Every size is checked against what is there before anything is made of it.

Source: The MathWorks, "MAT-File Format", level 5.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dan.archive_limits import LARGE, RATIO

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_NUMBERS = range(6, 16)  # the classes double, single, and whole numbers of 1 to 8 bytes
_COMPLEX = 0x0800


def read_mat(path: Path, wanted: Collection[str]) -> dict[str, Any]:
    """Name -> array for the wanted matrices, name -> None for the others.

    Raises ValueError, with the reason, for a file of another kind or version, for a damaged one, for a wanted variable
    that is no real, dense matrix of numbers, and for what unpacks to far more than the file is; NotImplementedError for
    version 7.3, which is HDF5.
    """
    content = memoryview(path.read_bytes())
    if bytes(content[:8]) == b"\x89HDF\r\n\x1a\n" or bytes(content[:19]) == b"MATLAB 7.3 MAT-file":
        raise NotImplementedError("a MATLAB v7.3 file")
    order = {b"IM": "<", b"MI": ">"}.get(bytes(content[126:128]))
    if len(content) < _HEADER or order is None:
        raise ValueError("it has no header of a level-5 file (save -v7)")
    most = max(LARGE, RATIO * len(content))
    found: dict[str, Any] = {}
    for kind, inside in _elements(content[_HEADER:], order):
        if kind == _COMPRESSED:
            ((kind, inside),) = _elements(memoryview(_unpacked(inside, most)), order, most=1)
        if kind != _MATRIX:
            raise ValueError(f"an element of type {kind} stands where a variable should")
        name, array = _variable(inside, order, wanted)
        found[name] = array
    return found


def _elements(content: memoryview, order: str, most: int | None = None) -> Iterator[tuple[int, memoryview]]:
    """(type, content) one after the other."""
    at = 0
    while len(content) - at >= 8 and most != 0:
        kind, size = struct.unpack_from(f"{order}II", content, at)
        if kind >> 16:  # the size is in the upper half, and the content in the tag itself
            kind, size = kind & 0xFFFF, kind >> 16
            start, following = at + 4, at + 8
            if size > 4:
                raise ValueError(f"{size} bytes cannot lie in a tag of 4")
        else:
            start = at + 8
            following = start + size + (0 if kind == _COMPRESSED else -size % 8)
        if start + size > len(content):
            raise ValueError(f"an element of {size} bytes is cut short")
        yield kind, content[start : start + size]
        at = following
        most = None if most is None else most - 1


def _unpacked(content: memoryview, most: int) -> bytes:
    unpacker = zlib.decompressobj()
    unpacked = unpacker.decompress(content, most)
    if unpacker.unconsumed_tail:
        raise ValueError(f"it unpacks to more than {most} bytes: a decompression bomb, or damaged")
    return unpacked


def _variable(content: memoryview, order: str, wanted: Collection[str]) -> tuple[str, Any]:
    parts = _elements(content, order)
    try:
        (_, flags), (_, dimensions), (_, written) = next(parts), next(parts), next(parts)
    except StopIteration:
        raise ValueError("a variable without flags, dimensions and name") from None
    if len(flags) < 4 or len(dimensions) % 4:
        raise ValueError("a variable with damaged flags or dimensions")
    name = bytes(written).decode("ascii", errors="replace")
    if name not in wanted:
        return name, None
    (flag,) = struct.unpack_from(f"{order}I", flags)
    shape = struct.unpack(f"{order}{len(dimensions) // 4}i", dimensions)
    if flag & 0xFF not in _NUMBERS or flag & _COMPLEX:
        raise ValueError(f"{name} must be a dense matrix of real numbers")
    kind, values = next(parts, (0, memoryview(b"")))
    if kind not in _TYPES or len(values) % np.dtype(_TYPES[kind]).itemsize:
        raise ValueError(f"the values of {name} are damaged")
    numbers = np.frombuffer(values, np.dtype(order + _TYPES[kind]))
    if min(shape, default=-1) < 0 or math.prod(shape) != len(numbers):
        raise ValueError(f"{name} is of shape {shape}, and {len(numbers)} numbers are there")
    # As they lie there: MATLAB keeps whole numbers in as few bytes as they fit into, whatever the class of the matrix.
    return name, numbers.reshape(shape, order="F")
