"""What the experiments on Office-10 + Caltech-10 share: their options, their network, and how they are reported.

All are SqueezeNet 1.1 with dan_table2's bottleneck and logits, at the rate and the trade-off that dan_table2's search
chose on the frozen backbone without a target label; the model after the last step counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from dan.errors import UserError
from experiments.dan_table2 import DAN, OTHER_SIX, PAPER_SIX, SOURCE_ONLY, DanTable2, column_of
from experiments.dan_table2 import place_of as place_in_table2
from experiments.dan_table2 import rows as rows_in_table2
from experiments.framework.measurements import Row, row_of
from experiments.framework.options import Config, Options, check_names, check_runs
from experiments.framework.records import Record, read
from experiments.framework.reporting.tables import each
from experiments.framework.trials import Trial
from experiments.jobs.dan_table2 import BOTTLENECK, DROPOUT, SET, Place, load_train_config, prepare
from experiments.label_free_search import check_reported, choose
from experiments.transfers import HOME, machine, weights_label

NETWORK = "squeezenet1_1-frozen"  # as dan_table2 calls it: its search decides
TRANSFERS = ("c2w", "a2w")  # those of the paper's figure 3
# Without a search: the rate of the authors' release for new layers, 0.01, a tenth of it for a backbone, and the paper's
# middle trade-off.
RATE, TRADE_OFF = 1e-3, 1.0
PUBLISHED_SEARCH = HOME / "results" / "dan_table2"
NOTHING, EVERYTHING = "none", "pool"  # what is frozen: no stage; all of the backbone


# --- options ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TenClass(Options):
    """The options that all of them have. KNOWN: the transfers that can be named."""

    QUICK: ClassVar[Mapping[str, Any]] = {"transfers": ("d2w",), "seeds": (0,), "steps": 20}
    KNOWN: ClassVar[tuple[str, ...]] = PAPER_SIX + OTHER_SIX

    squeezenet_weights: str = "DEFAULT"
    """ImageNet weights of SqueezeNet 1.1: a name, or a state-dict file, looked for in the folder of data sets too"""
    transfers: tuple[str, ...] = TRANSFERS
    """transfers, such as: c2w a2w"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """one run of everything for each"""
    steps: int = 300
    """training steps of every run"""
    lr: float | None = None
    """learning rate of the trunk, a tenth of the new layers' (default: what the search chose)"""
    image_size: int = 224
    """pixels a side"""
    search: Path | None = None
    """folder of a run of dan_table2, whose search chose rate and trade-off (default: the published one)"""

    def check(self) -> None:
        check_names("transfers", self.transfers, self.KNOWN, some=True)
        check_runs(self.seeds, self.steps)
        check_reported(self.seeds)
        place_of(self)  # the data's folder and the weights' file are there

    def resolve(self: Config) -> tuple[Config, Record]:
        config, chosen_by = resolved(self)
        kept: Record = {name: getattr(config, name) for name in ("image_size", "lr", "steps")}
        return config, kept | {"chosen_by": chosen_by}


def resolved(config: Config) -> tuple[Config, str]:
    """(options with the rate, and the trade-off if there is one, filled in; who chose them).

    What the command line says stays. The rest is the choice of dan_table2's search on the frozen backbone, from the
    records that `search` names or the published ones; where there are none, RATE and TRADE_OFF. Raises UserError for
    records without that search.
    """
    missing = [name for name in ("lr", "trade_off") if getattr(config, name, 0.0) is None]
    if not missing:
        return config, "given on the command line"
    found, chosen_by = searched(getattr(config, "search", None))
    return replace(config, **{name: found[name] for name in missing}), chosen_by


@cache
def searched(search: Path | None) -> tuple[dict[str, Any], str]:
    """({"lr", "trade_off"}, who chose them): see `resolved`."""
    path = search or (PUBLISHED_SEARCH if PUBLISHED_SEARCH.is_dir() else None)
    if path is None:
        return {"lr": RATE, "trade_off": TRADE_OFF}, "defaults, for there was no search to take them from"
    chosen = choose(read(path)).get(NETWORK, {}).get(DAN)
    if chosen is None:
        raise UserError(f"{path} has no search for DAN on {NETWORK}: name the folder of a whole run of dan_table2")
    return chosen, "chosen by dan_table2's search, one set for its twelve transfers, no target label read"


# --- trials -----------------------------------------------------------------------------------------------------------


def place_of(config: TenClass, frozen: str = EVERYTHING) -> dict[str, Any]:
    """The network, frozen up to and with that stage, and where its data lie: `experiments.jobs.dan_table2.Place`."""
    told: dict[str, Any] = {"data": config.data, "image_cache": config.image_cache, "image_size": config.image_size}
    table2 = DanTable2(squeezenet_weights=config.squeezenet_weights, **told)
    return place_in_table2(NETWORK, table2) | {"frozen": frozen}


def how_of(row: str, config: TenClass) -> dict[str, Any]:
    """The recipe of a row of dan_table2 at the config's rate, evaluated once, after the last step."""
    return rows_in_table2()[row].how | {"lr": config.lr, "evaluate_every": config.steps}


def sides_of(config: TenClass) -> list[str]:
    """The domains of the transfers."""
    return sorted({side for transfer in config.transfers for side in transfer.split("2")})


def preparing(config: TenClass, frozen: str = EVERYTHING) -> Trial:
    """The trial that runs the frozen stages on every domain, so that no two workers do it at the same time."""
    arguments = {"place": place_of(config, frozen), "sides": sides_of(config), "held_out": 0.0}
    return Trial(f"trunk-{frozen}", prepare, arguments)


def training(
    name: str, function: Callable[..., Any], transfer: str, row: str, config: TenClass, seed: int, **more: Any
) -> Trial:
    """A trial that trains a row of dan_table2 (source-only: trade-off 0); `more` overrides its arguments."""
    trade_off = 0.0 if row == SOURCE_ONLY else getattr(config, "trade_off", None)
    arguments: dict[str, Any] = {"place": place_of(config), "transfer": transfer, "how": how_of(row, config)}
    arguments |= {"trade_off": trade_off, "steps": config.steps, "seed": seed, **more}
    frozen = arguments["place"]["frozen"]
    after = () if frozen == NOTHING else (preparing(config, frozen),)
    return Trial(f"{name}-{transfer}-seed{seed}", function, arguments, after)


def network(where: Place, task: Any, seed: int) -> Any:
    """`Place.network`, which freezes at least one stage; frozen up to NOTHING, none."""
    if where.frozen != NOTHING:
        return where.network(task, seed)
    model = replace(where, frozen=EVERYTHING).network(task, seed)
    model.freeze()
    return model


def adapt(
    folder: Path, *, place: dict[str, Any], transfer: str, how: dict[str, Any], trade_off: float, steps: int, seed: int
) -> dict[str, Any]:
    """A trial: train on the whole source, with whatever is frozen computed once."""
    from dan.training.trainer import fit

    where = Place(**place)
    task = where.task(transfer)
    model = network(where, task, seed)
    evaluations = fit(
        model,
        task.source,
        task.target,
        trade_off=trade_off,
        steps=steps,
        seed=seed,
        tests=task.splits,
        config=load_train_config(how, steps),
        # Seconds on a frozen trunk: made again rather than kept halfway.
        run=None if where.frozen == EVERYTHING else folder,
        metadata={"task": task.name, "frozen": where.frozen, "weights": weights_label(where.weights)},
        cache=where.backbones if model.cached_stages else False,
    )
    return {"evaluations": evaluations, **provenance_of(where)}


def provenance_of(where: Place) -> dict[str, Any]:
    """What a record says of the network's weights and of the machine."""
    return {"weights": weights_label(where.weights), "measured_on": machine()}


# --- the report -------------------------------------------------------------------------------------------------------


def about(transfer: str, method: str, **more: Any) -> Record:
    """What every record of a cell says."""
    return {"task": SET + transfer, "network": NETWORK, "method": method, "labels": 0, **more}


def measured(records: Iterable[Record], name: str, scale: float = 1.0) -> dict[tuple[str, str, str], dict[int, float]]:
    """(network, method, transfer) -> {seed: scale * value} of the selected records that hold `name`."""
    table: dict[tuple[str, str, str], dict[int, float]] = {}
    for record in records:
        if record.get("selection") and record.get(name) is not None:
            key = (record["network"], record["method"], record["task"].removeprefix(SET))
            table.setdefault(key, {})[record["seed"]] = scale * record[name]
    return table


def metric_rows(records: Sequence[Record], name: str, metric: str) -> list[Row]:
    """Rows of table.csv for a value that is no accuracy: its mean and spread over seeds, as it is."""
    first: dict[tuple[str, str, str], Record] = {}
    for record in records:
        if record.get("selection"):
            first.setdefault((record["network"], record["method"], record["task"].removeprefix(SET)), record)
    found = measured(records, name)
    return [row_of(first[key], by_seed.values(), split="target", metric=metric) for key, by_seed in found.items()]


def shared_captions(records: Sequence[Record]) -> list[str]:
    """What is true of all these experiments: the network, and who chose its hyper-parameters."""
    size, steps, rate, trade_offs = (each(records, n, "g") for n in ("image_size", "steps", "lr", "trade_off"))
    weights = "; ".join(sorted({record["weights"] for record in records if "weights" in record}))
    who = "; ".join(dict.fromkeys(record["chosen_by"] for record in records))
    return [
        f"SqueezeNet 1.1 ({weights}) at {size} pixels, a bottleneck of {BOTTLENECK} (dropout {DROPOUT}) and the "
        f"logits, {steps} steps. All runs of a seed start from the same weights and see the same source batches. Rate "
        f"{rate}, for new layers ten times that; trade-offs: {trade_offs} (0 is source-only). The rate, and a "
        f"trade-off that is not varied: {who}.",
    ]


def title_of(transfer: str) -> str:
    """How figures and tables call a transfer: C->W, 10-class."""
    return f"{column_of(transfer)}, 10-class"
