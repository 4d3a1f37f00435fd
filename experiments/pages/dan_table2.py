"""The tables and the page of dan_table2, from records alone: our rows in the paper's columns, its own below."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from experiments.dan_table2 import (
    DAN,
    FLOOR,
    HELD_OUT,
    NETWORKS,
    OTHER_SIX,
    PAPER,
    PAPER_ROWS,
    PAPER_SIX,
    SOURCE_ONLY,
    column_of,
)
from experiments.framework.measurements import aggregate
from experiments.framework.records import Record
from experiments.framework.report import Drawn, Report
from experiments.framework.reporting.comparisons import Family, compare_all, families_of
from experiments.framework.reporting.tables import (
    Table,
    dots,
    signed,
    tidy,
    told,
)
from experiments.jobs.dan_table2 import BOTTLENECK, DROPOUT, MEASURED_STEPS, SET
from experiments.label_free_search import SEARCH_SEED, choose
from experiments.transfers import over_tasks, paper_number, paper_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The `task` of a row's mean over transfers.
MEANS = {"mean": PAPER_SIX, "mean_other6": OTHER_SIX, "mean_all12": PAPER_SIX + OTHER_SIX}


def with_means(records: Sequence[Record]) -> list[Record]:
    """The records, and for each run of all transfers of a mean one more, beside the paper's mean where it has one."""
    paper = paper_table(PAPER)
    made = list(records)
    for name, transfers in MEANS.items():
        for record in over_tasks(records, [SET + transfer for transfer in transfers], name):
            row = PAPER_ROWS.get(record["method"], "") if name == "mean" else ""
            made.append(record | paper_number(paper, row, "Avg"))
    return made


@dataclass(frozen=True)
class Beside:
    """Whose numbers stand below ours: rows of the published `table`, on `network`; ours -> theirs in `rows`, of which
    `base` is the one without adaptation. prefix: of our tasks."""

    table: str
    rows: Mapping[str, str]
    network: str
    base: str
    prefix: str


TABLE2 = Beside(PAPER, PAPER_ROWS, "AlexNet", "CNN", SET)


class Accuracies:
    """Accuracies on all of the target in percent: of(network, method, task) -> {seed: value}."""

    def __init__(self, records: Sequence[Record], selection: str = "last", prefix: str = SET) -> None:
        self.table: dict[tuple[str, str, str], dict[int, float]] = {}
        for record in records:
            if record.get("selection") == selection and record.get("accuracy/target") is not None:
                key = (record["network"], record["method"], record["task"].removeprefix(prefix))
                self.table.setdefault(key, {})[record["seed"]] = 100 * record["accuracy/target"]

    def of(self, network: str, method: str, task: str) -> dict[int, float]:
        return self.table.get((network, method, task), {})

    def mean(self, network: str, method: str, task: str) -> float | None:
        values = self.of(network, method, task)
        return statistics.fmean(values.values()) if values else None

    def methods(self, network: str) -> list[str]:
        return list(dict.fromkeys(method for net, method, _ in self.table if net == network))

    def gain(self, network: str, method: str, task: str) -> float | None:
        """How far the method's mean lies above source-only's."""
        ours, base = self.mean(network, method, task), self.mean(network, SOURCE_ONLY, task)
        return None if ours is None or base is None else ours - base


def accuracy_table(
    records: Sequence[Record], network: str, transfers: Sequence[str], mean: str, beside: Beside = TABLE2
) -> Table:
    """One row a method in the columns of `transfers`, their mean, the gain over source-only, the worst transfer's gain,
    and the oracle's mean; below a row that the paper has, the paper's numbers, if it has all of these columns."""
    found, oracle = (Accuracies(records, selection, beside.prefix) for selection in ("last", "oracle"))
    paper = paper_table(beside.table)
    in_paper = {column_of(transfer) for transfer in transfers} <= set(paper.columns)
    headers = ["method", *map(column_of, transfers), "mean", "gain", "worst gain", "oracle mean", "n"]
    rows: list[list[str]] = []
    for method in found.methods(network):
        cells = [told(found.of(network, method, task)) for task in (*transfers, mean)]
        gains = {task: gain for task in transfers if (gain := found.gain(network, method, task)) is not None}
        if set(cells) == {"–"}:
            continue
        adapted = method not in (SOURCE_ONLY, FLOOR)
        least = min(gains, key=gains.__getitem__) if gains and adapted else ""
        seeds = {len(found.of(network, method, task)) for task in transfers} - {0}
        rows.append(
            [method, *cells]
            + [signed(found.gain(network, method, mean)) if adapted else "–"]
            + [f"{signed(gains[least])} ({column_of(least)})" if least else "–"]
            + [told(oracle.of(network, method, mean)).split(" ")[0], "/".join(map(str, sorted(seeds)))]
        )
        theirs = beside.rows.get(method, "")
        # Two of our rows may answer to one of the paper's, which then stands below the last of them.
        later = [beside.rows.get(m, "") for m in found.methods(network)[found.methods(network).index(method) + 1 :]]
        if theirs and theirs not in later and in_paper:
            published = [paper.values[theirs].get(column) for column in (*map(column_of, transfers), "Avg")]
            numbers = ["–" if number is None else f"{number:.1f}" for number in published]
            lead = paper.values[theirs]["Avg"] - paper.values[beside.base]["Avg"]
            numbers += ["–" if theirs == beside.base else signed(lead), "–", "–", "–"]
            rows.append([f"paper's {theirs} ({beside.network})", *numbers])
    return headers, rows


def search_table(records: Sequence[Record]) -> Table:
    """What the search chose for each row."""
    rows = []
    for network, found in choose(records).items():
        for row, chosen in found.items():
            trade_off = "–" if row == SOURCE_ONLY else f"{chosen['trade_off']:g}"
            cells = [row, trade_off, f"{chosen['lr']:g}", f"{chosen['score']:.3f}", str(chosen["tried"])]
            rows.append([NETWORKS[network].backbone, *cells])
    return ["network", "row", "trade-off", "rate", "judged by, mean", "points tried"], rows


def cache_table(records: Sequence[Record]) -> Table:
    """300 steps of DAN on each network: without the cache, with it, and what filling it takes."""
    headers = ["network", "300 steps plain", "300 steps cached", "times faster", "filling it, once", "on the disk"]
    rows = []
    for record in (record for record in records if record.get("phase") == "cache"):
        plain, kept = record["seconds_per_step_plain"], record["seconds_per_step_cached"]
        filling = record["filling"].values()
        rows.append(
            [NETWORKS[record["network"]].line, f"{300 * plain:.0f} s", f"{300 * kept:.1f} s", f"{plain / kept:.0f}"]
            + [f"{record['seconds_per_sample_filling'] * sum(d['samples'] for d in filling):.0f} s"]
            + [f"{sum(d['bytes'] for d in filling) / 1e6:.0f} MB"]
            + [f"{record['largest_difference_of_logits']:.1e} of {record['largest_logit']:.1f}"]
        )
    return [*headers, "largest difference of logits"], rows


def findings(records: Sequence[Record]) -> list[str]:
    """Sentences that the records decide: the gain beside the paper's, the floor, the worst transfer."""
    found = Accuracies(records)
    paper = paper_table(PAPER).values
    published = paper["DAN"]["Avg"] - paper["CNN"]["Avg"]
    said = []
    for network in NETWORKS:
        base, floor = (found.mean(network, method, "mean") for method in (SOURCE_ONLY, FLOOR))
        gain = found.gain(network, DAN, "mean")
        if gain is not None and base is not None:
            gains = {t: found.gain(network, DAN, t) for t in PAPER_SIX + OTHER_SIX}
            known = {task: value for task, value in gains.items() if value is not None}
            worst = min(known, key=lambda task: known[task])
            said.append(
                f"{NETWORKS[network].line}: DAN gains {signed(gain)} points over its own source-only row on the "
                f"paper's six transfers, {base:.1f} to {base + gain:.1f} (the paper, AlexNet: {signed(published)}, "
                f"{paper['CNN']['Avg']:.1f} to {paper['DAN']['Avg']:.1f}). Its worst transfer of {len(known)} is "
                f"{column_of(worst)}, {signed(known[worst])}."
            )
        if base is not None and floor is not None:
            side = "not below" if base >= floor else "BELOW"
            said.append(
                f"{NETWORKS[network].line}: source-only ({base:.1f}) is {side} logistic regression on the same "
                f"features ({floor:.1f})."
            )
    return said


def captions(records: Sequence[Record]) -> list[str]:
    """How the numbers were made, and whose the others are."""
    paper = paper_table(PAPER)
    steps = sorted({record["steps"] for record in records if "steps" in record})
    weights = sorted({record["weights"] for record in records if "weights" in record})
    return [
        "Accuracy in percent on all target images, mean ± standard deviation over n seeds, of the model after the last "
        f"step ({' or '.join(map(str, steps))} steps for every row; nothing is selected). gain: of the mean over "
        "source-only's; worst gain: of the transfer that gains least. oracle mean: what choosing the best of a run's "
        "evaluations by target labels would have given; it is no result.",
        f"Every network is the trunk, a bottleneck of {BOTTLENECK} (dropout {DROPOUT}) and the logits. 7 is the "
        "bottleneck, 8 the logits, compared as class probabilities. DDC and DAN_SK have one kernel, DAN five. "
        "All rows of a seed start from the same weights and see the same source batches.",
        "Hyper-parameters: for each network one set for all transfers, chosen without a target label on its frozen "
        f"trunk, seed {SEARCH_SEED}, with {HELD_OUT:.0%} of the source held out. The rate, everybody's, is the one at "
        "which source-only has the lowest cross-entropy on the held-out source, as a mean over transfers; each "
        "method's trade-off the one with the lowest mean of the held-out source error + max(0, 1 - 2 err), err the "
        "held-out error of a classifier of domains on the bottleneck. DDC, DAN_7, DAN_8, DAN_SK and QP weights take "
        "DAN's.",
        f"The paper's rows: {paper.source} ({paper.provenance}); AlexNet, fine-tuned, another selection of "
        "hyper-parameters.",
        f"Weights of the trunks: {'; '.join(weights)}.",
    ]


def report_of(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    everything = with_means(records)
    sixes = (("the paper's six transfers", PAPER_SIX, "mean"), ("the other six", OTHER_SIX, "mean_other6"))
    tables = [
        (f"{made.line}: {title}", accuracy_table(everything, network, transfers, mean))
        for network, made in NETWORKS.items()
        for title, transfers, mean in sixes
    ]
    tables += [
        ("What the label-free search chose", search_table(records)),
        ("What the cache of the frozen stages is worth", cache_table(records)),
    ]
    figures = []
    for network, made in NETWORKS.items():
        if (figure := gains_figure(everything, network)) is not None:
            caption = f"{made.line}: source-only (grey) and DAN (black), mean and one dot a seed."
            figures.append(Drawn(f"gains_{network}.png", figure, caption))
    told = captions(records)
    if any(record.get("phase") == "cache" for record in records):
        told.append(
            "Cache: both times are 300 times the measured time of a step, the difference between runs of "
            f"{MEASURED_STEPS[1]} and of {MEASURED_STEPS[0]} steps on 32 + 32 images of 224 pixels, one thread, beside "
            "another trial; filling it is the measured time of an image, times the images of all domains. The "
            "difference is that of the target's logits after the same steps with and without it."
        )
    return Report(
        title="Office-10 + Caltech-10: DAN's Table 2 on small networks",
        findings=findings(everything),
        tables=tables,
        figures=figures,
        captions=told,
        rows=aggregate(everything),
        compared=compare_all(records, compared(records)),
    )


def compared(records: Sequence[Record]) -> list[Family]:
    """All pairs of methods on each network, and all methods against source-only, which asks less and so sees more."""
    families = []
    for family in families_of(records):
        families.append(family)
        if family.network in NETWORKS and len(Accuracies(records).methods(family.network)) > 2:
            families.append(replace(family, against=SOURCE_ONLY))
    return families


def gains_figure(records: Sequence[Record], network: str) -> Figure | None:
    """Source-only and DAN on each transfer, one dot a seed. None where either was not trained on any."""
    from matplotlib.figure import Figure

    found = Accuracies(records)
    shown = [task for task in PAPER_SIX + OTHER_SIX if found.gain(network, DAN, task) is not None]
    if not shown:
        return None
    figure = Figure(figsize=(6, 1.0 + 0.34 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for place, task in enumerate(shown):
        means = [found.mean(network, method, task) for method in (SOURCE_ONLY, DAN)]
        axes.plot([mean for mean in means if mean is not None], [place, place], color="#cccccc", linewidth=2, zorder=1)
        for method, colour in ((SOURCE_ONLY, "#888888"), (DAN, "#222222")):
            dots(axes, place, list(found.of(network, method, task).values()), colour, (12, 38))
    axes.set_yticks(range(len(shown)), [column_of(task) for task in shown], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("accuracy on the target, %")
    tidy(axes, "x")
    return figure
