"""The plots that experiments share: accuracy of each method, accuracy against the labels that were paid for (of one
task, or a panel for each), and mean ranks."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiments.framework.measurements import Key
from experiments.framework.reporting.comparisons import ALPHA, Ranking
from experiments.framework.reporting.tables import tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Lines = dict[str, dict[int, list[float]]]  # method -> labels -> one value a seed
Measured = Mapping[Key, Mapping[int, float]]  # as records.measurements gives it

SPLIT_NAMES = {"target": "all of the target", "unqueried": "unqueried target", "test": "target test split"}
# Okabe and Ito's colours, told apart by colour-blind eyes too; the two references are the grey and the black.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#6a51a3")
REFERENCES = {"source-only": "#888888", "DAN": "#222222"}
MARKERS = "osD^vPX*"
STYLES = ("-", "--", ":")  # where there are more methods than colours


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


def final_values(measured: Measured, split: str, metric: str = "accuracy") -> dict[str, Mapping[int, float]]:
    """method -> {seed: value} at the most labels it was given."""
    return {method: values for method, (_, values) in final(measured, split, metric).items()}


def bars(measured: Measured, split: str = "target") -> Figure:
    """Mean accuracy of each method with its standard deviation, and one dot a seed."""
    from matplotlib.figure import Figure

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
    tidy(axes, "x")
    return figure


def curves(measured: Measured, split: str = "target") -> Figure | None:
    """Accuracy against labels, a band of one standard deviation; methods without labels are horizontal lines.

    None where no method was given labels on this split.
    """
    from matplotlib.figure import Figure

    lines: Lines = {}
    for found in _lines(measured, split).values():
        lines |= found
    if not any(len(line) > 1 for line in lines.values()):
        return None
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    _draw(axes, lines, list(lines), colours(measured), alpha=0.13, markersize=5)
    axes.set(xlabel="target labels", ylabel=f"accuracy on {SPLIT_NAMES[split]}, %")
    axes.set_xticks(sorted({count for line in lines.values() if len(line) > 1 for count in line}))
    axes.legend(fontsize=8, frameon=False)
    return figure


def panels(measured: Measured, split: str = "target", *, columns: int = 4, metric: str = "accuracy") -> Figure | None:
    """`curves` of every task in a panel of its own, with one legend; markers and line styles tell equal colours apart.

    None where no method was given labels on this split.
    """
    from matplotlib.figure import Figure

    tasks = {
        task: found for task, found in _lines(measured, split, metric).items() if max(map(len, found.values())) > 1
    }
    if not tasks:
        return None
    methods = [method for method in dict.fromkeys(key.method for key in measured) if method not in REFERENCES]
    paint = colours(measured) | {"random": REFERENCES["source-only"]}  # what the others are read against
    columns = min(columns, len(tasks))
    rows = -(-len(tasks) // columns)
    figure = Figure(figsize=(0.6 + 2.7 * columns, 0.8 + 2.1 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(tasks) :]:
        axes.set_visible(False)
    shown: dict[str, Line2D] = {}
    for axes, (task, found) in zip(grid.flat, tasks.items(), strict=False):
        shown |= _draw(axes, found, methods, paint, alpha=0.08, markersize=3)
        axes.set_title(task, fontsize=8)
        axes.tick_params(labelsize=7)
    figure.supxlabel("target labels", fontsize=9)
    figure.supylabel(f"{metric.replace('_', ' ')} on {SPLIT_NAMES[split]}, %", fontsize=9)
    figure.legend(
        shown.values(), shown, loc="outside upper center", ncols=min(6, len(shown)), fontsize=8, frameon=False
    )
    return figure


def _lines(measured: Measured, split: str, metric: str = "accuracy") -> dict[str, Lines]:
    """task -> its lines. On images never queried a method without labels has its accuracy on all of the target."""
    tasks: dict[str, Lines] = {}
    for of in dict.fromkeys((split, "target" if split == "unqueried" else split)):
        for key, values in measured.items():
            if (key.split, key.metric) == (of, metric) and (of == split or not key.labels):
                line = tasks.setdefault(key.task, {}).setdefault(key.method, {})
                line.setdefault(key.labels, list(values.values()))
    return tasks


def _draw(
    axes: Axes, lines: Lines, methods: Sequence[str], paint: Mapping[str, str], *, alpha: float, markersize: float
) -> dict[str, Line2D]:
    """Lines with bands of one standard deviation, then levels of the methods without labels; method -> its line.

    methods: their places decide markers and styles.
    """
    drawn = {}
    for method, line in sorted(lines.items(), key=lambda item: len(item[1]) == 1):
        means = [statistics.fmean(line[count]) for count in sorted(line)]
        if len(line) == 1:
            style = "--" if method == "DAN" else ":"
            drawn[method] = axes.axhline(means[0], color=paint[method], linestyle=style, linewidth=1, label=method)
            continue
        place = methods.index(method) if method in methods else 0
        marked: dict[str, Any] = {"marker": MARKERS[place % len(MARKERS)], "markersize": markersize, "linewidth": 1.3}
        marked |= {"linestyle": STYLES[place // len(COLOURS) % len(STYLES)], "color": paint[method], "label": method}
        (drawn[method],) = axes.plot(sorted(line), means, **marked)
        spreads = [statistics.stdev(line[count]) if len(line[count]) > 1 else 0.0 for count in sorted(line)]
        lows, highs = ([m + sign * s for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
        axes.fill_between(sorted(line), lows, highs, color=paint[method], alpha=alpha, linewidth=0)
    tidy(axes)
    return drawn


def ranks(ranking: Ranking) -> Figure:
    """Mean ranks, the best on top, each with half of the critical difference to both sides: intervals that share no
    point differ (Nemenyi)."""
    from matplotlib.figure import Figure

    places, distance = range(len(ranking.methods)), ranking.critical_difference
    figure = Figure(figsize=(6, 0.9 + 0.26 * len(places)), layout="constrained")
    axes = figure.subplots()
    marked: dict[str, Any] = {"fmt": "o", "markersize": 4, "color": "#0072b2", "ecolor": "#999999", "capsize": 3}
    axes.errorbar(ranking.mean_ranks, places, xerr=distance / 2, **marked)
    axes.set_yticks(places, ranking.methods, fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel(f"mean rank ± half of the critical difference, {distance:.2f} at {ALPHA:g}")
    tidy(axes, "x")
    return figure
