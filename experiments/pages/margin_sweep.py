"""The tables, curves and sentences of margin_sweep, from records alone.

    labels needed = n_i + (n_{i+1} - n_i) (target - a_i) / (a_{i+1} - a_i)     at the first i with a_{i+1} >= target

a_i is the test accuracy at n_i labels. A trial whose accuracy never gets there has no such number, and is said to have
none: it enters no mean.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from experiments.framework.measurements import Key, Row, aggregate, measurements
from experiments.framework.records import Record
from experiments.framework.report import Drawn, Report
from experiments.framework.reporting import plots
from experiments.framework.reporting.against_random import BASE, gains, iter_batches, seconds_of_runs
from experiments.framework.reporting.comparisons import Family, compare_all
from experiments.framework.reporting.tables import Table, difference, each, legend_above, mean_of, signed, tidy, told
from experiments.margin_sweep import FOREST, METHODS, SHARES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WHOLE, DIVERSE = "margin", "k_center"
SHOWN = (BASE, "margin@0.5", WHOLE, DIVERSE)  # as curves: more cannot be told apart


class Needed(NamedTuple):
    """Labels that each seed's trial of an arm needed; `never`: seeds that did not get there."""

    by_seed: dict[int, float]
    never: list[int]


def labels_to(target: float, labels: Sequence[int], accuracies: Sequence[float]) -> float | None:
    """Labels at which the line through the points first reaches the target; the first count where it is above already,
    None where it never is. ValueError unless `labels` increase."""
    if not labels or len(labels) != len(accuracies) or any(b <= a for a, b in pairwise(labels)):
        raise ValueError("labels_to needs accuracies at increasing numbers of labels")
    if accuracies[0] >= target:
        return float(labels[0])
    points = zip(labels, accuracies, strict=True)
    for (n, low), (more, high) in pairwise(points):
        if high >= target:
            return n + (more - n) * (target - low) / (high - low)
    return None


def target_of(records: Sequence[Record]) -> float:
    """The accuracy in percent that is asked about."""
    return float(records[-1]["target_accuracy"])


def needed(records: Sequence[Record]) -> dict[str, Needed]:
    """method -> what its trials needed, arms in order."""
    curves: dict[str, dict[int, dict[int, float]]] = {}
    for record in iter_batches(records, METHODS):
        by_seed = curves.setdefault(record["method"], {})
        by_seed.setdefault(record["seed"], {})[record["labels"]] = 100 * record["accuracy/target_test"]
    found = {}
    for method, by_seed in curves.items():
        told_of = {
            seed: labels_to(target_of(records), sorted(c), [c[n] for n in sorted(c)]) for seed, c in by_seed.items()
        }
        reached = {seed: count for seed, count in told_of.items() if count is not None}
        found[method] = Needed(reached, sorted(set(told_of) - set(reached)))
    return found


def trend(found: Mapping[str, Needed]) -> tuple[float, float, int] | None:
    """(Spearman's rank correlation of share and labels needed, two-sided p, trials); who never got there ranks last.

    None with fewer than three shares, or where all trials needed the same.
    """
    from scipy.stats import rankdata, spearmanr

    pairs = [
        (SHARES[method], count)
        for method, need in found.items()
        if method in SHARES
        for count in (*need.by_seed.values(), *(math.inf for _ in need.never))
    ]
    shares, counts = [share for share, _ in pairs], rankdata([count for _, count in pairs]) if pairs else []
    if len(set(shares)) < 3 or len(set(counts)) < 2:
        return None
    result = spearmanr(shares, counts)
    return float(result.statistic), float(result.pvalue), len(pairs)


def findings(records: Sequence[Record]) -> list[str]:
    """Sentences that the records decide, whichever way they go."""
    found, target = needed(records), f"{target_of(records):g} %"
    said = []
    arms = {m: need for m, need in found.items() if m in SHARES and need.by_seed and not need.never}
    if len(arms) > 1:
        means = {method: statistics.fmean(need.by_seed.values()) for method, need in arms.items()}
        best, worst = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
        said.append(
            f"{target} test accuracy takes fewest labels by {best} ({_count(arms[best])}) and most by {worst} "
            f"({_count(arms[worst])})" + (f"; random takes {_count(arms[BASE])}." if BASE in arms else ".")
        )
    missed = [f"{method} ({len(need.never)} of {_trials(need)})" for method, need in found.items() if need.never]
    if missed:
        said.append(f"Not all trials reach {target} with the labels they are given: {', '.join(missed)}.")
    if (result := trend(found)) is not None:
        rho, p, count = result
        verdict = "no trend that so many trials tell from none"
        if p < 0.05:
            verdict = "a larger share needs " + ("fewer labels" if rho < 0 else "MORE labels")
        rank = f"{rho:+.2f}".replace("-", "−")
        said.append(
            f"Share of margin sampling against labels needed, {count} trials: rank correlation {rank}, p = {p:.2g}: "
            f"{verdict}."
        )
    if DIVERSE in found and BASE in found:
        saved = _saved(found[DIVERSE], found[BASE])
        if saved:
            side = "fewer" if statistics.fmean(saved.values()) > 0 else "more"
            amount = abs(statistics.fmean(saved.values()))
            said.append(
                f"k_center takes {amount:,.0f} labels {side} than random, as a mean over {len(saved)} "
                f"seed{'s'[: len(saved) > 1]} ({sum(value > 0 for value in saved.values())} of them fewer)."
            )
    return said


def _trials(need: Needed) -> int:
    return len(need.by_seed) + len(need.never)


def _saved(arm: Needed, base: Needed) -> dict[int, float]:
    """seed -> labels of the base minus labels of the arm, of the seeds that both have."""
    return difference(base.by_seed, arm.by_seed)


def _count(need: Needed) -> str:
    """Mean ± deviation in labels; where a trial never got there, that it did not, and what the others needed."""
    values = [f"{value:,.0f}" for value in need.by_seed.values()]
    if need.never:
        others = f"; the others {', '.join(values)}" if values else ""
        return f"not reached by {len(need.never)} of {_trials(need)}{others}"
    spread = f" ± {statistics.stdev(need.by_seed.values()):,.0f}" if len(values) > 1 else ""
    return f"{statistics.fmean(need.by_seed.values()):,.0f}{spread}"


def table_of(records: Sequence[Record]) -> Table:
    """One row an arm: the labels it needs, how many fewer than random's, and accuracies at its most labels."""
    measured, found = measurements(iter_batches(records, METHODS)), needed(records)
    of = {split: plots.final(measured, split) for split in ("test", "unqueried")}
    areas = {method: values for method, (_, values) in plots.final(measured, "test", "alc").items()}
    over = gains({method: values for method, (_, values) in of["test"].items() if not method.startswith(FOREST)})
    seconds = seconds_of_runs(records)
    headers = ["arm", "share", f"labels to {target_of(records):g} %", "fewer than random", "labels", "test"]
    headers += ["over random", "unqueried", "ALC test", "s a trial", "n"]
    rows = []
    for method, (key, values) in of["test"].items():
        saved = {} if method == BASE or method.startswith(FOREST) else _saved(found[method], found.get(BASE, _NONE))
        fewer = f"{statistics.fmean(saved.values()):+,.0f}".replace("-", "−") if saved else "–"
        rows.append(
            [method, f"{SHARES[method]:.0%}" if method in SHARES else "–", _count(found[method]), fewer]
            + [f"{key.labels:,}", told(values), signed(mean_of(over.get(method)))]
            + [told(of["unqueried"].get(method, (None, {}))[1]), told(areas.get(method))]
            + [told(seconds[method], 0), str(len(values))]
        )
    return headers, rows


_NONE = Needed({}, [])


def rows_of(records: Sequence[Record]) -> list[Row]:
    """The rows of table.csv: accuracies and seconds, and the labels needed of the arms whose trials all got there."""
    rows, metric = aggregate(iter_batches(records, METHODS)), f"labels_to_{target_of(records):g}"
    for method, need in needed(records).items():
        own = [record for record in records if record["method"] == method]
        values = list(need.by_seed.values())
        if values and not need.never:
            key = Key(
                own[0]["experiment"],
                own[0]["task"],
                own[0]["network"],
                method,
                max(record["labels"] for record in own),
                "test",
                metric,
                "last",
            )
            spread = statistics.stdev(values) if len(values) > 1 else None
            made = {"paper": None, "provenance": "", "command": own[0]["command"]}
            rows.append(Row(**key._asdict(), mean=statistics.fmean(values), spread=spread, n=len(values), **made))
    return rows


def families(records: Sequence[Record]) -> list[Family]:
    """What is tested: each arm against random. All pairs of a dozen arms would leave nothing of few seeds."""
    networks = dict.fromkeys(record["network"] for record in records if record["method"] == BASE)
    return [
        Family(metric=metric, split="test", network=network, against=BASE)
        for network in networks
        for metric in ("accuracy", "alc")
    ]


# --- figures ----------------------------------------------------------------------------------------------------------


def sweep(records: Sequence[Record]) -> Figure | None:
    """Labels needed against the share: a dot a trial, a line through the means. None where no share got there."""
    from matplotlib.figure import Figure

    found = needed(records)
    arms = {SHARES[method]: need for method, need in found.items() if method in SHARES and need.by_seed}
    if not arms:
        return None
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for share, need in arms.items():
        axes.scatter([100 * share] * len(need.by_seed), list(need.by_seed.values()), s=18, color="#0072b2", alpha=0.6)
    whole = {100 * share: statistics.fmean(need.by_seed.values()) for share, need in arms.items() if not need.never}
    axes.plot(list(whole), list(whole.values()), color="#0072b2", label="margin, mean of an arm's trials")
    diverse = found.get(DIVERSE, _NONE)
    if diverse.by_seed and not diverse.never:
        level = statistics.fmean(diverse.by_seed.values())
        axes.axhline(level, color="#d55e00", linestyle="--", label="k_center, mean")
    axes.set_xlabel("share of the batch asked for by margin, %")
    axes.set_ylabel(f"labels to {target_of(records):g} % test accuracy")
    legend_above(figure, axes, 2)
    tidy(axes)
    return figure


def curves(records: Sequence[Record], split: str) -> Figure | None:
    """Accuracy against labels of a few arms. None where none of them has two label counts."""
    return plots.curves(measurements([r for r in iter_batches(records, METHODS) if r["method"] in SHOWN]), split)


def captions(records: Sequence[Record]) -> list[str]:
    """How the numbers were made."""
    pools, start, budget, tests = (each(records, name) for name in ("pool", "start", "budget", "test_images"))
    nets = sorted({record["network"] for record in records if "how" in record})
    hows = [record["how"] for record in records if "how" in record]
    trained = (
        f"A fresh network ({', '.join(nets)}) in each round: {hows[0]['epochs']} passes over the labelled images, "
        f"{hows[0]['optimizer']} at {hows[0]['lr']:g}, batches of {hows[0]['batch_size']}. "
        if hows
        else ""
    )
    return [
        f"Labels to {target_of(records):g} %: where the line through (labels, test accuracy) first reaches it, "
        "mean ± standard deviation over n trials; fewer than random: the difference, seed by seed. Accuracies in "
        "percent at the most labels; unqueried: images of the pool never asked for; ALC: area under the "
        "accuracy-labels curve; s a trial: seconds of all its rounds, asking and evaluation included.",
        f"CIFAR-10, pool of {pools} images, {start} of them labelled at random at the start (the same "
        f"for all arms of a seed), {budget} labels a round, {tests} test images. {trained}"
        "Nothing is selected, and no test label was read to choose anything.",
        f"random forest: {FOREST.strip(', ')} of scikit-learn on pixel blocks, one seed: the same rounds with another "
        "learner.",
    ]


def report_of(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    names = {"test": "test images", "unqueried": "images never asked for"}
    drawn = [
        Drawn(f"curves_{split}.png", figure, f"Accuracy on {name} against labels, mean and one standard deviation.")
        for split, name in names.items()
        if (figure := curves(records, split)) is not None
    ]
    if (figure := sweep(records)) is not None:
        drawn.insert(
            0, Drawn("sweep.png", figure, "Labels needed against the share of margin sampling: a dot a trial.")
        )
    return Report(
        title="CIFAR-10: how much of a batch by margin of confidence?",
        findings=findings(records),
        tables=[("Labels needed, and accuracy at the most labels", table_of(records))],
        figures=drawn,
        captions=captions(records),
        rows=rows_of(records),
        compared=compare_all(records, families(records)),
    )
