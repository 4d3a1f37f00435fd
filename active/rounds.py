"""Train, ask, label, train on: the one rounds loop, for any learner, any strategy, and a simulated oracle.

    round 0:        the learner has no target labels
    round r >= 1:   it has learned r * budget of them

The loop knows nothing of networks. A learner is three functions: `fit` trains, `predict` says what a strategy may see
of the samples it is asked about, and `evaluate` (if any) adds measures of its own, such as accuracy on a test split.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from active.pool import PER_SAMPLE, Pool, Query
from active.strategies import Strategy
from dan.errors import UserError
from dan.run_folder import Record, Run

Model = TypeVar("Model")


def rounds(
    pool: Pool,
    strategy: Strategy,
    *,
    fit: Callable[[Pool, int], Model],
    predict: Callable[[Model, Tensor], Mapping[str, Any]],
    budget: int,
    rounds: int,
    seed: int,
    evaluate: Callable[[Model], Mapping[str, float]] | None = None,
    run: Path | str | None = None,
    about: Mapping[str, Any] | None = None,
) -> Iterator[Record]:
    """Run `rounds` rounds of `budget` labels each, and yield one record a training: rounds + 1 of them.

    fit(pool, round) -> a trained model: train on `pool.labelled_ids` and `pool.labels` (none in round 0). Any estimator
        will do; go on from the last model or start afresh, as you like.
    predict(model, ids) -> fields of a `Query` for these global ids, in their order: at least "probs" (n, C). Fields
        that are not per sample ("source_features", "kernel", ...) are passed on as they are.
    evaluate(model) -> more figures for the record.
    run: a folder; the same call on the same folder goes on after the last round that was recorded.

    A record: {"event": "round", "round", "labelled", "accuracy/target" (all target samples, asked for or not),
    "accuracy/unqueried" (the never-queried ones: what labels bought cannot flatter), what `evaluate` says, "asked" (the
    ids this round asks for, in pick order; none after the last training), "seconds"}. Accuracies in [0, 1].

    The round's generator depends on (seed, round) alone. Raises UserError for a budget or number of rounds that is not
    positive, or that asks for more labels than the pool has.
    """
    if budget < 1 or rounds < 1:
        raise UserError(f"budget and rounds must be at least 1, not {budget} and {rounds}")
    if budget * rounds > len(pool.unlabelled_ids):
        raise UserError(
            f"{rounds} rounds of {budget} need {budget * rounds} unlabelled samples, and the pool has "
            f"{len(pool.unlabelled_ids)}: lower the budget or the rounds"
        )
    settings = {**(about or {}), "budget": budget, "rounds": rounds, "seed": seed}
    folder = None if run is None else Run(run, settings)
    first = 0
    if folder is not None:
        for record in folder.records:
            if record["event"] == "round":
                _label(pool, record["asked"], record["round"] + 1)
                first = record["round"] + 1
                yield record

    for number in range(first, rounds + 1):
        began = time.perf_counter()
        model = fit(pool, number)
        seen = dict(predict(model, pool.ids))
        record = {"event": "round", "round": number, "labelled": len(pool.labelled_ids)}
        record |= _accuracies(pool, seen["probs"])
        record |= evaluate(model) if evaluate is not None else {}
        asked = torch.empty(0, dtype=torch.long)
        if number < rounds:
            generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
            asked = strategy(_query(pool, seen), budget, generator=generator)
            _check_picks(pool, asked, budget)
        record |= {"asked": asked.tolist(), "seconds": time.perf_counter() - began}
        if folder is not None:
            folder.append(record)
        # On the disk first, then in memory: a kill between the two loses nothing.
        _label(pool, record["asked"], number + 1)
        yield record


def _query(pool: Pool, seen: Mapping[str, Any]) -> Query:
    """What was predicted for the whole pool, split into the unlabelled (the candidates) and the labelled side."""
    unlabelled = _rows(pool, pool.unlabelled_ids)
    fields = {
        name: value.index_select(PER_SAMPLE[name], unlabelled) if name in PER_SAMPLE else value
        for name, value in seen.items()
    }
    for name in ("features", "layers"):
        if name in seen:
            fields[f"labelled_{name}"] = seen[name][_rows(pool, pool.labelled_ids)]
    return Query(ids=pool.unlabelled_ids, labelled_ids=pool.labelled_ids, labelled_targets=pool.labels, **fields)


def _rows(pool: Pool, ids: Tensor) -> Tensor:
    """Rows of these ids in a tensor over the whole pool (whose ids ascend). Used here only, and never kept."""
    return torch.searchsorted(pool.ids, ids)


def _accuracies(pool: Pool, probs: Tensor) -> dict[str, float]:
    right = (torch.as_tensor(probs).argmax(1) == pool.oracle(pool.ids)).double()
    unqueried = right[_rows(pool, pool.unlabelled_ids)]
    rest = {"accuracy/unqueried": float(unqueried.mean())} if len(unqueried) else {}
    return {"accuracy/target": float(right.mean()), **rest}


def _check_picks(pool: Pool, asked: Tensor, budget: int) -> None:
    """A strategy of a user's own may err; a wrong id must not buy a label."""
    ids = asked.tolist()
    free = set(pool.unlabelled_ids.tolist())
    if len(ids) != budget or len(set(ids)) != budget or not free.issuperset(ids):
        raise ValueError(
            f"the strategy returned {len(ids)} ids, {len(set(ids))} of them different, {len(free.intersection(ids))} "
            f"unlabelled ids of the pool: it must return {budget} different unlabelled global ids"
        )


def _label(pool: Pool, ids: list[int], number: int) -> None:
    pool.label(ids, pool.oracle(torch.tensor(ids, dtype=torch.long)), round=number)
