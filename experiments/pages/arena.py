"""The tables, curves and sentences of the arena, from records alone.

ALC    = area under accuracy(labels) / (last - first number of labels), percent; the mean over a group's transfers
rank   = mean over target domains of a strategy's place there, by ALC averaged over the target's sources and seeds
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from experiments.arena_field import HALVES, STRATEGIES, TARGETS, target_of
from experiments.framework.measurements import Row, aggregate
from experiments.framework.records import Record
from experiments.framework.report import Drawn, Report
from experiments.framework.reporting import plots
from experiments.framework.reporting.comparisons import Family, compare_all
from experiments.framework.reporting.tables import Table, mean_of, signed, tidy, told
from experiments.pages.arena_cells import (
    ALC,
    BASE,
    OWN,
    UNQUERIED,
    BySeed,
    by_target,
    cells_of,
    gains,
    mean_ranks,
    over,
    sets_of,
    tasks_in,
)
from experiments.pages.arena_verdict import by_round, confirmed, shares_of, standing, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 7  # curves in a plot, those of the largest areas
SPLITS = {ALC: "test", UNQUERIED: "unqueried", "alc/target": "target"}


# --- tables -----------------------------------------------------------------------------------------------------------


def table_of(records: Sequence[Record]) -> Table:
    """One row a strategy, the best mean rank first."""
    tasks = tasks_in(records)
    cells, columns = cells_of(records, ALC), sets_of(tasks)
    ranks, _ = mean_ranks(cells, tasks)
    unseen = mean_ranks(cells, columns["confirmation"])[0] if "confirmation" in columns else None
    gained, seconds = gains(cells, tasks), cells_of(records, "seconds_a_query", 1.0)
    lines = []
    for method in sorted(cells, key=lambda m: ranks.get(m, len(cells) + 1.0)):
        line = [method, *(told(over(cells[method], own), 2) for own in columns.values())]
        gain = gained[method]
        line.append("–" if method == BASE or not gain else signed(mean_of(gain), 2))
        line += [f"{of[method]:.1f}" if method in of else "–" for of in (ranks, unseen) if of is not None]
        line.append(_needed(records, method))
        line.append(told(dict(enumerate(v for of in seconds[method].values() for v in of.values())), 2).split(" ")[0])
        lines.append([*line, str(sum(len(by_seed) for by_seed in cells[method].values()))])
    ranked = ["rank"] if unseen is None else ["rank", "rank, confirmation"]
    headers = ["strategy", *columns, "over random", *ranked, "% of labels to 95 %", "s a query", "runs"]
    return headers, lines


def _needed(records: Sequence[Record], method: str) -> str:
    """The mean share of the pool until 95 % of what all labels give, and in how many runs it was reached. A run that
    did not reach it counts with all that it bought: the mean is then a lower bound."""
    own = [r for r in records if r.get("summary") and r["method"] == method and r.get("goal") is not None]
    if not own:
        return "–"
    shares = [
        100 * (r["labels"] if r["labels_to_95"] is None else r["labels_to_95"]) / r["sizes"]["target"] for r in own
    ]
    reached = sum(r["labels_to_95"] is not None for r in own)
    return f"{'≥ ' if reached < len(own) else ''}{statistics.fmean(shares):.1f} ({reached} of {len(own)})"


def table_by(records: Sequence[Record], name: str, *, targets: bool) -> Table:
    """Areas by target domain, or by group of transfers: one row a strategy, in the order of the first table."""
    tasks = tasks_in(records)
    cells = cells_of(records, name)
    found: dict[str, dict[str, dict[int, float]]]
    if targets:
        found = by_target(cells, tasks)
    else:
        found = {m: {column: over(own, of) for column, of in sets_of(tasks).items()} for m, own in cells.items()}
    columns = list(next(iter(found.values()), {}))
    order = [line[0] for line in table_of(records)[1]]
    headers = ["strategy", *(TARGETS.get(column, column) for column in columns)]
    return headers, [[method, *(told(found[method][column], 2) for column in columns)] for method in order]


def rows_of(records: Sequence[Record]) -> list[Row]:
    """The rows of table.csv: accuracies, areas and seconds of each transfer, and the areas' means over sets of them."""
    rows = aggregate(records)
    tasks = tasks_in(records)
    first = {(r["method"], r["task"]): r for r in reversed(records) if r.get("summary")}

    def row(method: str, task: str, like: Record, split: str, metric: str, by_seed: BySeed) -> Row:
        values = list(by_seed.values())
        one_task = task == like["task"]
        return Row(
            experiment=like["experiment"],
            task=task,
            network=like["network"] if one_task else "",
            method=method,
            labels=like["labels"] if one_task else 0,
            split=split,
            metric=metric,
            mean=statistics.fmean(values),
            spread=statistics.stdev(values) if len(values) > 1 else None,
            n=len(values),
            selection="last",
            paper=None,
            provenance="",
            command=like["command"] if one_task else like["command_of_all"],
        )

    for name, metric in (("labels_to_95", "labels_to_95"), ("seconds_a_query", "seconds_a_query")):
        for method, by_task in cells_of(records, name, 1.0).items():
            rows += [row(method, task, first[method, task], "test", metric, v) for task, v in by_task.items()]
    for name, split in SPLITS.items():
        for method, by_task in cells_of(records, name).items():
            for column, own in sets_of(tasks).items():
                if by_seed := over(by_task, own):
                    rows.append(row(method, column, first[method, next(iter(by_task))], split, "alc", by_seed))
    return rows


# --- sentences --------------------------------------------------------------------------------------------------------


def findings(records: Sequence[Record]) -> list[str]:
    """Sentences that the records decide: the best of each group and half, what random has, and where hybrid stands."""
    tasks = tasks_in(records)
    cells = cells_of(records, ALC)
    said = []
    for column, own in sets_of(tasks).items():
        means = {m: statistics.fmean(v.values()) for m, by_task in cells.items() if (v := over(by_task, own))}
        if len(means) < 2:
            continue
        order = sorted(means, key=lambda m: -means[m])
        sentence = f"{column}, {len(own)} transfer{'s'[: len(own) > 1]}: best {order[0]}, {means[order[0]]:.2f}"
        for method in (BASE, OWN):
            if method in means and method != order[0]:
                sentence += f"; {method} {means[method]:.2f}, place {order.index(method) + 1} of {len(order)}"
        said.append(sentence + ".")
    said += verdict(records)
    _, missing = mean_ranks(cells, tasks)
    if missing:
        said.append(f"Not ranked, for runs of theirs are missing: {', '.join(missing)}.")
    return said


def captions(records: Sequence[Record]) -> list[str]:
    """How the numbers were made."""
    own = [record for record in records if record.get("summary")]

    def each(values: Iterable[object]) -> str:
        return ", ".join(map(str, sorted(set(values), key=str)))

    rates = each(f"{r['how']['lr']:g} (trade-off {r['trade_off']:g}) on {r['network']}" for r in own)
    sizes = each(f"{TARGETS[target_of(r['task'])]} {r['sizes']['target']:,}/{r['sizes']['target_test']:,}" for r in own)
    longest, start = max(r["cpu_seconds"] for r in own), max(r["cpu_seconds_of_start"] for r in own)
    tuned = [r["network"].rpartition("-frozen-to-")[2] for r in own if "-frozen-to-" in r["network"]]
    backbones = f"the trunk fine-tuned above {each(tuned)}" if tuned else "the trunk frozen since the start"
    aligned = "DAN's alignment" if any(r["trade_off"] for r in own) else "no alignment: source-only"
    halves = "; ".join(f"{half}: {', '.join(TARGETS[t] for t in own)}" for half, own in HALVES.items())
    return [
        "ALC: area under accuracy(labels), from no label on, in percent, mean ± standard deviation over seeds, on a "
        "test split of the target that is neither asked for nor aligned with: the set's own on digits, 30 % drawn by "
        "the seed on the ten-class set. The columns are means over their transfers; confirmation: other sources and "
        "digits; mean: over all. rank: mean over target domains (a target's sources and seeds taken together), 1 is "
        "best. over random: points, on the same seeds. % of labels to 95 %: of the pool, until 95 % of the accuracy "
        "that all labels give (as many steps as all rounds); ≥: runs that did not get there count with all they "
        "bought. s a query: CPU seconds of the strategy alone.",
        f"Rounds of {each(r['budget'] for r in own)} of the pool. Each: {each(r['steps_per_round'] for r in own)} "
        f"steps from the last round's weights with a new optimiser, on source, labels bought so far and {aligned}; "
        f"{backbones}. Rates {rates}. Images in the pool/test split: {sizes}. CPU seconds: at most "
        f"{longest:.1f} a run, {start:.1f} a start.",
        "Development: the six transfers on which ideas may be tried. Other sources: the same targets from other "
        f"sources. Digits: targets that nothing was chosen on. Halves by target: {halves}; what is chosen for one half "
        "is chosen on development transfers of the other.",
    ]


# --- pictures ---------------------------------------------------------------------------------------------------------


def curve(records: Sequence[Record], tasks: Sequence[str]) -> Figure | None:
    """Mean accuracy over transfers after each round, a band of one standard deviation over seeds; the strategies with
    the largest areas, and random and hybrid in any case. None for fewer than two points."""
    from matplotlib.figure import Figure

    rounds, at = by_round(records), {0: 0.0} | shares_of(records, tasks)
    methods = dict.fromkeys(method for of_round in rounds.values() for method in of_round)
    means = {m: {n: over(rounds.get(n, {}).get(m, {}), tasks) for n in at} for m in methods}
    means = {m: of_rounds for m, of_rounds in means.items() if all(of_rounds.values())}
    if len(at) < 2 or not means:
        return None
    areas = {
        m: statistics.fmean(over(by_task, tasks).values())
        for m, by_task in cells_of(records, ALC).items()
        if m in means
    }
    best = sorted(areas, key=lambda m: -areas[m])[:SHOWN]
    listed = [*best, *(m for m in (OWN, BASE) if m in means and m not in best)]
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    coloured = [method for method in STRATEGIES if method != BASE]
    for method in listed:
        place = coloured.index(method) if method in coloured else len(coloured)
        colour = "#555555" if method == BASE else plots.COLOURS[listed.index(method) % len(plots.COLOURS)]
        numbers = sorted(means[method])
        x, y = [at[n] for n in numbers], [statistics.fmean(means[method][n].values()) for n in numbers]
        spread = [statistics.stdev(v) if len(v := list(means[method][n].values())) > 1 else 0.0 for n in numbers]
        axes.plot(
            x, y, ("--" if method == BASE else "-") + plots.MARKERS[place % 8], color=colour, label=method, markersize=4
        )
        lows, highs = ([a + sign * b for a, b in zip(y, spread, strict=True)] for sign in (-1, 1))
        axes.fill_between(x, lows, highs, color=colour, alpha=0.1, linewidth=0)
    axes.set_xlabel("labels, % of the pool")
    axes.set_ylabel("accuracy on the test split, %")
    axes.legend(fontsize=8, frameon=False)
    tidy(axes)
    return figure


# --- the page ---------------------------------------------------------------------------------------------------------


def report_of(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    tasks = tasks_in(records)
    figures = []
    for column, own in sets_of(tasks).items():
        if not column.startswith("targets") and (figure := curve(records, own)) is not None:
            text = f"{column}: mean accuracy on the test split over {len(own)} transfers, with its spread over seeds."
            figures.append(Drawn(f"{column.replace(' ', '_')}.png", figure, text))
    tables = [
        ("Area under accuracy(labels), test split", table_of(records)),
        ("The same by target domain, its sources taken together", table_by(records, ALC, targets=True)),
        ("Area under accuracy(labels) on the images never asked for", table_by(records, UNQUERIED, targets=False)),
    ]
    if (against := standing(records))[1]:
        tables.append(
            (f"Confirmation: where {OWN} is ahead and where behind, points (area; accuracy at % bought)", against)
        )
    return Report(
        title="The arena: which way to ask buys most?",
        findings=findings(records),
        tables=tables,
        figures=figures,
        captions=captions(records),
        rows=rows_of(records),
        compared=[*compare_all(records, compared(records)), *(confirmed(records) if verdict(records) else [])],
    )


def compared(records: Sequence[Record]) -> list[Family]:
    """All pairs of strategies, and all of them against the project's own, which asks less and so sees more."""
    area = Family(metric="alc", split="test", unit="target domain", unit_of=lambda cell: target_of(cell.task))
    own = any(record["method"] == OWN for record in records)
    return [area, replace(area, against=OWN)] if own else [area]
