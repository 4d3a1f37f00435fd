"""CIFAR-10 accuracy against labels: six strategies, on a small network and on a ResNet, each from the same start.

    start        a few random images with labels
    each round   the strategy queries `budget` images; a fresh network learns all labels

The layout of the curves of core-set selection and its rivals. The full form (--full) queries 1,000 images a round of
all 49,000 until 25,000 are in, on the small CNN and on ResNet-20 trained as its authors did.
Source: Sener & Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", ICLR 2018.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dan.errors import UserError
from experiments.cifar10 import NETWORKS, TASK, Cifar10Options, curve, networks_in, rounds_records, setting_of
from experiments.framework.experiment import Cell, Experiment, grid
from experiments.framework.measurements import measurements
from experiments.framework.options import check_names
from experiments.framework.records import Record
from experiments.framework.report import Drawn, Report
from experiments.framework.reporting import against_random, plots
from experiments.framework.reporting.against_random import by_strategy, gains, seconds_of_runs
from experiments.framework.reporting.tables import Table, by_method, mean_of, points, signed, told
from experiments.framework.trials import Trial, dotted
from experiments.tasks import paper_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STRATEGIES = ("random", "entropy", "margin", "k_center", "badge", "hybrid")
SHOWN = frozenset(
    {"ids", "probs", "logits", "features", "labelled_ids", "labelled_features", "labelled_targets"}
    | {"source_features", "kernel"}
)  # what the rounds on CIFAR-10 can show a strategy


@dataclass(frozen=True)
class CoresetCurve(Cifar10Options):
    """What is trained; a folder keeps one choice of these, and a finished trial is never run again."""

    NAME: ClassVar[str] = "coreset_curve"
    QUICK: ClassVar[dict[str, Any]] = {**Cifar10Options.QUICK, "strategies": ("random", "k_center", "hybrid")}
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
    """these acquisition strategies only (python -m active strategies)"""

    def check(self) -> None:
        from active.strategies import CARDS, get_strategy, required_fields

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
        super().check()


def cells(config: CoresetCurve) -> list[Cell]:
    """One cell a network and strategy."""
    made = []
    for only, (network, strategy) in grid(config, "networks", "strategies"):
        arm = config.arm(network, NETWORKS[network].epochs if config.full else None) | {"strategy": strategy}
        name = f"{network}-{dotted(strategy)}"
        trials = [Trial(f"{name}-seed{seed}", curve, arm | {"seed": seed}) for seed in config.seeds]
        about = {"task": TASK, "network": network, "method": strategy, "start": config.start, "budget": config.budget}
        made.append(Cell(about=about | {"how": arm["how"]}, only=only, trials=trials, part=network))
    return made


# --- the report -------------------------------------------------------------------------------------------------------

PAPER, PAPER_NETWORK = "distil_cifar10", "resnet20"  # its network is another ResNet, of 18 layers
SPLITS = {"test": "test images", "unqueried": "images never queried"}
MOST_COLUMNS = 6


def of_network(records: Sequence[Record], network: str) -> list[Record]:
    """The records of one network, strategies in the order of the experiment."""
    return by_strategy([record for record in records if record["network"] == network], STRATEGIES)


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
    own, columns = of_network(records, network), columns_of(records, network)
    at = [by_method([r for r in own if r["labels"] == labels], "accuracy/target_test") for labels in columns]
    measured, over, seconds = measurements(own), gains(at[-1]), seconds_of_runs(own)
    areas, unqueried = plots.final_values(measured, "test", "alc"), plots.final_values(measured, "unqueried")
    rows = [
        [method, *(told(column.get(method)) for column in at), points(over.get(method)), told(unqueried.get(method))]
        + [told(areas.get(method)), told(took, 0), str(len(took))]
        for method, took in seconds.items()
    ]
    headers = ["strategy", *(f"{labels:,}" for labels in columns), "over random", "unqueried", "ALC test", "s a run"]
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
        found = plots.final_values(measurements(of_network(records, network)), "test")
        labels = max(record["labels"] for record in records if record["network"] == network)
        sentence = against_random.finding(found, "test images", lambda gain: signed(mean_of(gain)))
        said += [f"{NETWORKS[network].line}, {labels:,} labels: {sentence}"] if sentence else []
    return said


def figure_of(records: Sequence[Record], network: str, split: str) -> Figure | None:
    """Accuracy against labels with bands of one standard deviation; random is grey."""
    figure = against_random.curves(measurements(of_network(records, network)), split)
    if figure is not None:
        line = NETWORKS[network].line
        figure.axes[0].set(title=line, xlabel="labels", ylabel=f"accuracy on {SPLITS[split]}, %")
    return figure


def captions(records: Sequence[Record]) -> list[str]:
    """How the numbers were made."""
    said = [
        "Test accuracy in percent at so many labels, mean ± standard deviation over n seeds. over random: the "
        "difference at the most labels, seed by seed; unqueried: images of the pool never queried, at the most "
        "labels; ALC: area under the accuracy-labels curve on the test images; s a run: seconds of all rounds of one "
        "seed, queries and evaluation included.",
        setting_of(records),
    ]
    of_source = [name for name in ("mmd_reduction", "sum_of_three") if any(r["method"] == name for r in records)]
    if of_source:
        said.append(
            f"{', '.join(of_source)}: there is no source, so MMD queries the images whose labelling brings the "
            "labelled set nearest to the unlabelled one."
        )
    if any(_published(network, columns_of(records, network), MOST_COLUMNS + 6) for network in networks_in(records)):
        paper = paper_table(PAPER)
        said.append(f"Published rows: {paper.source} ({paper.provenance}); ResNet-18, another training.")
    return said


def report(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    networks = networks_in(records)
    return Report(
        title="CIFAR-10: accuracy against labels",
        findings=findings(records),
        tables=[(NETWORKS[network].line, table_of(records, network)) for network in networks],
        figures=[
            Drawn(f"{network}_{split}.png", figure, f"{NETWORKS[network].line}: accuracy on {name} against labels.")
            for network in networks
            for split, name in SPLITS.items()
            if (figure := figure_of(records, network, split)) is not None
        ],
        captions=captions(records),
    )


EXPERIMENT = Experiment(
    options=CoresetCurve,
    summary="CIFAR-10: accuracy against labels, six acquisition strategies",
    cells=cells,
    report=report,
    records=rounds_records,
)
