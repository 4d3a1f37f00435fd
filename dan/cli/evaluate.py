"""python -m dan evaluate RUN: all that can be measured of a finished run, as a table, a few files, and figures.

    of each split with labels     accuracy, also by class; cross-entropy; calibration error; confusion matrix
    of a target without labels    predicted class shares and mean confidence; its accuracy needs labels
    of source against target      unbiased MMD^2 and A-distance of each aligned layer
    without target labels         the score of each validator, where the task has held-out source samples
    of each sample                the prediction and its confidence
    of the target                 the same without samples whose labels were learned (--target-labels): "unqueried"
    on stderr                     signs that the target has other classes, or other class shares

Target labels are read to measure, and for nothing else.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from dan.cli.evaluation_tables import class_table, layer_table, split_line, unlabelled_lines, validator_table
from dan.errors import UserError
from dan.run_location import DataLocation

if TYPE_CHECKING:
    from torch import Tensor

    from dan.data.domain_pair import DomainPair
    from dan.models.dan import DAN

MIN_SAMPLES = 4  # of each side: two folds of the A-distance need two each


@dataclass(frozen=True, kw_only=True)
class Evaluate(DataLocation):
    """Evaluate a finished run on every split of its task."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run directory, or folder of a released checkpoint."""
    network: str = "current"
    """Network of the run: current (the newest that was finetuned with labels), first (the run's own), or
    labelled_NN."""
    data: Path | None = None
    """Folder of data sets, for tasks that read any. Default: ACTIVE_DAN_DATA, or the user's cache folder."""
    weights: Path | None = None
    """Weights of the frozen backbone, for a checkpoint that holds the trained parts only."""
    out: Path | None = None
    """Folder for the results. Default: evaluation, in the folder of the network (RUN, or RUN/labelled_NN)."""
    most: int = 2000
    """Largest number of samples of each domain, evenly spread, for MMD, A-distance and validators."""
    image_cache: Path | None = None
    """Folder for decoded images. Default: in the user's cache folder."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to compute on."""


def evaluate_run(config: Evaluate) -> None:
    """Measure, print a table, and write metrics.json, predictions-SPLIT.csv and confusion-SPLIT.png.

    Raises UserError for a folder that is no run of a task, for data that are missing, and for an output folder that
    cannot be written.
    """
    from dan.data.batches import labels_of
    from dan.evaluation.label_shift import warnings_of
    from dan.run_metadata import load_run_config
    from dan.run_networks import chosen_network

    if config.most < MIN_SAMPLES:
        raise UserError(f"--most must be at least {MIN_SAMPLES} samples, not {config.most}")
    settings = load_run_config(config.run)
    network = chosen_network(config.run, config.network)
    model, task = _load(config, network, settings)
    out = config.out or network / "evaluation"
    print(f"network: {network}")
    metrics: dict[str, Any] = {"run": config.run.name, "network": network.name, "task": task.name}
    metrics |= {"splits": {}, "layers": {}}
    probs = _evaluate_splits(model, task, settings, config.most, out, metrics)
    metrics["validators"] = _validator_scores(model, task, config.most)
    tables = class_table(metrics["splits"]), layer_table(metrics["layers"]), validator_table(metrics["validators"])
    for table in tables:
        if table:
            print("\n" + table)
    metrics["warnings"] = warnings_of(
        labels_of(task.source), probs["target"], source_probs=probs.get("source_test"), classes=task.classes
    )
    for line in metrics["warnings"]:
        print(f"warning: {line}", file=sys.stderr)
    _write(out / "metrics.json", (json.dumps(metrics, indent=1) + "\n").encode())
    print(f"\nfiles: {out}")


def _load(config: Evaluate, network: Path, settings: Mapping[str, Any]) -> "tuple[DAN, DomainPair]":
    from dan.data.paths import cache_folder, data_folder
    from dan.devices import choose_device
    from dan.models.model_file import load_model
    from dan.run_task import load_run_task

    model = load_model(network, choose_device(config.device), weights=config.weights)
    data, cache = data_folder(config.data), cache_folder(config.image_cache)
    task = load_run_task(settings, config.run, data, cache, quiet=False, location=config)
    if len(task.classes) != model.settings["num_classes"]:
        raise UserError(
            f"the network of {config.run} has {model.settings['num_classes']} classes, and {task.name} has "
            f"{len(task.classes)}: restore its data, or train again"
        )
    return model, task


def _evaluate_splits(
    model: "DAN", task: "DomainPair", settings: Mapping[str, Any], most: int, out: Path, metrics: dict[str, Any]
) -> "dict[str, Tensor]":
    """Fill `metrics`, print a line for each split, and write its files; the probabilities (N, C) of each split."""
    import torch

    from dan.evaluation.metrics import predict

    probs = {}
    for name, data in (task.splits | {"target": task.target}).items():
        output, labels = predict(model, data)
        probs[name] = output.logits.double().softmax(1)
        _write_predictions(out / f"predictions-{name}.csv", data, probs[name], labels, task.classes)
        parts = [(name, torch.arange(len(labels)))] if name in task.splits else []
        if name == "target" and "target_labels" in settings:
            rest = _unqueried(labels, settings, task.classes)
            parts += [("unqueried", rest)] if len(rest) else []
        for part, rows in parts:
            picture = out / f"confusion-{part}.png"
            metrics["splits"][part] = _measure_labelled(output.logits[rows], labels[rows], task.classes, picture, part)
            print(split_line(part, metrics["splits"][part]))
        if name not in task.splits:
            metrics["unlabelled"] = {name: _measure_unlabelled(probs[name], task.classes)}
            print(unlabelled_lines(name, metrics["unlabelled"][name]))
        if name == "target":
            metrics["layers"] = _measure_layers(model, task.source, output.layers, settings, most)
    return probs


def _unqueried(labels: "Tensor", settings: Mapping[str, Any], classes: Sequence[str]) -> "Tensor":
    """The target rows whose labels the run did not learn (`--target-labels`)."""
    from dan.data.semi_supervised import drawn_by_seed, rest_of

    return rest_of(drawn_by_seed(labels, settings["target_labels"], settings["seed"], classes=classes), len(labels))


def _measure_labelled(
    logits: "Tensor", labels: "Tensor", classes: Sequence[str], picture: Path, split: str
) -> dict[str, Any]:
    """The metrics of one split, as JSON stores them (a class without samples: null); its figure is written."""
    import io
    import math

    from torch.nn.functional import cross_entropy

    from dan.evaluation.calibration import expected_calibration_error
    from dan.evaluation.metrics import class_accuracies, confusion_matrix
    from dan.figures import confusion_figure

    confusions = confusion_matrix(logits.argmax(1), labels, len(classes))
    by_class = {
        name: None if math.isnan(value) else value
        for name, value in zip(classes, class_accuracies(confusions).tolist(), strict=True)
    }
    known = [value for value in by_class.values() if value is not None]
    accuracy = float(confusions.diagonal().sum() / confusions.sum())
    raster = io.BytesIO()
    title = f"{split}: {accuracy:.1%} of {len(labels)} right"
    confusion_figure(confusions, classes, title=title).savefig(raster, format="png")
    _write(picture, raster.getvalue())
    return {
        "accuracy": accuracy,
        "mean_class_accuracy": sum(known) / len(known),
        "cross_entropy": float(cross_entropy(logits.double(), labels)),
        "calibration_error": expected_calibration_error(logits.double().softmax(1), labels),
        "samples": len(labels),
        "class_accuracy": by_class,
        "confusions": confusions.tolist(),
    }


def _measure_unlabelled(probs: "Tensor", classes: Sequence[str]) -> dict[str, Any]:
    """The metrics of a target without labels: predicted class shares, and the mean confidence max_c p(c | x)."""
    import torch

    confidence, predicted = probs.max(1)
    shares = torch.bincount(predicted, minlength=len(classes)).double() / len(predicted)
    return {
        "samples": len(predicted),
        "mean_confidence": float(confidence.mean()),
        "predicted_shares": dict(zip(classes, shares.tolist(), strict=True)),
    }


def _measure_layers(
    model: "DAN", source: Any, of_target: Mapping[str, "Tensor"], settings: Mapping[str, Any], most: int
) -> dict[str, dict[str, float]]:
    """Of each aligned layer: MMD^2 with its standard deviation, and the A-distance, between source and target.

    The kernel is the run's ladder, equally weighted, around the median heuristic of these samples. {} where a domain
    has fewer than 4 samples.
    """
    import math

    from torch.utils.data import Subset

    from dan.data.batches import num_samples
    from dan.evaluation.metrics import predict
    from dan.feature_cache import stages_run
    from dan.losses import comparable
    from dan.mmd import MultiKernel, a_distance, median_bandwidth, mmd2, mmd2_variance
    from dan.models.dan import layer_named

    some = Subset(source, _evenly_spread(num_samples(source), most).tolist())
    of_source = predict(model, some, start=stages_run(source))[0].layers
    align = [layer_named(name) for name in settings.get("align", ())] or model.layer_names
    result = {}
    for name in align:
        rows = _evenly_spread(len(of_target[name]), most)
        x, y = (
            comparable(name, z.double(), settings.get("output_space", "probabilities"))
            for z in (of_source[name], of_target[name][rows])
        )
        if min(len(x), len(y)) < MIN_SAMPLES:
            continue
        kernel = MultiKernel.ladder(
            median_bandwidth(x, y), count=settings.get("num_kernels", 5), step=settings.get("bandwidth_ratio", 2.0)
        )
        result[name] = {
            "mmd2": float(mmd2(x, y, kernel)),
            "mmd2_deviation": math.sqrt(max(0.0, float(mmd2_variance(x, y, kernel)))),
            "a_distance": a_distance(x, y),
            "source_samples": len(x),
            "target_samples": len(y),
        }
    return result


def _validator_scores(model: "DAN", task: "DomainPair", most: int) -> dict[str, float]:
    """The score of each validator of `dan.evaluation.validators` but `circular`, on held-out source and the target.

    {} without held-out source, and where a domain has fewer than 4 samples.
    """
    from torch.utils.data import Subset

    from dan.data.batches import num_samples
    from dan.evaluation.validators import validate, validator_inputs

    parts: list[Any] = [task.source_test, task.target]
    if any(part is None or num_samples(part) < MIN_SAMPLES for part in parts):
        return {}
    source, target = (Subset(part, _evenly_spread(num_samples(part), most).tolist()) for part in parts)
    return validate(validator_inputs(model, source, target))


def _evenly_spread(count: int, most: int) -> "Tensor":
    """At most `most` of the rows 0, ..., count - 1."""
    import torch

    kept = min(count, most)
    return torch.arange(kept) * count // kept


def _write_predictions(path: Path, data: Any, probs: "Tensor", labels: "Tensor", classes: Sequence[str]) -> None:
    from dan.safe_csv import write_csv

    paths = getattr(data, "paths", None)
    confidence, predicted = probs.max(1)
    rows = zip(labels.tolist(), predicted.tolist(), confidence.tolist(), strict=True)
    write_csv(
        path,
        ["row" if paths is None else "path", "true", "predicted", "confidence"],
        (
            (i if paths is None else paths[i], classes[true] if true >= 0 else None, classes[guess], f"{sure:.6f}")
            for i, (true, guess, sure) in enumerate(rows)
        ),
    )


def _write(path: Path, content: bytes) -> None:
    from dan.run_dir import write_atomically

    try:
        write_atomically(path, lambda file: file.write(content))
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}): name another --out") from None
