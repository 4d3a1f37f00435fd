"""Train, ask, label, train on: the one rounds loop, for any learner, any strategy, and a simulated oracle.

    round 0:        the learner has no target labels
    round r >= 1:   it has learned those of r purchases

The loop knows nothing of networks. A learner is three functions: `fit` trains, `predict` says what a strategy may see
of the samples it is asked about, and `evaluate` (if any) adds measures of its own, such as accuracy on a test split.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from active.pool import PER_SAMPLE, Pool, Query
from active.round_files import RoundFile, agree, labelled_in, read_rounds, restore, state_of, write_round
from active.strategies import Strategy
from dan.errors import UserError
from dan.run_dir import Record, Run

Model = TypeVar("Model")


def rounds(
    pool: Pool,
    strategy: Strategy,
    *,
    fit: Callable[[Pool, int], Model],
    predict: Callable[[Model, Tensor], Mapping[str, Any]],
    budget: int | str | Sequence[int | str],
    num_rounds: int | None = None,
    seed: int,
    evaluate: Callable[[Model], Mapping[str, float]] | None = None,
    run: Path | str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Iterator[Record]:
    """Run `rounds` rounds of `budget` labels each, and yield one record a training: rounds + 1 of them.

    budget: a number, or a share of the pool as "5%": see `budget_count`; or one of these for each round, as ("1%",
    "1%", "3%"): see `budget_schedule`. rounds: may be left out where the budgets tell how many there are.
    fit(pool, round) -> a trained model: train on `pool.labelled_ids` and `pool.labels` (none in round 0). Any estimator
        will do; go on from the last model or start afresh, as you like.
    predict(model, ids) -> fields of a `Query` for these global ids, in their order: at least "probs" (n, C). Fields
        that are not per sample ("source_features", "kernel", ...) are passed on as they are.
    evaluate(model) -> more figures for the record.
    run: a folder; the same call on the same folder goes on after the last round that has its file (round_files.py).

    A record: {"event": "round", "round", "labelled", "accuracy/target" (all target samples, asked for or not),
    "accuracy/unqueried" (the never-queried ones: what labels bought cannot flatter), what `evaluate` says, "queried"
    (the ids this round asks for, in pick order; none after the last training), "seconds"}. Accuracies in [0, 1].

    The round's generator depends on (seed, round) alone. Raises UserError for a budget or number of rounds that is not
    positive, or that asks for more labels than the pool has.
    """
    budgets = budget_schedule(budget, num_rounds, len(pool.ids))
    check_rounds(budgets, len(budgets), len(pool.unlabelled_ids))
    # One budget for all is told as the one number that it is, so that runs from before there were others are the same.
    told = budgets[0] if isinstance(budget, (int, str)) else list(budgets)
    settings = {**(metadata or {}), "budget": told, "rounds": len(budgets), "seed": seed}
    folder = None if run is None else Run(run, settings)
    first = 0
    if folder is not None:
        files = read_rounds(folder.folder)
        agree(folder.folder, folder.records[0], files)
        folder = Run(run or "", settings)  # with the records that the files told
        restore(pool, files, folder.folder)
        first = len(files)
        yield from (file.record for file in files)

    for number in range(first, len(budgets) + 1):
        began = time.perf_counter()
        model = fit(pool, number)
        seen = dict(predict(model, pool.ids))
        record = {"event": "round", "round": number, "labelled": len(pool.labelled_ids)}
        record |= _accuracies(pool, seen["probs"])
        record |= evaluate(model) if evaluate is not None else {}
        asked = torch.empty(0, dtype=torch.long)
        before = after = None
        if number < len(budgets):
            generator = generator_of(seed, number)
            before = state_of(generator)
            asked = strategy(query_of(pool, seen), budgets[number], generator=generator)
            after = state_of(generator)
            _check_picks(pool, asked, budgets[number])
        record |= {"queried": asked.tolist(), "seconds": time.perf_counter() - began}
        answers = pool.oracle(asked)
        if folder is not None:
            file = RoundFile(
                settings=folder.records[0],
                record=record,
                answers=tuple(answers.tolist()),
                labelled=labelled_in(pool),
                before=before,
                after=after,
            )
            write_round(folder.folder, file)
            folder.append(record)
        # On the disk first, then in memory: a kill between the two loses nothing.
        pool.label(asked, answers, round=number + 1)
        yield record


def budget_count(budget: int | str, pool: int) -> int:
    """How many labels a budget is: a number, or a share of the pool's samples, such as "5%" or "0.5%", rounded up.

    Exact: 7 % of 100 is 7, whatever binary fractions make of 0.07. Raises UserError, with what it should look like, for
    anything else, for less than one label, and for more than the whole pool.
    """
    return _rounded_up(_amount(budget, pool))


def budget_schedule(budget: int | str | Sequence[int | str], rounds: int | None, pool: int) -> tuple[int, ...]:
    """How many labels each round buys: b_1 + ... + b_r = ceil(a_1 + ... + a_r) for one budget a_i a round.

    The exact parts of the pool are added up, and only the sums are rounded, upwards: what "1%" five times buys is 5 %
    of the pool, rounded once. A single budget, though, is that of each round, rounded by itself (`budget_count`);
    then `rounds` says how many there are.
    Raises UserError for what is no budget, for no rounds or another number of them than there are budgets, and for a
    round that would buy nothing, since the rounds before it were rounded up.
    """
    if isinstance(budget, (int, str)):
        if rounds is None:
            raise UserError("one budget does not say how many rounds there are: name rounds, or a budget for each")
        if rounds < 1:
            raise UserError(f"budget and rounds must be at least 1, not {budget} and {rounds}")
        return (budget_count(budget, pool),) * rounds
    if rounds not in (None, len(budget)) or not budget:
        asked = "no rounds" if rounds is None else f"{rounds} round{'s'[: rounds != 1]}"
        raise UserError(f"{len(budget)} budgets are not those of {asked}: name one budget for each, or one for all")
    bought = [0, *map(_rounded_up, accumulate(_amount(each, pool) for each in budget))]
    labels = tuple(after - before for before, after in pairwise(bought))
    if 0 in labels:
        number = labels.index(0) + 1
        raise UserError(
            f"round {number} with its budget of {budget[number - 1]} buys nothing, for the sum before was rounded up "
            f"to {bought[number]} of {pool} samples: raise it"
        )
    return labels


def _amount(budget: int | str, pool: int) -> Fraction:
    """The exact number of samples of a budget; see `budget_count` for what it raises."""
    # Python refuses to read thousands of digits, and nobody means them.
    told = re.fullmatch(r"(\d{1,30}(?:\.\d{1,30})?)\s*(%?)", str(budget).strip())
    amount = Fraction(told[1]) if told else Fraction(0)
    if not told or (not told[2] and amount.denominator > 1):
        raise UserError(
            "a budget is a number of labels of at least 1, as 30, or a share of the pool, as 5%, and not "
            f'"{str(budget)[:40]}"'
        )
    if amount == 0:
        raise UserError(f"the budget must be at least 1, not {budget}")
    if not told[2]:
        return amount
    if amount > 100:
        raise UserError(f"a budget of {budget} is more than the pool: name a share of 100% or less")
    return amount * pool / 100


def _rounded_up(amount: Fraction) -> int:
    return int(-(-amount // 1))


def check_rounds(budget: int | Sequence[int], rounds: int, unlabelled: int) -> None:
    """Raises UserError for a budget or number of rounds that is not positive, or that needs more samples than there
    are. budget: labels a round, or those of each."""
    budgets = [budget] * max(rounds, 1) if isinstance(budget, int) else list(budget)
    if rounds < 1 or min(budgets) < 1:
        raise UserError(f"budget and rounds must be at least 1, not {min(budgets)} and {rounds}")
    if sum(budgets) > unlabelled:
        each = " + ".join(map(str, budgets)) if len(set(budgets)) > 1 else str(budgets[0])
        raise UserError(
            f"{rounds} rounds of {each} need {sum(budgets)} unlabelled samples, and the pool has {unlabelled}: "
            "lower the budget or the rounds"
        )


def generator_of(seed: int, number: int) -> torch.Generator:
    """The generator that the strategy gets in that round: a function of the two numbers alone."""
    return torch.Generator().manual_seed(seed * 1_000_003 + number)


def query_of(pool: Pool, seen: Mapping[str, Any]) -> Query:
    """What was predicted for the whole pool, split into the unlabelled (the candidates) and the labelled side.

    seen: fields of a `Query`, those per sample over all of `pool.ids`, in their (ascending) order. With the pool as
    `active.round_files.pool_at` gives it, and seen of the round's model, it is the query that the round's strategy got.
    """
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
    """Rows of these ids in a tensor over the whole pool (whose ids ascend). Used here only, and never kept: a row is no
    id."""
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
