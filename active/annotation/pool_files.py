"""Samples by their content: a folder, a CSV or a file of features, each sample known by the sha256 of its bytes.

    sample = sha256(file)   of an image,     sha256(x as float32, little-endian)   of a row of features

So a renamed file is the same sample, copies of one file are one, and what is chosen depends on no name and no order.

Shapes: N samples; F features.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dan.data.decoded_listing import Unreadable
from dan.data.folders import images_of
from dan.data.image_cache import readable_listing
from dan.data.image_tree import images_below
from dan.data.listing import UNLABELLED, Listing, some
from dan.data.tensor_datasets import Images, Vectors
from dan.errors import UserError
from dan.models.model_file import sha256_of
from dan.run_inputs import feature_rows, image_shape, images_under
from dan.run_metadata import required

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class SampleLocation:
    """Where a sample lies. path: as annotators are shown it. file: absolute. row: of a file of features."""

    path: str
    file: Path
    row: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class UnlabelledPool:
    """Samples without labels. samples: ascending; row i of data, and places[i], are samples[i]'s.

    data: (x, -1), as the run was trained to see them. copies: how many more files, or rows, held the same bytes.
    unreadable: the images that were left out, a line each.
    """

    samples: tuple[str, ...]
    places: tuple[SampleLocation, ...]
    data: Dataset[Any]
    copies: int
    unreadable: tuple[str, ...] = ()


def read_unlabelled(
    pool: Path,
    settings: Mapping[str, Any],
    run: Path,
    *,
    skip_unreadable: bool = False,
    cache: Path | None = None,
    quiet: bool = True,
) -> UnlabelledPool:
    """All samples of a folder of images (however deep), a CSV manifest, or a file of features; labels aren't looked at.

    settings: the first record of `run`, which says what its network was trained on. skip_unreadable: leave out images
    that cannot be read. cache: a folder for decoded pixels. Of copies the first by path stands for all.
    Raises UserError as `python -m dan predict` does, and where no image can be read.
    """
    images = required(settings, "kind", run) == "image"
    unreadable: list[str] = []
    if images:
        gone: list[Unreadable] | None = [] if skip_unreadable else None
        listing = images_under(pool, gone)
        if gone is not None:
            listing, unreadable = _readable(listing, gone, settings, run, cache, quiet)
        hashes = _hashes([listing.root / name for name in listing.names])
        places = [
            SampleLocation(path=str(listing.root / name), file=(listing.root / name).absolute())
            for name in listing.names
        ]
    else:
        x = feature_rows(pool, settings, run)
        hashes = row_hashes(x)
        places = [
            SampleLocation(path=f"{pool.name}, row {row}", file=pool.absolute(), row=row) for row in range(len(x))
        ]
    first = {sample: row for row, sample in reversed(list(enumerate(hashes)))}
    samples = tuple(sorted(first))
    rows = [first[sample] for sample in samples]
    data: Dataset[Any]
    if images:
        data = _images(listing, settings, run, cache=cache, quiet=quiet).subset(np.array(rows))
    else:
        data = Vectors(x[rows].float(), torch.full((len(rows),), UNLABELLED), required(settings, "classes", run))
    return UnlabelledPool(
        samples=samples,
        places=tuple(places[row] for row in rows),
        data=data,
        copies=len(hashes) - len(samples),
        unreadable=tuple(unreadable),
    )


def _readable(
    listing: Listing,
    gone: Sequence[Unreadable],
    settings: Mapping[str, Any],
    run: Path,
    cache: Path | None,
    quiet: bool,
) -> tuple[Listing, list[str]]:
    """(the images that can be read, a line on each of the others). Raises UserError where there are none."""
    channels, side, _ = image_shape(settings, run)
    kept, failures = readable_listing(listing, side, channels=channels, cache=cache, quiet=quiet)
    if not kept.names:
        raise UserError(f"{listing.place}: none of {len(listing.names)} images can be read: {some(failures)}")
    return kept, [f"not read: {listing.root / one.name} ({one.reason})" for one in (*gone, *failures)]


def find_samples(
    wanted: Mapping[str, Sequence[Path]], places: Iterable[Path], settings: Mapping[str, Any], run: Path
) -> dict[str, SampleLocation]:
    """Where each wanted sample lies now: in one of the files that it was seen in, or anywhere in these places.

    wanted: sample -> the files that it was seen in. places: folders, manifests or files of features; what is not there
    any more is passed over. A sample that is found nowhere is left out.
    """
    found: dict[str, SampleLocation] = {}
    images = required(settings, "kind", run) == "image"
    if images:
        for sample, files in wanted.items():
            here = next((file for file in files if _hash_or_none(file) == sample), None)
            if here is not None:
                found[sample] = SampleLocation(path=str(here), file=here)
    for place in places:
        missing = set(wanted) - set(found)
        if not missing:
            break
        if not place.exists():
            continue
        if images:
            files = _files_in(place)
            for file, content in zip(files, _mapped(_hash_or_none, files), strict=True):
                if content in missing:
                    found.setdefault(content, SampleLocation(path=str(file), file=file.absolute()))
        else:
            for row, content in enumerate(row_hashes(feature_rows(place, settings, run))):
                if content in missing:
                    location = SampleLocation(path=f"{place.name}, row {row}", file=place.absolute(), row=row)
                    found.setdefault(content, location)
    return found


def _files_in(place: Path) -> list[Path]:
    """All images of a folder, or in the folder of a manifest: one that it lists may be gone."""
    root = place if place.is_dir() else place.parent
    return [root / name for name in images_below(root)[0]]


def labelled_samples(
    places: Sequence[SampleLocation],
    targets: Sequence[int],
    settings: Mapping[str, Any],
    run: Path,
    *,
    cache: Path | None = None,
    quiet: bool = True,
) -> Dataset[Any]:
    """These samples with these classes, as the run was trained to see them: (x, y)."""
    classes = tuple(required(settings, "classes", run))
    if required(settings, "kind", run) == "image":
        listing = Listing(
            place=run,
            root=run,  # the names are absolute
            names=tuple(str(place.file) for place in places),
            targets=tuple(targets),
            classes=classes,
        )
        return _images(listing, settings, run, cache=cache, quiet=quiet)
    files = {place.file: feature_rows(place.file, settings, run) for place in places}
    x = torch.stack([files[place.file][place.row].float() for place in places])
    return Vectors(x, torch.tensor(list(targets)), classes)


def row_hashes(x: Tensor) -> list[str]:
    """The sha256 of each row of x (N, F), as float32: the precision that a file was saved with doesn't matter."""
    return [hashlib.sha256(row.astype("<f4").tobytes()).hexdigest() for row in x.numpy()]


def _hashes(files: Sequence[Path]) -> list[str]:
    """sha256 of each file. Raises UserError that counts those that cannot be read."""

    def one(file: Path) -> str | OSError:
        try:
            if not file.is_file():  # a pipe would be read for ever
                raise OSError(errno.ENOENT, "no file")
            return sha256_of(file)
        except OSError as error:
            return error

    hashes = _mapped(one, files)
    failures = [f"{file} ({e.strerror})" for file, e in zip(files, hashes, strict=True) if isinstance(e, OSError)]
    if failures:
        raise UserError(
            f"{len(failures)} of {len(files)} files cannot be read: {some(failures)}; fetch them again, or remove them"
        )
    return [str(sample) for sample in hashes]


def _hash_or_none(file: Path) -> str | None:
    """sha256 of a file; None for one that is not there or cannot be read."""
    try:
        return sha256_of(file) if file.is_file() else None
    except OSError:
        return None


def _mapped(work: Callable[[Path], Result], files: Sequence[Path]) -> list[Result]:
    with ThreadPoolExecutor(8) as threads:  # hashlib works without Python's lock
        return list(threads.map(work, files))


def _images(listing: Listing, settings: Mapping[str, Any], run: Path, *, cache: Path | None, quiet: bool) -> Images:
    channels, side, normalisation = image_shape(settings, run)
    return images_of(
        listing,
        image_size=side,
        channels=channels,
        normalisation=normalisation,
        classes=tuple(required(settings, "classes", run)),
        # Random views of the labelled samples, if the run was trained with any of its own.
        augment=bool(settings.get("options", {}).get("augment")),
        cache=cache,
        quiet=quiet,
    )
