"""What a run's network takes: images from any folder, or rows of a file of features, as it was trained to see them.

Shapes: N samples; F features; B samples of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dan.data.decoded_listing import Unreadable, decode_listing
from dan.data.feature_files import read_features, refuse_unusable_rows
from dan.data.image_tree import advice_on, images_below, print_passed_over
from dan.data.listing import IMAGE_SUFFIXES, UNLABELLED, Listing
from dan.data.manifests import is_manifest, read_manifest
from dan.data.tensor_datasets import Images
from dan.errors import UserError, print_warnings
from dan.run_metadata import required


def images_under(folder: Path, failures: list[Unreadable] | None = None) -> Listing:
    """All images below a folder, in the order of their paths, or those that a manifest lists; no labels.

    Hidden files and what systems leave behind are passed over; of other files that are no images a line on stderr says
    how many there were. failures: gets the files that a manifest lists and that are not there; None refuses them.
    Raises UserError where there are no images.
    """
    if is_manifest(folder):
        missing: list[str] | None = None if failures is None else []
        listing = read_manifest(folder, missing)
        if failures is not None and missing is not None:
            failures += [Unreadable(name, "there is no such file") for name in missing]
        count = len(listing.names)
        return Listing(
            place=listing.place, root=listing.root, names=listing.names, targets=(UNLABELLED,) * count, classes=()
        )
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}: the run was trained on images, so name a folder of images or a CSV manifest")
    names, others = images_below(folder)
    advice = f" ({advice})" if (advice := advice_on(others)) else ""
    if not names:
        raise UserError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)}){advice}")
    print_passed_over(others)
    return Listing(place=folder, root=folder, names=tuple(names), targets=(UNLABELLED,) * len(names), classes=())


def image_shape(settings: Mapping[str, Any], run: Path) -> tuple[Literal[1, 3], int, str]:
    """(channels, pixels a side, normalisation) of the images that a run was trained on.

    Raises UserError for a run whose samples image files cannot be brought to.
    """
    channels, height, width = required(settings, "shape", run)
    if height != width or channels not in (1, 3) or settings.get("normalisation") is None:
        raise UserError(
            f"{run} was trained on tensors of its own ({channels} x {height} x {width}), not on image files: name the "
            "task that they are of with --task, if there is one"
        )
    return channels, height, str(settings["normalisation"])


def image_batches(
    listing: Listing,
    settings: Mapping[str, Any],
    run: Path,
    *,
    quiet: bool = True,
    failures: list[Unreadable] | None = None,
) -> Iterator[Tensor]:
    """The images as the network was trained to see them, (B, channels, S, S), some hundred at a time.

    failures: gets the images that cannot be read, which are left out; None raises UserError at the end.
    """
    channels, side, normalisation = image_shape(settings, run)
    notes: list[str] = []
    for pixels in decode_listing(listing, side, channels, quiet=quiet, failures=failures, notes=notes):
        images = Images(pixels, [UNLABELLED] * len(pixels), (), normalisation=normalisation, digest="")
        yield images.batch(torch.arange(len(images)))[0]
    print_warnings(notes)


def feature_rows(path: Path, settings: Mapping[str, Any], run: Path) -> Tensor:
    """The rows (N, F) of a file of features for a run on features of its own.

    Raises UserError for a run of another kind, for another number of features, and for rows with unusable values.
    """
    if settings.get("task", "folders") != "folders":
        raise UserError(
            f"{run} is a run of {settings['task']}, which scales its features by itself: python -m dan evaluate writes "
            "its predictions; a file of features is for runs of the task folders"
        )
    x = read_features(path).x
    (width,) = required(settings, "shape", run)
    if x.shape[1] != width:
        raise UserError(f"{path} has {x.shape[1]} features a sample, and {run} was trained on {width}")
    refuse_unusable_rows(path, x)
    return x
