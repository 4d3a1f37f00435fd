"""AIFT and continual fine-tuning on nuclei of colon tissue, in the layout of the paper's Table 4: which nucleus next?

    a curve: M_0, then `rounds` times: ask for `budget` nuclei, train on their patches, AUC on other patients

Rows are training codes, columns selection codes, and random beside them. All curves of a seed share the patients, the
pool, the views and M_0, so differences are taken seed by seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from active.aift_training import TRAINING_CODES
from active.strategies.aift import CODES
from dan.cli.command_line import Command
from dan.data.colon import PARTS, SIZE, nuclei
from dan.data.paths import cache_folder, data_folder
from dan.errors import UserError
from experiments.framework.options import Options, check_least, check_names, check_runs, command_of, reduced
from experiments.framework.records import Record, read
from experiments.framework.report import write_report
from experiments.framework.runner import run_experiment
from experiments.framework.trials import Trial, slug
from experiments.jobs import aift as jobs
from experiments.jobs.aift import ENLARGED
from experiments.tasks import folders_of, weights_file

NAME = "aift"
RANDOM, RFT = "random", "RFT"
PAPER_CODES = CODES[:8]  # D and E; the last four are both at once
TRAININGS = tuple(code for code in TRAINING_CODES if code != RFT)  # RFT is random with AFT(LQ)
TRADE_OFF, START_STEPS = 1.0, 500  # of a transfer


@dataclass(frozen=True)
class Aift(Options):
    """What is trained; a folder keeps one choice of these, and a finished trial is never run again."""

    NAME: ClassVar[str] = NAME
    QUICK: ClassVar[dict[str, Any]] = {
        "selections": (RANDOM, "E+M+R"),
        "trainings": ("AFT(LQ)", "ACFT(HQ)"),
        "seeds": (0,),
        "pool": 60,
        "test": 60,
        "views": 3,
        "budget": 5,
        "rounds": 2,
        "steps": 5,
    }

    setting: Literal["scratch", "transfer"] = "scratch"
    """scratch: the first part's patients, from a network that has learned nothing; transfer: from one that has learned
    them, to the second part's"""
    network: Literal["lenet", "squeezenet1_1"] = "lenet"
    """lenet: two convolutions from scratch; squeezenet1_1: ImageNet's weights, the first half frozen"""
    weights: str | None = None
    """ImageNet weights of SqueezeNet 1.1: a name, or a state-dict file, looked for in the folder of data sets too"""
    selections: tuple[str, ...] = (RANDOM, *PAPER_CODES)
    """these columns only; D+E, D+E+M, D+E+R and D+E+M+R are there too"""
    trainings: tuple[str, ...] = TRAININGS
    """these rows only"""
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """one curve of everything for each; seed 0 was looked at while the sizes were settled"""
    pool: int = 800
    """nuclei that can be asked for"""
    test: int = 600
    """nuclei of other patients"""
    views: int = 8
    """patches of each nucleus"""
    budget: int = 20
    """nuclei asked for at a time"""
    rounds: int = 8
    """purchases"""
    steps: int = 80
    """training steps after each purchase, for every code"""
    start_steps: int | None = None
    """training steps of M_0 on the source, in a transfer (default: 500)"""
    trade_off: float | None = None
    """lambda of the alignment with the source, in a transfer (default: 1)"""


def method_of(selection: str, training: str) -> str:
    """What a cell is called in records."""
    return RFT if (selection, training) == (RANDOM, "AFT(LQ)") else f"{selection}, {training}"


def cells_of(config: Aift) -> list[tuple[str, str]]:
    """(selection, training) of every cell that is asked for, in the order of the table."""
    listed = [RANDOM, *CODES]
    return [(s, t) for t in TRAININGS if t in config.trainings for s in listed if s in config.selections]


# --- trials -----------------------------------------------------------------------------------------------------------


def trial_of(selection: str, training: str, config: Aift, seed: int) -> Trial:
    """One curve."""
    arguments = _shared(config, seed) | {"setting": config.setting, "selection": selection}
    arguments |= {"training": RFT if method_of(selection, training) == RFT else training}
    arguments |= {"budget": config.budget, "rounds": config.rounds, "steps": config.steps}
    after: tuple[Trial, ...] = ()
    if config.setting == "transfer":
        after = (start_of(config, seed),)
        arguments |= {"start": after[0].name, "trade_off": trade_off_of(config)}
    return Trial(_name(f"{selection}-{training}", seed), jobs.curve, arguments, after)


def start_of(config: Aift, seed: int) -> Trial:
    """M_0 of a transfer."""
    steps = START_STEPS if config.start_steps is None else config.start_steps
    arguments = _shared(config, seed) | {"trade_off": trade_off_of(config), "steps": steps}
    return Trial(_name("start", seed), jobs.start, arguments)


def trade_off_of(config: Aift) -> float:
    """lambda of a transfer."""
    return TRADE_OFF if config.trade_off is None else config.trade_off


def parts_of(config: Aift) -> list[list[Trial]]:
    """A part a seed: if time runs out, the seeds that are done have all their cells."""
    parts = []
    for seed in config.seeds:
        trials = [start_of(config, seed)] if config.setting == "transfer" else []
        parts.append(trials + [trial_of(*cell, config, seed) for cell in cells_of(config)])
    return parts


def _shared(config: Aift, seed: int) -> dict[str, Any]:
    place = folders_of(config)
    if config.network != "lenet":
        place["weights"] = weights_file(config.weights or "DEFAULT", Path(place["data"]))
    sizes = {"pool": config.pool, "test": config.test, "views": config.views}
    return {"place": place, "backbone": config.network, "sizes": sizes, "seed": seed}


def _name(what: str, seed: int) -> str:
    return f"{slug(what).strip('_')}-seed{seed}"


# --- records ----------------------------------------------------------------------------------------------------------


def curve_records(config: Aift, results: Mapping[str, Any]) -> list[Record]:
    """One record a point of every finished curve."""
    records = []
    task = "colon_first" if config.setting == "scratch" else "colon_first2second"
    kept = ("pool", "test", "views", "budget", "rounds", "steps", "setting")
    shared = {name: getattr(config, name) for name in kept} | {"command_of_all": command_of(config)}
    if config.setting == "transfer":
        start = start_of(config, 0).arguments
        shared |= {"trade_off": start["trade_off"], "start_steps": start["steps"]}
    for seed in config.seeds:
        for selection, training in cells_of(config):
            result = results.get(trial_of(selection, training, config, seed).name)
            if result is None:
                continue
            about: Record = {"experiment": NAME, "task": task, "network": config.network}
            about |= {"method": method_of(selection, training), "asks": selection, "training": training}
            about |= {"seed": seed, "selection": "last", "paper": None, "provenance": ""}
            about |= {"command": command_of(config, selections=selection, trainings=training)}
            about |= shared | {"weights": result["weights"]}
            for point in result["points"]:
                records.append(about | {"labels": point["labelled"], **point} | result["measured_on"])
    return records


def run_aift(config: Aift) -> int:
    """Run what is missing, seed by seed, and make the report after each; exit code 1 if a trial failed."""
    config = reduced(config)
    _check(config)
    return run_experiment(config, parts_of(config), lambda results: curve_records(config, results), report)


def _check(config: Aift) -> None:
    """The mistakes that would otherwise show only after minutes; the data are decoded here, once."""
    check_names("selections", config.selections, [RANDOM, *CODES], some=True)
    check_names("trainings", config.trainings, TRAININGS, some=True)
    check_runs(config.seeds, config.steps)
    check_least(config, "pool", "test", "views", "budget", "rounds")
    if config.budget * config.rounds > config.pool:
        raise UserError(f"{config.rounds} rounds of {config.budget} are more than the pool's {config.pool} nuclei")
    if config.setting == "scratch" and (config.start_steps, config.trade_off) != (None, None):
        raise UserError("--start-steps and --trade-off are of --setting transfer: from scratch there is no source")
    if config.start_steps is not None and config.start_steps < 1:
        raise UserError(f"--start-steps must be 1 or more, not {config.start_steps}")
    if config.trade_off is not None and not 0 <= config.trade_off < float("inf"):
        raise UserError(f"--trade-off must be 0 or more, not {config.trade_off}")
    if config.network == "lenet" and config.weights is not None:
        raise UserError("--weights are of --network squeezenet1_1: lenet is trained from scratch")
    data, images = data_folder(config.data), cache_folder(config.image_cache)
    if config.network != "lenet":
        weights_file(config.weights or "DEFAULT", data)
    size = SIZE if config.network == "lenet" else ENLARGED
    for part in PARTS if config.setting == "transfer" else ("first",):
        nuclei(part, data, size=size, cache=images)


def report(folder: Path) -> Path:
    """Make the tables, the figure and the page again from the folder's records; the path of the page."""
    from experiments.pages.aift import report_of

    records = read(folder)
    return write_report(folder, records, report_of(records))


COMMAND = Command(
    Aift, run_aift, "AIFT and continual fine-tuning on colon nuclei, in the layout of the paper's Table 4"
)
