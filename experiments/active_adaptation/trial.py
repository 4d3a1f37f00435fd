"""A trial of the one training: up to its first query, and from there on with the labels of one strategy."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.tasks import machine

if TYPE_CHECKING:
    from dan.training.config import TrainConfig

BEGUN = "run"  # the folder, in that of the trial `begin`, which the others go on from


@dataclass(frozen=True, kw_only=True)
class OneTraining:
    """A DAN's training with queries at the end of epochs, as its trials' arguments have it; an epoch is one pass over
    the pool. The parts are one training: weights, optimiser, dropout and schedules go on."""

    place: dict[str, Any]
    task: str
    how: dict[str, Any]
    trade_off: float
    query_epochs: Sequence[int]
    epochs: int
    seed: int

    def config(self, evaluate_every: int, **more: Any) -> TrainConfig:
        """As in the arena, evaluated each so many steps."""
        from experiments.arena.data import load_train_config

        return load_train_config(self.task, {**self.how, **more}, evaluate_every)

    def ends(self, pool: int) -> list[int]:
        """The steps at which it queries, and the last step."""
        epoch = -(-pool // self.config(1).batch_size)
        return [count * epoch for count in (*self.query_epochs, self.epochs)]


def begin(folder: Path, **training: Any) -> dict[str, Any]:
    """A trial: the training up to the first query, which is the same for all strategies of a seed."""
    from dan.data.batches import derived_seed, num_samples
    from dan.training.trainer import fit
    from experiments.arena.data import Place, network, outputs_of, sides_of

    one = OneTraining(**training)
    where = Place(**one.place)
    sides = sides_of(where, one.task, one.seed)
    model = network(where, one.task, sides.transfer, one.seed)
    data = outputs_of(where, one.task, model, sides)
    first, *_, last = one.ends(num_samples(data.target))
    options: dict[str, Any] = {"trade_off": one.trade_off, "seed": derived_seed(one.seed, 0), "run": folder / BEGUN}
    fit(model, data.source, data.target, steps=first, total_steps=last, config=one.config(first), **options)
    return {"steps": first, "total_steps": last}


def query(folder: Path, *, begun: str, strategy: str | None, budget: str, **training: Any) -> dict[str, Any]:
    """A trial: the rest of the training that the trial `begun` began, with the labels of a strategy.

    strategy: None queries nothing: the DAN without target labels. "rounds" of the result: one record a query;
    "evaluations": one an epoch after the last of them.
    """
    import torch

    from active.learners.rounds_config import RoundsConfig
    from active.loop import rounds
    from active.pool import Pool
    from dan.data.batches import labels_of, num_samples
    from experiments.active_adaptation.learner import AdaptationLearner
    from experiments.arena.data import Place, started

    began, one, start = time.process_time(), OneTraining(**training), folder.parent / begun / BEGUN
    where, num_rounds = Place(**one.place), len(one.query_epochs)
    target = started(where, one.task, start, one.seed)[2].target
    *_, queried, end = one.ends(num_samples(target))
    plan = RoundsConfig(budget=budget, query_epochs=tuple(one.query_epochs), epochs=one.epochs, trade_off=one.trade_off)
    part, last = (one.config(every, checkpoint_every=end) for every in (end, end // one.epochs))
    learner = AdaptationLearner(where, one.task, start, plan, part, seed=one.seed, last=last)
    pool, queries = Pool(torch.arange(num_samples(target)), labels_of(target)), []
    if strategy is None:
        learner.train(pool, num_rounds)
    else:
        loop = rounds(pool, strategy, learner=learner, budget=budget, num_rounds=num_rounds, seed=one.seed)
        queries = [{k: v for k, v in record.items() if k not in ("event", "seconds")} for record in loop]
    # Without strategy the part begins at the first query's epoch: the oracle chooses among the same evaluations.
    evaluations = [
        {k: v for k, v in record.items() if k.startswith("accuracy") or k == "step"}
        for record in learner.records
        if record["step"] > queried
    ]
    result: dict[str, Any] = {"rounds": queries, "evaluations": evaluations, "pool": len(pool.ids)}
    result |= {"labels": len(pool.labelled_ids), "cpu_seconds": time.process_time() - began}
    return result | {"measured_on": machine()}
