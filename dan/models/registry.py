"""The backbones by name, and what turns a name and the weights wanted for it into a network."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from dan.errors import UserError, nearest
from dan.models import small_nets
from dan.models.backbone import Backbone, stage_shapes
from dan.models.pretrained import published_weights, put_weights, read_state
from dan.models.timm_backbones import timm_backbone
from dan.models.torchvision_backbones import NETWORKS, torchvision_backbone

# Trained from scratch. "lenet:3" is LeNet for images of 3 channels: a number after the name is the number of channels.
SCRATCH: dict[str, Callable[..., Backbone]] = {
    "lenet": small_nets.lenet,
    "small_cnn": small_nets.small_cnn,
    "conv1d": small_nets.conv1d,
}

# Every name but those of timm, which are "timm:" and timm's own.
BACKBONES: dict[str, Callable[[], Backbone]] = {
    **SCRATCH,
    "features": small_nets.features,
    **{name: functools.partial(torchvision_backbone, name) for name in NETWORKS},
}


def build_backbone(name: str, weights: str | Path | None = None) -> Backbone:
    """The backbone of that name.

    name: one of BACKBONES; "NAME:CHANNELS" for one of SCRATCH; or "timm:NAME".
    weights: None or "none" for a fresh initialisation; the path of a state-dict file (of the publisher's whole model,
        whose classifier is left out, or of the backbone), of a trained network's model.pt or of the folder that holds
        it; or a name that the publisher has for its weights: "DEFAULT" for the best.
    Raises UserError for an unknown name, with the nearest one, and for weights that cannot be had or don't fit.
    """
    if weights is None or str(weights) == "none":
        return _fresh(name)
    is_file = isinstance(weights, Path) or Path(weights).exists() or Path(weights).suffix in (".pt", ".pth")
    if name.startswith("timm:") and not is_file:
        if weights != "DEFAULT":
            raise UserError(f'{name} takes the weights none, DEFAULT or a state-dict file, not "{weights}"')
        return timm_backbone(name.removeprefix("timm:"), "DEFAULT")
    backbone = _fresh(name)
    if is_file:
        state = read_state(Path(weights))
    elif name in NETWORKS:
        state = published_weights(name, str(weights))
    else:
        raise UserError(f'nobody publishes weights "{weights}" for {name}: use none, or the path of a state-dict file')
    put_weights(backbone, state, origin=str(weights), others=_outlines)
    return backbone


def _fresh(name: str) -> Backbone:
    if name.startswith("timm:"):
        return timm_backbone(name.removeprefix("timm:"))
    plain, colon, channels = name.partition(":")
    if colon and plain in SCRATCH and channels.isdecimal() and int(channels) > 0:
        return SCRATCH[plain](int(channels))
    if name not in BACKBONES:
        raise UserError(
            f'unknown backbone "{name}"{nearest(plain, BACKBONES)}: one of {", ".join(BACKBONES)}, timm:NAME; '
            f"{', '.join(f'{known}:CHANNELS' for known in SCRATCH)} for other channels than usual"
        )
    return BACKBONES[name]()


def _outlines() -> Iterator[tuple[str, Backbone]]:
    """Every backbone that has weights of its own, without memory for them."""
    for name, build in BACKBONES.items():
        with torch.device("meta"):
            backbone = build()
        if backbone.state_dict():
            yield name, backbone


def table() -> str:
    """The backbones as a Markdown table: the usual input, the width F, parameters, and each stage with its output."""
    lines = ["| name | input | F | parameters | stages: output of one sample |", "|---|---|---|---|---|"]
    for name, backbone in _outlines():
        stages = ", ".join(f"`{stage}` {_times(shape)}" for stage, shape in stage_shapes(backbone).items())
        count = sum(p.numel() for p in backbone.parameters())
        lines.append(
            f"| `{name}` | {_times(backbone.input_shape or ())} | {backbone.out_features} | {count:,} | {stages} |"
        )
    return "\n".join(lines) + "\n"


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
