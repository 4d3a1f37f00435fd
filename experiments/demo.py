"""The first experiment to run: source-only, DAN, and DAN with a few target labels by four strategies, on digits.

for each seed:  source-only (lambda = 0)    DAN (lambda > 0)    and from that DAN, for each strategy:
                query `budget` labels, train on, `rounds` times

The target's labels are used in two places only: to measure accuracy, and by the simulated oracle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dan.errors import UserError
from experiments.framework.experiment import Cell, Experiment, Results, evaluation_records, round_records
from experiments.framework.measurements import measurements
from experiments.framework.options import Options, check_least, check_runs
from experiments.framework.records import Record
from experiments.framework.report import Drawn, Report
from experiments.framework.reporting import plots
from experiments.framework.reporting.summary import LEGEND, summary
from experiments.framework.trials import Trial, dotted
from experiments.tasks import machine

if TYPE_CHECKING:
    from dan.data.tasks import DomainPair

TASK, NETWORK = "rendered2digits", "lenet"
SOURCE_ONLY, DAN = "source-only", "DAN"


@dataclass(frozen=True)
class Demo(Options):
    """What is trained."""

    NAME: ClassVar[str] = "demo"
    QUICK: ClassVar[dict[str, Any]] = {
        "steps": 20,
        "seeds": (0,),
        "strategies": ("random", "margin"),
        "budget": 5,
        "rounds": 1,
        "steps_per_round": 10,
    }

    steps: int = 800
    """training steps of source-only and of DAN"""
    trade_off: float = 3.0
    """lambda of DAN (of 1, 3 and 5 the one with the most label-free information on a seed that is not reported)"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """one run of everything for each"""
    strategies: tuple[str, ...] = ("random", "margin", "k_center", "mmd_reduction")
    """acquisition strategies (python -m active strategies)"""
    budget: int = 15
    """labels of a round"""
    rounds: int = 4
    """rounds of querying and training on"""
    steps_per_round: int = 80
    """training steps after each query"""

    def check(self) -> None:
        from active.strategies import get_strategy

        check_runs(self.seeds, self.steps)
        check_least(self, "budget", "steps_per_round")
        if self.rounds < 0:
            raise UserError(f"--rounds must be 0 or more, not {self.rounds}")
        for strategy in self.strategies:
            get_strategy(strategy)


# --- trials -----------------------------------------------------------------------------------------------------------


@cache
def load(task: str) -> DomainPair:
    """The task's data, made once in a process: its trials only read it."""
    from dan.data.tasks import load_pair

    return load_pair(task)


def adapt(folder: Path, *, task: str, trade_off: float, steps: int, seed: int) -> dict[str, Any]:
    """A trial: train a fresh network from the source to the target, as `python -m dan train` does."""
    import torch

    from dan.models.dan import DAN as Network
    from dan.training.trainer import fit

    pair = load(task)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Network(pair.backbone, len(pair.classes))
    settings: dict[str, Any] = {"trade_off": trade_off, "steps": steps, "seed": seed}
    evaluations = fit(
        model, pair.source, pair.target, tests=pair.splits, run=folder, metadata={"task": task}, **settings
    )
    return {"evaluations": evaluations, "measured_on": machine()}


def query(folder: Path, *, task: str, start: str, strategy: str, **settings: Any) -> dict[str, Any]:
    """A trial: rounds of querying target labels, from the network of the trial `start`."""
    from active.learners.dan import run_rounds
    from active.learners.rounds_config import RoundsConfig

    seed = settings.pop("seed")
    schedule = RoundsConfig(**settings)
    rounds = run_rounds(load(task), strategy, schedule, start=folder.parent / start, seed=seed, run=folder)
    return {"evaluations": list(rounds), "measured_on": machine()}


def trial_of(method: str, seed: int, config: Demo) -> Trial:
    """The trial of a row: a training, or rounds that start from DAN's."""
    settings: dict[str, Any] = {"task": TASK, "seed": seed, "trade_off": config.trade_off}
    if method in (SOURCE_ONLY, DAN):
        settings |= {"steps": config.steps} | ({"trade_off": 0.0} if method == SOURCE_ONLY else {})
        return Trial(f"{method.lower()}-seed{seed}", adapt, settings)
    start = trial_of(DAN, seed, config)
    settings |= {"strategy": method, "start": start.name, "budget": config.budget, "num_rounds": config.rounds}
    settings |= {"steps_per_round": config.steps_per_round}
    return Trial(f"{dotted(method)}-seed{seed}", query, settings, (start,))


def cells(config: Demo) -> list[Cell]:
    """One cell a row: source-only, DAN, and each strategy."""
    rows = [SOURCE_ONLY, DAN, *(config.strategies if config.rounds else ())]
    about = {"task": TASK, "network": NETWORK, "labels": 0}
    return [
        Cell(about={**about, "method": row}, only={}, trials=[trial_of(row, s, config) for s in config.seeds])
        for row in rows
    ]


def records_of(cell: Cell, trial: Trial, results: Results) -> list[Record]:
    """The evaluations; the last model of a training, and that of every round, is selected."""
    return (round_records if trial.function is query else evaluation_records)(cell, trial, results)


# --- the report -------------------------------------------------------------------------------------------------------


def findings(records: Sequence[Record]) -> list[str]:
    """What DAN gains over source-only, and what the labels add, on the target's test split."""
    from statistics import fmean

    found = {m: fmean(by_seed.values()) for m, by_seed in plots.final_values(measurements(records), "test").items()}
    said = []
    if SOURCE_ONLY in found and DAN in found:
        said.append(f"Target test accuracy: source-only {found[SOURCE_ONLY]:.1f} %, DAN {found[DAN]:.1f} %.")
    bought = {method: value for method, value in found.items() if method not in (SOURCE_ONLY, DAN)}
    if bought:
        labels = max(record["labels"] for record in records)
        listed = ", ".join(f"{method} {value:.1f} %" for method, value in bought.items())
        said.append(f"With {labels} target labels: {listed}.")
    return said


def queried_figures(records: Sequence[Record]) -> list[Drawn]:
    """The images that each strategy queried first, of the first seed."""
    import torch

    from dan.data.batches import fetch
    from dan.figures import pictures_figure

    pair, drawn = load(TASK), []
    first = min(record["seed"] for record in records)
    for record in records:
        # Round 0 is the network before any label, and its query is the first round's.
        if record.get("round") == 0 and record["seed"] == first and record.get("queried"):
            images, labels = fetch(pair.target, torch.tensor(record["queried"]))
            names = [pair.classes[int(label)] for label in labels]
            counts = ", ".join(f"{name} ×{count}" for name, count in sorted(Counter(names).items()))
            caption = f"{record['method']}, first query, seed {first}: {len(set(names))} classes ({counts})."
            file = f"queried_{dotted(record['method'])}.png"
            drawn.append(Drawn(file, pictures_figure(images, names, columns=5), caption, of_images=True))
    return drawn


def report(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    measured = measurements(records)
    figures = [Drawn("accuracy.png", plots.bars(measured), "Accuracy on all of the target: mean, deviation, seeds.")]
    for split, name in plots.SPLIT_NAMES.items():
        if (figure := plots.curves(measured, split)) is not None:
            figures.append(Drawn(f"labels_{split}.png", figure, f"Accuracy on {name} against the target labels."))
    return Report(
        title=f"{TASK}: from rendered fonts to handwritten scans",
        findings=findings(records),
        tables=[("At the most labels", summary(records))],
        figures=[*figures, *queried_figures(records)],
        captions=[
            LEGEND,
            "LeNet and one hidden layer, from random weights. Source-only and DAN start from the same weights and "
            "train for as many steps; strategies start from the DAN of the same seed and keep its alignment.",
            "Strategies differ in which images stay unqueried: compare them on the test split. A few seeds on small "
            "images show what the parts do, not which strategy is best.",
        ],
    )


EXPERIMENT = Experiment(
    options=Demo,
    summary="source-only, DAN and four acquisition strategies, on rendered -> scanned digits",
    cells=cells,
    report=report,
    records=records_of,
)
