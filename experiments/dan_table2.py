"""DAN's Table 2 again: Office-10 + Caltech-10, 12 transfers, SqueezeNet 1.1 and MobileNetV2 beside the paper's AlexNet.

1. search     hyper-parameters of each network, one set for all transfers, without a target label, on frozen trunks and
              a seed that is not reported:
                  rate         the lowest mean over transfers of source-only's cross-entropy on held-out source
                  trade-off    the lowest mean over transfers of   err_source + max(0, 1 - 2 err_two_sample)
2. frozen     every method on both frozen trunks (computed once, seconds a run), and logistic regression as the floor
3. fine-tuned source-only and DAN with the trunk's last blocks trained, the rest computed once: SqueezeNet on the
              paper's six transfers, then the other six; MobileNetV2 on the paper's six
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dan.cli.command_line import Command
from dan.data.paths import data_folder
from dan.errors import UserError
from experiments.framework.options import Options, check_names, check_runs, one_line, reduced, words_of
from experiments.framework.records import Record, read
from experiments.framework.report import write_report
from experiments.framework.runner import run_experiment
from experiments.framework.trials import Trial, slug
from experiments.jobs import dan_table2 as jobs
from experiments.jobs.dan_table2 import SET
from experiments.label_free_search import (
    SEARCH_SEED as SEARCH_SEED,  # others take it from here
)
from experiments.label_free_search import Point, Searched, check_reported, choose, earlier, records_of, search
from experiments.transfers import folders_of, last_and_oracle, paper_number, paper_table, weights_file

NAME = "dan_table2"
PAPER = "dan2015_table2_office_caltech10"
PAPER_SIX = ("a2c", "w2c", "d2c", "c2a", "c2w", "c2d")  # in the paper's order
OTHER_SIX = ("a2w", "d2w", "w2d", "a2d", "d2a", "w2a")
SOURCE_ONLY, DAN, FLOOR = "source-only", "DAN", "logistic regression"


@dataclass(frozen=True)
class Network:
    """A trunk that is computed once up to and with the stage `frozen`, and trained from there on."""

    line: str
    backbone: str
    frozen: str = "pool"
    transfers: tuple[str, ...] = PAPER_SIX + OTHER_SIX

    @property
    def searched_on(self) -> str:
        """The network whose search decides this one's hyper-parameters: the same with its trunk frozen."""
        return f"{self.backbone}-frozen"

    @property
    def trains(self) -> bool:
        """Some of the trunk is trained: minutes a run, where the frozen trunk's runs take seconds."""
        return self.frozen != "pool"


# By the names that records have, in the order in which they are trained.
NETWORKS = {
    "squeezenet1_1-frozen": Network("SqueezeNet 1.1, frozen", "squeezenet1_1"),
    "mobilenet_v2-frozen": Network("MobileNetV2, frozen", "mobilenet_v2"),
    "squeezenet1_1": Network("SqueezeNet 1.1, fire9 fine-tuned", "squeezenet1_1", "fire8"),
    "mobilenet_v2": Network("MobileNetV2, its last two blocks fine-tuned", "mobilenet_v2", "block16", PAPER_SIX),
}


@dataclass(frozen=True)
class Row:
    """A line of the table: a method of `dan.losses`, the layers that it aligns (7, the bottleneck, is "hidden1" and
    8, the logits, "output") and what else its recipe says. searched: the row whose chosen values it is trained with."""

    method: str
    align: tuple[str, ...] = ("hidden1", "output")
    options: tuple[tuple[str, Any], ...] = ()
    searched: str = DAN

    @property
    def how(self) -> dict[str, Any]:
        return {"method": self.method, "align": list(self.align), **dict(self.options)}


PAPER_LIKE = {
    SOURCE_ONLY: Row("dan", searched=SOURCE_ONLY),  # trade-off 0: no method
    "DDC": Row("ddc", ("hidden1",)),
    "DAN_7": Row("dan", ("hidden1",)),
    "DAN_8": Row("dan", ("output",)),
    "DAN_SK": Row("dan", options=(("num_kernels", 1),)),
    "DAN": Row("dan"),
    "DAN, QP weights": Row("dan", options=(("kernel_weights", "qp"),)),
}
# Our rows -> the paper's. Its DAN learns kernel weights, and so has two rows here.
PAPER_ROWS = {name: name for name in PAPER_LIKE} | {SOURCE_ONLY: "CNN", "DAN, QP weights": "DAN"}

# Of the search. New layers learn 10 times faster than the trunk, so these are tenths of a bottleneck's rate.
RATES = (1e-4, 3e-4, 1e-3, 3e-3)
HELD_OUT = 0.2  # share of the source that is not trained on, but judged on


@dataclass(frozen=True)
class DanTable2(Options):
    """What is trained; a folder keeps one choice of these, and a finished trial is never run again."""

    NAME: ClassVar[str] = NAME
    QUICK: ClassVar[dict[str, Any]] = {
        "networks": ("squeezenet1_1-frozen", "squeezenet1_1"),
        "transfers": ("c2w",),
        "methods": (SOURCE_ONLY, DAN),
        "seeds": (0,),
        "steps": 30,
    }

    squeezenet_weights: str = "DEFAULT"
    """ImageNet weights of SqueezeNet 1.1: a name, or a state-dict file, looked for in the folder of data sets too"""
    mobilenet_weights: str = "DEFAULT"
    """the same for MobileNetV2"""
    networks: tuple[str, ...] = tuple(NETWORKS)
    """these networks only"""
    transfers: tuple[str, ...] = PAPER_SIX + OTHER_SIX
    """these transfers only"""
    methods: tuple[str, ...] = ()
    """these rows only (default: all)"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """one run of everything for each"""
    steps: int = 300
    """training steps of every row"""
    image_size: int = 224
    """pixels a side"""
    search: Path | None = None
    """folder of an earlier run, whose search is taken instead of making one"""


def command_of(config: DanTable2, **only: str) -> str:
    """As `experiments.framework.options.command_of`, and --search is told, whose choice decides the numbers."""
    return one_line(words_of(config, **only))


def rows() -> dict[str, Row]:
    """Every row that is trained: the paper's, then each further method that `dan.losses` has, but for mme, which is
    made for a few target labels."""
    from dan.losses import METHODS

    return PAPER_LIKE | {name: Row(name, searched=name) for name in METHODS if name not in ("dan", "ddc", "mme")}


def rows_of(network: str, config: DanTable2) -> list[str]:
    """The rows of a network, in order: the two that matter where a run takes minutes, all where it takes seconds."""
    listed = [SOURCE_ONLY, DAN] if NETWORKS[network].trains else [FLOOR, *rows()]
    return [row for row in listed if row in (config.methods or listed)]


def networks_of(config: DanTable2) -> list[str]:
    """The networks that have something to train, in order."""
    wanted = [name for name in NETWORKS if name in config.networks]
    return [name for name in wanted if transfers_of(name, config) and rows_of(name, config)]


def transfers_of(network: str, config: DanTable2) -> list[str]:
    """The transfers of a network, the paper's six first."""
    return [transfer for transfer in NETWORKS[network].transfers if transfer in config.transfers]


# --- the trials -------------------------------------------------------------------------------------------------------


def place_of(network: str, config: DanTable2) -> dict[str, Any]:
    """The network and where its data lie, as `experiments.jobs.dan_table2.Place` has it."""
    made, data = NETWORKS[network], data_folder(config.data)
    said = config.squeezenet_weights if made.backbone == "squeezenet1_1" else config.mobilenet_weights
    return {
        "backbone": made.backbone,
        "frozen": made.frozen,
        "weights": weights_file(said, data),
        **folders_of(config),
        "image_size": config.image_size,
    }


def preparing(network: str, config: DanTable2, held_out: float = 0.0) -> Trial:
    """The trial that runs the frozen stages on every domain, so that no two workers do it at the same time."""
    sides = sorted({side for transfer in transfers_of(network, config) for side in transfer.split("2")})
    arguments = {"place": place_of(network, config), "sides": sides, "held_out": held_out}
    return Trial(f"trunk-{network}" + ("-held-out" if held_out else ""), jobs.prepare, arguments)


def searched_networks(config: DanTable2) -> list[str]:
    """The frozen networks that are searched on, so that all networks asked for can be trained."""
    return list(dict.fromkeys(NETWORKS[network].searched_on for network in networks_of(config)))


def searched_rows(network: str, config: DanTable2) -> list[str]:
    """The rows that are searched for on a frozen network, source-only first: its rate is everybody's."""
    wanted = [n for n in networks_of(config) if NETWORKS[n].searched_on == network]
    listed = [rows()[row].searched for n in wanted for row in rows_of(n, config) if row != FLOOR]
    return list(dict.fromkeys([SOURCE_ONLY, *listed]))


def searching(
    network: str, row: str, points: Sequence[tuple[float, float]], config: DanTable2
) -> dict[tuple[float, float, str], Trial]:
    """The trials of a search by (trade-off, rate, transfer); points: (trade-off, rate)."""
    trials = {}
    for trade_off, rate in points:
        for transfer in transfers_of(network, config):
            arguments: dict[str, Any] = {"place": place_of(network, config), "transfer": transfer}
            arguments |= {"how": rows()[row].how | {"lr": rate}, "trade_off": trade_off, "steps": config.steps}
            arguments |= {"seed": SEARCH_SEED, "held_out": HELD_OUT}
            after = tuple(_prepared_search(network, config))
            name = f"search-{network}-{transfer}-{slug(row)}-{trade_off:g}-{rate:g}"
            trials[trade_off, rate, transfer] = Trial(name, jobs.score, arguments, after)
    return trials


def _prepared_search(network: str, config: DanTable2) -> list[Trial]:
    return [preparing(network, config, HELD_OUT), preparing(network, config)]


def groups(config: DanTable2, choice: dict[str, Any]) -> dict[str, list[Trial]]:
    """The trials of the table in groups, in order: frozen trunks, what the cache is worth, fine-tuned networks."""
    named: dict[str, list[Trial]] = {}
    for network in networks_of(config):
        if not NETWORKS[network].trains:
            cells = [(transfer, row) for transfer in transfers_of(network, config) for row in rows_of(network, config)]
            named[network] = [
                trial for transfer, row in cells for trial in cell(network, transfer, row, config, choice)
            ]
    for network in networks_of(config):
        chosen = choice[NETWORKS[network].searched_on].get(DAN)
        named.setdefault("cache", []).extend([_comparing_cache(network, config, chosen)] if chosen else [])
    for network in networks_of(config):
        if NETWORKS[network].trains:
            for title, six in (("the paper's six", PAPER_SIX), ("the other six", OTHER_SIX)):
                # Seed by seed: if time runs out, the seeds that are done have all their columns.
                named[f"{network}, {title}"] = [
                    trial
                    for seed in config.seeds
                    for transfer in transfers_of(network, config)
                    if transfer in six
                    for row in rows_of(network, config)
                    for trial in cell(network, transfer, row, config, choice)
                    if trial.arguments["seed"] == seed
                ]
    return {title: trials for title, trials in named.items() if trials}


def cell(network: str, transfer: str, row: str, config: DanTable2, choice: dict[str, Any]) -> list[Trial]:
    """The trials of one cell of the table: one a seed; one in all for logistic regression, which draws nothing."""
    arguments: dict[str, Any] = {"place": place_of(network, config), "transfer": transfer}
    name, after = f"{network}-{transfer}-{slug(row)}", (preparing(network, config),)
    if row == FLOOR:
        return [Trial(name, jobs.floor, arguments, after)]
    chosen = choice[NETWORKS[network].searched_on][rows()[row].searched]
    arguments |= {"how": rows()[row].how | {"lr": chosen["lr"]}, "trade_off": chosen["trade_off"]}
    arguments |= {"steps": config.steps}
    return [Trial(f"{name}-seed{seed}", jobs.adapt, {**arguments, "seed": seed}, after) for seed in config.seeds]


def _comparing_cache(network: str, config: DanTable2, chosen: dict[str, Any]) -> Trial:
    first = transfers_of(network, config)[0]
    arguments: dict[str, Any] = {"place": place_of(network, config), "transfer": first, "seed": 0}
    arguments |= {"how": rows()[DAN].how | {"lr": chosen["lr"]}, "trade_off": chosen["trade_off"]}
    return Trial(f"cache-{network}", jobs.compare_cache, arguments, (preparing(network, config),))


# --- the search -------------------------------------------------------------------------------------------------------


def search_records(config: DanTable2) -> list[Record]:
    """The records of the search, one a trial: made now, or read from the earlier run that `search` names."""
    needed = {network: searched_rows(network, config) for network in searched_networks(config)}
    if config.search is not None:
        return earlier(config.search, [(network, row) for network, listed in needed.items() for row in listed])
    prepared = [trial for network in needed for trial in _prepared_search(network, config)]

    def tried(points: Mapping[Searched, Sequence[Point]]) -> list[Record]:
        trials = {
            ((network, row), (trade_off, rate), SET + transfer): trial
            for (network, row), listed in points.items()
            for (trade_off, rate, transfer), trial in searching(network, row, listed, config).items()
        }
        return records_of(config, trials, prepared=prepared, command=command_of(config))

    return search(needed, RATES[1:3] if config.quick else RATES, tried, quick=config.quick)


# --- records ----------------------------------------------------------------------------------------------------------


def column_of(transfer: str) -> str:
    """The paper's name of a transfer: a2c is A->C."""
    return "->".join(transfer.upper().split("2"))


def cell_records(config: DanTable2, choice: dict[str, Any], results: Mapping[str, Any]) -> list[Record]:
    """The evaluations of all finished trials, and the oracle's choices among them."""
    paper = paper_table(PAPER)
    records: list[Record] = []
    for network in networks_of(config):
        cells = [(transfer, row) for transfer in transfers_of(network, config) for row in rows_of(network, config)]
        for transfer, row in cells:
            about: Record = {"experiment": NAME, "task": SET + transfer, "network": network, "method": row, "labels": 0}
            about |= paper_number(paper, PAPER_ROWS.get(row, ""), column_of(transfer))
            about |= {"command": command_of(config, networks=network, transfers=transfer, methods=row)}
            about["command_of_all"] = command_of(config)
            for trial in cell(network, transfer, row, config, choice):
                if trial.name not in results:
                    continue
                result, made = results[trial.name], trial.arguments
                shared = {**about, "seed": made.get("seed", 0), "selection": "", "weights": result["weights"]}
                shared |= {key: made[key] for key in ("how", "trade_off", "steps") if key in made}
                records += last_and_oracle(shared, result)
    return records


def cache_records(config: DanTable2, results: Mapping[str, Any]) -> list[Record]:
    """What the cache was measured to be worth on each network, and what filling it took."""
    records = []
    for network in networks_of(config):
        if f"cache-{network}" in results:
            record: Record = {"experiment": NAME, "phase": "cache", "network": network, "method": DAN, "labels": 0}
            record |= {"task": SET + transfers_of(network, config)[0], "seed": 0, "selection": ""}
            record |= {
                "command": command_of(config),
                "command_of_all": command_of(config),
                "filling": results[f"trunk-{network}"]["domains"],
            }
            measured = {k: v for k, v in results[f"cache-{network}"].items() if k != "measured_on"}
            records.append(record | measured | results[f"cache-{network}"]["measured_on"])
    return records


def run_table(config: DanTable2) -> int:
    """Train what is missing, group by group, and make the report after each; exit code 1 if a trial failed."""
    config = reduced(config)
    _check(config)
    searched = search_records(config)
    choice = choose(searched)

    def all_records(results: Mapping[str, Any]) -> list[Record]:
        return cell_records(config, choice, results) + cache_records(config, results) + searched

    return run_experiment(config, groups(config, choice), all_records, report)


def _check(config: DanTable2) -> None:
    """The mistakes that would otherwise show only after minutes of training."""
    check_names("networks", config.networks, list(NETWORKS))
    check_names("transfers", config.transfers, [*PAPER_SIX, *OTHER_SIX])
    check_names("methods", config.methods, [FLOOR, *rows()])
    check_runs(config.seeds, config.steps)
    check_reported(config.seeds)
    if not networks_of(config):
        raise UserError("nothing is left to train: no network has these rows on these transfers")
    for network in networks_of(config):
        place_of(network, config)  # the data's folder and the weights' files are there


def report(folder: Path) -> Path:
    """Make the tables and the page again from the folder's records; the path of the page."""
    from experiments.pages.dan_table2 import report_of

    records = read(folder)
    return write_report(folder, records, report_of(records))


COMMAND = Command(DanTable2, run_table, "Office-10 + Caltech-10, 12 transfers: source-only, DAN and the other methods")
