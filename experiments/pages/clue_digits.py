"""The tables, curves and sentences of clue_digits, from records alone.

gain = mean over seeds of (accuracy of the strategy - accuracy of random), both of the same seed
ALC  = area under the accuracy-labels curve over its label range
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiments.clue_digits import STRATEGIES, TASKS
from experiments.digits import column_of
from experiments.framework.measurements import Key, measurements
from experiments.framework.records import Record
from experiments.framework.report import Drawn, Report
from experiments.framework.reporting import against_random, plots
from experiments.framework.reporting.against_random import BySeed, gains, iter_batches, seconds_of_runs
from experiments.framework.reporting.tables import Table, each, points, told
from experiments.jobs.digits import SET

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPLITS = {"target": "all of the target", "unqueried": "the target images never asked for", "test": "the test split"}


def of_task(records: Sequence[Record], task: str) -> dict[Key, dict[int, float]]:
    """The measurements of one transfer, strategies in the order of the experiment."""
    return measurements(iter_batches(records_of(records, task), STRATEGIES))


def records_of(records: Sequence[Record], task: str) -> list[Record]:
    """The records of one transfer."""
    return [record for record in records if record["task"] == SET + task]


def tasks_in(records: Sequence[Record]) -> list[str]:
    """The transfers that have records, in order."""
    there = {record["task"].removeprefix(SET) for record in records}
    return [task for task in TASKS if task in there]


def at_last(records: Sequence[Record], task: str, split: str, metric: str = "accuracy") -> dict[str, BySeed]:
    """strategy -> {seed: percent} at the most labels."""
    return {method: values for method, (_, values) in plots.final(of_task(records, task), split, metric).items()}


def table_of(records: Sequence[Record], task: str) -> Table:
    """One row a strategy at its most labels, and what it gains over random on the images never asked for."""
    measured = of_task(records, task)
    columns = [at_last(records, task, split) for split in SPLITS]
    gained = gains(columns[1])
    areas, seconds = at_last(records, task, "unqueried", "alc"), seconds_of_runs(records_of(records, task))
    lines = []
    for method, (key, values) in plots.final(measured, "target").items():
        cells = [told(column.get(method)) for column in columns]
        gain = gained.get(method)
        lines.append([method, str(key.labels), *cells, points(gain), told(areas.get(method))])
        lines[-1] += [
            f"{min(columns[1].get(method, values).values()):.1f}",
            told(seconds.get(method), 0),
            str(len(values)),
        ]
    headers = ["strategy", "labels", *SPLITS, "over random", "ALC unqueried", "worst", "s a run", "n"]
    return headers, lines


def findings(records: Sequence[Record]) -> list[str]:
    """Sentences that the records decide, on the images never asked for, seed by seed against random."""
    said = []
    for task in tasks_in(records):
        labels = max(record["labels"] for record in records_of(records, task))
        sentence = against_random.finding(at_last(records, task, "unqueried"), "images never asked for", points)
        said += [f"{column_of(task)}, {labels} labels: {sentence}"] if sentence else []
    return said


def curve(records: Sequence[Record], task: str, split: str) -> Figure | None:
    """Accuracy against labels with bands of one standard deviation; random is grey."""
    figure = against_random.curves(of_task(records, task), split)
    if figure is not None:
        figure.axes[0].set_title(column_of(task), fontsize=9)
    return figure


def captions(records: Sequence[Record]) -> list[str]:
    """How the numbers were made."""
    steps, more, pools = (each(records, name) for name in ("steps", "steps_per_round", "pool"))
    adapted = {record["adapts"] for record in records if record["trade_off"]}
    weight = each(records, "trade_off")
    besides = f"beside them {', '.join(sorted(adapted))} at the trade-off {weight}" if adapted else "no alignment"
    most = max(record["samples"] for record in records)
    pool = f"at most {most:,} images of each split, evenly spaced" if most else "all images of each split"
    return [
        "Accuracy in percent, mean ± standard deviation over n seeds, of the model after the last step. target: all "
        "images of the pool, asked for or not; unqueried: those never asked for; test: the target's own test split; "
        "over random: the difference on unqueried, seed by seed; ALC: area under the accuracy-labels curve on "
        "unqueried; worst: unqueried of the worst seed; s a run: seconds of all rounds of one seed, asking and "
        "evaluation included.",
        f"Start: {steps} steps on the source alone, the same for all strategies of a seed. Each round: "
        f"{more} steps on, from the last round's weights with a new Adam (rate 0.0002, weight decay "
        "0.00001, batches of 128 source and 128 bought target images, which weigh the same); "
        f"{besides}. The published form has 60 epochs a round (--epochs 60). Pool: {pools} images; {pool}, for "
        "the time that it takes to look at them in every round. aada is shown P(source) by a linear classifier of the "
        "features, not by DANN.",
    ]


def report_of(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    figures = []
    for task in tasks_in(records):
        for split, name in SPLITS.items():
            if (figure := curve(records, task, split)) is not None:
                text = (
                    f"{column_of(task)}: accuracy on {name} against labels, mean and one standard deviation over seeds."
                )
                figures.append(Drawn(f"{task}_{split}.png", figure, text))
    return Report(
        title="Active adaptation on MNIST and USPS, in rounds from a source model",
        findings=findings(records),
        tables=[(f"{column_of(task)}, LeNet", table_of(records, task)) for task in tasks_in(records)],
        figures=figures,
        captions=captions(records),
    )
