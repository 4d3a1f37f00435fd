"""The tables and the page of digits, from records alone: our rows, the published ones below theirs, what was chosen."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiments.dan_table2 import DAN, FLOOR, SOURCE_ONLY
from experiments.digits import BOTH_WAYS, PUBLISHED, TASKS, column_of
from experiments.framework.measurements import SPLITS, aggregate
from experiments.framework.records import Record
from experiments.framework.report import Drawn, Report
from experiments.framework.reporting.tables import (
    Table,
    dots,
    signed,
    tidy,
    told,
)
from experiments.jobs.digits import BATCH, FLOOR_IMAGES, HIDDEN, SET
from experiments.label_free_search import SEARCH_SEED, choose
from experiments.transfers import over_tasks, paper_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AIM = 95.0  # percent on the target, both ways


def with_means(records: Sequence[Record]) -> list[Record]:
    """The records, and for each run of both directions one more, `mean`."""
    return [*records, *over_tasks(records, [SET + task for task in BOTH_WAYS], "mean")]


class Accuracies:
    """Accuracies in percent: of(method, task, split) -> {seed: value}, for the splits of `framework.measurements`."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.table: dict[tuple[str, str, str], dict[int, float]] = {}
        self.seconds: dict[str, list[float]] = {}
        for record in records:
            if not record.get("selection"):
                continue
            for split, name in SPLITS.items():
                if record.get(name) is not None:
                    key = (record["method"], record["task"].removeprefix(SET), split)
                    self.table.setdefault(key, {})[record["seed"]] = 100 * record[name]
            if record.get("seconds") is not None:
                self.seconds.setdefault(record["method"], []).append(record["seconds"])

    def of(self, method: str, task: str, split: str = "target") -> dict[int, float]:
        return self.table.get((method, task, split), {})

    def mean(self, method: str, task: str, split: str = "target") -> float | None:
        values = self.of(method, task, split)
        return statistics.fmean(values.values()) if values else None

    def gain(self, method: str, task: str) -> float | None:
        """How far the method's mean on the target lies above source-only's."""
        ours, base = self.mean(method, task), self.mean(SOURCE_ONLY, task)
        return None if ours is None or base is None else ours - base

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(method for method, _, _ in self.table))

    @property
    def tasks(self) -> list[str]:
        return [task for task in TASKS if any(task == there for _, there, _ in self.table)]


def accuracy_table(records: Sequence[Record]) -> Table:
    """One row a method: each transfer's target and its test split, the mean over both directions, the gain over
    source-only; below a row that was published, the numbers of others."""
    found = Accuracies(records)
    headers = ["method"]
    for task in found.tasks:
        headers += [column_of(task), f"{column_of(task)}, test"]
    lines: list[list[str]] = []
    for method in found.methods:
        cells = [told(found.of(method, task, split)) for task in found.tasks for split in ("target", "test")]
        adapted = method not in (SOURCE_ONLY, FLOOR)
        gains = {task: gain for task in found.tasks if (gain := found.gain(method, task)) is not None}
        least = min(gains, key=gains.__getitem__) if gains and adapted else ""
        lines.append(
            [method, *cells, told(found.of(method, "mean")), signed(found.gain(method, "mean")) if adapted else "–"]
            + [f"{signed(gains[least])} ({column_of(least)})" if least else "–"]
            + [f"{statistics.fmean(found.seconds[method]):.0f}" if method in found.seconds else "–"]
            + ["/".join(map(str, sorted({len(found.of(method, task)) for task in found.tasks} - {0})))]
        )
        for made in PUBLISHED:
            table, theirs = paper_table(made.table), made.rows.get(method, "")
            beside = []
            for task in found.tasks:
                number = table.values.get(theirs, {}).get(made.columns.get(task, ""))
                error = table.errors.get(theirs, {}).get(made.columns.get(task, ""))
                beside += [
                    "–" if number is None else f"{number:.1f}" + ("" if error is None else f" ± {error:.1f}"),
                    "–",
                ]
            if set(beside) != {"–"}:
                lines.append([f"published: {theirs} ({made.network})", *beside, *["–"] * 5])
    return [*headers, "mean, both ways", "gain", "worst gain", "s a run", "n"], lines


def search_table(records: Sequence[Record]) -> Table:
    """What the search chose for each row."""
    lines = []
    for found in choose(records).values():
        for row, chosen in found.items():
            trade_off = "–" if row == SOURCE_ONLY else f"{chosen['trade_off']:g}"
            lines.append([row, trade_off, f"{chosen['lr']:g}", f"{chosen['score']:.3f}", str(chosen["tried"])])
    return ["row", "trade-off", "rate", "judged by, mean", "points tried"], lines


def findings(records: Sequence[Record]) -> list[str]:
    """Sentences that the records decide: is the aim reached, what does DAN gain, is source-only a fair base?"""
    found = Accuracies(records)
    said = []
    ways = {task: value for task in BOTH_WAYS if (value := found.mean(DAN, task)) is not None}
    if len(ways) == len(BOTH_WAYS):
        reached = "reached" if min(ways.values()) > AIM else "NOT reached"
        told = ", ".join(f"{value:.1f} on {column_of(task)}" for task, value in ways.items())
        said.append(f"DAN: {told}; the aim, above {AIM:.0f} both ways, is {reached}.")
        means = {method: value for method in found.methods if (value := found.mean(method, "mean")) is not None}
        best = max(means, key=means.__getitem__)
        said.append(f"The highest mean over both ways has {best}, {means[best]:.1f}; DAN has {means[DAN]:.1f}.")
    for task in found.tasks:
        base, floor, gain = found.mean(SOURCE_ONLY, task), found.mean(FLOOR, task), found.gain(DAN, task)
        if base is not None and gain is not None:
            said.append(f"{column_of(task)}: DAN gains {signed(gain)} points over source-only's {base:.1f}.")
        if base is not None and floor is not None and base < floor:
            said.append(f"{column_of(task)}: source-only ({base:.1f}) is BELOW logistic regression ({floor:.1f}).")
    return said


def captions(records: Sequence[Record]) -> list[str]:
    """How the numbers were made, and whose the others are."""
    trained = [record for record in records if record.get("selection") and "steps" in record]
    steps = sorted({record["steps"] for record in trained})
    searched = [record for record in records if record.get("phase") == "search"]
    search_steps = sorted({record["steps"] for record in searched})
    directions = dict.fromkeys(column_of(record["task"].removeprefix(SET)) for record in searched)
    told = [
        "Accuracy in percent, mean ± standard deviation over n seeds, of the model after the last step "
        f"({_listed(steps)} steps for every row; nothing is selected). A transfer's first column is all of the "
        "target's training set, which the methods see without labels; the second its test split, which nothing sees. "
        "gain: of the mean over both ways over source-only's; worst gain: of the transfer that gains least. s a run: "
        "seconds, evaluation included.",
        f"The network is LeNet, a hidden layer of {HIDDEN} and the logits, from random weights, by SGD on {BATCH} "
        f"source and (but source-only) {BATCH} target images a step. DAN compares LeNet's dense layer, the hidden one "
        "and the class probabilities. All rows of a seed start from the same weights and see the same source batches. "
        f"Logistic regression, the floor, is trained on the pixels of at most {FLOOR_IMAGES:,} source images.",
    ]
    if searched:
        told.append(
            f"Hyper-parameters: one set for all transfers, chosen without a target label on {', '.join(directions)}, "
            f"seed {SEARCH_SEED}, with {_listed(search_steps)} steps, fewer than the table's to save time. The rate, "
            "everybody's, is the one at which source-only has the lowest cross-entropy on the source's test split; "
            "each method's trade-off the one with the lowest mean of the error there + max(0, 1 - 2 err), err the "
            "held-out error of a classifier of domains on the hidden layer. DDC and QP weights take DAN's."
        )
    for made in PUBLISHED:
        if any(row[0].endswith(f"({made.network})") for row in accuracy_table(records)[1]):
            table = paper_table(made.table)
            told.append(
                f"Published, {made.network}: {table.source} ({table.provenance}); accuracy on the target, of which "
                "split is not said there; another network, preprocessing, length of training and selection, so it says "
                "what is usual and no more."
            )
    return told


def report_of(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    everything = with_means(records)
    figure = accuracy_figure(everything)
    caption = "All of the target: mean, and one dot a seed; the line is source-only's mean."
    return Report(
        title="Digits: MNIST, USPS and rendered fonts on LeNet",
        findings=findings(everything),
        tables=[
            ("Accuracy on the target", accuracy_table(everything)),
            ("What the label-free search chose", search_table(records)),
        ],
        figures=[] if figure is None else [Drawn("accuracy.png", figure, caption)],
        captions=captions(everything),
        rows=aggregate(everything),
    )


def accuracy_figure(records: Sequence[Record]) -> Figure | None:
    """Every method on each transfer, one dot a seed. None where nothing was trained."""
    from matplotlib.figure import Figure

    found = Accuracies(records)
    if not found.tasks:
        return None
    figure = Figure(figsize=(2.2 + 2.6 * len(found.tasks), 1.0 + 0.26 * len(found.methods)), layout="constrained")
    panels = figure.subplots(1, len(found.tasks), sharey=True, squeeze=False)[0]
    for axes, task in zip(panels, found.tasks, strict=True):
        base = found.mean(SOURCE_ONLY, task)
        if base is not None:
            axes.axvline(base, color="#cccccc", linewidth=1, zorder=1)
        for place, method in enumerate(found.methods):
            colour = {SOURCE_ONLY: "#888888", FLOOR: "#888888", DAN: "#222222"}.get(method, "#0072b2")
            values = list(found.of(method, task).values())
            if values:
                dots(axes, place, values, colour, (12, 30))
        axes.set_title(column_of(task), fontsize=9)
        axes.set_yticks(range(len(found.methods)), found.methods, fontsize=8)
        axes.set_xlabel("accuracy, %", fontsize=8)
        tidy(axes, "x")
    panels[0].invert_yaxis()
    return figure


def _listed(values: Sequence[object]) -> str:
    return " or ".join(map(str, values))
