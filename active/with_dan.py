"""Rounds with a DAN as the learner: what ties `active.rounds` to `dan.training`, for the doors and for experiments.

Two schedules:

    rounds       the start asks; after each purchase so many steps, by fine-tuning, from scratch, or continuing
    query_at     one training, which asks at the end of given epochs, as in the papers on active adaptation

A network is trained on source labels, bought target labels and the alignment. Each round's training is a run folder of
its own, RUN/round_03, so a kill in the middle of one loses at most a checkpoint's steps.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from active.pool import Pool, Query
from active.rounds import check_rounds, labels_of_rounds
from active.rounds import rounds as each_round
from active.seen import seen_of
from active.strategies import needs_of, strategy_named
from dan.batches import derived_seed, gather, size
from dan.checkpoint import load_kernels, load_model
from dan.devices import choose_device
from dan.domains.tasks import Transfer
from dan.doors.run_settings import labels_of, recipe_of, settings_of
from dan.errors import UserError, nearest
from dan.evaluation import evaluate
from dan.monitor import Monitor
from dan.networks.dan import DAN
from dan.progress import showing
from dan.recipes import check_recipe
from dan.run_folder import Record, read_records, read_tensors
from dan.training import Recipe, fit
from dan.trunk_cache import CachedOutputs, cached_transfer, stages_run

Between = Literal["scratch", "fine-tune", "continue"]
BETWEEN = ("scratch", "fine-tune", "continue")
SIDES = ("target", "source")


@dataclass(frozen=True, kw_only=True)
class Part:
    """The training of one round. before: whose weights it starts from. earlier: the folder whose optimiser and schedule
    it continues, or None. steps: as `dan.training.fit` counts them. of_steps: those of the whole, or None.
    """

    before: Path
    earlier: Path | None
    steps: int
    of_steps: int | None
    seed: int


def folder_of(run: Path, start: Path, number: int) -> Path:
    """The folder with the network that asked in round `number`: RUN/round_NN, or the start where it asked itself."""
    own = run / f"round_{number:02d}"
    return own if number or own.is_dir() else start


def check_plan(
    task: Transfer,
    *,
    budget: int | str | Sequence[int | str],
    rounds: int | None = None,
    round_steps: int | None = None,
    between: str | None = None,
    query_at: Sequence[int] = (),
    epochs: int | None = None,
    labelled_side: str = "target",
    trade_off: float,
    recipe: Recipe,
) -> None:
    """Raises UserError for rounds that cannot be run as asked for; see `run_rounds`. It takes no time: ask it first."""
    if not task.target_labelled:
        raise UserError(f"the target of {task.name} has no labels, so nobody can answer: simulated rounds need them")
    for name, value, valid in (("between", between, (*BETWEEN, None)), ("labelled_side", labelled_side, SIDES)):
        if value not in valid:
            known = [word for word in valid if word]
            raise UserError(f'unknown {name} "{value}"{nearest(str(value), known)}: one of {", ".join(known)}')
    check_recipe(recipe, 1)
    for domain, data in (("source", task.source), ("target", task.target)):
        if recipe.batch_size > size(data) and (domain == "source" or trade_off):
            raise UserError(
                f"batch_size {recipe.batch_size} is larger than the {domain}'s {size(data)} samples: lower --batch-size"
            )
    if query_at:
        if rounds is not None or round_steps is not None:
            raise UserError("query_at says when the one training asks: leave out rounds and round_steps")
        if between not in (None, "continue"):
            raise UserError(f"query_at is one training, which continues: between cannot be {between}")
        if query_at[0] < 1 or any(b <= a for a, b in zip(query_at, query_at[1:], strict=False)):
            raise UserError(f"query_at must be rising epochs from 1 on, not {' '.join(map(str, query_at))}")
        if epochs is None or epochs <= query_at[-1]:
            raise UserError(
                f"epochs must be more than {query_at[-1]}, where the last labels are asked for: not {epochs}"
            )
    else:
        if epochs is not None:
            raise UserError("epochs are those of the one training with query_at: name both, or neither")
        told = rounds is not None or not isinstance(budget, (int, str))
        if not told or round_steps is None or round_steps < 1:
            raise UserError(f"rounds and round_steps must be at least 1, not {rounds} and {round_steps}")
    pool = size(task.target)
    budgets = labels_of_rounds(budget, len(query_at) or rounds, pool)
    check_rounds(budgets, len(budgets), pool)
    if labelled_side == "source":
        if not trade_off:
            raise UserError("labelled_side source is of the alignment, and at trade-off 0 nothing is aligned")
        left = pool - sum(budgets)
        if left < recipe.batch_size:
            raise UserError(
                f"{left} target samples are left in the end, fewer than a batch of {recipe.batch_size}: lower the "
                "budget, the rounds or the batch size"
            )


def run_rounds(
    task: Transfer,
    strategy: str,
    *,
    start: Path,
    budget: int | str | Sequence[int | str],
    rounds: int | None = None,
    round_steps: int | None = None,
    between: Between | None = None,
    query_at: Sequence[int] = (),
    epochs: int | None = None,
    labelled_side: Literal["target", "source"] = "target",
    trade_off: float,
    seed: int,
    run: Path,
    recipe: Recipe | None = None,
    cache: Path | bool = False,
    device: str = "cpu",
    quiet: bool = True,
) -> Iterator[Record]:
    """Active rounds on a transfer, from the network in the run folder `start`: yields one record more than rounds.

    strategy: a name of STRATEGIES, "NAME@SHARE", or "module:function". budget: labels a round, or a share of the target
    as "5%"; or one of these for each round (`active.rounds.labels_of_rounds`), and then `rounds` may be left out. run:
    the folder that everything goes to; the same call on the same folder goes on where it was killed. recipe: default:
    that of `start`. cache: compute the outputs of the frozen first stages once, as in `dan.training.fit`: True keeps
    them in memory, a folder on the disk; a round then takes seconds.

    rounds, round_steps: the start asks, and after each purchase there are so many steps. between: where they begin:
        "fine-tune" (default): at the last round's weights, with a new optimiser;
        "scratch": at the start's weights again, with a new optimiser;
        "continue": at the last round's weights, optimiser, method's state and step: rates decay on.
    query_at, epochs: one training instead, of so many epochs, from the start's weights on, which asks at the end of
        each epoch named. An epoch is one pass over the target, labelled or not. Rates and trade-off follow the recipe's
        schedules over the whole.
    labelled_side: where the alignment sees labelled samples: see `dan.training.fit`. "source" takes them out of the
        target.

    The records are those of `active.rounds.rounds`, with "accuracy/target_test" on the held-out target split. Ids are
    positions in `task.target`.
    Raises UserError for an unknown strategy, an impossible plan, or a cache where nothing is frozen.
    """
    ask, wanted = strategy_named(strategy), needs_of(strategy)
    recipe = recipe or recipe_of(settings_of(start))
    check_plan(
        task,
        budget=budget,
        rounds=rounds,
        round_steps=round_steps,
        between=between,
        query_at=query_at,
        epochs=epochs,
        labelled_side=labelled_side,
        trade_off=trade_off,
        recipe=recipe,
    )
    asking = len(labels_of_rounds(budget, len(query_at) or rounds, size(task.target)))
    if not query_at:
        recipe = replace(recipe, schedule="constant")  # the start is aligned already: nothing to ramp up
    pool = Pool(torch.arange(size(task.target)), labels_of(task.target))
    about: dict[str, Any] = {"task": task.name, "strategy": strategy, "start": start.name}
    if query_at:
        about |= {"query_at": list(query_at), "epochs": epochs}
    else:
        about |= {"round_steps": round_steps} | ({"between": between} if between not in (None, "fine-tune") else {})
    about |= {"cache_trunk": True} if cache else {}
    about |= {"trade_off": trade_off} | ({"labelled_side": labelled_side} if labelled_side != "target" else {})
    whole = task  # with its images, to be shown and for views
    if cache:
        folder = None if cache is True else Path(cache)
        task = cached_transfer(task, load_model(start), folder, device=choose_device(device), quiet=quiet)
    entry = stages_run(task.target)

    def part(number: int) -> Part:
        if query_at:
            pass_over = -(-size(task.target) // recipe.batch_size)
            ends = [pass_over * epoch for epoch in (*query_at, epochs or 0)]
            before = run / f"round_{number - 1:02d}" if number else start
            earlier = before if number else None
            return Part(
                before=before, earlier=earlier, steps=ends[number], of_steps=ends[-1], seed=derived_seed(seed, 0)
            )
        before = folder_of(run, start, number - 1)
        if between == "continue":
            steps = _steps_of(start) + number * (round_steps or 0)
            return Part(before=before, earlier=before, steps=steps, of_steps=None, seed=derived_seed(seed, 0))
        before = start if between == "scratch" else before
        return Part(before=before, earlier=None, steps=round_steps or 0, of_steps=None, seed=derived_seed(seed, number))

    kernels: dict[str, Tensor] = {}  # of the network that `trained` gave last

    def trained(pool: Pool, number: int) -> DAN:
        if number == 0 and not query_at:
            kernels.update(load_kernels(start))
            return load_model(start)
        this, folder = part(number), run / f"round_{number:02d}"
        model = load_model(this.before)
        known = len(pool.labelled_ids) > 0
        joins = labelled_side == "source" and known
        fit(
            model,
            task.source,
            _rows_of(task.target, pool.unlabelled_ids) if joins else task.target,
            labelled=with_labels(task.target, pool.labelled_ids, pool.labels) if known else None,
            labelled_side="source" if joins else "target",
            trade_off=trade_off,
            steps=this.steps,
            seed=this.seed,
            recipe=replace(recipe, feature_map=number == asking),
            run=folder,
            earlier=this.earlier,
            of_steps=this.of_steps,
            about={"task": task.name, "asked": pool.labelled_ids.tolist()},
            device=device,
            quiet=quiet,
        )
        kernels.clear()
        kernels.update(load_kernels(folder))
        return model

    def seen(model: DAN, ids: Tensor) -> dict[str, Any]:
        return seen_of(model, task, ids, needs=wanted, kernels=kernels, seed=seed, images=whole.target)

    def asking_aloud(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
        with showing(quiet=quiet):
            return ask(query, budget, generator=generator)

    def on_test(model: DAN) -> Mapping[str, float]:
        if task.target_test is None:
            return {}
        return {"accuracy/target_test": evaluate(model, task.target_test, start=entry).accuracy}

    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{run} cannot be written ({error.strerror or error}): name another --run") from None
    done = read_records(run / "records.jsonl")
    shown = sum(record["event"] == "round" for record in done)
    with Monitor(run, step=shown) as monitor:
        loop = each_round(
            pool,
            asking_aloud,
            fit=trained,
            predict=seen,
            evaluate=on_test,
            budget=budget,
            rounds=asking,
            seed=seed,
            run=run,
            about=about,
        )
        for record in loop:
            if record["round"] >= shown:
                _show(monitor, whole, record)
            yield record


def _steps_of(start: Path) -> int:
    """The step at which the start's training ended, which a training that continues it counts from."""
    path = start / "resume.pt"
    if not path.exists():
        raise UserError(f"{path} does not exist, so that nothing can continue: choose between fine-tune and scratch")
    return int(read_tensors(path, "cpu")["step"])


def with_labels(target: Dataset[Any], ids: Tensor, labels: Tensor) -> Dataset[Any]:
    """These target samples with the labels (L,) that were bought for them; ids: positions in `target`."""
    if isinstance(target, CachedOutputs):
        return target.rows(ids, labels)
    return TensorDataset(gather(target, ids)[0], labels)


def _rows_of(target: Dataset[Any], ids: Tensor) -> Dataset[Any]:
    """The target samples of these ids alone. A position in it is no id: only `fit` gets it, which knows none."""
    if isinstance(target, CachedOutputs):
        return target.rows(ids, target.tensors[1][ids])
    return Subset(target, ids.tolist())


def _show(monitor: Monitor, task: Transfer, record: Record) -> None:
    """The round's accuracies against its number, and the pictures that it asked for."""
    figures = {name: value for name, value in record.items() if name.startswith("accuracy/")}
    monitor.scalars(figures | {"labels": record["labelled"]}, record["round"])
    if record["asked"]:
        images, answers = gather(task.target, torch.tensor(record["asked"]))
        captions = [task.classes[int(answer)] for answer in answers]
        monitor.pictures(images, captions, record["round"], "asked")
