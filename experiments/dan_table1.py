"""DAN's Table 1 again: Office-31, six transfers, AlexNet as the paper trains it and ResNet-50 as is common practice.

    rows        source-only, DDC, DAN_7, DAN_8, DAN_SK, DAN, and DAN with uniform kernel weights in place of learned
    recipes     `dan-2015` and `dan-resnet` of `dan.training.config`, whole: a row changes what is aligned, by which
    kernels

The images are to be fetched from their publisher: the command says where, and what the folder is to look like.
Source: Long, Cao, Wang & Jordan, "Learning Transferable Features with Deep Adaptation Networks", ICML 2015, Table 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from dan.data.benchmarks import BENCHMARKS, domain_of
from dan.data.paths import data_folder
from dan.errors import UserError
from dan.training.config import get_recipe
from experiments import method_tables as tables
from experiments.framework.experiment import Cell, Experiment, grid
from experiments.framework.options import Options, check_names, check_runs
from experiments.framework.records import Record
from experiments.framework.report import Report
from experiments.framework.reporting.tables import signed
from experiments.framework.trials import Trial, slug
from experiments.method_tables import DAN, SOURCE_ONLY, Part, Published
from experiments.office_caltech10 import setup_with, sides_of, trial
from experiments.tasks import over_tasks, with_tuples

SET = "office31_"
TRANSFERS = ("a2w", "d2w", "w2d", "a2d", "d2a", "w2a")  # in the paper's order
UNIFORM = "DAN, uniform weights"


@dataclass(frozen=True)
class Network:
    """A recipe of `dan.training.config` and what the rows need to know of its network.

    every: the layers that DAN aligns, of which the last two are the layer before the logits (7) and the logits (8).
    frozen: the last of the first stages that never change, "" for none. paper: the published rows.
    """

    line: str
    recipe: str
    every: tuple[str, ...]
    frozen: str
    paper: Published


# The published rows of AlexNet have a name of our own each; of ResNet-50 there are two, with equal kernel weights.
NETWORKS = {
    "alexnet": Network(
        "AlexNet, the paper's recipe",
        "dan-2015",
        ("fc6", "fc7", "output"),
        "conv3",
        Published(
            "dan2015_table1_office31",
            "AlexNet",
            {SOURCE_ONLY: "CNN"} | {row: row for row in ("DDC", "DAN_7", "DAN_8", "DAN_SK", DAN)},
            tables.office_columns(TRANSFERS),
        ),
    ),
    "resnet50": Network(
        "ResNet-50, common practice",
        "dan-resnet",
        ("hidden1", "output"),
        "",
        Published(
            "office31_resnet50_tllib",
            "ResNet-50, best epoch by target labels",
            {SOURCE_ONLY: "ERM", UNIFORM: "DAN"},
            tables.office_columns(TRANSFERS),
        ),
    ),
}


def rows_of(network: str) -> dict[str, dict[str, Any]]:
    """Every row of a network -> what it changes of the recipe."""
    every = list(NETWORKS[network].every)
    learned, (seven, eight) = {"kernel_weights": "qp"}, every[-2:]
    return {
        SOURCE_ONLY: {"align": every},  # trade-off 0: nothing is aligned
        "DDC": {"method": "ddc", "align": [seven], "kernel_weights": "uniform"},
        "DAN_7": {"align": [seven], **learned},
        "DAN_8": {"align": [eight], **learned},
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
            setup_of(network, self)  # the data's folder and the weights' files are there
        for side in sides_of(self.transfers):
            domain_of(BENCHMARKS["office31"], side, data_folder(self.data))


# --- trials -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Setup(trial.Setup):
    """The network of a recipe of `dan.training.config`, every layer in `layers` of which can be aligned."""

    SET: ClassVar[str] = SET
    DOMAINS: ClassVar[tuple[str, ...]] = ("a", "d", "w")

    recipe: str
    layers: Sequence[str]

    def network(self, task: Any, seed: int) -> Any:
        """The same weights for the same seed, whatever the method: pre-trained ones, and new layers."""
        from dan.models.factory import build_network

        made = {**get_recipe(self.recipe).network, "pretrained": self.weights, "align": tuple(self.layers)}
        model = build_network(task, seed=seed, **made)
        trial.start_new_layers(model, seed)
        return model


def load_train_config(name: str, how: dict[str, Any], steps: int) -> Any:
    """The recipe of that name with what a row changes of it, from JSON, where tuples are lists."""
    recipe = get_recipe(name).recipe
    every = min(recipe.evaluate_every, steps)
    return replace(recipe, feature_map=False, evaluate_every=every, **with_tuples(how))


def prepare(_folder: Path, *, place: dict[str, Any], sides: list[str]) -> dict[str, Any]:
    """A trial: the outputs of the frozen stages on each domain, kept on the disk."""
    return trial.prepare_outputs(Setup(**place), sides)


def adapt(folder: Path, *, place: dict[str, Any], how: dict[str, Any], steps: int, **settings: Any) -> dict[str, Any]:
    """A trial of the table: train on the whole source. A killed one goes on from its checkpoint."""
    setup = Setup(**place)
    return trial.train(setup, folder, load_train_config(setup.recipe, how, steps), steps=steps, **settings)


def setup_of(network: str, config: DanTable1) -> dict[str, Any]:
    """The network and its data, as `Setup` has them."""
    made = NETWORKS[network]
    weights = {"alexnet": config.alexnet_weights, "resnet50": config.resnet50_weights}[network]
    place = setup_with(config, str(get_recipe(made.recipe).network["backbone"]), made.frozen, weights)
    return place | {"recipe": made.recipe, "layers": list(made.every), "device": config.device}


def trials_of(network: str, transfer: str, row: str, config: DanTable1) -> list[Trial]:
    """The trials of one cell, one a seed; frozen stages are run first, and once."""
    place, made = setup_of(network, config), NETWORKS[network]
    before = Trial(f"trunk-{network}", prepare, {"place": place, "sides": sides_of(config.transfers)})
    arguments: dict[str, Any] = {"place": place, "transfer": transfer, "how": rows_of(network)[row]}
    arguments |= {"trade_off": 0.0 if row == SOURCE_ONLY else config.trade_off}
    arguments |= {"steps": config.steps or get_recipe(made.recipe).steps}
    name, after = f"{network}-{transfer}-{slug(row)}-seed", (before,) if made.frozen else ()
    return [Trial(f"{name}{seed}", adapt, {**arguments, "seed": seed}, after) for seed in config.seeds]


def cells(config: DanTable1) -> list[Cell]:
    """One cell a network, transfer and row; a network's are all run before those of the next."""
    made = []
    for only, (network, transfer, row) in grid(config, "networks", "transfers", "methods"):
        about = {"task": SET + transfer, "network": network, "method": row, "labels": 0}
        about |= NETWORKS[network].paper.record(row, transfer)
        made.append(Cell(about=about, only=only, trials=trials_of(network, transfer, row, config), part=network))
    return made


# --- the report -------------------------------------------------------------------------------------------------------


def report(records: Sequence[Record]) -> Report:
    """The report, from records alone; means over all six transfers stand beside the published one."""
    everything, parts, said, recipes = list(records), [], [], []
    for network, made in NETWORKS.items():
        own = [record for record in records if record["network"] == network]
        means = over_tasks(own, [SET + transfer for transfer in TRANSFERS], "mean")
        everything += [mean | made.paper.record(mean["method"], "mean") for mean in means]
        parts.append(Part(made.line, own + means, TRANSFERS, SET, [made.paper]))
        learned, equal = (parts[-1].gain(method, "mean") for method in (DAN, UNIFORM))
        if learned is not None and equal is not None:
            said.append(f"{made.line}: learned kernel weights {signed(learned - equal)} points over equal ones.")
        aligned = f"7 is {made.every[-2]}, 8 the logits; DAN aligns {', '.join(made.every)}"
        recipes += [f"{made.line}: recipe {made.recipe}; {aligned}."] if own else []
    return tables.report_of("Office-31: DAN's Table 1", parts, everything, findings=said, captions=recipes)


EXPERIMENT = Experiment(
    options=DanTable1,
    summary="Office-31, six transfers: DAN beside the paper's Table 1",
    cells=cells,
    report=report,
    records=tables.records_of,
)
