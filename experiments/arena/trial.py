"""One trial of the arena: the start that all strategies of a seed share, a strategy's rounds, all labels at once.

    start     a DAN on the source and the unlabelled pool; then its backbone is frozen, and computed once
    rounds    query; fine-tune the task-specific layers on source, all labels so far and the alignment

A round is that of `active.learners.dan.run_rounds` with a cached backbone, without files.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from active.learners.dan import DANLearner
from active.learners.rounds_config import RoundsConfig
from active.loop import rounds
from active.pool import Pool, Query
from active.query_fields import query_fields
from active.strategies import required_fields, resolve_strategy
from dan.data.batches import labels_of, num_samples
from dan.evaluation.metrics import evaluate
from dan.feature_cache import cached
from dan.models.model_file import save_model
from dan.training.config import TrainConfig
from dan.training.trainer import fit
from experiments.arena.data import (
    Place,
    load_train_config,
    network,
    outputs_of,
    outputs_of_views,
    sides_of,
    started,
    view_probabilities,
    views_of,
)
from experiments.arena.tasks import TEN_CLASS
from experiments.tasks import machine

CONVOLUTIONS = "conv2"  # LeNet's last one: frozen after the start


class ArenaLearner(DANLearner):
    """A learner in memory that fine-tunes the network in the folder `begun`. seconds: CPU time of `query_fields`."""

    def __init__(
        self, place: Place, task: str, begun: Path, plan: RoundsConfig, config: TrainConfig, *, seed: int
    ) -> None:
        model, _, data = started(place, task, begun, seed)
        super().__init__(data, model, plan, seed=seed, config=config)
        self.place, self.name, self.begun = place, task, begun
        self.seconds = 0.0

    def query_fields(self, ids: Tensor, needs: frozenset[str]) -> dict[str, Any]:
        """`active.query_fields.query_fields` of the whole pool, with held-out source and views where they are needed.

        The kernel is the ladder at the median of what is queried: the features were aligned under equal weights.
        """
        assert len(ids) == num_samples(self.task.target)  # the loop queries the whole pool
        began, task = time.process_time(), self.task
        made, sides, _ = started(self.place, self.name, self.begun, self.seed)
        if any(name.startswith("validation") for name in needs) and sides.validation is not None:
            task = replace(task, source_test=cached(sides.validation, made))
        kept = needs & {"patch_probs"} if made.cached_stages else frozenset()
        fields = query_fields(self.trained, task, ids, needs=needs - kept, seed=self.seed)
        if kept:
            views = views_of(self.place, self.name, self.begun, self.seed)
            fields["patch_probs"] = view_probabilities(self.trained, views)
        self.seconds = time.process_time() - began
        return fields

    @property
    def pool(self) -> Pool:
        """The pool without labels."""
        return Pool(torch.arange(num_samples(self.task.target)), labels_of(self.task.target))


class Timed:
    """A strategy that notes the CPU seconds of its last query."""

    def __init__(self, strategy: str) -> None:
        self._strategy, self.needs = resolve_strategy(strategy)
        self.seconds: dict[str, float] = {}

    def __call__(self, query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
        began = time.process_time()
        ids = self._strategy(query, budget, generator=generator)
        self.seconds = {"seconds/query": time.process_time() - began}
        return ids


def unmet(strategy: str, tasks: Sequence[str]) -> str:
    """Why the arena cannot give a strategy the fields that it needs on these tasks; "" if it can."""
    needs = required_fields(strategy)
    ten_class = [task for task in tasks if task.startswith(TEN_CLASS)]
    if any(name.startswith("validation") for name in needs) and ten_class:
        return f"{ten_class[0]} holds out no source samples"
    if "dropout_probs" in needs and len(ten_class) < len(tasks):
        return f"{next(task for task in tasks if task not in ten_class)} has a network without dropout"
    return ""


# --- trials -----------------------------------------------------------------------------------------------------------


def start(
    folder: Path, *, place: dict[str, Any], task: str, how: dict[str, Any], trade_off: float, steps: int, seed: int
) -> dict[str, Any]:
    """A trial: the DAN without target labels that all strategies of a seed start from, in folder/model.pt."""
    began, where = time.process_time(), Place(**place)
    sides = sides_of(where, task, seed)
    model = network(where, task, sides.transfer, seed)
    data, config = outputs_of(where, task, model, sides), load_train_config(task, how, steps)
    options: dict[str, Any] = {"trade_off": trade_off, "steps": steps, "seed": seed, "config": config}
    (evaluation,) = fit(model, data.source, data.target, tests=data.splits, **options)
    if not model.cached_stages:
        model.freeze(up_to=CONVOLUTIONS)
    save_model(folder / "model.pt", model)
    sizes = {"source": num_samples(data.source), **{name: num_samples(split) for name, split in data.splits.items()}}
    return {"evaluation": evaluation, "sizes": sizes, "cpu_seconds": time.process_time() - began}


def learner_of(
    folder: Path, plan: RoundsConfig, *, place: dict[str, Any], task: str, start: str, how: dict[str, Any], seed: int
) -> ArenaLearner:
    """The learner that goes on from the trial `start` in the folder next to this trial's."""
    assert plan.steps_per_round is not None
    config = load_train_config(task, how, plan.steps_per_round)
    return ArenaLearner(Place(**place), task, folder.parent / start, plan, config, seed=seed)


def ask(
    folder: Path, *, strategy: str, budget: list[str], trade_off: float, steps_per_round: int, **begun: Any
) -> dict[str, Any]:
    """A trial: the rounds of one strategy; the other arguments are those of `learner_of`.

    cpu_seconds: of the whole trial. "seconds/query" of an evaluation: of the strategy alone; "seconds/shown": of the
    fields that it is given.
    """
    began, timed = time.process_time(), Timed(strategy)
    plan = RoundsConfig(budget=tuple(budget), steps_per_round=steps_per_round, trade_off=trade_off)
    learner = learner_of(folder, plan, **begun)
    pool, evaluations = learner.pool, []
    for record in rounds(pool, timed, learner=learner, budget=tuple(budget), seed=learner.seed):
        kept = {name: value for name, value in record.items() if name not in ("event", "seconds")}
        evaluations.append({**kept, "seconds/shown": learner.seconds, **timed.seconds})
        timed.seconds = {}
    seconds = time.process_time() - began
    return {"evaluations": evaluations, "pool": len(pool.ids), "cpu_seconds": seconds, "measured_on": machine()}


def every_label(folder: Path, *, trade_off: float, steps: int, **begun: Any) -> dict[str, Any]:
    """A trial: the start, fine-tuned once with all labels of the pool: what `labels_to_95` is measured against."""
    learner = learner_of(folder, RoundsConfig(steps_per_round=steps, trade_off=trade_off), **begun)
    pool = learner.pool
    learner.fit(pool, 0)
    pool.label(pool.ids, pool.oracle(pool.ids), round=1)
    learner.fit(pool, 1)
    model = learner.trained
    splits = learner.task.splits.items()
    return {f"accuracy/{name}": evaluate(model, split, start=model.cached_stages).accuracy for name, split in splits}


def views_of_domain(_folder: Path, *, place: dict[str, Any], task: str) -> dict[str, Any]:
    """A trial: the frozen backbone's outputs on the views of a ten-class task's target, kept on the disk."""
    where = Place(**place)
    sides = sides_of(where, task, 0)
    began, model = time.process_time(), network(where, task, sides.transfer, 0)
    outputs = outputs_of_views(where, task, model, sides.whole)
    return {"views": len(outputs), "cpu_seconds": time.process_time() - began}
