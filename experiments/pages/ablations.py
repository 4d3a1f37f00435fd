"""The table and sentences of the ablations, from records alone.

over the first variant = mean over transfers of (ALC of the variant - ALC of the first), seed by seed
chosen for a half      = the variant of the highest mean ALC over the development transfers of the other half
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from experiments.arena_ablations import PREFIX, VARIANTS
from experiments.arena_field import HALVES, TARGETS, chosen_on, half_of
from experiments.framework.records import Record
from experiments.framework.report import Report
from experiments.framework.reporting.comparisons import Cell, Comparison, Family, compare
from experiments.framework.reporting.tables import Table, difference, mean_of, points, signed, told
from experiments.pages.arena import captions
from experiments.pages.arena import rows_of as rows_of_arena
from experiments.pages.arena_cells import ALC, Cells, by_target, cells_of, over, tasks_in

FIRST = next(iter(VARIANTS))


def short(method: str) -> str:
    """A variant by its own name; a strategy of the table that is called as one of them is marked."""
    name = method.removeprefix(PREFIX)
    return f"{name} (strategy)" if name == method and method in VARIANTS else name


def areas(records: Sequence[Record]) -> Cells:
    """method -> task -> seed -> ALC on the test split, percent: variants first, in their order."""
    found = {short(method): by_task for method, by_task in cells_of(records, ALC).items()}
    return {
        name: found[name] for name in [*(v for v in VARIANTS if v in found), *(m for m in found if m not in VARIANTS)]
    }


def choices(found: Mapping[str, Mapping[str, Mapping[int, float]]], tasks: Sequence[str]) -> dict[str, str]:
    """half -> the variant that is chosen for it, on the transfers of the other half; halves without any are left out.

    Only variants that have every transfer and seed that another has can be chosen; of equal ones the first.
    """
    chosen = {}
    for half in HALVES:
        on = [task for task in chosen_on(half) if task in tasks]
        means = {name: over(found[name], on) for name in VARIANTS if name in found}
        most = max((len(values) for values in means.values()), default=0)
        whole = {name: statistics.fmean(v.values()) for name, v in means.items() if v and len(v) == most}
        if on and whole:
            chosen[half] = max(whole, key=whole.__getitem__)
    return chosen


def across(found: Cells, chosen: Mapping[str, str], tasks: Sequence[str]) -> dict[str, dict[int, float]]:
    """task -> seed -> ALC of what was chosen for the task's half: no transfer is judged by what was chosen on it."""
    return {task: found[chosen[half_of(task)]].get(task, {}) for task in tasks if half_of(task) in chosen}


def table_of(records: Sequence[Record]) -> Table:
    """One row a variant or strategy: by target domain, the mean over transfers, and beside the first variant."""
    tasks, found = tasks_in(records), areas(records)
    rows: Cells = dict(found)
    chosen = choices(found, tasks)
    if len(chosen) > 1:
        rows["chosen across halves"] = across(found, chosen, tasks)
    targets = by_target(rows, tasks)
    columns = list(next(iter(targets.values()), {}))
    lines = []
    for name, by_task in rows.items():
        mean = over(by_task, tasks)
        gain = difference(mean, over(found.get(FIRST, {}), tasks))
        line = [name, *(told(targets[name][column], 2) for column in columns), told(mean, 2)]
        count = sum(len(by_seed) for by_seed in by_task.values())
        lines.append([*line, "–" if name == FIRST else points(gain, 2), VARIANTS.get(name, ""), str(count)])
    return ["", *(TARGETS.get(c, c) for c in columns), "mean", f"over {FIRST}", "what it is", "runs"], lines


def findings(records: Sequence[Record]) -> list[str]:
    """What the records decide: the best, what is chosen for each half and what that is worth, the parts of the sum."""
    tasks, found = tasks_in(records), areas(records)
    means = {name: value for name, own in found.items() if (value := mean_of(over(own, tasks))) is not None}
    variants = [name for name in VARIANTS if name in means]
    if not variants:
        return []
    best = max(variants, key=means.__getitem__)
    said = [f"Of {len(variants)} variants the best over all {len(tasks)} transfers is {best}, {means[best]:.2f}"]
    others = [name for name in means if name not in VARIANTS]
    if others:
        strongest = max(others, key=means.__getitem__)
        said[0] += f"; the best of the strategies beside them {strongest}, {means[strongest]:.2f}"
    said[0] += "."
    chosen = choices(found, tasks)
    for half, name in chosen.items():
        own = [task for task in tasks if half_of(task) == half]
        there = {v: value for v in variants if (value := mean_of(over(found[v], own))) is not None}
        if name in there:
            place = 1 + sum(value > there[name] for value in there.values())
            said.append(
                f"Targets of {half} ({len(own)} transfers): chosen on the others, {name}; it has {there[name]:.2f} "
                f"here, place {place} of {len(there)}, where the best has {max(there.values()):.2f}."
            )
    said += told_apart(records)
    parts = ("sum_of_three", "sum_without_patches", "sum_without_transfer", "sum_without_diversity")
    if all(name in means for name in parts):
        alone = [
            f"{name} {means[name]:.2f}" for name in ("k_center", "mmd_reduction", "entropy (strategy)") if name in means
        ]
        pairs = "; ".join(f"{VARIANTS[name]} {means[name]:.2f}" for name in parts[1:])
        said.append(
            f"The sum of three has {means[parts[0]]:.2f}; of two: {pairs}; alone: {', '.join(alone) or 'not run'}."
        )
    return said


def compared(records: Sequence[Record]) -> list[Comparison]:
    """Everything against the first variant: one number a transfer, and one a transfer and seed. Six transfers can't
    give so many comparisons a corrected p below 0.05, and seeds of a transfer share its images."""
    networks = {record["task"]: record["network"] for record in records}
    cells = {
        name: {
            Cell(networks[task], task, 0, seed): value for task, own in by_task.items() for seed, value in own.items()
        }
        for name, by_task in areas(records).items()
    }
    if FIRST not in cells or len(cells) < 2:
        return []
    family = Family(metric="alc", split="test", against=FIRST)
    seeds = replace(family, unit="transfer and seed", unit_of=lambda cell: (cell.task, cell.seed))
    return [compare(family, cells), compare(seeds, cells)]


def told_apart(records: Sequence[Record]) -> list[str]:
    """How many differ from the first variant by more than seeds and transfers do, above it and below."""
    comparisons = compared(records)
    if not comparisons or not comparisons[-1].tests:
        return []
    tests = comparisons[-1].tests
    sure = [test for test in tests if test.p_holm < 0.05]
    below = [f"{test.a} {signed(test.mean, 2)}" for test in sure if test.mean < 0]
    above = [f"{test.a} {signed(test.mean, 2)}" for test in sure if test.mean > 0]
    return [
        f"By transfer and seed, Holm-corrected over {len(tests)} tests, {len(sure)} differ from {FIRST} (p < 0.05): "
        f"above it {', '.join(above) or 'none'}; below it {', '.join(below) or 'none'}."
    ]


def report_of(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    return Report(
        title="What the parts of the project's own strategy are worth",
        findings=findings(records),
        tables=[("Area under accuracy(labels), test split", table_of(records))],
        figures=[],
        captions=captions(records),
        rows=rows_of_arena(records),
        compared=compared(records),
    )
