"""Every image is decoded once: a listing -> uint8 pixels (N, S, S, channels), kept as one memory-mapped .npy file.

    file = <cache>/<key>.npy,   key = sha256(version, Pillow's version, S, channels, and each image's name, size, mtime)

What is kept can be removed at any time. Shapes: N images; S pixels a side.
"""

import hashlib
import json
import os
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dan.data import decoding
from dan.data.manifests import Listing, some
from dan.errors import UserError
from dan.progress import Progress
from dan.run_dir import write_atomically

VERSION = 1  # of the pixels' definition: a change in `decoding` makes it the next number
MEMORY_LIMIT = 4 * 2**30  # bytes that are decoded into memory without a cache folder
_CHUNK = 256  # images between two looks at the clock, and the most that wait in memory to be written


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
        for chunk in decode_images(listing, size, channels, quiet):
            pixels[done : done + len(chunk)] = chunk
            digest.update(chunk.data)
            done += len(chunk)
        pixels.flags.writeable = False
        return pixels, digest.hexdigest()

    key = _key(listing, size, channels)
    found = _kept(cache, key, shape)
    if found is None:
        _write(cache, key, shape, needed, listing, lambda: decode_images(listing, size, channels, quiet))
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
    return pixels, str(card["sha256"])


def _write(
    cache: Path,
    key: str,
    shape: tuple[int, ...],
    needed: int,
    listing: Listing,
    chunks: Callable[[], Iterator[NDArray[np.uint8]]],
) -> None:
    """Write the pixels and then their card: a reader that sees the card sees all of them."""
    digest = hashlib.sha256()

    def write(file: object) -> None:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})  # type: ignore[arg-type]
        for chunk in chunks():
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
        card = {"place": str(listing.place), "shape": shape, "sha256": digest.hexdigest()}
        write_atomically(cache / f"{key}.json", lambda file: file.write(json.dumps(card).encode()))
    except OSError as error:
        raise UserError(
            f"{cache} cannot keep decoded images ({error.strerror or error}): name another --image-cache"
        ) from None


def decode_images(listing: Listing, size: int, channels: Literal[1, 3], quiet: bool) -> Iterator[NDArray[np.uint8]]:
    """The pixels in the listing's order, some images at a time; UserError at the end if any could not be read."""
    from PIL import Image

    failures: list[str] = []

    def one(name: str) -> NDArray[np.uint8] | str:
        try:
            return decoding.square(decoding.decode(listing.root / name, channels=channels), size)
        except Exception as error:  # noqa: BLE001  (a damaged file raises anything from OSError to struct.error)
            reason = str(error).splitlines() or [type(error).__name__]
            return f"{name} ({reason[0]})"

    # Pillow decodes and resizes without Python's lock. Its warning of a decompression bomb is an error here.
    with (
        warnings.catch_warnings(),
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads,
        Progress("decoding", len(listing.names), quiet=quiet) as progress,
    ):
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for start in range(0, len(listing.names), _CHUNK):
            results = list(threads.map(one, listing.names[start : start + _CHUNK]))
            failures += [result for result in results if isinstance(result, str)]
            progress.advance(steps=len(results))
            if not failures:
                yield np.stack([result for result in results if not isinstance(result, str)])
    if failures:
        raise UserError(
            f"{listing.place}: {len(failures)} of {len(listing.names)} images cannot be read: {some(failures)}; "
            "fetch them again, or remove them"
        )


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
