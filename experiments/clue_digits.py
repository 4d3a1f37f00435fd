"""Active adaptation on digits as CLUE's authors measure it: rounds of a few labels from a source model.

    start        LeNet on the source alone
    each round   ask for `budget` target labels; train on, with source and bought labels (Adam at 2e-4, batches of 128)

Protocol: Prabhu, Chandrasekaran, Saenko & Hoffman, "Active Domain Adaptation via Clustering Uncertainty-weighted
Embeddings", ICCV 2021, on MNIST <-> USPS in place of SVHN -> MNIST.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dan.errors import UserError
from experiments.digits.trial import SET
from experiments.framework.experiment import Cell, Experiment, Results, evaluation_records, grid
from experiments.framework.measurements import Key, measurements
from experiments.framework.options import Options, check_names, check_runs, check_samples, check_strategies
from experiments.framework.records import Record
from experiments.framework.report import Drawn, Report
from experiments.framework.reporting import against_random, plots
from experiments.framework.reporting.against_random import BySeed, gains, iter_batches, seconds_of_runs
from experiments.framework.reporting.tables import Table, each, points, told
from experiments.framework.trials import Trial, dotted
from experiments.jobs import clue_digits as jobs
from experiments.method_tables import column_of
from experiments.tasks import folders_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NETWORK = "lenet"
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

    def check(self) -> None:
        from active.budgets import budget_count, check_rounds
        from dan.data.batches import num_samples
        from dan.losses import METHODS
        from experiments.digits.trial import DigitsData

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


def cells(config: ClueDigits) -> list[Cell]:
    """One cell a transfer and strategy."""
    kept = {"steps": config.steps, "trade_off": config.trade_off, "adapts": config.method, "samples": config.samples}
    return [
        Cell(
            about={"task": SET + task, "network": NETWORK, "method": strategy, **kept},
            only=only,
            trials=[trial_of(task, strategy, seed, config) for seed in config.seeds],
        )
        for only, (task, strategy) in grid(config, "tasks", "strategies")
    ]


def records_of(cell: Cell, trial: Trial, results: Results) -> list[Record]:
    """One record a round: the model after its last step."""
    made = evaluation_records(cell, trial, results)
    for record in made:
        record |= {"labels": record.pop("labelled"), "selection": "last"}
    return made


# --- the report -------------------------------------------------------------------------------------------------------

SPLITS = {"target": "all of the target", "unqueried": "the target images never asked for", "test": "the test split"}


def of_task(records: Sequence[Record], task: str) -> dict[Key, dict[int, float]]:
    """The measurements of one transfer, strategies in the order of the experiment."""
    return measurements(iter_batches(of_transfer(records, task), STRATEGIES))


def of_transfer(records: Sequence[Record], task: str) -> list[Record]:
    """The records of one transfer."""
    return [record for record in records if record["task"] == SET + task]


def tasks_in(records: Sequence[Record]) -> list[str]:
    """The transfers that have records, in order."""
    there = {record["task"].removeprefix(SET) for record in records}
    return [task for task in TASKS if task in there]


def at_last(records: Sequence[Record], task: str, split: str, metric: str = "accuracy") -> dict[str, BySeed]:
    """strategy -> {seed: percent} at the most labels."""
    return {method: values for method, (_, values) in plots.final(of_task(records, task), split, metric).items()}


def table_of(records: Sequence[Record], task: str) -> Table:
    """One row a strategy at its most labels, and what it gains over random on the images never asked for."""
    measured = of_task(records, task)
    columns = [at_last(records, task, split) for split in SPLITS]
    gained = gains(columns[1])
    areas, seconds = at_last(records, task, "unqueried", "alc"), seconds_of_runs(of_transfer(records, task))
    lines = []
    for method, (key, values) in plots.final(measured, "target").items():
        cells = [told(column.get(method)) for column in columns]
        gain = gained.get(method)
        lines.append([method, str(key.labels), *cells, points(gain), told(areas.get(method))])
        lines[-1] += [
            f"{min(columns[1].get(method, values).values()):.1f}",
            told(seconds.get(method), 0),
            str(len(values)),
        ]
    headers = ["strategy", "labels", *SPLITS, "over random", "ALC unqueried", "worst", "s a run", "n"]
    return headers, lines


def findings(records: Sequence[Record]) -> list[str]:
    """Sentences that the records decide, on the images never asked for, seed by seed against random."""
    said = []
    for task in tasks_in(records):
        labels = max(record["labels"] for record in of_transfer(records, task))
        sentence = against_random.finding(at_last(records, task, "unqueried"), "images never asked for", points)
        said += [f"{column_of(task)}, {labels} labels: {sentence}"] if sentence else []
    return said


def curve(records: Sequence[Record], task: str, split: str) -> Figure | None:
    """Accuracy against labels with bands of one standard deviation; random is grey."""
    figure = against_random.curves(of_task(records, task), split)
    if figure is not None:
        figure.axes[0].set_title(column_of(task), fontsize=9)
    return figure


def captions(records: Sequence[Record]) -> list[str]:
    """How the numbers were made."""
    steps, more, pools = (each(records, name) for name in ("steps", "steps_per_round", "pool"))
    adapted = {record["adapts"] for record in records if record["trade_off"]}
    weight = each(records, "trade_off")
    besides = f"beside them {', '.join(sorted(adapted))} at the trade-off {weight}" if adapted else "no alignment"
    most = max(record["samples"] for record in records)
    pool = f"at most {most:,} images of each split, evenly spaced" if most else "all images of each split"
    return [
        "Accuracy in percent, mean ± standard deviation over n seeds, of the model after the last step. target: all "
        "images of the pool, asked for or not; unqueried: those never asked for; test: the target's own test split; "
        "over random: the difference on unqueried, seed by seed; ALC: area under the accuracy-labels curve on "
        "unqueried; worst: unqueried of the worst seed; s a run: seconds of all rounds of one seed, asking and "
        "evaluation included.",
        f"Start: {steps} steps on the source alone, the same for all strategies of a seed. Each round: "
        f"{more} steps on, from the last round's weights with a new Adam (rate 0.0002, weight decay "
        "0.00001, batches of 128 source and 128 bought target images, which weigh the same); "
        f"{besides}. The published form has 60 epochs a round (--epochs 60). Pool: {pools} images; {pool}, for "
        "the time that it takes to look at them in every round. aada is shown P(source) by a linear classifier of the "
        "features, not by DANN.",
    ]


def report_of(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    figures = []
    for task in tasks_in(records):
        for split, name in SPLITS.items():
            if (figure := curve(records, task, split)) is not None:
                text = (
                    f"{column_of(task)}: accuracy on {name} against labels, mean and one standard deviation over seeds."
                )
                figures.append(Drawn(f"{task}_{split}.png", figure, text))
    return Report(
        title="Active adaptation on MNIST and USPS, in rounds from a source model",
        findings=findings(records),
        tables=[(f"{column_of(task)}, LeNet", table_of(records, task)) for task in tasks_in(records)],
        figures=figures,
        captions=captions(records),
    )


EXPERIMENT = Experiment(
    options=ClueDigits,
    summary="MNIST <-> USPS: nine strategies in rounds, from a source model",
    cells=cells,
    report=report_of,
    records=records_of,
)
