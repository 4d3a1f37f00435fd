"""What one trial of active_adaptation's one training does, each a function of its JSON arguments alone.

    begin     up to the epoch of the first query: the same for all strategies of a seed
    ask_at    from there: ask at the end of each epoch named, train on with the labels, evaluate each epoch of the end

The parts are one training: weights, optimiser, dropout and schedules go on, as in `active.learners.dan.run_rounds`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.jobs.arena import Place, load_train_config, network, outputs_of, sides_of, started
from experiments.transfers import machine

NO_LABELS = "DAN"  # the method without target labels
SAYS = {"5%": "one training", "counts": "in rounds"}  # what a record's network says of the protocol
BEGUN = "run"  # the folder, in that of the trial `begin`, which the others go on from


def ends_of(pool: int, batch_size: int, epochs: Sequence[int]) -> list[int]:
    """The steps at the end of these epochs; an epoch is one pass over the pool, labelled or not."""
    return [epoch * -(-pool // batch_size) for epoch in epochs]


def begin(
    folder: Path,
    *,
    place: dict[str, Any],
    task: str,
    how: dict[str, Any],
    trade_off: float,
    query_epochs: list[int],
    epochs: int,
    seed: int,
) -> dict[str, Any]:
    """A trial: the training up to the first query, in folder/run."""
    from dan.data.batches import derived_seed, num_samples
    from dan.training.trainer import fit

    where = Place(**place)
    sides = sides_of(where, task, seed)
    model = network(where, task, sides.transfer, seed)
    data = outputs_of(where, task, model, sides)
    recipe = load_train_config(task, how, 1)
    first, whole = ends_of(num_samples(data.target), recipe.batch_size, (query_epochs[0], epochs))
    common: dict[str, Any] = {"trade_off": trade_off, "seed": derived_seed(seed, 0)}
    fit(
        model,
        data.source,
        data.target,
        steps=first,
        total_steps=whole,
        config=load_train_config(task, how, first),
        run=folder / BEGUN,
        **common,
    )
    return {"steps": first, "total_steps": whole}


def ask_at(
    folder: Path,
    *,
    place: dict[str, Any],
    task: str,
    begun: str,
    strategy: str | None,
    budget: str,
    query_epochs: list[int],
    epochs: int,
    how: dict[str, Any],
    trade_off: float,
    seed: int,
) -> dict[str, Any]:
    """A trial: the rest of the training that the trial `begun` beside this one began, with the labels of a strategy.

    strategy: None asks for nothing: the DAN without target labels. "rounds" of the result: one record a query;
    "evaluations": one an epoch after the last of them, the last one that of the model that counts.
    """
    from active.learners.rounds_config import RoundsConfig
    from active.loop import rounds
    from dan.data.batches import num_samples
    from experiments.jobs.arena_learner import AdaptationLearner

    began, where, start = time.process_time(), Place(**place), folder.parent / begun / BEGUN
    data = started(where, task, start, seed)[2]
    count, batch = num_samples(data.target), load_train_config(task, how, 1).batch_size
    ends, epoch = ends_of(count, batch, [*query_epochs, epochs]), ends_of(count, batch, [1])[0]
    plan = RoundsConfig(budget=budget, query_epochs=tuple(query_epochs), epochs=epochs, trade_off=trade_off)
    part, last = (load_train_config(task, {**how, "checkpoint_every": ends[-1]}, every) for every in (ends[-1], epoch))
    learner = AdaptationLearner(where, task, start, plan, part, seed=seed, last=last)
    pool = learner.pool
    queries: list[dict[str, Any]] = []
    if strategy is None:
        learner.train(pool, len(query_epochs))
    else:
        loop = rounds(pool, strategy, learner=learner, budget=budget, num_rounds=len(query_epochs), seed=seed)
        queries = [{k: v for k, v in record.items() if k not in ("event", "seconds")} for record in loop]
    # Without strategy the part begins at the first query's epoch: the oracle chooses among the same evaluations.
    evaluations = [
        {k: v for k, v in record.items() if k.startswith("accuracy") or k == "step"}
        for record in learner.records
        if record["step"] > ends[-2]
    ]
    result: dict[str, Any] = {"rounds": queries, "evaluations": evaluations, "pool": count, "measured_on": machine()}
    return result | {"labels": queries[-1]["labelled"] if queries else 0, "cpu_seconds": time.process_time() - began}
