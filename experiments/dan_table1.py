"""DAN's Table 1 again: Office-31, six transfers, AlexNet as the paper trains it and ResNet-50 as is common practice.

    rows        source-only, DDC, DAN_7, DAN_8, DAN_SK, DAN, and DAN with uniform kernel weights in place of learned
    recipes     `dan-2015` and `dan-resnet` of `dan.training.config`, whole: a row changes what is aligned, by which
    kernels

The images are to be fetched from their publisher: the command says where, and what the folder is to look like.
Source: Long, Cao, Wang & Jordan, "Learning Transferable Features with Deep Adaptation Networks", ICML 2015, Table 1.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

if __package__ in (None, ""):  # python experiments/dan_table1.py puts this folder on the path, and not its parent
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from dan.cli.command_line import Command, run
from dan.data.benchmarks import BENCHMARKS, domain_of
from dan.data.paths import data_folder
from dan.errors import UserError
from dan.training.config import get_recipe
from experiments.dan_table2 import DAN, SOURCE_ONLY, column_of
from experiments.framework.options import Options, check_names, check_runs, command_of, reduced
from experiments.framework.records import Record, read
from experiments.framework.report import write_report
from experiments.framework.runner import run_experiment
from experiments.framework.trials import Trial, slug
from experiments.jobs import dan_table1 as jobs
from experiments.jobs.dan_table1 import DOMAINS, SET
from experiments.transfers import folders_of, last_and_oracle, paper_number, paper_table, weights_file

NAME = "dan_table1"
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

    NAME: ClassVar[str] = NAME
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


def parts_of(config: DanTable1) -> list[list[Trial]]:
    """A part a network and seed: if time runs out, the seeds that are done have all their columns."""
    return [
        [
            *preparing(network, config),
            *(trial_of(network, t, row, seed, config) for t in config.transfers for row in listed(config)),
        ]
        for network in config.networks
        for seed in config.seeds
    ]


def listed(config: DanTable1) -> list[str]:
    """The rows that are asked for, in the order of the table."""
    return [row for row in ROWS if row in config.methods]


# --- records ----------------------------------------------------------------------------------------------------------


def cell_records(config: DanTable1, results: Mapping[str, Any]) -> list[Record]:
    """The evaluations of all finished trials, and the oracle's choices among them."""
    records: list[Record] = []
    for network in config.networks:
        paper = paper_table(NETWORKS[network].paper)
        for transfer in config.transfers:
            for row in listed(config):
                about: Record = {"experiment": NAME, "task": SET + transfer, "network": network, "method": row}
                about |= {"labels": 0, **paper_number(paper, NETWORKS[network].rows.get(row, ""), column_of(transfer))}
                about |= {"command": command_of(config, networks=network, transfers=transfer, methods=row)}
                about |= {"command_of_all": command_of(config)}
                for seed in config.seeds:
                    trial = trial_of(network, transfer, row, seed, config)
                    if trial.name not in results:
                        continue
                    result, made = results[trial.name], trial.arguments
                    shared = {**about, "seed": seed, "selection": "", "weights": result["weights"]}
                    shared |= {key: made[key] for key in ("how", "trade_off", "steps")}
                    records += last_and_oracle(shared, result)
    return records


def run_table(config: DanTable1) -> int:
    """Train what is missing, seed by seed, and make the report after each; exit code 1 if a trial failed."""
    config = reduced(config)
    _check(config)
    return run_experiment(config, parts_of(config), lambda results: cell_records(config, results), report)


def _check(config: DanTable1) -> None:
    """The mistakes that would otherwise show only after minutes of training, a missing set among them."""
    from dan.devices import choose_device

    for flag, known in (("networks", tuple(NETWORKS)), ("transfers", TRANSFERS), ("methods", ROWS)):
        check_names(flag, getattr(config, flag), known, some=True)
    check_runs(config.seeds, 1 if config.steps is None else config.steps)
    if not 0 < config.trade_off < float("inf"):
        raise UserError(f"--trade-off must be above 0, not {config.trade_off}")
    choose_device(config.device)
    for network in config.networks:
        place_of(network, config)  # the data's folder and the weights' files are there
    for side in DOMAINS:
        if any(side in transfer.split("2") for transfer in config.transfers):
            domain_of(BENCHMARKS["office31"], side, data_folder(config.data))


def report(folder: Path) -> Path:
    """Make the tables and the page again from the folder's records; the path of the page."""
    from experiments.pages.dan_table1 import report_of

    records = read(folder)
    return write_report(folder, records, report_of(records))


COMMAND = Command(DanTable1, run_table, "Office-31, six transfers: DAN's Table 1 on AlexNet and ResNet-50")

if __name__ == "__main__":
    # By its own name, so that the module that reports and the one that trains are the same.
    from experiments.dan_table1 import COMMAND as ITSELF

    sys.exit(run(f"experiments/{NAME}.py", "DAN's Table 1.", {NAME: ITSELF}, [NAME, *sys.argv[1:]]))
