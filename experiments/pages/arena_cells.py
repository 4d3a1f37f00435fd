"""The arena's records as cells: areas by strategy, transfer and seed, their means over sets of transfers, and ranks.

ALC    = area under accuracy(labels) / (last - first number of labels), percent; the mean over a group's transfers
rank   = mean over target domains of a strategy's place there, by ALC averaged over the target's sources and seeds
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from experiments.arena_field import GROUPS, HALVES, PARTS, STRATEGIES, TARGETS, half_of, target_of
from experiments.framework.records import Record

BASE, OWN = "random", "hybrid"  # drawn in every plot
CONFIRMATION = tuple(task for group in PARTS["confirmation"] for task in GROUPS[group])
BySeed = Mapping[int, float]
Cells = dict[str, dict[str, dict[int, float]]]  # method -> task -> seed -> value
ALC, UNQUERIED = "alc/target_test", "alc/unqueried"


def cells_of(records: Iterable[Record], name: str, scale: float = 100.0) -> Cells:
    """scale * what the summaries say under `name`; strategies in the order of the experiment."""
    found: Cells = {}
    for record in records:
        if record.get("summary") and record.get(name) is not None:
            found.setdefault(record["method"], {}).setdefault(record["task"], {})[record["seed"]] = scale * record[name]
    rank = {strategy: place for place, strategy in enumerate(STRATEGIES)}
    return dict(sorted(found.items(), key=lambda item: rank.get(item[0], len(rank))))


def tasks_in(records: Iterable[Record]) -> list[str]:
    """The transfers that have records, in order."""
    there = {record["task"] for record in records}
    return [task for group in GROUPS.values() for task in group if task in there]


def sets_of(tasks: Sequence[str]) -> dict[str, list[str]]:
    """What a column is the mean of: the groups, the halves by target, and all; only those that have transfers."""
    named = {group: [task for task in own if task in tasks] for group, own in GROUPS.items()}
    if sum(bool(named[group]) for group in PARTS["confirmation"]) > 1:
        named["confirmation"] = [task for task in CONFIRMATION if task in tasks]
    named |= {f"targets: {half}": [task for task in tasks if half_of(task) == half] for half in HALVES}
    return {name: own for name, own in {**named, "mean": list(tasks)}.items() if own}


def over(by_task: Mapping[str, BySeed], tasks: Sequence[str]) -> dict[int, float]:
    """The mean over these transfers for each seed that has all of them; {} if none has."""
    seeds = set.intersection(*(set(by_task.get(task, {})) for task in tasks)) if tasks else set()
    return {seed: statistics.fmean(by_task[task][seed] for task in tasks) for seed in sorted(seeds)}


def by_target(cells: Cells, tasks: Sequence[str]) -> dict[str, dict[str, dict[int, float]]]:
    """method -> target domain -> {seed: mean over its sources}. DSLR has few images: its sources are taken together."""
    targets: dict[str, list[str]] = {name: [task for task in tasks if target_of(task) == name] for name in TARGETS}
    return {m: {name: over(found, own) for name, own in targets.items() if own} for m, found in cells.items()}


def mean_ranks(cells: Cells, tasks: Sequence[str]) -> tuple[dict[str, float], list[str]]:
    """(method -> mean over target domains of its rank, 1 the best, ties share theirs; the methods that miss a cell,
    which are not ranked)."""
    found = by_target(cells, tasks)
    seeds = {seed for by_task in cells.values() for by_seed in by_task.values() for seed in by_seed}
    whole = {m: t for m, t in found.items() if t and all(set(by_seed) == seeds for by_seed in t.values())}
    targets = list(next(iter(whole.values()), {}))
    ranks: dict[str, list[float]] = {method: [] for method in whole}
    for target in targets:
        values = {method: round(statistics.fmean(whole[method][target].values()), 9) for method in whole}
        for method, value in values.items():
            better, equal = (sum(test(v, value) for v in values.values()) for test in (float.__gt__, float.__eq__))
            ranks[method].append(better + (equal + 1) / 2)
    return {m: statistics.fmean(r) for m, r in ranks.items()}, [m for m in cells if m not in whole]


def gains(cells: Cells, tasks: Sequence[str]) -> dict[str, dict[int, float]]:
    """method -> {seed: mean over transfers of its value minus random's}, of the seeds and transfers that both have."""
    base = cells.get(BASE, {})
    found = {}
    for method, by_task in cells.items():
        shared = [task for task in tasks if set(by_task.get(task, {})) & set(base.get(task, {}))]
        mine, theirs = over(by_task, shared), over(base, shared)
        found[method] = {seed: mine[seed] - theirs[seed] for seed in mine if seed in theirs}
    return found
