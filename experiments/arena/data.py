"""The data and networks of the arena: a task in one seed, outputs of frozen stages computed once, views of images.

Shapes: N samples of the pool; P views; C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from dan.data.batched import BatchedDataset
from dan.data.batches import derived_seed, fetch, num_samples
from dan.data.domain_pair import DomainPair
from dan.data.views import Views
from dan.evaluation.metrics import predict
from dan.feature_cache import CachedOutputs, cached, cached_pair, fingerprint
from dan.models.dan import DAN
from dan.models.model_file import load_model
from dan.training.config import TrainConfig
from experiments.arena.tasks import BACKBONE, EVERYTHING, TEN_CLASS
from experiments.digits import trial as digits
from experiments.office_caltech10 import trial as office
from experiments.tasks import transfer_named

HELD_OUT = 0.3  # share of a ten-class target that is its test split
VIEWS = 8  # P: the image itself, and 7 turned, shifted, scaled (and mirrored) ones
VIEW_SEED = 0  # one draw for all seeds: outputs on the views of photographs are computed once
STREAM = 30  # of the seeds derived from a trial's: the draw of the test split


@dataclass(frozen=True)
class Place:
    """Where the data of a task lie: `data`, the folder of data sets; `images`, that of decoded images.

    Of ten-class tasks: `weights` of SqueezeNet, `frozen` up to this stage, `image_size`, `held_out`, the share of the
    target that is its test split (0: none). Of digits: `samples`, at most so many of each split (0: all).
    """

    data: str
    images: str
    weights: str = ""
    image_size: int = 0
    samples: int = 0
    held_out: float = HELD_OUT
    frozen: str = EVERYTHING

    @property
    def backbones(self) -> Path:
        """The folder of a frozen backbone's outputs."""
        return Path(self.images).with_name("backbones")


@dataclass(frozen=True)
class Sides:
    """A task in one seed. transfer: its source, pool (`target`) and test split (`target_test`). whole: the target's
    images that `pool`, positions (N,), are of. validation: held-out source, or None."""

    transfer: DomainPair
    whole: Any
    pool: Tensor
    validation: Any


def sides_of(place: Place, task: str, seed: int) -> Sides:
    """The images of a task. The test split of a ten-class target depends on its size and the seed alone; that of digits
    is the set's own."""
    if not task.startswith(TEN_CLASS):
        made = transfer_named(task, place.data, place.images)
        names = ("source", "source_test", "target", "target_test")
        parts = {name: evenly(getattr(made, name), place.samples) for name in names}
        validation, target = parts.pop("source_test"), parts["target"]
        return Sides(replace(made, source_test=None, **parts), target, torch.arange(len(target)), validation)
    made = transfer_named(task, place.data, place.images, place.image_size)
    count = num_samples(made.target)
    generator = torch.Generator().manual_seed(derived_seed(seed, STREAM))
    order = torch.randperm(count, generator=generator)
    held = -int(-place.held_out * count // 1)
    test, pool = order[:held].sort().values, order[held:].sort().values
    held_out = Subset(made.target, test.tolist()) if held else None
    return Sides(
        replace(made, target=Subset(made.target, pool.tolist()), target_test=held_out), made.target, pool, None
    )


def pool_size(place: dict[str, Any], task: str, seed: int) -> int:
    """Images in the task's pool."""
    return num_samples(sides_of(Place(**place), task, seed).transfer.target)


def evenly(data: Any, count: int) -> Any:
    """`count` samples of a set, evenly spaced in its order; all where it has no more, or count is 0."""
    if not count or count >= len(data):
        return data
    return Subset(data, torch.linspace(0, len(data) - 1, count, dtype=torch.float64).round().long().tolist())


def network(place: Place, task: str, transfer: DomainPair, seed: int) -> DAN:
    """The network before any training, the same for the same seed: dan_table2's, or that of digits."""
    if not task.startswith(TEN_CLASS):
        return digits.network(transfer, seed)
    where = office.Setup(
        backbone=BACKBONE,
        frozen=place.frozen,
        weights=place.weights,
        data=place.data,
        images=place.images,
        image_size=place.image_size,
    )
    return where.network(transfer, seed)


def load_train_config(task: str, how: dict[str, Any], steps: int) -> TrainConfig:
    """how: {"method", "align", "lr", ...} as in `dan.training.TrainConfig`; the rest as in dan_table2, or in digits."""
    if task.startswith(TEN_CLASS):
        return office.load_train_config({**how, "evaluate_every": steps}, steps)
    return digits.load_train_config(how, steps)


def outputs_of(place: Place, task: str, model: DAN, sides: Sides) -> DomainPair:
    """The task as outputs of the network's frozen stages, if it has any; those of photographs are kept on the disk."""
    if not model.cached_stages:
        return sides.transfer
    if not task.startswith(TEN_CLASS):
        return cached_pair(sides.transfer, model)
    source, target = (cached(data, model, folder=place.backbones) for data in (sides.transfer.source, sides.whole))
    held = sides.transfer.target_test

    def rows(positions: Tensor) -> CachedOutputs:
        return target.rows(positions, target.tensors[1][positions])

    test = None if held is None else rows(torch.tensor(held.indices))  # type: ignore[attr-defined]
    return replace(sides.transfer, source=source, target=rows(sides.pool), target_test=test)


@lru_cache(maxsize=2)
def started(place: Place, task: str, start: Path, seed: int) -> tuple[DAN, Sides, DomainPair]:
    """(the start's network, the task's images, the task as outputs of its frozen stages), made once a process."""
    sides, model = sides_of(place, task, seed), load_model(start)
    return model, sides, outputs_of(place, task, model, sides)


# --- views ------------------------------------------------------------------------------------------------------------


class Viewed(BatchedDataset):
    """Views of images as a data set: sample i P + p is view p of image i; the class is the image's."""

    def __init__(self, data: Any, *, mirror: bool) -> None:
        self.data = data
        self.views = Views(VIEWS, mirror=mirror, generator=torch.Generator().manual_seed(VIEW_SEED))

    @property
    def fingerprint(self) -> str | None:
        """That of the images and of the views; None where the images have none."""
        whole = fingerprint(self.data)
        return None if whole is None else f"{whole} {self.views.theta.tolist()}"

    def __len__(self) -> int:
        return len(self.data) * VIEWS

    def batch(self, indices: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """(x, y) of these samples."""
        images, row = (indices // VIEWS).unique(return_inverse=True)
        x, y = fetch(self.data, images)
        return torch.stack(list(self.views(x)), dim=1)[row, indices % VIEWS], y[row]


def outputs_of_views(place: Place, task: str, model: DAN, images: Any) -> CachedOutputs:
    """The frozen stages' outputs on `Viewed` images; those of photographs, which are mirrored, kept on the disk."""
    ten_class = task.startswith(TEN_CLASS)
    return cached(Viewed(images, mirror=ten_class), model, folder=place.backbones if ten_class else None)  # type: ignore[arg-type]


@lru_cache(maxsize=1)
def views_of(place: Place, task: str, start: Path, seed: int) -> Tensor:
    """The frozen stages' outputs on the views of the start's pool, (N, P, ...)."""
    model, sides, _ = started(place, task, start, seed)
    x: Tensor = outputs_of_views(place, task, model, sides.whole).tensors[0]
    return x.reshape(-1, VIEWS, *x.shape[1:])[sides.pool]


def view_probabilities(model: DAN, views: Tensor) -> Tensor:
    """Class probabilities (N, P, C), float64, of views (N, P, ...) after the frozen stages."""
    flat = views.flatten(0, 1)
    output, _ = predict(model, TensorDataset(flat, torch.zeros(len(flat))), start=model.cached_stages)
    return output.logits.double().softmax(1).reshape(*views.shape[:2], -1)
