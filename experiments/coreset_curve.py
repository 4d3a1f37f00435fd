"""CIFAR-10 accuracy against labels: six ways to ask, on a small network and on a ResNet, each from the same start.

    start        a few random images with labels
    each round   the strategy asks for `budget` images; a fresh network learns all labels

The layout of the curves of core-set selection and its rivals. The full form (--full) asks for 1,000 images a round of
all 49,000 until 25,000 are in, on the small CNN and on ResNet-20 trained as its authors did.
Source: Sener & Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", ICLR 2018.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from active.strategies import CARDS, get_strategy, required_fields
from dan.errors import UserError
from experiments.framework.experiment import Cell, Experiment, grid
from experiments.framework.measurements import measurements
from experiments.framework.options import Options, check_names
from experiments.framework.records import Record
from experiments.framework.report import Drawn, Report
from experiments.framework.reporting import against_random, plots
from experiments.framework.reporting.against_random import gains, iter_batches, seconds_of_runs
from experiments.framework.reporting.tables import Table, each, mean_of, points, signed, told
from experiments.framework.trials import Trial, dotted
from experiments.jobs import cifar10 as jobs
from experiments.jobs.cifar10 import NETWORKS, TASK, check, place_of, rounds_records
from experiments.tasks import paper_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STRATEGIES = ("random", "entropy", "margin", "k_center", "badge", "hybrid")
SHOWN = frozenset(
    {"ids", "probs", "logits", "features", "labelled_ids", "labelled_features", "labelled_targets"}
    | {"source_features", "kernel"}
)  # what the rounds on CIFAR-10 can show a strategy


@dataclass(frozen=True)
class CoresetCurve(Options):
    """What is trained; a folder keeps one choice of these, and a finished trial is never run again."""

    NAME: ClassVar[str] = "coreset_curve"
    QUICK: ClassVar[dict[str, Any]] = {
        "strategies": ("random", "k_center", "hybrid"),
        "seeds": (0,),
        "pool": 1000,
        "test": 500,
        "start": 100,
        "budget": 100,
        "rounds": 2,
        "epochs": 2,
    }
    FULL: ClassVar[dict[str, Any]] = {
        "networks": ("small_cnn", "resnet20"),
        "pool": 0,
        "test": 0,
        "budget": 1000,
        "rounds": 24,
    }

    networks: tuple[str, ...] = ("narrow_cnn",)
    """any of narrow_cnn, small_cnn, resnet20"""
    strategies: tuple[str, ...] = STRATEGIES
    """these ways to ask only (python -m active strategies)"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """one curve of everything for each"""
    pool: int = 12_000
    """at most so many images that can be asked for, evenly spaced (0: all 49,000)"""
    test: int = 5_000
    """at most so many images of test, evenly spaced (0: all 10,000)"""
    start: int = 1_000
    """random images that are labelled at the start"""
    budget: int = 1_500
    """labels a round"""
    rounds: int = 5
    """rounds of asking"""
    epochs: int | None = None
    """passes over the labelled images in each training (default: 10; resnet20: 20, with --full the paper's 182)"""
    full: bool = False
    """the full form: small_cnn and resnet20, 1,000 to 25,000 of 49,000 labels, into runs/coreset_curve_full"""
    device: str = "cpu"
    """cpu, cuda, mps or auto"""

    def check(self) -> None:
        check_names("networks", self.networks, list(NETWORKS), some=True)
        if not self.strategies or len(set(self.strategies)) < len(self.strategies):
            raise UserError("--strategies needs one or more different names")
        for strategy in self.strategies:
            get_strategy(strategy)
            if missing := required_fields(strategy) - SHOWN:
                fitting = [name for name, card in CARDS.items() if not set(card.needs) - SHOWN]
                raise UserError(
                    f"{strategy} needs {', '.join(sorted(missing))}, which one domain does not have: try "
                    f"{', '.join(fitting)}"
                )
        check(self)


# --- trials -----------------------------------------------------------------------------------------------------------


def trial_of(network: str, strategy: str, seed: int, config: CoresetCurve) -> Trial:
    """The trial of one curve."""
    made = NETWORKS[network]
    usual = made.epochs if config.full else made.training.epochs
    how = replace(made.training, epochs=usual if config.epochs is None else config.epochs)
    arguments: dict[str, Any] = {"place": place_of(config), "network": network, "how": asdict(how)}
    arguments |= {"strategy": strategy, "start": config.start, "budget": config.budget, "rounds": config.rounds}
    name = f"{network}-{dotted(strategy)}-seed{seed}"
    return Trial(name, jobs.curve, {**arguments, "seed": seed})


def cells(config: CoresetCurve) -> list[Cell]:
    """One cell a network and strategy."""
    made = []
    for only, (network, strategy) in grid(config, "networks", "strategies"):
        trials = [trial_of(network, strategy, seed, config) for seed in config.seeds]
        about = {"task": TASK, "network": network, "method": strategy, "start": config.start, "budget": config.budget}
        made.append(Cell(about=about | {"how": trials[0].arguments["how"]}, only=only, trials=trials, part=network))
    return made


# --- the report -------------------------------------------------------------------------------------------------------

PAPER, PAPER_NETWORK = "distil_cifar10", "resnet20"  # its network is another ResNet, of 18 layers
SPLITS = {"test": "test images", "unqueried": "images never asked for"}
MOST_COLUMNS = 6


def networks_in(records: Sequence[Record]) -> list[str]:
    """The networks that have records, in order."""
    there = {record["network"] for record in records}
    return [network for network in NETWORKS if network in there]


def of_network(records: Sequence[Record], network: str) -> list[Record]:
    """The records of one network, strategies in the order of the experiment."""
    return iter_batches([record for record in records if record["network"] == network], STRATEGIES)


def at(records: Sequence[Record], network: str, labels: int, split: str = "accuracy/target_test") -> Gathered:
    """strategy -> {seed: percent} at so many labels."""
    found: dict[str, dict[int, float]] = {}
    for record in of_network(records, network):
        if record["labels"] == labels and record.get(split) is not None:
            found.setdefault(record["method"], {})[record["seed"]] = 100 * record[split]
    return found


Gathered = Mapping[str, Mapping[int, float]]


def columns_of(records: Sequence[Record], network: str) -> list[int]:
    """Label counts for the columns of a table: all, or some evenly spaced, the published ones among them."""
    counts = sorted({record["labels"] for record in records if record["network"] == network})
    if len(counts) <= MOST_COLUMNS:
        return counts
    published = set(map(int, paper_table(PAPER).columns)) if network == PAPER_NETWORK else set()
    if published & set(counts) and counts[-1] in published:
        return sorted(published & set(counts))
    return sorted({counts[round(i * (len(counts) - 1) / (MOST_COLUMNS - 1))] for i in range(MOST_COLUMNS)})


def table_of(records: Sequence[Record], network: str) -> Table:
    """One row a strategy: test accuracy at some label counts, and over random at the most; published rows below."""
    columns = columns_of(records, network)
    by_column = [at(records, network, labels) for labels in columns]
    over = gains(by_column[-1])
    measured = measurements(of_network(records, network))
    areas = {method: values for method, (_, values) in plots.final(measured, "test", "alc").items()}
    unqueried = {method: values for method, (_, values) in plots.final(measured, "unqueried").items()}
    seconds = seconds_of_runs(of_network(records, network))
    headers = ["strategy", *(f"{labels:,}" for labels in columns), "over random", "unqueried", "ALC test", "s a run"]
    rows = []
    for method in dict.fromkeys(record["method"] for record in of_network(records, network)):
        cells = [told(column.get(method)) for column in by_column]
        rows.append([method, *cells, points(over.get(method)), told(unqueried.get(method))])
        rows[-1] += [told(areas.get(method)), told(seconds[method], 0), str(len(seconds[method]))]
    return [*headers, "n"], rows + _published(network, columns, len(headers) + 1)


def _published(network: str, columns: Sequence[int], width: int) -> list[list[str]]:
    """The rows of the published table that have a number for one of these columns."""
    if network != PAPER_NETWORK:
        return []
    rows = []
    for method, values in paper_table(PAPER).values.items():
        cells = [f"{values[str(labels)]:.1f}" if str(labels) in values else "–" for labels in columns]
        if set(cells) != {"–"}:
            rows.append([f"published: {method} (ResNet-18)", *cells, *["–"] * (width - 1 - len(cells))])
    return rows


def findings(records: Sequence[Record]) -> list[str]:
    """Sentences that the records decide, on the test images at the most labels, seed by seed against random."""
    said = []
    for network in networks_in(records):
        labels = max(record["labels"] for record in records if record["network"] == network)
        found = at(records, network, labels)
        sentence = against_random.finding(found, "test images", lambda gain: signed(mean_of(gain)))
        said += [f"{NETWORKS[network].line}, {labels:,} labels: {sentence}"] if sentence else []
    return said


def curve(records: Sequence[Record], network: str, split: str) -> Figure | None:
    """Accuracy against labels with bands of one standard deviation; random is grey."""
    figure = against_random.curves(measurements(of_network(records, network)), split)
    if figure is not None:
        line = NETWORKS[network].line
        figure.axes[0].set(title=line, xlabel="labels", ylabel=f"accuracy on {SPLITS[split]}, %")
    return figure


def captions(records: Sequence[Record]) -> list[str]:
    """How the numbers were made."""
    pools, start, budget, tests = (each(records, name) for name in ("pool", "start", "budget", "test_images"))
    told_of = []
    for network in networks_in(records):
        how = next(record["how"] for record in records if record["network"] == network)
        decay = ", the rate a tenth from half of the steps on and again from three quarters" * (
            how["schedule"] == "steps"
        )
        views = ", images shifted and mirrored at random" * how["crop"]
        told_of.append(
            f"{NETWORKS[network].line}: {how['epochs']} passes, {how['optimizer']} at {how['lr']:g}, batches of "
            f"{how['batch_size']}{decay}{views}"
        )
    said = [
        "Test accuracy in percent at so many labels, mean ± standard deviation over n seeds. over random: the "
        "difference at the most labels, seed by seed; unqueried: images of the pool never asked for, at the most "
        "labels; ALC: area under the accuracy-labels curve on the test images; s a run: seconds of all rounds of one "
        "seed, asking and evaluation included.",
        f"CIFAR-10, pool of {pools} images, {start} of them labelled at random at the start (the same "
        f"for all strategies of a seed), {budget} labels a round, {tests} test images. A fresh "
        f"network in each round ({'; '.join(told_of)}). Nothing is selected, and no test label was read to choose "
        "anything.",
    ]
    of_source = [name for name in ("mmd_reduction", "sum_of_three") if any(r["method"] == name for r in records)]
    if of_source:
        said.append(
            f"{', '.join(of_source)}: there is no source, so MMD asks for the images whose labelling brings the "
            "labelled set nearest to the unlabelled one."
        )
    if any(_published(network, columns_of(records, network), MOST_COLUMNS + 6) for network in networks_in(records)):
        paper = paper_table(PAPER)
        said.append(f"Published rows: {paper.source} ({paper.provenance}); ResNet-18, another training.")
    return said


def report_of(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    figures = []
    for network in networks_in(records):
        for split, name in SPLITS.items():
            if (figure := curve(records, network, split)) is not None:
                text = f"{NETWORKS[network].line}: accuracy on {name} against labels, mean and one standard deviation."
                figures.append(Drawn(f"{network}_{split}.png", figure, text))
    return Report(
        title="CIFAR-10: accuracy against labels",
        findings=findings(records),
        tables=[(f"{NETWORKS[network].line}", table_of(records, network)) for network in networks_in(records)],
        figures=figures,
        captions=captions(records),
    )


EXPERIMENT = Experiment(
    options=CoresetCurve,
    summary="CIFAR-10: accuracy against labels, six acquisition strategies",
    cells=cells,
    report=report_of,
    records=rounds_records,
)
