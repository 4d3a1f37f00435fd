"""Unlabelled samples as a run's network takes them: a folder of images, a CSV manifest, or a feature file."""

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dan.errors import UserError
from dan.run_metadata import required

if TYPE_CHECKING:
    from torch import Tensor

    from dan.data.manifests import Listing


def images_under(folder: Path) -> "Listing":
    """All images below a folder, in the order of their paths, or those that a CSV manifest lists; without labels.

    Hidden files and folders are skipped; the number of other files that are no images is printed on stderr.
    Raises UserError where there are no images.
    """
    from dataclasses import replace

    from dan.data.manifests import IMAGE_SUFFIXES, UNLABELLED, Listing, read_manifest

    if folder.suffix.lower() == ".csv" and not folder.is_dir():
        listing = read_manifest(folder)
        return replace(listing, targets=(UNLABELLED,) * len(listing.names), classes=(), groups=None)
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}: the run was trained on images, so name a folder of images or a CSV manifest")
    names: list[str] = []
    others: list[str] = []
    for path in _files_below(folder):
        (names if path.suffix.lower() in IMAGE_SUFFIXES else others).append(str(path.relative_to(folder)))
    if not names:
        raise UserError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    if others:
        print(
            f"skipped {len(others)} files whose names are not those of images, such as {min(others)}", file=sys.stderr
        )
    return Listing(
        place=folder, root=folder, names=tuple(sorted(names)), targets=(UNLABELLED,) * len(names), classes=()
    )


def image_batches(listing: "Listing", settings: Mapping[str, Any], run: Path, quiet: bool) -> Iterator["Tensor"]:
    """The images as the network of `run` was trained to see them, (n, C, S, S), some hundred at a time.

    settings: the first record of `run`. Raises UserError for a run that was trained on tensors of its own, and, at the
    end, for images that cannot be read.
    """
    import torch

    from dan.data.image_cache import decode_images
    from dan.data.tensor_datasets import Images

    channels, height, width = required(settings, "shape", run)
    if height != width or channels not in (1, 3) or settings.get("normalisation") is None:
        raise UserError(
            f"{run} was trained on tensors of its own ({channels} x {height} x {width}), not on image files"
        )
    for pixels in decode_images(listing, height, channels, quiet):
        images = Images(pixels, [-1] * len(pixels), (), normalisation=settings["normalisation"], digest="")
        yield images.batch(torch.arange(len(images)))[0]


def feature_rows(path: Path, settings: Mapping[str, Any], run: Path) -> "Tensor":
    """The features (N, F) of a file, for the network of `run`.

    Raises UserError for a run that does not take feature files, another number of features, and values that are not
    finite.
    """
    from dan.data.feature_files import read_features

    if settings.get("task", "folders") != "folders":
        raise UserError(
            f"{run} is a run of {settings['task']}, which scales its features by itself: python -m dan evaluate writes "
            "its predictions; a file of features is for runs of the task folders"
        )
    x = read_features(path).x
    (width,) = required(settings, "shape", run)
    if x.shape[1] != width:
        raise UserError(f"{path} has {x.shape[1]} features a sample, and {run} was trained on {width}")
    bad = (~x.isfinite().all(1)).nonzero()[:, 0].tolist()
    if bad:
        raise UserError(f"{path}: {len(bad)} of {len(x)} samples hold NaN or infinite features (first: row {bad[0]})")
    return x


def _files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder that are not hidden; links are followed, each folder once."""
    visited: set[str] = set()
    for place, inner, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in visited:  # a link that leads back
            inner.clear()
            continue
        visited.add(real)
        inner[:] = sorted(name for name in inner if not name.startswith((".", "__MACOSX")))
        yield from (Path(place, name) for name in files if not name.startswith("."))
