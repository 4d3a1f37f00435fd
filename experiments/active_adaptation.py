"""Active adaptation as the field's papers measure it, on digits and Office-10 + Caltech-10: all strategies, two ways.

5 %      one training of a DAN, which asks for 1 % of the target at the end of five of its epochs (Xie et al., AAAI
         2022); the pool is the whole target; the last model, and the oracle's beside it
counts   rounds from a DAN, 10, 30, 50, 100, 200 and 300 labels in all (the columns of CLUE's table, ICCV 2021), as
         far as half of the pool goes; fine-tuned as in the arena, whose trials these are
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from dan.cli.command_line import Command
from dan.errors import UserError
from experiments import arena
from experiments.arena import Arena, place_of, trained_how, viewing
from experiments.arena_field import STRATEGIES, TASKS
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
from experiments.jobs import active_adaptation as jobs
from experiments.jobs.active_adaptation import NO_LABELS, SAYS
from experiments.jobs.arena import BACKBONE, TEN_CLASS
from experiments.label_free_search import check_reported

NAME = "active_adaptation"
PROTOCOLS = ("5%", "counts")
COUNTS = (10, 30, 50, 100, 200, 300)


@dataclass(frozen=True)
class ActiveAdaptation(Options):
    """What is run; a folder keeps one choice of these, and a finished trial is never run again."""

    NAME: ClassVar[str] = NAME
    QUICK: ClassVar[dict[str, Any]] = {
        "tasks": ("rendered2digits",),
        "strategies": ("random", "margin"),
        "seeds": (0,),
        "query_epochs": (1, 2),
        "epochs": 3,
        "steps": 20,
        "steps_per_round": 5,
        "samples": 300,
    }

    squeezenet_weights: str = "DEFAULT"
    """ImageNet weights of SqueezeNet 1.1: a name, or a state-dict file, looked for in the folder of data sets too"""
    protocol: Literal["5%", "counts", "both"] = "both"
    """one training that asks for 1 % five times, or rounds at fixed label counts"""
    tasks: tuple[str, ...] = TASKS
    """these transfers only"""
    strategies: tuple[str, ...] = tuple(name for name in STRATEGIES if name != "sum_of_three")  # kept for the record
    """these ways to ask only (python -m active strategies)"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """one run of everything for each"""
    query_epochs: tuple[int, ...] = (5, 6, 7, 8, 9)
    """of 5%: the epochs at whose end it asks (published: 10 12 14 16 18)"""
    epochs: int = 20
    """of 5%: epochs of the training (published: 40)"""
    steps: int = 300
    """of counts: training steps of the start"""
    steps_per_round: int = 60
    """of counts: training steps after each round's answers"""
    samples: int = 1000
    """at most so many digits of each split, evenly spaced (0: all)"""
    image_size: int = 224
    """pixels a side of the photographs"""
    search: Path | None = None
    """folder of a run of dan_table2, whose search chose rate and trade-off (default: the published one)"""


def protocols_of(config: ActiveAdaptation) -> list[str]:
    """The protocols that are run."""
    return [name for name in PROTOCOLS if config.protocol in (name, "both")]


def like_arena(config: ActiveAdaptation, task: str) -> Arena:
    """The settings that are the arena's too; its budgets those label counts that half of the task's pool holds."""
    shared = ("data", "squeezenet_weights", "strategies", "seeds", "steps", "steps_per_round", "samples", "image_size")
    said = {name: getattr(config, name) for name in (*shared, "search", "image_cache")}
    return Arena(**said, tasks=(task,))


# --- trials -----------------------------------------------------------------------------------------------------------


def begin_of(task: str, seed: int, config: ActiveAdaptation) -> Trial:
    """The trial of the one training up to its first query."""
    own = like_arena(config, task)
    place = place_of(task, own) | ({"held_out": 0.0} if task.startswith(TEN_CLASS) else {})
    arguments = {"place": place, "task": task, **trained_how(task, own)}
    arguments |= {"query_epochs": list(config.query_epochs), "epochs": config.epochs, "seed": seed}
    after = tuple(arena.preparing(task, own))
    return Trial(f"{task}-begin-seed{seed}", jobs.begin, arguments, after)


def ask_of(task: str, strategy: str | None, seed: int, config: ActiveAdaptation) -> Trial:
    """The trial of the rest of that training with the labels of a strategy; None: with none."""
    begin = begin_of(task, seed, config)
    arguments = {**begin.arguments, "begun": begin.name, "strategy": strategy, "budget": "1%"}
    views = _views(task, strategy, config)
    name = f"{task}-5-{dotted(strategy or NO_LABELS)}-seed{seed}"
    return Trial(name, jobs.ask_at, arguments, (begin, *views))


def counts_of(pool: int) -> tuple[int, ...]:
    """The label counts that at most half of the pool holds."""
    return tuple(count for count in COUNTS if count <= pool / 2)


def start_of(task: str, seed: int, config: ActiveAdaptation) -> Trial:
    """The arena's start."""
    return arena.start_of(task, seed, like_arena(config, task))


def round_of(task: str, strategy: str, seed: int, config: ActiveAdaptation, counts: tuple[int, ...]) -> Trial:
    """The arena's rounds, with purchases up to these counts."""
    bought = [after - before for before, after in zip((0, *counts), counts, strict=False)]
    own = replace(like_arena(config, task), budget=tuple(map(str, bought)))
    trial = arena.trial_of(task, strategy, seed, own)
    return replace(trial, name=f"{task}-counts-{dotted(strategy)}-seed{seed}")


def _views(task: str, strategy: str | None, config: ActiveAdaptation) -> list[Trial]:
    from active.strategies import required_fields

    wanted = strategy is not None and "patch_probs" in required_fields(strategy)
    return viewing(task, like_arena(config, task)) if wanted else []


def pools_of(config: ActiveAdaptation) -> dict[str, int]:
    """The number of images that each transfer's pool of the rounds holds. The data are decoded here, once."""
    from dan.data.batches import num_samples
    from experiments.jobs.arena import Place, sides_of

    places = {task: Place(**place_of(task, like_arena(config, task))) for task in config.tasks}
    return {task: num_samples(sides_of(place, task, 0).transfer.target) for task, place in places.items()}


def parts_of(config: ActiveAdaptation, pools: Mapping[str, int]) -> list[list[Trial]]:
    """A part a seed: if time runs out, the seeds that are done have all their transfers and strategies."""
    parts = []
    for seed in config.seeds:
        part: list[Trial] = []
        for task in config.tasks:
            part += arena.preparing(task, like_arena(config, task))
            part += [view for strategy in config.strategies for view in _views(task, strategy, config)]
            if "5%" in protocols_of(config):
                part += [begin_of(task, seed, config)]
                part += [ask_of(task, strategy, seed, config) for strategy in (None, *config.strategies)]
            if "counts" in protocols_of(config):
                part += [start_of(task, seed, config)]
                counts = counts_of(pools[task])
                part += [round_of(task, strategy, seed, config, counts) for strategy in config.strategies]
        parts.append(list({trial.name: trial for trial in part}.values()))
    return parts


# --- records ----------------------------------------------------------------------------------------------------------


def cell_records(config: ActiveAdaptation, pools: Mapping[str, int], results: Mapping[str, Any]) -> list[Record]:
    """Of 5% two records a finished trial, the last model's and the oracle's; of counts one a round."""
    records: list[Record] = []
    for task in config.tasks:
        for seed in config.seeds:
            for method in (NO_LABELS, *config.strategies):
                strategy = None if method == NO_LABELS else method
                trials = {"5%": ask_of(task, strategy, seed, config)}
                if strategy is not None:
                    trials["counts"] = round_of(task, strategy, seed, config, counts_of(pools[task]))
                for protocol in (name for name in protocols_of(config) if name in trials):
                    trial = trials[protocol]
                    if trial.name not in results:
                        continue
                    network = BACKBONE if task.startswith(TEN_CLASS) else "lenet"
                    shared: Record = {"experiment": NAME, "task": task, "network": f"{network}, {SAYS[protocol]}"}
                    shared |= {"method": method, "seed": seed, "paper": None, "provenance": "", "protocol": protocol}
                    only = {"tasks": task, "protocol": protocol} | ({} if strategy is None else {"strategies": method})
                    shared |= {"command": command_of(config, **only), "command_of_all": command_of(config)}
                    shown = arena.shown_by(task, like_arena(config, task))
                    records += told(shared | shown, results[trial.name])
    return records


def told(shared: Record, result: Mapping[str, Any]) -> list[Record]:
    """The records of one trial. The oracle takes the epoch after the last query with the most target images right."""
    if shared["protocol"] == "counts":
        records = []
        for point in result["evaluations"]:
            kept = {k: v for k, v in point.items() if k != "labelled"}
            records.append({**shared, "labels": point["labelled"], "selection": "last", **kept, "pool": result["pool"]})
        return [*records[:-1], records[-1] | result["measured_on"]]
    evaluations = result["evaluations"]
    best = max(evaluations, key=lambda evaluation: evaluation["accuracy/target"])
    shared = {**shared, "labels": result["labels"], "pool": result["pool"], "cpu_seconds": result["cpu_seconds"]}
    chosen = (("last", evaluations[-1]), ("oracle", best))
    return [{**shared, "selection": rule, **evaluation, **result["measured_on"]} for rule, evaluation in chosen]


def run_active_adaptation(config: ActiveAdaptation) -> int:
    """Run what is missing, seed by seed, and make the report after each; exit code 1 if a trial failed."""
    config = reduced(config)
    pools = check(config)
    parts = parts_of(config, pools)
    return run_experiment(config, parts, lambda results: cell_records(config, pools, results), report)


def check(config: ActiveAdaptation) -> dict[str, int]:
    """The mistakes that would otherwise show only after minutes of training; the sizes of the pools."""
    from experiments.jobs.arena import unmet

    check_names("tasks", config.tasks, TASKS)
    check_runs(config.seeds, config.steps)
    check_reported(config.seeds)
    check_strategies(config.tasks, config.strategies)
    for strategy in config.strategies:
        if why := unmet(strategy, config.tasks):
            raise UserError(f"{strategy} cannot be shown what it needs, for {why}: leave it out, or name other --tasks")
    rising = all(b > a for a, b in zip((0, *config.query_epochs), (*config.query_epochs, config.epochs), strict=True))
    if not config.query_epochs or not rising:
        raise UserError("--query-epochs must be rising epochs from 1 on, and --epochs more than the last of them")
    check_least(config, "steps_per_round")
    check_samples(config, "samples")
    return pools_of(config)


def report(folder: Path) -> Path:
    """Make the tables, the figures and the page again from the folder's records; the path of the page."""
    from experiments.pages.active_adaptation import report_of

    records = read(folder)
    return write_report(folder, records, report_of(records))


COMMAND = Command(ActiveAdaptation, run_active_adaptation, "the field's two protocols of active adaptation")
