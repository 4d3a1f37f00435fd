"""Digits: MNIST <-> USPS in full and rendered -> MNIST on LeNet, every loss in one table beside published rows.

1. search    hyper-parameters, one set for all transfers, without a target label, on MNIST <-> USPS, with fewer steps
             (see label_free_search)
2. table     every row on every transfer, the same steps for all, the model after the last one
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from dan.data.paths import cache_folder, data_folder
from experiments import method_tables as tables
from experiments.digits.trial import ALIGN, BATCH, FLOOR_IMAGES, HIDDEN, SET, adapt, floor, score
from experiments.framework.experiment import Cell, Experiment
from experiments.framework.options import check_least, check_names, check_samples
from experiments.framework.records import Record
from experiments.framework.report import Report
from experiments.framework.reporting.tables import each, mean_of
from experiments.framework.trials import Trial, slug
from experiments.label_free_search import SEARCH_CAPTION, SEARCH_SEED, Point, SearchOptions, search_table
from experiments.method_tables import DAN, FLOOR, SOURCE_ONLY, Part, Row, column_of
from experiments.tasks import folders_of, over_tasks

NETWORK = "lenet"
AIM = 95.0  # percent on the target, both ways
BOTH_WAYS = ("mnist2usps", "usps2mnist")  # searched on, whatever else is trained
TASKS = (*BOTH_WAYS, "rendered2mnist", "svhn2mnist", "mnist2mnistm", "mnist2svhn")
# Large sets that not everybody has: where the file is absent, transfers of the set are left out unless they are named.
OPTIONAL = {"svhn": "train_32x32.mat", "mnistm": "mnist_m"}
# The first that has a number stands in records; the page shows all.
PUBLISHED = (
    tables.Published(
        "digits_pytorch_ada",
        "3 convolutions",
        {SOURCE_ONLY: "Source-only", DAN: "DAN", "dann": "DANN", "cdan": "CDAN", "jan": "JAN"},
        {task: column_of(task) for task in ("mnist2usps", "svhn2mnist", "mnist2mnistm", "mnist2svhn")},
    ),
    tables.Published(
        "clue_svhn_mnist",
        "LeNet, before any label",
        {SOURCE_ONLY: "uniform + fine-tuning", "dann": "AADA (with DANN)"},
        {"svhn2mnist": "0"},
    ),
)


@dataclass(frozen=True)
class Digits(SearchOptions):
    """What is trained; a folder keeps one choice of these, and a finished trial is never run again."""

    NAME: ClassVar[str] = "digits"
    QUICK: ClassVar[dict[str, Any]] = {
        "tasks": ("usps2mnist",),
        "methods": (SOURCE_ONLY, DAN),
        "seeds": (0,),
        "steps": 20,
        "search_steps": 5,
        "samples": 500,
    }
    RATES: ClassVar[tuple[float, ...]] = (0.01, 0.03, 0.1)

    tasks: tuple[str, ...] = ()
    """these transfers only, such as usps2mnist (default: all whose sets are in the folder)"""
    steps: int = 1500
    """training steps of every row"""
    search_steps: int = 500
    """training steps of every point of the search"""
    samples: int = 0
    """at most so many images of each split, evenly spaced (0: all)"""

    def check(self) -> None:
        """The data are decoded here, once."""
        from dan.data.digit_sets import COUNTS, Split, digit_set

        super().check()
        check_names("tasks", self.tasks, TASKS)
        check_names("methods", self.methods, [FLOOR, *rows()])
        check_least(self, "search_steps")
        check_samples(self, "samples")
        data, cache = data_folder(self.data), cache_folder(self.image_cache)
        needed = {side for task in (*tasks_of(self), *searched_tasks(self)) for side in task.split("2")}
        splits: tuple[Split, ...] = ("train", "test")
        for name in COUNTS:
            for split in splits if name in needed else ():
                digit_set(name, split, data, cache=cache, download=False, quiet=self.quiet)
        if not self.quiet and not self.tasks and len(tasks_of(self)) < len(TASKS):
            left = [column_of(task) for task in TASKS if task not in tasks_of(self)]
            print(f"left out, for their sets are not in {data}: {', '.join(left)} (see docs/data.md)", file=sys.stderr)

    def search_rows(self) -> dict[str, list[str]]:
        listed = dict.fromkeys(rows()[row].searched for row in rows_of(self) if row != FLOOR)
        return {NETWORK: list(dict.fromkeys([SOURCE_ONLY, *listed]))} if listed else {}

    def search_trials(self, point: Point) -> dict[str, Trial]:
        _, row, trade_off, rate = point
        arguments = {"place": place_of(self), "how": rows()[row].how | {"lr": rate}, "trade_off": trade_off}
        arguments |= {"steps": self.search_steps, "seed": SEARCH_SEED}
        name = f"search-{{}}-{slug(row)}-{trade_off:g}-{rate:g}"
        return {SET + t: Trial(name.format(t), score, {**arguments, "task": t}) for t in searched_tasks(self)}


def rows() -> dict[str, Row]:
    """Every row that is trained: source-only, those of MMD, then each further method.

    All are given the same layers; those that compare a single one (ddc, dann, cdan) take the last hidden one.
    """
    of_mmd = {
        SOURCE_ONLY: Row("dan", ALIGN, searched=SOURCE_ONLY),  # trade-off 0: no method
        "DDC": Row("ddc", ALIGN),
        DAN: Row("dan", ALIGN),
        "DAN, QP weights": Row("dan", ALIGN, {"kernel_weights": "qp"}),
    }
    return of_mmd | tables.further_rows(ALIGN)


def rows_of(config: Digits) -> list[str]:
    """The rows of the table, in order."""
    return [row for row in (FLOOR, *rows()) if not config.methods or row in config.methods]


def tasks_of(config: Digits) -> list[str]:
    """The transfers that are trained, in order: those named, or all whose sets are there."""
    data = data_folder(config.data)
    absent = {name for name, file in OPTIONAL.items() if not (data / file).exists()}
    return [task for task in TASKS if (task in config.tasks if config.tasks else not absent & set(task.split("2")))]


def searched_tasks(config: Digits) -> list[str]:
    """The transfers of the search: always both directions, so that one cell trained alone has the table's settings."""
    if config.search is not None:
        return []
    return tasks_of(config) if config.quick else list(BOTH_WAYS)


def place_of(config: Digits) -> dict[str, Any]:
    """Where the data lie, as `trial.DigitsData` has it."""
    return {**folders_of(config), "samples": config.samples}


def trials_of(task: str, row: str, config: Digits) -> list[Trial]:
    """The trials of one cell of the table: one a seed; one in all for logistic regression, which draws nothing."""
    arguments, name = {"place": place_of(config), "task": task}, f"{task}-{slug(row)}"
    if row == FLOOR:
        return [Trial(name, floor, arguments)]
    return config.trials(name, adapt, arguments, rows()[row].how, config.chosen[NETWORK][rows()[row].searched])


def published(row: str, task: str) -> Record:
    """What a record says of the first published number of its cell."""
    found = (table.record(row, task) for table in PUBLISHED if table.number(row, task) is not None)
    return next(found, {"paper": None, "provenance": ""})


def cells(config: Digits) -> list[Cell]:
    """One cell a transfer and row; a transfer's are all run before those of the next."""
    made = []
    for task, row in ((task, row) for task in tasks_of(config) for row in rows_of(config)):
        about = {"task": SET + task, "network": "pixels" if row == FLOOR else NETWORK, "method": row, "labels": 0}
        only = {"tasks": task, "methods": row, "search": config.search_of_cells}
        trials = trials_of(task, row, config)
        made.append(Cell(about=about | published(row, task), only=only, trials=trials, part=task))
    return made


# --- the report -------------------------------------------------------------------------------------------------------


def report(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    everything = [*records, *over_tasks(records, [SET + task for task in BOTH_WAYS], "mean")]
    trained = [record for record in records if record.get("selection")]
    tasks = [task for task in TASKS if any(record["task"] == SET + task for record in trained)]
    part = Part("Digits", everything, tasks, SET, PUBLISHED, splits=("target", "test"))
    ways = {task: value for task in BOTH_WAYS if (value := mean_of(part.of(DAN, task))) is not None}
    said = "; ".join(f"{value:.1f} on {column_of(task)}" for task, value in ways.items())
    missed = "" if ways and min(ways.values()) > AIM else "not "
    aim = [f"DAN: {said}; the aim, above {AIM:.0f} both ways, is {missed}reached."] if len(ways) == 2 else []
    return tables.report_of(
        "Digits: MNIST, USPS and rendered fonts on LeNet",
        [part],
        everything,
        findings=aim,
        more=[("What the label-free search chose", search_table(records))],
        captions=[
            f"{each(trained, 'steps')} steps for every row. A transfer's first column is the target's training set, "
            "which the methods see without labels; the second its test split, which nothing sees. The mean is over "
            "both ways of MNIST and USPS.",
            f"LeNet, a hidden layer of {HIDDEN} and the logits, from random weights, {BATCH} images of each domain a "
            "step. DAN compares LeNet's dense layer, the hidden one and the class probabilities. Logistic regression "
            f"is trained on the pixels of at most {FLOOR_IMAGES:,} source images.",
            f"{SEARCH_CAPTION} Searched on both ways of MNIST and USPS; DDC and QP weights take DAN's.",
        ],
    )


EXPERIMENT = Experiment(
    options=Digits,
    summary="MNIST <-> USPS and rendered -> MNIST on LeNet, every loss in one table",
    cells=cells,
    report=report,
    records=tables.records_of,
)
