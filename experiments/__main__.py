"""The command line of the experiments: python -m experiments list | run NAME | report NAME | check NAME | republish."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from dan.cli.command_line import Command, run
from dan.errors import UserError, nearest
from experiments import (
    a_distance,
    ablations,
    active_adaptation,
    aift,
    approaches,
    arena,
    assessment_coverage,
    clue_digits,
    coreset_curve,
    dan_table1,
    dan_table2,
    demo,
    digits,
    frozen_layers,
    label_shift,
    lambda_sensitivity,
    margin_sweep,
    mmd_during_training,
    num_kernels,
    semi_supervised,
    uncertainty_maps,
    validators,
)
from experiments.framework.experiment import Experiment

PROG = "python -m experiments"


EXPERIMENTS: tuple[Experiment[Any], ...] = tuple(
    module.EXPERIMENT
    for module in (
        demo,
        dan_table2,
        digits,
        approaches,
        clue_digits,
        lambda_sensitivity,
        a_distance,
        mmd_during_training,
        semi_supervised,
        frozen_layers,
        dan_table1,
        arena,
        ablations,
        active_adaptation,
        coreset_curve,
        margin_sweep,
        aift,
        num_kernels,
        uncertainty_maps,
        label_shift,
        validators,
        assessment_coverage,
    )
)


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
    """copy records, tables and figures to experiments/results, write docs/results/NAME.md, renew README.md and docs"""
    publish_name: str | None = None
    """publish under this name, for a second run of an experiment with other settings (default: the experiment's)"""


@dataclass(frozen=True)
class Republish:
    """Which published reports to make again from their own records."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """folders of experiments/results (default: all)"""


@dataclass(frozen=True)
class Check:
    """Which run is compared with the published numbers."""

    name: Annotated[str, tyro.conf.Positional]
    """name of the experiment, as `list` shows it"""
    out: Path | None = None
    """folder of the experiment's run (default: runs/NAME)"""
    publish_name: str | None = None
    """the name that it was published under (default: the experiment's)"""


def experiment_named(name: str) -> Experiment[Any]:
    """The experiment; UserError for an unknown name."""
    known = {experiment.name: experiment for experiment in EXPERIMENTS}
    if name not in known:
        raise UserError(f'unknown experiment "{name}"{nearest(name, known)}; there are: {", ".join(known)}')
    return known[name]


def list_experiments(_: List) -> None:
    """Print every experiment with its summary."""
    width = max(len(experiment.name) for experiment in EXPERIMENTS)
    for experiment in EXPERIMENTS:
        print(f"{experiment.name:<{width}}  {experiment.summary}")


def report(config: Report) -> None:
    """Make one report again, and publish it if asked to."""
    folder = config.out or Path("runs") / config.name
    name = config.publish_name or config.name
    if config.publish_name is not None and (not config.publish or not name.isidentifier()):
        raise UserError(f"--publish-name takes a name such as {config.name}_2, and goes with --publish")
    experiment = experiment_named(config.name)
    print(f"report: {experiment.write_report(folder)}")
    if config.publish:
        from experiments.framework import publish

        print(f"published: {publish.publish(experiment, name, folder)}")


def republish(config: Republish) -> None:
    """Make published reports again from their own records."""
    from experiments.framework import publish

    known = publish.published()
    for name in config.names or known:
        if name not in known:
            raise UserError(f'nothing is published as "{name}"{nearest(name, known)}')
        print(f"published: {publish.republish(experiment_named(known[name]), name)}")


def check(config: Check) -> int:
    """Compare a run with the published numbers; exit code 1 if one of them differs."""
    from experiments.framework.reproducibility import repeated

    experiment_named(config.name)
    found = repeated(config.out or Path("runs") / config.name, config.publish_name or config.name)
    print(found)
    return 1 if found.differ else 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["run"]:  # each experiment has options of its own, so its name is a command inside `run`
        commands = {experiment.name: experiment.command for experiment in EXPERIMENTS}
        return run(f"{PROG} run", "Run an experiment, or what is missing of it.", commands, words[1:])
    commands = {
        "list": Command(List, list_experiments, "show the experiments"),
        "run": Command(List, list_experiments, "run NAME [--flags]: run an experiment, or what is missing of it"),
        "report": Command(Report, report, "make an experiment's tables and page again from its records"),
        "check": Command(Check, check, "does a run, of a single cell or of all, give the published numbers again?"),
        "republish": Command(Republish, republish, "make published reports again from their own records"),
    }
    return run(PROG, "Experiments: one a published table or figure.", commands, words)


if __name__ == "__main__":
    sys.exit(main())
