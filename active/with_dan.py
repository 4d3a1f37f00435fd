"""Rounds with a DAN as the learner: what ties `active.rounds` to `dan.training`, for the doors and for experiments.

Between rounds the network is trained on (never from scratch) on source labels, bought target labels and the alignment.
Each round's training is a run folder of its own, so a kill in the middle of one loses at most a checkpoint's steps.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from active.pool import Pool
from active.rounds import rounds as each_round
from active.seen import seen_of
from active.strategies import needs_of, strategy_named
from dan.batches import derived_seed, gather, size
from dan.checkpoint import load_kernels, load_model
from dan.domains.tasks import Transfer
from dan.errors import UserError
from dan.evaluation import evaluate
from dan.monitor import Monitor
from dan.networks.dan import DAN
from dan.run_folder import Record, read_records
from dan.training import Recipe, fit


def run_rounds(
    task: Transfer,
    strategy: str,
    *,
    start: Path,
    budget: int,
    rounds: int,
    round_steps: int,
    trade_off: float,
    seed: int,
    run: Path,
    recipe: Recipe | None = None,
    device: str = "cpu",
    quiet: bool = True,
) -> Iterator[Record]:
    """Active rounds on a transfer, from the trained network in the run folder `start`: yields `rounds + 1` records.

    strategy: a name of STRATEGIES, or "module:function". budget: labels a round. round_steps: training steps after each
    purchase. run: the folder that everything goes to; the same call on the same folder goes on where it was killed.
    The records are those of `active.rounds.rounds`, with "accuracy/target_test" on the held-out target split.
    Raises UserError for an unknown strategy or an impossible budget.
    """
    if not task.target_labelled:
        raise UserError(f"the target of {task.name} has no labels, so nobody can answer: simulated rounds need them")
    recipe = replace(recipe or Recipe(), schedule="constant")  # the start is aligned already: nothing to ramp up
    everything = torch.arange(size(task.target))
    pool = Pool(everything, gather(task.target, everything)[1])
    about = {
        "task": task.name,
        "strategy": strategy,
        "start": start.name,
        "round_steps": round_steps,
        "trade_off": trade_off,
    }

    kernels: dict[str, Tensor] = {}  # of the network that `trained` gave last

    def trained(pool: Pool, number: int) -> DAN:
        folder = run / f"round_{number:02d}"
        before = start if number <= 1 else run / f"round_{number - 1:02d}"
        model = load_model(before)
        if number:
            images, _ = gather(task.target, pool.labelled_ids)
            fit(
                model,
                task.source,
                task.target,
                labelled=TensorDataset(images, pool.labels),
                trade_off=trade_off,
                steps=round_steps,
                seed=derived_seed(seed, number),
                recipe=replace(recipe, feature_map=number == rounds),
                run=folder,
                about={"task": task.name, "asked": pool.labelled_ids.tolist()},
                device=device,
                quiet=quiet,
            )
        kernels.clear()
        kernels.update(load_kernels(folder if number else before))
        return model

    ask = strategy_named(strategy)
    wanted = needs_of(strategy)

    def seen(model: DAN, ids: Tensor) -> dict[str, Any]:
        return seen_of(model, task, ids, needs=wanted, kernels=kernels, seed=seed)

    def on_test(model: DAN) -> Mapping[str, float]:
        return {} if task.target_test is None else {"accuracy/target_test": evaluate(model, task.target_test).accuracy}

    done = read_records(run / "records.jsonl")
    shown = sum(record["event"] == "round" for record in done)
    with Monitor(run, step=shown) as monitor:
        loop = each_round(
            pool,
            ask,
            fit=trained,
            predict=seen,
            evaluate=on_test,
            budget=budget,
            rounds=rounds,
            seed=seed,
            run=run,
            about=about,
        )
        for record in loop:
            if record["round"] >= shown:
                _show(monitor, task, record)
            yield record


def _show(monitor: Monitor, task: Transfer, record: Record) -> None:
    """The round's accuracies against its number, and the pictures that it asked for."""
    figures = {name: value for name, value in record.items() if name.startswith("accuracy/")}
    monitor.scalars(figures | {"labels": record["labelled"]}, record["round"])
    if record["asked"]:
        images, answers = gather(task.target, torch.tensor(record["asked"]))
        captions = [task.classes[int(answer)] for answer in answers]
        monitor.pictures(images, captions, record["round"], "asked")
