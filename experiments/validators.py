"""Which validator chooses well without target labels? Regret and rank correlation over candidates and checkpoints.

    pool    every checkpoint of every candidate, of one task and seed
    regret  best accuracy of the pool - accuracy of the checkpoint with the highest score
    gain    that accuracy - source-only's after the last step
    rank    Spearman's correlation of scores and accuracies in the pool

Target labels measure accuracy, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

from dan.errors import UserError
from experiments.framework.experiment import Cell, Experiment
from experiments.framework.measurements import aggregate, row_of
from experiments.framework.options import Options, check_names, check_runs
from experiments.framework.records import Record
from experiments.framework.report import Report
from experiments.framework.reporting.summary import LEGEND, summary
from experiments.framework.reporting.tables import signed
from experiments.framework.trials import Trial, slug
from experiments.tasks import folders_of, machine, transfer_named, weights_file

if TYPE_CHECKING:
    from dan.training.trainer import Trainer

DIGITS, OFFICE, SOURCE_ONLY = "rendered2digits", "office_caltech10_", "source-only"
TASKS = (DIGITS, *(f"{OFFICE}{a}2{b}" for a, b in product("acdw", repeat=2) if a != b))
CANDIDATES = {SOURCE_ONLY: ("dan", 0.0), "MCC": ("mcc", 1.0), "DAN + MCC": ("dan+mcc", 1.0)}  # method, trade-off
CANDIDATES |= {f"DAN {value:g}": ("dan", value) for value in (0.3, 1.0, 3.0, 10.0)}
SCALED = ("entropy", "information", "nuclear_norm", "snd", "mano", "atc")  # a temperature changes these
SCORE = "validator/"


@dataclass(frozen=True)
class Validators(Options):
    """What is trained."""

    NAME: ClassVar[str] = "validators"
    QUICK: ClassVar[dict[str, Any]] = {
        "tasks": (DIGITS,),
        "methods": (SOURCE_ONLY, "DAN 3"),
        "seeds": (0,),
        "steps": 10,
    }

    tasks: tuple[str, ...] = TASKS
    """tasks, such as: rendered2digits office_caltech10_a2w"""
    methods: tuple[str, ...] = tuple(CANDIDATES)
    """these candidates only; source-only is always one"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """one run of everything for each"""
    steps: int = 300
    """training steps of every run; a fifth, two fifths, ... of them are its checkpoints"""
    squeezenet_weights: str = "DEFAULT"
    """ImageNet weights of SqueezeNet 1.1, frozen, for Office-Caltech: a name or a state-dict file"""

    def check(self) -> None:
        check_names("tasks", self.tasks, TASKS, some=True)
        check_names("methods", self.methods, list(CANDIDATES))
        check_runs(self.seeds, self.steps)
        if self.steps % 5 or SOURCE_ONLY not in self.methods:
            raise UserError("--steps must be a multiple of 5, and --methods must hold source-only")


def score_checkpoints(trainer: Trainer, record: Record) -> None:
    """Add to an evaluation the score of every validator, of logits as they are and calibrated."""
    import torch

    from dan.data.batches import fetch, num_samples
    from dan.evaluation.validators import validate, validator_inputs

    source, target = trainer.data.tests["source_test"], trainer.data.target
    x, x_target = (fetch(part, torch.arange(num_samples(part)))[0].flatten(1) for part in (source, target))
    start = trainer.data.start_stage
    inputs = validator_inputs(trainer.model, source, target, start=start, reverse_features=(x, x_target))
    record |= {SCORE + name: value for name, value in validate(inputs).items()}
    record |= {f"{SCORE}{name}, calibrated": v for name, v in validate(inputs.calibrated(), SCALED).items()}


def candidate(
    _folder: Path, *, task: str, folders: dict[str, str], weights: str, how: dict[str, Any], seed: int
) -> dict[str, Any]:
    """A trial: train with a fifth of the source held out. weights: of the frozen backbone; "": the task's own one."""
    from torch.utils.data import Subset

    from dan.data.batches import labels_of
    from dan.feature_cache import cached_pair
    from dan.models.factory import build_network
    from dan.training.callbacks import Callback
    from dan.training.config import TrainConfig
    from dan.training.label_shift import split_by_class
    from dan.training.trainer import fit

    scores = Callback()
    scores.on_evaluation = score_checkpoints  # type: ignore[method-assign]
    pair = transfer_named(task, **folders)
    frozen: dict[str, Any] = {"backbone": "squeezenet1_1", "pretrained": weights, "freeze_up_to": "all"}
    frozen |= {"layers": (256,), "dropout": 0.5}
    model = build_network(pair, seed=seed, **(frozen if weights else {}))
    if weights:
        pair = cached_pair(pair, model, Path(folders["images"]).with_name("backbones"))
    source, held_out = (Subset(pair.source, rows) for rows in split_by_class(labels_of(pair.source), 0.2, seed))
    config = TrainConfig(method=how["method"], lr=how["lr"], evaluate_every=how["steps"] // 5, feature_map=False)
    options: dict[str, Any] = {"trade_off": how["trade_off"], "steps": how["steps"], "seed": seed, "config": config}
    options |= {"tests": pair.splits | {"source_test": held_out}, "callbacks": [scores], "log_mmd": False}
    return {"evaluations": fit(model, source, pair.target, **options), "measured_on": machine()}


def cells(config: Validators) -> list[Cell]:
    """One cell a task and candidate, one trial a seed."""
    made = []
    for task, name in product(config.tasks, config.methods):
        folders, (method, trade_off), office = folders_of(config), CANDIDATES[name], task.startswith(OFFICE)
        weights = weights_file(config.squeezenet_weights, Path(folders["data"])) if office else ""
        how = {"method": method, "trade_off": trade_off, "lr": 1e-3 if office else 1e-2, "steps": config.steps}
        arguments = {"task": task, "folders": folders, "weights": weights, "how": how}
        trials = [Trial(f"{task}-{slug(name)}-seed{s}", candidate, {**arguments, "seed": s}) for s in config.seeds]
        network = "squeezenet1_1-frozen" if office else "lenet"
        about = {**how, "task": task, "network": network, "method": name, "labels": 0}
        only = {"tasks": task, "methods": tuple(dict.fromkeys((SOURCE_ONLY, name)))}
        made.append(Cell(about=about, only=only, trials=trials))
    return made


def judged(records: Sequence[Record]) -> dict[str, list[tuple[float, float, float]]]:
    """validator -> (regret, gain, rank correlation) of each (task, seed); the least worst regret first."""
    from scipy.stats import spearmanr

    pools: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        pools.setdefault((record["task"], record["seed"]), []).append(record)
    found: dict[str, list[tuple[float, float, float]]] = {}
    for pool in pools.values():
        accuracies = [100 * record["accuracy/target"] for record in pool]
        (base,) = (a for a, r in zip(accuracies, pool, strict=True) if r["method"] == SOURCE_ONLY and r["selection"])
        for key in (name for name in pool[0] if name.startswith(SCORE)):
            scores = [record[key] for record in pool]
            chosen = accuracies[max(range(len(pool)), key=scores.__getitem__)]
            varied = len(set(scores)) > 1 and len(set(accuracies)) > 1
            rank = float(spearmanr(scores, accuracies).statistic) if varied else 0.0
            found.setdefault(key.removeprefix(SCORE), []).append((max(accuracies) - chosen, chosen - base, rank))
    return dict(sorted(found.items(), key=lambda item: max(item[1])[0]))


def report(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    every = {**records[0], "task": "all", "selection": "label_free", "command": records[0]["command_of_all"]}
    rows, lines = list(aggregate(records)), []
    for name, values in judged(records).items():
        regret, gain, rank = zip(*values, strict=True)
        rows.append(row_of(every | {"method": name}, regret, split="target", metric="regret"))
        lines.append([name, f"{max(regret):.1f}", f"{fmean(regret):.1f}", signed(min(gain)), signed(fmean(gain))])
        lines[-1] += [f"{min(rank):.2f}", f"{fmean(rank):.2f}"]
    headers = ["validator", "worst regret", "mean", "worst gain", "mean", "worst rank correlation", "mean"]
    said = [f"{line[0]}: worst regret {line[1]} points, mean {line[2]}; worst gain {line[3]}." for line in lines]
    return Report(
        title="Validators: choosing among networks without target labels",
        findings=[*said[:3], said[-1]],
        tables=[("Choices of each validator", (headers, lines)), ("Candidates after the last step", summary(records))],
        captions=["Regret and gain in points of target accuracy, over tasks and seeds: see the module.", LEGEND],
        rows=rows,
    )


EXPERIMENT = Experiment(
    options=Validators,
    summary="label-free validators: regret and rank correlation over candidates and checkpoints",
    cells=cells,
    report=report,
)
