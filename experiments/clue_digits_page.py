"""The tables, curves and sentences of clue_digits, from records alone.

gain = mean over seeds of (accuracy of the strategy - accuracy of random), both of the same seed
ALC  = area under the accuracy-labels curve over its label range
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments import plots
from experiments.clue_digits import STRATEGIES, TASKS
from experiments.digits import column_of
from experiments.digits_trials import SET
from experiments.records import Key, Record, measurements
from experiments.tables import Drawn, Table, mean_of, signed, told, write_report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BASE = "random"
SPLITS = {"target": "all of the target", "unqueried": "the target images never asked for", "test": "the test split"}
BASE_COLOUR = "#555555"
BySeed = Mapping[int, float]


def of_task(records: Sequence[Record], task: str) -> dict[Key, dict[int, float]]:
    """The measurements of one transfer, strategies in the order of the experiment."""
    rank = {strategy: place for place, strategy in enumerate(STRATEGIES)}
    own = [record for record in records if record["task"] == SET + task]
    return measurements(sorted(own, key=lambda record: rank.get(record["method"], len(rank))))


def tasks_in(records: Sequence[Record]) -> list[str]:
    """The transfers that have records, in order."""
    there = {record["task"].removeprefix(SET) for record in records}
    return [task for task in TASKS if task in there]


def at_last(records: Sequence[Record], task: str, split: str, metric: str = "accuracy") -> dict[str, BySeed]:
    """strategy -> {seed: percent} at the most labels."""
    return {method: values for method, (_, values) in plots.final(of_task(records, task), split, metric).items()}


def gains(found: Mapping[str, BySeed]) -> dict[str, BySeed]:
    """strategy -> {seed: its accuracy minus random's}, of the seeds that both have."""
    base = found.get(BASE, {})
    paired = {
        name: {seed: v - base[seed] for seed, v in values.items() if seed in base} for name, values in found.items()
    }
    return {name: values for name, values in paired.items() if name != BASE and values}


def table_of(records: Sequence[Record], task: str) -> Table:
    """One row a strategy at its most labels, and what it gains over random on the images never asked for."""
    measured = of_task(records, task)
    columns = [at_last(records, task, split) for split in SPLITS]
    gained = gains(columns[1])
    areas, seconds = at_last(records, task, "unqueried", "alc"), _seconds(records, task)
    lines = []
    for method, (key, values) in plots.final(measured, "target").items():
        cells = [told(column.get(method)) for column in columns]
        gain = gained.get(method)
        lines.append([method, str(key.labels), *cells, "–" if gain is None else _points(gain), told(areas.get(method))])
        lines[-1] += [
            f"{min(columns[1].get(method, values).values()):.1f}",
            told(seconds.get(method), 0),
            str(len(values)),
        ]
    headers = ["strategy", "labels", *SPLITS, "over random", "ALC unqueried", "worst", "s a run", "n"]
    return headers, lines


def _points(by_seed: BySeed) -> str:
    spread = f" ± {statistics.stdev(by_seed.values()):.1f}" if len(by_seed) > 1 else ""
    return signed(mean_of(by_seed)) + spread


def _seconds(records: Sequence[Record], task: str) -> dict[str, dict[int, float]]:
    """strategy -> {seed: seconds of all its rounds}."""
    total: dict[str, dict[int, float]] = {}
    for record in records:
        if record["task"] == SET + task:
            by_seed = total.setdefault(record["method"], {})
            by_seed[record["seed"]] = by_seed.get(record["seed"], 0.0) + record["seconds"]
    return total


def findings(records: Sequence[Record]) -> list[str]:
    """Sentences that the records decide, on the images never asked for, seed by seed against random."""
    said = []
    for task in tasks_in(records):
        found = at_last(records, task, "unqueried")
        gained = gains(found)
        labels = max(record["labels"] for record in records if record["task"] == SET + task)
        if not gained:
            continue
        means = {name: statistics.fmean(values.values()) for name, values in gained.items()}
        best, worst = max(means, key=lambda name: means[name]), min(means, key=lambda name: means[name])
        below = [name for name, mean in means.items() if mean < 0]
        surely = [name for name, values in gained.items() if len(values) > 1 and min(values.values()) > 0]
        said.append(
            f"{column_of(task)}, {labels} labels: random has {mean_of(found[BASE]):.1f} on the images never asked for; "
            f"best {best}, {_points(gained[best])} points"
            + (f", worst {worst}, {_points(gained[worst])}; " if worst != best else "; ")
            + (f"below random: {', '.join(below)}" if below else "none is below random")
            + f"; above it on every seed: {', '.join(surely) or 'none'}."
        )
    return said


def curve(records: Sequence[Record], task: str, split: str) -> Figure | None:
    """Accuracy against labels with bands of one standard deviation; random is grey, so that nine can be told apart."""
    figure = plots.curves(of_task(records, task), split)
    if figure is None:
        return None
    (axes,) = figure.axes
    for line, band in zip(axes.lines, axes.collections, strict=False):
        if line.get_label() == BASE:
            line.set(color=BASE_COLOUR, linestyle="--")
            band.set_color(BASE_COLOUR)
    axes.set_title(column_of(task), fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    return figure


def captions(records: Sequence[Record]) -> list[str]:
    """How the numbers were made."""

    def each(name: str) -> str:
        return ", ".join(f"{value:,}" for value in sorted({record[name] for record in records}))

    adapted = {record["adapts"] for record in records if record["trade_off"]}
    besides = (
        f"beside them {', '.join(sorted(adapted))} at the trade-off {each('trade_off')}" if adapted else "no alignment"
    )
    most = max(record["samples"] for record in records)
    pool = f"at most {most:,} images of each split, evenly spaced" if most else "all images of each split"
    return [
        "Accuracy in percent, mean ± standard deviation over n seeds, of the model after the last step. target: all "
        "images of the pool, asked for or not; unqueried: those never asked for; test: the target's own test split; "
        "over random: the difference on unqueried, seed by seed; ALC: area under the accuracy-labels curve on "
        "unqueried; worst: unqueried of the worst seed; s a run: seconds of all rounds of one seed, asking and "
        "evaluation included.",
        f"Start: {each('steps')} steps on the source alone, the same for all strategies of a seed. Each round: "
        f"{each('round_steps')} steps on, from the last round's weights with a new Adam (rate 0.0002, weight decay "
        "0.00001, batches of 128 source and 128 bought target images, which weigh the same); "
        f"{besides}. The published form has 60 epochs a round (--epochs 60). Pool: {each('pool')} images; {pool}, for "
        "the time that it takes to look at them in every round. aada is shown P(source) by a linear classifier of the "
        "features, not by DANN.",
    ]


def write_page(folder: Path, records: Sequence[Record]) -> Path:
    """table.csv, table.md, the curves and report.html; the path of the page."""
    figures = []
    for task in tasks_in(records):
        for split, name in SPLITS.items():
            if (figure := curve(records, task, split)) is not None:
                text = (
                    f"{column_of(task)}: accuracy on {name} against labels, mean and one standard deviation over seeds."
                )
                figures.append(Drawn(f"{task}_{split}.png", figure, text))
    return write_report(
        folder,
        records,
        title="Active adaptation on MNIST and USPS, in rounds from a source model",
        findings=findings(records),
        tables=[(f"{column_of(task)}, LeNet", table_of(records, task)) for task in tasks_in(records)],
        figures=figures,
        captions=captions(records),
    )
