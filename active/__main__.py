"""The door to active learning: python -m active run | strategies."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dan.cli import Command, run


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """Train a DAN, then ask for labels in rounds, answered by the data set (a simulated oracle), and train on."""

    task: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TASK")] = "rendered2digits"
    """Transfer, as <set>_<source>2<target>."""
    strategy: str = "margin"
    """Which samples to ask for: a name that `python -m active strategies` lists, or module:function."""
    budget: int = 15
    """Labels a round."""
    rounds: int = 4
    """Rounds of asking."""
    round_steps: int = 150
    """Training steps after each round."""
    steps: int = 1000
    """Training steps before the first round."""
    trade_off: float = 3.0
    """lambda, the weight of the MK-MMD terms; 0 aligns nothing."""
    seed: int = 0
    """Decides everything random in this run."""
    start: Path | None = None
    """Folder of a finished `python -m dan train` run to start from; default: train one inside the run's folder."""
    run: Path | None = None
    """Folder of the run; the same command on the same folder goes on. Default: runs/<task>/<strategy>-seed<seed>."""
    data: Path | None = None
    """Folder of data sets, for tasks that read any (also: ACTIVE_DAN_DATA)."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    quiet: bool = False
    """No progress bar, no table."""


@dataclass(frozen=True, kw_only=True)
class Strategies:
    """Every strategy in one line: what it asks for, its source, its cost, what it needs."""


def run_active(config: Rounds) -> None:
    """Train a start if none is given, then print one line a round."""
    import torch

    from active.strategies import strategy_named
    from active.with_dan import run_rounds
    from dan.domains.places import cache_folder, data_folder
    from dan.domains.tasks import load_task
    from dan.networks.dan import DAN
    from dan.training import fit

    strategy_named(config.strategy)  # a misspelt name must not cost a training first
    task = load_task(config.task, data_folder(config.data), cache=cache_folder())
    name = config.strategy.replace(":", ".")
    folder = config.run or Path("runs") / task.name / f"{name}-seed{config.seed}"
    start = config.start
    if start is None:
        start = folder / "start"
        torch.manual_seed(config.seed)
        fit(
            DAN(task.backbone, len(task.classes)),
            task.source,
            task.target,
            trade_off=config.trade_off,
            steps=config.steps,
            seed=config.seed,
            run=start,
            about={"task": task.name},
            device=config.device,
            quiet=config.quiet,
        )
    records = run_rounds(
        task,
        config.strategy,
        start=start,
        budget=config.budget,
        rounds=config.rounds,
        round_steps=config.round_steps,
        trade_off=config.trade_off,
        seed=config.seed,
        run=folder,
        device=config.device,
        quiet=config.quiet,
    )
    for record in records:
        if not config.quiet:
            figures = [
                f"{key[9:]} {100 * value:5.2f} %" for key, value in record.items() if key.startswith("accuracy/")
            ]
            print(f"round {record['round']}  {record['labelled']:5d} labels  {'  '.join(figures)}", flush=True)
    if not config.quiet:
        print(f"run: {folder}  (tensorboard --logdir {folder})")


def list_strategies(config: Strategies) -> None:
    """Print the cards, as plain lines that fit any terminal and any pipe."""
    from active.strategies import CARDS

    width = max(map(len, CARDS))
    for card in CARDS.values():
        print(f"{card.name:<{width}}  {card.line}")
        print(f"{'':<{width}}  needs {', '.join(card.needs) or 'nothing'}; {card.cost}; source: {card.source}")


COMMANDS = {
    "run": Command(Rounds, run_active, "Rounds of asking and training on a transfer, with a simulated oracle."),
    "strategies": Command(Strategies, list_strategies, "List the acquisition strategies."),
}


def main() -> int:
    """The exit code of the command line."""
    return run("python -m active", "Which target samples are worth a label?", COMMANDS)


if __name__ == "__main__":
    sys.exit(main())
