"""Active adaptation on digits as CLUE's authors measure it: rounds of a few labels from a source model.

    start        LeNet on the source alone
    each round   query `budget` target labels; train on, with source and target labels (Adam at 2e-4, batches of 128)

Protocol: Prabhu, Chandrasekaran, Saenko & Hoffman, "Active Domain Adaptation via Clustering Uncertainty-weighted
Embeddings", ICCV 2021, on MNIST <-> USPS in place of SVHN -> MNIST.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from dan.errors import UserError
from experiments.digits.trial import SET, DigitsData, network
from experiments.framework.experiment import Cell, Experiment, grid, round_records
from experiments.framework.measurements import measurements
from experiments.framework.options import Options, check_names, check_runs, check_samples, check_strategies
from experiments.framework.records import Record
from experiments.framework.report import Drawn, Report
from experiments.framework.reporting import plots
from experiments.framework.reporting.against_random import gains
from experiments.framework.reporting.summary import LEGEND, summary
from experiments.framework.reporting.tables import each, points
from experiments.framework.trials import Trial, dotted
from experiments.method_tables import column_of
from experiments.tasks import folders_of, machine

BATCH = 128  # images a step: of the source, of the labelled target, and where something is aligned of the target
TASKS = ("mnist2usps", "usps2mnist")
STRATEGIES = ("random", "margin", "entropy", "k_center", "badge", "clue", "aada", "mmd_reduction", "hybrid")


@dataclass(frozen=True)
class ClueDigits(Options):
    """What is trained; a folder keeps one choice of these, and a finished trial is never run again."""

    NAME: ClassVar[str] = "clue_digits"
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
    """these strategies only (python -m active strategies)"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """one run of everything for each"""
    steps: int = 500
    """training steps of the source model"""
    budget: str = "30"
    """labels a round: a number, or a share of the pool as 1%"""
    rounds: int = 5
    """rounds of queries"""
    steps_per_round: int = 150
    """training steps after each query"""
    epochs: int = 0
    """passes over the pool after each query, in place of --steps-per-round (published: 60)"""
    method: str = "mme"
    """the loss that adapts, where --trade-off is above 0"""
    trade_off: float = 0.0
    """its weight; 0: labels alone"""
    samples: int = 10_000
    """at most so many images of each split, evenly spaced (0: all)"""

    def check(self) -> None:
        from active.budgets import budget_count, check_rounds
        from dan.data.batches import num_samples
        from dan.losses import METHODS

        check_names("tasks", self.tasks, TASKS)
        check_names("method", (self.method,), list(METHODS))
        check_runs(self.seeds, self.steps)
        check_strategies(self.tasks, self.strategies)
        if self.steps_per_round < 1 or self.epochs < 0 or self.trade_off < 0:
            raise UserError("--steps-per-round must be 1 or more, --epochs and --trade-off 0 or more")
        check_samples(self, "samples", least=200)
        budget_count(self.budget, 1)  # before the data are read
        for task in self.tasks:
            pool = num_samples(DigitsData(**place_of(self)).task(task).target)
            check_rounds(budget_count(self.budget, pool), self.rounds, pool)


# --- trials -----------------------------------------------------------------------------------------------------------


def place_of(config: ClueDigits) -> dict[str, Any]:
    """Where the data lie, as `experiments.digits.trial.DigitsData` has it."""
    return {**folders_of(config), "samples": config.samples}


def load_train_config(steps: int, method: str) -> Any:
    """The published settings: Adam at 2e-4, constant, one rate for all layers, weight decay 1e-5."""
    from dan.training.config import TrainConfig

    adam: dict[str, Any] = {"optimizer": "adam", "lr": 2e-4, "weight_decay": 1e-5, "head_lr_mult": 1.0}
    constant: dict[str, Any] = {"lr_gamma": 0.0, "schedule": "constant"}
    return TrainConfig(method=method, batch_size=BATCH, evaluate_every=steps, feature_map=False, **adam, **constant)


def start(folder: Path, *, place: dict[str, Any], task: str, steps: int, seed: int) -> dict[str, Any]:
    """A trial: the network that all rounds of a seed start from, trained on the source alone."""
    from dan.training.trainer import fit

    data = DigitsData(**place).task(task)
    options: dict[str, Any] = {"trade_off": 0.0, "steps": steps, "seed": seed, "tests": data.splits, "run": folder}
    options |= {"config": load_train_config(steps, "dan"), "metadata": {"task": data.name}}
    records = fit(network(data, seed), data.source, data.target, **options)
    return {"evaluation": records[-1], "measured_on": machine()}


def query(
    folder: Path, *, place: dict[str, Any], task: str, start: str, strategy: str, method: str, seed: int, **plan: Any
) -> dict[str, Any]:
    """A trial: the rounds of one strategy, from the network of the trial `start`.

    plan: budget, rounds, trade_off, steps_per_round, and epochs: passes over the target after each query, in place of
    steps_per_round; 0: steps_per_round.
    """
    from active.learners.dan import run_rounds
    from active.learners.rounds_config import RoundsConfig
    from dan.data.batches import num_samples

    data = DigitsData(**place).task(task)
    pool = num_samples(data.target)
    steps = plan["epochs"] * -(-pool // BATCH) or plan["steps_per_round"]
    rounds = RoundsConfig(
        budget=plan["budget"], num_rounds=plan["rounds"], steps_per_round=steps, trade_off=plan["trade_off"]
    )
    options: dict[str, Any] = {"seed": seed, "run": folder, "config": load_train_config(steps, method)}
    records = run_rounds(data, strategy, rounds, start=folder.parent / start, **options)
    return {"evaluations": list(records), "steps_per_round": steps, "pool": pool, "measured_on": machine()}


def trial_of(task: str, strategy: str, seed: int, config: ClueDigits) -> Trial:
    """The trial of one strategy and seed, after the source model that all strategies of the seed start from."""
    shared: dict[str, Any] = {"place": place_of(config), "task": task, "seed": seed}
    begun = Trial(f"{task}-start-seed{seed}", start, {**shared, "steps": config.steps})
    plan = {n: getattr(config, n) for n in ("method", "trade_off", "budget", "rounds", "steps_per_round", "epochs")}
    arguments = {**shared, **plan, "start": begun.name, "strategy": strategy}
    return Trial(f"{task}-{dotted(strategy)}-seed{seed}", query, arguments, (begun,))


def cells(config: ClueDigits) -> list[Cell]:
    """One cell a transfer and strategy."""
    kept = {"steps": config.steps, "trade_off": config.trade_off, "adapts": config.method, "samples": config.samples}
    return [
        Cell(
            about={"task": SET + task, "network": "lenet", "method": strategy, **kept},
            only=only,
            trials=[trial_of(task, strategy, seed, config) for seed in config.seeds],
        )
        for only, (task, strategy) in grid(config, "tasks", "strategies")
    ]


# --- the report -------------------------------------------------------------------------------------------------------


def finding(records: Sequence[Record], task: str) -> list[str]:
    """At the most labels on the never-queried images: random, and who gains most and least over it, seed by seed."""
    final = plots.final(measurements(records), "unqueried")
    gained = gains({method: values for method, (_, values) in final.items()})
    if not gained:
        return []
    means = {method: fmean(values.values()) for method, values in gained.items()}
    best, worst = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    key, base = final["random"]
    base_line = f"{column_of(task)}, {key.labels} labels, unqueried: random {fmean(base.values()):.1f} %"
    ends = f"best {best} {points(gained[best])}, worst {worst} {points(gained[worst])}"
    below = ", ".join(method for method, mean in means.items() if mean < 0)
    return [f"{base_line}; {ends}; below it: {below or 'none'}."]


def captions(records: Sequence[Record]) -> list[str]:
    """How the numbers were made."""
    steps, more, pools, most = (each(records, name) for name in ("steps", "steps_per_round", "pool", "samples"))
    adapted = sorted({record["adapts"] for record in records if record["trade_off"]})
    aligned = f"{', '.join(adapted)} at trade-off {each(records, 'trade_off')}" if adapted else "no alignment"
    return [
        LEGEND,
        f"Start: {steps} steps on the source alone, one for all strategies of a seed. Each round: {more} steps "
        f"(published: 60 epochs) from the last round's weights with a new Adam, on batches of {BATCH} source and "
        f"{BATCH} labelled target images; {aligned}. Pool: {pools} images; at most {most} of a split, "
        "evenly spaced (0: all). aada gets P(source) from a linear classifier of the features, not from DANN.",
    ]


def report_of(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    by_task = {task: [record for record in records if record["task"] == SET + task] for task in TASKS}
    by_task = {task: own for task, own in by_task.items() if own}
    figures = []
    for split, name in (("unqueried", "the never-queried images"), ("test", "the test split")):
        figure = plots.panels(measurements(records), split, columns=2)
        caption = f"Accuracy on {name} against labels: mean and one standard deviation over seeds."
        figures += [] if figure is None else [Drawn(f"{split}.png", figure, caption)]
    return Report(
        title="Active adaptation on MNIST and USPS, in rounds from a source model",
        findings=[line for task, own in by_task.items() for line in finding(own, task)],
        tables=[(f"{column_of(task)}, LeNet", summary(own)) for task, own in by_task.items()],
        figures=figures,
        captions=captions(records),
    )


EXPERIMENT = Experiment(
    options=ClueDigits,
    summary="MNIST <-> USPS: nine strategies in rounds, from a source model",
    cells=cells,
    report=report_of,
    records=round_records,
)
