"""The images of a listing -> uint8 pixels, some at a time, by several threads; what cannot be read, and what is lost.

Shapes: N images; S pixels a side.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dan.data import decoding
from dan.data.listing import Listing, some
from dan.errors import UserError
from dan.progress import Progress

CHUNK = 256  # images between two looks at the clock, and the most that wait in memory to be written
DARK = 2**14  # 16-bit values below it lose three quarters of the contrast, and 12-bit ones 15 / 16 of it


@dataclass(frozen=True)
class Unreadable:
    """An image of a listing that cannot be read, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


class UnreadableImages(UserError):
    """Some images of a listing cannot be read: `failures`."""

    def __init__(self, listing: Listing, failures: Sequence[Unreadable]) -> None:
        super().__init__(
            f"{listing.place}: {len(failures)} of {len(listing.names)} images cannot be read: {some(failures)}; "
            "fetch them again, or remove them"
        )
        self.failures = tuple(failures)


@dataclass
class ImageFacts:
    """What files hold beyond the pixels that are kept of them, counted over a domain."""

    deep: int = 0  # images of 16 bits a channel
    dark: list[int] = field(default_factory=list)  # the largest value of those that use less than all bits
    paged: int = 0
    blank: int = 0  # with every pixel transparent

    def add(self, of_file: decoding.FileFacts) -> None:
        """Count one image."""
        self.paged += of_file.pages > 1
        self.blank += of_file.blank
        if of_file.largest is not None:
            self.deep += 1
            self.dark += [of_file.largest] if of_file.largest < DARK else []

    def notes(self, place: Path) -> list[str]:
        """A line each on what is lost: the contrast of 12 bits in 16, pages beyond the first, what is transparent."""
        lines = []
        if self.dark and 2 * len(self.dark) >= self.deep:
            lines.append(
                f"{place}: {len(self.dark)} of {self.deep} images with 16 bits a channel use "
                f"{max(self.dark).bit_length()} of these only (largest value {max(self.dark)} of 65535), and become "
                "nearly black: scale them to the whole range, or save them with 8 bits"
            )
        if self.paged:
            lines.append(f"{place}: {self.paged} images have several pages or frames, of which the first counts")
        if self.blank:
            lines.append(
                f"{place}: {self.blank} images are transparent everywhere, and become white: save them without alpha"
            )
        return lines


def decode_listing(
    listing: Listing,
    size: int,
    channels: Literal[1, 3],
    *,
    quiet: bool = True,
    failures: list[Unreadable] | None = None,
    notes: list[str] | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """The pixels in the listing's order, some images at a time.

    failures: gets the images that cannot be read, whose pixels are left out; None raises `UnreadableImages`, at the
    end, if there are any. notes: gets, at the end, what the pixels do not tell of the files, a line each.
    """
    from PIL import Image

    found: list[Unreadable] = []
    facts = ImageFacts()

    def one(name: str) -> tuple[NDArray[np.uint8], decoding.FileFacts] | Unreadable:
        of_file = decoding.FileFacts()
        try:
            image = decoding.decode(listing.root / name, channels=channels, facts=of_file)
            return decoding.square(image, size), of_file
        except Exception as error:  # noqa: BLE001  (a damaged file raises anything from OSError to struct.error)
            reason = str(error).splitlines() or [type(error).__name__]
            return Unreadable(name, reason[0])

    # Pillow decodes and resizes without Python's lock. Its warning of a decompression bomb is an error here.
    with (
        warnings.catch_warnings(),
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads,
        Progress("decoding", len(listing.names), quiet=quiet) as progress,
    ):
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for start in range(0, len(listing.names), CHUNK):
            results = list(threads.map(one, listing.names[start : start + CHUNK]))
            found += [result for result in results if isinstance(result, Unreadable)]
            read = [result for result in results if not isinstance(result, Unreadable)]
            for _, of_file in read:
                facts.add(of_file)
            progress.advance(steps=len(results))
            if read and (failures is not None or not found):
                yield np.stack([pixels for pixels, _ in read])
    if failures is not None:
        failures += found
    elif found:
        raise UnreadableImages(listing, found)
    if notes is not None:
        notes += facts.notes(listing.place)
