"""What one trial on Office-10 + Caltech-10 does, each a function of its JSON arguments alone."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from experiments.label_free_search import judged
from experiments.tasks import logistic_regression, machine, transfer_named, weights_label, with_tuples

SET = "office_caltech10_"
DOMAINS = ("a", "c", "d", "w")
BOTTLENECK, DROPOUT = 256, 0.5
BATCH, HEAD_LR_MULT = 32, 10.0
EVALUATE_EVERY, CHECKPOINT_EVERY = 100, 50
NOTHING, EVERYTHING = "none", "pool"  # what is frozen: no stage; all of the backbone


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A network and its data: `weights` of `backbone`, frozen up to and with the stage `frozen` (NOTHING: no stage);
    `data`, the folder of data sets; `images`, that of decoded ones; `image_size`, pixels a side."""

    SET: ClassVar[str] = SET
    DOMAINS: ClassVar[tuple[str, ...]] = DOMAINS

    backbone: str
    frozen: str
    weights: str
    data: str
    images: str
    image_size: int
    device: str = "cpu"

    @property
    def backbones(self) -> Path:
        """The folder in which outputs of frozen stages are kept."""
        return Path(self.images).with_name("backbones")

    def task(self, transfer: str, held_out: float = 0.0) -> Any:
        """The domain pair of that transfer, such as a2w."""
        return transfer_named(self.SET + transfer, self.data, self.images, self.image_size, held_out)

    def network(self, task: Any, seed: int) -> Any:
        """The backbone, a bottleneck and the logits; the same weights for the same seed, whatever the method."""
        from dan.models.factory import build_network

        frozen = None if self.frozen == NOTHING else self.frozen
        backbone: dict[str, Any] = {"backbone": self.backbone, "pretrained": self.weights, "freeze_up_to": frozen}
        model = build_network(task, seed=seed, layers=(BOTTLENECK,), dropout=DROPOUT, **backbone)
        start_new_layers(model, seed)
        return model

    def outputs(self, data: Any, model: Any, *, keep: bool = True) -> Any:
        """The outputs of the frozen stages on a data set, from the disk if they were kept there."""
        from dan.devices import choose_device
        from dan.feature_cache import cached

        return cached(data, model, folder=self.backbones if keep else None, device=choose_device(self.device))

    def fit(self, model: Any, source: Any, target: Any, **options: Any) -> list[dict[str, Any]]:
        """`dan.training.trainer.fit` on the device, with what is frozen computed once."""
        from dan.training.trainer import fit

        cache = self.backbones if model.cached_stages else False
        return fit(model, source, target, cache=cache, device=self.device, **options)

    def provenance(self) -> dict[str, Any]:
        """What a record says of the network's weights and of the machine."""
        from dan.devices import choose_device

        device = choose_device(self.device).type
        return {"weights": weights_label(self.weights), "measured_on": machine() | {"device": device}}


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

    every = {"evaluate_every": min(EVALUATE_EVERY, steps), "checkpoint_every": min(CHECKPOINT_EVERY, steps)}
    return TrainConfig(batch_size=BATCH, head_lr_mult=HEAD_LR_MULT, feature_map=False, **{**every, **with_tuples(how)})


def prepare(_folder: Path, *, place: dict[str, Any], sides: list[str], held_out: float) -> dict[str, Any]:
    """A trial: the outputs of the frozen stages on each domain, kept on the disk; held-out parts by themselves."""
    return prepare_outputs(Setup(**place), sides, held_out)


def prepare_outputs(setup: Setup, sides: list[str], held_out: float = 0.0) -> dict[str, Any]:
    """What `prepare` does: the number of samples of each domain."""
    samples = {}
    for side in sides:
        task = setup.task(f"{side}2{next(other for other in setup.DOMAINS if other != side)}", held_out)
        model = setup.network(task, seed=0)
        parts = [part for part in (task.source, task.source_test) if part is not None]
        samples[side] = sum(len(setup.outputs(part, model)) for part in parts)
    return {"samples": samples, "measured_on": machine()}


def score(
    _folder: Path,
    *,
    place: dict[str, Any],
    transfer: str,
    how: dict[str, Any],
    steps: int,
    held_out: float,
    seed: int,
    **settings: Any,
) -> dict[str, Any]:
    """A trial of the search: trained on a part of the source, judged on the rest of it and on the unlabelled target.

    No target label is read: `fit` takes none of them, and nothing here looks at one.
    """
    from dan.evaluation.metrics import predict

    setup = Setup(**place)
    task = setup.task(transfer, held_out)
    model = setup.network(task, seed)
    config = load_train_config({**how, "evaluate_every": steps}, steps)
    setup.fit(model, task.source, task.target, config=config, steps=steps, seed=seed, **settings)
    (of_source, y), (of_target, _) = (
        predict(model, setup.outputs(part, model), start=model.cached_stages)
        for part in (task.source_test, task.target)
    )
    return judged(of_source.logits, y, of_source.layers["hidden1"], of_target.layers["hidden1"])


def adapt(folder: Path, *, place: dict[str, Any], how: dict[str, Any], steps: int, **settings: Any) -> dict[str, Any]:
    """A trial of a table: train on the whole source, as `python -m dan train ... --cache-backbone` would."""
    return train(Setup(**place), folder, load_train_config(how, steps), steps=steps, **settings)


def train(setup: Setup, folder: Path, config: Any, *, transfer: str, seed: int, **settings: Any) -> dict[str, Any]:
    """What `adapt` does, with any config and network. settings: trade_off and steps, as `dan.training.fit` has them."""
    task = setup.task(transfer)
    model = setup.network(task, seed)
    about = {"task": task.name, "backbone": setup.backbone, "frozen": setup.frozen}
    # A run on a frozen backbone takes seconds: it is made again rather than kept halfway.
    resumable = model.cached_stages < len(model.stages)
    settings |= {"run": folder, "metadata": about | {"weights": weights_label(setup.weights)}} if resumable else {}
    evaluations = setup.fit(model, task.source, task.target, config=config, seed=seed, tests=task.splits, **settings)
    return {"evaluations": evaluations, **setup.provenance()}


def floor(_folder: Path, *, place: dict[str, Any], transfer: str) -> dict[str, Any]:
    """A trial: logistic regression on the frozen backbone's outputs."""
    setup = Setup(**place)
    task = setup.task(transfer)
    model = setup.network(task, seed=0)
    began = time.perf_counter()
    accuracy = logistic_regression(*(setup.outputs(part, model) for part in (task.source, task.target)))
    evaluation = {"accuracy/target": accuracy, "seconds": time.perf_counter() - began}
    return {"evaluations": [evaluation], **setup.provenance()}
