"""What one trial of digits does, each a function of its JSON arguments alone: the search, training, the floor."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.label_free_search import judged
from experiments.tasks import logistic_regression, machine, transfer_named, with_tuples

SET = "digits_"
HIDDEN = 64  # units of the layer between LeNet's 128, "fc1", and the logits: "hidden1"
# All dense layers, as the paper's fc6 to fc8. Without fc1 the label-free score of DAN was the worse.
ALIGN = ("fc1", "hidden1", "output")
BATCH = 64  # images a step of each domain
JUDGED = 2000  # images of each domain that the domain classifier of the search is given, evenly spaced
FLOOR_IMAGES = 10_000  # source images that logistic regression is trained on, evenly spaced: more take minutes


@dataclass(frozen=True)
class DigitsData:
    """`data`, the folder of data sets; `images`, that of decoded ones; `samples`, at most so many images of each split,
    evenly spaced (0: all)."""

    data: str
    images: str
    samples: int = 0

    def task(self, name: str) -> Any:
        """The domain pair of that transfer, such as mnist2usps."""
        transfer = transfer_named(SET + name, self.data, self.images)
        if not self.samples:
            return transfer
        sides = ("source", "source_test", "target", "target_test")
        return replace(transfer, **{side: evenly(getattr(transfer, side), self.samples) for side in sides})


def evenly(data: Any, count: int) -> Any:
    """`count` images of a set, evenly spaced in its order; all where it has no more."""
    import numpy as np

    return data if count >= len(data) else data.subset(np.linspace(0, len(data) - 1, count).round().astype(np.int64))


def network(task: Any, seed: int) -> Any:
    """LeNet, a hidden layer and the logits, from the same random weights for the same seed, whatever the method."""
    import torch

    from dan.models.factory import build_network

    model = build_network(task, seed=seed, layers=(HIDDEN,), align=ALIGN)
    # The same sums in another order of memory, a quarter faster on a CPU.
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def load_train_config(how: dict[str, Any], steps: int) -> Any:
    """how: {"method", "align", "lr", ...} as `dan.training.TrainConfig` has them, from JSON, where tuples are lists.

    One rate for all layers, since none is pre-trained; a run is evaluated once, after its last step.
    """
    from dan.training.config import TrainConfig

    return TrainConfig(batch_size=BATCH, head_lr_mult=1.0, evaluate_every=steps, feature_map=False, **with_tuples(how))


def train(
    place: dict[str, Any], task: str, how: dict[str, Any], *, tested: bool, steps: int, **settings: Any
) -> tuple[Any, Any, list[dict[str, Any]]]:
    """(domain pair, network trained on its whole source, evaluations). settings: trade_off and seed, as `fit` has them.

    tested: evaluate the network on the pair's splits, after the last step.
    """
    from dan.training.trainer import fit

    pair = DigitsData(**place).task(task)
    model = network(pair, settings["seed"])
    tests = {"tests": pair.splits} if tested else {}
    config = load_train_config(how, steps)
    return pair, model, fit(model, pair.source, pair.target, config=config, steps=steps, **tests, **settings)


def score(_folder: Path, **arguments: Any) -> dict[str, Any]:
    """A trial of the search: judged on the source's test split and on the unlabelled target.

    No target label is read: `fit` takes none of them, and nothing here looks at one.
    """
    from dan.evaluation.metrics import predict

    pair, model, _ = train(**arguments, tested=False)
    of_source, y = predict(model, pair.source_test)
    source, target = (
        predict(model, evenly(part, JUDGED))[0].layers["hidden1"] for part in (pair.source_test, pair.target)
    )
    return judged(of_source.logits, y, source, target)


def adapt(_folder: Path, **arguments: Any) -> dict[str, Any]:
    """A trial of the table: a minute or two, and so made again rather than kept halfway."""
    (evaluation,) = train(**arguments, tested=True)[2]
    return {"evaluation": evaluation, "measured_on": machine()}


def floor(_folder: Path, *, place: dict[str, Any], task: str) -> dict[str, Any]:
    """A trial: logistic regression on pixels."""
    import torch
    from torch.utils.data import TensorDataset

    from dan.data.batches import fetch

    def pixels(images: Any) -> TensorDataset:
        x, y = fetch(images, torch.arange(len(images)))
        return TensorDataset(x.flatten(1), y)

    pair = DigitsData(**place).task(task)
    began = time.perf_counter()
    source = pixels(evenly(pair.source, FLOOR_IMAGES))
    parts = {f"accuracy/{name}": pixels(getattr(pair, name)) for name in ("target", "target_test")}
    evaluation = {name: logistic_regression(source, part) for name, part in parts.items()}
    return {"evaluation": {**evaluation, "seconds": time.perf_counter() - began}, "measured_on": machine()}
