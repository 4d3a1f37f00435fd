"""The arena's records as numbers by strategy, transfer and seed; their means over sets of transfers, and mean ranks.

ALC    = area under accuracy(labels) / (last - first number of labels), percent
rank   = mean over target domains of a strategy's rank there, by ALC averaged over the target's sources and seeds
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from experiments.arena.tasks import CONFIRMATION, GROUPS, HALVES, PARTS, STRATEGIES, TARGETS, TASKS, half_of, target_of
from experiments.framework.records import Record
from experiments.framework.reporting.mean_ranks import ranks

ALC, UNQUERIED = "alc/target_test", "alc/unqueried"
BySeed = Mapping[int, float]
Cells = dict[str, dict[str, dict[int, float]]]  # method -> task -> seed -> value


def cells_of(records: Iterable[Record], name: str, scale: float = 100.0) -> Cells:
    """scale * what the summaries have under `name`; strategies in the order of the experiment."""
    found: Cells = {}
    for record in records:
        if record.get("summary") and record.get(name) is not None:
            found.setdefault(record["method"], {}).setdefault(record["task"], {})[record["seed"]] = scale * record[name]
    return dict(sorted(found.items(), key=lambda item: (*STRATEGIES, item[0]).index(item[0])))


def by_round(records: Iterable[Record]) -> dict[int, Cells]:
    """round -> method -> task -> seed -> accuracy on the test split, percent."""
    found: dict[int, Cells] = {}
    for record in records:
        if record.get("selection") and "round" in record:
            of_task = found.setdefault(record["round"], {}).setdefault(record["method"], {})
            of_task.setdefault(record["task"], {})[record["seed"]] = 100 * record["accuracy/target_test"]
    return dict(sorted(found.items()))


def shares_of(records: Sequence[Record], tasks: Sequence[str]) -> dict[int, float]:
    """round -> labels by then, % of the pool, mean over these transfers' records."""
    pools = {record["task"]: record["sizes"]["target"] for record in records if record.get("summary")}
    shares: dict[int, list[float]] = {}
    for record in records:
        if record.get("selection") and "round" in record and record["task"] in tasks:
            shares.setdefault(record["round"], []).append(100 * record["labels"] / pools[record["task"]])
    return {number: statistics.fmean(values) for number, values in sorted(shares.items())}


def tasks_in(records: Iterable[Record], among: Sequence[str] = TASKS) -> list[str]:
    """Those of these transfers that have records, in order."""
    there = {record["task"] for record in records}
    return [task for task in among if task in there]


def sets_of(tasks: Sequence[str]) -> dict[str, list[str]]:
    """What a column is the mean of: the groups, the halves by target, and all; those that have transfers."""
    named = {group: [task for task in own if task in tasks] for group, own in GROUPS.items()}
    if all(named[group] for group in PARTS["confirmation"]):
        named["confirmation"] = [task for task in CONFIRMATION if task in tasks]
    named |= {f"targets: {half}": [task for task in tasks if half_of(task) == half] for half in HALVES}
    return {name: own for name, own in {**named, "mean": list(tasks)}.items() if own}


def over(by_task: Mapping[str, BySeed], tasks: Iterable[str]) -> dict[int, float]:
    """The mean over these transfers for each seed that has all of them; {} if none has."""
    own = [by_task.get(task, {}) for task in tasks]
    seeds = set.intersection(*map(set, own)) if own else set()
    return {seed: statistics.fmean(by_seed[seed] for by_seed in own) for seed in sorted(seeds)}


def by_target(cells: Cells, tasks: Sequence[str]) -> Cells:
    """method -> target domain -> {seed: mean over its sources}."""
    targets = {name: [task for task in tasks if target_of(task) == name] for name in TARGETS}
    return {m: {name: over(found, own) for name, own in targets.items() if own} for m, found in cells.items()}


def mean_ranks(cells: Cells, tasks: Sequence[str]) -> dict[str, float]:
    """method -> mean over target domains of its rank, 1 the best, ties share theirs; of methods that miss no cell."""
    seeds = {seed for by_task in cells.values() for by_seed in by_task.values() for seed in by_seed}
    found = {m: t for m, t in by_target(cells, tasks).items() if all(set(v) == seeds for v in t.values())}
    if not found or not tasks:
        return {}
    scores = [[statistics.fmean(by_seed.values()) for by_seed in own.values()] for own in found.values()]
    return dict(zip(found, map(float, ranks(list(zip(*scores, strict=True))).mean(axis=0)), strict=True))  # type: ignore[arg-type]
