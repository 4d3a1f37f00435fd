"""Digits: MNIST <-> USPS in full and rendered -> MNIST on LeNet, every loss in one table beside published rows.

1. search    hyper-parameters, one set for all transfers, without a target label, on MNIST <-> USPS, with fewer steps
             and a seed that is not reported:
                 rate         the lowest mean over both directions of source-only's cross-entropy on held-out source
                 trade-off    the lowest mean of   err_source + max(0, 1 - 2 err_two_sample)
2. table     every row on every transfer, the same steps for all, the model after the last one
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dan.cli.command_line import Command
from dan.data.digit_sets import COUNTS, Split, digit_set
from dan.data.paths import cache_folder, data_folder
from experiments.dan_table2 import DAN, FLOOR, SOURCE_ONLY, Row
from experiments.framework.options import (
    Options,
    check_least,
    check_names,
    check_runs,
    check_samples,
    reduced,
    words_of,
)
from experiments.framework.records import Record, read
from experiments.framework.report import write_report
from experiments.framework.runner import run_experiment
from experiments.framework.trials import Trial, slug
from experiments.jobs import digits as jobs
from experiments.jobs.digits import ALIGN, SET
from experiments.label_free_search import (
    SEARCH_SEED,
    Point,
    Searched,
    check_reported,
    choose,
    earlier,
    records_of,
    search,
)
from experiments.transfers import folders_of, paper_table, provenance

NAME = "digits"
NETWORK = "lenet"

BOTH_WAYS = ("mnist2usps", "usps2mnist")  # searched on, whatever else is trained
TASKS = (*BOTH_WAYS, "rendered2mnist", "svhn2mnist", "mnist2mnistm", "mnist2svhn")
# Large sets that not everybody has: where the file is absent, transfers of the set are left out unless asked for.
OPTIONAL = {"svhn": "train_32x32.mat", "mnistm": "mnist_m"}


@dataclass(frozen=True)
class Published:
    """A table in experiments/paper_tables, its network, its row for each of ours and its column for a transfer."""

    table: str
    network: str
    rows: dict[str, str]
    columns: dict[str, str]


# The first that has a number stands in records; the page shows all.
PUBLISHED = (
    Published(
        "digits_pytorch_ada",
        "3 convolutions",
        {SOURCE_ONLY: "Source-only", DAN: "DAN", "dann": "DANN", "cdan": "CDAN", "jan": "JAN"},
        {
            "mnist2usps": "MNIST->USPS",
            "svhn2mnist": "SVHN->MNIST",
            "mnist2mnistm": "MNIST->MNIST-M",
            "mnist2svhn": "MNIST->SVHN",
        },
    ),
    Published(
        "clue_svhn_mnist",
        "LeNet, before any label",
        {SOURCE_ONLY: "uniform + fine-tuning", "dann": "AADA (with DANN)"},
        {"svhn2mnist": "0"},
    ),
)

RATES = (0.01, 0.03, 0.1)


@dataclass(frozen=True)
class Digits(Options):
    """What is trained; a folder keeps one choice of these, and a finished trial is never run again."""

    NAME: ClassVar[str] = NAME
    QUICK: ClassVar[dict[str, Any]] = {
        "tasks": ("usps2mnist",),
        "methods": (SOURCE_ONLY, DAN),
        "seeds": (0,),
        "steps": 20,
        "search_steps": 5,
        "samples": 500,
    }

    tasks: tuple[str, ...] = ()
    """these transfers only, such as usps2mnist (default: all whose sets are in the folder)"""
    methods: tuple[str, ...] = ()
    """these rows only (default: all)"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """one run of everything for each"""
    steps: int = 1500
    """training steps of every row"""
    search_steps: int = 500
    """training steps of every point of the search"""
    samples: int = 0
    """at most so many images of each split, evenly spaced (0: all)"""
    search: Path | None = None
    """folder of an earlier run, whose search is taken instead of making one"""


def command_of(config: Digits, **only: str) -> str:
    """As `framework.options.command_of`, and --search is told, whose choice decides the numbers; in single quotes,
    as published."""
    return shlex.join(words_of(config, **only))


def rows() -> dict[str, Row]:
    """Every row that is trained: source-only, those of MMD, then each further method that `dan.losses` has, but for
    mme, which is made for a few target labels.

    All are given the same layers; those that compare a single one (ddc, dann, cdan) take the last hidden one.
    """
    from dan.losses import METHODS

    of_mmd = {
        SOURCE_ONLY: Row("dan", ALIGN, searched=SOURCE_ONLY),  # trade-off 0: no method
        "DDC": Row("ddc", ALIGN),
        DAN: Row("dan", ALIGN),
        "DAN, QP weights": Row("dan", ALIGN, (("kernel_weights", "qp"),)),
    }
    return of_mmd | {name: Row(name, ALIGN, searched=name) for name in METHODS if name not in ("dan", "ddc", "mme")}


def rows_of(config: Digits) -> list[str]:
    """The rows of the table, in order."""
    listed = [FLOOR, *rows()]
    return [row for row in listed if row in (config.methods or listed)]


def tasks_of(config: Digits) -> list[str]:
    """The transfers that are trained, in order: those asked for, or all whose sets are there."""
    data = data_folder(config.data)
    absent = {name for name, file in OPTIONAL.items() if not (data / file).exists()}
    return [task for task in TASKS if (task in config.tasks if config.tasks else not absent & set(task.split("2")))]


def searched_tasks(config: Digits) -> list[str]:
    """The transfers of the search: always both directions, so that one cell trained alone has the table's settings."""
    return tasks_of(config) if config.quick else list(BOTH_WAYS)


def column_of(task: str) -> str:
    """How a transfer is written: mnist2usps is MNIST->USPS."""
    names = {"mnistm": "MNIST-M", "rendered": "rendered"}
    return "->".join(names.get(side, side.upper()) for side in task.split("2"))


# --- the trials -------------------------------------------------------------------------------------------------------


def place_of(config: Digits) -> dict[str, Any]:
    """Where the data lie, as `experiments.jobs.digits.Place` has it."""
    return {**folders_of(config), "samples": config.samples}


def searching(row: str, trade_off: float, rate: float, task: str, config: Digits) -> Trial:
    """The trial of one point of the search."""
    arguments: dict[str, Any] = {"place": place_of(config), "task": task, "how": rows()[row].how | {"lr": rate}}
    arguments |= {"trade_off": trade_off, "steps": config.search_steps, "seed": SEARCH_SEED}
    return Trial(f"search-{task}-{slug(row)}-{trade_off:g}-{rate:g}", jobs.score, arguments)


def cell(task: str, row: str, config: Digits, choice: dict[str, Any]) -> list[Trial]:
    """The trials of one cell of the table: one a seed; one in all for logistic regression, which draws nothing."""
    arguments: dict[str, Any] = {"place": place_of(config), "task": task}
    name = f"{task}-{slug(row)}"
    if row == FLOOR:
        return [Trial(name, jobs.floor, arguments)]
    chosen = choice[rows()[row].searched]
    arguments |= {"how": rows()[row].how | {"lr": chosen["lr"]}, "trade_off": chosen["trade_off"]}
    arguments |= {"steps": config.steps}
    return [Trial(f"{name}-seed{seed}", jobs.adapt, {**arguments, "seed": seed}) for seed in config.seeds]


def group(task: str, config: Digits, choice: dict[str, Any]) -> list[Trial]:
    """All trials of a transfer, seed by seed: if time runs out, the seeds that are done have all their rows."""
    trials = [trial for row in rows_of(config) for trial in cell(task, row, config, choice)]
    seeds = {seed: place for place, seed in enumerate(config.seeds)}
    return sorted(trials, key=lambda trial: seeds[trial.arguments.get("seed", config.seeds[0])])


# --- the search -------------------------------------------------------------------------------------------------------


def searched_rows(config: Digits) -> list[str]:
    """The rows that are searched for, source-only first: its rate is everybody's."""
    listed = [rows()[row].searched for row in rows_of(config) if row != FLOOR]
    return list(dict.fromkeys([SOURCE_ONLY, *listed])) if listed else []


def search_records(config: Digits) -> list[Record]:
    """The records of the search, one a trial: made now, or read from the earlier run that `search` names."""
    needed = searched_rows(config)
    if config.search is not None:
        return earlier(config.search, [(NETWORK, row) for row in needed])

    def tried(points: Mapping[Searched, Sequence[Point]]) -> list[Record]:
        trials = {
            ((network, row), (trade_off, rate), SET + task): searching(row, trade_off, rate, task, config)
            for (network, row), listed in points.items()
            for trade_off, rate in listed
            for task in searched_tasks(config)
        }
        return records_of(config, trials, command=command_of(config), steps=config.search_steps)

    rates = RATES[:2] if config.quick else RATES
    return search({NETWORK: needed}, rates, tried, quick=config.quick) if needed else []


# --- records ----------------------------------------------------------------------------------------------------------


def published(row: str, task: str) -> list[tuple[float, str]]:
    """The published numbers beside a cell: (percent, where from)."""
    found = []
    for made in PUBLISHED:
        table, theirs = paper_table(made.table), made.rows.get(row, "")
        number = table.values.get(theirs, {}).get(made.columns.get(task, ""))
        found += [] if number is None else [(number, provenance(table, theirs))]
    return found


def cell_records(config: Digits, choice: dict[str, Any], results: Mapping[str, Any]) -> list[Record]:
    """One record a finished trial: the model after its last step."""
    records: list[Record] = []
    for task in tasks_of(config):
        for row in rows_of(config):
            told, where = [*published(row, task), (None, "")][0]
            network = "pixels" if row == FLOOR else NETWORK
            about: Record = {"experiment": NAME, "task": SET + task, "network": network, "method": row, "labels": 0}
            about |= {"paper": told, "provenance": where, "command": command_of(config, tasks=task, methods=row)}
            about["command_of_all"] = command_of(config)
            for trial in cell(task, row, config, choice):
                if trial.name in results:
                    made, result = trial.arguments, results[trial.name]
                    measured = {name: value for name, value in result["evaluation"].items() if name != "event"}
                    kept: Record = {name: made[name] for name in ("how", "trade_off", "steps") if name in made}
                    shared: Record = {**about, "seed": made.get("seed", 0), "selection": "last", **kept}
                    records.append({**shared, **measured, **result["measured_on"]})
    return records


def run_digits(config: Digits) -> int:
    """Train what is missing, transfer by transfer, and make the report after each; exit code 1 if a trial failed."""
    config = reduced(config)
    _check(config)
    searched = search_records(config)
    choice = choose(searched).get(NETWORK, {})
    parts = {column_of(task): group(task, config, choice) for task in tasks_of(config)}
    return run_experiment(config, parts, lambda results: cell_records(config, choice, results) + searched, report)


def _check(config: Digits) -> None:
    """The mistakes that would otherwise show only after minutes of training; the data are decoded here, once."""
    check_names("tasks", config.tasks, TASKS)
    check_names("methods", config.methods, [FLOOR, *rows()])
    check_runs(config.seeds, config.steps)
    check_reported(config.seeds)
    check_least(config, "search_steps")
    check_samples(config, "samples")
    data, cache = data_folder(config.data), cache_folder(config.image_cache)
    asked = [*tasks_of(config), *([] if config.search else searched_tasks(config))]
    splits: tuple[Split, ...] = ("train", "test")
    for name in COUNTS:
        if any(name in task.split("2") for task in asked):
            for split in splits:
                digit_set(name, split, data, cache=cache, download=False, quiet=config.quiet)
    if not config.quiet and len(tasks_of(config)) < len(TASKS) and not config.tasks:
        left = [column_of(task) for task in TASKS if task not in tasks_of(config)]
        print(f"left out, for their sets are not in {data}: {', '.join(left)} (see docs/data.md)", file=sys.stderr)


def report(folder: Path) -> Path:
    """Make the tables and the page again from the folder's records; the path of the page."""
    from experiments.pages.digits import report_of

    records = read(folder)
    return write_report(folder, records, report_of(records))


COMMAND = Command(Digits, run_digits, "MNIST <-> USPS and rendered -> MNIST: source-only, DAN and the other methods")
