"""AIFT and continual fine-tuning on nuclei of colon tissue, in the layout of the paper's Table 4: which nucleus next?

    a curve: M_0, then `rounds` times: query `budget` nuclei, train on their patches, AUC on other patients

Rows are training codes, columns random and selection codes. All curves of a seed share the patients, the
pool, the views and M_0, so differences are taken seed by seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from dan.data.paths import cache_folder, data_folder
from dan.errors import UserError
from experiments.aift.report import report_of
from experiments.aift.trial import CODES, RANDOM, RFT, TRAININGS, begin, curve
from experiments.framework.experiment import Cell, Experiment, round_records
from experiments.framework.options import Options, check_least, check_names, check_runs
from experiments.framework.trials import Trial, slug
from experiments.tasks import folders_of

PAPER_CODES = CODES[:8]  # D and E; the last four are both at once
TRADE_OFF, START_STEPS = 1.0, 500  # of a transfer


@dataclass(frozen=True)
class Aift(Options):
    """What is trained; a folder keeps one choice of these, and a finished trial is never run again."""

    NAME: ClassVar[str] = "aift"
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
    """scratch: the first part's patients, from an untrained network; transfer: from one trained on them, to the second
    part's"""
    selections: tuple[str, ...] = (RANDOM, *PAPER_CODES)
    """these columns only; D+E, D+E+M, D+E+R and D+E+M+R are there too"""
    trainings: tuple[str, ...] = TRAININGS
    """these rows only"""
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """one curve of everything for each; seed 0 was looked at while the sizes were settled"""
    pool: int = 800
    """nuclei that can be queried"""
    test: int = 600
    """nuclei of other patients"""
    views: int = 8
    """patches of each nucleus"""
    budget: int = 20
    """nuclei of a query"""
    rounds: int = 8
    """queries"""
    steps: int = 80
    """training steps after each query, for every code"""
    start_steps: int | None = None
    """training steps of M_0 on the source, in a transfer (default: 500)"""
    trade_off: float | None = None
    """lambda of the alignment with the source, in a transfer (default: 1)"""

    def check(self) -> None:
        from dan.data.colon import PARTS, nuclei

        check_names("selections", self.selections, [RANDOM, *CODES], some=True)
        check_names("trainings", self.trainings, TRAININGS, some=True)
        check_runs(self.seeds, self.steps)
        check_least(self, "pool", "test", "views", "budget", "rounds")
        if self.budget * self.rounds > self.pool:
            raise UserError(f"{self.rounds} rounds of {self.budget} are more than the pool's {self.pool} nuclei")
        if self.setting == "scratch" and (self.start_steps, self.trade_off) != (None, None):
            raise UserError("--start-steps and --trade-off are of --setting transfer: from scratch there is no source")
        if self.start_steps is not None and self.start_steps < 1:
            raise UserError(f"--start-steps must be 1 or more, not {self.start_steps}")
        if self.trade_off is not None and not 0 <= self.trade_off < float("inf"):
            raise UserError(f"--trade-off must be 0 or more, not {self.trade_off}")
        for part in PARTS if self.setting == "transfer" else ("first",):  # decoded here, once
            nuclei(part, data_folder(self.data), cache=cache_folder(self.image_cache))


def method_of(selection: str, training: str) -> str:
    """What a cell is called in records; random with AFT(LQ) is the paper's RFT."""
    return RFT if (selection, training) == (RANDOM, "AFT(LQ)") else f"{selection}, {training}"


def transfer_of(config: Aift) -> dict[str, Any]:
    """The settings of a transfer; {} from scratch."""
    if config.setting == "scratch":
        return {}
    trade_off = TRADE_OFF if config.trade_off is None else config.trade_off
    return {"trade_off": trade_off, "start_steps": config.start_steps or START_STEPS}


def trial_of(selection: str, training: str, config: Aift, seed: int) -> Trial:
    """One curve; in a transfer it starts from the network that was trained on the source."""
    sizes = {"pool": config.pool, "test": config.test, "views": config.views}
    shared: dict[str, Any] = {"place": folders_of(config), "sizes": sizes, "seed": seed}
    code = RFT if method_of(selection, training) == RFT else training
    arguments = shared | {"setting": config.setting, "selection": selection, "training": code}
    arguments |= {"budget": config.budget, "rounds": config.rounds, "steps": config.steps}
    after: tuple[Trial, ...] = ()
    if transfer := transfer_of(config):
        own = {"trade_off": transfer["trade_off"], "steps": transfer["start_steps"]}
        after = (Trial(f"start-seed{seed}", begin, shared | own),)
        arguments |= {"start": after[0].name, "trade_off": transfer["trade_off"]}
    return Trial(f"{slug(f'{selection}-{training}').strip('_')}-seed{seed}", curve, arguments, after)


def cells(config: Aift) -> list[Cell]:
    """One cell a training code and selection code, in the order of the table."""
    kept = ("pool", "test", "views", "budget", "rounds", "steps", "setting")
    about = {name: getattr(config, name) for name in kept} | transfer_of(config)
    about |= {"task": "colon_first" if config.setting == "scratch" else "colon_first2second", "network": "lenet"}
    return [
        Cell(
            about=about | {"method": method_of(selection, training), "asks": selection, "training": training},
            only={"selections": selection, "trainings": training},
            trials=[trial_of(selection, training, config, seed) for seed in config.seeds],
        )
        for training in TRAININGS
        for selection in (RANDOM, *CODES)
        if training in config.trainings and selection in config.selections
    ]


EXPERIMENT = Experiment(
    options=Aift,
    summary="AIFT and continual fine-tuning on colon nuclei, in the layout of the paper's Table 4",
    cells=cells,
    report=report_of,
    records=round_records,
)
