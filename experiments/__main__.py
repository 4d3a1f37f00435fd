"""The door to the experiments: python -m experiments list | run NAME | report NAME | check NAME."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import tyro

from dan.cli.command_line import Command, run
from dan.errors import UserError, nearest

# Each name -> its module, and what it shows in one line. A module has COMMAND (how it is run, with its flags),
# and report(folder), which makes the tables and the page again from the records in the folder.
EXPERIMENTS: dict[str, tuple[str, str]] = {
    "demo": ("experiments.demo", "source-only, DAN and four ways to ask for labels, on rendered -> scanned digits"),
    "dan_table2": ("experiments.dan_table2", "Office-10 + Caltech-10, 12 transfers: DAN beside the paper's Table 2"),
    "digits": ("experiments.digits", "MNIST <-> USPS and rendered -> MNIST on LeNet, every loss in one table"),
    "approaches": ("experiments.approaches", "rendered -> scanned digits: each way to transfer, one command"),
    "clue_digits": ("experiments.clue_digits", "MNIST <-> USPS: nine strategies in rounds, from a source model"),
    "lambda_sensitivity": ("experiments.lambda_sensitivity", "Figure 3b, 10-class: accuracy against lambda"),
    "a_distance": ("experiments.a_distance", "Figure 3a, 10-class: A-distance of raw, source-only and DAN features"),
    "mmd_during_training": ("experiments.mmd_during_training", "10-class: MMD^2 of each layer against steps"),
    "semi_supervised": ("experiments.semi_supervised", "Table 3's layout, 10-class: a few target labels a class"),
    "frozen_layers": ("experiments.frozen_layers", "10-class: accuracy against the number of frozen stages"),
    "dan_table1": ("experiments.dan_table1", "Office-31, six transfers: DAN beside the paper's Table 1"),
    "arena": ("experiments.arena", "fifteen transfers, nineteen strategies: which way to ask buys most?"),
    "ablations": ("experiments.ablations", "six transfers: what the parts of the project's own strategy are worth"),
    "active_adaptation": ("experiments.active_adaptation", "the field's two protocols, every strategy"),
    "coreset_curve": ("experiments.coreset_curve", "CIFAR-10: accuracy against labels, six ways to ask"),
    "margin_sweep": ("experiments.margin_sweep", "CIFAR-10: shares of margin sampling, and the labels that 50 % takes"),
    "aift": ("experiments.aift", "colon nuclei: selection codes and training codes, in the layout of AIFT's Table 4"),
    "validators": (
        "experiments.validators",
        "label-free validators: regret and rank correlation over candidates and checkpoints",
    ),
    "num_kernels": ("experiments.num_kernels", "rendered -> scanned digits: DAN with 1 to 9 Gaussian kernels"),
    "uncertainty_maps": ("experiments.uncertainty_maps", "heat maps of the four uncertainty scores over three labels"),
}

PROG = "python -m experiments"


@dataclass(frozen=True)
class List:
    """Takes no options."""


@dataclass(frozen=True)
class Report:
    """Which report to make."""

    name: Annotated[str, tyro.conf.Positional]
    """name of the experiment, as `list` shows it"""
    out: Path | None = None
    """folder of the experiment's run (default: runs/NAME)"""
    publish: bool = False
    """copy records, tables and figures to experiments/results and renew the blocks of README.md and docs"""
    publish_name: str | None = None
    """publish under this name, for a second run of an experiment with other settings (default: the experiment's)"""


@dataclass(frozen=True)
class Check:
    """Which run to hold against what is published."""

    name: Annotated[str, tyro.conf.Positional]
    """name of the experiment, as `list` shows it"""
    out: Path | None = None
    """folder of the experiment's run (default: runs/NAME)"""
    publish_name: str | None = None
    """the name that it was published under (default: the experiment's)"""


def module_of(name: str) -> Any:
    """The experiment's module; UserError for an unknown name."""
    if name not in EXPERIMENTS:
        raise UserError(f'unknown experiment "{name}"{nearest(name, EXPERIMENTS)}; there are: {", ".join(EXPERIMENTS)}')
    return import_module(EXPERIMENTS[name][0])


def command_of(name: str) -> Command:
    """`run NAME`."""
    module = module_of(name)
    made: Command = module.EXPERIMENT.command if hasattr(module, "EXPERIMENT") else module.COMMAND
    return made


def list_experiments(_: List) -> None:
    """Print every experiment with its line."""
    width = max(map(len, EXPERIMENTS))
    for name, (_module, line) in EXPERIMENTS.items():
        print(f"{name:<{width}}  {line}")


def report(config: Report) -> None:
    """Make one report again, and publish it if asked to."""
    folder = config.out or Path("runs") / config.name
    name = config.publish_name or config.name
    if config.publish_name is not None and (not config.publish or not name.isidentifier()):
        raise UserError(f"--publish-name takes a name such as {config.name}_2, and goes with --publish")
    module = module_of(config.name)
    page = module.EXPERIMENT.write_report(folder) if hasattr(module, "EXPERIMENT") else module.report(folder)
    print(f"report: {page}")
    if config.publish:
        from experiments.framework import publish

        print(f"published: {publish.publish(name, folder)}, and the blocks of README.md and docs")


def check(config: Check) -> int:
    """Say whether a run gives the published numbers again; exit code 1 if one of them is another."""
    from experiments.framework.reproducibility import repeated

    module_of(config.name)
    found = repeated(config.out or Path("runs") / config.name, config.publish_name or config.name)
    print(found)
    return 1 if found.differ else 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["run"] and words[1:2] and words[1] in EXPERIMENTS:
        # Each experiment has flags of its own, so its name is a command inside `run`.
        return run(f"{PROG} run", "Run an experiment.", {words[1]: command_of(words[1])}, words[1:])
    commands = {
        "list": Command(List, list_experiments, "show the experiments"),
        "run": Command(List, _which, "run NAME [--flags]: run an experiment, or what is missing of it"),
        "report": Command(Report, report, "make an experiment's tables and page again from its records"),
        "check": Command(Check, check, "does a run, of a single cell or of all, give the published numbers again?"),
    }
    if words[:1] == ["run"]:
        lines = {name: Command(List, _which, line) for name, (_module, line) in EXPERIMENTS.items()}
        return run(f"{PROG} run", "Run an experiment, or what is missing of it.", lines, words[1:])
    return run(PROG, "Experiments: one a published table or figure.", commands, words)


def _which(_: List) -> None:
    raise UserError("which experiment? python -m experiments list")


if __name__ == "__main__":
    sys.exit(main())
