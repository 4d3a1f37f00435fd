"""What the pages of strategies share: what each gains over random, seed by seed, and curves in which random is grey.

gain = accuracy of the strategy - accuracy of random, both of the same seed
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from experiments.framework.records import Record
from experiments.framework.reporting import plots
from experiments.framework.reporting.tables import difference, mean_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BASE = "random"
BASE_COLOUR = "#555555"
BySeed = Mapping[int, float]


def by_strategy(records: Sequence[Record], strategies: Sequence[str]) -> list[Record]:
    """The records by strategy in this order; those of other strategies come last."""
    rank = {strategy: place for place, strategy in enumerate(strategies)}
    return sorted(records, key=lambda record: rank.get(record["method"], len(rank)))


def gains(found: Mapping[str, BySeed]) -> dict[str, BySeed]:
    """strategy -> {seed: its accuracy minus random's}, of the seeds that both have."""
    gained = {name: difference(values, found.get(BASE, {})) for name, values in found.items() if name != BASE}
    return {name: values for name, values in gained.items() if values}


def seconds_of_runs(records: Sequence[Record]) -> dict[str, dict[int, float]]:
    """strategy -> {seed: seconds of all its rounds}."""
    total: dict[str, dict[int, float]] = {}
    for record in records:
        by_seed = total.setdefault(record["method"], {})
        by_seed[record["seed"]] = by_seed.get(record["seed"], 0.0) + record["seconds"]
    return total


def finding(found: Mapping[str, BySeed], images: str, points: Callable[[BySeed], str]) -> str | None:
    """What random has on these images, and who gains most and least over it. None where there is nothing to compare.

    points: a gain in words.
    """
    gained = gains(found)
    if not gained:
        return None
    means = {name: statistics.fmean(values.values()) for name, values in gained.items()}
    best, worst = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    below = [name for name, mean in means.items() if mean < 0]
    surely = [name for name, values in gained.items() if len(values) > 1 and min(values.values()) > 0]
    return (
        f"random has {mean_of(found[BASE]):.1f} on the {images}; best {best}, {points(gained[best])} points"
        + (f", worst {worst}, {points(gained[worst])}; " if worst != best else "; ")
        + (f"below random: {', '.join(below)}" if below else "none is below random")
        + f"; above it on every seed: {', '.join(surely) or 'none'}."
    )


def curves(measured: plots.Measured, split: str) -> Figure | None:
    """`plots.curves` with random in grey, so that many can be told apart. None where there are no curves."""
    figure = plots.curves(measured, split)
    if figure is None:
        return None
    (axes,) = figure.axes
    for line, band in zip(axes.lines, axes.collections, strict=False):
        if line.get_label() == BASE:
            line.set(color=BASE_COLOUR, linestyle="--")
            band.set_color(BASE_COLOUR)
    axes.legend(fontsize=8, frameon=False)
    return figure
