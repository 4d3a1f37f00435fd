"""Small files that claim to be large: what an archive unpacks to, and what a header promises, against what is there.

refused:   unpacked > 1 GiB  and  unpacked > 100 * file's own size         (zeros deflate to 1/1032 of their size)
"""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from dan.errors import UserError

LARGE = 2**30  # bytes: what unpacks to less than this harms nobody
RATIO = 100  # times: numbers that were measured pack to no less than a tenth or so


def refuse_bomb(path: Path) -> None:
    """Raises UserError for a zip archive (.npz, .pt) whose members unpack to far more than the file; no other file.

    What the members claim is enough: no reader here unpacks more of a member than its claim.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            claimed = sum(member.file_size for member in archive.infolist())
        refuse_claim(path, claimed)
    except UserError:
        raise
    except Exception:  # noqa: BLE001  (no archive, or a damaged one: its reader says so, in its own words)
        pass


def refuse_claim(path: Path, claimed: int) -> None:
    """Raises UserError where so many bytes cannot be meant by a file of that size."""
    size = path.stat().st_size
    if claimed > LARGE and claimed > RATIO * size:
        raise UserError(
            f"{path} claims to hold {claimed / 2**30:.1f} GiB, and is a file of {size} bytes: a decompression bomb, or "
            "damaged; save it without compression if it is yours"
        )


def read_member(archive: tarfile.TarFile, member: tarfile.TarInfo, most: int) -> bytes:
    """The bytes of a plain file in a tar archive. Raises ValueError for anything else, and for more than `most` bytes,
    before they are unpacked."""
    if not member.isfile():
        raise ValueError(f'"{member.name}" is no plain file')
    if member.size > most:
        raise ValueError(f'"{member.name}" claims {member.size:,} bytes, and {most:,} would be many')
    file = archive.extractfile(member)
    assert file is not None  # a plain file has content
    return file.read()


def real_size(tensor: Tensor) -> bool:
    """Whether a tensor has memory for each of its numbers: one that repeats a few can claim any shape."""
    if tensor.layout != torch.strided:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
