"""Digits: MNIST <-> USPS in full and rendered -> MNIST on LeNet, every loss in one table beside published rows.

1. search    hyper-parameters, one set for all transfers, without a target label, on MNIST <-> USPS, with fewer steps
             and a seed that is not reported:
                 rate         the lowest mean over both directions of source-only's cross-entropy on held-out source
                 trade-off    the lowest mean of   err_source + max(0, 1 - 2 err_two_sample)
2. table     every row on every transfer, the same steps for all, the model after the last one
"""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # python experiments/digits.py puts this folder on the path, and not its parent
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from dan.cli import Command, run
from dan.domains.digit_sets import COUNTS, Split, digit_set
from dan.domains.places import cache_folder, data_folder
from dan.errors import UserError, nearest
from experiments.dan_table2 import DAN, FLOOR, SOURCE_ONLY, Row, choose
from experiments.digits_trials import ALIGN, SET
from experiments.records import Record, read, to_lines, write_text
from experiments.transfers import paper_table, provenance
from experiments.trials import Outcome, Trial, run_trials

NAME = "digits"
TRIALS = "experiments.digits_trials"
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
TRADE_OFFS = (0.3, 1.0, 3.0, 10.0)
# Terms of another scale than MMD^2's: covariances are divided by 4 F^2, and a discriminator climbs as it descends.
OWN_TRADE_OFFS = {
    "deep_coral": (1.0, 10.0, 100.0, 1000.0),
    "dann": (0.1, 0.3, 1.0, 3.0),
    "cdan": (0.1, 0.3, 1.0, 3.0),
    "cdan_e": (0.1, 0.3, 1.0, 3.0),
}
SEARCH_SEED = 100


@dataclass(frozen=True)
class Digits:
    """What is trained; a folder keeps one choice of these, and a finished trial is never run again."""

    out: Path = Path("runs/digits")
    """folder of the trials, records and report"""
    data: Path | None = None
    """folder of data sets (also: ACTIVE_DAN_DATA)"""
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
    """records.jsonl of an earlier run, whose search is taken instead of making one"""
    quick: bool = False
    """see whether it works: usps2mnist, seed 0, 20 steps on 500 images, source-only and DAN, into runs/digits_quick"""
    workers: int = 2
    """trials at a time, one thread each"""
    cluster: str | None = None
    """run the trials on a cluster's workers: dask://HOST:PORT"""
    image_cache: Path | None = None
    """folder for decoded images (default: in the user's cache folder)"""
    quiet: bool = False
    """no progress bar"""


def reduced(config: Digits) -> Digits:
    """What --quick stands for."""
    if not config.quick:
        return config
    small: dict[str, Any] = {"tasks": ("usps2mnist",), "methods": (SOURCE_ONLY, DAN), "seeds": (0,), "steps": 20}
    small |= {"search_steps": 5, "samples": 500, "out": Path("runs/digits_quick")}
    defaults = Digits()
    return replace(config, **{k: v for k, v in small.items() if getattr(config, k) == getattr(defaults, k)})


def command_of(config: Digits, **only: str) -> str:
    """The command that makes these records again, or with `only` (tasks, methods) one cell of them."""
    words = ["python", "-m", "experiments", "run", NAME, *(["--quick"] if config.quick else [])]
    like = reduced(Digits(quick=config.quick))
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name in ("out", "data", "quick", "workers", "cluster", "image_cache", "quiet", *only):
            continue
        if value != getattr(like, field.name):
            listed = value if isinstance(value, tuple) else [value]
            words += ["--" + field.name.replace("_", "-"), *map(str, listed)]
    for name, value in only.items():
        words += [f"--{name}", value]
    return shlex.join(words)


def rows() -> dict[str, Row]:
    """Every row that is trained: source-only, those of MMD, then each further method that `dan.objectives` has, but for
    mme, which is made for a few target labels.

    All are given the same layers; those that compare a single one (ddc, dann, cdan) take the last hidden one.
    """
    from dan.objectives import METHODS

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
    """Where the data lie, as `experiments.digits_trials.Place` has it."""
    folders = {"data": data_folder(config.data), "images": cache_folder(config.image_cache)}
    return {name: str(folder.absolute()) for name, folder in folders.items()} | {"samples": config.samples}


def searching(row: str, trade_off: float, rate: float, task: str, config: Digits) -> Trial:
    """The trial of one point of the search."""
    arguments: dict[str, Any] = {"place": place_of(config), "task": task, "how": rows()[row].how | {"rate": rate}}
    arguments |= {"trade_off": trade_off, "steps": config.search_steps, "seed": SEARCH_SEED}
    return Trial(f"search-{task}-{_slug(row)}-{trade_off:g}-{rate:g}", f"{TRIALS}:score", arguments)


def cell(task: str, row: str, config: Digits, choice: dict[str, Any]) -> list[Trial]:
    """The trials of one cell of the table: one a seed; one in all for logistic regression, which draws nothing."""
    arguments: dict[str, Any] = {"place": place_of(config), "task": task}
    name = f"{task}-{_slug(row)}"
    if row == FLOOR:
        return [Trial(name, f"{TRIALS}:floor", arguments)]
    chosen = choice[rows()[row].searched]
    arguments |= {"how": rows()[row].how | {"rate": chosen["rate"]}, "trade_off": chosen["trade_off"]}
    arguments |= {"steps": config.steps}
    return [Trial(f"{name}-seed{seed}", f"{TRIALS}:adapt", {**arguments, "seed": seed}) for seed in config.seeds]


def group(task: str, config: Digits, choice: dict[str, Any]) -> list[Trial]:
    """All trials of a transfer, seed by seed: if time runs out, the seeds that are done have all their rows."""
    trials = [trial for row in rows_of(config) for trial in cell(task, row, config, choice)]
    seeds = {seed: place for place, seed in enumerate(config.seeds)}
    return sorted(trials, key=lambda trial: seeds[trial.arguments.get("seed", config.seeds[0])])


def _slug(row: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", row.lower())


# --- the search -------------------------------------------------------------------------------------------------------


def searched_rows(config: Digits) -> list[str]:
    """The rows that are searched for, source-only first: its rate is everybody's."""
    listed = [rows()[row].searched for row in rows_of(config) if row != FLOOR]
    return list(dict.fromkeys([SOURCE_ONLY, *listed])) if listed else []


def search_records(config: Digits) -> list[Record]:
    """The records of the search, one a trial: made now, or read from the earlier run that `search` names."""
    needed = searched_rows(config)
    if config.search is not None:
        found = [record for record in read(config.search) if record.get("phase") == "search"]
        if missing := [row for row in needed if row not in {record["method"] for record in found}]:
            raise UserError(f"{config.search} has no search for {', '.join(missing)}: leave out --search to make one")
        return [record for record in found if record["method"] in needed]
    if not needed:
        return []
    records = _searched(config, [(SOURCE_ONLY, 0.0, rate) for rate in (RATES[:2] if config.quick else RATES)])
    rate = choose(records)[NETWORK][SOURCE_ONLY]["rate"]
    points = []
    for row in needed[1:]:
        trade_offs = OWN_TRADE_OFFS.get(row, TRADE_OFFS)
        points += [(row, value, rate) for value in (trade_offs[1:3] if config.quick else trade_offs)]
    return records + _searched(config, points)


def _searched(config: Digits, points: Sequence[tuple[str, float, float]]) -> list[Record]:
    """The records of the search at (row, trade-off, rate). judged_by: the score; of source-only, which does not try to
    mix the domains, the cross-entropy on the held-out source."""
    trials = {(*point, task): searching(*point, task, config) for point in points for task in searched_tasks(config)}
    outcome = _run(config, "search", list(trials.values()))
    if outcome.failed:
        raise UserError(f"the search for hyper-parameters failed: {next(iter(outcome.failed.values()))}")
    records = []
    for (row, trade_off, rate, task), trial in trials.items():
        record: Record = {"experiment": NAME, "phase": "search", "task": SET + task, "network": NETWORK, "method": row}
        record |= {"labels": 0, "seed": SEARCH_SEED, "selection": "", "trade_off": trade_off, "rate": rate}
        record |= {"steps": config.search_steps, "command": command_of(config), **outcome.results[trial.name]}
        records.append(record | {"judged_by": record["source_loss" if row == SOURCE_ONLY else "score"]})
    return records


# --- records ----------------------------------------------------------------------------------------------------------


def published(row: str, task: str) -> list[tuple[float, str]]:
    """The published numbers beside a cell: (percent, where from)."""
    found = []
    for made in PUBLISHED:
        table, theirs = paper_table(made.table), made.rows.get(row, "")
        number = table.values.get(theirs, {}).get(made.columns.get(task, ""))
        found += [] if number is None else [(number, provenance(table, theirs))]
    return found


def cell_records(config: Digits, choice: dict[str, Any], results: dict[str, Any]) -> list[Record]:
    """One record a finished trial: the model after its last step."""
    records: list[Record] = []
    for task in tasks_of(config):
        for row in rows_of(config):
            told, where = [*published(row, task), (None, "")][0]
            network = "pixels" if row == FLOOR else NETWORK
            about: Record = {"experiment": NAME, "task": SET + task, "network": network, "method": row, "labels": 0}
            about |= {"paper": told, "provenance": where, "command": command_of(config, tasks=task, methods=row)}
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
    began = time.perf_counter()
    searched = search_records(config)
    choice = choose(searched).get(NETWORK, {})
    failed: dict[str, str] = {}
    results: dict[str, Any] = {}
    for task in tasks_of(config):
        outcome = _run(config, column_of(task), group(task, config, choice))
        results |= outcome.results
        failed |= outcome.failed
        records = cell_records(config, choice, results)
        write_text(config.out / "records.jsonl", to_lines(records + searched))
        if records:
            report(config.out)
    for line in failed.values():
        print(f"failed: {line}", file=sys.stderr)
    if (config.out / "table.md").is_file():
        print((config.out / "table.md").read_text(encoding="utf-8"))
    print(f"took: {time.perf_counter() - began:.0f} s\nreport: {config.out / 'report.html'}")
    return 1 if failed else 0


def _run(config: Digits, title: str, trials: Sequence[Trial]) -> Outcome:
    began = time.perf_counter()
    outcome = run_trials(trials, folder=config.out, workers=config.workers, cluster=config.cluster, quiet=config.quiet)
    if not config.quiet:
        took = time.perf_counter() - began
        print(f"{title}: {len(outcome.results)} of {len(trials)} trials done, {took:.0f} s", file=sys.stderr)
    return outcome


def _check(config: Digits) -> None:
    """The mistakes that would otherwise show only after minutes of training; the data are decoded here, once."""
    for flag, given, known in (("tasks", config.tasks, TASKS), ("methods", config.methods, [FLOOR, *rows()])):
        for name in given:
            if name not in known:
                raise UserError(f'--{flag}: there is no "{name}"{nearest(name, known)}; there are: {", ".join(known)}')
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise UserError(f"--seeds needs one or more different numbers, not {list(config.seeds)}")
    if SEARCH_SEED in config.seeds:
        raise UserError(f"seed {SEARCH_SEED} is the one that hyper-parameters are chosen on: report others")
    for flag, value, least in (("steps", config.steps, 1), ("search-steps", config.search_steps, 1)):
        if value < least:
            raise UserError(f"--{flag} must be {least} or more, not {value}")
    if config.samples and config.samples < 100:
        raise UserError(f"--samples must be 100 or more, or 0 for all, not {config.samples}")
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
    from experiments.digits_page import write_report

    return write_report(folder, read(folder / "records.jsonl"))


COMMAND = Command(Digits, run_digits, "MNIST <-> USPS and rendered -> MNIST: source-only, DAN and the other methods")

if __name__ == "__main__":
    # By its own name, so that the module that reports and the one that trains are the same.
    from experiments.digits import COMMAND as ITSELF

    sys.exit(run(f"experiments/{NAME}.py", "Digits.", {NAME: ITSELF}, [NAME, *sys.argv[1:]]))
