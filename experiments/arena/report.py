"""The report of the arena, from records alone: tables, curves, findings."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from experiments.arena import significance
from experiments.arena.areas import (
    ALC,
    UNQUERIED,
    by_round,
    by_target,
    cells_of,
    mean_ranks,
    over,
    sets_of,
    shares_of,
    tasks_in,
)
from experiments.arena.tasks import BASE, HALVES, OWN, TARGETS, target_of
from experiments.framework.measurements import Key, Row, aggregate, row_of
from experiments.framework.records import Record
from experiments.framework.report import Drawn, Report
from experiments.framework.reporting import against_random
from experiments.framework.reporting.comparisons import Family, compare_all
from experiments.framework.reporting.tables import Table, difference, mean_of, signed, told

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 7  # curves in a figure: those of the largest areas, and random and hybrid
SPLITS = {ALC: "test", UNQUERIED: "unqueried", "alc/target": "target"}


# --- tables -----------------------------------------------------------------------------------------------------------


def table_of(records: Sequence[Record]) -> Table:
    """One row a strategy, the best mean rank first."""
    tasks = tasks_in(records)
    cells, columns = cells_of(records, ALC), sets_of(tasks)
    ranks = {"rank": mean_ranks(cells, tasks)}
    if "confirmation" in columns:
        ranks["rank, confirmation"] = mean_ranks(cells, columns["confirmation"])
    seconds, base = cells_of(records, "seconds_a_query", 1.0), cells.get(BASE, {})
    lines = []
    for method in sorted(cells, key=lambda m: ranks["rank"].get(m, len(cells) + 1.0)):
        both = [task for task, own in cells[method].items() if set(own) & set(base.get(task, {}))]
        gain = mean_of(difference(over(cells[method], both), over(base, both)))
        taken = [value for own in seconds[method].values() for value in own.values()]
        lines.append(
            [
                method,
                *(told(over(cells[method], own), 2) for own in columns.values()),
                "–" if method == BASE else signed(gain, 2),
                *(f"{of[method]:.1f}" if method in of else "–" for of in ranks.values()),
                _needed(records, method),
                f"{statistics.fmean(taken):.2f}",
                str(sum(map(len, cells[method].values()))),
            ]
        )
    headers = ["strategy", *columns, "over random", *ranks, "% of labels to 95 %", "s a query", "runs"]
    return headers, lines


def _needed(records: Sequence[Record], method: str) -> str:
    """The mean share of the pool until 95 % of what all labels give, and how many runs reached it. A run that did not
    counts with all its labels: the mean is then a lower bound."""
    own = [r for r in records if r.get("summary") and r["method"] == method and r.get("goal") is not None]
    if not own:
        return "–"
    needed = [r["labels"] if r["labels_to_95"] is None else r["labels_to_95"] for r in own]
    mean = statistics.fmean(100 * labels / r["sizes"]["target"] for labels, r in zip(needed, own, strict=True))
    reached = sum(r["labels_to_95"] is not None for r in own)
    return f"{'≥ ' if reached < len(own) else ''}{mean:.1f} ({reached} of {len(own)})"


def table_by_target(records: Sequence[Record], order: Iterable[str]) -> Table:
    """The area by target domain: one row a strategy, in this order."""
    found = by_target(cells_of(records, ALC), tasks_in(records))
    columns = list(next(iter(found.values()), {}))
    return ["strategy", *(TARGETS[c] for c in columns)], [[m, *(told(found[m][c], 2) for c in columns)] for m in order]


def rows_of(records: Sequence[Record]) -> list[Row]:
    """The rows of table.csv: accuracies, areas and seconds of each transfer, and means of areas over sets of them."""
    rows, sets = aggregate(records), sets_of(tasks_in(records))
    first = {(r["method"], r["task"]): {**r, "selection": "last"} for r in reversed(records) if r.get("summary")}
    for metric in ("labels_to_95", "seconds_a_query"):
        for method, by_task in cells_of(records, metric, 1.0).items():
            rows += [row_of(first[method, t], v.values(), split="test", metric=metric) for t, v in by_task.items()]
    for name, split in SPLITS.items():
        for method, by_task in cells_of(records, name).items():
            any_task = first[method, next(iter(by_task))]
            like = any_task | {"network": "", "labels": 0, "command": any_task["command_of_all"]}
            for column, tasks in sets.items():
                if by_seed := over(by_task, tasks):
                    rows.append(row_of(like | {"task": column}, by_seed.values(), split=split, metric="alc"))
    return rows


# --- findings ---------------------------------------------------------------------------------------------------------


def findings(records: Sequence[Record]) -> list[str]:
    """The best and the worst of all transfers and of those that confirm, hybrid and random; differences of hybrid."""
    tasks = tasks_in(records)
    cells, sets = cells_of(records, ALC), sets_of(tasks)
    found = []
    titles = {"mean": "Mean area under accuracy(labels) (ALC)", "confirmation": "Confirmation ALC"}
    for column in [name for name in titles if name in sets]:
        means = {m: value for m, own in cells.items() if (value := mean_of(over(own, sets[column]))) is not None}
        order = sorted(means, key=lambda m: -means[m])
        if len(order) > 1:
            listed = [m for m in order if m in (order[0], OWN, BASE, order[-1])]
            parts = [f"{m} {means[m]:.2f} ({order.index(m) + 1} of {len(order)})" for m in listed]
            found.append(f"{titles[column]}, {len(sets[column])} transfers: {', '.join(parts)}.")
    found += significance.findings(records)
    if missing := set(cells) - set(mean_ranks(cells, tasks)):
        found.append(f"Not ranked, with missing runs: {', '.join(sorted(missing))}.")
    return found


def captions(records: Sequence[Record]) -> list[str]:
    """How the numbers were made."""
    own = [record for record in records if record.get("summary")]

    def each(values: Iterable[object]) -> str:
        return ", ".join(map(str, sorted(set(values), key=str)))

    rates = each(f"{r['how']['lr']:g} (trade-off {r['trade_off']:g}) on {r['network']}" for r in own)
    sizes = each(f"{TARGETS[target_of(r['task'])]} {r['sizes']['target']:,}/{r['sizes']['target_test']:,}" for r in own)
    longest, start = max(r["cpu_seconds"] for r in own), max(r["cpu_seconds_of_start"] for r in own)
    aligned = "DAN's alignment" if any(r["trade_off"] for r in own) else "no alignment (source-only)"
    halves = "; ".join(f"{half}: {', '.join(TARGETS[t] for t in targets)}" for half, targets in HALVES.items())
    return [
        "ALC: area under accuracy(labels) from 0 labels on, percent, mean ± standard deviation over seeds, on a test "
        "split of the target that is neither queried nor aligned with. Columns are means over their transfers. rank: "
        "mean over target domains, 1 is best. over random: points, same seeds. % of labels to 95 %: of the pool, until "
        "95 % of the accuracy with all labels; ≥: runs that do not reach it count with all their labels. s a query: "
        "CPU seconds of the strategy alone.",
        f"Rounds of {each(r['budget'] for r in own)} of the pool, each {each(r['steps_per_round'] for r in own)} steps "
        f"from the last round's weights on source, all labels so far and {aligned}. Learning rates {rates}. Images in "
        f"the pool/test split: {sizes}. CPU seconds: at most {longest:.1f} a run, {start:.1f} a start.",
        "Ideas are tried on development. Other sources: the same targets. Digits: targets that nothing was chosen on; "
        f"both are confirmation. Halves by target, each chosen for on development transfers of the other: {halves}.",
    ]


# --- the report -------------------------------------------------------------------------------------------------------


def curves(records: Sequence[Record], column: str, tasks: Sequence[str]) -> Figure | None:
    """Mean accuracy over transfers against labels, a band of one standard deviation; None for fewer than two points."""
    rounds, shares = by_round(records), shares_of(records, tasks)
    areas = {m: value for m, own in cells_of(records, ALC).items() if (value := mean_of(over(own, tasks))) is not None}
    order = sorted(areas, key=lambda m: -areas[m])
    measured = {}
    for method in [m for m in order if m in (*order[:SHOWN], OWN, BASE)]:
        for number, share in shares.items():
            key = Key("arena", column, "", method, round(share, 1), "test", "accuracy", "last")  # type: ignore[arg-type]
            measured[key] = over(rounds[number].get(method, {}), tasks)
    figure = against_random.curves({key: by_seed for key, by_seed in measured.items() if by_seed}, "test")
    if figure is not None:
        figure.axes[0].set_xlabel("labels, % of the pool")
    return figure


def report_of(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    figures = []
    for column, tasks in sets_of(tasks_in(records)).items():
        if not column.startswith("targets") and (figure := curves(records, column, tasks)) is not None:
            caption = f"{column}: mean accuracy on the test split over {len(tasks)} transfers, spread over seeds."
            figures.append(Drawn(f"{column.replace(' ', '_')}.png", figure, caption))
    table = table_of(records)
    family = Family(metric="alc", split="test", unit="target domain", unit_of=lambda cell: target_of(cell.task))
    own = [replace(family, against=OWN)] if any(record["method"] == OWN for record in records) else []
    return Report(
        title="The arena: which strategy gains most a label?",
        findings=findings(records),
        tables=[
            ("Area under accuracy(labels), test split", table),
            ("The same by target domain", table_by_target(records, [line[0] for line in table[1]])),
            (f"Confirmation: {OWN} minus others, points (ALC; accuracy)", significance.table_of_leads(records)),
        ],
        figures=figures,
        captions=captions(records),
        rows=rows_of(records),
        compared=[*compare_all(records, [family, *own]), *significance.confirmed(records)],
    )
