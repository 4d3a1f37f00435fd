"""Is the project's own strategy better on the transfers that nothing was chosen on? Differences, and paired tests.

From records alone; by target domain, since transfers that share a target are not independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from experiments.arena.areas import ALC, BySeed, by_round, by_target, cells_of, over, shares_of, tasks_in
from experiments.arena.tasks import BASE, CONFIRMATION, OWN, TARGETS, target_of
from experiments.framework.records import Record
from experiments.framework.reporting.comparisons import Comparison, Family, compare_all
from experiments.framework.reporting.tables import Table, difference, mean_of, points, signed

RIVALS = ("margin", "badge", "clue", "uherding", BASE)  # that the project's own strategy is compared with
ALPHA = 0.05


def leads(records: Sequence[Record]) -> dict[str, dict[str, BySeed]]:
    """rival -> column -> {seed: hybrid minus the rival} on confirmation: the ALC on each target domain, and the
    accuracy after each round, mean over target domains."""
    tasks = tasks_in(records, CONFIRMATION)
    areas = by_target(cells_of(records, ALC), tasks)
    columns = {TARGETS[name]: {m: own[name] for m, own in areas.items()} for name in areas.get(OWN, {})}
    shares = shares_of(records, tasks)
    for number, cells in by_round(records).items():
        if shares.get(number):  # nothing is labelled in round 0
            found = by_target(cells, tasks)
            columns[f"at {shares[number]:.0f} %"] = {m: over(own, own) for m, own in found.items()}
    rivals = [name for name in RIVALS if name in areas and OWN in areas]
    return {
        rival: {c: difference(found.get(OWN, {}), found.get(rival, {})) for c, found in columns.items()}
        for rival in rivals
    }


def table_of_leads(records: Sequence[Record]) -> Table:
    """One row a rival: `leads`."""
    found = leads(records)
    columns = list(next(iter(found.values()), {}))
    return [f"{OWN} over", *columns], [[rival, *(points(v, 2) for v in own.values())] for rival, own in found.items()]


def confirmed(records: Sequence[Record]) -> list[Comparison]:
    """Hybrid against its rivals on confirmation, by target domain, and by target domain and seed: six targets cannot
    give five comparisons a corrected p below 0.05, and seeds of a target share its images."""
    tasks = tuple(tasks_in(records, CONFIRMATION))
    if OWN not in {record["method"] for record in records if record["task"] in tasks}:
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


def findings(records: Sequence[Record]) -> list[str]:
    """Hybrid's lead over each rival with both tests, and the three lowest of `leads`."""
    found = []
    for unit, comparison in zip(("targets", "targets x seeds"), confirmed(records), strict=False):
        parts = [f"{t.a} {signed(-t.mean, 2)}{'*' * (t.p_holm < ALPHA)}" for t in comparison.tests]
        if parts:
            pairs = f"{comparison.tests[0].n} {unit}"
            found.append(f"Confirmation ALC, {OWN} minus {', '.join(parts)} ({pairs}; * Holm p < {ALPHA}).")
    differences = [
        (mean, column, rival)
        for rival, own in leads(records).items()
        for column, v in own.items()
        if (mean := mean_of(v))
    ]
    lowest = [f"{column} {signed(mean, 2)} ({rival})" for mean, column, rival in sorted(differences)[:3] if mean < 0]
    if lowest:
        found.append(f"Confirmation, largest deficits of {OWN}: {', '.join(lowest)}.")
    return found
