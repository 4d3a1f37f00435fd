"""Every image is decoded once: a listing -> uint8 pixels (N, S, S, channels), kept as one memory-mapped .npy file.

    file = <cache>/<key>.npy,   key = sha256(version, Pillow's version, S, channels, and each image's name, size, mtime)

What is kept can be removed at any time. Shapes: N images; S pixels a side.
"""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dan.data.decoded_listing import Unreadable, decode_listing
from dan.data.listing import Listing
from dan.errors import UserError, print_warnings
from dan.run_dir import write_atomically

VERSION = 3  # of the pixels' definition: a change in `decoding` makes it the next number
MEMORY_LIMIT = 4 * 2**30  # bytes that are decoded into memory without a cache folder


def pixels_of(
    listing: Listing, size: int, *, channels: Literal[1, 3] = 3, cache: Path | None = None, quiet: bool = True
) -> tuple[NDArray[np.uint8], str]:
    """All images of a listing as (N, S, S, channels), read-only, and the sha256 of those pixels.

    cache: a folder; what is there is memory-mapped, what is not is decoded and put there. None decodes into memory.
    quiet: no progress bar.

    Raises UserError that counts the images that cannot be read and names the first of them; when there is no room for
    the pixels; and when the cache folder cannot be written.
    """
    shape = (len(listing.names), size, size, channels)
    needed = int(np.prod(shape, dtype=np.int64))
    if cache is None:
        if needed > MEMORY_LIMIT:
            raise UserError(
                f"{listing.place}: {shape[0]} images of {size} x {size} take {needed / 2**30:.1f} GiB of memory: "
                "name a folder to keep them in (--image-cache), or a smaller image size"
            )
        pixels = np.empty(shape, dtype=np.uint8)
        digest = hashlib.sha256()
        done = 0
        notes: list[str] = []
        for chunk in decode_listing(listing, size, channels, quiet=quiet, notes=notes):
            pixels[done : done + len(chunk)] = chunk
            digest.update(chunk.data)
            done += len(chunk)
        pixels.flags.writeable = False
        print_warnings(notes)
        return pixels, digest.hexdigest()

    key = _key(listing, size, channels)
    found = _kept(cache, key, shape)
    if found is None:
        _write(cache, key, shape, needed, listing, channels, quiet)
        found = _kept(cache, key, shape)
        if found is None:
            raise UserError(f"{cache / key}.npy changed while it was read: is another program at work in that folder?")
    return found


def _key(listing: Listing, size: int, channels: int) -> str:
    import PIL

    facts: list[object] = [VERSION, PIL.__version__, size, channels]
    facts += [[name, *_state(listing.root / name)] for name in listing.names]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _state(file: Path) -> tuple[int, int]:
    """Size and time of the last change; a link that leads nowhere has none, and is told of when it is decoded."""
    try:
        status = file.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _kept(cache: Path, key: str, shape: tuple[int, ...]) -> tuple[NDArray[np.uint8], str] | None:
    """What the cache holds, or None; a damaged file counts as none, since it can be made again."""
    try:
        card = json.loads((cache / f"{key}.json").read_text(encoding="utf-8"))
        pixels = np.load(cache / f"{key}.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, RecursionError):
        return None
    if pixels.shape != shape or pixels.dtype != np.uint8 or not isinstance(card, dict) or "sha256" not in card:
        return None
    notes = card.get("notes", [])
    print_warnings(map(str, notes if isinstance(notes, list) else []))
    return pixels, str(card["sha256"])


def _write(
    cache: Path,
    key: str,
    shape: tuple[int, ...],
    needed: int,
    listing: Listing,
    channels: Literal[1, 3],
    quiet: bool,
) -> None:
    """Write the pixels and then their card: a reader that sees the card sees all of them."""
    digest = hashlib.sha256()
    notes: list[str] = []

    def write(file: object) -> None:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})  # type: ignore[arg-type]
        for chunk in decode_listing(listing, shape[1], channels, quiet=quiet, notes=notes):
            digest.update(chunk.data)
            file.write(chunk.tobytes())  # type: ignore[attr-defined]

    try:
        cache.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache).free
        if needed > free:
            raise UserError(
                f"{listing.place}: {shape[0]} decoded images take {needed / 2**30:.1f} GiB, and {cache} has "
                f"{free / 2**30:.1f} GiB left: name another folder (--image-cache), or a smaller image size"
            )
        write_atomically(cache / f"{key}.npy", write)
        card = {"place": str(listing.place), "shape": shape, "sha256": digest.hexdigest(), "notes": notes}
        write_atomically(cache / f"{key}.json", lambda file: file.write(json.dumps(card).encode()))
    except OSError as error:
        raise UserError(
            f"{cache} cannot keep decoded images ({error.strerror or error}): name another --image-cache"
        ) from None


def readable_listing(
    listing: Listing, size: int, *, channels: Literal[1, 3] = 3, cache: Path | None = None, quiet: bool = True
) -> tuple[Listing, list[Unreadable]]:
    """(the images of a listing that can be read, the others): each is decoded once to know.

    cache: a folder; what was found is kept there, so that the next call decodes nothing.
    """
    path = None if cache is None else cache / f"{_key(listing, size, channels)}.unreadable.json"
    failures: list[Unreadable] | None = None if path is None else _kept_failures(path)
    if failures is None:
        failures = []
        for _ in decode_listing(listing, size, channels, quiet=quiet, failures=failures):
            pass
        if path is not None:
            content = json.dumps([[one.name, one.reason] for one in failures]).encode()
            try:
                write_atomically(path, lambda file: file.write(content))
            except OSError as error:
                raise UserError(
                    f"{cache} cannot be written ({error.strerror or error}): name another --image-cache"
                ) from None
    left_out = {one.name for one in failures}
    return listing.subset([i for i, name in enumerate(listing.names) if name not in left_out]), failures


def _kept_failures(path: Path) -> list[Unreadable] | None:
    try:
        return [Unreadable(str(name), str(reason)) for name, reason in json.loads(path.read_bytes())]
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def kept_arrays(
    cache: Path | None,
    name: str,
    files: list[Path],
    make: Callable[[], tuple[NDArray[np.uint8], NDArray[np.int64]]],
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """What `make()` reads from `files` (or draws, if there are none): pixels and targets, kept in the cache if there is
    one. For sets in formats that are slow to read. Raises UserError where the cache cannot be written."""
    if cache is None:
        return make()
    import PIL

    facts = [VERSION, PIL.__version__, name, *([file.name, *_state(file)] for file in files)]
    path = cache / f"{name}-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]}.npz"
    try:
        with np.load(path, allow_pickle=False) as kept:
            return kept["pixels"], kept["targets"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        pixels, targets = make()
    try:
        write_atomically(path, lambda file: np.savez(file, pixels=pixels, targets=targets))
    except OSError as error:
        raise UserError(
            f"{cache} cannot keep decoded images ({error.strerror or error}): name another --image-cache"
        ) from None
    return pixels, targets
