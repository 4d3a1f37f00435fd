"""The layout of the DAN paper's Table 3 on the 10-class set: a part of the source, a few target labels or none.

L = CE(source) + CE(labelled target, if any) + lambda * alignment
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from dan.errors import UserError
from experiments.dan_table2 import DAN, SOURCE_ONLY, column_of
from experiments.framework.experiment import Cell, Experiment, grid
from experiments.framework.measurements import Row, aggregate
from experiments.framework.options import check_names
from experiments.framework.records import Record
from experiments.framework.report import Drawn, Report
from experiments.framework.reporting.tables import Table, legend_above, mean_of, tidy, told
from experiments.framework.trials import slug
from experiments.jobs.dan_table2 import SET, Place, load_train_config
from experiments.office_caltech10 import (
    NETWORK,
    TenClass,
    about,
    measured,
    provenance_of,
    shared_captions,
    training,
)
from experiments.transfers import paper_table, provenance

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

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

    NAME: ClassVar[str] = "semi_supervised"
    KNOWN: ClassVar[tuple[str, ...]] = COLUMNS

    transfers: tuple[str, ...] = COLUMNS
    """these columns only"""
    methods: tuple[str, ...] = tuple(METHODS)
    """these rows only"""
    labels_per_class: int = 3
    """labelled target images of each class"""
    trade_off: float | None = None
    """lambda of DDC and of DAN (default: what the search chose for DAN)"""

    def check(self) -> None:
        super().check()
        check_names("methods", self.methods, list(METHODS), some=True)
        if not 1 <= self.labels_per_class <= 7:
            raise UserError(f"--labels-per-class must be from 1 to 7 (dslr has 8 mugs), not {self.labels_per_class}")


def drawn(labels: Tensor, per_class: int, seed: int) -> Tensor:
    """`per_class` positions of each class, in rising order: labels (N,) -> (classes * per_class,).

    A function of its arguments alone. Raises UserError where a class has fewer samples.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero().flatten()
        if len(rows) < per_class:
            raise UserError(f"{per_class} samples of each class were asked for: class {label} has {len(rows)}")
        chosen.append(rows[torch.randperm(len(rows), generator=generator)[:per_class]])
    return torch.cat(chosen).sort().values


def few_labels(
    _folder: Path,
    *,
    place: dict[str, Any],
    transfer: str,
    how: dict[str, Any],
    trade_off: float,
    steps: int,
    seed: int,
    source_per_class: int,
    labels_per_class: int,
    labelled: bool,
) -> dict[str, Any]:
    """A trial: train on a part of the source and, if `labelled`, on the labels of a few target images a class.

    Both are drawn by the seed. Scored on all target images and on those that are not drawn ("unqueried"), which are the
    same for all trials of a seed, whether they use the labels or not.
    """
    import torch
    from torch.utils.data import Subset

    from dan.data.batches import derived_seed
    from dan.evaluation.metrics import predict
    from dan.training.trainer import fit

    where = Place(**place)
    task = where.task(transfer)
    model = where.network(task, seed)
    of_source = drawn(task.source.targets, source_per_class, derived_seed(seed, 10))
    of_target = drawn(task.target.targets, labels_per_class, derived_seed(seed, 11))
    (evaluation,) = fit(
        model,
        Subset(task.source, of_source.tolist()),
        task.target,
        labelled_target=Subset(task.target, of_target.tolist()) if labelled else None,
        trade_off=trade_off,
        steps=steps,
        seed=seed,
        config=load_train_config(how, steps),
        cache=where.backbones,
    )
    output, y = predict(model, where.outputs(task.target, model), start=model.cached_stages)
    right = (output.logits.argmax(1) == y).double()
    rest = torch.ones(len(y), dtype=torch.bool)
    rest[of_target] = False
    evaluation |= {"accuracy/target": float(right.mean()), "accuracy/unqueried": float(right[rest].mean())}
    evaluation |= {"source_samples": len(of_source), "unqueried_samples": int(rest.sum())}
    return {"evaluations": [evaluation], **provenance_of(where)}


def cells(config: SemiSupervised) -> list[Cell]:
    """A seed also draws the source's part and the labelled target images."""
    made = []
    for only, (transfer, method) in grid(config, "transfers", "methods"):
        row, labelled = METHODS[method]
        more = {"source_per_class": SOURCE_PER_CLASS[transfer[0]], "labels_per_class": config.labels_per_class}
        more |= {"labelled": labelled}
        trials = [training(slug(method), few_labels, transfer, row, config, seed, **more) for seed in config.seeds]
        told = {"labels": CLASSES * config.labels_per_class * labelled, **paper_of(method, transfer)}
        told |= {"trade_off": trials[0].arguments["trade_off"]}
        made.append(Cell(about=about(transfer, method) | told, only=only, trials=trials))
    return made


def paper_of(method: str, transfer: str) -> Record:
    """What a record says of the paper's number, where there is one."""
    paper = paper_table(PAPER)
    number = paper.values.get(method, {}).get(column_of(transfer))
    if number is None:
        return {"paper": None, "provenance": ""}
    return {"paper": number, "provenance": f"{provenance(paper, method)}; AlexNet and 31 classes there, 10-class here"}


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


def report_of(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    per_class = sorted({record["labels"] // CLASSES for record in records} - {0})
    few = " or ".join(map(str, per_class)) or "a few"
    caption = (
        "Accuracy, 10-class, on the target images that no row has a label of: mean and one dot a seed. "
        "Hollow: unsupervised; full: semi-supervised."
    )
    paper = paper_table(PAPER)
    return Report(
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


EXPERIMENT = Experiment(
    options=SemiSupervised,
    summary="Table 3's layout, 10-class: a few target labels a class",
    cells=cells,
    report=report_of,
)
