"""What one trial of dan_table2 does, each a function of its JSON arguments alone: the trunk, the search, training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.label_free_search import judged
from experiments.transfers import logistic_regression, machine, transfer_named, weights_label, with_tuples

SET = "office_caltech10_"
DOMAINS = ("a", "c", "d", "w")
BOTTLENECK, DROPOUT = 256, 0.5
BATCH, NEW_RATE_FACTOR = 32, 10.0
EVALUATE_EVERY, CHECKPOINT_EVERY = 100, 50


@dataclass(frozen=True)
class Place:
    """A network and where its data lie: `weights` of the trunk `backbone`, frozen up to and with the stage `frozen`;
    `data`, the folder of data sets; `images`, the folder of decoded ones, beside which the trunk's outputs are kept;
    `image_size`, pixels a side."""

    backbone: str
    frozen: str
    weights: str
    data: str
    images: str
    image_size: int

    @property
    def backbones(self) -> Path:
        return Path(self.images).with_name("backbones")

    def task(self, transfer: str, held_out: float = 0.0) -> Any:
        return transfer_named(SET + transfer, self.data, self.images, self.image_size, held_out)

    def network(self, task: Any, seed: int) -> Any:
        """The same weights for the same seed, whatever the method."""
        from dan.models.factory import build_network

        backbone = {"backbone": self.backbone, "pretrained": self.weights, "freeze_up_to": self.frozen}
        model = build_network(task, seed=seed, layers=(BOTTLENECK,), dropout=DROPOUT, **backbone)
        start_new_layers(model, seed)
        return model

    def outputs(self, data: Any, model: Any, *, keep: bool = True) -> Any:
        """What the frozen stages say of a data set, from the disk if it was kept there."""
        from dan.feature_cache import cached

        return cached(data, model, folder=self.backbones if keep else None)


def start_new_layers(model: Any, seed: int) -> None:
    """The bottleneck, if there is one, and the logits start as in the authors' release for PyTorch (thuml/Xlearn).

    torch's own start, five times as wide, keeps much of what is random in the bottleneck over so few steps, and
    source-only ends below the floor.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    hidden = [(part.get_submodule("0"), 0.005, 0.1) for part in model.hidden]
    for layer, deviation, bias in (*hidden, (model.output, 0.01, 0.0)):
        assert isinstance(layer, torch.nn.Linear)
        torch.nn.init.normal_(layer.weight, 0.0, deviation, generator=generator)
        torch.nn.init.constant_(layer.bias, bias)


def load_train_config(how: dict[str, Any], steps: int) -> Any:
    """how: {"method", "align", "lr", ...} as `dan.training.TrainConfig` has them, from JSON, where tuples are lists."""
    from dan.training.config import TrainConfig

    every: dict[str, Any] = {
        "evaluate_every": min(EVALUATE_EVERY, steps),
        "checkpoint_every": min(CHECKPOINT_EVERY, steps),
    }
    return TrainConfig(
        batch_size=BATCH, head_lr_mult=NEW_RATE_FACTOR, feature_map=False, **{**every, **with_tuples(how)}
    )


def prepare(_folder: Path, *, place: dict[str, Any], sides: list[str], held_out: float) -> dict[str, Any]:
    """A trial: the outputs of the frozen stages on each domain, kept on the disk; held-out parts by themselves."""
    return prepared(Place(**place), sides, DOMAINS, held_out)


def prepared(where: Place, sides: Sequence[str], domains: Sequence[str], held_out: float = 0.0) -> dict[str, Any]:
    """What `prepare` does, for the sides of a set with these domains."""
    told = {}
    for side in sides:
        task = where.task(f"{side}2{next(other for other in domains if other != side)}", held_out)
        model = where.network(task, seed=0)
        samples, size = 0, 0
        for part in (task.source, task.source_test):
            if part is not None:
                outputs = where.outputs(part, model)
                samples, size = samples + len(outputs), size + outputs.tensors[0].numel() * 4
        told[side] = {"samples": samples, "bytes": size}
    return {"domains": told, "measured_on": machine()}


def score(
    _folder: Path,
    *,
    place: dict[str, Any],
    transfer: str,
    how: dict[str, Any],
    trade_off: float,
    steps: int,
    seed: int,
    held_out: float,
) -> dict[str, Any]:
    """A trial of the search: trained on a part of the source, judged on the rest of it and on the unlabelled target.

    No target label is read: `fit` takes none of them, and nothing here looks at one.
    """
    from dan.evaluation.metrics import predict
    from dan.training.trainer import fit

    where = Place(**place)
    task = where.task(transfer, held_out)
    model = where.network(task, seed)
    recipe = load_train_config({**how, "evaluate_every": steps}, steps)
    common = {"trade_off": trade_off, "steps": steps, "seed": seed, "config": recipe, "cache": where.backbones}
    fit(model, task.source, task.target, **common)
    (of_source, y), (of_target, _) = (
        predict(model, where.outputs(part, model), start=model.cached_stages)
        for part in (task.source_test, task.target)
    )
    return judged(of_source.logits, y, of_source.layers["hidden1"], of_target.layers["hidden1"])


def adapt(
    folder: Path,
    *,
    place: dict[str, Any],
    transfer: str,
    how: dict[str, Any],
    trade_off: float,
    steps: int,
    seed: int,
) -> dict[str, Any]:
    """A trial of the table: train on the whole source, as `python -m dan train ... --cache-backbone` would."""
    recipe = load_train_config(how, steps)
    return trained(
        Place(**place), folder, transfer=transfer, recipe=recipe, trade_off=trade_off, steps=steps, seed=seed
    )


def trained(
    where: Place, folder: Path, *, transfer: str, recipe: Any, device: str = "cpu", seed: int, **settings: Any
) -> dict[str, Any]:
    """What `adapt` does, with any recipe and network. settings: trade_off and steps, as `dan.training.fit` has them."""
    from dan.training.trainer import fit

    task = where.task(transfer)
    model = where.network(task, seed)
    weights = weights_label(where.weights)
    evaluations = fit(
        model,
        task.source,
        task.target,
        seed=seed,
        tests=task.splits,
        config=recipe,
        # A run on a frozen trunk takes seconds: it is made again rather than kept halfway.
        run=folder if model.cached_stages < len(model.stages) else None,
        metadata={"task": task.name, "backbone": where.backbone, "weights": weights, "frozen": where.frozen},
        cache=where.backbones if model.cached_stages else False,
        device=device,
        **settings,
    )
    return {"evaluations": evaluations, "weights": weights, "measured_on": machine()}


def floor(_folder: Path, *, place: dict[str, Any], transfer: str) -> dict[str, Any]:
    """A trial: logistic regression on the frozen trunk's outputs."""
    where = Place(**place)
    task = where.task(transfer)
    model = where.network(task, seed=0)
    began = time.perf_counter()
    accuracy = logistic_regression(*(where.outputs(part, model) for part in (task.source, task.target)))
    evaluation = {"accuracy/target": accuracy, "seconds": time.perf_counter() - began}
    return {"evaluations": [evaluation], "weights": weights_label(where.weights), "measured_on": machine()}


MEASURED_STEPS = (2, 6)  # the difference of both times is free of what comes before and after the steps
MEASURED_SAMPLES = 64  # of each domain, so that what comes before and after is short


def compare_cache(
    _folder: Path, *, place: dict[str, Any], transfer: str, how: dict[str, Any], trade_off: float, seed: int
) -> dict[str, Any]:
    """A trial: a few steps with and without the cache, from the same weights on the same batches.

    -> seconds a step of both, the largest difference of logits and of weights after the last step, and the seconds a
    sample that filling the cache takes.
    """
    import torch
    from torch.utils.data import Subset

    from dan.evaluation.metrics import predict
    from dan.training.trainer import fit

    where = Place(**place)
    task = where.task(transfer)
    source, target = (
        Subset(part, torch.linspace(0, len(part) - 1, MEASURED_SAMPLES).long().tolist())
        for part in (task.source, task.target)
    )
    model, began = where.network(task, seed), time.perf_counter()
    where.outputs(source, model, keep=False)
    told: dict[str, Any] = {"seconds_per_sample_filling": (time.perf_counter() - began) / MEASURED_SAMPLES}
    ends, weights = [], []
    for kind, kept in (("plain", False), ("cached", True)):
        seconds = []
        for steps in MEASURED_STEPS:
            model = where.network(task, seed)
            recipe = load_train_config({**how, "schedule": "constant", "evaluate_every": steps}, steps)
            common = {"trade_off": trade_off, "steps": steps, "seed": seed, "config": recipe, "cache": kept}
            seconds.append(fit(model, source, target, **common)[-1]["seconds"])
        told[f"seconds_per_step_{kind}"] = (seconds[1] - seconds[0]) / (MEASURED_STEPS[1] - MEASURED_STEPS[0])
        ends.append(predict(model, target)[0].logits)
        weights.append({name: value.double() for name, value in model.state_dict().items()})
    told["largest_logit"] = float(ends[0].abs().max())
    told["largest_difference_of_logits"] = float((ends[0] - ends[1]).abs().max())
    told["largest_difference_of_weights"] = max(float((weights[0][k] - weights[1][k]).abs().max()) for k in weights[0])
    return told | {"measured_on": machine()}
