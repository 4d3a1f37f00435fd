"""Active adaptation as the field's papers measure it, on digits and Office-10 + Caltech-10, by two protocols.

5 %      one training of a DAN, which queries 1 % of the target at the end of five of its epochs (Xie et al., AAAI
         2022); the pool is the whole target; the last model, and the oracle's
counts   rounds from a DAN, 10, 30, 50, 100, 200 and 300 labels in all (the columns of CLUE's table, ICCV 2021), as
         far as half of the pool goes; fine-tuned as in the arena, whose trials these are

Mean gain of a strategy = mean over transfers and seeds of (its accuracy - that of random on the same seed).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, Literal

from dan.errors import UserError
from experiments import arena
from experiments.active_adaptation.trial import begin, query
from experiments.arena import Arena, place_of, trained_how, viewing
from experiments.arena.tasks import BACKBONE, STRATEGIES, TASKS, TEN_CLASS
from experiments.framework.experiment import Cell, Experiment, Results, round_records
from experiments.framework.measurements import measurements
from experiments.framework.options import Options, check_least, check_names, check_runs, check_samples, check_strategies
from experiments.framework.records import Record
from experiments.framework.report import Drawn, Report
from experiments.framework.reporting import plots
from experiments.framework.reporting.against_random import BASE
from experiments.framework.reporting.tables import Table, difference, mean_of, signed, told
from experiments.framework.trials import Trial, dotted, slug
from experiments.label_free_search import check_reported
from experiments.tasks import last_and_oracle

PROTOCOLS = {"5%": "one training", "counts": "in rounds"}  # and what a record's network says of them
COUNTS = (10, 30, 50, 100, 200, 300)
NO_LABELS = "DAN"  # the method without target labels


@dataclass(frozen=True)
class ActiveAdaptation(Options):
    """What is run; a folder keeps one choice of these, and a finished trial is never run again."""

    NAME: ClassVar[str] = "active_adaptation"
    QUICK: ClassVar[dict[str, Any]] = {
        "tasks": ("rendered2digits",),
        "strategies": ("random", "margin"),
        "seeds": (0,),
        "query_epochs": (1, 2),
        "epochs": 4,
        "steps": 20,
        "steps_per_round": 5,
        "samples": 300,
    }

    squeezenet_weights: str = "DEFAULT"
    """ImageNet weights of SqueezeNet 1.1: a name, or a state-dict file, looked for in the folder of data sets too"""
    protocol: Literal["5%", "counts", "both"] = "both"
    """one training that queries 1 % five times, or rounds at fixed label counts"""
    tasks: tuple[str, ...] = TASKS
    """these transfers only"""
    strategies: tuple[str, ...] = tuple(name for name in STRATEGIES if name != "sum_of_three")  # superseded by hybrid
    """these strategies only (python -m active strategies)"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """one run of everything for each"""
    query_epochs: tuple[int, ...] = (5, 6, 7, 8, 9)
    """of 5%: the epochs at whose end it queries (published: 10 12 14 16 18)"""
    epochs: int = 20
    """of 5%: epochs of the training (published: 40)"""
    steps: int = 300
    """of counts: training steps of the start"""
    steps_per_round: int = 60
    """of counts: training steps after each query"""
    samples: int = 1000
    """at most so many digits of each split, evenly spaced (0: all)"""
    image_size: int = 224
    """pixels a side of the photographs"""
    search: Path | None = None
    """folder of a run of dan_table2, whose search chose rate and trade-off (default: the published one)"""

    def check(self) -> None:
        from experiments.arena.trial import unmet

        check_names("tasks", self.tasks, TASKS)
        check_runs(self.seeds, self.steps)
        check_reported(self.seeds)
        check_strategies(self.tasks, self.strategies)
        for strategy in self.strategies:
            if why := unmet(strategy, self.tasks):
                raise UserError(f"{strategy} lacks a field that it needs, for {why}: leave it out, or change --tasks")
        epochs = (0, *self.query_epochs, self.epochs)
        if not self.query_epochs or list(epochs) != sorted(set(epochs)):
            raise UserError("--query-epochs must be rising epochs from 1 on, and --epochs more than the last of them")
        check_least(self, "steps_per_round")
        check_samples(self, "samples")
        for task in self.tasks:
            pool_of(task, self)  # the data are there, and decoded once


def like_arena(task: str, config: ActiveAdaptation) -> Arena:
    """The settings that are the arena's too."""
    shared = ("data", "squeezenet_weights", "strategies", "seeds", "steps", "steps_per_round", "samples", "image_size")
    return Arena(tasks=(task,), **{name: getattr(config, name) for name in (*shared, "search", "image_cache")})


def pool_of(task: str, config: ActiveAdaptation) -> int:
    """The number of images in the pool of a transfer's rounds."""
    from experiments.arena.data import pool_size

    return pool_size(place_of(task, like_arena(task, config)), task, 0)


def counts_of(pool: int) -> tuple[int, ...]:
    """The label counts that at most half of the pool holds."""
    return tuple(count for count in COUNTS if count <= pool / 2)


# --- the trials of each cell ------------------------------------------------------------------------------------------


def query_of(task: str, strategy: str | None, seed: int, config: ActiveAdaptation) -> Trial:
    """The trial of the one training with the labels of a strategy, after its part up to the first query; None: none."""
    from active.strategies import required_fields

    own = like_arena(task, config)
    place = place_of(task, own) | ({"held_out": 0.0} if task.startswith(TEN_CLASS) else {})
    shared = {"place": place, "task": task, **trained_how(task, own), "seed": seed}
    shared |= {"query_epochs": list(config.query_epochs), "epochs": config.epochs}
    begun = Trial(f"{task}-begin-seed{seed}", begin, shared, tuple(arena.preparing(task, own)))
    arguments = {**shared, "begun": begun.name, "strategy": strategy, "budget": "1%"}
    views = viewing(task, own) if strategy is not None and "patch_probs" in required_fields(strategy) else []
    return Trial(f"{task}-5-{dotted(strategy or NO_LABELS)}-seed{seed}", query, arguments, (begun, *views))


def rounds_of(task: str, strategy: str, seed: int, config: ActiveAdaptation, counts: Sequence[int]) -> Trial:
    """The arena's rounds, with labels up to these counts."""
    budget = tuple(str(after - before) for before, after in zip((0, *counts), counts, strict=False))
    trial = arena.trial_of(task, strategy, seed, replace(like_arena(task, config), budget=budget))
    return replace(trial, name=f"{task}-counts-{dotted(strategy)}-seed{seed}")


def cells(config: ActiveAdaptation) -> list[Cell]:
    """One cell a transfer, protocol and strategy; of 5% one without target labels, too."""
    made = []
    protocols = [name for name in PROTOCOLS if config.protocol in (name, "both")]
    pools = {task: pool_of(task, config) if "counts" in protocols else 0 for task in config.tasks}
    for task, protocol, method in product(config.tasks, protocols, (NO_LABELS, *config.strategies)):
        strategy = None if method == NO_LABELS else method
        if protocol == "5%":
            trials = [query_of(task, strategy, seed, config) for seed in config.seeds]
        elif strategy is not None:
            trials = [rounds_of(task, strategy, seed, config, counts_of(pools[task])) for seed in config.seeds]
        else:
            continue
        backbone = BACKBONE if task.startswith(TEN_CLASS) else "lenet"
        about = {"task": task, "network": f"{backbone}, {PROTOCOLS[protocol]}", "method": method, "protocol": protocol}
        about |= arena.shown_by(task, like_arena(task, config))
        only = {"tasks": task, "protocol": protocol} | ({"strategies": strategy} if strategy else {})
        made.append(Cell(about=about, only=only, trials=trials))
    return made


def records_of(cell: Cell, trial: Trial, results: Results) -> list[Record]:
    """Of 5% two records, the last model's and the oracle's; of counts one a round."""
    if cell.about["protocol"] == "counts":
        return round_records(cell, trial, results)
    result = results[trial.name]
    kept = {name: result[name] for name in ("labels", "pool", "cpu_seconds")}
    made = last_and_oracle({**cell.about, "seed": trial.arguments["seed"], "selection": "", **kept}, result)
    return [record for record in made if record["selection"]]


# --- the report -------------------------------------------------------------------------------------------------------

OWN = "hybrid"
DRAWN = 5  # strategies in a figure, besides hybrid and random: eighteen lines are too many
# What decides: in rounds there is a test split that is never queried; in the one training there is none.
DECIDES = {"5%": "unqueried", "counts": "target_test"}


def parts_of(records: Sequence[Record], protocol: str) -> Iterator[tuple[str, list[Record]]]:
    """(name of a set of transfers, its records of this protocol), where there are any."""
    for name, ten_class in (("Office-10 + Caltech-10", True), ("digits", False)):
        own = [r for r in records if r["protocol"] == protocol and r["task"].startswith(TEN_CLASS) == ten_class]
        if own:
            yield name, own


def means(records: Sequence[Record], split: str) -> dict[str, dict[int, float]]:
    """method -> {seed: mean accuracy over the records' transfers, in percent}, of the seeds that have all of them."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for record in records:
        found.setdefault((record["method"], record["seed"]), {})[record["task"]] = record[f"accuracy/{split}"]
    tasks = {record["task"] for record in records}
    made: dict[str, dict[int, float]] = {}
    for (method, seed), by_task in found.items():
        if set(by_task) == tasks:
            made.setdefault(method, {})[seed] = 100 * fmean(by_task.values())
    return made


def one_training(records: Sequence[Record]) -> Table:
    """One row a strategy: both accuracies, the oracle's, and each transfer on the whole target."""
    last, oracle = ([r for r in records if r["selection"] == rule] for rule in ("last", "oracle"))
    target, unqueried, best = means(last, "target"), means(last, "unqueried"), means(oracle, "target")
    by_task = {task: means([r for r in last if r["task"] == task], "target") for task in tasks_in(records)}
    lines = []
    for method, mine in target.items():
        gain = "–" if method == BASE else signed(mean_of(difference(mine, target.get(BASE, {}))))
        lines.append([method, told(mine), told(unqueried.get(method)), told(best.get(method)), gain])
        lines[-1] += [*(told(of_task.get(method)) for of_task in by_task.values()), str(len(mine))]
    columns = [task.removeprefix(TEN_CLASS) for task in by_task]
    return ["strategy", "target", "unqueried", "oracle, target", "over random", *columns, "n"], lines


def at_counts(records: Sequence[Record], split: str) -> Table:
    """One row a strategy, a column a label count: the mean over the transfers whose pool is large enough for it."""
    own = {count: [r for r in records if r["labels"] == count] for count in sorted({r["labels"] for r in records})}
    found = {count: means(of_count, split) for count, of_count in own.items()}
    num_tasks = {count: len(tasks_in(of_count)) for count, of_count in own.items()}
    headers = [f"{c} ({num_tasks[c]} transfers)" if num_tasks[c] < num_tasks[0] else str(c) for c in own]
    lines = [[method, *(told(by.get(method)) for by in found.values())] for method in found[0]]
    return ["strategy", *headers], lines


def tasks_in(records: Sequence[Record]) -> list[str]:
    """The transfers that have records, in order."""
    return list(dict.fromkeys(record["task"] for record in records))


def ranked(records: Sequence[Record], protocol: str) -> dict[str, float]:
    """method -> mean accuracy over transfers at the most labels, on the split that decides, from the best on."""
    last = [record for record in records if record["selection"] == "last"]
    most = {task: max(record["labels"] for record in last if record["task"] == task) for task in tasks_in(last)}
    final = means([record for record in last if record["labels"] == most[record["task"]]], DECIDES[protocol])
    return dict(sorted(((m, fmean(v.values())) for m, v in final.items()), key=lambda item: -item[1]))


def findings(records: Sequence[Record]) -> Iterator[str]:
    """For each set and protocol: the best and the worst, and the places of hybrid and random."""
    for protocol in PROTOCOLS:
        for name, own in parts_of(records, protocol):
            order = ranked(own, protocol)
            if len(order) > 1:
                (best, most), *_, (worst, least) = order.items()
                parts = [f"best {best} {most:.1f}", f"worst {worst} {least:.1f}"]
                places = {method: place for place, method in enumerate(order, start=1)}
                parts += [f"{m} {order[m]:.1f} ({places[m]} of {len(order)})" for m in (OWN, BASE) if m in order]
                yield f"{name}, {protocol}, {DECIDES[protocol]}: {', '.join(parts)}."


def curves(records: Sequence[Record], name: str) -> list[Drawn]:
    """The rounds' curves on the test split, a panel a transfer: the best few strategies, hybrid and random."""
    shown = {*list(ranked(records, "counts"))[:DRAWN], OWN, BASE}
    figure = plots.panels(measurements([r for r in records if r["method"] in shown]), "test", columns=3)
    text = f"{name}: accuracy on the test split at label counts; the {DRAWN} best at the most labels, {OWN} and {BASE}."
    return [] if figure is None else [Drawn(f"{slug(name)}.png", figure, text)]


CAPTIONS = [
    "Accuracy in percent, mean ± standard deviation over n seeds, means over transfers first. target: all images of "
    "the pool; unqueried: those never queried; oracle: of the epochs after the last query the one with the most target "
    "images right, which cannot be chosen without their labels; DAN: the same without a target label.",
    "5%: one training that queries 1 % of the target at the end of five epochs; the pool is the whole target. counts: "
    "rounds from a DAN with a frozen backbone, as in the arena; the pool leaves out a test split. Published tables of "
    "these protocols are of other data sets and networks, so none of their numbers is shown.",
]


def report_of(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    rounds = list(parts_of(records, "counts"))
    tables = [(f"{name}: one training, 1 % five times", one_training(own)) for name, own in parts_of(records, "5%")]
    for name, own in rounds:
        splits = (("unqueried", "images never queried"), ("target_test", "test split"))
        tables += [(f"{name}: rounds at label counts, {text}", at_counts(own, split)) for split, text in splits]
    return Report(
        title="Active adaptation: the field's two protocols",
        findings=list(findings(records)),
        tables=tables,
        figures=[drawn for name, own in rounds for drawn in curves(own, name)],
        captions=CAPTIONS,
    )


EXPERIMENT = Experiment(
    options=ActiveAdaptation,
    summary="the field's two protocols of active adaptation, every strategy",
    cells=cells,
    report=report_of,
    records=records_of,
)
