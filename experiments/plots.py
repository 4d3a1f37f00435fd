"""The two plots every experiment has: accuracy of each method, and accuracy against the labels that were paid for."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.records import Key

Measured = Mapping[Key, Mapping[int, float]]  # as records.measurements gives it

SPLIT_NAMES = {"target": "all of the target", "unqueried": "unqueried target", "test": "target test split"}
# Okabe and Ito's colours, told apart by colour-blind eyes too; the two references are the grey and the black.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#6a51a3")
REFERENCES = {"source-only": "#888888", "DAN": "#222222"}
MARKERS = "osD^vPX*"


def colours(measured: Measured) -> dict[str, str]:
    """A colour for every method, the same in every plot of an experiment."""
    others = [method for method in dict.fromkeys(key.method for key in measured) if method not in REFERENCES]
    return REFERENCES | {method: COLOURS[i % len(COLOURS)] for i, method in enumerate(others)}


def final(measured: Measured, split: str, metric: str = "accuracy") -> dict[str, tuple[Key, Mapping[int, float]]]:
    """Each method's measurement at the most labels it was given, in the order of the records."""
    last: dict[str, tuple[Key, Mapping[int, float]]] = {}
    for key, values in measured.items():
        if (key.split, key.metric) == (split, metric) and (
            key.method not in last or key.labels > last[key.method][0].labels
        ):
            last[key.method] = (key, values)
    return last


def bars(measured: Measured, split: str = "target") -> Figure:
    """Mean accuracy of each method with its standard deviation, and one dot a seed."""
    methods, paint = final(measured, split), colours(measured)
    figure = Figure(figsize=(6, 1.1 + 0.42 * len(methods)), layout="constrained")
    axes = figure.subplots()
    lowest = 100.0
    for place, (method, (_, by_seed)) in enumerate(methods.items()):
        values = list(by_seed.values())
        mean, spread = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
        axes.barh(
            place, mean, height=0.62, color=paint[method], alpha=0.55, xerr=spread or None, ecolor="#222222", capsize=3
        )
        # A little apart up and down, so that equal seeds are all seen.
        heights = [place + 0.14 * (i - (len(values) - 1) / 2) for i in range(len(values))]
        axes.scatter(values, heights, s=16, color=paint[method], edgecolors="white", linewidths=0.6, zorder=3)
        lowest = min(lowest, mean - spread, *values)
    names = [
        method + (f"\n{key.labels} labels" if key.labels else "\nno target labels")
        for method, (key, _) in methods.items()
    ]
    axes.set_yticks(range(len(methods)), names, fontsize=8)
    axes.invert_yaxis()
    # The axis begins at a round number below everything that is shown; where it isn't 0 its label says so.
    left = max(0, int((lowest - 5) // 10 * 10))
    axes.set_xlim(left, 100)
    axes.set_xlabel(f"accuracy on {SPLIT_NAMES[split]}, %" + (f"  (axis from {left})" if left else ""))
    _clean(axes, "x")
    return figure


def curves(measured: Measured, split: str = "target") -> Figure | None:
    """Accuracy against labels, a band of one standard deviation; methods without labels are horizontal lines.

    None where no method was given labels on this split.
    """
    paint = colours(measured)
    lines: dict[str, dict[int, list[float]]] = {}
    for key, values in measured.items():
        if (key.split, key.metric) == (split, "accuracy"):
            lines.setdefault(key.method, {})[key.labels] = list(values.values())
    learners = {method: line for method, line in lines.items() if len(line) > 1}
    if not learners:
        return None
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for place, (method, line) in enumerate(learners.items()):
        labels = sorted(line)
        means = [statistics.fmean(line[count]) for count in labels]
        spreads = [statistics.stdev(line[count]) if len(line[count]) > 1 else 0.0 for count in labels]
        axes.plot(labels, means, color=paint[method], marker=MARKERS[place % len(MARKERS)], markersize=5, label=method)
        lows = [mean - spread for mean, spread in zip(means, spreads, strict=True)]
        highs = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
        axes.fill_between(labels, lows, highs, color=paint[method], alpha=0.13, linewidth=0)
    # A method without target labels has asked for none: on the images never asked about it is its accuracy on all.
    for key, values in measured.items():
        in_place = key.split == ("target" if split == "unqueried" else split)
        if in_place and key.metric == "accuracy" and key.method not in learners:
            style = "--" if key.method == "DAN" else ":"
            axes.axhline(statistics.fmean(values.values()), color=paint[key.method], linestyle=style, label=key.method)
    axes.set_xlabel("target labels")
    axes.set_ylabel(f"accuracy on {SPLIT_NAMES[split]}, %")
    axes.set_xticks(sorted({count for line in learners.values() for count in line}))
    axes.legend(fontsize=8, frameon=False)
    _clean(axes, "both")
    return figure


def _clean(axes: Axes, grid: str) -> None:
    axes.grid(axis=grid, color="#dddddd", linewidth=0.6)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
