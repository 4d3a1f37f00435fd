"""A network for a task: what the doors and the experiments ask for in words, checked against the data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dan.data.batches import fetch
from dan.data.domain_pair import DomainPair
from dan.errors import UserError, nearest
from dan.models.dan import DAN, layer_named
from dan.models.registry import SCRATCH


def build_network(
    task: DomainPair,
    *,
    seed: int,
    backbone: str | None = None,
    pretrained: str | Path | None = None,
    layers: Sequence[int] = (64,),
    dropout: float = 0.0,
    align: Sequence[str] = (),
    frozen: Sequence[str] = (),
    freeze_up_to: str | None = None,
    adapters: str | None = None,
) -> DAN:
    """A DAN for the task's classes and images, with the random initialisation of that seed.

    backbone: None takes the task's own; one that is trained from scratch gets as many input channels as the images
    have. align: layers that will be aligned: those that are stages of the backbone are captured. freeze_up_to: freeze
    this stage and all before it; "all": the whole backbone. The rest is as in `DAN`.
    Raises UserError for a name that is none, weights that don't fit, and images that the backbone can't take.
    """
    name = backbone or task.backbone
    sample = fetch(task.source, torch.tensor([0]))[0]
    if name in SCRATCH and sample.ndim > 2:
        name = f"{name}:{sample.shape[1]}"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wanted = [layer_named(layer) for layer in align]
        own = [*(f"hidden{i + 1}" for i in range(len(layers))), "output"]
        settings: Mapping[str, Any] = {"layers": tuple(layers), "dropout": dropout, "pretrained": pretrained}
        capture = [layer for layer in wanted if layer not in own]
        try:
            model = DAN(name, len(task.classes), capture=capture, adapters=adapters, **settings)
        except UserError:
            known = [*own, *DAN(name, len(task.classes), layers=()).stages] if capture else []
            for layer in capture:
                if layer not in known:
                    raise UserError(
                        f'there is no layer "{layer}" to align{nearest(layer, known)}: one of {", ".join(known)}'
                    ) from None
            raise
        if frozen or freeze_up_to is not None:
            model.freeze(frozen, up_to=list(model.stages)[-1] if freeze_up_to == "all" else freeze_up_to)
        weights = list(model.backbone.parameters())
        if weights and not any(part.requires_grad for part in weights) and pretrained in (None, "none"):
            raise UserError(f"the whole backbone {name} is frozen at random weights: give --weights, or freeze less")
        model.eval()
        with torch.no_grad():
            model(sample)  # the shape of the images is checked before any time is spent
    return model.train()
