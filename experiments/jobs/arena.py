"""What one trial of the arena does, each a function of its JSON arguments alone: the shared start, a strategy's rounds,
all labels at once, and views of a domain's images.

    start     a DAN on the source and the unlabelled pool; then its trunk stays as it is, and is computed once
    rounds    ask; fine-tune the task-specific layers with all labels bought so far, from the last round's weights

A round is what `active.learners.dan.run_rounds` does on that start with its trunk frozen; only nothing is written.

Shapes: N samples of the pool; P views; C classes; F features.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dan.data.batched import BatchedDataset
from experiments.digits import trial as digits
from experiments.office_caltech10 import trial as office
from experiments.tasks import machine, transfer_named

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dan.data.domain_pair import DomainPair
    from dan.models.dan import DAN
    from dan.training.config import TrainConfig

TEN_CLASS = office.SET
BACKBONE = "squeezenet1_1"
EVERYTHING = "pool"  # the trunk's last stage: all of it is frozen
HELD_OUT = 0.3  # share of a ten-class target that is neither asked for nor aligned with: it has no test split
CONVOLUTIONS = "conv2"  # LeNet's last one: frozen after the start
VIEWS = 8  # P: the image itself, and 7 turned, shifted, scaled (and mirrored) ones
VIEW_SEED = 0  # one draw for all seeds: the trunk's outputs on the views of photographs are computed once
STREAM = 30  # of the seeds derived from a trial's, that of the held-out draw


@dataclass(frozen=True)
class Place:
    """Where the data of a task lie: `data`, the folder of data sets; `images`, the folder of decoded ones.

    Of the ten-class tasks: `weights` of SqueezeNet, the stage `frozen` that it is frozen up to, `image_size`, and
    `held_out`, the share of a target that is its test split (0: none). Of the tasks on digits: `samples`, at most so
    many images of each split, evenly spaced (0: all).
    """

    data: str
    images: str
    weights: str = ""
    image_size: int = 0
    samples: int = 0
    held_out: float = HELD_OUT
    frozen: str = EVERYTHING


@dataclass(frozen=True)
class Sides:
    """A task in one seed. transfer: its source, pool (`target`) and test split (`target_test`); no other split. whole:
    the target's images that `pool`, positions (N,), are of. validation: held-out source, or None."""

    transfer: DomainPair
    whole: Any
    pool: Tensor
    validation: Any


def sides_of(place: Place, task: str, seed: int) -> Sides:
    """The images of a task. A ten-class target is split by its size and the seed alone: it is the same split for every
    source and strategy. On digits the split is the set's own, and the same for all seeds."""
    import torch
    from torch.utils.data import Subset

    from dan.data.batches import derived_seed

    if not task.startswith(TEN_CLASS):
        whole = transfer_named(task, place.data, place.images)
        source, validation, target, test = (
            evenly(data, place.samples) for data in (whole.source, whole.source_test, whole.target, whole.target_test)
        )
        transfer = replace(whole, source=source, source_test=None, target=target, target_test=test)
        return Sides(transfer, target, torch.arange(len(target)), validation)
    whole = transfer_named(task, place.data, place.images, place.image_size)
    count = len(whole.target)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(derived_seed(seed, STREAM))
    order = torch.randperm(count, generator=generator)
    held = -int(-place.held_out * count // 1)
    test, pool = order[:held].sort().values, order[held:].sort().values
    held_out = Subset(whole.target, test.tolist()) if held else None
    transfer = replace(whole, target=Subset(whole.target, pool.tolist()), target_test=held_out)
    return Sides(transfer, whole.target, pool, None)


def evenly(data: Any, count: int) -> Any:
    """`count` samples of a set, evenly spaced in its order; all where it has no more, or count is 0."""
    import torch
    from torch.utils.data import Subset

    if not count or count >= len(data):
        return data
    return Subset(data, torch.linspace(0, len(data) - 1, count, dtype=torch.float64).round().long().tolist())


def network(place: Place, task: str, transfer: DomainPair, seed: int) -> DAN:
    """The network before any training, the same for the same seed: dan_table2's, or that of digits."""
    model: DAN
    if task.startswith(TEN_CLASS):
        said = {name: value for name, value in asdict(place).items() if name not in ("samples", "held_out")}
        model = office.Setup(backbone=BACKBONE, **said).network(transfer, seed)
    else:
        model = digits.network(transfer, seed)
    return model


def load_train_config(task: str, how: dict[str, Any], steps: int) -> TrainConfig:
    """how: {"method", "align", "lr", ...} as in `dan.training.TrainConfig`; the rest as in dan_table2, or in digits."""
    made: TrainConfig
    if task.startswith(TEN_CLASS):
        made = office.load_train_config({**how, "evaluate_every": steps}, steps)
    else:
        made = digits.load_train_config(how, steps)
    return made


def outputs_of(place: Place, task: str, model: DAN, sides: Sides) -> DomainPair:
    """The same task as outputs of the network's frozen stages, if it has any; of photographs they are read from the
    disk."""
    import torch

    from dan.feature_cache import cached, cached_pair

    if not model.cached_stages:
        return sides.transfer
    if not task.startswith(TEN_CLASS):
        return cached_pair(sides.transfer, model)
    source, target = (cached(data, model, folder=backbones_of(place)) for data in (sides.transfer.source, sides.whole))
    y = target.tensors[1]
    held = sides.transfer.target_test
    test = None if held is None else target.rows(torch.tensor(held.indices), y[held.indices])  # type: ignore[attr-defined]
    pool = target.rows(sides.pool, y[sides.pool])
    return replace(sides.transfer, source=source, target=pool, target_test=test)


def backbones_of(place: Place) -> Path:
    """The folder of frozen trunks' outputs, beside that of decoded images."""
    return Path(place.images).with_name("backbones")


@lru_cache(maxsize=2)
def started(place: Place, task: str, start: Path, seed: int) -> tuple[DAN, Sides, DomainPair]:
    """(the start's network, the task's images, and the same as outputs of its frozen stages): made once for all the
    strategies of a start that a process tries. The network is copied before it is trained."""
    from dan.models.model_file import load_model

    sides, model = sides_of(place, task, seed), load_model(start)
    return model, sides, outputs_of(place, task, model, sides)


# --- trials -----------------------------------------------------------------------------------------------------------


def start(
    folder: Path,
    *,
    place: dict[str, Any],
    task: str,
    how: dict[str, Any],
    trade_off: float,
    steps: int,
    seed: int,
) -> dict[str, Any]:
    """A trial: the DAN without a target label that all strategies of a seed start from, in folder/model.pt."""
    from dan.data.batches import num_samples
    from dan.models.model_file import save_model
    from dan.training.trainer import fit

    began, where = time.process_time(), Place(**place)
    sides = sides_of(where, task, seed)
    model = network(where, task, sides.transfer, seed)
    data = outputs_of(where, task, model, sides)
    common: dict[str, Any] = {
        "trade_off": trade_off,
        "steps": steps,
        "seed": seed,
        "config": load_train_config(task, how, steps),
    }
    (evaluation,) = fit(model, data.source, data.target, tests=data.splits, **common)
    if not model.cached_stages:
        model.freeze(up_to=CONVOLUTIONS)
    save_model(folder / "model.pt", model)
    sizes = {"source": num_samples(data.source), **{name: num_samples(split) for name, split in data.splits.items()}}
    return {"evaluation": evaluation, "sizes": sizes, "cpu_seconds": time.process_time() - began}


def ask(
    folder: Path,
    *,
    place: dict[str, Any],
    task: str,
    start: str,
    strategy: str,
    budget: Sequence[str],
    how: dict[str, Any],
    trade_off: float,
    steps_per_round: int,
    seed: int,
) -> dict[str, Any]:
    """A trial: the rounds of one strategy from the network of the trial `start` beside this one.

    budget: that of each round. cpu_seconds: of the whole trial, data and network included; "seconds/query" of an
    evaluation: the strategy's own, "seconds/shown": those of what it was shown besides one pass, such as views.
    """
    import torch

    from active.learners.rounds_config import RoundsConfig
    from active.loop import rounds
    from active.pool import Pool
    from dan.data.batches import labels_of, num_samples
    from experiments.jobs.arena_learner import ArenaLearner, Timed

    began, where, config = time.process_time(), Place(**place), load_train_config(task, how, steps_per_round)
    plan = RoundsConfig(budget=tuple(budget), steps_per_round=steps_per_round, trade_off=trade_off)
    learner = ArenaLearner(where, task, folder.parent / start, strategy, plan, config, seed)
    target = learner.task.target
    pool, timed, evaluations = Pool(torch.arange(num_samples(target)), labels_of(target)), Timed(strategy), []
    for record in rounds(pool, timed, learner=learner, budget=tuple(budget), seed=seed):
        kept = {name: value for name, value in record.items() if name not in ("event", "seconds")}
        evaluations.append({**kept, "seconds/shown": learner.seconds, **timed.seconds})
        timed.seconds = {}
    return {
        "evaluations": evaluations,
        "pool": len(pool.ids),
        "cpu_seconds": time.process_time() - began,
        "measured_on": machine(),
    }


def every_label(
    folder: Path,
    *,
    place: dict[str, Any],
    task: str,
    start: str,
    how: dict[str, Any],
    trade_off: float,
    steps: int,
    seed: int,
) -> dict[str, Any]:
    """A trial: the start, fine-tuned with all labels of the pool: what `labels_to_95` measures against."""
    from dan.data.batches import derived_seed
    from dan.evaluation.metrics import evaluate
    from dan.training.trainer import fit

    made, _, data = started(Place(**place), task, folder.parent / start, seed)
    model = copied(made)
    recipe = replace(load_train_config(task, how, steps), schedule="constant")
    common: dict[str, Any] = {"trade_off": trade_off, "steps": steps, "seed": derived_seed(seed, 1), "config": recipe}
    fit(model, data.source, data.target, labelled_target=data.target, log_mmd=False, **common)
    return {f"accuracy/{k}": evaluate(model, v, start=model.cached_stages).accuracy for k, v in data.splits.items()}


def views_of_domain(_folder: Path, *, place: dict[str, Any], task: str) -> dict[str, Any]:
    """A trial: the frozen trunk's outputs on the views of all images of a ten-class task's target, kept on the disk."""
    where = Place(**place)
    sides = sides_of(where, task, 0)
    began, model = time.process_time(), network(where, task, sides.transfer, 0)
    outputs = outputs_of_views(where, task, model, sides.whole)
    return {"views": len(outputs), "cpu_seconds": time.process_time() - began}


# --- what a strategy is shown -----------------------------------------------------------------------------------------


def shown_to(strategy: str, model: DAN, place: Place, task: str, start: Path, seed: int) -> dict[str, Any]:
    """`active.query_fields.query_fields` with the validation split where a strategy needs one, and the views that are
    kept.

    The kernel is the ladder at the median of what is shown, which the features were aligned under: equal weights.
    """
    import torch

    from active.query_fields import query_fields
    from active.strategies import required_fields
    from dan.feature_cache import cached

    made, sides, data = started(place, task, start, seed)
    needs = required_fields(strategy)
    if any(name.startswith("validation") for name in needs) and sides.validation is not None:
        data = replace(data, source_test=cached(sides.validation, made))
    every = torch.arange(len(sides.pool))
    kept = "patch_probs" in needs and made.cached_stages > 0
    said = query_fields(model, data, every, needs=needs - {"patch_probs"} if kept else needs, seed=seed)
    if kept:
        said["patch_probs"] = view_probabilities(model, views_of(place, task, start, seed))
    return said


def unmet(strategy: str, tasks: Sequence[str]) -> str:
    """Why the arena cannot show a strategy what it needs on these tasks; "" if it can."""
    from active.strategies import required_fields

    needs = required_fields(strategy)
    ten_class = [task for task in tasks if task.startswith(TEN_CLASS)]
    if any(name.startswith("validation") for name in needs) and ten_class:
        return f"{ten_class[0]} holds out no source samples"
    if "dropout_probs" in needs and len(ten_class) < len(tasks):
        return f"{next(task for task in tasks if task not in ten_class)} has a network without dropout"
    return ""


class Viewed(BatchedDataset):
    """Views of images as a data set of their own: sample i P + p is view p of image i; the class is the image's."""

    def __init__(self, data: Any, *, mirror: bool) -> None:
        import torch

        from dan.data.views import Views

        self.data, self.mirror = data, mirror
        self.views = Views(VIEWS, mirror=mirror, generator=torch.Generator().manual_seed(VIEW_SEED))

    @property
    def fingerprint(self) -> str | None:
        """That of the images and of the views; None where the images have none."""
        from dan.feature_cache import fingerprint

        whole = fingerprint(self.data)
        return None if whole is None else f"{whole} {self.views.theta.tolist()}"

    def __len__(self) -> int:
        return len(self.data) * VIEWS

    def batch(self, indices: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """(x, y) of these samples."""
        import torch

        from dan.data.batches import fetch

        images, row = (indices // VIEWS).unique(return_inverse=True)
        x, y = fetch(self.data, images)
        return torch.stack(list(self.views(x)), dim=1)[row, indices % VIEWS], y[row]


def outputs_of_views(place: Place, task: str, model: DAN, images: Any) -> Any:
    """The frozen stages' outputs on `Viewed` images; of photographs, which are mirrored too, kept on the disk."""
    from dan.feature_cache import cached

    ten_class = task.startswith(TEN_CLASS)
    return cached(Viewed(images, mirror=ten_class), model, folder=backbones_of(place) if ten_class else None)  # type: ignore[arg-type]


@lru_cache(maxsize=1)
def views_of(place: Place, task: str, start: Path, seed: int) -> Tensor:
    """The frozen stages' outputs on the views of the start's pool, (N, P, ...), which its strategies share."""
    model, sides, _ = started(place, task, start, seed)
    x: Tensor = outputs_of_views(place, task, model, sides.whole).tensors[0]
    return x.reshape(-1, VIEWS, *x.shape[1:])[sides.pool]


def view_probabilities(model: DAN, views: Tensor) -> Tensor:
    """Class probabilities (N, P, C), float64, of views (N, P, ...) that went through the frozen stages."""
    import torch
    from torch.utils.data import TensorDataset

    from dan.evaluation.metrics import predict

    flat = views.flatten(0, 1)
    output, _ = predict(model, TensorDataset(flat, torch.zeros(len(flat))), start=model.cached_stages)
    return output.logits.double().softmax(1).reshape(*views.shape[:2], -1)


def copied(model: DAN) -> DAN:
    """A network of its own with these weights, to train on; the frozen stages, which stay as they are, are shared."""
    import copy

    shared = {id(stage): stage for stage in list(model.stages.values())[: model.cached_stages]}
    return copy.deepcopy(model, shared)
