"""What the experiments on CIFAR-10 share: the data, small networks from scratch, and one curve of accuracy over labels.

    round r = 0, 1, ...:   a fresh network learns `start` + r `budget` labelled images, is measured, and asks for more

A trial is a function of its JSON arguments alone. The network is made anew in each round, so that a round's accuracy
tells what its labels are worth, and not how long the training has been going on.

Shapes: B images of a batch; H, W height and width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from active.budgets import check_rounds
from active.learner import Learner
from active.learners.sklearn import SklearnLearner
from active.loop import run_loop
from active.pool import Pool
from dan.data.batches import Batches, derived_seed
from dan.data.cifar10 import Splits, cifar10
from dan.devices import choose_device
from dan.errors import UserError
from dan.evaluation.metrics import evaluate, predict
from dan.mmd import MultiKernel, median_bandwidth
from dan.models.backbone import Backbone
from dan.models.dan import DAN
from dan.models.small_nets import small_cnn
from dan.training.trainer import Diverged
from experiments.digits.trial import evenly
from experiments.framework.experiment import Cell, Results, evaluation_records
from experiments.framework.options import check_least, check_runs, check_samples
from experiments.framework.records import Record
from experiments.framework.trials import Trial
from experiments.jobs.cifar10_resnet import resnet20
from experiments.tasks import folders_of, machine

if TYPE_CHECKING:
    from dan.data.tensor_datasets import Images

TASK = "cifar10"
# Of the forest: blocks of pixels a side that it sees of an image, and how many trees it has.
BLOCKS, TREES = 8, 100


# --- data and networks ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where the data lie and who computes: `data`, the folder of data sets; `images`, that of decoded ones; `pool` and
    `test`, at most so many images that can be asked for and of test, evenly spaced (0: all); `device`."""

    data: str
    images: str
    pool: int = 0
    test: int = 0
    device: str = "cpu"

    def splits(self) -> Splits:
        whole = _whole(self.data, self.images)
        pool, test = (
            evenly(part, count) if count else part
            for part, count in ((whole.train, self.pool), (whole.test, self.test))
        )
        return Splits(train=pool, validation=whole.validation, test=test)


@cache
def _whole(data: str, images: str) -> Splits:
    """All of CIFAR-10, read once in a process."""
    return cifar10(Path(data), cache=Path(images))


def narrow_cnn() -> Backbone:
    """`small_cnn` at half its width, and with a max-pooling after each convolution: (B, 3, 32, 32) -> (B, 128).

    A tenth of its arithmetic, for a sweep of hundreds of trainings on a CPU; it reaches 50 % with fewer images, too.
    """
    stages = {
        "conv1": nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        "conv2": nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        "fc1": nn.Sequential(nn.Flatten(), nn.Linear(32 * 8 * 8, 128), nn.ReLU()),
    }
    return Backbone(stages, out_features=128, input_shape=(3, 32, 32), smallest=32)


@dataclass(frozen=True)
class Training:
    """How a network learns. schedule: the rate stays (constant), or falls to a tenth at half of the steps and again at
    three quarters (steps). crop: training images are shifted by up to 4 pixels and mirrored half of the time."""

    epochs: int
    batch_size: int = 64
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: float = 1e-3
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: Literal["constant", "steps"] = "constant"
    crop: bool = False


@dataclass(frozen=True)
class Network:
    """A trunk by name. `epochs`: of the full form."""

    line: str
    backbone: Callable[[], Backbone]
    training: Training
    epochs: int


PLAIN = Training(epochs=10)
# He et al., section 4.2: 64,000 steps of 128 on 45,000 images are 182 epochs; the rate falls after 32,000 and 48,000.
HE_2016 = Training(
    epochs=20, batch_size=128, optimizer="sgd", lr=0.1, momentum=0.9, weight_decay=1e-4, schedule="steps", crop=True
)
NETWORKS = {
    "narrow_cnn": Network("a narrow small CNN", narrow_cnn, PLAIN, 10),
    "small_cnn": Network("the small CNN", small_cnn, PLAIN, 10),
    "resnet20": Network("ResNet-20", resnet20, HE_2016, 182),
}


def network(name: str, seed: int) -> DAN:
    """The network of that name, its features those of the trunk's last stage, from the same weights for a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = NETWORKS[name].backbone()
        model = DAN(backbone, 10, layers=(), capture=(list(backbone.stages)[-1],))
    # The same sums in another order of memory, a quarter faster on a CPU.
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


# --- training ---------------------------------------------------------------------------------------------------------


def train(model: DAN, images: Images, ids: Tensor, labels: Tensor, how: Training, *, seed: int) -> None:
    """Train in place on the images at the positions `ids` (L,) with these labels (L,): how.epochs passes.

    Batches and shifts depend on (seed, step) alone. Raises `Diverged` when the loss leaves what is finite.
    """
    device = next(model.parameters()).device
    batches = Batches(len(ids), how.batch_size, derived_seed(seed, 0))
    steps = math.ceil(how.epochs * len(ids) / how.batch_size)
    options: dict[str, Any] = {"lr": how.lr, "weight_decay": how.weight_decay}
    optimizer: torch.optim.Optimizer
    if how.optimizer == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), momentum=how.momentum, **options)
    else:
        optimizer = torch.optim.Adam(model.parameters(), **options)
    model.train()
    for step in range(steps):
        if how.schedule == "steps":
            for group in optimizer.param_groups:
                group["lr"] = how.lr * rate_factor(step, steps)
        rows = batches.indices(step)
        x, _ = images.batch(ids[rows])
        if how.crop:
            x = shifted(x, torch.Generator().manual_seed(derived_seed(seed, 1, step)))
        loss = cross_entropy(model(x.to(device)).logits, labels[rows].to(device))
        if not bool(loss.isfinite()):
            raise Diverged(f"the loss is {float(loss.detach())} at step {step}: lower the rate, now {how.lr}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    model.eval()


def rate_factor(step: int, steps: int) -> float:
    """1, then 0.1 from half of the steps on, then 0.01 from three quarters on."""
    return 0.1 ** ((2 * step >= steps) + (4 * step >= 3 * steps))


def shifted(x: Tensor, generator: torch.Generator, pad: int = 4) -> Tensor:
    """Each image of (B, C, H, W) moved by -pad to pad pixels both ways, grey (0) coming in, and mirrored or not."""
    count, channels, height, width = x.shape
    draws = torch.randint(2 * pad + 1, (2, count), generator=generator)
    mirrored = torch.randint(2, (count,), generator=generator).bool()
    rows = draws[0][:, None] + torch.arange(height)  # (B, H)
    columns = draws[1][:, None] + torch.arange(width)  # (B, W)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    padded = nn.functional.pad(x, (pad, pad, pad, pad))
    image, channel = torch.arange(count)[:, None, None, None], torch.arange(channels)[None, :, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


# --- trials -----------------------------------------------------------------------------------------------------------


def started(data: Splits, start: int, seed: int) -> Pool:
    """The pool with `start` labelled images drawn at random: the same for every strategy of a seed."""
    pool = Pool(torch.arange(len(data.train)), data.train.targets)
    generator = torch.Generator().manual_seed(derived_seed(seed, 0))
    first = torch.randperm(len(data.train), generator=generator)[:start]
    pool.label(first, pool.oracle(first), round=0)
    return pool


def curve(
    folder: Path,
    *,
    place: dict[str, Any],
    network: str,
    how: dict[str, Any],
    strategy: str,
    start: int,
    budget: int,
    rounds: int,
    seed: int,
) -> dict[str, Any]:
    """A trial: `rounds` + 1 trainings of a network, the strategy asking for `budget` labels after each but the last.

    A strategy made for two domains finds the labelled images where it looks for the source: MMD, in what it minimises,
    is then that between labelled and unlabelled images. As such strategies (`mmd_reduction`) add the labelled
    to the source by themselves, they are given one of them only.
    """
    where, training = Place(**place), Training(**how)
    data = where.splits()
    learner = CifarLearner(data, network, training, choose_device(where.device), seed)
    metadata = {"task": TASK, "network": network, "strategy": strategy, "start": start, "training": how}
    result = _rounds(started(data, start, seed), strategy, learner, data, folder, metadata, budget, rounds, seed)
    result["measured_on"] = result["measured_on"] | {"device": learner.device.type}
    return result


class CifarLearner:
    """A fresh network in each round, trained on all labels; see `active.learner.Learner`."""

    def __init__(self, data: Splits, name: str, how: Training, device: torch.device, seed: int) -> None:
        self.data, self.name, self.how, self.device, self.seed = data, name, how, device, seed
        self.labelled = torch.empty(0, dtype=torch.long)

    def fit(self, pool: Pool, round: int) -> None:
        """Train anew."""
        self.labelled = pool.labelled_ids
        self.model = network(self.name, derived_seed(self.seed, 1, round)).to(self.device)
        seed = derived_seed(self.seed, 2, round)
        train(self.model, self.data.train, pool.labelled_ids, pool.labels, self.how, seed=seed)

    def query_fields(self, ids: Tensor, needs: frozenset[str]) -> dict[str, Any]:
        """One pass over the pool; the labelled images where a strategy for two domains looks for the source."""
        output, _ = predict(self.model, self.data.train)
        features = output.features
        fields: dict[str, Any] = {"probs": output.logits.double().softmax(1), "logits": output.logits}
        fields["features"] = features
        if "source_features" in needs:
            known = features[self.labelled]
            unlabelled = torch.ones(len(features), dtype=torch.bool)
            unlabelled[self.labelled] = False
            fields |= {"source_features": known[:1], "kernel": _kernel(known, features[unlabelled])}
        return fields

    def evaluate(self) -> dict[str, float]:
        """Accuracy on the test and on the validation images."""
        parts = {"target_test": self.data.test, "validation": self.data.validation}
        return {f"accuracy/{name}": evaluate(self.model, part).accuracy for name, part in parts.items()}


def _kernel(known: Tensor, unlabelled: Tensor) -> MultiKernel | None:
    """The ladder at the median over labelled and unlabelled images; None when the last are asked for."""
    return MultiKernel.ladder(median_bandwidth(known, unlabelled)) if len(unlabelled) else None


def forest(
    folder: Path, *, place: dict[str, Any], strategy: str, start: int, budget: int, rounds: int, seed: int
) -> dict[str, Any]:
    """A trial: the same rounds with scikit-learn's random forest on pixels as the learner."""
    data = Place(**place).splits()
    learner = ForestLearner(data, seed)
    metadata = {"task": TASK, "network": "random_forest", "strategy": strategy, "start": start, "trees": TREES}
    return _rounds(started(data, start, seed), strategy, learner, data, folder, metadata, budget, rounds, seed)


class ForestLearner(SklearnLearner):
    """scikit-learn's random forest on blocks of pixels, with a random state of each round."""

    def __init__(self, data: Splits, seed: int) -> None:
        from sklearn.ensemble import RandomForestClassifier

        pixels, *parts = (blocks(part).numpy() for part in (data.train, data.test, data.validation))
        targets = (data.test.targets, data.validation.targets)
        tests = dict(zip(("target_test", "validation"), zip(parts, targets, strict=True), strict=True))
        super().__init__(RandomForestClassifier(TREES), pixels, tests=tests)
        self.seed = seed

    def make_estimator(self, round: int) -> Any:
        """A forest of this round."""
        return super().make_estimator(round).set_params(random_state=derived_seed(self.seed, 1, round) % 2**32)


def blocks(images: Images, side: int = BLOCKS) -> Tensor:
    """The images as (N, 3 side^2): means over blocks of pixels."""
    parts = [images.batch(rows)[0] for rows in torch.arange(len(images)).split(1000)]
    return torch.cat([nn.functional.adaptive_avg_pool2d(part, side).flatten(1) for part in parts])


def _rounds(
    pool: Pool,
    strategy: str,
    learner: Learner,
    data: Splits,
    folder: Path,
    metadata: Mapping[str, Any],
    budget: int,
    num_rounds: int,
    seed: int,
) -> dict[str, Any]:
    """The rounds' records without the ids queried, which the rounds' own files keep."""
    options: dict[str, Any] = {"budget": budget, "num_rounds": num_rounds, "seed": seed, "run": folder}
    records = run_loop(pool, strategy, learner, metadata=metadata, **options)
    evaluations = [{k: v for k, v in record.items() if k not in ("event", "queried")} for record in records]
    return {"evaluations": evaluations, "pool": len(data.train), "test": len(data.test), "measured_on": machine()}


# --- settings ---------------------------------------------------------------------------------------------------------


def rounds_records(cell: Cell, trial: Trial, results: Results) -> list[Record]:
    """One record a round: the network after its last step."""
    made = evaluation_records(cell, trial, results)
    for record in made:
        record |= {"labels": record.pop("labelled"), "test_images": record.pop("test"), "selection": "last"}
    return made


def place_of(config: Any) -> dict[str, Any]:
    """The settings' `Place`, as plain values."""
    return {**folders_of(config), "pool": config.pool, "test": config.test, "device": config.device}


def check(config: Any) -> None:
    """The mistakes that would otherwise show only after some training; the data are decoded here, once."""
    check_runs(config.seeds, 1)
    check_least(config, "start", "budget", "rounds", *(["epochs"] if config.epochs is not None else []))
    check_samples(config, "pool", "test")
    choose_device(config.device)
    images = len(Place(**place_of(config)).splits().train)
    if config.start > images:
        raise UserError(f"--start {config.start} is more than the {images} images of the pool")
    check_rounds(config.budget, config.rounds, images - config.start)
