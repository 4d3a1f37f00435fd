"""Train, query, label, repeat: the one loop of rounds, for any learner, any strategy, and a simulated oracle.

    round 0:        the learner has no target labels
    round r >= 1:   it has learned the labels of r queries

The loop knows nothing of networks: a learner is any object that `active.learner.Learner` describes.

Shapes: N samples of the pool; C classes.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from active.budgets import budget_schedule, check_rounds
from active.learner import Learner, as_learner
from active.pool import PER_SAMPLE, Pool, Query
from active.round_files import RoundFile, agree, labelled_in, read_rounds, restore, state_of, write_round
from active.strategies import resolve_strategy
from dan.errors import UserError
from dan.progress import showing
from dan.run_dir import Record, Run

Model = TypeVar("Model")


def rounds(
    pool: Pool,
    strategy: str | Callable[..., Any],
    *,
    learner: Learner | None = None,
    fit: Callable[[Pool, int], Model] | None = None,
    predict: Callable[[Model, Tensor], Mapping[str, Any]] | None = None,
    budget: int | str | Sequence[int | str],
    num_rounds: int | None = None,
    seed: int,
    evaluate: Callable[[Model], Mapping[str, float]] | None = None,
    run: Path | str | None = None,
) -> Iterator[Record]:
    """Run `num_rounds` rounds of `budget` labels each, and yield one record a training: num_rounds + 1 of them.

    strategy: a name of STRATEGIES, or a function (query, budget, *, generator) -> ids of the query, in pick order.
    learner: see `active.learner.Learner`. In its place, functions:
        fit(pool, round) -> a trained model: train on `pool.labelled_ids` and `pool.labels` (none in round 0).
        predict(model, ids) -> fields of a `Query` for these global ids, in their order: at least "probs" (n, C).
        evaluate(model) -> more figures for the record.
    budget: a number, or a share of the pool as "5%"; or one of these for each round, as ("1%", "1%", "3%"): see
        `active.budgets.budget_schedule`. num_rounds: may be left out where there is a budget for each round.
    run: a folder; the same call on the same folder goes on after the last round that has its file (round_files.py).

    A record: {"event": "round", "round", "labelled", "accuracy/target" (all target samples), "accuracy/unqueried"
    (those never queried, which the labels cannot flatter), what `evaluate` returns, "queried" (the ids of this round's
    query, in pick order; none after the last training), "seconds"}. Accuracies in [0, 1].

    The strategy's generator depends on (seed, round) alone. Raises UserError for an invalid budget or number of rounds,
    for more labels than the pool has, for labels that no column of the probs stands for, and for a folder that holds
    another run; ValueError for a strategy that returns other than `budget` unlabelled ids.
    """
    learner = as_learner(learner, fit, predict, evaluate)
    return run_loop(pool, strategy, learner, budget=budget, num_rounds=num_rounds, seed=seed, run=run)


def run_loop(
    pool: Pool,
    strategy: str | Callable[..., Any],
    learner: Learner,
    *,
    budget: int | str | Sequence[int | str],
    num_rounds: int | None = None,
    seed: int,
    run: Path | str | None = None,
    metadata: Mapping[str, Any] | None = None,
    quiet: bool = True,
) -> Iterator[Record]:
    """The loop of `rounds`. metadata: JSON-able values for the run's settings. quiet: no progress of the strategy."""
    strategy, needs = resolve_strategy(strategy)
    budgets = budget_schedule(budget, num_rounds, len(pool.ids))
    check_rounds(budgets, len(budgets), len(pool.unlabelled_ids))
    # A single budget is kept as one number.
    kept = budgets[0] if isinstance(budget, str) or not isinstance(budget, Sequence) else list(budgets)
    settings = {**(metadata or {}), "budget": kept, "rounds": len(budgets), "seed": int(seed)}
    folder, finished = (None, []) if run is None else _opened(run, settings, pool)
    yield from finished

    for number in range(len(finished), len(budgets) + 1):
        began = time.perf_counter()
        learner.fit(pool, number)
        fields = _tensors(learner.query_fields(pool.ids, needs))
        record: Record = {"event": "round", "round": number, "labelled": len(pool.labelled_ids)}
        record |= _accuracies(pool, fields) | dict(learner.evaluate())
        queried = torch.empty(0, dtype=torch.long)
        states: tuple[str | None, str | None] = (None, None)
        if number < len(budgets):
            query, generator = query_of(pool, fields), generator_of(seed, number)
            before = state_of(generator)
            with showing(quiet=quiet):
                queried = strategy(query, budgets[number], generator=generator)
            states = (before, state_of(generator))
            check_ids(pool, queried, budgets[number])
        record |= {"queried": queried.tolist(), "seconds": time.perf_counter() - began}
        labels = pool.oracle(queried)
        if folder is not None:
            _write(folder, record, labels, pool, states)
        # On the disk first, then in memory: a kill between the two loses nothing.
        pool.label(queried, labels, round=number + 1)
        yield record


def generator_of(seed: int, number: int) -> torch.Generator:
    """The generator that the strategy gets in that round: a function of the two numbers alone."""
    return torch.Generator().manual_seed(int(seed) * 1_000_003 + number)


def query_of(pool: Pool, fields: Mapping[str, Any]) -> Query:
    """What was predicted for the whole pool, split into the unlabelled samples (the candidates) and the labelled ones.

    fields: of a `Query`, those per sample over all of `pool.ids`, in their (ascending) order; with "classes", the
    labels are given as columns of the probs. With the pool as `active.round_files.pool_at` gives it, and the fields of
    the round's model, it is the query that the round's strategy got.
    """
    unlabelled = _rows(pool, pool.unlabelled_ids)
    given = {
        name: value.index_select(PER_SAMPLE[name], unlabelled) if name in PER_SAMPLE else value
        for name, value in fields.items()
        if name != "classes"
    }
    for name in ("features", "layers"):
        if name in fields:
            given[f"labelled_{name}"] = fields[name][_rows(pool, pool.labelled_ids)]
    targets = _columns(pool.labels, fields)
    return Query(ids=pool.unlabelled_ids, labelled_ids=pool.labelled_ids, labelled_targets=targets, **given)


def _opened(run: Path | str, settings: Mapping[str, Any], pool: Pool) -> tuple[Run, list[Record]]:
    """The run's folder, and the records of the rounds that are finished; the pool is given their labels."""
    folder = Run(run, settings)
    files = read_rounds(folder.folder)
    agree(folder.folder, folder.records[0], files)
    folder = Run(run, settings)  # with the records as the files have them
    restore(pool, files, folder.folder)
    return folder, [file.record for file in files]


def _write(folder: Run, record: Record, labels: Tensor, pool: Pool, states: tuple[str | None, str | None]) -> None:
    """The round's file, then its line of the records."""
    file = RoundFile(
        settings=folder.records[0],
        record=record,
        answers=tuple(labels.tolist()),
        labelled=labelled_in(pool),
        before=states[0],
        after=states[1],
    )
    write_round(folder.folder, file)
    folder.append(record)


def _rows(pool: Pool, ids: Tensor) -> Tensor:
    """Rows of these ids in a tensor over the whole pool (whose ids ascend). Used here only, and never kept: a row is no
    id."""
    return torch.searchsorted(pool.ids, ids)


def _tensors(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with arrays as tensors. Raises UserError where there are no probs."""
    if "probs" not in fields:
        raise UserError(f'the learner must give "probs" (n, C), and gives {", ".join(fields) or "nothing"}')
    return {name: torch.as_tensor(value) if hasattr(value, "__array__") else value for name, value in fields.items()}


def _columns(labels: Tensor, fields: Mapping[str, Any]) -> Tensor:
    """The column of the probs that stands for each label (n,); -1 where "classes" names no such label."""
    if fields.get("classes") is None:
        return labels
    matches = labels[:, None] == torch.as_tensor(fields["classes"]).reshape(1, -1)  # (n, C)
    return torch.where(matches.any(1), matches.long().argmax(1), -1)


def _accuracies(pool: Pool, fields: Mapping[str, Any]) -> dict[str, float]:
    """Accuracy on all samples of the pool, and on those without a label. Raises UserError where columns do not fit."""
    probs = torch.as_tensor(fields["probs"])
    targets = _checked_columns(pool, probs, fields)
    right = (probs.argmax(1) == targets).double()
    unqueried = right[_rows(pool, pool.unlabelled_ids)]
    rest = {"accuracy/unqueried": float(unqueried.mean())} if len(unqueried) else {}
    return {"accuracy/target": float(right.mean()), **rest}


def _checked_columns(pool: Pool, probs: Tensor, fields: Mapping[str, Any]) -> Tensor:
    """The column (N,) of each sample's true label. Raises UserError for a label that has no column."""
    if probs.ndim != 2 or len(probs) != len(pool.ids):
        raise UserError(f"probs must be ({len(pool.ids)}, C), one row for each id, not {tuple(probs.shape)}")
    classes = fields.get("classes")
    if classes is not None and len(classes) != probs.shape[1]:
        raise UserError(f"{len(classes)} classes do not name the {probs.shape[1]} columns of the probs")
    labels = pool.oracle(pool.ids)
    targets = _columns(labels, fields)
    outside = (targets < 0) | (targets >= probs.shape[1])
    if classes is None and bool(outside.any()):  # with classes, a label that the model does not know is a wrong one
        row = int(outside.nonzero()[0])
        name = labels[row].item() if pool.classes is None else pool.classes[int(labels[row])]
        raise UserError(
            f"label {name} of sample {int(pool.ids[row])} has no column in the probs, whose {probs.shape[1]} columns "
            'stand for labels 0, 1, ...: name the label of each column as "classes", or take SklearnLearner for an '
            "estimator"
        )
    return targets


def check_ids(pool: Pool, queried: Tensor, budget: int) -> None:
    """Raises ValueError for ids that are not `budget` different unlabelled ids of the pool: a strategy may err."""
    ids = queried.tolist()
    free = set(pool.unlabelled_ids.tolist())
    if len(ids) != budget or len(set(ids)) != budget or not free.issuperset(ids):
        raise ValueError(
            f"the strategy returned {len(ids)} ids, {len(set(ids))} of them different, {len(free.intersection(ids))} "
            f"unlabelled ids of the pool: it must return {budget} different unlabelled global ids"
        )
