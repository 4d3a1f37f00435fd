"""Is the project's own strategy ahead on the transfers that nothing was chosen on? Ranks, areas, tests, and where not.

From records alone; by target domain, since transfers that share a target are not independent.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

from experiments.arena_field import TARGETS, target_of
from experiments.framework.records import Record
from experiments.framework.reporting.comparisons import Comparison, Family, compare_all
from experiments.framework.reporting.tables import Table, difference, points, signed
from experiments.pages.arena_cells import (
    ALC,
    BASE,
    CONFIRMATION,
    OWN,
    Cells,
    by_target,
    cells_of,
    mean_ranks,
    over,
    tasks_in,
)

RIVALS = ("margin", "badge", "clue", "uherding", BASE)  # whom the project's own strategy has to be ahead of
BESIDE = (*RIVALS, "sum_of_three")


def verdict(records: Sequence[Record]) -> list[str]:
    """Whether hybrid is ahead of each rival on the transfers that nothing was chosen on, and what the tests say."""
    tasks = [task for task in tasks_in(records) if task in CONFIRMATION]
    cells = cells_of(records, ALC)
    mine = over(cells.get(OWN, {}), tasks)
    if not mine:
        return []
    said = []
    ranks, _ = mean_ranks(cells, tasks)
    if OWN in ranks:
        first = min(ranks.values())
        best = [method for method, rank in ranks.items() if rank <= first + 1e-9]
        others = ", ".join(method for method in best if method != OWN)
        place = f"mean rank {ranks[OWN]:.1f}, {others} the best, {first:.1f}"
        if OWN in best:
            place = "the best mean rank" + (f", which it shares with {others}" if others else "")
        means = {m: statistics.fmean(v.values()) for m, by_task in cells.items() if (v := over(by_task, tasks))}
        largest = max(means, key=means.__getitem__)
        area = f"an area of {means[OWN]:.2f}, {largest} the largest, {means[largest]:.2f}"
        area = "the largest area" if largest == OWN else area
        said.append(f"On the {len(tasks)} transfers that it was not chosen on, {OWN} has {place}, and {area}.")
    for unit, comparison in zip(("target domain", "target domain and seed"), confirmed(records), strict=True):
        parts = [
            f"{test.a} {signed(-test.mean, 2)} ({test.worse} of {test.n} better, Holm p {test.p_holm:.2g})"
            for test in comparison.tests
        ]
        if parts:
            said.append(f"There {OWN} is over its rivals, by {unit}, points of area: {', '.join(parts)}.")
    return [*said, *behind(records)]


def behind(records: Sequence[Record]) -> list[str]:
    """On which target domains hybrid has less area than a rival, and after which purchases less accuracy."""
    headers, lines = standing(records)
    parts = []
    for line in lines:
        differences = zip(headers[1:], (cell.split(" ")[0] for cell in line[1:]), strict=True)
        lost = [f"{name} {value}" for name, value in differences if value[0] == "−" and value.strip("−0.")]
        if lost:
            parts.append(f"{line[0]}: {', '.join(lost)}")
    if not parts:
        return []
    return [f"There {OWN} is behind, in points of area, and of accuracy at so many labels: {'; '.join(parts)}."]


def confirmed(records: Sequence[Record]) -> list[Comparison]:
    """Hybrid against its rivals on the transfers that nothing was chosen on, by target domain, and by target and seed:
    six targets can't give five comparisons a corrected p below 0.05, and seeds of a target share its images."""
    tasks = tuple(task for task in tasks_in(records) if task in CONFIRMATION)
    if not tasks:
        return []
    family = Family(
        metric="alc",
        split="test",
        methods=(OWN, *RIVALS),
        against=OWN,
        tasks=tasks,
        where="on transfers that nothing was chosen on",
        unit="target domain",
        unit_of=lambda cell: target_of(cell.task),
    )
    seeds = replace(family, unit="target domain and seed", unit_of=lambda cell: (target_of(cell.task), cell.seed))
    return compare_all(records, [family, seeds])


def standing(records: Sequence[Record]) -> Table:
    """Where hybrid is ahead of a rival and where behind, on the transfers that nothing was chosen on: its area less the
    rival's on each target domain, and its accuracy less the rival's after each purchase, mean over target domains."""
    tasks = [task for task in tasks_in(records) if task in CONFIRMATION]
    cells = cells_of(records, ALC)
    areas = by_target(cells, tasks)
    rounds = by_round(records)
    shares = shares_of(records, tasks)
    names = list(areas.get(OWN, {}))
    lines = []
    for rival in (name for name in BESIDE if name in areas and OWN in areas):
        line = [rival, *(points(difference(areas[OWN][name], areas[rival][name]), 2) for name in names)]
        for number in shares:
            mine, theirs = (by_target(rounds[number], tasks).get(m, {}) for m in (OWN, rival))
            line.append(points(difference(_mean(mine), _mean(theirs)), 2))
        lines.append(line)
    headers = [f"{OWN} over", *(TARGETS.get(name, name) for name in names)]
    return [*headers, *(f"at {share:.0f} %" for share in shares.values())], lines


def by_round(records: Sequence[Record]) -> dict[int, Cells]:
    """round -> method -> task -> seed -> accuracy on the test split, percent."""
    found: dict[int, Cells] = {}
    for record in records:
        if record.get("selection") and "round" in record and record.get("accuracy/target_test") is not None:
            of_task = found.setdefault(record["round"], {}).setdefault(record["method"], {})
            of_task.setdefault(record["task"], {})[record["seed"]] = 100 * record["accuracy/target_test"]
    return found


def shares_of(records: Sequence[Record], tasks: Sequence[str]) -> dict[int, float]:
    """round -> labels bought by then, % of the pool, mean of these transfers' records; not of round 0, the start."""
    pools = {record["task"]: record["sizes"]["target"] for record in records if record.get("summary")}
    bought: dict[int, list[float]] = {}
    for record in records:
        if record.get("selection") and record.get("round") and record["task"] in tasks and record["task"] in pools:
            bought.setdefault(record["round"], []).append(100 * record["labels"] / pools[record["task"]])
    return {number: statistics.fmean(values) for number, values in sorted(bought.items())}


def _mean(by_name: dict[str, dict[int, float]]) -> dict[int, float]:
    """The mean over target domains, for each seed that all have."""
    return over(by_name, list(by_name))
