"""DAN's Table 1 again: Office-31, six transfers, AlexNet as the paper trains it and ResNet-50 as is common practice.

    rows        source-only, DDC, DAN_7, DAN_8, DAN_SK, DAN, and DAN with uniform kernel weights in place of learned
    recipes     `dan-2015` and `dan-resnet` of `dan.training.config`, whole: a row changes what is aligned, by which
    kernels

The images are to be fetched from their publisher: the command says where, and what the folder is to look like.
Source: Long, Cao, Wang & Jordan, "Learning Transferable Features with Deep Adaptation Networks", ICML 2015, Table 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

from dan.data.benchmarks import BENCHMARKS, domain_of
from dan.data.paths import data_folder
from dan.errors import UserError
from dan.training.config import get_recipe
from experiments.dan_table2 import DAN, SOURCE_ONLY, column_of
from experiments.framework.experiment import Cell, Experiment, Results
from experiments.framework.measurements import aggregate
from experiments.framework.options import Options, check_names, check_runs
from experiments.framework.records import Record
from experiments.framework.report import Report
from experiments.framework.reporting.tables import signed
from experiments.framework.trials import Trial, slug
from experiments.jobs import dan_table1 as jobs
from experiments.jobs.dan_table1 import DOMAINS, SET
from experiments.pages.dan_table2 import Accuracies, Beside, accuracy_table
from experiments.transfers import folders_of, last_and_oracle, over_tasks, paper_number, paper_table, weights_file

TRANSFERS = ("a2w", "d2w", "w2d", "a2d", "d2a", "w2a")  # in the paper's order
UNIFORM = "DAN, uniform weights"


@dataclass(frozen=True)
class Network:
    """A recipe of `dan.training.config` and what the rows need to know of its network.

    seven, eight: the layer before the logits, and the logits. every: the layers that DAN aligns. frozen: the last of
    the first stages that never change, "" for none. paper: the published table; rows: ours -> its; base: its row
    without adaptation; of: its network.
    """

    line: str
    recipe: str
    seven: str
    every: tuple[str, ...]
    frozen: str
    paper: str
    rows: Mapping[str, str]
    base: str
    of: str
    eight: str = "output"

    @property
    def backbone(self) -> str:
        return str(get_recipe(self.recipe).network["backbone"])


# The published rows of AlexNet have a name of our own each; of ResNet-50 there are two, with equal kernel weights.
NETWORKS = {
    "alexnet": Network(
        "AlexNet, the paper's recipe",
        "dan-2015",
        "fc7",
        ("fc6", "fc7", "output"),
        "conv3",
        "dan2015_table1_office31",
        {SOURCE_ONLY: "CNN"} | {row: row for row in ("DDC", "DAN_7", "DAN_8", "DAN_SK", DAN)},
        "CNN",
        "AlexNet",
    ),
    "resnet50": Network(
        "ResNet-50, common practice",
        "dan-resnet",
        "hidden1",
        ("hidden1", "output"),
        "",
        "office31_resnet50_tllib",
        {SOURCE_ONLY: "ERM", UNIFORM: "DAN"},
        "ERM",
        "ResNet-50, best epoch by target labels",
    ),
}


def rows_of(network: str) -> dict[str, dict[str, Any]]:
    """Every row of a network -> what it changes of the recipe."""
    made = NETWORKS[network]
    learned, every = {"kernel_weights": "qp"}, list(made.every)
    return {
        SOURCE_ONLY: {"align": every},  # trade-off 0: nothing is aligned
        "DDC": {"method": "ddc", "align": [made.seven], "kernel_weights": "uniform"},
        "DAN_7": {"align": [made.seven], **learned},
        "DAN_8": {"align": [made.eight], **learned},
        "DAN_SK": {"align": every, "num_kernels": 1, "kernel_weights": "uniform"},
        DAN: {"align": every, **learned},
        UNIFORM: {"align": every, "kernel_weights": "uniform"},
    }


ROWS = tuple(rows_of("alexnet"))


@dataclass(frozen=True)
class DanTable1(Options):
    """What is trained; a folder keeps one choice of these, and a finished trial is never run again."""

    NAME: ClassVar[str] = "dan_table1"
    QUICK: ClassVar[dict[str, Any]] = {
        "networks": ("alexnet",),
        "transfers": ("w2d",),
        "methods": (SOURCE_ONLY, DAN),
        "seeds": (0,),
        "steps": 20,
    }

    alexnet_weights: str = "DEFAULT"
    """ImageNet weights of AlexNet: a name, or a state-dict file, looked for in the folder of data sets too"""
    resnet50_weights: str = "DEFAULT"
    """the same for ResNet-50"""
    networks: tuple[str, ...] = tuple(NETWORKS)
    """these networks only"""
    transfers: tuple[str, ...] = TRANSFERS
    """these transfers only"""
    methods: tuple[str, ...] = ROWS
    """these rows only"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """one run of everything for each"""
    steps: int | None = None
    """training steps of every row (default: the recipe's: 20,000 for AlexNet, 10,000 for ResNet-50)"""
    trade_off: float = 1.0
    """lambda of every row but source-only"""
    image_size: int = 224
    """pixels a side"""
    device: str = "auto"
    """cpu, cuda, mps or auto"""
    workers: int = 1
    """trials at a time, one thread each: as many as the device has room for"""

    def check(self) -> None:
        from dan.devices import choose_device

        for flag, known in (("networks", tuple(NETWORKS)), ("transfers", TRANSFERS), ("methods", ROWS)):
            check_names(flag, getattr(self, flag), known, some=True)
        check_runs(self.seeds, 1 if self.steps is None else self.steps)
        if not 0 < self.trade_off < float("inf"):
            raise UserError(f"--trade-off must be above 0, not {self.trade_off}")
        choose_device(self.device)
        for network in self.networks:
            place_of(network, self)  # the data's folder and the weights' files are there
        for side in DOMAINS:
            if any(side in transfer.split("2") for transfer in self.transfers):
                domain_of(BENCHMARKS["office31"], side, data_folder(self.data))


# --- trials -----------------------------------------------------------------------------------------------------------


def place_of(network: str, config: DanTable1) -> dict[str, Any]:
    """The network and where its data lie, as `experiments.jobs.dan_table1.Place` has it."""
    made, data = NETWORKS[network], data_folder(config.data)
    said = config.alexnet_weights if network == "alexnet" else config.resnet50_weights
    return {
        "backbone": made.backbone,
        "frozen": made.frozen,
        "weights": weights_file(said, data),
        **folders_of(config),
        "image_size": config.image_size,
        "recipe": made.recipe,
        "layers": list(made.every),
        "device": config.device,
    }


def preparing(network: str, config: DanTable1) -> list[Trial]:
    """The trial that runs the frozen stages on every domain, so that no two workers do it at the same time."""
    if not NETWORKS[network].frozen:
        return []
    sides = sorted({side for transfer in config.transfers for side in transfer.split("2")})
    return [Trial(f"trunk-{network}", jobs.prepare, {"place": place_of(network, config), "sides": sides})]


def trial_of(network: str, transfer: str, row: str, seed: int, config: DanTable1) -> Trial:
    """The trial of one cell and seed."""
    arguments: dict[str, Any] = {"place": place_of(network, config), "transfer": transfer}
    arguments |= {"how": rows_of(network)[row], "trade_off": 0.0 if row == SOURCE_ONLY else config.trade_off}
    arguments |= {"steps": config.steps or get_recipe(NETWORKS[network].recipe).steps, "seed": seed}
    name = f"{network}-{transfer}-{slug(row)}-seed{seed}"
    return Trial(name, jobs.adapt, arguments, tuple(preparing(network, config)))


def cells(config: DanTable1) -> list[Cell]:
    """One cell a network, transfer and row; a network's are all run before those of the next."""
    made = []
    for network, transfer, row in product(config.networks, config.transfers, ROWS):
        if row in config.methods:
            paper = paper_number(
                paper_table(NETWORKS[network].paper), NETWORKS[network].rows.get(row, ""), column_of(transfer)
            )
            about = {"task": SET + transfer, "network": network, "method": row, "labels": 0, **paper}
            only = {"networks": network, "transfers": transfer, "methods": row}
            trials = [trial_of(network, transfer, row, seed, config) for seed in config.seeds]
            made.append(Cell(about=about, only=only, trials=trials, part=network))
    return made


def records_of(cell: Cell, trial: Trial, results: Results) -> list[Record]:
    """The evaluations, and the oracle's choice among them."""
    result = results[trial.name]
    shared = {**cell.about, "seed": trial.arguments["seed"], "selection": "", "weights": result["weights"]}
    return last_and_oracle(shared | {name: trial.arguments[name] for name in ("how", "trade_off", "steps")}, result)


# --- the report -------------------------------------------------------------------------------------------------------


def beside(made: Network) -> Beside:
    """Whose numbers stand below those of a network."""
    return Beside(made.paper, made.rows, made.of, made.base, SET)


def with_means(records: Sequence[Record]) -> list[Record]:
    """The records, and for each run of all six transfers one more for their mean, beside the published one."""
    made = list(records)
    for record in over_tasks(records, [SET + transfer for transfer in TRANSFERS], "mean"):
        network = NETWORKS[record["network"]]
        theirs = network.rows.get(record["method"], "")
        made.append(record | paper_number(paper_table(network.paper), theirs, "Avg"))
    return made


def networks_in(records: Sequence[Record]) -> list[str]:
    """The networks that have records, in order."""
    there = {record["network"] for record in records}
    return [network for network in NETWORKS if network in there]


def findings(records: Sequence[Record]) -> list[str]:
    """Sentences that the records decide: what DAN gains, what its parts are worth, the worst transfer."""
    found = Accuracies(records, prefix=SET)
    said = []
    for network in networks_in(records):
        made = NETWORKS[network]
        paper = paper_table(made.paper).values
        base, gain = found.mean(network, SOURCE_ONLY, "mean"), found.gain(network, DAN, "mean")
        if base is None or gain is None:
            continue
        gains = {task: value for task in TRANSFERS if (value := found.gain(network, DAN, task)) is not None}
        worst = min(gains, key=gains.__getitem__)
        theirs = next(row for row in (made.rows.get(DAN), made.rows.get(UNIFORM)) if row)
        published = paper[theirs]["Avg"] - paper[made.base]["Avg"]
        said.append(
            f"{made.line}: DAN gains {signed(gain)} points over its own source-only row on six transfers, {base:.1f} "
            f"to {base + gain:.1f} (published, {made.of}: {signed(published)}, {paper[made.base]['Avg']:.1f} to "
            f"{paper[theirs]['Avg']:.1f}). Its worst transfer is {column_of(worst)}, {signed(gains[worst])}."
        )
        equal = found.gain(network, UNIFORM, "mean")
        if equal is not None:
            said.append(
                f"{made.line}: learned kernel weights are worth {signed(gain - equal)} points over equal ones, as a "
                "mean over the six."
            )
    return said


def captions(records: Sequence[Record]) -> list[str]:
    """How the numbers were made, and whose the others are."""
    weights = sorted({record["weights"] for record in records if "weights" in record})
    trade_offs = sorted({f"{record['trade_off']:g}" for record in records if record.get("trade_off")})
    said = [
        "Accuracy in percent on all target images, mean ± standard deviation over n seeds, of the model after the last "
        "step (nothing is selected). gain: of the mean over source-only's; worst gain: of the transfer that gains "
        "least. oracle mean: what choosing the best of a run's evaluations by target labels would have given; it is no "
        "result.",
        f"All source images labelled, no target label; {len(DOMAINS)} domains of Office-31; trade-off "
        f"{', '.join(trade_offs) or '–'}. All rows of a seed start from the same weights and see the same source "
        f"batches. Weights of the trunks: {'; '.join(weights)}.",
    ]
    for network in networks_in(records):
        made, paper = NETWORKS[network], paper_table(NETWORKS[network].paper)
        steps = sorted({str(r["steps"]) for r in records if r["network"] == network and "steps" in r})
        said.append(
            f"{made.line}: recipe {made.recipe}, {' or '.join(steps)} steps; 7 is {made.seven}, 8 the logits; DAN "
            f"aligns {', '.join(made.every)}. Published rows: {paper.source} ({paper.provenance}); {made.of}."
        )
    return said


def report_of(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    everything = with_means(records)
    tables = [
        (NETWORKS[network].line, accuracy_table(everything, network, TRANSFERS, "mean", beside(NETWORKS[network])))
        for network in networks_in(records)
    ]
    return Report(
        title="Office-31: DAN's Table 1",
        findings=findings(everything),
        tables=tables,
        figures=[],
        captions=captions(records),
        rows=aggregate(everything),
    )


EXPERIMENT = Experiment(
    options=DanTable1,
    summary="Office-31, six transfers: DAN beside the paper's Table 1",
    cells=cells,
    report=report_of,
    records=records_of,
)
