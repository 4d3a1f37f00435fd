"""What one trial of active_adaptation's one training does, each a function of its JSON arguments alone.

    begin     up to the epoch of the first query: the same for all strategies of a seed
    ask_at    from there: ask at the end of each epoch named, train on with the labels, evaluate each epoch of the end

The parts are one training: weights, optimiser, dropout and schedules go on, as in `active.learners.dan.run_rounds`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from experiments.jobs.arena import Place, copied, load_train_config, network, outputs_of, shown_to, sides_of, started
from experiments.transfers import machine

if TYPE_CHECKING:
    from torch import Tensor

    from active.pool import Pool
    from dan.models.dan import DAN

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
    import torch
    from torch.utils.data import Subset

    from active.learners.dan import with_labels
    from active.loop import rounds
    from active.pool import Pool
    from active.strategies import get_strategy
    from dan.data.batches import derived_seed, num_samples
    from dan.run_metadata import labels_of
    from dan.training.trainer import fit

    began, where, start = time.process_time(), Place(**place), folder.parent / begun / BEGUN
    made, _, data = started(where, task, start, seed)
    count = num_samples(data.target)
    batch = load_train_config(task, how, 1).batch_size
    ends, epoch = ends_of(count, batch, [*query_epochs, epochs]), ends_of(count, batch, [1])[0]
    evaluations: list[dict[str, Any]] = []

    with TemporaryDirectory(dir=folder, prefix=".rounds") as scratch:
        parts = [start, *(Path(scratch) / f"round_{number:02d}" for number in range(1, len(ends)))]

        def train(number: int, earlier: Path, known: Tensor, labels: Tensor) -> DAN:
            """On from `earlier` to the end of part `number`."""
            model, last = copied(made), number == len(query_epochs)
            rest = torch.ones(count, dtype=torch.bool)
            rest[known] = False
            tests: dict[str, Any] = {}
            if last:
                tests = {**data.splits, "unqueried": Subset(data.target, rest.nonzero().flatten().tolist())}
            records = fit(
                model,
                data.source,
                data.target,
                labelled_target=with_labels(data.target, known, labels) if len(known) else None,
                trade_off=trade_off,
                steps=ends[number],
                total_steps=ends[-1],
                seed=derived_seed(seed, 0),
                config=load_train_config(task, {**how, "checkpoint_every": ends[-1]}, epoch if last else ends[-1]),
                tests=tests,
                run=parts[number],
                continue_from=earlier,
                log_mmd=False,
            )
            if last:
                told = [{k: v for k, v in r.items() if k.startswith("accuracy") or k == "step"} for r in records]
                # Without strategy the part begins at the first query's epoch: the oracle chooses among the same ones.
                evaluations.extend(evaluation for evaluation in told if evaluation["step"] > ends[-2])
            return model

        def trained(pool: Pool, number: int) -> DAN:
            return train(number, parts[number - 1], pool.labelled_ids, pool.labels) if number else copied(made)

        def seen(model: DAN, ids: Tensor) -> dict[str, Any]:
            return shown_to(strategy or "random", model, where, task, start, seed)

        asked: list[dict[str, Any]] = []
        if strategy is None:
            nothing = torch.empty(0, dtype=torch.long)
            train(len(query_epochs), start, nothing, nothing)
        else:
            pool = Pool(torch.arange(count), labels_of(data.target))
            loop = rounds(
                pool,
                get_strategy(strategy),
                fit=trained,
                predict=seen,
                budget=budget,
                num_rounds=len(query_epochs),
                seed=seed,
            )
            asked = [{k: v for k, v in record.items() if k not in ("event", "seconds")} for record in loop]
    made_of: dict[str, Any] = {"rounds": asked, "evaluations": evaluations, "pool": count, "measured_on": machine()}
    return made_of | {"labels": asked[-1]["labelled"] if asked else 0, "cpu_seconds": time.process_time() - began}
