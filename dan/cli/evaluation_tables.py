"""The lines and tables that python -m dan evaluate prints."""

from collections.abc import Mapping
from typing import Any

MOST_CLASSES = 20  # of more, the worst are printed; metrics.json has all


def split_line(name: str, split: Mapping[str, Any]) -> str:
    """The metrics of a split with labels."""
    return (
        f"{name:<12} {100 * split['accuracy']:6.2f} % accuracy  "
        f"{100 * split['mean_class_accuracy']:6.2f} % mean of classes  {split['cross_entropy']:.4f} nats  "
        f"{split['calibration_error']:.4f} calibration error  {split['samples']} samples"
    )


def unlabelled_lines(name: str, split: Mapping[str, Any]) -> str:
    """What is known of a split without labels: its mean confidence and the predicted class shares."""
    shares = sorted(split["predicted_shares"].items(), key=lambda item: -item[1])
    shown = [f"{label} {100 * share:.1f} %" for label, share in shares[:MOST_CLASSES]]
    if len(shares) > MOST_CLASSES:
        shown.append(f"and {len(shares) - MOST_CLASSES} more classes in metrics.json")
    return (
        f"{name:<12} has no labels: its accuracy needs labels  {split['mean_confidence']:.4f} mean confidence  "
        f"{split['samples']} samples\n{'':<12} predicted: {', '.join(shown)}"
    )


def class_table(splits: Mapping[str, Mapping[str, Any]]) -> str:
    """Accuracy by class in percent, one column for each split; of many classes the worst, by the last split."""
    if not splits:
        return ""
    names = list(next(iter(splits.values()))["class_accuracy"])
    judge = list(splits.values())[-1]["class_accuracy"]
    shown = names
    if len(names) > MOST_CLASSES:
        shown = sorted(names, key=lambda name: 2.0 if judge[name] is None else judge[name])[:MOST_CLASSES]
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


def layer_table(layers: Mapping[str, Mapping[str, float]]) -> str:
    """MMD^2, its standard deviation and the A-distance of each aligned layer."""
    if not layers:
        return ""
    width = max(len("layer"), *map(len, layers))
    lines = [f"{'layer':<{width}}  MMD^2 source-target      s.d.  A-distance"]
    for name, found in layers.items():
        lines.append(
            f"{name:<{width}}  {found['mmd2']:19.5f}  {found['mmd2_deviation']:8.5f}  {found['a_distance']:10.3f}"
        )
    return "\n".join(lines)


def validator_table(scores: Mapping[str, float]) -> str:
    """The scores of the validators, which compare networks on one task."""
    if not scores:
        return ""
    width = max(map(len, scores))
    lines = [f"{'validator':<{width}}     score  (higher is better; compare networks on one task by one validator)"]
    return "\n".join(lines + [f"{name:<{width}}  {value:8.4f}" for name, value in scores.items()])
