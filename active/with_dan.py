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
from torch.utils.data import Dataset, TensorDataset

from active.pool import Pool
from active.rounds import rounds as each_round
from active.seen import seen_of
from active.strategies import needs_of, strategy_named
from dan.batches import derived_seed, gather, size
from dan.checkpoint import load_kernels, load_model
from dan.devices import choose_device
from dan.domains.tasks import Transfer
from dan.doors.run_settings import labels_of, recipe_of, settings_of
from dan.errors import UserError
from dan.evaluation import evaluate
from dan.monitor import Monitor
from dan.networks.dan import DAN
from dan.run_folder import Record, read_records
from dan.training import Recipe, fit
from dan.trunk_cache import CachedOutputs, cached


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
    cache: Path | bool = False,
    device: str = "cpu",
    quiet: bool = True,
) -> Iterator[Record]:
    """Active rounds on a transfer, from the trained network in the run folder `start`: yields `rounds + 1` records.

    strategy: a name of STRATEGIES, "NAME@SHARE", or "module:function". budget: labels a round. round_steps: training
    steps after each purchase. run: the folder that everything goes to; the same call on the same folder goes on where
    it was killed. recipe: default: that of `start`. cache: compute the outputs of the frozen first stages once, as in
    `dan.training.fit`: True keeps them in memory, a folder on the disk; a round then takes seconds.
    The records are those of `active.rounds.rounds`, with "accuracy/target_test" on the held-out target split.
    Raises UserError for an unknown strategy, an impossible budget, or a cache where nothing is frozen.
    """
    if not task.target_labelled:
        raise UserError(f"the target of {task.name} has no labels, so nobody can answer: simulated rounds need them")
    ask, wanted = strategy_named(strategy), needs_of(strategy)
    recipe = recipe or recipe_of(settings_of(start))
    recipe = replace(recipe, schedule="constant")  # the start is aligned already: nothing to ramp up
    pool = Pool(torch.arange(size(task.target)), labels_of(task.target))
    about = {
        "task": task.name,
        "strategy": strategy,
        "start": start.name,
        "round_steps": round_steps,
        "trade_off": trade_off,
    }
    whole = task  # with its images, to be shown and for views
    if cache:
        task = _after_trunk(task, load_model(start), None if cache is True else Path(cache), device, quiet)
    entry = getattr(task.target, "after_stages", 0)

    kernels: dict[str, Tensor] = {}  # of the network that `trained` gave last

    def trained(pool: Pool, number: int) -> DAN:
        folder = run / f"round_{number:02d}"
        before = start if number <= 1 else run / f"round_{number - 1:02d}"
        model = load_model(before)
        if number:
            fit(
                model,
                task.source,
                task.target,
                labelled=_with_labels(task.target, pool.labelled_ids, pool.labels),
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

    def seen(model: DAN, ids: Tensor) -> dict[str, Any]:
        return seen_of(model, task, ids, needs=wanted, kernels=kernels, seed=seed, images=whole.target)

    def on_test(model: DAN) -> Mapping[str, float]:
        if task.target_test is None:
            return {}
        return {"accuracy/target_test": evaluate(model, task.target_test, start=entry).accuracy}

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
                _show(monitor, whole, record)
            yield record


def _after_trunk(task: Transfer, model: DAN, folder: Path | None, device: str, quiet: bool) -> Transfer:
    """The same transfer as outputs of the network's frozen first stages."""
    if not model.cached_stages:
        raise UserError("there is nothing to cache: start from a network whose first stages are frozen")
    place = choose_device(device)

    def outputs(data: Dataset[Any] | None) -> Dataset[Any] | None:
        return None if data is None else cached(data, model, model.cached_stages, folder, device=place, quiet=quiet)

    names = ("source", "source_test", "target", "target_test")
    new: dict[str, Any] = {name: outputs(getattr(task, name)) for name in names}
    return replace(task, **new)


def _with_labels(target: Dataset[Any], ids: Tensor, labels: Tensor) -> Dataset[Any]:
    """These target samples with the labels that were bought for them."""
    if isinstance(target, CachedOutputs):
        return target.rows(ids, labels)
    return TensorDataset(gather(target, ids)[0], labels)


def _show(monitor: Monitor, task: Transfer, record: Record) -> None:
    """The round's accuracies against its number, and the pictures that it asked for."""
    figures = {name: value for name, value in record.items() if name.startswith("accuracy/")}
    monitor.scalars(figures | {"labels": record["labelled"]}, record["round"])
    if record["asked"]:
        images, answers = gather(task.target, torch.tensor(record["asked"]))
        captions = [task.classes[int(answer)] for answer in answers]
        monitor.pictures(images, captions, record["round"], "asked")
