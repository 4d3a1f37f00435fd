"""The layout of the DAN paper's Table 3 on the 10-class set: a part of the source, a few target labels or none.

L = CE(source) + CE(labelled target, if any) + lambda * alignment
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from dan.errors import UserError
from experiments import office_caltech10 as office
from experiments.framework.experiment import Cell, Experiment, grid
from experiments.framework.measurements import Row, aggregate
from experiments.framework.options import check_names
from experiments.framework.records import Record
from experiments.framework.report import Drawn, Report
from experiments.framework.reporting.panels import grouped_bars
from experiments.framework.reporting.tables import Table, told
from experiments.framework.trials import slug
from experiments.method_tables import COLOURS, DAN, SOURCE_ONLY, Published, column_of, office_columns
from experiments.office_caltech10 import NETWORK, TenClass
from experiments.office_caltech10.trial import SET, Setup, load_train_config
from experiments.tasks import over_tasks, paper_table

COLUMNS = ("a2w", "d2w", "w2d")  # in the paper's order
CLASSES = 10
# Labelled source images a class, as the down-sampled protocol of Office-31 has them.
SOURCE_PER_CLASS = {"a": 20, "d": 8, "w": 8}
SEMI = "semi-supervised"
# The lines of the table: which row of dan_table2 each trains, and whether with the target's few labels.
METHODS = {
    f"unsupervised {SOURCE_ONLY}": (SOURCE_ONLY, False),
    "unsupervised DDC": ("DDC", False),
    "unsupervised DAN": (DAN, False),
    f"{SEMI} without alignment": (SOURCE_ONLY, True),
    f"{SEMI} DDC": ("DDC", True),
    f"{SEMI} DAN": (DAN, True),
}
PAPER = Published(
    "dan2015_table3_office31_classic",
    "AlexNet, 31 classes",
    {method: method for method in METHODS},
    office_columns(COLUMNS),
    note="; AlexNet and 31 classes there, 10-class here",
)


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


def few_labels(
    _folder: Path,
    *,
    place: dict[str, Any],
    transfer: str,
    how: dict[str, Any],
    steps: int,
    seed: int,
    source_per_class: int,
    labels_per_class: int,
    labelled: bool,
    **settings: Any,
) -> dict[str, Any]:
    """A trial: train on a part of the source and, if `labelled`, on the labels of a few target images a class.

    Both are drawn by the seed. Scored on all target images and on those that are not drawn ("unqueried"), which are the
    same for all trials of a seed, whether they use the labels or not.
    """
    import torch
    from torch.utils.data import Subset

    from dan.data.batches import derived_seed
    from dan.data.semi_supervised import few_a_class
    from dan.evaluation.metrics import predict

    setup = Setup(**place)
    task = setup.task(transfer)
    model = setup.network(task, seed)
    draws = [torch.Generator().manual_seed(derived_seed(seed, stream)) for stream in (10, 11)]
    of_source = few_a_class(task.source.targets, source_per_class, draws[0])
    of_target = few_a_class(task.target.targets, labels_per_class, draws[1])
    settings |= {"labelled_target": Subset(task.target, of_target.tolist()) if labelled else None}
    settings |= {"config": load_train_config(how, steps), "steps": steps, "seed": seed}
    (evaluation,) = setup.fit(model, Subset(task.source, of_source.tolist()), task.target, **settings)
    output, y = predict(model, setup.outputs(task.target, model), start=model.cached_stages)
    right = (output.logits.argmax(1) == y).double()
    rest = torch.ones(len(y), dtype=torch.bool)
    rest[of_target] = False
    evaluation |= {"accuracy/target": float(right.mean()), "accuracy/unqueried": float(right[rest].mean())}
    evaluation |= {"source_samples": len(of_source), "unqueried_samples": int(rest.sum())}
    return {"evaluations": [evaluation], **setup.provenance()}


def cells(config: SemiSupervised) -> list[Cell]:
    """A seed also draws the source's part and the labelled target images."""
    made = []
    for only, (transfer, method) in grid(config, "transfers", "methods"):
        row, labelled = METHODS[method]
        more = {"source_per_class": SOURCE_PER_CLASS[transfer[0]], "labels_per_class": config.labels_per_class}
        trials = office.training(slug(method), few_labels, transfer, row, config, **more, labelled=labelled)
        labels = CLASSES * config.labels_per_class * labelled
        made.append(office.cell_of(only, transfer, method, trials, labels=labels, **PAPER.record(method, transfer)))
    return made


# --- the report -------------------------------------------------------------------------------------------------------


def with_means(records: Sequence[Record]) -> list[Record]:
    """The records, and one more, task `mean`, for each method and seed that has all columns of the paper."""
    splits = ("accuracy/target", "accuracy/unqueried")
    means = over_tasks(records, [SET + column for column in COLUMNS], "mean", splits)
    return [*records, *(mean | {"paper": PAPER.number(mean["method"], "mean")} for mean in means)]


def csv_rows(records: Sequence[Record]) -> list[Row]:
    """Rows of table.csv: a semi-supervised number of the paper's belongs to the images without a label."""
    paper = {(record["method"], record["task"]): record["paper"] for record in records}
    made = []
    for row in aggregate(records):
        split = "unqueried" if row.method.startswith(SEMI) else "target"
        beside = row.metric == "accuracy" and row.split == split
        made.append(replace(row, paper=paper[row.method, row.task] if beside else None))
    return made


def accuracy_table(records: Sequence[Record]) -> Table:
    """Our rows in the paper's columns, on the images that no row has a label of; the paper's below."""
    found = office.measured(with_means(records), "accuracy/unqueried", 100)
    labels = {record["method"]: record["labels"] for record in records}
    rows = []
    for method in (method for method in METHODS if method in labels):
        values = [found.get((NETWORK, method, column), {}) for column in (*COLUMNS, "mean")]
        seeds = sorted({len(by_seed) for by_seed in values} - {0})
        rows.append([method, str(labels[method]), *map(told, values), "/".join(map(str, seeds))])
        theirs = PAPER.line(method, [(column, "target") for column in COLUMNS], "mean")
        if theirs:
            rows.append([theirs[0], "3 a class" if labels[method] else "0", *theirs[1:5], ""])
    return ["method", "target labels", *map(column_of, COLUMNS), "mean", "n"], rows


def findings(records: Sequence[Record]) -> list[str]:
    """What the labels give, and what DAN gives on top of them, as means over the columns that are there."""
    found = office.measured(records, "accuracy/unqueried", 100)
    columns = [c for c in COLUMNS if all((NETWORK, method, c) in found for method in METHODS)]
    said = []
    for kind in ("unsupervised", SEMI) if columns else ():
        means = {
            m: [statistics.fmean(found[NETWORK, m, c].values()) for c in columns] for m in METHODS if m.startswith(kind)
        }
        listed = (f"{m.removeprefix(kind + ' ')} {statistics.fmean(values):.1f}" for m, values in means.items())
        said.append(f"{kind.capitalize()}, mean of {', '.join(map(column_of, columns))}: {', '.join(listed)}.")
    return said


def report(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    found = office.measured(records, "accuracy/unqueried", 100)
    few = " or ".join(str(n // CLASSES) for n in sorted({record["labels"] for record in records} - {0})) or "a few"
    columns = [column for column in COLUMNS if any(column == transfer for _, _, transfer in found)]
    bars = {office.title_of(c): {m: list(found.get((NETWORK, m, c), {}).values()) for m in METHODS} for c in columns}
    colours = {method: COLOURS[row] for method, (row, _) in METHODS.items()}
    styles = {m: {"edgecolor": colours[m], "facecolor": colours[m] if METHODS[m][1] else "white"} for m in METHODS}
    lowest = min((value for group in bars.values() for values in group.values() for value in values), default=0.0)
    figure = grouped_bars(bars, styles, y="accuracy, %", begin=max(0, (lowest - 5) // 10 * 10))
    caption = (
        "Accuracy, 10-class, on target images without a label in any row: mean, one dot a seed. Full: with labels."
    )
    return Report(
        title="Office-10 + Caltech-10: a few labelled target samples",
        findings=findings(records),
        tables=[("10-class, on the target images that no row has a label of", accuracy_table(records))],
        figures=[Drawn("semi_supervised.png", figure, caption)],
        captions=[
            "Accuracy in percent, mean ± standard deviation over n seeds. Each seed draws 20 source images a class of "
            f"amazon, 8 of dslr and webcam, and {few} target images a class, the same for all rows. Rows that align "
            "see all target images without labels.",
            f"The paper's rows: {paper_table(PAPER.table).source}: AlexNet, fine-tuned, 31 classes; here 10-class, the "
            "backbone frozen, so they show the layout and the size of a gain, and are no number to reach.",
            *office.shared_captions(records),
        ],
        rows=csv_rows(with_means(records)),
    )


EXPERIMENT = Experiment(
    options=SemiSupervised,
    summary="Table 3's layout, 10-class: a few target labels a class",
    cells=cells,
    report=report,
)
