"""The plots that experiments share: accuracy of each method, accuracy against the labels that were paid for (of one
task, or a panel for each), and mean ranks with the critical difference."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.framework.measurements import Key
from experiments.framework.reporting.comparisons import ALPHA, Ranking
from experiments.framework.reporting.tables import tidy

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
    tidy(axes, "x")
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
        marked = {"marker": MARKERS[place % len(MARKERS)], "markersize": 5, "label": method}
        _band(axes, line, paint[method], alpha=0.13, **marked)
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
    tidy(axes)
    return figure


def panels(measured: Measured, split: str = "target", *, columns: int = 4, metric: str = "accuracy") -> Figure | None:
    """`curves` of every task in a panel of its own, with one legend; markers and line styles tell equal colours apart.

    None where no method was given labels on this split.
    """
    lines: dict[str, dict[str, dict[int, list[float]]]] = {}
    for key, values in measured.items():
        if (key.split, key.metric) == (split, metric):
            lines.setdefault(key.task, {}).setdefault(key.method, {})[key.labels] = list(values.values())
    tasks = {task: found for task, found in lines.items() if any(len(line) > 1 for line in found.values())}
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
    shown = {}
    for axes, (task, found) in zip(grid.flat, tasks.items(), strict=False):
        for method, line in found.items():
            if len(line) == 1:
                (of_seeds,) = line.values()
                style = "--" if method == "DAN" else ":"
                level = statistics.fmean(of_seeds)
                shown[method] = axes.axhline(level, color=paint[method], linestyle=style, linewidth=1)
                continue
            place = methods.index(method) if method in methods else 0
            marked = {"marker": MARKERS[place % len(MARKERS)], "markersize": 3, "linewidth": 1.2}
            marked["linestyle"] = STYLES[place // len(COLOURS) % len(STYLES)]
            shown[method] = _band(axes, line, paint[method], alpha=0.08, **marked)
        axes.set_title(task, fontsize=8)
        axes.tick_params(labelsize=7)
        tidy(axes)
    figure.supxlabel("target labels", fontsize=9)
    figure.supylabel(f"{metric.replace('_', ' ')} on {SPLIT_NAMES[split]}, %", fontsize=9)
    figure.legend(
        list(shown.values()),
        list(shown),
        loc="outside upper center",
        ncols=min(6, len(shown)),
        fontsize=8,
        frameon=False,
    )
    return figure


def _band(axes: Axes, line: Mapping[int, Sequence[float]], colour: str, *, alpha: float, **style: Any) -> Line2D:
    """A line through the means of labels -> one value a seed, and a band of one standard deviation; the line."""
    labels = sorted(line)
    means = [statistics.fmean(line[count]) for count in labels]
    spreads = [statistics.stdev(line[count]) if len(line[count]) > 1 else 0.0 for count in labels]
    (drawn,) = axes.plot(labels, means, color=colour, **style)
    lows = [mean - spread for mean, spread in zip(means, spreads, strict=True)]
    highs = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
    axes.fill_between(labels, lows, highs, color=colour, alpha=alpha, linewidth=0)
    return drawn


def critical_difference(ranking: Ranking) -> Figure:
    """Mean ranks on a line, the best at the left; a bar joins methods less than the critical difference apart.

    Source: Demsar, JMLR 2006, figure 1.
    """
    count = len(ranking.methods)
    left = (count + 1) // 2  # these have their names at the left, the best at the top
    levels = _levels(ranking)
    deep = max(levels, default=-1) + 1
    row, first = 0.26, 0.24 + 0.13 * deep  # heights in inches, the axis at 0 and what is below it counted downwards
    bottom, top, width = first + row * (left - 1) + 0.15, 0.75, 4.6
    figure = Figure(figsize=(width, bottom + top))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(1, count), ylim=(bottom, -top))
    axes.axis("off")
    axes.plot([1, count], [0, 0], color="#222222", linewidth=1, clip_on=False)
    for tick in range(1, count + 1):
        axes.plot([tick, tick], [0, -0.07], color="#222222", linewidth=1, clip_on=False)
        axes.text(tick, -0.11, str(tick), ha="center", va="bottom", fontsize=8, color="#222222")
    distance = ranking.critical_difference
    for begin, end, high, low in (
        (1.0, 1 + distance, -0.46, -0.46),
        (1.0, 1.0, -0.5, -0.42),
        (1 + distance, 1 + distance, -0.5, -0.42),
    ):
        axes.plot([begin, end], [high, low], color="#d55e00", linewidth=1.5, clip_on=False)
    told = f"critical difference {distance:.2f} at {ALPHA:g}"
    axes.text(1, -0.54, told, ha="left", va="bottom", fontsize=8, color="#d55e00")
    gap = (count - 1) * 0.12 / width  # 0.12 inches
    for place, (method, rank) in enumerate(zip(ranking.methods, ranking.mean_ranks, strict=True)):
        at_left = place < left
        depth = first + row * (place if at_left else count - 1 - place)
        side, push = ("right", -gap) if at_left else ("left", gap)
        end = 1.0 if at_left else float(count)
        axes.plot([rank, rank, end + push / 2], [0, depth, depth], color="#999999", linewidth=0.8, clip_on=False)
        axes.plot([rank], [0], marker="o", markersize=3.5, color="#222222", clip_on=False)
        axes.text(end + push, depth, f"{method}  {rank:.2f}", ha=side, va="center", fontsize=9, parse_math=False)
    for group, level in zip(ranking.groups, levels, strict=True):
        ends = [ranking.mean_ranks[group[0]] - 0.3 * gap, ranking.mean_ranks[group[-1]] + 0.3 * gap]
        axes.plot(ends, [0.13 + 0.13 * level] * 2, color="#0072b2", linewidth=3.5, solid_capstyle="butt", clip_on=False)
    return figure


def _levels(ranking: Ranking) -> list[int]:
    """A height for the bar of each group, as low a number as lets no two touch."""
    apart = 0.02 * (len(ranking.methods) - 1)
    ends: list[float] = []
    levels = []
    for group in ranking.groups:
        begin, end = ranking.mean_ranks[group[0]], ranking.mean_ranks[group[-1]]
        level = next((i for i, taken in enumerate(ends) if taken + apart < begin), len(ends))
        ends[level : level + 1] = [end]
        levels.append(level)
    return levels


def save(figure: Figure, png: Path) -> None:
    """The figure as PNG, and as SVG beside it, with all of its text inside; the same figure gives the same files."""
    with matplotlib.rc_context({"svg.hashsalt": png.stem}):
        figure.savefig(png, dpi=130, bbox_inches="tight")
        figure.savefig(png.with_suffix(".svg"), bbox_inches="tight", metadata={"Date": None})
