"""Rounds with a DAN as the learner: what ties `active.loop` to `dan.training.trainer`.

    L = CE(source batch) + CE(batch of all labels bought so far) + lambda * alignment(source, target)

When the network queries and what is trained between is in `active.learners.rounds_config`. With a run folder each
round's training is a run folder of its own, RUN/round_03, so a kill in the middle of one loses at most a checkpoint's
steps; without one everything stays in memory.
"""

import copy
import weakref
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import torch
from torch import Tensor

from active.learners.rounds_config import RoundsConfig, RoundTraining, check_rounds_config, round_training
from active.loop import run_loop
from active.pool import Pool
from active.query_fields import query_fields
from active.strategies import resolve_strategy
from dan.data.batches import derived_seed, fetch, labels_of, num_samples
from dan.data.domain_pair import DomainPair
from dan.devices import choose_device
from dan.errors import UserError
from dan.evaluation.metrics import evaluate
from dan.feature_cache import cached_pair, stages_run
from dan.models.dan import DAN
from dan.models.model_file import load_kernels, load_model
from dan.row_sets import rows_of, with_labels
from dan.run_dir import Record, read_records, read_tensors
from dan.run_metadata import load_run_config, load_train_config
from dan.training.streams import seeded_draws
from dan.training.tensorboard import TensorBoardLogger
from dan.training.trainer import TrainConfig, fit

COMMON_LADDER = (5, 2.0)  # number and ratio of the kernels that a query has without kernels of the training


def folder_of(run: Path | str, start: Path | str, number: int) -> Path:
    """The folder with the network that queried in round `number`: RUN/round_NN, or the start if that queried."""
    own = Path(run) / f"round_{number:02d}"
    return own if number or own.is_dir() else Path(start)


class DANLearner:
    """A DAN trained on source labels, bought target labels and the alignment; see `active.learner.Learner`.

    task: images, or outputs of the network's frozen first stages (`dan.feature_cache.cached_pair`). Ids are positions
        in `task.target`.
    start: the network before the first round, which stays as it is: a DAN, or the run folder of one.
    rounds: `RoundsConfig`; its budget is not the learner's concern, but for the number of the last round.
    config: `TrainConfig`; default: that of the start's run folder, or the defaults.
    run: a folder for the trainings, RUN/round_NN, which are resumed there; None keeps the networks in memory. A
        training that continues the last one needs its checkpoint: without `run` it is in a temporary folder, which is
        removed with the learner.
    cache: compute the outputs of the frozen first stages once, as in `dan.training.trainer.fit`: True keeps them in
        memory, a folder on the disk; a round then takes seconds.
    num_workers: processes that load the batches of a training, as in `dan.training.trainer.fit`.

    model: the network as trained last. kernels: those that it was aligned under. records: of the last training.
    Raises UserError for a cache where nothing is frozen.
    """

    def __init__(
        self,
        task: DomainPair,
        start: DAN | Path | str,
        rounds: RoundsConfig,
        *,
        seed: int,
        config: TrainConfig | None = None,
        run: Path | str | None = None,
        cache: Path | str | bool = False,
        num_workers: int = 0,
        device: str = "cpu",
        quiet: bool = True,
    ) -> None:
        self.start = start if isinstance(start, DAN) else Path(start)
        self.rounds, self.seed, self.device, self.quiet = rounds, seed, device, quiet
        self.num_workers = num_workers
        config = config or _config_of(self.start)
        # The start is aligned already: the trade-off of rounds does not ramp up again. A guarded one stays guarded, for
        # a network that is retrained from scratch can collapse as the first one could.
        keep = rounds.query_epochs or config.schedule == "guarded"
        self.config = config if keep else replace(config, schedule="constant")
        self.images = task.target  # to be viewed, where the task holds outputs of a frozen backbone
        begins = {} if isinstance(self.start, DAN) else {"start": self.start.name}
        kept = {"cache_backbone": True} if cache else {}
        self._metadata: dict[str, Any] = {"task": task.name, **begins, **rounds.metadata, **kept}
        if cache:
            folder = None if cache is True else Path(cache)
            task = cached_pair(task, self._started(), folder, device=choose_device(device), quiet=quiet)
        self.task = task
        if run is None and self._needs_folder():
            run = mkdtemp(prefix="active-")
            weakref.finalize(self, rmtree, run, ignore_errors=True)
        self.run = None if run is None else Path(run)
        self.model: DAN | None = None
        self.kernels: dict[str, Tensor] = {}
        self.records: list[Record] = []
        self._round = -1

    @property
    def metadata(self) -> dict[str, Any]:
        """What a run keeps of the learner, as plain values."""
        domain = self.rounds.labelled_domain
        where = {"labelled_domain": domain} if domain != "target" else {}
        return {**self._metadata, "trade_off": self.rounds.trade_off, **where}

    def fit(self, pool: Pool, round: int) -> None:
        """The start in round 0, unless the rounds are one training; else the training of this round."""
        if round == 0 and not self.rounds.query_epochs:
            self.model, self.kernels = self._started(), {} if isinstance(self.start, DAN) else load_kernels(self.start)
        else:
            self.train(pool, round)
        self._round = round

    def train(self, pool: Pool, round: int) -> None:
        """Train the network of this round on all labels of the pool, as the `RoundTraining` of the round says."""
        training, target = self.training_of(round), self.task.target
        labelled = len(pool.labelled_ids) > 0
        joins = self.rounds.labelled_domain == "source" and labelled
        model = self._before(training, round)
        folder = None if self.run is None else self.folder(round)
        options: dict[str, Any] = {
            "labelled_target": with_labels(target, pool.labelled_ids, pool.labels) if labelled else None,
            "labelled_domain": "source" if joins else "target",
            "trade_off": self.rounds.trade_off,
            "steps": training.steps,
            "seed": training.seed,
            "config": replace(self.config, feature_map=self._is_last(round)),
            "run": folder,
            "continue_from": self.previous(round) if training.continues else None,
            "total_steps": training.total_steps,
            "metadata": {"task": self.task.name, "queried": pool.labelled_ids.tolist()},
            "num_workers": self.num_workers,
            "device": self.device,
            "verbose": not self.quiet,
        }
        options |= self.fit_options(pool, round)
        self.records = fit(
            model, self.task.source, rows_of(target, pool.unlabelled_ids) if joins else target, **options
        )
        self.model, self.kernels = model, {} if folder is None else load_kernels(folder)

    def training_of(self, round: int) -> RoundTraining:
        """How this round is trained."""
        epoch_steps = -(-num_samples(self.task.target) // self.config.batch_size)
        start_steps = self._start_steps() if self.rounds.retrain == "continue" and not self.rounds.query_epochs else 0
        return round_training(self.rounds, round, epoch_steps=epoch_steps, start_steps=start_steps, seed=self.seed)

    def fit_options(self, pool: Pool, round: int) -> Mapping[str, Any]:
        """Other options of `dan.training.trainer.fit` for this round: to be overridden."""
        return {} if self.run is not None else {"log_mmd": False}

    def query_fields(self, ids: Tensor, needs: frozenset[str]) -> dict[str, Any]:
        """See `active.query_fields.query_fields`."""
        options: dict[str, Any] = {"needs": needs, "kernels": self.kernels, "seed": self.seed, "images": self.images}
        with self._seeded():
            return query_fields(self.trained, self.task, ids, **options)

    def evaluate(self) -> dict[str, float]:
        """Accuracy on the held-out target split, if the task has one."""
        if self.task.target_test is None:
            return {}
        start = stages_run(self.task.target)
        with self._seeded():
            return {"accuracy/target_test": evaluate(self.trained, self.task.target_test, start=start).accuracy}

    def _seeded(self) -> AbstractContextManager[None]:
        """Data sets with random transforms: what is predicted depends on the seed and the round alone."""
        return seeded_draws(derived_seed(self.seed, 9, self._round))

    def folder(self, round: int) -> Path:
        """The run folder of the network of this round; the start's for a round before the first training."""
        assert self.run is not None
        if self.rounds.query_epochs or isinstance(self.start, DAN):
            return self.run / f"round_{round:02d}"
        return folder_of(self.run, self.start, round)

    def previous(self, round: int) -> Path:
        """The run folder of the network that this round's training goes on from: to be overridden."""
        return self.folder(round - 1)

    @property
    def trained(self) -> DAN:
        """The network as trained last. Raises UserError before the first training."""
        if self.model is None:
            raise UserError("this learner is not trained yet: call its fit(pool, round) first")
        return self.model

    def _started(self) -> DAN:
        """A copy of the start."""
        return copy.deepcopy(self.start) if isinstance(self.start, DAN) else load_model(self.start)

    def _before(self, training: RoundTraining, round: int) -> DAN:
        """The network that this round's training begins with, a copy of its own but for fine-tuning in memory."""
        if training.from_start:
            return self._started()
        if self.run is None:
            if self._round != round - 1 or self.model is None:
                raise UserError(
                    f"round {round} trains on from round {round - 1}, which is not in memory: give the learner a run "
                    "folder, or begin with round 0"
                )
            return self.model
        if round == 1 and isinstance(self.start, DAN) and not self.rounds.query_epochs:
            return self._started()
        return load_model(self.previous(round))

    def _needs_folder(self) -> bool:
        """Whether a round needs what only a run folder keeps: the optimiser's state, or the kernels of the training."""
        kernels = (self.config.num_kernels, self.config.bandwidth_ratio)
        return self.rounds.continues or self.config.kernel_weights == "qp" or kernels != COMMON_LADDER

    def _is_last(self, round: int) -> bool:
        budget = self.rounds.budget
        return budget is not None and round == len(self.rounds.budgets(num_samples(self.task.target)))

    def _start_steps(self) -> int:
        """The step at which the start's training ended, which a training that continues it counts from."""
        if isinstance(self.start, DAN):
            raise UserError("a network in memory has no optimiser to continue with: choose fine-tune or scratch")
        path = self.start / "resume.pt"
        if not path.exists():
            raise UserError(
                f"{path} does not exist, so that nothing can continue: choose between fine-tune and scratch"
            )
        return int(read_tensors(path, "cpu")["step"])


def run_rounds(
    task: DomainPair,
    strategy: str,
    rounds: RoundsConfig,
    *,
    start: Path | str,
    seed: int,
    run: Path | str,
    config: TrainConfig | None = None,
    quiet: bool = True,
    **options: Any,
) -> Iterator[Record]:
    """Active rounds on a task, from the network in the run folder `start`: yields one record more than rounds.

    strategy: a name of STRATEGIES, "NAME@SHARE", or "module:function". run: the folder of the whole run; the same call
    on the same folder goes on where it was killed. options: `cache`, `num_workers` and `device` of `DANLearner`, as are
    the other arguments.

    The records are those of `active.loop.rounds`, with "accuracy/target_test" on the held-out target split. Ids are
    positions in `task.target`.
    Raises UserError for an unknown strategy, impossible rounds, or a cache where nothing is frozen.
    """
    resolve_strategy(strategy)
    run, start = Path(run), Path(start)
    config = config or _config_of(start)
    check_rounds_config(task, rounds, config)
    assert rounds.budget is not None  # checked
    learner = DANLearner(task, start, rounds, seed=seed, config=config, run=run, quiet=quiet, **options)
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{run} cannot be written ({error.strerror or error}): name another --run") from None
    finished = sum(record["event"] == "round" for record in read_records(run / "records.jsonl"))
    with TensorBoardLogger(run, step=finished) as monitor:
        loop = run_loop(
            Pool(torch.arange(num_samples(task.target)), labels_of(task.target)),
            strategy,
            learner,
            budget=rounds.budget,
            num_rounds=len(rounds.budgets(num_samples(task.target))),
            seed=seed,
            run=run,
            metadata={"task": task.name, "strategy": strategy, **learner.metadata},
            quiet=quiet,
        )
        for record in loop:
            if record["round"] >= finished:
                _log(monitor, task, record)
            yield record


def _config_of(start: DAN | Path) -> TrainConfig:
    return TrainConfig() if isinstance(start, DAN) else load_train_config(load_run_config(start))


def _log(monitor: TensorBoardLogger, task: DomainPair, record: Record) -> None:
    """The round's accuracies against its number, and the images that it queried; vectors have none."""
    figures = {name: value for name, value in record.items() if name.startswith("accuracy/")}
    monitor.scalars(figures | {"labels": record["labelled"]}, record["round"])
    if record["queried"] and task.kind == "image":
        images, labels = fetch(task.target, torch.tensor(record["queried"]))
        captions = [task.classes[int(label)] for label in labels]
        monitor.pictures(images, captions, record["round"], "queried")
