"""Plots of values against a setting, a panel each, and groups of bars; each shows the mean and the seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiments.framework.reporting.tables import legend_above, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = Mapping[Any, Sequence[float]]  # setting, a number -> one value a seed
Style = Mapping[str, Any]  # of matplotlib's plot or bar, among them the colour


def line_panels(
    panels: Mapping[str, Mapping[str, Curve]],
    styles: Mapping[str, Style],
    *,
    x: str,
    y: str,
    columns: int = 2,
    ticks: Mapping[int, str] | None = None,
) -> Figure:
    """A panel for each title, in it a line for each label through the means over seeds, and a band of their range.

    styles: of each label. ticks: names of the settings, where they are no numbers.
    """
    from matplotlib.figure import Figure

    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(1.0 + 4.2 * columns, 0.8 + 2.9 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for axes, (title, curves) in zip(grid.flat, panels.items(), strict=False):
        for label, curve in curves.items():
            _line(axes, curve, label, styles[label])
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        if ticks is not None:
            axes.set_xticks(list(ticks), list(ticks.values()), rotation=45, fontsize=8)
        tidy(axes)
    legend_above(figure, grid.flat[0], 4)
    return figure


def _line(axes: Axes, curve: Curve, label: str, style: Style) -> None:
    values = {setting: seeds for setting, seeds in sorted(curve.items()) if seeds}
    means = [statistics.fmean(seeds) for seeds in values.values()]
    axes.plot(list(values), means, label=label, **style)
    lows, highs = ([end(seeds) for seeds in values.values()] for end in (min, max))
    axes.fill_between(list(values), lows, highs, color=style["color"], alpha=0.15, linewidth=0)


def grouped_bars(
    groups: Mapping[str, Mapping[str, Sequence[float]]], styles: Mapping[str, Style], *, y: str, begin: float = 0.0
) -> Figure:
    """A group of bars for each title, in it a bar for each label at the mean over seeds, and a dot a seed.

    begin: of the axis.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.4 + 2.2 * len(groups), 3.8), layout="constrained")
    axes = figure.subplots()
    labels = [label for label in styles if any(bars.get(label) for bars in groups.values())]
    width = 0.84 / max(len(labels), 1)
    for i, label in enumerate(labels):
        places = [group + (i - (len(labels) - 1) / 2) * width for group in range(len(groups))]
        found = {place: bars[label] for place, bars in zip(places, groups.values(), strict=True) if bars.get(label)}
        heights = [statistics.fmean(seeds) for seeds in found.values()]
        axes.bar(list(found), heights, 0.84 * width, label=label, linewidth=1.5, **styles[label])
        for place, seeds in found.items():
            spots = [place + 0.15 * width * (k - (len(seeds) - 1) / 2) for k in range(len(seeds))]
            axes.scatter(spots, seeds, s=14, color="#222222", edgecolors="white", linewidths=0.6, zorder=3)
    axes.set_ylim(bottom=begin)
    axes.set_ylabel(y + (f"  (axis from {begin:g})" if begin else ""))
    axes.set_xticks(range(len(groups)), list(groups))
    legend_above(figure, axes, 3)
    tidy(axes, "y")
    return figure
