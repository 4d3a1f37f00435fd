"""How much of a batch should be queried by margin of confidence? CIFAR-10, from 0 to 100 %, the rest at random.

    start        a few random images with labels
    each round   round(s budget) images of the smallest p1 - p2, the rest at random; a fresh network learns all labels
    question     labels needed for 50 % test accuracy, for s in {0, 10, ..., 100 %}; also for k_center

And once the same rounds with scikit-learn's random forest in place of the network. The full form (--full) is the sweep
as it was first made: 49,000 images, 1,000 labels a round until all are in, 49 trainings a trial.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from dan.errors import UserError
from experiments.cifar10 import NETWORKS, TASK, Cifar10Options, curve, forest, rounds_records, setting_of
from experiments.framework.experiment import Cell, Experiment
from experiments.framework.measurements import Row, aggregate, labels_to, measurements, row_of
from experiments.framework.options import check_names
from experiments.framework.records import Record
from experiments.framework.report import Drawn, Report
from experiments.framework.reporting import plots
from experiments.framework.reporting.against_random import BASE, by_strategy, gains, seconds_of_runs
from experiments.framework.reporting.comparisons import Family, compare_all
from experiments.framework.reporting.tables import Table, difference, legend_above, mean_of, signed, tidy, told
from experiments.framework.trials import Trial, dotted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOREST = "random forest, "
SHARES = {"random": 0.0, **{f"margin@{s / 100:g}": s / 100 for s in range(10, 100, 10)}, "margin": 1.0}
DIVERSE = "k_center"
METHODS = (*SHARES, DIVERSE, f"{FOREST}random", f"{FOREST}margin")


@dataclass(frozen=True)
class MarginSweep(Cifar10Options):
    """What is trained; a folder keeps one choice of these, and a finished trial is never run again."""

    NAME: ClassVar[str] = "margin_sweep"
    QUICK: ClassVar[dict[str, Any]] = {
        **Cifar10Options.QUICK,
        "methods": ("random", "margin@0.5", "margin", f"{FOREST}margin"),
    }
    FULL: ClassVar[dict[str, Any]] = {"network": "small_cnn", "pool": 0, "test": 0, "rounds": 48}

    methods: tuple[str, ...] = METHODS
    """these arms only: shares of margin sampling from random (0) to margin (100 %), k_center, and the forest's two,
    which take the first seed alone"""
    network: str = "narrow_cnn"
    """narrow_cnn, small_cnn or resnet20"""
    pool: int = 10_000
    """at most so many images that can be queried, evenly spaced (0: all 49,000)"""
    budget: int = 1_000
    """labels a round"""
    target: float = 50.0
    """test accuracy in percent, whose price in labels is the question"""

    def check(self) -> None:
        check_names("methods", self.methods, METHODS, some=True)
        check_names("network", (self.network,), list(NETWORKS))
        if not 0 < self.target < 100:
            raise UserError(f"--target is a percentage between 0 and 100, not {self.target}")
        super().check()


def cells(config: MarginSweep) -> list[Cell]:
    """One cell an arm; the forest's take the first seed alone."""
    made = []
    for method in (method for method in METHODS if method in config.methods):
        of_forest = method.startswith(FOREST)
        arm = config.arm(None if of_forest else config.network) | {"strategy": method.removeprefix(FOREST)}
        trials = [
            Trial(f"{dotted(method)}-seed{seed}", forest if of_forest else curve, arm | {"seed": seed})
            for seed in config.seeds[: 1 if of_forest else None]
        ]
        about = {"task": TASK, "network": arm.get("network", "random_forest"), "method": method}
        about |= {"target_accuracy": config.target, "start": config.start, "budget": config.budget}
        about |= {} if of_forest else {"how": arm["how"]}
        made.append(Cell(about=about, only={"methods": method}, trials=trials))
    return made


# --- the report -------------------------------------------------------------------------------------------------------

SHOWN = (BASE, "margin@0.5", "margin", DIVERSE)  # as curves: more cannot be told apart


class Needed(NamedTuple):
    """Labels that each seed's trial of an arm needed; `never`: seeds that did not get there, and enter no mean."""

    by_seed: dict[int, float]
    never: list[int]

    @property
    def cell(self) -> str:
        """Mean ± deviation in labels; where a trial never got there, that it did not, and what the others needed."""
        values = [f"{value:,.0f}" for value in self.by_seed.values()]
        if self.never:
            others = f"; the others {', '.join(values)}" if values else ""
            return f"not reached by {len(self.never)} of {len(values) + len(self.never)}{others}"
        spread = f" ± {statistics.stdev(self.by_seed.values()):,.0f}" if len(values) > 1 else ""
        return f"{statistics.fmean(self.by_seed.values()):,.0f}{spread}"


NONE = Needed({}, [])


def target_of(records: Sequence[Record]) -> float:
    """The accuracy in percent that is the question."""
    return float(records[-1]["target_accuracy"])


def needed(records: Sequence[Record]) -> dict[str, Needed]:
    """method -> what its trials needed, arms in order."""
    curves: dict[str, dict[int, dict[int, float]]] = {}
    for record in by_strategy(records, METHODS):
        by_seed = curves.setdefault(record["method"], {})
        by_seed.setdefault(record["seed"], {})[record["labels"]] = 100 * record["accuracy/target_test"]
    found = {}
    for method, by_seed in curves.items():
        counts = {s: labels_to(sorted(c), [c[n] for n in sorted(c)], target_of(records)) for s, c in by_seed.items()}
        reached = {seed: count for seed, count in counts.items() if count is not None}
        found[method] = Needed(reached, sorted(set(counts) - set(reached)))
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
        listed = [f"fewest {best} {arms[best].cell}", f"most {worst} {arms[worst].cell}"]
        listed += [f"random {arms[BASE].cell}"] if BASE in arms else []
        said.append(f"Labels to {target}: {', '.join(listed)}.")
    if missed := [f"{method} ({need.cell})" for method, need in found.items() if need.never]:
        said.append(f"Labels to {target} are not reached by all trials: {', '.join(missed)}.")
    if (result := trend(found)) is not None:
        rho, p, count = result
        verdict = "no trend" if p >= 0.05 else f"a larger share needs {'fewer' if rho < 0 else 'MORE'} labels"
        said.append(
            f"Share of margin sampling against labels needed: rank correlation {signed(rho, 2)}, p = {p:.2g}, {count} "
            f"trials: {verdict}."
        )
    if saved := difference(found.get(BASE, NONE).by_seed, found.get(DIVERSE, NONE).by_seed):
        mean, fewer = statistics.fmean(saved.values()), sum(value > 0 for value in saved.values())
        said.append(
            f"{DIVERSE} takes {abs(mean):,.0f} labels {'fewer' if mean > 0 else 'more'} than random (fewer on "
            f"{fewer} of {len(saved)} seeds)."
        )
    return said


def table_of(records: Sequence[Record]) -> Table:
    """One row an arm: the labels it needs, how many fewer than random's, and accuracies at its most labels."""
    measured, found = measurements(by_strategy(records, METHODS)), needed(records)
    tests, unqueried = plots.final(measured, "test"), plots.final_values(measured, "unqueried")
    areas, seconds = plots.final_values(measured, "test", "alc"), seconds_of_runs(records)
    over = gains({method: values for method, (_, values) in tests.items() if not method.startswith(FOREST)})
    headers = ["arm", "share", f"labels to {target_of(records):g} %", "fewer than random", "labels", "test"]
    headers += ["over random", "unqueried", "ALC test", "s a trial", "n"]
    rows = []
    for method, (key, values) in tests.items():
        saved = difference(found.get(BASE, NONE).by_seed, found[method].by_seed) if method in over else {}
        fewer = f"{statistics.fmean(saved.values()):+,.0f}".replace("-", "−") if saved else "–"
        rows.append(
            [method, f"{SHARES[method]:.0%}" if method in SHARES else "–", found[method].cell, fewer]
            + [f"{key.labels:,}", told(values), signed(mean_of(over.get(method)))]
            + [told(unqueried.get(method)), told(areas.get(method)), told(seconds[method], 0), str(len(values))]
        )
    return headers, rows


def rows_of(records: Sequence[Record]) -> list[Row]:
    """The rows of table.csv; the labels needed are of the arms whose trials all got there."""
    rows, metric = aggregate(by_strategy(records, METHODS)), f"labels_to_{target_of(records):g}"
    for method, need in needed(records).items():
        own = [record for record in records if record["method"] == method]
        if need.by_seed and not need.never:
            labels = max(record["labels"] for record in own)
            rows.append(row_of(own[0], need.by_seed.values(), split="test", metric=metric, labels=labels))
    return rows


def families(records: Sequence[Record]) -> list[Family]:
    """What is tested: each arm against random."""
    networks = dict.fromkeys(record["network"] for record in records if record["method"] == BASE)
    return [
        Family(metric=metric, split="test", network=network, against=BASE)
        for network in networks
        for metric in ("accuracy", "alc")
    ]


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
    diverse = found.get(DIVERSE, NONE)
    if diverse.by_seed and not diverse.never:
        level = statistics.fmean(diverse.by_seed.values())
        axes.axhline(level, color="#d55e00", linestyle="--", label="k_center, mean")
    axes.set_xlabel("share of the batch queried by margin, %")
    axes.set_ylabel(f"labels to {target_of(records):g} % test accuracy")
    legend_above(figure, axes, 2)
    tidy(axes)
    return figure


def report(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    target = f"{target_of(records):g} %"
    arms = measurements([record for record in by_strategy(records, METHODS) if record["method"] in SHOWN])
    drawn = {
        "sweep": (sweep(records), "Labels needed against the share of margin sampling: a dot a trial."),
        "curves_test": (plots.curves(arms, "test"), "Accuracy on test images against labels."),
        "curves_unqueried": (plots.curves(arms, "unqueried"), "Accuracy on images never queried against labels."),
    }
    return Report(
        title="CIFAR-10: how much of a batch by margin of confidence?",
        findings=findings(records),
        tables=[("Labels needed, and accuracy at the most labels", table_of(records))],
        figures=[Drawn(f"{file}.png", figure, text) for file, (figure, text) in drawn.items() if figure is not None],
        captions=[
            f"Labels to {target}: where the line through (labels, test accuracy) first reaches it, mean ± standard "
            "deviation over n trials; fewer than random: the difference, seed by seed. Accuracies in percent at the "
            "most labels; unqueried: images of the pool never queried; ALC: area under the accuracy-labels curve; s a "
            "trial: seconds of all its rounds, queries and evaluation included.",
            setting_of(records),
            "random forest: scikit-learn's on pixel blocks, one seed: the same rounds with another learner.",
        ],
        rows=rows_of(records),
        compared=compare_all(records, families(records)),
    )


EXPERIMENT = Experiment(
    options=MarginSweep,
    summary="CIFAR-10: shares of margin sampling, and the labels that 50 % takes",
    cells=cells,
    report=report,
    records=rounds_records,
)
