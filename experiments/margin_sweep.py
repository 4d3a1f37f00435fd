"""How much of a batch should be asked for by margin of confidence? CIFAR-10, from 0 to 100 %, the rest at random.

    start        a few random images with labels
    each round   round(s budget) images of the smallest p1 - p2, the rest at random; a fresh network learns all labels
    question     labels needed for 50 % test accuracy, for s in {0, 10, ..., 100 %}; beside them a k-center arm

And once the same rounds with scikit-learn's random forest in place of the network. The full form (--full) is the sweep
as it was first made: 49,000 images, 1,000 labels a round until all are in, 49 trainings a trial.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from dan.errors import UserError
from experiments.framework.experiment import Cell, Experiment
from experiments.framework.measurements import Row, aggregate, measurements, row_of
from experiments.framework.options import Options, check_names
from experiments.framework.records import Record
from experiments.framework.report import Drawn, Report
from experiments.framework.reporting import plots
from experiments.framework.reporting.against_random import BASE, gains, iter_batches, seconds_of_runs
from experiments.framework.reporting.comparisons import Family, compare_all
from experiments.framework.reporting.tables import Table, each, legend_above, mean_of, signed, tidy, told
from experiments.framework.trials import Trial, dotted
from experiments.jobs import cifar10 as jobs
from experiments.jobs.cifar10 import NETWORKS, TASK, check, place_of, rounds_records
from experiments.labels_needed import Needed, cell_of, labels_saved, labels_to, num_trials

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOREST = "random forest, "
SHARES = {"random": 0.0, **{f"margin@{s / 100:g}": s / 100 for s in range(10, 100, 10)}, "margin": 1.0}
METHODS = (*SHARES, "k_center", f"{FOREST}random", f"{FOREST}margin")


@dataclass(frozen=True)
class MarginSweep(Options):
    """What is trained; a folder keeps one choice of these, and a finished trial is never run again."""

    NAME: ClassVar[str] = "margin_sweep"
    QUICK: ClassVar[dict[str, Any]] = {
        "methods": ("random", "margin@0.5", "margin", f"{FOREST}margin"),
        "seeds": (0,),
        "pool": 1000,
        "test": 500,
        "start": 100,
        "budget": 100,
        "rounds": 2,
        "epochs": 2,
    }
    FULL: ClassVar[dict[str, Any]] = {"network": "small_cnn", "pool": 0, "test": 0, "rounds": 48}

    methods: tuple[str, ...] = METHODS
    """these arms only: shares of margin sampling from random (0) to margin (100 %), k_center, and the forest's"""
    network: str = "narrow_cnn"
    """narrow_cnn, small_cnn or resnet20"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """one trial of every arm for each; the forest's take the first only"""
    pool: int = 10_000
    """at most so many images that can be asked for, evenly spaced (0: all 49,000)"""
    test: int = 5_000
    """at most so many images of test, evenly spaced (0: all 10,000)"""
    start: int = 1_000
    """random images that are labelled at the start"""
    budget: int = 1_000
    """labels a round"""
    rounds: int = 5
    """rounds of asking"""
    epochs: int | None = None
    """passes over the labelled images in each training (default: the network's)"""
    target: float = 50.0
    """test accuracy in percent, whose price in labels is the question"""
    full: bool = False
    """the full form: small_cnn, 49,000 images, until all are in, all test images, into runs/margin_sweep_full"""
    device: str = "cpu"
    """cpu, cuda, mps or auto"""

    def check(self) -> None:
        check_names("methods", self.methods, METHODS)
        check_names("network", (self.network,), list(NETWORKS))
        if not self.methods or not 0 < self.target < 100:
            raise UserError(
                f"--methods needs one or more names, and --target percent between 0 and 100, not {self.target}"
            )
        check(self)


# --- trials -----------------------------------------------------------------------------------------------------------


def strategy_of(method: str) -> str:
    """The strategy of an arm, as `active.strategies` names it."""
    return method.removeprefix(FOREST)


def trial_of(method: str, seed: int, config: MarginSweep) -> Trial:
    """The trial of one arm and seed."""
    arguments: dict[str, Any] = {"place": place_of(config), "strategy": strategy_of(method)}
    if not method.startswith(FOREST):
        how = NETWORKS[config.network].training
        how = how if config.epochs is None else replace(how, epochs=config.epochs)
        arguments |= {"network": config.network, "how": asdict(how)}
    arguments |= {"start": config.start, "budget": config.budget, "rounds": config.rounds, "seed": seed}
    function = jobs.forest if method.startswith(FOREST) else jobs.curve
    return Trial(f"{dotted(method)}-seed{seed}", function, arguments)


def cells(config: MarginSweep) -> list[Cell]:
    """One cell an arm; the forest's take the first seed alone."""
    made = []
    for method in (method for method in METHODS if method in config.methods):
        forest = method.startswith(FOREST)
        trials = [trial_of(method, seed, config) for seed in (config.seeds[:1] if forest else config.seeds)]
        about: dict[str, Any] = {
            "task": TASK,
            "network": "random_forest" if forest else config.network,
            "method": method,
        }
        about |= {"target_accuracy": config.target, "start": config.start, "budget": config.budget}
        about |= {} if forest else {"how": trials[0].arguments["how"]}
        made.append(Cell(about=about, only={"methods": method}, trials=trials))
    return made


# --- the report -------------------------------------------------------------------------------------------------------

DIVERSE = "k_center"
SHOWN = (BASE, "margin@0.5", "margin", DIVERSE)  # as curves: more cannot be told apart


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
            f"{target} test accuracy takes fewest labels by {best} ({cell_of(arms[best])}) and most by {worst} "
            f"({cell_of(arms[worst])})" + (f"; random takes {cell_of(arms[BASE])}." if BASE in arms else ".")
        )
    missed = [f"{method} ({len(need.never)} of {num_trials(need)})" for method, need in found.items() if need.never]
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
        saved = labels_saved(found[DIVERSE], found[BASE])
        if saved:
            side = "fewer" if statistics.fmean(saved.values()) > 0 else "more"
            amount = abs(statistics.fmean(saved.values()))
            said.append(
                f"k_center takes {amount:,.0f} labels {side} than random, as a mean over {len(saved)} "
                f"seed{'s'[: len(saved) > 1]} ({sum(value > 0 for value in saved.values())} of them fewer)."
            )
    return said


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
        saved = (
            {} if method == BASE or method.startswith(FOREST) else labels_saved(found[method], found.get(BASE, _NONE))
        )
        fewer = f"{statistics.fmean(saved.values()):+,.0f}".replace("-", "−") if saved else "–"
        rows.append(
            [method, f"{SHARES[method]:.0%}" if method in SHARES else "–", cell_of(found[method]), fewer]
            + [f"{key.labels:,}", told(values), signed(mean_of(over.get(method)))]
            + [told(of["unqueried"].get(method, (None, {}))[1]), told(areas.get(method))]
            + [told(seconds[method], 0), str(len(values))]
        )
    return headers, rows


_NONE = Needed({}, [])


def rows_of(records: Sequence[Record]) -> list[Row]:
    """The rows of table.csv; the labels needed are of the arms whose trials all got there."""
    rows, metric = aggregate(iter_batches(records, METHODS)), f"labels_to_{target_of(records):g}"
    for method, need in needed(records).items():
        own = [record for record in records if record["method"] == method]
        if need.by_seed and not need.never:
            labels = max(record["labels"] for record in own)
            rows.append(row_of(own[0], need.by_seed.values(), split="test", metric=metric, labels=labels))
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


EXPERIMENT = Experiment(
    options=MarginSweep,
    summary="CIFAR-10: shares of margin sampling, and the labels that 50 % takes",
    cells=cells,
    report=report_of,
    records=rounds_records,
)
