"""The report of aift, from records alone: our areas in the paper's Table 4, its values below.

ALC    = area under AUC(labels) by trapezoids, from the first query to the last, / that range of labels
labels = where the mean curve over seeds first reaches the best of random's, straight lines between queries
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import sqrt
from statistics import fmean, stdev

from experiments.aift.trial import CODES, RANDOM, RFT, TRAININGS
from experiments.framework.measurements import Key, Row, alc, labels_to, row_of
from experiments.framework.records import Record
from experiments.framework.report import Drawn, Report
from experiments.framework.reporting import plots
from experiments.framework.reporting.comparisons import Cell, Comparison, Family, compare
from experiments.framework.reporting.tables import Table, difference, each, signed, told
from experiments.tasks import PaperTable, paper_table

Codes = tuple[str, str]  # selection, training
Curve = dict[int, float]  # labels -> AUC
Curves = dict[Codes, dict[int, Curve]]  # cell -> seed -> curve


def curves_of(records: Sequence[Record]) -> Curves:
    """The curves, rows and columns in the table's order."""
    found: Curves = {}
    for r in records:
        found.setdefault((r["asks"], r["training"]), {}).setdefault(r["seed"], {})[r["labels"]] = r[
            "roc_auc/target_test"
        ]
    order = [(selection, training) for training in TRAININGS for selection in (RANDOM, *CODES)]
    return {cell: found[cell] for cell in order if cell in found}


def area(curve: Curve) -> float:
    """ALC of a curve: M_0, which has no labels and is the same for all, is left out. One query is its own area."""
    labels = sorted(count for count in curve if count)
    return curve[labels[0]] if len(labels) == 1 else alc(labels, [curve[count] for count in labels])


def areas(curves: Curves, cell: Codes) -> dict[int, float]:
    """{seed: area}; {} for a cell that is not there."""
    return {seed: area(curve) for seed, curve in curves.get(cell, {}).items()}


def mean_curve(by_seed: Mapping[int, Curve]) -> Curve:
    """The mean over seeds at each number of labels above 0 that all of them have."""
    shared = set.intersection(*(set(curve) for curve in by_seed.values())) - {0}
    return {count: fmean(curve[count] for curve in by_seed.values()) for count in sorted(shared)}


def best_of_random(curves: Curves, training: str) -> tuple[int, float] | None:
    """(labels, AUC) of the best point of random's mean curve with that training; the first of equal ones."""
    if (RANDOM, training) not in curves:
        return None
    return max(mean_curve(curves[RANDOM, training]).items(), key=lambda point: point[1])


def labels_to_random(curves: Curves, cell: Codes, against: str) -> float | None:
    """Labels at which a cell's mean curve reaches the best AUC of random with the training `against`."""
    best, mean = best_of_random(curves, against), mean_curve(curves[cell])
    return None if best is None else labels_to(list(mean), list(mean.values()), best[1])


# --- tables -----------------------------------------------------------------------------------------------------------


def area_table(curves: Curves, paper: PaperTable) -> Table:
    """Table 4: a row a training code, a column a selection code; the paper's rows of that training code below ours."""
    columns = [code for code in (RANDOM, *CODES) if any(code == selection for selection, _ in curves)]
    lines = []
    for training in dict.fromkeys(training for _, training in curves):
        cells = [told(areas(curves, (code, training)), 3) for code in columns]
        lines.append([f"colon nuclei, {training}", *cells])
        for row, values in paper.values.items():
            name, _, code = row.rpartition(" ")
            if code == training:
                numbers = [f"{values[column]:.4f}" if column in values else "–" for column in columns]
                lines.append([f"the paper's {name}, {training} (other data)", *numbers])
    return ["ALC", *columns], lines


def rows(records: Sequence[Record], curves: Curves) -> Iterator[Row]:
    """The lines of table.csv: AUC at each number of labels, ALC, and the labels that reach random's best AUC."""
    first = {(record["asks"], record["training"]): record for record in reversed(records)}
    for cell, by_seed in curves.items():
        row = partial(row_of, first[cell], split="test")
        counts = sorted({count for curve in by_seed.values() for count in curve})
        for count in counts:
            found = [100 * curve[count] for curve in by_seed.values() if count in curve]
            yield row(found, metric="roc_auc", labels=count)
        yield row([100 * area(curve) for curve in by_seed.values()], metric="alc", labels=counts[-1])
        if (reached := labels_to_random(curves, cell, cell[1])) is not None:  # of the mean curve: no spread over seeds
            yield row([reached], metric="labels_to_random", labels=counts[-1])


def comparisons(curves: Curves) -> list[Comparison]:
    """ALC in percent: every selection code against random over the training codes, and the training codes over the
    selection codes. A unit is a seed, for all curves of a seed share patients, pool and M_0."""
    found = []
    for place, against in ((0, RANDOM), (1, None)):  # of a cell: the selection code, or the training code
        cells: dict[str, dict[Cell, float]] = {}
        for cell in curves:
            values = {Cell("", cell[1 - place], 0, seed): 100 * value for seed, value in areas(curves, cell).items()}
            cells.setdefault(cell[place], {}).update(values)
        if len(cells) > 1 and (against is None or against in cells):
            options = {"against": against, "unit": "seed"}
            family = Family(metric="roc_auc_alc", split="test", unit_of=lambda cell: cell.seed, **options)  # type: ignore[arg-type]
            found.append(compare(family, cells))
    return found


# --- findings ---------------------------------------------------------------------------------------------------------


def gains(curves: Curves, base_of: Callable[[str, str], Codes]) -> list[list[float]]:
    """Of each cell with a base, which is another cell: its area minus that of the base, in points, seed by seed."""
    pairs = [(cell, base) for cell in curves if (base := base_of(*cell)) != cell]
    found = [difference(areas(curves, cell), areas(curves, base)) for cell, base in pairs]
    return [[100 * value for value in gain.values()] for gain in found if gain]


def findings(curves: Curves) -> Iterator[str]:
    """What the records decide; differences are taken seed by seed."""
    coded = [cell for cell in curves if cell[0] != RANDOM]
    if not coded:
        return
    best = max(coded, key=lambda cell: fmean(areas(curves, cell).values()))
    mine, base = (told(areas(curves, cell), 3) for cell in (best, (RANDOM, best[1])))
    yield f"Largest area under the AUC curve: {', '.join(best)}, {mine} (random with it: {base})."
    if over := gains(curves, lambda _, training: (RANDOM, training)):
        above = sum(fmean(gain) > 0 for gain in over)
        apart = [fmean(gain) / (stdev(gain) / sqrt(len(gain))) for gain in over if len(gain) > 1 and stdev(gain)]
        surely, below = sum(ratio >= 2 for ratio in apart), sum(ratio <= -2 for ratio in apart)
        yield f"Above random: {above} of {len(over)} cells ({surely} by 2 standard errors); below by as much: {below}."
    changes = {"+M": gains(curves, lambda code, training: (code.replace("+M", ""), training))}
    changes["+R"] = gains(curves, lambda code, training: (code.replace("+R", ""), training))
    for other in TRAININGS:
        of_training = {cell: by_seed for cell, by_seed in curves.items() if cell[1] in (other, "AFT(LQ)")}
        changes[other] = gains(of_training, lambda code, _: (code, "AFT(LQ)"))
    means = [f"{name} {signed(fmean(map(fmean, found)), 2)}" for name, found in changes.items() if found]
    if means:
        yield f"Mean change of the area in points (trainings: from AFT(LQ)): {', '.join(means)}."
    if baseline := best_of_random(curves, "AFT(LQ)"):
        needed = {cell: labels for cell in coded if (labels := labels_to_random(curves, cell, "AFT(LQ)")) is not None}
        fewer = sum(labels < baseline[0] for labels in needed.values())
        first = min(needed, key=needed.__getitem__, default=None)
        text = (
            f"{RFT}'s best AUC, {baseline[1]:.3f}, takes {baseline[0]} labels; fewer in {fewer} of {len(coded)} cells"
        )
        yield text + ("." if first is None else f": {needed[first]:.0f} in {', '.join(first)}.")


# --- the page ---------------------------------------------------------------------------------------------------------


def figure_of(curves: Curves) -> list[Drawn]:
    """AUC against labels, a panel a training."""
    measured: dict[Key, dict[int, float]] = {}
    for (selection, training), by_seed in curves.items():
        for count in mean_curve(by_seed):
            key = Key("aift", training, "", selection, count, "test", "roc_auc", "last")
            measured[key] = {seed: 100 * curve[count] for seed, curve in by_seed.items()}
    figure = plots.panels(measured, "test", columns=2, metric="roc_auc")
    caption = "AUC on the test patients against labelled nuclei, a panel a training code: mean, one standard deviation."
    return [] if figure is None else [Drawn("aift.png", figure, caption)]


def captions(records: Sequence[Record], paper: PaperTable) -> list[str]:
    """How the numbers were made."""
    names = ("pool", "test", "views", "rounds", "budget", "steps", "trade_off", "start_steps")
    pool, test, views, rounds, budget, steps, trade_off, start = (each(records, name, "g") for name in names)
    begun = f"trained on the first part's patients, lambda {trade_off}, {start} steps" if start else "untrained"
    return [
        "ALC: area under AUC against labels from the first query to the last, over that range; mean ± standard "
        "deviation over seeds. AUC: cancerous or not, on nuclei of other patients, each predicted by the mean over its "
        "patches. D diversity, E entropy, M majority selection (the surest quarter of the patches), R the batch drawn "
        "from the best five batches in proportion to the score; random with AFT(LQ) is the paper's RFT.",
        f"Pool: {pool} nuclei, test: {test}, {views} views each; a seed draws patients, nuclei and views, the same for "
        f"all cells. M_0: {begun}. {rounds} queries of {budget} nuclei, {steps} steps after each for every code, so "
        "codes that continue from the last network have taken more steps in all. Network: LeNet. Sizes and rate were "
        "settled on seed 0, which is not reported.",
        "labels_to_random in table.csv: where the mean curve first reaches the best AUC of random's with the same "
        "training.",
        f"The paper's values: {paper.source}, {paper.provenance}: AlexNet on images that are not public, so only the "
        "order of a row can be compared.",
    ]


def report_of(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    curves, paper = curves_of(records), paper_table("aift_alc")
    return Report(
        title="AIFT and continual fine-tuning on nuclei of colon tissue",
        findings=list(findings(curves)),
        tables=[("Area under the learning curve, in the layout of the paper's Table 4", area_table(curves, paper))],
        figures=figure_of(curves),
        captions=captions(records, paper),
        rows=list(rows(records, curves)),
        compared=comparisons(curves),
    )
