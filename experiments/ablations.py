"""What the parts of the project's own strategy are worth, on the arena's development transfers.

    variants    coverage under DAN's kernel, one part changed at a time; the sum of three, its pairs; other fusions
    references  each part alone (k_center, mmd_reduction, entropy), random, and the strategies to compare with
    choice      for the targets of one half the variant with the highest ALC on the transfers of the other half

Protocol, trials and measures are those of the arena.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from experiments.arena import Arena, cells, records_of
from experiments.arena.areas import ALC, Cells, by_target, cells_of, over, tasks_in
from experiments.arena.report import captions, rows_of
from experiments.arena.tasks import HALVES, TARGETS, chosen_on, half_of
from experiments.framework.experiment import Experiment
from experiments.framework.records import Record
from experiments.framework.report import Report
from experiments.framework.reporting.comparisons import ALPHA, Cell, Comparison, Family, compare
from experiments.framework.reporting.tables import Table, difference, mean_of, points, signed, told

PREFIX = "experiments.arena_ablations:"  # of a variant's name as a strategy
# In the order of the table; the first is the one that the others are compared with.
VARIANTS = (
    *("margin", "ones", "entropy", "least_confidence", "patches", "patches_4", "patches_2"),
    *("margin_half", "margin_power2", "entropy_half", "entropy_narrow", "entropy_source_half"),
    *("source_quarter", "source_half", "source_whole"),
    *("unit_features", "equal_weights", "narrow_kernel", "narrower_kernel", "wide_kernel"),
    *("reach", "entropy_reach", "reach_power2", "reach_one_kernel", "reach_unit", "reach_half", "reach_double"),
    *("reach_uncertain_picks", "reach_joint", "labels_apart", "vote", "reach_vote"),
    *("all_layers", "joint", "gradients", "uncertain_picks", "uncertain_plus", "doubt", "annealed", "annealed_kernel"),
    *("sum_of_three", "sum_without_patches", "sum_without_transfer", "sum_without_diversity"),
    *("mmd_leaving", "rank_fusion", "staged", "product"),
)
REFERENCES = ("random", "k_center", "mmd_reduction", "entropy", "margin", "badge", "clue", "uherding")
STRATEGIES = (*(PREFIX + name for name in VARIANTS), *REFERENCES)
FIRST = VARIANTS[0]


@dataclass(frozen=True)
class Ablations(Arena):
    """What is run."""

    NAME: ClassVar[str] = "ablations"
    QUICK: ClassVar[dict[str, Any]] = {**Arena.QUICK, "strategies": ("random", PREFIX + "margin", PREFIX + "ones")}

    parts: Literal["development", "confirmation", "all"] = "development"
    """groups of transfers: development (the paper's six of the ten-class set), confirmation (the others), all"""
    strategies: tuple[str, ...] = STRATEGIES
    """variants and strategies"""


# --- the report -------------------------------------------------------------------------------------------------------


def short(method: str) -> str:
    """A variant by its own name; a strategy of the same name is marked."""
    name = method.removeprefix(PREFIX)
    return f"{name} (strategy)" if name == method and method in VARIANTS else name


def areas(records: Sequence[Record]) -> Cells:
    """method -> task -> seed -> ALC on the test split, percent: variants first, in their order."""
    found = {short(method): by_task for method, by_task in cells_of(records, ALC).items()}
    order = (*(name for name in VARIANTS if name in found), *(name for name in found if name not in VARIANTS))
    return {name: found[name] for name in order}


def means_of(found: Cells, tasks: Sequence[str]) -> dict[str, float]:
    """method -> mean ALC over these transfers and seeds; of those that have all of them, from the highest on."""
    values = {name: over(own, tasks) for name, own in found.items()}
    most = max(map(len, values.values()), default=0)
    means = {name: mean for name, own in values.items() if len(own) == most and (mean := mean_of(own)) is not None}
    return dict(sorted(means.items(), key=lambda item: -item[1]))


def choices(found: Cells, tasks: Sequence[str]) -> dict[str, str]:
    """half -> the variant that is chosen for it on the transfers of the other half; of equal ones the first."""
    variants = {name: own for name, own in found.items() if name in VARIANTS}
    means = {half: means_of(variants, [task for task in chosen_on(half) if task in tasks]) for half in HALVES}
    return {half: next(iter(own)) for half, own in means.items() if own}


def across(found: Cells, chosen: Mapping[str, str], tasks: Sequence[str]) -> dict[str, dict[int, float]]:
    """task -> seed -> ALC of what was chosen for the task's half: no transfer is judged by what was chosen on it."""
    return {task: found[chosen[half_of(task)]].get(task, {}) for task in tasks if half_of(task) in chosen}


def table_of(records: Sequence[Record]) -> Table:
    """One row a variant or strategy: by target domain, the mean over transfers, and its difference from the first."""
    tasks, rows = tasks_in(records), areas(records)
    first, chosen = over(rows.get(FIRST, {}), tasks), choices(rows, tasks)
    if len(chosen) > 1:
        rows["chosen across halves"] = across(rows, chosen, tasks)
    targets = by_target(rows, tasks)
    columns = list(next(iter(targets.values()), {}))
    lines = []
    for name, by_task in rows.items():
        mean = over(by_task, tasks)
        line = [name, *(told(targets[name][column], 2) for column in columns), told(mean, 2)]
        line.append("–" if name == FIRST else points(difference(mean, first), 2))
        lines.append([*line, str(sum(map(len, by_task.values())))])
    return ["", *(TARGETS[c] for c in columns), "mean", f"over {FIRST}", "runs"], lines


def findings(records: Sequence[Record]) -> list[str]:
    """The best and the worst, what is chosen for each half and its rank there, what differs from the first variant."""
    tasks, found = tasks_in(records), areas(records)
    means = means_of(found, tasks)
    variants = [name for name in means if name in VARIANTS]
    if not variants:
        return []
    reference = next((name for name in means if name not in VARIANTS), "")
    listed = [name for name in means if name in (variants[0], FIRST, variants[-1], reference)]
    parts = ", ".join(f"{name} {means[name]:.2f}" for name in listed)
    sentences = [f"Mean ALC over {len(tasks)} transfers, {len(variants)} variants: {parts}."]
    for half, name in choices(found, tasks).items():
        here = means_of({v: found[v] for v in variants}, [task for task in tasks if half_of(task) == half])
        if name in here:
            rank, best = list(here).index(name) + 1, next(iter(here))
            sentences.append(
                f"Targets of {half}: {name} (chosen on the others) {here[name]:.2f}, rank {rank} of {len(here)}; "
                f"highest {best} {here[best]:.2f}."
            )
    for comparison in compared(records)[1:]:
        sure = [test for test in comparison.tests if test.p_holm < ALPHA]
        for side, sign in (("above", 1), ("below", -1)):
            names = [f"{test.a} {signed(test.mean, 2)}" for test in sure if sign * test.mean > 0]
            count = f"{len(names)} of {len(comparison.tests)}"
            sentences.append(f"ALC {side} {FIRST} (Holm p < {ALPHA}): {count}{': ' * bool(names)}{', '.join(names)}.")
    return sentences


def compared(records: Sequence[Record]) -> list[Comparison]:
    """All against the first variant: one number a transfer, and one a transfer and seed. Six transfers cannot give so
    many comparisons a corrected p below 0.05, and seeds of a transfer share its images."""
    networks = {record["task"]: record["network"] for record in records}
    numbers = {
        name: {Cell(networks[task], task, 0, seed): v for task, own in by_task.items() for seed, v in own.items()}
        for name, by_task in areas(records).items()
    }
    if FIRST not in numbers or len(numbers) < 2:
        return []
    family = Family(metric="alc", split="test", against=FIRST)
    seeds = replace(family, unit="transfer and seed", unit_of=lambda cell: (cell.task, cell.seed))
    return [compare(family, numbers), compare(seeds, numbers)]


def report_of(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    return Report(
        title="What the parts of the project's own strategy are worth",
        findings=findings(records),
        tables=[("Area under accuracy(labels), test split", table_of(records))],
        captions=captions(records),
        rows=rows_of(records),
        compared=compared(records),
    )


EXPERIMENT = Experiment(
    options=Ablations,
    summary="six transfers: what the parts of the project's own strategy are worth",
    cells=cells,
    report=report_of,
    records=records_of,
)
