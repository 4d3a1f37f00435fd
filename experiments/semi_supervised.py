"""The layout of the DAN paper's Table 3 on the 10-class set: a part of the source, a few target labels or none.

L = CE(source) + CE(labelled target, if any) + lambda * alignment
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

if __package__ in (None, ""):  # python experiments/semi_supervised.py puts this folder on the path, and not its parent
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from dan.cli.command_line import Command, run
from dan.errors import UserError
from experiments.dan_table2 import DAN, SOURCE_ONLY, column_of
from experiments.jobs.dan_table2 import SET
from experiments.records import Record, Row, aggregate, read
from experiments.reporting.tables import Drawn, Table, legend_above, mean_of, tidy, told, write_report
from experiments.running import check_names, reduced
from experiments.ten_class import (
    NETWORK,
    TenClass,
    check,
    measured,
    record_of,
    resolved,
    run_cells,
    shared_captions,
    training,
)
from experiments.transfers import paper_table, provenance
from experiments.trials import Trial, slug

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "semi_supervised"
PAPER = "dan2015_table3_office31_classic"
COLUMNS = ("a2w", "d2w", "w2d")  # in the paper's order
CLASSES = 10
# Labelled source images a class, as the down-sampled protocol of Office-31 has them.
SOURCE_PER_CLASS = {"a": 20, "d": 8, "w": 8}
SEMI = "semi-supervised"


class Line(NamedTuple):
    """A line of the table: which row of dan_table2 it trains, and whether with the target's few labels."""

    row: str
    labelled: bool


METHODS = {
    f"unsupervised {SOURCE_ONLY}": Line(SOURCE_ONLY, False),
    "unsupervised DDC": Line("DDC", False),
    "unsupervised DAN": Line(DAN, False),
    f"{SEMI} without alignment": Line(SOURCE_ONLY, True),
    f"{SEMI} DDC": Line("DDC", True),
    f"{SEMI} DAN": Line(DAN, True),
}


@dataclass(frozen=True)
class SemiSupervised(TenClass):
    """What is trained; a folder keeps one choice of these, and a finished trial is never run again."""

    NAME: ClassVar[str] = NAME

    out: Path = Path(f"runs/{NAME}")
    """folder of the trials, records and report"""
    transfers: tuple[str, ...] = COLUMNS
    """these columns only"""
    methods: tuple[str, ...] = tuple(METHODS)
    """these rows only"""
    labels_per_class: int = 3
    """labelled target images of each class"""
    trade_off: float | None = None
    """lambda of DDC and of DAN (default: what the search chose for DAN)"""


def cell(transfer: str, method: str, config: SemiSupervised) -> list[Trial]:
    """One trial a seed, which also draws the source's part and the labelled target images."""
    row, labelled = METHODS[method]
    draws = {"source_per_class": SOURCE_PER_CLASS[transfer[0]], "labels_per_class": config.labels_per_class}
    more = {**draws, "labelled": labelled}
    return [training(slug(method), "few_labels", transfer, row, config, seed, **more) for seed in config.seeds]


def run_semi_supervised(config: SemiSupervised) -> int:
    """Train what is missing and make the report; exit code 1 if a trial failed."""
    config, chosen_by = resolved(reduced(config))
    check(config, known_transfers=COLUMNS)
    check_names("methods", config.methods, list(METHODS), some=True)
    if not 1 <= config.labels_per_class <= 7:
        raise UserError(f"--labels-per-class must be from 1 to 7 (dslr has 8 mugs), not {config.labels_per_class}")
    cells = [
        (about_cell(transfer, method, config, chosen_by), cell(transfer, method, config))
        for transfer in config.transfers
        for method in config.methods
    ]
    return run_cells(config, cells, report)


def about_cell(transfer: str, method: str, config: SemiSupervised, chosen_by: str) -> Record:
    """What every record of a cell says, the paper's number beside it where it has one."""
    about = record_of(config, transfer, method, chosen_by, methods=method)
    about |= {"labels": CLASSES * config.labels_per_class * METHODS[method].labelled}
    paper = paper_table(PAPER)
    number = paper.values.get(method, {}).get(column_of(transfer))
    if number is None:
        return about
    told_of_paper = f"{provenance(paper, method)}; AlexNet and 31 classes there, 10-class here"
    return about | {"paper": number, "provenance": told_of_paper}


# --- the report -------------------------------------------------------------------------------------------------------


def with_means(records: Sequence[Record]) -> list[Record]:
    """The records, and one more, task `mean`, for each method and seed that has all columns of the paper."""
    groups: dict[tuple[str, int], dict[str, Record]] = {}
    for record in records:
        if record["selection"]:
            groups.setdefault((record["method"], record["seed"]), {})[record["task"].removeprefix(SET)] = record
    means = []
    for (method, _), by_column in groups.items():
        if set(by_column) >= set(COLUMNS):
            parts = [by_column[column] for column in COLUMNS]
            number = paper_table(PAPER).values.get(method, {}).get("Avg")
            mean = {**parts[0], "task": "mean", "paper": number, "seconds": None, "command": parts[0]["command_of_all"]}
            for name in ("accuracy/target", "accuracy/unqueried"):
                mean[name] = statistics.fmean(part[name] for part in parts)
            means.append(mean)
    return [*records, *means]


def table_rows(records: Sequence[Record]) -> list[Row]:
    """Rows of table.csv: a semi-supervised number of the paper's belongs to the images without a label."""
    rows = aggregate(records)
    paper = {(record["method"], record["task"]): record["paper"] for record in records}
    made = []
    for row in rows:
        split = "unqueried" if row.method.startswith(SEMI) else "target"
        told_there = row.metric == "accuracy" and row.split == split
        made.append(replace(row, paper=paper[row.method, row.task] if told_there else None))
    return made


def accuracy_table(records: Sequence[Record], split: str = "unqueried") -> Table:
    """Our rows in the paper's columns; its numbers are beside "unqueried", the images that no row has a label of."""
    found = measured(with_means(records), f"accuracy/{split}", 100)
    paper = paper_table(PAPER).values
    labels = {record["method"]: record["labels"] for record in records}
    rows = []
    for method in (method for method in METHODS if method in labels):
        keys = [(NETWORK, method, column) for column in (*COLUMNS, "mean")]
        seeds = {len(found.get(key, {})) for key in keys} - {0}
        rows.append([method, str(labels[method]), *(told(found.get(key)) for key in keys)])
        rows[-1].append("/".join(map(str, sorted(seeds))))
        if method in paper and split == "unqueried":
            numbers = [paper[method].get(column) for column in (*map(column_of, COLUMNS), "Avg")]
            cells = ["–" if number is None else f"{number:.1f}" for number in numbers]
            rows.append([f"paper's {method} (AlexNet, 31 classes)", "" if labels[method] == 0 else "3 a class", *cells])
            rows[-1].append("")
    return ["method", "target labels", *map(column_of, COLUMNS), "mean", "n"], rows


def findings(records: Sequence[Record]) -> list[str]:
    """What the labels give, and what the alignment gives on top of them, as means over the columns that are there."""
    found = measured(records, "accuracy/unqueried", 100)
    columns = [c for c in COLUMNS if all((NETWORK, method, c) in found for method in METHODS)]
    if not columns:
        return []

    def mean(method: str) -> float:
        return statistics.fmean(mean_of(found[NETWORK, method, column]) or 0.0 for column in columns)

    base, labels = mean(f"unsupervised {SOURCE_ONLY}"), mean(f"{SEMI} without alignment")
    dan, both = mean("unsupervised DAN"), mean(f"{SEMI} DAN")
    where = ", ".join(map(column_of, columns))
    return [
        f"10-class, mean of {where}: source-only {base:.1f}; DAN without a target label {dan:.1f}; the labels without "
        f"alignment {labels:.1f}; DAN with the labels {both:.1f}."
    ]


def figure_of(records: Sequence[Record]) -> Figure:
    """A group of bars a column: without target labels hollow, with them full; one dot a seed."""
    from matplotlib.figure import Figure

    found = measured(records, "accuracy/unqueried", 100)
    shown = [method for method in METHODS if method in {m for _, m, _ in found}]
    columns = [column for column in COLUMNS if column in {t for _, _, t in found}]
    paint = {SOURCE_ONLY: "#888888", "DDC": "#0072b2", DAN: "#222222"}
    figure = Figure(figsize=(2.6 + 2.4 * len(columns), 3.9), layout="constrained")
    axes = figure.subplots()
    width, lowest = 0.84 / len(shown), 100.0
    for i, method in enumerate(shown):
        row, labelled = METHODS[method]
        for group, column in enumerate(columns):
            seeds = list(found.get((NETWORK, method, column), {}).values())
            if seeds:
                place = group + (i - (len(shown) - 1) / 2) * width
                height, label = statistics.fmean(seeds), None if group else method
                fill = paint[row] if labelled else "white"
                axes.bar(place, height, 0.84 * width, color=fill, edgecolor=paint[row], linewidth=1.5, label=label)
                spots = [place + 0.15 * width * (k - (len(seeds) - 1) / 2) for k in range(len(seeds))]
                axes.scatter(spots, seeds, s=14, color=paint[row], edgecolors="white", linewidths=0.6, zorder=3)
                lowest = min(lowest, *seeds)
    left = max(0, int((lowest - 5) // 10 * 10))
    axes.set_ylim(left, 100)
    axes.set_ylabel("accuracy, %" + (f"  (axis from {left})" if left else ""))
    axes.set_xticks(range(len(columns)), [f"{column_of(column)}, 10-class" for column in columns])
    legend_above(figure, axes, 2)
    tidy(axes, "y")
    return figure


def report(folder: Path) -> Path:
    """Make the tables, the figure and the page again from the folder's records; the path of the page."""
    records = read(folder / "records.jsonl")
    per_class = sorted({record["labels"] // CLASSES for record in records} - {0})
    few = " or ".join(map(str, per_class)) or "a few"
    caption = (
        "Accuracy, 10-class, on the target images that no row has a label of: mean and one dot a seed. "
        "Hollow: unsupervised; full: semi-supervised."
    )
    paper = paper_table(PAPER)
    return write_report(
        folder,
        with_means(records),
        title="Office-10 + Caltech-10: a few labelled target samples",
        findings=findings(records),
        tables=[
            ("10-class, on the target images that no row has a label of", accuracy_table(records)),
            ("10-class, on all target images, the labelled ones too", accuracy_table(records, "target")),
        ],
        figures=[Drawn("semi_supervised.png", figure_of(records), caption)],
        captions=[
            "Accuracy in percent, mean ± standard deviation over n seeds, of the model after the last step. Each seed "
            "draws 20 source images a class of amazon, 8 of dslr and webcam, and "
            f"{few} target images a class; every row of the seed has the same draw. Semi-supervised rows learn the "
            "labels of those target images, rows that align see all target images without labels, and the first table "
            "scores all rows on the same images: those that were not drawn.",
            f"The paper's rows: {paper.source} ({paper.provenance}): AlexNet, fine-tuned, 31 classes; here 10-class, "
            "the trunk frozen, so they show the layout and the size of a gain, and are no number to reach.",
            *shared_captions(records),
        ],
        rows=table_rows(with_means(records)),
    )


COMMAND = Command(SemiSupervised, run_semi_supervised, "Table 3's layout, 10-class: a few target labels a class")

if __name__ == "__main__":
    # By its own name, so that the module that reports and the one that trains are the same.
    from experiments.semi_supervised import COMMAND as ITSELF

    sys.exit(run(f"experiments/{NAME}.py", "DAN's Table 3.", {NAME: ITSELF}, [NAME, *sys.argv[1:]]))
