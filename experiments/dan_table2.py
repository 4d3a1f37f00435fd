"""DAN's Table 2 again: Office-10 + Caltech-10, 12 transfers, SqueezeNet 1.1 and MobileNetV2 beside the paper's AlexNet.

1. search     hyper-parameters of each network, one set for all transfers, without a target label, on frozen backbones
              (see label_free_search)
2. frozen     every method on both frozen backbones (computed once, seconds a run), and logistic regression as the floor
3. fine-tuned source-only and DAN with the backbone's last blocks trained, the rest computed once: SqueezeNet on the
              paper's six transfers, then the other six; MobileNetV2 on the paper's six
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from dan.errors import UserError
from experiments import method_tables as tables
from experiments.framework.experiment import Cell, Experiment
from experiments.framework.options import check_names
from experiments.framework.records import Record
from experiments.framework.report import Report
from experiments.framework.reporting.comparisons import compare_all, families_of
from experiments.framework.trials import Trial, slug
from experiments.label_free_search import SEARCH_CAPTION, SEARCH_SEED, Point, SearchOptions, search_table
from experiments.method_tables import DAN, FLOOR, SOURCE_ONLY, Part, Row
from experiments.office_caltech10 import BOTH, OTHER_SIX, PAPER_LIKE, PAPER_SIX, setup_with, sides_of
from experiments.office_caltech10.trial import BOTTLENECK, DROPOUT, EVERYTHING, SET, adapt, floor, prepare, score
from experiments.tasks import over_tasks

HELD_OUT = 0.2  # share of the source that the search does not train on, but judges on
# The `task` of a row's mean over transfers.
MEANS = {"mean": PAPER_SIX, "mean_other6": OTHER_SIX, "mean_all12": PAPER_SIX + OTHER_SIX}
# The paper's DAN learns kernel weights, and so answers to two rows of ours.
PAPER = tables.Published(
    "dan2015_table2_office_caltech10",
    "AlexNet",
    {name: name for name in PAPER_LIKE} | {SOURCE_ONLY: "CNN", "DAN, QP weights": "DAN"},
    tables.office_columns(PAPER_SIX),
)


@dataclass(frozen=True)
class Network:
    """A backbone that is computed once up to and with the stage `frozen`, and trained from there on."""

    line: str
    backbone: str
    frozen: str = EVERYTHING
    transfers: tuple[str, ...] = PAPER_SIX + OTHER_SIX

    @property
    def searched_on(self) -> str:
        """The network whose search decides this one's hyper-parameters: the same with its backbone frozen."""
        return f"{self.backbone}-frozen"

    @property
    def trains(self) -> bool:
        """Some of the backbone is trained: minutes a run, where the frozen backbone's runs take seconds."""
        return self.frozen != EVERYTHING


# By the names that records have, in the order in which they are trained.
NETWORKS = {
    "squeezenet1_1-frozen": Network("SqueezeNet 1.1, frozen", "squeezenet1_1"),
    "mobilenet_v2-frozen": Network("MobileNetV2, frozen", "mobilenet_v2"),
    "squeezenet1_1": Network("SqueezeNet 1.1, fire9 fine-tuned", "squeezenet1_1", "fire8"),
    "mobilenet_v2": Network("MobileNetV2, two blocks fine-tuned", "mobilenet_v2", "block16", PAPER_SIX),
}


@dataclass(frozen=True)
class DanTable2(SearchOptions):
    """What is trained; a folder keeps one choice of these, and a finished trial is never run again."""

    NAME: ClassVar[str] = "dan_table2"
    QUICK: ClassVar[dict[str, Any]] = {
        "networks": ("squeezenet1_1-frozen", "squeezenet1_1"),
        "transfers": ("c2w",),
        "methods": (SOURCE_ONLY, DAN),
        "seeds": (0,),
        "steps": 30,
    }
    # New layers learn 10 times faster than the backbone, so these are tenths of a bottleneck's rate.
    RATES: ClassVar[tuple[float, ...]] = (1e-4, 3e-4, 1e-3, 3e-3)

    squeezenet_weights: str = "DEFAULT"
    """ImageNet weights of SqueezeNet 1.1: a name, or a state-dict file, looked for in the folder of data sets too"""
    mobilenet_weights: str = "DEFAULT"
    """the same for MobileNetV2"""
    networks: tuple[str, ...] = tuple(NETWORKS)
    """these networks only"""
    transfers: tuple[str, ...] = PAPER_SIX + OTHER_SIX
    """these transfers only"""
    image_size: int = 224
    """pixels a side"""

    def check(self) -> None:
        super().check()
        check_names("networks", self.networks, list(NETWORKS))
        check_names("transfers", self.transfers, PAPER_SIX + OTHER_SIX)
        check_names("methods", self.methods, [FLOOR, *rows()])
        if not plan(self):
            raise UserError("nothing is left to train: no network has these rows on these transfers")
        for network, _, _ in plan(self):
            setup_of(network, self)  # the data's folder and the weights' files are there

    def search_rows(self) -> dict[str, list[str]]:
        listed: dict[str, dict[str, None]] = {}
        for network, _, row in plan(self):
            wanted = listed.setdefault(NETWORKS[network].searched_on, {SOURCE_ONLY: None})
            wanted |= {} if row == FLOOR else {rows()[row].searched: None}
        return {network: list(wanted) for network, wanted in listed.items()}

    def search_trials(self, point: Point) -> dict[str, Trial]:
        network, row, trade_off, rate = point
        after = tuple(preparing(network, self, held_out) for held_out in (HELD_OUT, 0.0))
        arguments = {"place": setup_of(network, self), "how": rows()[row].how | {"lr": rate}, "trade_off": trade_off}
        arguments |= {"steps": self.steps, "seed": SEARCH_SEED, "held_out": HELD_OUT}
        name = f"search-{network}-{{}}-{slug(row)}-{trade_off:g}-{rate:g}"
        return {
            SET + transfer: Trial(name.format(transfer), score, {**arguments, "transfer": transfer}, after)
            for transfer in transfers_of(network, self)
        }


def rows() -> dict[str, Row]:
    """Every row that is trained: the paper's, then each further method."""
    return PAPER_LIKE | tables.further_rows(BOTH)


def transfers_of(network: str, config: DanTable2) -> list[str]:
    """The transfers of a network, the paper's six first."""
    return [transfer for transfer in NETWORKS[network].transfers if transfer in config.transfers]


def plan(config: DanTable2) -> list[tuple[str, str, str]]:
    """(network, transfer, row) of every cell; the two rows that matter where a run takes minutes, else all."""
    found = []
    for network in (name for name in NETWORKS if name in config.networks):
        listed = [SOURCE_ONLY, DAN] if NETWORKS[network].trains else [FLOOR, *rows()]
        shown = [row for row in listed if row in (config.methods or listed)]
        found += [(network, transfer, row) for transfer in transfers_of(network, config) for row in shown]
    return found


def setup_of(network: str, config: DanTable2) -> dict[str, Any]:
    """The network and its data, as `office_caltech10.trial.Setup` has them."""
    made = NETWORKS[network]
    weights = {"squeezenet1_1": config.squeezenet_weights, "mobilenet_v2": config.mobilenet_weights}
    return setup_with(config, made.backbone, made.frozen, weights[made.backbone])


def preparing(network: str, config: DanTable2, held_out: float = 0.0) -> Trial:
    """The trial that runs the frozen stages on every domain, so that no two workers do it at the same time."""
    sides = sides_of(transfers_of(network, config))
    arguments = {"place": setup_of(network, config), "sides": sides, "held_out": held_out}
    return Trial(f"trunk-{network}" + ("-held-out" if held_out else ""), prepare, arguments)


def trials_of(network: str, transfer: str, row: str, config: DanTable2) -> list[Trial]:
    """The trials of one cell of the table: one a seed; one in all for logistic regression, which draws nothing."""
    arguments: dict[str, Any] = {"place": setup_of(network, config), "transfer": transfer}
    name, after = f"{network}-{transfer}-{slug(row)}", (preparing(network, config),)
    if row == FLOOR:
        return [Trial(name, floor, arguments, after)]
    chosen = config.chosen[NETWORKS[network].searched_on][rows()[row].searched]
    return [replace(trial, after=after) for trial in config.trials(name, adapt, arguments, rows()[row].how, chosen)]


def cells(config: DanTable2) -> list[Cell]:
    """One cell a network, transfer and row; a network's first six transfers are run before the others."""
    made = []
    for network, transfer, row in plan(config):
        about = {"task": SET + transfer, "network": network, "method": row, "labels": 0}
        only = {"networks": network, "transfers": transfer, "methods": row, "search": config.search_of_cells}
        part = f"{network}, {'first' if transfer in PAPER_SIX else 'other'} six"
        trials = trials_of(network, transfer, row, config)
        made.append(Cell(about=about | PAPER.record(row, transfer), only=only, trials=trials, part=part))
    return made


# --- the report -------------------------------------------------------------------------------------------------------


def with_means(records: Sequence[Record]) -> list[Record]:
    """The records, and for each run of all transfers of a mean one more, beside the paper's mean where it has one."""
    made = list(records)
    for name, transfers in MEANS.items():
        means = over_tasks(records, [SET + transfer for transfer in transfers], name)
        made += [mean | PAPER.record(mean["method"], name) for mean in means]
    return made


def report(records: Sequence[Record]) -> Report:
    """The report, from records alone: all pairs of methods are compared, and all methods with source-only."""
    everything = with_means(records)
    parts, halves = [], []
    for network, made in NETWORKS.items():
        own = [record for record in everything if record["network"] == network]
        parts.append(Part(made.line, own, made.transfers, SET, [PAPER]))
        for title, mean in (("the paper's six", "mean"), ("the other six", "mean_other6")):
            halves.append(Part(f"{made.line}: {title}", own, MEANS[mean], SET, [PAPER], mean))
    families = families_of(records)
    against = [replace(f, against=SOURCE_ONLY) for f in families if not NETWORKS[str(f.network)].trains]
    return tables.report_of(
        "Office-10 + Caltech-10: DAN's Table 2 on small networks",
        parts,
        everything,
        tables=halves,
        more=[("What the label-free search chose", search_table(records))],
        captions=[
            f"The backbone, a bottleneck of {BOTTLENECK} (dropout {DROPOUT}), which is 7, and the logits, "
            "8, compared as class probabilities. DDC and DAN_SK have one kernel, DAN five.",
            f"{SEARCH_CAPTION} Searched on the frozen backbone with {HELD_OUT:.0%} of the source held out; DDC, DAN_7, "
            "DAN_8, DAN_SK and QP weights take DAN's.",
            "The sentences are of the mean over the paper's six transfers.",
        ],
        compared=compare_all(records, [*families, *against]),
    )


EXPERIMENT = Experiment(
    options=DanTable2,
    summary="Office-10 + Caltech-10, 12 transfers: DAN beside the paper's Table 2",
    cells=cells,
    report=report,
    records=tables.records_of,
)
