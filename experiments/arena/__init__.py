"""The arena: which strategy gains most? Fifteen transfers, nineteen strategies, one short protocol, all on a DAN.

    start        a DAN on the source and the unlabelled pool; the backbone is frozen then, so that a run takes seconds
    five rounds  query 1, 1, 3, 5 and 10 % of the pool; fine-tune with all labels so far, still aligned
    measured     ALC: area under accuracy(labels) on a test split that is never queried, in percent;
                 labels_to_95: labels until 95 % of the accuracy that all labels give

Transfers that share a target are not independent, so settings are chosen across targets: see tasks.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, Literal

from active.budgets import budget_schedule, check_rounds
from dan.errors import UserError
from experiments.arena.report import report_of
from experiments.arena.tasks import BACKBONE, EVERYTHING, GROUPS, PARTS, STRATEGIES, TASKS, TEN_CLASS, target_of
from experiments.digits.trial import ALIGN
from experiments.framework.experiment import Cell, Experiment, Results
from experiments.framework.measurements import alc, labels_to
from experiments.framework.options import (
    Options,
    check_least,
    check_names,
    check_runs,
    check_samples,
    check_strategies,
)
from experiments.framework.records import Record
from experiments.framework.trials import Trial, dotted
from experiments.label_free_search import check_reported
from experiments.office_caltech10 import searched
from experiments.office_caltech10.trial import DOMAINS, prepare
from experiments.tasks import folders_of, weights_file

FROZEN = ("fire5", "fire6", "fire7", "fire8", EVERYTHING)  # stages that SqueezeNet may be frozen up to
EVERY = "all labels"  # the method of the start fine-tuned with every label of the pool
BUDGET = ("1%", "1%", "3%", "5%", "10%")  # together 1, 2, 5, 10 and 20 %
GOAL = 0.95  # of the accuracy that all labels give
# LeNet's: the constant rate of Caffe's solver for it, and the trade-off of the authors' release of DAN. No search.
DIGITS_RATE, DIGITS_TRADE_OFF = 0.01, 1.0


@dataclass(frozen=True)
class Arena(Options):
    """What is run."""

    NAME: ClassVar[str] = "arena"
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
    """groups of transfers: development (the paper's six of the ten-class set), confirmation (the others), all"""
    tasks: tuple[str, ...] = ()
    """transfers, such as: rendered2digits office_caltech10_c2w (default: those of --parts)"""
    strategies: tuple[str, ...] = STRATEGIES
    """strategies (python -m active strategies), also your own as module:function"""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """one run of everything for each"""
    budget: tuple[str, ...] = BUDGET
    """labels of each round: numbers, or shares of the pool"""
    steps: int = 300
    """training steps of the start"""
    steps_per_round: int = 60
    """training steps after each query"""
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

    def check(self) -> None:
        from experiments.arena import data, trial

        tasks = tasks_of(self)
        check_names("frozen", [self.frozen], FROZEN)
        check_names("tasks", self.tasks, TASKS)
        check_runs(self.seeds, self.steps)
        check_reported(self.seeds)
        if self.tasks and self.parts != type(self)().parts:
            raise UserError("--parts and --tasks both say which transfers: name one of them")
        check_strategies(tasks, self.strategies)
        for strategy in self.strategies:
            if why := trial.unmet(strategy, tasks):
                raise UserError(f"{strategy} cannot be given what it needs, for {why}: leave it out, or change --tasks")
        check_least(self, "steps_per_round")
        if self.trade_off is not None and not 0 <= self.trade_off < float("inf"):
            raise UserError(f"--trade-off must be 0 or more, not {self.trade_off}")
        check_samples(self, "samples")
        budget_schedule(self.budget, None, 10**9)  # what is no budget, before the data are read
        places = {task: place_of(task, self) for task in tasks}  # and whether all files are there
        for task, place in places.items():
            pool = data.pool_size(place, task, self.seeds[0])
            budgets = budget_schedule(self.budget, None, pool)
            check_rounds(budgets, len(budgets), pool)


def tasks_of(config: Arena) -> list[str]:
    """The transfers that are run, in order."""
    return list(config.tasks) or [task for group in PARTS[config.parts] for task in GROUPS[group]]


# --- trials -----------------------------------------------------------------------------------------------------------


def trained_how(task: str, config: Arena) -> dict[str, Any]:
    """What the trials of a task say of training: "how" (fields of a `TrainConfig`) and "trade_off"."""
    if task.startswith(TEN_CLASS):
        found, align = searched(config.search)[0], ["hidden1", "output"]
    else:
        found, align = {"lr": DIGITS_RATE, "trade_off": DIGITS_TRADE_OFF}, list(ALIGN)
    trade_off = found["trade_off"] if config.trade_off is None else config.trade_off
    return {"how": {"method": "dan", "align": align, "lr": found["lr"]}, "trade_off": trade_off}


def place_of(task: str, config: Arena) -> dict[str, Any]:
    """Where the data of a task lie: `experiments.arena.data.Place`."""
    place: dict[str, Any] = {**folders_of(config)}
    if not task.startswith(TEN_CLASS):
        return place | {"samples": config.samples}
    weights = weights_file(config.squeezenet_weights, Path(place["data"]))
    return place | {"weights": weights, "image_size": config.image_size, "frozen": config.frozen}


def network_of(task: str, config: Arena) -> str:
    """What records call the network of a task."""
    if not task.startswith(TEN_CLASS):
        return "lenet"
    return BACKBONE if config.frozen == EVERYTHING else f"{BACKBONE}-frozen-to-{config.frozen}"


def shown_by(task: str, config: Arena) -> Record:
    """What the dashboard needs to show the queried images."""
    name = "image_size" if task.startswith(TEN_CLASS) else "samples"
    return {name: getattr(config, name)}


def preparing(task: str, config: Arena) -> list[Trial]:
    """The trials that run the frozen backbone on both domains of a ten-class task, one a domain."""
    if not task.startswith(TEN_CLASS):
        return []
    place = place_of(task, config) | {"backbone": BACKBONE}
    return [
        Trial(f"trunk-{side}", prepare, {"place": place, "sides": [side], "held_out": 0.0})
        for side in task.removeprefix(TEN_CLASS).split("2")
    ]


def viewing(task: str, config: Arena) -> list[Trial]:
    """The trial that runs the frozen backbone on views of a ten-class task's target, whatever the source."""
    if not task.startswith(TEN_CLASS):
        return []
    from experiments.arena.trial import views_of_domain

    side = target_of(task)
    named = TEN_CLASS + next(other for other in DOMAINS if other != side) + "2" + side
    return [Trial(f"views-{side}", views_of_domain, {"place": place_of(task, config), "task": named})]


def start_of(task: str, seed: int, config: Arena) -> Trial:
    """The trial of the DAN that all strategies of the seed start from."""
    from experiments.arena import trial

    arguments = {"place": place_of(task, config), "task": task, **trained_how(task, config)}
    arguments |= {"steps": config.steps, "seed": seed}
    return Trial(f"{task}-start-seed{seed}", trial.start, arguments, tuple(preparing(task, config)))


def every_of(task: str, seed: int, config: Arena) -> Trial:
    """The trial with all labels, of as many steps as all rounds together."""
    from experiments.arena.trial import every_label

    start = start_of(task, seed, config)
    arguments = {**start.arguments, "start": start.name, "steps": config.steps_per_round * len(config.budget)}
    return Trial(f"{task}-all-seed{seed}", every_label, arguments, (start,))


def trial_of(task: str, strategy: str, seed: int, config: Arena) -> Trial:
    """The trial of one strategy and seed."""
    from active.strategies import required_fields
    from experiments.arena.trial import ask

    start = start_of(task, seed, config)
    arguments = {name: value for name, value in start.arguments.items() if name != "steps"}
    arguments |= {"start": start.name, "strategy": strategy, "budget": list(config.budget)}
    arguments |= {"steps_per_round": config.steps_per_round}
    views = viewing(task, config) if "patch_probs" in required_fields(strategy) else []
    return Trial(f"{task}-{dotted(strategy)}-seed{seed}", ask, arguments, (start, *views))


def cells(config: Arena) -> list[Cell]:
    """Of each task a cell for all labels and one a strategy; one trial a seed."""
    made = []
    for task in tasks_of(config):
        about = {"task": task, "network": network_of(task, config), **shown_by(task, config)}
        every = [every_of(task, seed, config) for seed in config.seeds]
        made.append(Cell(about=about | {"method": EVERY}, only={"tasks": task}, trials=every))
        for strategy in config.strategies:
            own = [trial_of(task, strategy, seed, config) for seed in config.seeds]
            only = {"tasks": task, "strategies": strategy}
            made.append(Cell(about=about | {"method": strategy}, only=only, trials=own))
    return made


def records_of(cell: Cell, trial: Trial, results: Results) -> list[Record]:
    """A record a round, and one without `selection` that sums the rounds up; one record of all labels."""
    result, task, seed = results[trial.name], cell.about["task"], trial.arguments["seed"]
    shared, start = {**cell.about, "seed": seed}, results[trial.arguments["start"]]
    if cell.about["method"] == EVERY:
        return [{**shared, "labels": start["sizes"]["target"], "selection": "last", **result}]
    records: list[Record] = []
    for evaluation in result["evaluations"]:
        kept = {k: v for k, v in evaluation.items() if k != "labelled"}
        records.append({**shared, "labels": evaluation["labelled"], "selection": "last", **kept})
    curves = {s: [r[f"accuracy/{s}"] for r in records] for s in ("target_test", "unqueried", "target")}
    labels, every = [r["labels"] for r in records], results.get(f"{task}-all-seed{seed}")
    goal = None if every is None else GOAL * every["accuracy/target_test"]  # without it there is nothing to reach
    summary = shared | {"labels": labels[-1], "selection": "", "summary": True, "goal": goal}
    summary |= {f"alc/{split}": alc(labels, curve) for split, curve in curves.items()}
    summary["labels_to_95"] = None if goal is None else labels_to(labels, curves["target_test"], goal)
    summary["seconds_a_query"] = fmean(r["seconds/query"] for r in records if "seconds/query" in r)
    summary |= {"sizes": start["sizes"], "cpu_seconds": result["cpu_seconds"]}
    summary |= {"cpu_seconds_of_start": start["cpu_seconds"], **result["measured_on"]}
    summary |= {name: trial.arguments[name] for name in ("how", "trade_off", "steps_per_round")}
    return [*records, summary | {"budget": " ".join(trial.arguments["budget"])}]


EXPERIMENT = Experiment(
    options=Arena,
    summary="fifteen transfers, nineteen strategies: which one gains most a label?",
    cells=cells,
    report=report_of,
    records=records_of,
)
