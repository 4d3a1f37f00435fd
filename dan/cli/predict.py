"""python -m dan predict RUN FOLDER: the predictions for new images or features, one line of CSV for each sample.

Images are read in chunks, prepared as in training (size, channels, normalisation), and not kept.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from dan.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 4096  # rows of a feature file that go through the network at once


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Classify a folder of images, or a feature file, with a finished run's network."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run directory, or folder of a released checkpoint."""
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder of images (searched recursively); CSV manifest (path,label); for vector tasks, a feature file."""
    out: Path = Path("predictions.csv")
    """The CSV file: path (or row), label, confidence, and the second most probable label."""
    weights: Path | None = None
    """Weights of the frozen backbone, for a checkpoint that holds the trained parts only."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to compute on."""
    quiet: bool = False
    """Print no progress bar and no summary."""


def predict_folder(config: Predict) -> None:
    """Write the predictions, and print how many samples have which label.

    Where the predicted class shares differ from those of the source, a line on stderr says so.
    Raises UserError for a folder that is no run, for samples of another kind than the run was trained on, and for
    images that cannot be read: they are counted, and nothing is written.
    """
    import torch

    from dan.devices import choose_device
    from dan.evaluation.label_shift import warnings_of
    from dan.models.model_file import load_model
    from dan.run_metadata import load_run_config, required

    settings = load_run_config(config.run)
    classes = required(settings, "classes", config.run)
    model = load_model(config.run, choose_device(config.device), weights=config.weights)
    if len(classes) != model.settings["num_classes"]:
        raise UserError(
            f"{config.run} names {len(classes)} classes, and its network has {model.settings['num_classes']}: its "
            "files are from two runs"
        )
    column, names, batches = _inputs(config, settings)
    device = next(model.parameters()).device
    with torch.no_grad():
        logits = [model(batch.to(device, torch.float32)).logits for batch in batches]
    probs = torch.cat([part.double().softmax(1).cpu() for part in logits])
    if not bool(probs.isfinite().all()):
        bad = (~probs.isfinite().all(1)).nonzero()[:, 0].tolist()
        raise UserError(
            f"the outputs for {len(bad)} samples contain NaN (first: {column} {names[bad[0]]}): check its values"
        )
    confidence, guess = probs.topk(2, dim=1)
    _write_predictions(config.out, column, names, classes, guess, confidence)
    if "class_counts" in settings:
        of_source = torch.arange(len(classes)).repeat_interleave(torch.tensor(settings["class_counts"]))
        for line in warnings_of(of_source, probs, classes=classes):
            print(f"warning: {line}", file=sys.stderr)
    if not config.quiet:
        print(share_table(classes, guess[:, 0], confidence[:, 0]))
        print(f"\n{len(names)} predictions: {config.out}")


def _inputs(config: Predict, settings: Mapping[str, Any]) -> "tuple[str, list[str], Iterator[Tensor]]":
    """(the first column's name, its cells, and the samples in batches)."""
    from dan.run_inputs import feature_rows, image_batches, images_under
    from dan.run_metadata import required

    if required(settings, "kind", config.run) == "image":
        listing = images_under(config.folder)
        names = [str(listing.root / name) for name in listing.names]
        return "path", names, image_batches(listing, settings, config.run, config.quiet)
    x = feature_rows(config.folder, settings, config.run)
    return "row", list(map(str, range(len(x)))), iter(x.split(CHUNK))


def _write_predictions(
    path: Path, column: str, names: Sequence[str], classes: Sequence[str], guess: "Tensor", confidence: "Tensor"
) -> None:
    """guess, confidence: (N, 2), of the two most probable classes."""
    from dan.safe_csv import write_csv

    write_csv(
        path,
        [column, "label", "confidence", "second", "second_confidence"],
        (
            (int(name) if column == "row" else name, classes[a], f"{p:.6f}", classes[b], f"{q:.6f}")
            for name, (a, b), (p, q) in zip(names, guess.tolist(), confidence.tolist(), strict=True)
        ),
    )


def share_table(classes: Sequence[str], guess: "Tensor", confidence: "Tensor") -> str:
    """How many samples are predicted as which class, and their mean confidence. guess, confidence: (N,)."""
    width = max(len("label"), *map(len, classes))
    lines = [f"{'label':<{width}}  predicted   share  mean confidence"]
    for index, name in enumerate(classes):
        own = confidence[guess == index]
        mean = f"{float(own.mean()):15.3f}" if len(own) else f"{'-':>15}"
        lines.append(f"{name:<{width}}  {len(own):9d}  {100 * len(own) / len(guess):4.1f} %  {mean}")
    return "\n".join(lines)
