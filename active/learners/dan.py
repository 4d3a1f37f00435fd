"""Rounds with a DAN as the learner: what ties `active.loop` to `dan.training.trainer`, for the doors and for
experiments.

Two schedules:

    rounds       the start asks; after each purchase so many steps, by fine-tuning, from scratch, or continuing
    query_epochs     one training, which asks at the end of given epochs, as in the papers on active adaptation

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

from active.loop import budget_schedule, check_rounds
from active.loop import rounds as each_round
from active.pool import Pool, Query
from active.query_fields import query_fields
from active.strategies import get_strategy, required_fields
from dan.data.batches import derived_seed, fetch, num_samples
from dan.data.tasks import DomainPair
from dan.devices import choose_device
from dan.errors import UserError, nearest
from dan.evaluation.metrics import evaluate
from dan.feature_cache import CachedOutputs, cached_pair, stages_run
from dan.models.dan import DAN
from dan.models.model_file import load_kernels, load_model
from dan.progress import showing
from dan.run_dir import Record, read_records, read_tensors
from dan.run_metadata import labels_of, load_run_config, load_train_config
from dan.training.config import check_train_config
from dan.training.tensorboard import TensorBoardLogger
from dan.training.trainer import TrainConfig, fit

Retrain = Literal["scratch", "fine-tune", "continue"]
RETRAIN = ("scratch", "fine-tune", "continue")
SIDES = ("target", "source")


@dataclass(frozen=True, kw_only=True)
class Part:
    """The training of one round. before: whose weights it starts from. earlier: the folder whose optimiser and schedule
    it continues, or None. steps: as `dan.training.fit` counts them. total_steps: those of the whole, or None.
    """

    before: Path
    earlier: Path | None
    steps: int
    total_steps: int | None
    seed: int


def folder_of(run: Path, start: Path, number: int) -> Path:
    """The folder with the network that asked in round `number`: RUN/round_NN, or the start where it asked itself."""
    own = run / f"round_{number:02d}"
    return own if number or own.is_dir() else start


def check_plan(
    task: DomainPair,
    *,
    budget: int | str | Sequence[int | str],
    num_rounds: int | None = None,
    steps_per_round: int | None = None,
    retrain: str | None = None,
    query_epochs: Sequence[int] = (),
    epochs: int | None = None,
    labelled_domain: str = "target",
    trade_off: float,
    config: TrainConfig,
) -> None:
    """Raises UserError for rounds that cannot be run as asked for; see `run_rounds`. It takes no time: ask it first."""
    if not task.target_labelled:
        raise UserError(f"the target of {task.name} has no labels, so nobody can answer: simulated rounds need them")
    for name, value, valid in (("retrain", retrain, (*RETRAIN, None)), ("labelled_domain", labelled_domain, SIDES)):
        if value not in valid:
            known = [word for word in valid if word]
            raise UserError(f'unknown {name} "{value}"{nearest(str(value), known)}: one of {", ".join(known)}')
    check_train_config(config, 1)
    for domain, data in (("source", task.source), ("target", task.target)):
        if config.batch_size > num_samples(data) and (domain == "source" or trade_off):
            raise UserError(
                f"batch_size {config.batch_size} is larger than the {domain}'s {num_samples(data)} samples: lower "
                "--batch-size"
            )
    if query_epochs:
        if num_rounds is not None or steps_per_round is not None:
            raise UserError("query_epochs says when the one training asks: leave out rounds and steps_per_round")
        if retrain not in (None, "continue"):
            raise UserError(f"query_epochs is one training, which continues: retrain cannot be {retrain}")
        if query_epochs[0] < 1 or any(b <= a for a, b in zip(query_epochs, query_epochs[1:], strict=False)):
            raise UserError(f"query_epochs must be rising epochs from 1 on, not {' '.join(map(str, query_epochs))}")
        if epochs is None or epochs <= query_epochs[-1]:
            raise UserError(
                f"epochs must be more than {query_epochs[-1]}, where the last labels are asked for: not {epochs}"
            )
    else:
        if epochs is not None:
            raise UserError("epochs are those of the one training with query_epochs: name both, or neither")
        told = num_rounds is not None or not isinstance(budget, (int, str))
        if not told or steps_per_round is None or steps_per_round < 1:
            raise UserError(f"rounds and steps_per_round must be at least 1, not {num_rounds} and {steps_per_round}")
    pool = num_samples(task.target)
    budgets = budget_schedule(budget, len(query_epochs) or num_rounds, pool)
    check_rounds(budgets, len(budgets), pool)
    if labelled_domain == "source":
        if not trade_off:
            raise UserError("labelled_domain source is of the alignment, and at trade-off 0 nothing is aligned")
        left = pool - sum(budgets)
        if left < config.batch_size:
            raise UserError(
                f"{left} target samples are left in the end, fewer than a batch of {config.batch_size}: lower the "
                "budget, the rounds or the batch size"
            )


def run_rounds(
    task: DomainPair,
    strategy: str,
    *,
    start: Path,
    budget: int | str | Sequence[int | str],
    num_rounds: int | None = None,
    steps_per_round: int | None = None,
    retrain: Retrain | None = None,
    query_epochs: Sequence[int] = (),
    epochs: int | None = None,
    labelled_domain: Literal["target", "source"] = "target",
    trade_off: float,
    seed: int,
    run: Path,
    config: TrainConfig | None = None,
    cache: Path | bool = False,
    device: str = "cpu",
    quiet: bool = True,
) -> Iterator[Record]:
    """Active rounds on a transfer, from the network in the run folder `start`: yields one record more than rounds.

    strategy: a name of STRATEGIES, "NAME@SHARE", or "module:function". budget: labels a round, or a share of the target
    as "5%"; or one of these for each round (`active.loop.budget_schedule`), and then `rounds` may be left out. run:
    the folder that everything goes to; the same call on the same folder goes on where it was killed. config: default:
    that of `start`. cache: compute the outputs of the frozen first stages once, as in `dan.training.fit`: True keeps
    them in memory, a folder on the disk; a round then takes seconds.

    rounds, steps_per_round: the start asks, and after each purchase there are so many steps. retrain: where they begin:
        "fine-tune" (default): at the last round's weights, with a new optimiser;
        "scratch": at the start's weights again, with a new optimiser;
        "continue": at the last round's weights, optimiser, method's state and step: rates decay on.
    query_epochs, epochs: one training instead, of so many epochs, from the start's weights on, which asks at the end of
        each epoch named. An epoch is one pass over the target, labelled or not. Rates and trade-off follow the recipe's
        schedules over the whole.
    labelled_domain: where the alignment sees labelled samples: see `dan.training.fit`. "source" takes them out of the
        target.

    The records are those of `active.loop.rounds`, with "accuracy/target_test" on the held-out target split. Ids are
    positions in `task.target`.
    Raises UserError for an unknown strategy, an impossible plan, or a cache where nothing is frozen.
    """
    ask, wanted = get_strategy(strategy), required_fields(strategy)
    config = config or load_train_config(load_run_config(start))
    check_plan(
        task,
        budget=budget,
        num_rounds=num_rounds,
        steps_per_round=steps_per_round,
        retrain=retrain,
        query_epochs=query_epochs,
        epochs=epochs,
        labelled_domain=labelled_domain,
        trade_off=trade_off,
        config=config,
    )
    asking = len(budget_schedule(budget, len(query_epochs) or num_rounds, num_samples(task.target)))
    if not query_epochs:
        config = replace(config, schedule="constant")  # the start is aligned already: nothing to ramp up
    pool = Pool(torch.arange(num_samples(task.target)), labels_of(task.target))
    about: dict[str, Any] = {"task": task.name, "strategy": strategy, "start": start.name}
    if query_epochs:
        about |= {"query_epochs": list(query_epochs), "epochs": epochs}
    else:
        about |= {"steps_per_round": steps_per_round} | (
            {"retrain": retrain} if retrain not in (None, "fine-tune") else {}
        )
    about |= {"cache_backbone": True} if cache else {}
    about |= {"trade_off": trade_off} | ({"labelled_domain": labelled_domain} if labelled_domain != "target" else {})
    whole = task  # with its images, to be shown and for views
    if cache:
        folder = None if cache is True else Path(cache)
        task = cached_pair(task, load_model(start), folder, device=choose_device(device), quiet=quiet)
    entry = stages_run(task.target)

    def part(number: int) -> Part:
        if query_epochs:
            pass_over = -(-num_samples(task.target) // config.batch_size)
            ends = [pass_over * epoch for epoch in (*query_epochs, epochs or 0)]
            before = run / f"round_{number - 1:02d}" if number else start
            earlier = before if number else None
            return Part(
                before=before, earlier=earlier, steps=ends[number], total_steps=ends[-1], seed=derived_seed(seed, 0)
            )
        before = folder_of(run, start, number - 1)
        if retrain == "continue":
            steps = _steps_of(start) + number * (steps_per_round or 0)
            return Part(before=before, earlier=before, steps=steps, total_steps=None, seed=derived_seed(seed, 0))
        before = start if retrain == "scratch" else before
        return Part(
            before=before, earlier=None, steps=steps_per_round or 0, total_steps=None, seed=derived_seed(seed, number)
        )

    kernels: dict[str, Tensor] = {}  # of the network that `trained` gave last

    def trained(pool: Pool, number: int) -> DAN:
        if number == 0 and not query_epochs:
            kernels.update(load_kernels(start))
            return load_model(start)
        this, folder = part(number), run / f"round_{number:02d}"
        model = load_model(this.before)
        known = len(pool.labelled_ids) > 0
        joins = labelled_domain == "source" and known
        fit(
            model,
            task.source,
            _rows_of(task.target, pool.unlabelled_ids) if joins else task.target,
            labelled_target=with_labels(task.target, pool.labelled_ids, pool.labels) if known else None,
            labelled_domain="source" if joins else "target",
            trade_off=trade_off,
            steps=this.steps,
            seed=this.seed,
            config=replace(config, feature_map=number == asking),
            run=folder,
            continue_from=this.earlier,
            total_steps=this.total_steps,
            metadata={"task": task.name, "queried": pool.labelled_ids.tolist()},
            device=device,
            verbose=not quiet,
        )
        kernels.clear()
        kernels.update(load_kernels(folder))
        return model

    def seen(model: DAN, ids: Tensor) -> dict[str, Any]:
        return query_fields(model, task, ids, needs=wanted, kernels=kernels, seed=seed, images=whole.target)

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
    with TensorBoardLogger(run, step=shown) as monitor:
        loop = each_round(
            pool,
            asking_aloud,
            fit=trained,
            predict=seen,
            evaluate=on_test,
            budget=budget,
            num_rounds=asking,
            seed=seed,
            run=run,
            metadata=about,
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
    return TensorDataset(fetch(target, ids)[0], labels)


def _rows_of(target: Dataset[Any], ids: Tensor) -> Dataset[Any]:
    """The target samples of these ids alone. A position in it is no id: only `fit` gets it, which knows none."""
    if isinstance(target, CachedOutputs):
        return target.rows(ids, target.tensors[1][ids])
    return Subset(target, ids.tolist())


def _show(monitor: TensorBoardLogger, task: DomainPair, record: Record) -> None:
    """The round's accuracies against its number, and the pictures that it asked for."""
    figures = {name: value for name, value in record.items() if name.startswith("accuracy/")}
    monitor.scalars(figures | {"labels": record["labelled"]}, record["round"])
    if record["queried"]:
        images, answers = fetch(task.target, torch.tensor(record["queried"]))
        captions = [task.classes[int(answer)] for answer in answers]
        monitor.pictures(images, captions, record["round"], "queried")
