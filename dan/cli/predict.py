"""python -m dan predict RUN FOLDER: what a trained network says of new images or features, one line of CSV a sample.

Images are read one chunk at a time, as in training (size, channels, normalisation), and nothing is kept of them.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from dan.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from dan.data.manifests import Listing

CHUNK = 4096  # rows of a file of features that go through the network at once


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Classify a folder of images, or a file of features, with a finished run's network."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run, or of a released checkpoint."""
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder of images, however deep they lie; a CSV manifest (path,label); for vector tasks, a file of features."""
    out: Path = Path("predictions.csv")
    """The CSV file: path (or row), label, confidence, and the second guess."""
    weights: Path | None = None
    """Weights of the frozen backbone, for a checkpoint that holds the trained parts only."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    quiet: bool = False
    """No progress bar, no summary."""


def predict_folder(config: Predict) -> None:
    """Write the predictions, and print how many samples were called what.

    Where the predicted shares of the classes are not those of the source, a line on stderr says so.
    Raises UserError for what is no run, for samples that are not of the kind that it was trained on, and for images
    that cannot be read: they are counted, and nothing is written.
    """
    import torch

    from dan.devices import choose_device
    from dan.evaluation.label_shift import warnings_of
    from dan.models.model_file import load_model
    from dan.run_metadata import load_run_config, required
    from dan.safe_csv import write_csv

    settings = load_run_config(config.run)
    classes, kind = (required(settings, name, config.run) for name in ("classes", "kind"))
    model = load_model(config.run, choose_device(config.device), weights=config.weights)
    if len(classes) != model.settings["num_classes"]:
        raise UserError(
            f"{config.run} names {len(classes)} classes, and its network tells {model.settings['num_classes']} apart: "
            "its files are of two runs"
        )
    place = next(model.parameters()).device
    if kind == "image":
        listing = images_under(config.folder)
        column, names = "path", [str(listing.root / name) for name in listing.names]
        batches = _image_batches(listing, settings, config.run, config.quiet)
    else:
        x = _features(config.folder, settings, config.run)
        column, names = "row", list(map(str, range(len(x))))
        batches = iter(x.split(CHUNK))
    with torch.no_grad():
        probs = torch.cat([model(batch.to(place, torch.float32)).logits.double().softmax(1).cpu() for batch in batches])
    if not bool(probs.isfinite().all()):
        bad = (~probs.isfinite().all(1)).nonzero()[:, 0].tolist()
        raise UserError(
            f"the network says NaN of {len(bad)} samples (first: {column} {names[bad[0]]}): look at its values"
        )
    sure, guess = probs.topk(2, dim=1)
    write_csv(
        config.out,
        [column, "label", "confidence", "second", "second_confidence"],
        (
            (int(name) if column == "row" else name, classes[a], f"{p:.6f}", classes[b], f"{q:.6f}")
            for name, (a, b), (p, q) in zip(names, guess.tolist(), sure.tolist(), strict=True)
        ),
    )
    if "class_counts" in settings:
        of_source = torch.arange(len(classes)).repeat_interleave(torch.tensor(settings["class_counts"]))
        for line in warnings_of(of_source, probs, classes=classes):
            print(f"warning: {line}", file=sys.stderr)
    if not config.quiet:
        print(_summary(classes, guess[:, 0], sure[:, 0]))
        print(f"\n{len(names)} predictions: {config.out}")


def images_under(folder: Path) -> "Listing":
    """All images below a folder, in the order of their paths, or those that a CSV manifest lists; no labels.

    Hidden files and folders are passed over; of other files that are no images a line on stderr tells how many were.
    Raises UserError where there are none.
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
    seen: set[str] = set()
    for place, inner, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        inner[:] = [] if real in seen else sorted(name for name in inner if not name.startswith((".", "__MACOSX")))
        if real in seen:  # a link that leads back
            continue
        seen.add(real)
        for name in files:
            path = Path(place, name)
            if not name.startswith("."):
                (names if path.suffix.lower() in IMAGE_SUFFIXES else others).append(str(path.relative_to(folder)))
    if not names:
        raise UserError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    if others:
        print(f"passed over, for no image by name: {len(others)} files, such as {min(others)}", file=sys.stderr)
    return Listing(
        place=folder, root=folder, names=tuple(sorted(names)), targets=(UNLABELLED,) * len(names), classes=()
    )


def _image_batches(listing: "Listing", settings: Mapping[str, Any], run: Path, quiet: bool) -> Iterator["Tensor"]:
    """The images as the network was trained to see them, some hundred at a time."""
    import torch

    from dan.data.image_cache import _decoded
    from dan.data.tensor_datasets import Images
    from dan.run_metadata import required

    channels, height, width = required(settings, "shape", run)
    if height != width or channels not in (1, 3) or settings.get("normalisation") is None:
        raise UserError(
            f"{run} was trained on tensors of its own ({channels} x {height} x {width}), not on image files"
        )
    for pixels in _decoded(listing, height, channels, quiet):
        images = Images(pixels, [-1] * len(pixels), (), normalisation=settings["normalisation"], digest="")
        yield images.batch(torch.arange(len(images)))[0]


def _features(path: Path, settings: Mapping[str, Any], run: Path) -> "Tensor":
    from dan.data.feature_files import read_features
    from dan.run_metadata import required

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


def _summary(classes: Sequence[str], guess: "Tensor", sure: "Tensor") -> str:
    """How many samples were called what, and how surely."""
    width = max(len("label"), *map(len, classes))
    lines = [f"{'label':<{width}}  predicted   share  mean confidence"]
    for index, name in enumerate(classes):
        own = sure[guess == index]
        confidence = f"{float(own.mean()):15.3f}" if len(own) else f"{'-':>15}"
        lines.append(f"{name:<{width}}  {len(own):9d}  {100 * len(own) / len(guess):4.1f} %  {confidence}")
    return "\n".join(lines)
