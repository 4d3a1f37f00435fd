"""python -m dan predict RUN FOLDER: the predictions for new images or features, one line of CSV for each sample.

Images are read in chunks, prepared as in training (size, channels, normalisation), and not kept.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from dan.errors import UserError, printable

if TYPE_CHECKING:
    from torch import Tensor

    from dan.data.decoded_listing import Unreadable

SKIPPED = 1  # exit code where images were left out
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
    network: str = "current"
    """Network of the run: current (the newest that was finetuned with labels), first (the run's own), or
    labelled_NN."""
    skip_unreadable: bool = False
    """Leave out images that cannot be read, list them on stderr, and predict the rest; exit code 1 if there are any."""
    task: str | None = None
    """Task of a run that does not record it: of a training from Python without `metadata`. It names the classes and
    the normalisation."""
    data: Path | None = None
    """Folder of data sets for --task. Default: ACTIVE_DAN_DATA, or the user's cache folder."""
    weights: Path | None = None
    """Weights of the frozen backbone, for a checkpoint that holds the trained parts only."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to compute on."""
    quiet: bool = False
    """Print no progress bar and no summary."""


def predict_folder(config: Predict) -> int:
    """Write the predictions, and print how many samples have which label; 0, or SKIPPED where some were left out.

    Where the predicted class shares differ from those of the source, a line on stderr says so.
    Raises UserError for a folder that is no run, for samples of another kind than the run was trained on, and for
    images that cannot be read, unless they are skipped: they are counted, and nothing is written.
    """
    import torch

    from dan.devices import choose_device
    from dan.evaluation.label_shift import warnings_of
    from dan.models.model_file import load_model
    from dan.run_metadata import required
    from dan.run_networks import chosen_network

    settings = _settings(config)
    classes, kind = (required(settings, name, config.run) for name in ("classes", "kind"))
    network = chosen_network(config.run, config.network)
    model = load_model(network, choose_device(config.device), weights=config.weights)
    if len(classes) != model.settings["num_classes"]:
        raise UserError(
            f"{config.run} names {len(classes)} classes, and its network has {model.settings['num_classes']}: its "
            "files are from two runs"
        )
    device = next(model.parameters()).device
    column, cells, batches, failures = _samples(config, settings, kind)
    with torch.no_grad():
        probs = [model(batch.to(device, torch.float32)).logits.double().softmax(1).cpu() for batch in batches]
    left_out = {one.name for one in failures}
    kept = [cell for name, cell in cells.items() if name not in left_out]
    for one in failures:
        print(printable(f"not read: {one}"), file=sys.stderr)
    if not probs:
        raise UserError(f"{config.folder}: none of {len(cells)} images can be read, so there is nothing to predict")
    _write(config.out, column, kept, torch.cat(probs), classes)
    if "class_counts" in settings:
        of_source = torch.arange(len(classes)).repeat_interleave(torch.tensor(settings["class_counts"]))
        for line in warnings_of(of_source, torch.cat(probs), classes=classes):
            print(f"warning: {line}", file=sys.stderr)
    if not config.quiet:
        confidence, guess = torch.cat(probs).max(1)
        print(f"network: {network}")
        print(share_table(classes, guess, confidence))
        print(f"\n{len(kept)} predictions: {config.out}")
    return SKIPPED if failures else 0


def _settings(config: Predict) -> Mapping[str, Any]:
    """The first record of the run, completed with the metadata of --task."""
    from dan.data.paths import data_folder
    from dan.data.tasks import load_pair
    from dan.run_metadata import load_run_config, run_metadata

    settings = load_run_config(config.run)
    if config.task is None:
        return settings
    if "task" in settings:
        raise UserError(f"{config.run} was trained on the task {settings['task']}: leave out --task")
    of_task = run_metadata(load_pair(config.task, data_folder(config.data)))
    if of_task["shape"] != settings.get("shape") or len(of_task["classes"]) != len(settings.get("classes", ())):
        raise UserError(
            f"{config.task} has {len(of_task['classes'])} classes and samples of shape {of_task['shape']}, and "
            f"{config.run} was trained on {len(settings.get('classes', ()))} and {settings.get('shape')}: name its task"
        )
    return {**settings, **of_task}


def _samples(
    config: Predict, settings: Mapping[str, Any], kind: str
) -> "tuple[str, dict[str, str], Iterator[Tensor], list[Unreadable]]":
    """(the first column's name; sample -> its cell there; the samples in batches; the images that cannot be read, which
    are known when all samples have been read)."""
    from dan.run_inputs import feature_rows, image_batches, images_under

    failures: list[Unreadable] = []
    if kind == "image":
        skipped = failures if config.skip_unreadable else None
        listing = images_under(config.folder, skipped)
        cells = {name: str(listing.root / name) for name in listing.names}
        batches = image_batches(listing, settings, config.run, quiet=config.quiet, failures=skipped)
        return "path", cells, batches, failures
    x = feature_rows(config.folder, settings, config.run)
    return "row", {str(row): str(row) for row in range(len(x))}, iter(x.split(CHUNK)), failures


def _write(out: Path, column: str, names: Sequence[str], probs: "Tensor", classes: Sequence[str]) -> None:
    """The CSV file. Raises UserError where the network's outputs are not finite, and where it cannot be written."""
    from dan.safe_csv import write_csv

    if not bool(probs.isfinite().all()):
        bad = (~probs.isfinite().all(1)).nonzero()[:, 0].tolist()
        raise UserError(
            f"the outputs for {len(bad)} samples contain NaN (first: {column} {names[bad[0]]}): look at its values"
        )
    sure, guess = probs.topk(2, dim=1)
    write_csv(
        out,
        [column, "label", "confidence", "second", "second_confidence"],
        (
            (int(name) if column == "row" else name, classes[a], f"{p:.6f}", classes[b], f"{q:.6f}")
            for name, (a, b), (p, q) in zip(names, guess.tolist(), sure.tolist(), strict=True)
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
