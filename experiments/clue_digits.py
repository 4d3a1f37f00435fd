"""Active adaptation on digits as CLUE's authors measure it: rounds of a few labels from a source model.

    start        LeNet on the source alone
    each round   ask for `budget` target labels; train on, with source and bought labels (Adam at 2e-4, batches of 128)

Protocol: Prabhu, Chandrasekaran, Saenko & Hoffman, "Active Domain Adaptation via Clustering Uncertainty-weighted
Embeddings", ICCV 2021, on MNIST <-> USPS in place of SVHN -> MNIST.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

if __package__ in (None, ""):  # python experiments/clue_digits.py puts this folder on the path, and not its parent
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from dan.cli.command_line import Command, run
from dan.errors import UserError
from experiments.framework.options import (
    Options,
    check_names,
    check_runs,
    check_samples,
    check_strategies,
    command_of,
    reduced,
)
from experiments.framework.records import Record, read
from experiments.framework.report import write_report
from experiments.framework.runner import run_experiment
from experiments.framework.trials import Trial, dotted
from experiments.jobs import clue_digits as jobs
from experiments.jobs.digits import SET
from experiments.transfers import folders_of

NAME = "clue_digits"
NETWORK = "lenet"
TASKS = ("mnist2usps", "usps2mnist")
STRATEGIES = ("random", "margin", "entropy", "k_center", "badge", "clue", "aada", "mmd_reduction", "hybrid")


@dataclass(frozen=True)
class ClueDigits(Options):
    """What is trained; a folder keeps one choice of these, and a finished trial is never run again."""

    NAME: ClassVar[str] = NAME
    QUICK: ClassVar[dict[str, Any]] = {
        "tasks": ("mnist2usps",),
        "strategies": ("random", "margin"),
        "seeds": (0,),
        "steps": 20,
        "rounds": 2,
        "steps_per_round": 5,
        "samples": 500,
    }

    tasks: tuple[str, ...] = TASKS
    """these transfers only"""
    strategies: tuple[str, ...] = STRATEGIES
    """these ways to ask only (python -m active strategies)"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """one run of everything for each"""
    steps: int = 500
    """training steps of the source model"""
    budget: str = "30"
    """labels a round: a number, or a share of the pool as 1%"""
    rounds: int = 5
    """rounds of asking"""
    steps_per_round: int = 150
    """training steps after each round's answers"""
    epochs: int = 0
    """passes over the pool after each round's answers, in place of --steps-per-round (published: 60)"""
    method: str = "mme"
    """what adapts besides, where --trade-off is above 0"""
    trade_off: float = 0.0
    """its weight; 0: labels alone"""
    samples: int = 10_000
    """at most so many images of each split, evenly spaced (0: all)"""


# --- trials -----------------------------------------------------------------------------------------------------------


def place_of(config: ClueDigits) -> dict[str, Any]:
    """Where the data lie, as `experiments.jobs.digits.Place` has it."""
    return {**folders_of(config), "samples": config.samples}


def start_of(task: str, seed: int, config: ClueDigits) -> Trial:
    """The trial of the source model that all strategies of the seed start from."""
    arguments = {"place": place_of(config), "task": task, "steps": config.steps, "seed": seed}
    return Trial(f"{task}-start-seed{seed}", jobs.start, arguments)


def trial_of(task: str, strategy: str, seed: int, config: ClueDigits) -> Trial:
    """The trial of one strategy and seed."""
    start = start_of(task, seed, config)
    arguments: dict[str, Any] = {"place": place_of(config), "task": task, "start": start.name, "strategy": strategy}
    for name in ("method", "trade_off", "budget", "rounds", "steps_per_round", "epochs"):
        arguments[name] = getattr(config, name)
    name = f"{task}-{dotted(strategy)}-seed{seed}"
    return Trial(name, jobs.ask, {**arguments, "seed": seed}, (start,))


def parts_of(config: ClueDigits) -> list[list[Trial]]:
    """A part a seed and transfer: if time runs out, the seeds that are done have all their strategies."""
    parts = []
    for seed in config.seeds:
        for task in config.tasks:
            asked = [trial_of(task, strategy, seed, config) for strategy in config.strategies]
            parts.append([start_of(task, seed, config), *asked])
    return parts


# --- records ----------------------------------------------------------------------------------------------------------


def cell_records(config: ClueDigits, results: Mapping[str, Any]) -> list[Record]:
    """One record a round of every finished trial: the model after its last step."""
    records = []
    for task in config.tasks:
        for strategy in config.strategies:
            for seed in config.seeds:
                trial = trial_of(task, strategy, seed, config)
                if trial.name not in results:
                    continue
                result = results[trial.name]
                for evaluation in result["evaluations"]:
                    record: Record = {"experiment": NAME, "task": SET + task, "network": NETWORK, "method": strategy}
                    record |= {"labels": evaluation["labelled"], "seed": seed, "selection": "last"}
                    record |= {"paper": None, "provenance": "", "command_of_all": command_of(config)}
                    record |= {"command": command_of(config, tasks=task, strategies=strategy)}
                    record |= {
                        "steps": config.steps,
                        "steps_per_round": result["steps_per_round"],
                        "pool": result["pool"],
                    }
                    record |= {"trade_off": config.trade_off, "adapts": config.method, "samples": config.samples}
                    record |= {k: v for k, v in evaluation.items() if k not in ("event", "labelled")}
                    records.append(record | result["measured_on"])
    return records


def run_clue_digits(config: ClueDigits) -> int:
    """Run what is missing, seed by seed, and make the report after each; exit code 1 if a trial failed."""
    config = reduced(config)
    _check(config)
    return run_experiment(config, parts_of(config), lambda results: cell_records(config, results), report)


def _check(config: ClueDigits) -> None:
    """The mistakes that would otherwise show only after minutes of training; the data are decoded here, once."""
    from active.budgets import budget_count, check_rounds
    from dan.data.batches import num_samples
    from dan.losses import METHODS
    from experiments.jobs.digits import Place

    check_names("tasks", config.tasks, TASKS)
    check_names("method", (config.method,), list(METHODS))
    check_runs(config.seeds, config.steps)
    check_strategies(config.tasks, config.strategies)
    if config.steps_per_round < 1 or config.epochs < 0 or config.trade_off < 0:
        raise UserError("--steps-per-round must be 1 or more, --epochs and --trade-off 0 or more")
    check_samples(config, "samples", least=200)
    budget_count(config.budget, 1)  # before the data are read
    for task in config.tasks:
        pool = num_samples(Place(**place_of(config)).task(task).target)
        check_rounds(budget_count(config.budget, pool), config.rounds, pool)


def report(folder: Path) -> Path:
    """Make the tables, the figures and the page again from the folder's records; the path of the page."""
    from experiments.pages.clue_digits import report_of

    records = read(folder)
    return write_report(folder, records, report_of(records))


COMMAND = Command(
    ClueDigits, run_clue_digits, "MNIST <-> USPS in rounds of labels from a source model: nine strategies"
)

if __name__ == "__main__":
    # By its own name, so that the module that reports and the one that trains are the same.
    from experiments.clue_digits import COMMAND as ITSELF

    sys.exit(run(f"experiments/{NAME}.py", "Active adaptation on digits.", {NAME: ITSELF}, [NAME, *sys.argv[1:]]))
