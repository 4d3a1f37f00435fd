"""python -m dan evaluate RUN: all that can be measured of a finished run, as a table, a few files, and pictures.

    of each split with labels     accuracy, by class too; cross-entropy; calibration error; confusion matrix
    of source against target      unbiased MMD^2 and A-distance of each aligned layer
    of each sample                what was predicted, and how surely
    of the target                 the same without samples whose labels were learned (--target-labels): "unqueried"
    on stderr                     signs that the target holds other classes, or other shares of them

Target labels are read to measure, and for nothing else.
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from dan.errors import UserError
from dan.run_task import DataLocation, load_run_task

if TYPE_CHECKING:
    from torch import Tensor

FEWEST = 4  # samples a side: two folds of the A-distance need two each
CLASSES_SHOWN = 20  # of more, the worst; metrics.json has all


@dataclass(frozen=True, kw_only=True)
class Evaluate(DataLocation):
    """Measure a finished run on every split of its task."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run, or of a released checkpoint."""
    network: str = "current"
    """Which of the run's networks: current, the newest that labels have trained; first, the run's own; or
    labelled_NN."""
    data: Path | None = None
    """Folder of data sets, for tasks that read any (also: ACTIVE_DAN_DATA)."""
    weights: Path | None = None
    """Weights of the frozen backbone, for a checkpoint that holds the trained parts only."""
    out: Path | None = None
    """Folder for what is written; default: evaluation, in the folder of the network (RUN, or RUN/labelled_NN)."""
    most: int = 2000
    """Samples of each domain, spread evenly over it, that MMD and A-distance look at."""
    image_cache: Path | None = None
    """Folder that decoded images are kept in; default: in the user's cache folder."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""


def evaluate_run(config: Evaluate) -> None:
    """Measure, print a table, and write metrics.json, predictions-SPLIT.csv and confusion-SPLIT.png.

    Raises UserError for what is no run of a task, for data that are not there, and a folder that cannot be written.
    """
    from dan.data.paths import cache_folder, data_folder
    from dan.devices import choose_device
    from dan.evaluation.label_shift import warnings_of
    from dan.evaluation.metrics import predict
    from dan.models.model_file import load_model
    from dan.run_metadata import labels_of, load_run_config
    from dan.run_networks import chosen_network

    if config.most < FEWEST:
        raise UserError(f"--most must be at least {FEWEST} samples, not {config.most}")
    settings = load_run_config(config.run)
    network = chosen_network(config.run, config.network)
    model = load_model(network, choose_device(config.device), weights=config.weights)
    task = load_run_task(
        settings,
        config.run,
        data_folder(config.data),
        cache_folder(config.image_cache),
        quiet=False,
        location=config,
    )
    if len(task.classes) != model.settings["num_classes"]:
        raise UserError(
            f"{config.run} tells {model.settings['num_classes']} classes apart, and {task.name} has "
            f"{len(task.classes)}: restore its data, or train again"
        )
    out = config.out or network / "evaluation"
    print(f"network: {network}")
    metrics: dict[str, Any] = {
        "run": config.run.name,
        "network": network.name,
        "task": task.name,
        "splits": {},
        "layers": {},
    }
    probs: dict[str, Tensor] = {}
    for name, data in (task.splits | {"target": task.target}).items():
        output, labels = predict(model, data)
        probs[name] = output.logits.double().softmax(1)
        _write_predictions(out / f"predictions-{name}.csv", data, output.logits, labels, task.classes)
        if name in task.splits:
            metrics["splits"][name] = _measured(
                output.logits, labels, task.classes, out / f"confusion-{name}.png", name
            )
            print(_line(name, metrics["splits"][name]))
        else:
            print(f"{name:<12} has no labels, so no accuracy  {len(labels)} samples")
        if name == "target" and "target_labels" in settings:
            rest = _unqueried(labels, settings, task.classes)
            if len(rest):
                picture = out / "confusion-unqueried.png"
                found = _measured(output.logits[rest], labels[rest], task.classes, picture, "unqueried")
                metrics["splits"]["unqueried"] = found
                print(_line("unqueried", found))
        if name == "target":
            metrics["layers"] = _distances(model, task.source, output.layers, settings, config.most)
    for table in (_class_table(metrics["splits"]), _layer_table(metrics["layers"])):
        if table:
            print("\n" + table)
    metrics["warnings"] = warnings_of(
        labels_of(task.source), probs["target"], source_probs=probs.get("source_test"), classes=task.classes
    )
    for line in metrics["warnings"]:
        print(f"warning: {line}", file=sys.stderr)
    _write(out / "metrics.json", (json.dumps(metrics, indent=1) + "\n").encode())
    print(f"\nfiles: {out}")


def _unqueried(labels: "Tensor", settings: Mapping[str, Any], classes: Sequence[str]) -> "Tensor":
    """The target rows whose labels the run did not learn (`--target-labels`)."""
    from dan.data.semi_supervised import drawn_by_seed, rest_of

    return rest_of(drawn_by_seed(labels, settings["target_labels"], settings["seed"], classes=classes), len(labels))


def _measured(logits: "Tensor", labels: "Tensor", classes: Sequence[str], picture: Path, split: str) -> dict[str, Any]:
    """The numbers of one split, as JSON keeps them (a class without samples: null), and its picture on the disk."""
    import io

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


def _distances(
    model: Any, source: Any, of_target: Mapping[str, "Tensor"], settings: Mapping[str, Any], most: int
) -> dict[str, dict[str, float]]:
    """Of each aligned layer: MMD^2 with its standard deviation, and the A-distance, between source and target.

    The kernel is the run's ladder, equally weighted, around the median heuristic of these samples. {} where a domain
    has fewer than 4 samples.
    """
    import torch
    from torch.utils.data import Subset

    from dan.data.batches import num_samples
    from dan.evaluation.metrics import predict
    from dan.feature_cache import stages_run
    from dan.losses import comparable
    from dan.mmd import MultiKernel, a_distance, median_bandwidth, mmd2, mmd2_variance
    from dan.models.dan import layer_named

    def spread(count: int) -> "Tensor":
        kept = min(count, most)
        return torch.arange(kept) * count // kept

    some = Subset(source, spread(num_samples(source)).tolist())
    of_source = predict(model, some, start=stages_run(source))[0].layers
    align = [layer_named(name) for name in settings.get("align", ())] or model.layer_names
    result = {}
    for name in align:
        rows = spread(len(of_target[name]))
        x, y = (
            comparable(name, z.double(), settings.get("output_space", "probabilities"))
            for z in (of_source[name], of_target[name][rows])
        )
        if min(len(x), len(y)) < FEWEST:
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


def _write_predictions(path: Path, data: Any, logits: "Tensor", labels: "Tensor", classes: Sequence[str]) -> None:
    from dan.safe_csv import write_csv

    paths = getattr(data, "paths", None)
    confidence, predicted = logits.double().softmax(1).max(1)
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


def _line(name: str, split: Mapping[str, Any]) -> str:
    return (
        f"{name:<12} {100 * split['accuracy']:6.2f} % accuracy  "
        f"{100 * split['mean_class_accuracy']:6.2f} % mean of classes  {split['cross_entropy']:.4f} nats  "
        f"{split['calibration_error']:.4f} calibration error  {split['samples']} samples"
    )


def _class_table(splits: Mapping[str, Mapping[str, Any]]) -> str:
    """Accuracy by class in percent, a column a split; of many classes the worst, by the last split."""
    if not splits:
        return ""
    names = list(next(iter(splits.values()))["class_accuracy"])
    judge = list(splits.values())[-1]["class_accuracy"]
    shown = names
    if len(names) > CLASSES_SHOWN:
        shown = sorted(names, key=lambda name: 2.0 if judge[name] is None else judge[name])[:CLASSES_SHOWN]
    width = max(len("class"), *map(len, shown))
    lines = [f"{'class':<{width}}" + "".join(f"  {split:>11}" for split in splits)]
    for name in shown:
        values = [split["class_accuracy"][name] for split in splits.values()]
        lines.append(
            f"{name:<{width}}" + "".join("            -" if v is None else f"  {100 * v:9.2f} %" for v in values)
        )
    if len(shown) < len(names):
        lines.append(f"(the worst {len(shown)} of {len(names)}; all are in metrics.json)")
    return "\n".join(lines)


def _layer_table(layers: Mapping[str, Mapping[str, float]]) -> str:
    if not layers:
        return ""
    width = max(len("layer"), *map(len, layers))
    lines = [f"{'layer':<{width}}  MMD^2 source-target      s.d.  A-distance"]
    for name, found in layers.items():
        lines.append(
            f"{name:<{width}}  {found['mmd2']:19.5f}  {found['mmd2_deviation']:8.5f}  {found['a_distance']:10.3f}"
        )
    return "\n".join(lines)
