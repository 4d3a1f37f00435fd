"""What the experiments on Office-10 + Caltech-10 share: options, trials and captions. `trial` has what a trial does.

Five of them are SqueezeNet 1.1 with dan_table2's bottleneck and logits, at the rate and the trade-off that dan_table2's
search chose on the frozen backbone without a target label; the model after the last step counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from dan.data.paths import data_folder
from dan.errors import UserError
from experiments.framework.experiment import Cell
from experiments.framework.measurements import Row as CsvRow
from experiments.framework.measurements import by_seed, row_of
from experiments.framework.options import Options, check_names, check_runs
from experiments.framework.records import Record, read
from experiments.framework.reporting.tables import each
from experiments.framework.trials import Trial
from experiments.label_free_search import check_reported, choose
from experiments.method_tables import DAN, SOURCE_ONLY, Row, column_of
from experiments.office_caltech10.trial import BOTTLENECK, DROPOUT, EVERYTHING, NOTHING, SET, prepare
from experiments.tasks import HOME, folders_of, weights_file

PAPER_SIX = ("a2c", "w2c", "d2c", "c2a", "c2w", "c2d")  # of the DAN paper's Table 2, in its order
OTHER_SIX = ("a2w", "d2w", "w2d", "a2d", "d2a", "w2a")
NETWORK = "squeezenet1_1-frozen"  # as dan_table2 calls it: its search decides
# Without a search: the rate of the authors' release for new layers, 0.01, a tenth of it for a backbone, and the paper's
# middle trade-off.
RATE, TRADE_OFF = 1e-3, 1.0
PUBLISHED_SEARCH = HOME / "results" / "dan_table2"

BOTH = ("hidden1", "output")  # 7, the bottleneck, and 8, the logits
PAPER_LIKE = {
    SOURCE_ONLY: Row("dan", BOTH, searched=SOURCE_ONLY),  # trade-off 0: no method
    "DDC": Row("ddc", ("hidden1",)),
    "DAN_7": Row("dan", ("hidden1",)),
    "DAN_8": Row("dan", ("output",)),
    "DAN_SK": Row("dan", BOTH, {"num_kernels": 1}),
    DAN: Row("dan", BOTH),
    "DAN, QP weights": Row("dan", BOTH, {"kernel_weights": "qp"}),
}


@dataclass(frozen=True)
class TenClass(Options):
    """The options that the five have. KNOWN: the transfers that can be named."""

    QUICK: ClassVar[Mapping[str, Any]] = {"transfers": ("d2w",), "seeds": (0,), "steps": 20}
    KNOWN: ClassVar[tuple[str, ...]] = PAPER_SIX + OTHER_SIX

    squeezenet_weights: str = "DEFAULT"
    """ImageNet weights of SqueezeNet 1.1: a name, or a state-dict file, looked for in the folder of data sets too"""
    transfers: tuple[str, ...] = ("c2w", "a2w")
    """transfers, such as: c2w a2w"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """one run of everything for each"""
    steps: int = 300
    """training steps of every run"""
    lr: float | None = None
    """learning rate of the backbone, a tenth of the new layers' (default: what the search chose)"""
    image_size: int = 224
    """pixels a side"""
    search: Path | None = None
    """folder of a run of dan_table2, whose search chose rate and trade-off (default: the published one)"""

    def check(self) -> None:
        check_names("transfers", self.transfers, self.KNOWN, some=True)
        check_runs(self.seeds, self.steps)
        check_reported(self.seeds)
        setup_of(self)  # the data's folder and the weights' files are there

    def resolve(self: Config) -> tuple[Config, Record]:
        """The rate and the trade-off are dan_table2's choice on the frozen backbone, but for those that are given."""
        missing = [name for name in ("lr", "trade_off") if getattr(self, name, 0.0) is None]
        found, chosen_by = searched(self.search) if missing else ({}, "given on the command line")
        config = replace(self, **{name: found[name] for name in missing})
        kept: Record = {name: getattr(config, name) for name in ("image_size", "lr", "steps")}
        return config, kept | {"chosen_by": chosen_by}


Config = TypeVar("Config", bound=TenClass)


@cache
def searched(search: Path | None) -> tuple[dict[str, Any], str]:
    """({"lr", "trade_off"}, who chose them), from the records that `search` names or the published ones; RATE and
    TRADE_OFF where there are none. Raises UserError for records without a search of DAN."""
    path = search or (PUBLISHED_SEARCH if PUBLISHED_SEARCH.is_dir() else None)
    if path is None:
        return {"lr": RATE, "trade_off": TRADE_OFF}, "defaults, for there was no search to take them from"
    chosen = choose(read(path)).get(NETWORK, {}).get(DAN)
    if chosen is None:
        raise UserError(f"{path} has no search for DAN on {NETWORK}: name the folder of a whole run of dan_table2")
    return chosen, "chosen by dan_table2's search, one set for its twelve transfers, no target label read"


# --- trials -----------------------------------------------------------------------------------------------------------


def setup_with(config: Any, backbone: str, frozen: str, weights: str) -> dict[str, Any]:
    """A network and its data, as `trial.Setup` has them in a trial's arguments."""
    made = {"backbone": backbone, "frozen": frozen, "weights": weights_file(weights, data_folder(config.data))}
    return made | folders_of(config) | {"image_size": config.image_size}


def setup_of(config: TenClass, frozen: str = EVERYTHING) -> dict[str, Any]:
    """SqueezeNet, frozen up to and with that stage."""
    return setup_with(config, "squeezenet1_1", frozen, config.squeezenet_weights)


def sides_of(transfers: Iterable[str]) -> list[str]:
    """The domains of the transfers."""
    return sorted({side for transfer in transfers for side in transfer.split("2")})


def how_of(row: str, config: TenClass) -> dict[str, Any]:
    """How a row of dan_table2 is trained at the config's rate, evaluated once, after the last step."""
    return PAPER_LIKE[row].how | {"lr": config.lr, "evaluate_every": config.steps}


def training(
    name: str, function: Callable[..., Any], transfer: str, row: str, config: TenClass, **more: Any
) -> list[Trial]:
    """The trials that train a row of dan_table2, one a seed (source-only: trade-off 0); `more` overrides arguments."""
    trade_off = 0.0 if row == SOURCE_ONLY else getattr(config, "trade_off", None)
    arguments: dict[str, Any] = {"place": setup_of(config), "transfer": transfer, "how": how_of(row, config)}
    arguments |= {"trade_off": trade_off, "steps": config.steps, **more}
    place = arguments["place"]
    # The frozen stages are run first, so that no two workers do it at the same time.
    prepared = {"place": place, "sides": sides_of(config.transfers), "held_out": 0.0}
    after = () if place["frozen"] == NOTHING else (Trial(f"trunk-{place['frozen']}", prepare, prepared),)
    names = {seed: f"{name}-{transfer}-seed{seed}" for seed in config.seeds}
    return [Trial(names[seed], function, {**arguments, "seed": seed}, after) for seed in config.seeds]


def cell_of(only: Mapping[str, Any], transfer: str, method: str, trials: Sequence[Trial], **more: Any) -> Cell:
    """A cell with what every record of it says; `more` overrides."""
    about = {"task": SET + transfer, "network": NETWORK, "method": method, "labels": 0}
    return Cell(about=about | {"trade_off": trials[0].arguments["trade_off"], **more}, only=only, trials=trials)


# --- the report -------------------------------------------------------------------------------------------------------


def transfers_in(records: Iterable[Record]) -> list[str]:
    """The transfers of the records, in order."""
    return list(dict.fromkeys(record["task"].removeprefix(SET) for record in records))


def measured(records: Iterable[Record], name: str, scale: float = 1.0) -> dict[tuple[str, str, str], dict[int, float]]:
    """(network, method, transfer) -> {seed: scale * value} of the selected records that hold `name`."""
    found = by_seed(records, name, scale)
    return {(network, method, task.removeprefix(SET)): values for (network, method, task), values in found.items()}


def metric_rows(records: Sequence[Record], name: str, metric: str) -> list[CsvRow]:
    """Rows of table.csv for a value that is no accuracy: its mean and spread over seeds, as it is."""
    keys = ("network", "method", "task")
    first = {tuple(r[key] for key in keys): r for r in reversed(records) if r.get("selection")}
    found = by_seed(records, name, of=keys)
    return [row_of(first[key], values.values(), split="target", metric=metric) for key, values in found.items()]


def shared_captions(records: Sequence[Record]) -> list[str]:
    """What is true of all these experiments: the network, and who chose its hyper-parameters."""
    size, steps, rate, trade_offs = (each(records, n, "g") for n in ("image_size", "steps", "lr", "trade_off"))
    weights = "; ".join(sorted({record["weights"] for record in records if "weights" in record}))
    who = "; ".join(dict.fromkeys(record["chosen_by"] for record in records))
    return [
        f"SqueezeNet 1.1 ({weights}) at {size} pixels, a bottleneck of {BOTTLENECK} (dropout {DROPOUT}) and the "
        f"logits, {steps} steps; the model after the last step. All runs of a seed start from the same weights and see "
        f"the same source batches. Rate {rate}, for new layers ten times that; trade-offs: {trade_offs} (0 is "
        f"source-only). The rate, and a trade-off that is not varied: {who}.",
    ]


def title_of(transfer: str) -> str:
    """How figures and tables call a transfer: C->W, 10-class."""
    return f"{column_of(transfer)}, 10-class"
