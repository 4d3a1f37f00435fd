"""CIFAR-10 accuracy against labels: six ways to ask, on a small network and on a ResNet, each from the same start.

    start        a few random images with labels
    each round   the strategy asks for `budget` images; a fresh network learns all labels

The layout of the curves of core-set selection and its rivals. The full form (--full) asks for 1,000 images a round of
all 49,000 until 25,000 are in, on the small CNN and on ResNet-20 trained as its authors did.
Source: Sener & Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", ICLR 2018.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

if __package__ in (None, ""):  # python experiments/coreset_curve.py puts this folder on the path, and not its parent
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from active.strategies import CARDS, get_strategy, required_fields
from dan.cli.command_line import Command, run
from dan.errors import UserError
from experiments.framework.options import Options, check_names
from experiments.framework.records import Record, read
from experiments.framework.report import write_report
from experiments.framework.runner import run_experiment
from experiments.framework.trials import Trial, dotted
from experiments.jobs import cifar10 as jobs
from experiments.jobs.cifar10 import NETWORKS, TASK, check, command, place_of, settled

NAME = "coreset_curve"
STRATEGIES = ("random", "entropy", "margin", "k_center", "badge", "hybrid")
SHOWN = frozenset(
    {"ids", "probs", "logits", "features", "labelled_ids", "labelled_features", "labelled_targets"}
    | {"source_features", "kernel"}
)  # what the rounds on CIFAR-10 can show a strategy


@dataclass(frozen=True)
class CoresetCurve(Options):
    """What is trained; a folder keeps one choice of these, and a finished trial is never run again."""

    NAME: ClassVar[str] = NAME
    QUICK: ClassVar[dict[str, Any]] = {
        "strategies": ("random", "k_center", "hybrid"),
        "seeds": (0,),
        "pool": 1000,
        "test": 500,
        "start": 100,
        "budget": 100,
        "rounds": 2,
        "epochs": 2,
    }
    FULL: ClassVar[dict[str, Any]] = {
        "networks": ("small_cnn", "resnet20"),
        "pool": 0,
        "test": 0,
        "budget": 1000,
        "rounds": 24,
    }

    networks: tuple[str, ...] = ("narrow_cnn",)
    """any of narrow_cnn, small_cnn, resnet20"""
    strategies: tuple[str, ...] = STRATEGIES
    """these ways to ask only (python -m active strategies)"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """one curve of everything for each"""
    pool: int = 12_000
    """at most so many images that can be asked for, evenly spaced (0: all 49,000)"""
    test: int = 5_000
    """at most so many images of test, evenly spaced (0: all 10,000)"""
    start: int = 1_000
    """random images that are labelled at the start"""
    budget: int = 1_500
    """labels a round"""
    rounds: int = 5
    """rounds of asking"""
    epochs: int | None = None
    """passes over the labelled images in each training (default: 10; resnet20: 20, with --full the paper's 182)"""
    full: bool = False
    """the full form: small_cnn and resnet20, 1,000 to 25,000 of 49,000 labels, into runs/coreset_curve_full"""
    device: str = "cpu"
    """cpu, cuda, mps or auto"""


# --- trials -----------------------------------------------------------------------------------------------------------


def trial_of(network: str, strategy: str, seed: int, config: CoresetCurve) -> Trial:
    """The trial of one curve."""
    made = NETWORKS[network]
    usual = made.epochs if config.full else made.training.epochs
    how = replace(made.training, epochs=usual if config.epochs is None else config.epochs)
    arguments: dict[str, Any] = {"place": place_of(config), "network": network, "how": asdict(how)}
    arguments |= {"strategy": strategy, "start": config.start, "budget": config.budget, "rounds": config.rounds}
    name = f"{network}-{dotted(strategy)}-seed{seed}"
    return Trial(name, jobs.curve, {**arguments, "seed": seed})


def parts_of(config: CoresetCurve) -> list[list[Trial]]:
    """A part a network and seed: if time runs out, the seeds that are done have all their strategies."""
    return [
        [trial_of(network, strategy, seed, config) for strategy in config.strategies]
        for network in config.networks
        for seed in config.seeds
    ]


# --- records ----------------------------------------------------------------------------------------------------------


def cell_records(config: CoresetCurve, results: Mapping[str, Any]) -> list[Record]:
    """One record a training of every finished trial: the network after its last step."""
    records = []
    for network in config.networks:
        for strategy in config.strategies:
            for seed in config.seeds:
                trial = trial_of(network, strategy, seed, config)
                if trial.name not in results:
                    continue
                result = results[trial.name]
                for evaluation in result["evaluations"]:
                    record: Record = {"experiment": NAME, "task": TASK, "network": network, "method": strategy}
                    record |= {"labels": evaluation["labelled"], "seed": seed, "selection": "last"}
                    record |= {"paper": None, "provenance": "", "command_of_all": command(config)}
                    record |= {"command": command(config, networks=network, strategies=strategy)}
                    record |= {"pool": result["pool"], "test_images": result["test"], "start": config.start}
                    record |= {"budget": config.budget, "how": trial.arguments["how"]}
                    record |= {k: v for k, v in evaluation.items() if k != "labelled"}
                    records.append(record | result["measured_on"])
    return records


def run_coreset_curve(config: CoresetCurve) -> int:
    """Run what is missing, seed by seed, and make the report after each; exit code 1 if a trial failed."""
    config = settled(config)
    check_names("networks", config.networks, list(NETWORKS), some=True)
    if not config.strategies or len(set(config.strategies)) < len(config.strategies):
        raise UserError("--strategies needs one or more different names")
    for strategy in config.strategies:
        get_strategy(strategy)
        if missing := required_fields(strategy) - SHOWN:
            fitting = [name for name, card in CARDS.items() if not set(card.needs) - SHOWN]
            raise UserError(
                f"{strategy} needs {', '.join(sorted(missing))}, which one domain does not have: try "
                f"{', '.join(fitting)}"
            )
    check(config)
    return run_experiment(config, parts_of(config), lambda results: cell_records(config, results), report)


def report(folder: Path) -> Path:
    """Make the tables, the figures and the page again from the folder's records; the path of the page."""
    from experiments.pages.coreset_curve import report_of

    records = read(folder)
    return write_report(folder, records, report_of(records))


COMMAND = Command(CoresetCurve, run_coreset_curve, "CIFAR-10: accuracy against labels, six ways to ask")

if __name__ == "__main__":
    # By its own name, so that the module that reports and the one that trains are the same.
    from experiments.coreset_curve import COMMAND as ITSELF

    sys.exit(run(f"experiments/{NAME}.py", "Accuracy against labels.", {NAME: ITSELF}, [NAME, *sys.argv[1:]]))
