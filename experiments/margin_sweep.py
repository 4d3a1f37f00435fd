"""How much of a batch should be asked for by margin of confidence? CIFAR-10, from 0 to 100 %, the rest at random.

    start        a few random images with labels
    each round   round(s budget) images of the smallest p1 - p2, the rest at random; a fresh network learns all labels
    question     labels needed for 50 % test accuracy, for s in {0, 10, ..., 100 %}; beside them a k-center arm

And once the same rounds with scikit-learn's random forest in place of the network. The full form (--full) is the sweep
as it was first made: 49,000 images, 1,000 labels a round until all are in, 49 trainings a trial.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

if __package__ in (None, ""):  # python experiments/margin_sweep.py puts this folder on the path, and not its parent
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from dan.cli.command_line import Command, run
from dan.errors import UserError
from experiments.framework.options import Options, check_names
from experiments.framework.records import Record, read
from experiments.framework.report import write_report
from experiments.framework.runner import run_experiment
from experiments.framework.trials import Trial, dotted
from experiments.jobs import cifar10 as jobs
from experiments.jobs.cifar10 import NETWORKS, TASK, check, command, place_of, settled

NAME = "margin_sweep"
FOREST = "random forest, "
SHARES = {"random": 0.0, **{f"margin@{s / 100:g}": s / 100 for s in range(10, 100, 10)}, "margin": 1.0}
METHODS = (*SHARES, "k_center", f"{FOREST}random", f"{FOREST}margin")


@dataclass(frozen=True)
class MarginSweep(Options):
    """What is trained; a folder keeps one choice of these, and a finished trial is never run again."""

    NAME: ClassVar[str] = NAME
    QUICK: ClassVar[dict[str, Any]] = {
        "methods": ("random", "margin@0.5", "margin", f"{FOREST}margin"),
        "seeds": (0,),
        "pool": 1000,
        "test": 500,
        "start": 100,
        "budget": 100,
        "rounds": 2,
        "epochs": 2,
    }
    FULL: ClassVar[dict[str, Any]] = {"network": "small_cnn", "pool": 0, "test": 0, "rounds": 48}

    methods: tuple[str, ...] = METHODS
    """these arms only: shares of margin sampling from random (0) to margin (100 %), k_center, and the forest's"""
    network: str = "narrow_cnn"
    """narrow_cnn, small_cnn or resnet20"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """one trial of every arm for each; the forest's take the first only"""
    pool: int = 10_000
    """at most so many images that can be asked for, evenly spaced (0: all 49,000)"""
    test: int = 5_000
    """at most so many images of test, evenly spaced (0: all 10,000)"""
    start: int = 1_000
    """random images that are labelled at the start"""
    budget: int = 1_000
    """labels a round"""
    rounds: int = 5
    """rounds of asking"""
    epochs: int | None = None
    """passes over the labelled images in each training (default: the network's)"""
    target: float = 50.0
    """test accuracy in percent, whose price in labels is the question"""
    full: bool = False
    """the full form: small_cnn, 49,000 images, until all are in, all test images, into runs/margin_sweep_full"""
    device: str = "cpu"
    """cpu, cuda, mps or auto"""


# --- trials -----------------------------------------------------------------------------------------------------------


def strategy_of(method: str) -> str:
    """The strategy of an arm, as `active.strategies` names it."""
    return method.removeprefix(FOREST)


def trial_of(method: str, seed: int, config: MarginSweep) -> Trial:
    """The trial of one arm and seed."""
    arguments: dict[str, Any] = {"place": place_of(config), "strategy": strategy_of(method)}
    if not method.startswith(FOREST):
        how = NETWORKS[config.network].training
        how = how if config.epochs is None else replace(how, epochs=config.epochs)
        arguments |= {"network": config.network, "how": asdict(how)}
    arguments |= {"start": config.start, "budget": config.budget, "rounds": config.rounds, "seed": seed}
    function = jobs.forest if method.startswith(FOREST) else jobs.curve
    return Trial(f"{dotted(method)}-seed{seed}", function, arguments)


def cells_of(config: MarginSweep) -> list[tuple[str, int]]:
    """(method, seed) of everything that is trained, seed by seed; the forest stands on the first seed alone."""
    listed = [method for method in METHODS if method in config.methods]
    first = config.seeds[0]
    return [(m, seed) for seed in config.seeds for m in listed if seed == first or not m.startswith(FOREST)]


def parts_of(config: MarginSweep) -> list[list[Trial]]:
    """A part a seed: if time runs out, the seeds that are done have all their arms."""
    cells = cells_of(config)
    parts = [[trial_of(method, of, config) for method, of in cells if of == seed] for seed in config.seeds]
    return [part for part in parts if part]


# --- records ----------------------------------------------------------------------------------------------------------


def cell_records(config: MarginSweep, results: Mapping[str, Any]) -> list[Record]:
    """One record a training of every finished trial: the network after its last step."""
    records = []
    for method, seed in cells_of(config):
        trial = trial_of(method, seed, config)
        if trial.name not in results:
            continue
        result = results[trial.name]
        of_forest = method.startswith(FOREST)
        for evaluation in result["evaluations"]:
            record: Record = {"experiment": NAME, "task": TASK, "method": method, "labels": evaluation["labelled"]}
            record |= {"network": "random_forest" if of_forest else config.network, "seed": seed, "selection": "last"}
            record |= {"paper": None, "provenance": "", "command_of_all": command(config)}
            record |= {"command": command(config, methods=method), "target_accuracy": config.target}
            record |= {"pool": result["pool"], "test_images": result["test"], "start": config.start}
            record |= {"budget": config.budget} | ({} if of_forest else {"how": trial.arguments["how"]})
            record |= {k: v for k, v in evaluation.items() if k != "labelled"}
            records.append(record | result["measured_on"])
    return records


def run_margin_sweep(config: MarginSweep) -> int:
    """Run what is missing, seed by seed, and make the report after each; exit code 1 if a trial failed."""
    config = settled(config)
    check_names("methods", config.methods, METHODS)
    check_names("network", (config.network,), list(NETWORKS))
    if not config.methods or not 0 < config.target < 100:
        raise UserError(
            f"--methods needs one or more names, and --target percent between 0 and 100, not {config.target}"
        )
    check(config)
    return run_experiment(config, parts_of(config), lambda results: cell_records(config, results), report)


def report(folder: Path) -> Path:
    """Make the tables, the figures and the page again from the folder's records; the path of the page."""
    from experiments.pages.margin_sweep import report_of

    records = read(folder)
    return write_report(folder, records, report_of(records))


COMMAND = Command(MarginSweep, run_margin_sweep, "CIFAR-10: shares of margin sampling, and the labels that 50 % takes")

if __name__ == "__main__":
    # By its own name, so that the module that reports and the one that trains are the same.
    from experiments.margin_sweep import COMMAND as ITSELF

    sys.exit(run(f"experiments/{NAME}.py", "Shares of margin sampling.", {NAME: ITSELF}, [NAME, *sys.argv[1:]]))
