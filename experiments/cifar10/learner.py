"""The learners of the CIFAR-10 experiments: a fresh network in each round, and scikit-learn's random forest on pixels.

Shapes: B images of a batch; C channels; H, W height and width; L labelled images.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from active.learners.sklearn import SklearnLearner
from active.pool import Pool
from dan.data.batches import Batches, derived_seed
from dan.data.cifar10 import Splits
from dan.devices import choose_device
from dan.evaluation.metrics import evaluate, predict
from dan.mmd import MultiKernel, median_bandwidth
from dan.models.dan import DAN
from dan.training.trainer import Diverged
from experiments.cifar10.networks import network

if TYPE_CHECKING:
    from dan.data.tensor_datasets import Images
    from experiments.cifar10 import Training

# Blocks of pixels a side that the forest sees of an image, and how many trees it has.
BLOCKS, TREES = 8, 100


def started(data: Splits, start: int, seed: int) -> Pool:
    """The pool with `start` labelled images drawn at random: the same for every strategy of a seed."""
    pool = Pool(torch.arange(len(data.train)), data.train.targets)
    generator = torch.Generator().manual_seed(derived_seed(seed, 0))
    first = torch.randperm(len(data.train), generator=generator)[:start]
    pool.label(first, pool.oracle(first), round=0)
    return pool


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


class CifarLearner:
    """A fresh network in each round, trained on all labels; see `active.learner.Learner`."""

    def __init__(self, data: Splits, name: str, how: Training, device: str, seed: int) -> None:
        self.data, self.name, self.how, self.device, self.seed = data, name, how, choose_device(device), seed
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
