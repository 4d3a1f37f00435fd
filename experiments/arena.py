"""The arena: which way to ask buys most? Fifteen transfers, nineteen strategies, one short protocol, all on a DAN.

    start        a DAN on the source and the unlabelled pool; the trunk is frozen then, so that a run takes seconds
    five times   ask for 1, 1, 3, 5 and 10 % of the pool; fine-tune with all labels bought so far, still aligned
    measured     ALC: area under accuracy(labels) on a test split that nobody could ask about, in percent;
                 labels_to_95: labels until 95 % of the accuracy that all labels give

Transfers that share a target are not independent, so what is chosen is chosen across targets: see arena_field.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from dan.cli.command_line import Command
from dan.errors import UserError
from experiments.arena_field import GROUPS, PARTS, STRATEGIES, target_of
from experiments.digits.trial import ALIGN
from experiments.framework.measurements import alc
from experiments.framework.options import (
    Options,
    check_least,
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
from experiments.jobs import arena as jobs
from experiments.jobs.arena import BACKBONE, EVERYTHING, TEN_CLASS
from experiments.label_free_search import check_reported
from experiments.office_caltech10 import searched
from experiments.office_caltech10.trial import DOMAINS, prepare
from experiments.tasks import folders_of, weights_file

NAME = "arena"

FROZEN = ("fire5", "fire6", "fire7", "fire8", EVERYTHING)  # stages that a trunk of photographs may be frozen up to
EVERY = "all labels"  # the method that records call the start fine-tuned with every label of the pool
BUDGET = ("1%", "1%", "3%", "5%", "10%")  # together 1, 2, 5, 10 and 20 %
GOAL = 0.95  # of the accuracy that all labels give
# LeNet's: the constant rate of Caffe's solver for it, and the trade-off of the authors' release of DAN. No search.
DIGITS_RATE, DIGITS_TRADE_OFF = 0.01, 1.0


@dataclass(frozen=True)
class Arena(Options):
    """What is run; a folder keeps one choice of these, and a finished trial is never run again."""

    NAME: ClassVar[str] = NAME
    QUICK: ClassVar[dict[str, Any]] = {
        "tasks": ("rendered2digits",),
        "strategies": ("random", "margin"),
        "seeds": (0,),
        "steps": 20,
        "steps_per_round": 5,
        "samples": 300,
    }

    squeezenet_weights: str = "DEFAULT"
    """ImageNet weights of SqueezeNet 1.1: a name, or a state-dict file, looked for in the folder of data sets too"""
    parts: Literal["development", "confirmation", "all"] = "all"
    """these groups of transfers only: development (the paper's six of the ten-class set), confirmation (the others)"""
    tasks: tuple[str, ...] = ()
    """these transfers only, such as: rendered2digits office_caltech10_c2w (default: those of --parts)"""
    strategies: tuple[str, ...] = STRATEGIES
    """these ways to ask only (python -m active strategies), also your own as module:function"""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """one run of everything for each"""
    budget: tuple[str, ...] = BUDGET
    """labels of each round: numbers, or shares of the pool"""
    steps: int = 300
    """training steps of the start"""
    steps_per_round: int = 60
    """training steps after each round's answers"""
    trade_off: float | None = None
    """DAN's, of the starts and the rounds; 0 aligns nothing (default: what dan_table2's search chose; 1 on digits)"""
    samples: int = 1500
    """at most so many digits of each split, evenly spaced (0: all)"""
    image_size: int = 224
    """pixels a side of the photographs"""
    frozen: str = EVERYTHING
    """photographs: SqueezeNet is frozen up to this stage, and fine-tuned above it: fire5 ... fire8, pool (all of it)"""
    search: Path | None = None
    """folder of a run of dan_table2, whose search chose rate and trade-off (default: the published one)"""


# --- the transfers ----------------------------------------------------------------------------------------------------


def tasks_of(config: Arena) -> list[str]:
    """The transfers that are run, in order."""
    listed = [task for group in PARTS[config.parts] for task in GROUPS[group]]
    return list(config.tasks) or listed


# --- trials -----------------------------------------------------------------------------------------------------------


def trained_how(task: str, config: Arena) -> dict[str, Any]:
    """What the trials of a task say of training: "how" (a recipe's fields) and "trade_off"."""
    if not task.startswith(TEN_CLASS):
        how = {"method": "dan", "align": list(ALIGN), "lr": DIGITS_RATE}
        return {"how": how, "trade_off": DIGITS_TRADE_OFF if config.trade_off is None else config.trade_off}
    found, _ = searched(config.search)
    how = {"method": "dan", "align": ["hidden1", "output"], "lr": found["lr"]}
    return {"how": how, "trade_off": found["trade_off"] if config.trade_off is None else config.trade_off}


def place_of(task: str, config: Arena) -> dict[str, Any]:
    """Where the data of a task lie, as `experiments.jobs.arena.Place` has it."""
    place: dict[str, Any] = {**folders_of(config)}
    if not task.startswith(TEN_CLASS):
        return place | {"samples": config.samples}
    return place | {
        "weights": weights_file(config.squeezenet_weights, Path(place["data"])),
        "image_size": config.image_size,
        "frozen": config.frozen,
    }


def network_of(task: str, config: Arena) -> str:
    """What records call the network of a task."""
    if not task.startswith(TEN_CLASS):
        return "lenet"
    return BACKBONE if config.frozen == EVERYTHING else f"{BACKBONE}-frozen-to-{config.frozen}"


def shown_by(task: str, config: Arena) -> Record:
    """What the dashboard needs, to show the pictures that a round asked for."""
    names = ("image_size",) if task.startswith(TEN_CLASS) else ("samples",)
    return {name: getattr(config, name) for name in names}


def preparing(task: str, config: Arena) -> list[Trial]:
    """The trials that run the frozen trunk on both domains of a ten-class task: one a domain, whatever else is run."""
    if not task.startswith(TEN_CLASS):
        return []
    place = place_of(task, config) | {"backbone": BACKBONE}
    return [
        Trial(f"trunk-{side}", prepare, {"place": place, "sides": [side], "held_out": 0.0})
        for side in task.removeprefix(TEN_CLASS).split("2")
    ]


def viewing(task: str, config: Arena) -> list[Trial]:
    """The trial that runs the frozen trunk on views of a ten-class task's target, whatever the source."""
    if not task.startswith(TEN_CLASS):
        return []
    side = target_of(task)
    named = TEN_CLASS + next(other for other in DOMAINS if other != side) + "2" + side
    return [Trial(f"views-{side}", jobs.views_of_domain, {"place": place_of(task, config), "task": named})]


def start_of(task: str, seed: int, config: Arena) -> Trial:
    """The trial of the DAN that all strategies of the seed start from."""
    arguments = {"place": place_of(task, config), "task": task, **trained_how(task, config)}
    after = tuple(preparing(task, config))
    return Trial(f"{task}-start-seed{seed}", jobs.start, {**arguments, "steps": config.steps, "seed": seed}, after)


def every_of(task: str, seed: int, config: Arena) -> Trial:
    """The trial with all labels, of as many steps as all rounds together."""
    start = start_of(task, seed, config)
    arguments = {**start.arguments, "start": start.name, "steps": config.steps_per_round * len(config.budget)}
    return Trial(f"{task}-all-seed{seed}", jobs.every_label, arguments, (start,))


def trial_of(task: str, strategy: str, seed: int, config: Arena) -> Trial:
    """The trial of one strategy and seed."""
    from active.strategies import required_fields

    start = start_of(task, seed, config)
    arguments = {name: value for name, value in start.arguments.items() if name != "steps"}
    arguments |= {"start": start.name, "strategy": strategy, "budget": list(config.budget)}
    arguments |= {"steps_per_round": config.steps_per_round}
    views = viewing(task, config) if "patch_probs" in required_fields(strategy) else []
    name = f"{task}-{dotted(strategy)}-seed{seed}"
    return Trial(name, jobs.ask, arguments, (start, *views))


def parts_of(config: Arena) -> list[list[Trial]]:
    """A part a seed: if time runs out, the seeds that are done have all their transfers and strategies."""
    from active.strategies import required_fields

    looked_at = any("patch_probs" in required_fields(strategy) for strategy in config.strategies)
    parts = []
    for seed in config.seeds:
        part: list[Trial] = []
        for task in tasks_of(config):
            part += [*preparing(task, config), start_of(task, seed, config), every_of(task, seed, config)]
            part += viewing(task, config) if looked_at else []
            part += [trial_of(task, strategy, seed, config) for strategy in config.strategies]
        parts.append(list({trial.name: trial for trial in part}.values()))
    return parts


# --- records ----------------------------------------------------------------------------------------------------------


def labels_to(labels: Sequence[float], accuracies: Sequence[float], goal: float) -> float | None:
    """The number of labels at which the curve first reaches the goal, linear between its points; None if it never does.

    A curve that starts there needs labels[0].
    """
    for i, value in enumerate(accuracies):
        if value >= goal:
            if i == 0:
                return float(labels[0])
            share = (goal - accuracies[i - 1]) / (value - accuracies[i - 1])
            return labels[i - 1] + share * (labels[i] - labels[i - 1])
    return None


def cell_records(config: Arena, results: Mapping[str, Any]) -> list[Record]:
    """Of every finished trial one record a round, and one without `selection` that sums it up; one of all labels."""
    records: list[Record] = []
    for task in tasks_of(config):
        for seed in config.seeds:
            start, every = (results.get(of(task, seed, config).name) for of in (start_of, every_of))
            if start is None:
                continue
            shared: Record = {"experiment": config.NAME, "task": task, "seed": seed, "paper": None, "provenance": ""}
            shared |= {"network": network_of(task, config), "command_of_all": command_of(config)}
            shared |= shown_by(task, config)
            if every is not None:
                about = {**shared, "method": EVERY, "labels": start["sizes"]["target"], "selection": "last", **every}
                records.append(about | {"command": command_of(config, tasks=task)})
            for strategy in config.strategies:
                trial = trial_of(task, strategy, seed, config)
                if trial.name in results:
                    command = command_of(config, tasks=task, strategies=strategy)
                    made = {**shared, "method": strategy, "command": command}
                    records += told(made, trial, results[trial.name], start, every)
    return records


def told(
    shared: Record, trial: Trial, result: Mapping[str, Any], start: Mapping[str, Any], every: Mapping[str, Any] | None
) -> list[Record]:
    """The records of one trial. every: what all labels give, if that is known; else there is no goal to reach."""
    records: list[Record] = []
    for evaluation in result["evaluations"]:
        kept = {k: v for k, v in evaluation.items() if k != "labelled"}
        records.append({**shared, "labels": evaluation["labelled"], "selection": "last", **kept})
    labels = [record["labels"] for record in records]
    curve = [record["accuracy/target_test"] for record in records]
    summary: Record = {**shared, "labels": labels[-1], "selection": "", "summary": True}
    for name in ("target_test", "unqueried", "target"):
        summary[f"alc/{name}"] = alc(labels, [record[f"accuracy/{name}"] for record in records])
    goal = None if every is None else GOAL * every["accuracy/target_test"]
    summary |= {"goal": goal, "labels_to_95": None if goal is None else labels_to(labels, curve, goal)}
    asked = [record["seconds/query"] for record in records if "seconds/query" in record]
    summary |= {"seconds_a_query": sum(asked) / len(asked), "cpu_seconds": result["cpu_seconds"]}
    summary |= {"sizes": start["sizes"], "cpu_seconds_of_start": start["cpu_seconds"], **result["measured_on"]}
    summary |= {name: trial.arguments[name] for name in ("how", "trade_off", "steps_per_round")}
    return [*records, summary | {"budget": " ".join(trial.arguments["budget"])}]


def run_arena(config: Arena) -> int:
    """Run what is missing, seed by seed, and make the report after each; exit code 1 if a trial failed."""
    config = reduced(config)
    check(config)
    return run_experiment(config, parts_of(config), lambda results: cell_records(config, results), report)


def check(config: Arena) -> None:
    """The mistakes that would otherwise show only after minutes of training."""
    from active.budgets import budget_schedule, check_rounds
    from dan.data.batches import num_samples
    from experiments.jobs.arena import Place, sides_of, unmet

    check_names("frozen", [config.frozen], FROZEN)
    check_names("tasks", config.tasks, [task for group in GROUPS.values() for task in group])
    check_runs(config.seeds, config.steps)
    check_reported(config.seeds)
    if config.tasks and config.parts != type(config)().parts:
        raise UserError("--parts and --tasks both say which transfers: name one of them")
    check_strategies(tasks_of(config), config.strategies)
    for strategy in config.strategies:
        if why := unmet(strategy, tasks_of(config)):
            raise UserError(f"{strategy} cannot be shown what it needs, for {why}: leave it out, or name other --tasks")
    check_least(config, "steps_per_round")
    if config.trade_off is not None and not 0 <= config.trade_off < float("inf"):
        raise UserError(f"--trade-off must be 0 or more, not {config.trade_off}")
    check_samples(config, "samples")
    budget_schedule(config.budget, None, 10**9)  # what is no budget, before the data are read
    for task in tasks_of(config):
        place_of(task, config)
    for task in tasks_of(config):
        pool = num_samples(sides_of(Place(**place_of(task, config)), task, config.seeds[0]).transfer.target)
        budgets = budget_schedule(config.budget, None, pool)
        check_rounds(budgets, len(budgets), pool)


def report(folder: Path) -> Path:
    """Make the tables, the figures and the page again from the folder's records; the path of the page."""
    from experiments.pages.arena import report_of

    records = read(folder)
    return write_report(folder, records, report_of(records))


COMMAND = Command(Arena, run_arena, "fifteen transfers, nineteen strategies: which way to ask buys most?")
