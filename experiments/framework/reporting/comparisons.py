"""Every method of an experiment against every other: paired tests and mean ranks, on the cells that both have.

    d = mean over the seeds that both have of (a - b), one number a task      six tasks or more
    d = a - b of one task and seed                                            fewer: pairs that are not independent
    d = mean over tasks of mean over seeds of (a - b), one number a unit      an experiment's own units

A cell is one measured number: of a method, on a task, at a number of labels, of a seed. Only cells of the same task,
labels and seed are compared. What a method lacks is counted and told; it is never filled in, nor left out in silence.

Shapes: T tasks (or other units), K methods.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

from experiments.framework.measurements import Key, measurements
from experiments.framework.records import Record
from experiments.framework.reporting import mean_ranks, paired_tests

ALPHA = 0.05
ENOUGH_TASKS = 6  # from here on a task is one unit: Wilcoxon's smallest p, 2^(1-n), is below 0.05 from n = 6


class Cell(NamedTuple):
    """Where one number of a method was measured."""

    network: str
    task: str
    labels: int
    seed: int


Cells = Mapping[str, Mapping[Cell, float]]  # method -> its numbers; a method that has none stays, with nothing


@dataclass(frozen=True, kw_only=True)
class Family:
    """What is compared; its comparisons are corrected together.

    metric, split, selection: as in table.csv. network: one, or None for all of them, each its own task. methods, tasks:
    these only; where: what the tasks are called. against: the one method that the others are compared with, or None for
    all pairs. unit, unit_of: where tasks share data, as all transfers to one target do, what a unit is called ("target
    domain"), and the unit of a cell; each unit is then the mean of its tasks. Numbers are compared at the most labels
    that two methods or more have, task by task; higher is better.
    """

    metric: str = "accuracy"
    split: str = "target"
    selection: str = "last"
    network: str | None = None
    methods: tuple[str, ...] = ()
    against: str | None = None
    tasks: tuple[str, ...] = ()
    where: str = ""
    unit: str = "task"
    unit_of: Callable[[Cell], Hashable] | None = None


class PairedTest(NamedTuple):
    """a - b over the n units that both have.

    cells: numbers behind them. mean, low, high: the mean difference and the ends of its interval (None for n = 1).
    better, worse: units where a is above b, and below. p: Wilcoxon's; p_holm: corrected for the family.
    """

    a: str
    b: str
    n: int
    cells: int
    mean: float
    low: float | None
    high: float | None
    better: int
    worse: int
    p: float
    p_holm: float


class Ranking(NamedTuple):
    """Mean ranks of methods, best first, over the units that all of them have.

    left_out: methods without a place in the table, which would have cost the others more cells than they bring.
    cells: numbers of each method.
    """

    methods: tuple[str, ...]
    mean_ranks: tuple[float, ...]
    units: int
    cells: int
    left_out: tuple[str, ...]
    chi2: float
    p: float
    critical_difference: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A family, its numbers, and what they say.

    unit: the family's, or "task and seed". tests: in the order of the methods. ranking: None below three methods or two
    units, and for a family against one method. uncompared: pairs without a cell that both have.
    """

    family: Family
    cells: Cells
    unit: str
    tests: tuple[PairedTest, ...]
    uncompared: tuple[tuple[str, str], ...]
    ranking: Ranking | None


# --- which cells ------------------------------------------------------------------------------------------------------


def families_of(records: Iterable[Record]) -> list[Family]:
    """What a report compares by itself: for each network and selection rule the accuracy at the most labels, and the
    area under the accuracy-labels curve where there is one; on the test split if it was measured, else on all of the
    target. `oracle` is no result, and is not compared."""
    measured = measurements(records)
    methods: dict[tuple[str, str, str], dict[str, set[str]]] = {}
    for key in measured:
        if key.selection != "oracle" and key.metric in ("accuracy", "alc") and not _is_mean(key.task):
            by_split = methods.setdefault((key.network, key.selection, key.metric), {})
            by_split.setdefault(key.split, set()).add(key.method)
    families = []
    for (network, selection, metric), by_split in methods.items():
        split = next((s for s in ("test", "target") if len(by_split.get(s, ())) > 1), None)
        if split is not None:
            families.append(Family(metric=metric, split=split, selection=selection, network=network))
    return families


def cells_of(measured: Mapping[Key, Mapping[int, float]], family: Family) -> dict[str, dict[Cell, float]]:
    """The numbers of a family, from what `records.measurements` gives; rows that are means over tasks are no cells."""
    found: dict[str, dict[Cell, float]] = {}
    there: dict[tuple[str, str], dict[int, set[str]]] = {}
    for key, by_seed in measured.items():
        same = (key.metric, key.split, key.selection) == (family.metric, family.split, family.selection)
        if not same or family.network not in (None, key.network) or _is_mean(key.task):
            continue
        if (family.methods and key.method not in family.methods) or (family.tasks and key.task not in family.tasks):
            continue
        there.setdefault((key.network, key.task), {}).setdefault(key.labels, set()).add(key.method)
        own = found.setdefault(key.method, {})
        own |= {Cell(key.network, key.task, key.labels, seed): value for seed, value in by_seed.items()}
    labels = {place: _labels(by_count) for place, by_count in there.items()}
    return {
        method: {cell: value for cell, value in own.items() if cell.labels == labels[cell.network, cell.task]}
        for method, own in found.items()
    }


def _is_mean(task: str) -> bool:
    return task == "mean" or task.startswith("mean_")


def _labels(methods: Mapping[int, set[str]]) -> int:
    """The number of labels to compare at: the most that two methods have (one, where none has)."""
    return max(methods, key=lambda count: (min(len(methods[count]), 2), count))


# --- what they say ----------------------------------------------------------------------------------------------------


def compare_all(records: Iterable[Record], families: Sequence[Family] | None = None) -> list[Comparison]:
    """A comparison for each family; None: `families_of`."""
    records = list(records)
    measured = measurements(records)
    chosen = families_of(records) if families is None else families
    return [compare(family, cells_of(measured, family)) for family in chosen]


def compare(family: Family, cells: Cells) -> Comparison:
    """Paired tests and mean ranks of `cells`, which an experiment with a metric of its own may bring itself.

    The unit is the family's own, or the task from ENOUGH_TASKS tasks on, each with the mean over its seeds: seeds of
    one task share its images, and are no samples of tasks. Below that it is the task and seed. Raises ValueError for a
    number that is not finite.
    """
    average = family.unit_of is not None or len(_shared_tasks(cells)) >= ENOUGH_TASKS
    unit_of = (family.unit_of or _task_of) if average else _itself
    if family.against is None:
        pairs = list(combinations(cells, 2))
    else:
        pairs = [(method, family.against) for method in cells if method != family.against]
    tests, uncompared = [], []
    for a, b in pairs:
        both = [cell for cell in cells[a] if cell in cells.get(b, {})]
        if not both:
            uncompared.append((a, b))
            continue
        own = {cell: cells[a][cell] - cells[b][cell] for cell in both}
        tests.append(_tested(a, b, over_units(own, unit_of), cells=len(both)))
    corrected = paired_tests.holm([test.p for test in tests])
    return Comparison(
        family=family,
        cells=cells,
        unit=family.unit if average else "task and seed",
        tests=tuple(test._replace(p_holm=p) for test, p in zip(tests, corrected, strict=True)),
        uncompared=tuple(uncompared),
        ranking=_ranking(cells, unit_of) if family.against is None else None,  # its difference is for all pairs
    )


def _shared_tasks(cells: Cells) -> set[tuple[str, str]]:
    """The tasks that two methods or more were measured on."""
    methods: dict[tuple[str, str], set[str]] = {}
    for method, own in cells.items():
        for cell in own:
            methods.setdefault((cell.network, cell.task), set()).add(method)
    return {task for task, there in methods.items() if len(there) > 1}


def _task_of(cell: Cell) -> Hashable:
    return cell.network, cell.task


def _itself(cell: Cell) -> Hashable:
    return cell


def over_units(values: Mapping[Cell, float], unit_of: Callable[[Cell], Hashable]) -> list[float]:
    """One number a unit, in the order of the sorted cells: the mean over its tasks of the mean over their seeds."""
    units: dict[Hashable, dict[tuple[str, str], list[float]]] = {}
    for cell in sorted(values):
        tasks = units.setdefault(unit_of(cell), {})
        tasks.setdefault((cell.network, cell.task), []).append(values[cell])
    return [statistics.fmean(map(statistics.fmean, tasks.values())) for tasks in units.values()]


def _tested(a: str, b: str, differences: Sequence[float], *, cells: int) -> PairedTest:
    low, high = paired_tests.t_interval(differences) or (None, None)
    rounded = [round(d, paired_tests.DECIMALS) for d in differences]
    better, worse = sum(d > 0 for d in rounded), sum(d < 0 for d in rounded)
    p, mean = paired_tests.signed_rank_p(differences), statistics.fmean(differences)
    return PairedTest(a, b, len(differences), cells, mean, low, high, better, worse, p, p)


def _block(cells: Cells) -> tuple[list[str], list[Cell]]:
    """Methods and cells of a table without gaps, and about as large as there is one.

    From all methods on, the one without which the others share most cells leaves; what counts is methods x cells.
    """
    methods = [method for method, own in cells.items() if own]
    best: tuple[list[str], set[Cell]] = ([], set())
    while len(methods) > 2:
        shared = set.intersection(*(set(cells[method]) for method in methods))
        if len(methods) * len(shared) > len(best[0]) * len(best[1]):
            best = (methods, shared)
        rest = {leaver: [m for m in methods if m != leaver] for leaver in methods}
        leaves = max(rest, key=lambda m: (len(set.intersection(*(set(cells[o]) for o in rest[m]))), -len(cells[m])))
        methods = rest[leaves]
    return best[0], sorted(best[1])


def _ranking(cells: Cells, unit_of: Callable[[Cell], Hashable]) -> Ranking | None:
    import numpy as np

    methods, shared = _block(cells)
    scores = np.array([over_units({cell: cells[method][cell] for cell in shared}, unit_of) for method in methods]).T
    if len(scores) < 2:
        return None
    table = mean_ranks.ranks(scores)
    chi2, p = mean_ranks.friedman(table)
    means = dict(zip(methods, table.mean(axis=0).tolist(), strict=True))
    return Ranking(
        methods=tuple(sorted(means, key=means.__getitem__)),
        mean_ranks=tuple(sorted(means.values())),
        units=len(scores),
        cells=len(shared),
        left_out=tuple(method for method in cells if method not in means),
        chi2=chi2,
        p=p,
        critical_difference=mean_ranks.critical_difference(len(methods), len(scores), alpha=ALPHA),
    )
