"""The first thing to run: source-only, DAN, and DAN with a few target labels chosen in four ways, on embedded digits.

for each seed:  source-only (lambda = 0)    DAN (lambda > 0)    and from that DAN, for each strategy:
                ask for `budget` labels, train on, `rounds` times
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__ in (None, ""):  # python experiments/demo.py puts this folder on the path, and not its parent
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from dan.cli.command_line import Command, run
from dan.errors import UserError
from experiments.records import Record, read, to_lines, write_text
from experiments.running import check_runs
from experiments.transfers import versions
from experiments.trials import Outcome, Trial, run_trials

if TYPE_CHECKING:
    from dan.data.tasks import DomainPair

TASK = "rendered2digits"
TRADE_OFF = 3.0  # of 1, 3 and 5: the highest dan.evaluation.validators.information on a seed that the demo does not use
STEPS = 800
SEEDS = (0, 1, 2)
STRATEGIES = ("random", "margin", "k_center", "mmd_reduction")
BUDGET = 15
ROUNDS = 4
ROUND_STEPS = 80


@dataclass(frozen=True)
class Demo:
    """What the demo trains; a folder keeps one choice of these."""

    out: Path = Path("runs/demo")
    """folder of the runs, records and report"""
    steps: int = STEPS
    """training steps of source-only and of DAN"""
    trade_off: float = TRADE_OFF
    """lambda of DAN: the weight of the MK-MMD terms"""
    seeds: tuple[int, ...] = SEEDS
    """one run of everything for each"""
    strategies: tuple[str, ...] = STRATEGIES
    """ways to choose the target images to label (python -m active strategies)"""
    budget: int = BUDGET
    """labels asked for in a round"""
    rounds: int = ROUNDS
    """rounds of asking and training on"""
    steps_per_round: int = ROUND_STEPS
    """training steps after each round's answers"""
    workers: int = 2
    """trials at a time, one thread each"""
    cluster: str | None = None
    """run the trials on a cluster's workers: dask://HOST:PORT"""
    quiet: bool = False
    """no progress bar"""


def command_of(config: Demo) -> str:
    """The command that makes these records again: where they are kept and how many work at it change nothing."""
    words = ["python -m experiments run demo"]
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name not in ("out", "workers", "cluster", "quiet") and value != field.default:
            flag = "--" + field.name.replace("_", "-")
            words.append(" ".join([flag, *map(str, value if isinstance(value, tuple) else [value])]))
    return " ".join(words)


def trials_of(config: Demo) -> list[Trial]:
    """Every trial of the demo, those with labels after the DAN they start from."""
    trials = []
    for seed in config.seeds:
        common = {"task": TASK, "seed": seed}
        for method, trade_off in (("source-only", 0.0), ("dan", config.trade_off)):
            settings = {**common, "trade_off": trade_off, "steps": config.steps}
            trials.append(Trial(f"{method}-seed{seed}", "experiments.demo:adapt", settings))
        for strategy in config.strategies if config.rounds else ():
            start = f"dan-seed{seed}"
            settings = {
                **common,
                "strategy": strategy,
                "start": start,
                "budget": config.budget,
                "num_rounds": config.rounds,
                "steps_per_round": config.steps_per_round,
                "trade_off": config.trade_off,
            }
            trials.append(Trial(f"{strategy}-seed{seed}", "experiments.demo:ask", settings, after=(start,)))
    return trials


@cache
def transfer_named(task: str) -> DomainPair:
    """The task's data, made once in a process: its trials only read it."""
    from dan.data.tasks import load_pair

    return load_pair(task)


def adapt(folder: Path, *, task: str, trade_off: float, steps: int, seed: int) -> dict[str, Any]:
    """A trial: train a fresh network from the source to the target, as `python -m dan train` would."""
    import torch

    from dan.models.dan import DAN
    from dan.training.trainer import fit

    transfer = transfer_named(task)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DAN(transfer.backbone, len(transfer.classes))
    records = fit(
        model,
        transfer.source,
        transfer.target,
        trade_off=trade_off,
        steps=steps,
        seed=seed,
        tests=transfer.splits,
        run=folder,
        metadata={"task": task},
    )
    return {"network": transfer.backbone, "evaluations": records, "measured_on": versions()}


def ask(folder: Path, *, task: str, start: str, **settings: Any) -> dict[str, Any]:
    """A trial: rounds of asking for target labels, from the network of the trial `start` beside this one."""
    from active.learners.dan import run_rounds
    from active.learners.rounds_config import RoundsConfig

    transfer, strategy, seed = transfer_named(task), settings.pop("strategy"), settings.pop("seed")
    plan = RoundsConfig(**settings)
    rounds = run_rounds(transfer, strategy, plan, start=folder.parent / start, seed=seed, run=folder)
    return {"network": transfer.backbone, "evaluations": list(rounds), "measured_on": versions()}


def records_of(config: Demo, outcome: Outcome) -> list[Record]:
    """The evaluations of all finished trials, one record each. The last model of a run, or of a round, is selected."""
    names = {"source-only": "source-only", "dan": "DAN"} | {strategy: strategy for strategy in config.strategies}
    records = []
    for prefix, method in names.items():
        for seed in config.seeds:
            result = outcome.results.get(f"{prefix}-seed{seed}", {"evaluations": []})
            evaluations = result["evaluations"]
            for place, evaluation in enumerate(evaluations):
                chosen = "round" in evaluation or place == len(evaluations) - 1
                record = {"experiment": "demo", "task": TASK, "network": result["network"], "method": method}
                record |= {"labels": evaluation.get("labelled", 0), "seed": seed, "selection": "last" if chosen else ""}
                record |= {"paper": None, "provenance": "", "command": command_of(config)}
                record |= {key: value for key, value in evaluation.items() if key not in ("event", "labelled")}
                records.append(record | result["measured_on"])
    return records


def run_demo(config: Demo) -> int:
    """Train what is missing, report all; exit code 1 if a trial failed."""
    _check(config)
    began = time.perf_counter()
    trials = trials_of(config)
    from_nothing = not any((config.out / trial.name).exists() for trial in trials)
    outcome = run_trials(trials, folder=config.out, workers=config.workers, cluster=config.cluster, quiet=config.quiet)
    for line in outcome.failed.values():
        print(f"failed: {line}", file=sys.stderr)
    records = records_of(config, outcome)
    if not any(record["selection"] for record in records):
        return 1
    path, lines = config.out / "records.jsonl", to_lines(records)
    page = config.out / "report.html"
    if from_nothing and not outcome.failed:  # the time of a run that was resumed, or found finished, says nothing
        took = {"seconds": round(time.perf_counter() - began), "workers": config.workers, **versions()}
        write_text(config.out / "took.json", json.dumps(took) + "\n")
    if not page.is_file() or not path.is_file() or path.read_text(encoding="utf-8") != lines:
        page.unlink(missing_ok=True)  # if the report fails, the next run must not take the old one for it
        write_text(path, lines)
        report(config.out)
    from experiments.report import LEGEND, show

    show(records, title=f"{TASK}: rendered fonts to handwritten scans")
    print(f"{LEGEND}\n\ntook: {time.perf_counter() - began:.0f} s\nreport: {page}")
    print(f"watch the training: {Path(sys.executable).parent / 'tensorboard'} --logdir {config.out}")
    return 1 if outcome.failed else 0


def _check(config: Demo) -> None:
    """The mistakes that would otherwise show only after minutes of training."""
    check_runs(config.seeds, config.steps)
    if config.budget < 1 or config.steps_per_round < 1 or config.rounds < 0:
        raise UserError("--budget and --steps-per-round must be 1 or more, --rounds 0 or more")
    if config.strategies != STRATEGIES:  # the default ones are known to be there without waiting for PyTorch
        from active.strategies import get_strategy

        for strategy in config.strategies:
            get_strategy(strategy)


def report(folder: Path) -> Path:
    """Make the tables and the page again from the folder's records and networks; the path of the page."""
    from experiments.pages.demo import demo_page
    from experiments.report import write

    return write(folder, demo_page(folder, read(folder / "records.jsonl")))


COMMAND = Command(Demo, run_demo, "source-only, DAN and four ways to ask for labels, on rendered -> scanned digits")

if __name__ == "__main__":
    sys.exit(run("experiments/demo.py", "The demo.", {"demo": COMMAND}, ["demo", *sys.argv[1:]]))
