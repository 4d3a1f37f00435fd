"""The tables, curves and page of aift, from records alone: our areas in the paper's Table 4, its values beside.

ALC    = area under AUC(labels) by trapezoids, from the first purchase to the last, / that range of labels
labels = where the mean curve over seeds first reaches the best of random's, straight lines between purchases
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from active.strategies.aift import CODES
from experiments.aift import NAME, RANDOM, RFT, TRAININGS, method_of
from experiments.framework.measurements import Row, alc
from experiments.framework.records import Record
from experiments.framework.report import Drawn, Report
from experiments.framework.reporting.comparisons import Cell, Comparison, Family, compare
from experiments.framework.reporting.tables import Table, tidy
from experiments.tasks import PaperTable, paper_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER = "aift_alc"
AUC = "roc_auc/target_test"
Codes = tuple[str, str]  # selection, training
Curve = dict[int, float]  # labels -> AUC
Curves = dict[Codes, dict[int, Curve]]  # cell -> seed -> curve


def curves_of(records: Sequence[Record], name: str = AUC) -> Curves:
    """The curves, rows and columns in the table's order."""
    found: Curves = {}
    for record in records:
        cell = record["asks"], record["training"]
        found.setdefault(cell, {}).setdefault(record["seed"], {})[record["labels"]] = record[name]
    order = [(s, t) for t in TRAININGS for s in (RANDOM, *CODES)]
    return {cell: found[cell] for cell in order if cell in found}


def area(curve: Curve) -> float:
    """ALC of a curve: M_0, which has no labels and is the same for all, is left out. One purchase is its own area."""
    labels = sorted(count for count in curve if count)
    if len(labels) == 1:
        return curve[labels[0]]
    return alc(labels, [curve[count] for count in labels])


def mean_curve(by_seed: Mapping[int, Curve]) -> Curve:
    """The mean over seeds at each number of labels above 0 that all of them have."""
    shared = set.intersection(*(set(curve) for curve in by_seed.values())) - {0}
    return {count: statistics.fmean(curve[count] for curve in by_seed.values()) for count in sorted(shared)}


def labels_to(curve: Curve, value: float) -> float | None:
    """The fewest labels at which a curve, straight between its points, reaches the value; None if it never does."""
    points = sorted(curve.items())
    if points and points[0][1] >= value:
        return float(points[0][0])
    for (before, low), (after, high) in pairwise(points):
        if low < value <= high:
            return before + (after - before) * (value - low) / (high - low)
    return None


def best_of_random(curves: Curves, training: str) -> tuple[float, float] | None:
    """(labels, AUC) of the best point of random's mean curve with that training; the first of equal ones."""
    if (RANDOM, training) not in curves:
        return None
    curve = mean_curve(curves[RANDOM, training])
    best = max(curve.values())
    return float(min(count for count, value in curve.items() if value == best)), best


def share(curves: Curves, cell: Codes, against: str) -> float | None:
    """Labels to reach the best AUC of random with the training `against`, over the labels that random needed for it."""
    best = best_of_random(curves, against)
    reached = None if best is None else labels_to(mean_curve(curves[cell]), best[1])
    return None if best is None or reached is None else reached / best[0]


def swing(curve: Curve) -> float:
    """The mean change of AUC, up or down, from one purchase to the next: how much is forgotten and learned again."""
    values = [curve[count] for count in sorted(curve) if count]
    return statistics.fmean(abs(after - before) for before, after in pairwise(values)) if len(values) > 1 else 0.0


def gains(curves: Curves, cell: Codes, base: Codes) -> dict[int, float]:
    """{seed: ALC minus the base's}, of the seeds that both have."""
    ours, theirs = curves.get(cell, {}), curves.get(base, {})
    return {seed: area(curve) - area(theirs[seed]) for seed, curve in ours.items() if seed in theirs}


# --- tables -----------------------------------------------------------------------------------------------------------


def told(values: Sequence[float]) -> str:
    """.912 ± .010: fractions as the paper writes them, mean and standard deviation over seeds; a dash for none."""
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.3f}".replace("0.", ".") if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}".replace("0.", ".") + spread


def area_table(curves: Curves, paper: PaperTable) -> Table:
    """Table 4: a row a training code, a column a selection code; the paper's rows of that training code below ours."""
    columns = [code for code in (RANDOM, *CODES) if any(code == asks for asks, _ in curves)]
    lines = []
    for training in TRAININGS:
        if not any(training == trained for _, trained in curves):
            continue
        cells = [told([area(curve) for curve in curves.get((code, training), {}).values()]) for code in columns]
        lines.append([f"colon nuclei, {training}", *cells])
        for row, values in paper.values.items():
            if row.split()[-1] == training:
                numbers = [f"{values[code]:.4f}"[1:] if code in values else "–" for code in columns]
                lines.append([f"the paper's {' '.join(row.split()[:-1])}, {training} (other data)", *numbers])
    return ["ALC", *columns], lines


def share_table(curves: Curves) -> Table:
    """How many of random's labels each cell needs for the best AUC of random with the same training, and for RFT's."""
    columns = [code for code in CODES if any(code == asks for asks, _ in curves)]
    lines = []
    for training in TRAININGS:
        targets = [(training, f"{training}, random's")] + (
            [("AFT(LQ)", f"{training}, RFT's")] * (training != "AFT(LQ)")
        )
        for against, name in targets:
            best = best_of_random(curves, against)
            if best is None or not any(training == trained for _, trained in curves):
                continue
            cells = []
            for code in columns:
                found = share(curves, (code, training), against) if (code, training) in curves else math.nan
                cells.append("never" if found is None else "–" if math.isnan(found) else f"{100 * found:.0f} %")
            lines.append([name, f"{best[1]:.3f}".replace("0.", "."), f"{best[0]:.0f}", *cells])
    return ["row, best AUC", "best AUC", "at labels", *columns], lines


def rows(records: Sequence[Record], curves: Curves) -> list[Row]:
    """The lines of table.csv: AUC at each number of labels, ALC, and the labels that reach random's best AUC."""
    first = {(record["asks"], record["training"]): record for record in reversed(records)}
    made = []
    for cell, by_seed in curves.items():
        record = first[cell]
        last = max(max(curve) for curve in by_seed.values())
        about = {name: record[name] for name in ("experiment", "task", "network", "method", "selection", "command")}

        def row(metric: str, labels: int, values: Sequence[float], scale: float, about: dict[str, str] = about) -> Row:
            spread = scale * statistics.stdev(values) if len(values) > 1 else None
            mean = scale * statistics.fmean(values)
            told = {"paper": None, "provenance": "", "split": "test", "metric": metric, "labels": labels}
            return Row(**about, **told, mean=mean, spread=spread, n=len(values))  # type: ignore[arg-type]

        for count in sorted({count for curve in by_seed.values() for count in curve}):
            found = [curve[count] for curve in by_seed.values() if count in curve]
            made.append(row("roc_auc", count, found, 100.0))
        made.append(row("alc", last, [area(curve) for curve in by_seed.values()], 100.0))
        best = best_of_random(curves, cell[1])
        reached = None if best is None else labels_to(mean_curve(by_seed), best[1])
        if reached is not None:  # of the mean curve: no spread over seeds
            made.append(row("labels_to_random", last, [reached], 1.0))
    return made


def comparisons(curves: Curves) -> list[Comparison]:
    """ALC in percent: every selection code against random over the training codes, and the training codes over the
    selection codes. A unit is a seed, for all curves of a seed share patients, pool and M_0."""
    found = []
    areas = {cell: {seed: 100 * area(curve) for seed, curve in by_seed.items()} for cell, by_seed in curves.items()}
    for place, against in ((0, RANDOM), (1, None)):  # of a cell: the selection code, or the training code
        cells: dict[str, dict[Cell, float]] = {}
        for cell, by_seed in areas.items():
            own = cells.setdefault(cell[place], {})
            own |= {Cell("", cell[1 - place], 0, seed): value for seed, value in by_seed.items()}
        if len(cells) > 1 and (against is None or against in cells):
            family = Family(
                metric="roc_auc_alc", split="test", against=against, unit="seed", unit_of=lambda cell: cell.seed
            )
            found.append(compare(family, cells))
    return found


# --- what the records decide ------------------------------------------------------------------------------------------


def findings(records: Sequence[Record]) -> list[str]:
    """Sentences that the records decide; differences are taken seed by seed."""
    curves = curves_of(records)
    coded = [cell for cell in curves if cell[0] != RANDOM]
    said: list[str] = []
    if not coded:
        return said
    best = max(coded, key=lambda cell: statistics.fmean(map(area, curves[cell].values())))
    values = [area(curve) for curve in curves[best].values()]
    said.append(f"The highest area under the curve is that of {method_of(*best)}: {told(values)}.")
    against = {cell: gains(curves, cell, (RANDOM, cell[1])) for cell in coded}
    against = {cell: gain for cell, gain in against.items() if gain}
    if against:
        above = [cell for cell, gain in against.items() if statistics.fmean(gain.values()) > 0]
        clear = [cell for cell, gain in against.items() if _errors(gain) > 2]
        worse = [cell for cell, gain in against.items() if _errors(gain) < -2]
        said.append(
            f"Against random with the same training, {len(above)} of {len(against)} cells have a larger area; "
            f"{len(clear)} by more than two standard errors over seeds, and {len(worse)} are smaller by as much."
        )
    for extra, name in (("+M", "Majority selection"), ("+R", "Randomness")):
        if moved := _effect(curves, extra):
            said.append(f"{name} ({extra}) changes the area by {_points(moved)} on average over {len(moved)} pairs.")
    for training in TRAININGS:
        if training != "AFT(LQ)" and (moved := _training_effect(curves, training)):
            said.append(f"{training} against AFT(LQ), code by code: {_points(moved)}.")
    swings = {
        training: statistics.fmean(swing(c) for (code, t), own in curves.items() if t == training for c in own.values())
        for training in dict.fromkeys(t for _, t in curves)
    }
    if len(swings) > 1:
        told_each = ", ".join(f"{training} {100 * value:.1f}" for training, value in swings.items())
        said.append(f"From one purchase to the next a curve moves, up or down, by so many points of AUC: {told_each}.")
    said += _saved(curves)
    return said


def _errors(gain: Mapping[int, float]) -> float:
    """Mean difference in standard errors; 0 where there is no spread to tell it by."""
    values = list(gain.values())
    spread = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return statistics.fmean(values) / spread if spread else 0.0


def _points(values: Sequence[float]) -> str:
    return f"{100 * statistics.fmean(values):+.2f} points of AUC".replace("-", "−")


def _effect(curves: Curves, extra: str) -> list[float]:
    """Mean gain of each cell whose code has `extra` over the one without."""
    pairs = {code: code.replace(extra, "") for code in CODES if extra in code}
    found = [gains(curves, (code, t), (pairs[code], t)) for code, t in curves if code in pairs]
    return [statistics.fmean(gain.values()) for gain in found if gain]


def _training_effect(curves: Curves, training: str) -> list[float]:
    """Mean gain of each cell with that training over the same code's AFT(LQ); random's too."""
    found = [gains(curves, (code, t), (code, "AFT(LQ)")) for code, t in curves if t == training]
    return [statistics.fmean(gain.values()) for gain in found if gain]


def _saved(curves: Curves) -> list[str]:
    """The share of labels at which a cell reaches the best AUC of the paper's baseline, random from M_0."""
    best = best_of_random(curves, "AFT(LQ)")
    if best is None:
        return []
    cells = [cell for cell in curves if cell != (RANDOM, "AFT(LQ)")]
    reached = {cell: found for cell in cells if (found := share(curves, cell, "AFT(LQ)")) is not None}
    text = f"{RFT}'s best mean AUC, {best[1]:.3f}, is at {best[0]:.0f} labels"
    coded = {cell: found for cell, found in reached.items() if cell[0] != RANDOM}
    if not coded:
        return [f"{text}; no selection code reaches it with as many or fewer labels."]
    first = min(coded, key=lambda cell: coded[cell])
    fewer = sum(found < 1 for found in coded.values())
    said = (
        f"{text}; {method_of(*first)} reaches it first, with {100 * coded[first]:.0f} % of those labels, and {fewer} "
        f"of {sum(cell[0] != RANDOM for cell in cells)} cells of selection codes with fewer than {RFT}."
    )
    others = [f"{method_of(*cell)} with {100 * found:.0f} %" for cell, found in reached.items() if cell[0] == RANDOM]
    return [said + (f" Random with other trainings: {', '.join(others)}." if others else "")]


# --- figure and page --------------------------------------------------------------------------------------------------


def figure_of(curves: Curves) -> Figure:
    """AUC against labels: a column a training, a row a part (D, E, D+E), a band of one standard deviation."""
    from matplotlib.figure import Figure

    trainings = [training for training in TRAININGS if any(training == t for _, t in curves)]
    parts = [part for part in ("D", "E", "D+E") if any(_part(code) == part for code, _ in curves)] or [RANDOM]
    figure = Figure(figsize=(1 + 3.2 * len(trainings), 0.6 + 2.6 * len(parts)), layout="constrained")
    grid = figure.subplots(len(parts), len(trainings), sharex=True, sharey="col", squeeze=False)
    for line, part in zip(grid, parts, strict=True):
        for axes, training in zip(line, trainings, strict=True):
            codes = [code for code, t in curves if t == training and _part(code) == part]
            for place, code in enumerate(codes):
                _draw(axes, curves[code, training], code, place)
            if (RANDOM, training) in curves:
                _draw(axes, curves[RANDOM, training], RANDOM, None)
            axes.set_title(training if part == parts[0] else "", fontsize=9)
            tidy(axes)
            if axes is line[-1]:
                axes.legend(fontsize=7, frameon=False, loc="lower right")
        line[0].set_ylabel("AUC, test patients", fontsize=8)
    for axes in grid[-1]:  # shared down a column: of trainings that are far apart each needs its own scale
        axes.set_ylim(top=1.0)
        axes.set_xlabel("labelled nuclei", fontsize=8)
    return figure


def _part(code: str) -> str:
    return code.replace("+M", "").replace("+R", "")


def _draw(axes: Axes, by_seed: Mapping[int, Curve], name: str, place: int | None) -> None:
    from experiments.framework.reporting.plots import COLOURS, MARKERS

    colour = "#888888" if place is None else COLOURS[place]
    marker = "" if place is None else MARKERS[place]
    mean = mean_curve(by_seed)
    spread = [
        statistics.stdev([curve[count] for curve in by_seed.values()]) if len(by_seed) > 1 else 0.0 for count in mean
    ]
    centre = list(mean.values())
    style = "--" if place is None else "-"
    axes.plot(
        list(mean), centre, color=colour, marker=marker, markersize=3.5, linewidth=1.2, linestyle=style, label=name
    )
    lows = [value - deviation for value, deviation in zip(centre, spread, strict=True)]
    highs = [value + deviation for value, deviation in zip(centre, spread, strict=True)]
    axes.fill_between(list(mean), lows, highs, color=colour, alpha=0.12, linewidth=0)


def captions(records: Sequence[Record], paper: PaperTable) -> list[str]:
    """How the numbers were made."""

    def each(name: str) -> str:
        return ", ".join(dict.fromkeys(str(record[name]) for record in records if name in record))

    seeds = len({record["seed"] for record in records})
    transfer = "transfer" in each("setting")
    begins = (
        f"M_0 has learned all nuclei of the first part's patients, aligned with the pool (lambda {each('trade_off')}, "
        f"{each('start_steps')} steps), and pool and test are of the second part's"
        if transfer
        else "M_0 has learned nothing"
    )
    network = "LeNet for 3 channels" if "lenet" in each("network") else f"{each('network')} ({each('weights')})"
    return [
        "ALC: area under the curve of AUC against labels from the first purchase to the last, over that range; mean ± "
        f"standard deviation over seeds ({seeds}). AUC: cancerous or not, on nuclei of patients of whom none was "
        "learned or asked for; a nucleus is predicted by the mean over its patches. D diversity, E entropy, M majority "
        "selection (the surest quarter of the patches), R the batch drawn from the best five batches in proportion to "
        "the score. The training codes are those of docs/aift.md; random with AFT(LQ) is the paper's RFT.",
        f"The pool is {each('pool')} nuclei, the test {each('test')}, each of {each('views')} views: a seed draws the "
        f"patients, the nuclei and the views, the same for all cells. {begins}. {each('rounds')} times "
        f"{each('budget')} nuclei are asked for and the network ({network}) is trained for {each('steps')} steps, the "
        "same for every code: codes that go on from the last network have taken more steps in all, at the end as many "
        "times as there were purchases. Sizes are cut so that the whole takes a few hours at most on two cores, and "
        "were settled, as were the batch of 20 a round and one rate for all layers, after a look at curves of seed 0 "
        "on the test patients; that seed is not one of the defaults, and nothing else was chosen by them.",
        "Labels of random: the labels at which the mean curve over seeds first reaches the best AUC of random's mean "
        "curve with the same training (or of RFT's), over the labels that random itself needed; never: not within the "
        "budget.",
        f"The paper's values: {paper.source}, {paper.provenance}: AlexNet on images that are not public, so only the "
        "order of a row can be compared.",
    ]


def report_of(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    curves, paper = curves_of(records), paper_table(PAPER)
    band = (
        "Mean over seeds and a band of one standard deviation; the dashed line is random with the same training. Each "
        "column has a scale of its own."
    )
    return Report(
        title="AIFT and continual fine-tuning on nuclei of colon tissue",
        findings=findings(records),
        tables=[
            ("Area under the learning curve, in the layout of the paper's Table 4", area_table(curves, paper)),
            ("Labels for random's best AUC, as a share of random's", share_table(curves)),
        ],
        figures=[Drawn(f"{NAME}.png", figure_of(curves), band)],
        captions=captions(records, paper),
        rows=rows(records, curves),
        compared=comparisons(curves),
    )
