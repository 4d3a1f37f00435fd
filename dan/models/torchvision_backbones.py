"""torchvision's image networks, cut into named stages; the classifier is left out, and nothing is computed otherwise.

The stages are built from torchvision's own modules, so features equal those of its model, and its weights fit by name.

Shapes: N samples; C channels; H, W height and width; L tokens; F features.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dan.errors import UserError
from dan.models.backbone import Backbone

Stages = dict[str, nn.Module]


def _pool() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _part(layers: nn.Sequential, first: int, last: int) -> nn.Module:
    """The layers first, ..., last - 1, numbered from 0 on (a slice would keep their old numbers)."""
    return nn.Sequential(*layers[first:last])


def _alexnet(model: Any) -> Stages:
    """A stage ends with the activation that is aligned or cached: dropout opens fc6 and fc7, as torchvision has it."""
    maps, dense = model.features, model.classifier
    return {
        "conv1": _part(maps, 0, 3),
        "conv2": _part(maps, 3, 6),
        "conv3": _part(maps, 6, 8),
        "conv4": _part(maps, 8, 10),
        "conv5": _part(maps, 10, 13),
        "fc6": nn.Sequential(model.avgpool, nn.Flatten(), *dense[0:3]),
        "fc7": _part(dense, 3, 6),
    }


def _squeezenet(model: Any) -> Stages:
    """A pooling closes the stage before it, which makes what is cached there a quarter of the size."""
    parts = {"conv1": (0, 3), "fire2": (3, 4), "fire3": (4, 6), "fire4": (6, 7), "fire5": (7, 9)}
    parts |= {"fire6": (9, 10), "fire7": (10, 11), "fire8": (11, 12), "fire9": (12, 13)}
    return {name: _part(model.features, first, last) for name, (first, last) in parts.items()} | {"pool": _pool()}


def _mobilenet(model: Any) -> Stages:
    return {f"block{i}": block for i, block in enumerate(model.features)} | {"pool": _pool()}


def _resnet(model: Any) -> Stages:
    return {
        "conv1": nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool),
        **{f"layer{i}": getattr(model, f"layer{i}") for i in range(1, 5)},
        "pool": nn.Sequential(model.avgpool, nn.Flatten()),
    }


class Embed(nn.Module):
    """An image (N, 3, H, W) as tokens (N, 1 + L, C): the class token, then one for each patch, with their positions."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.size = model.image_size
        self.patches = model.conv_proj
        self.class_token = model.class_token
        self.positions = model.encoder.pos_embedding
        self.dropout = model.encoder.dropout

    def forward(self, images: Tensor) -> Tensor:
        if tuple(images.shape[2:]) != (self.size, self.size):
            raise UserError(
                f"this network takes images of {self.size} x {self.size} pixels alone (its positions are learned), "
                f"not {tuple(images.shape[2:])}: resize them"
            )
        patches = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), patches], dim=1)
        return self.dropout(tokens + self.positions)


class ClassToken(nn.Module):
    """Tokens (N, L, C) -> the first one, (N, C)."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0]


def _vit(model: Any) -> Stages:
    blocks = {f"block{i + 1}": block for i, block in enumerate(model.encoder.layers)}
    return {"embed": Embed(model), **blocks, "norm": nn.Sequential(model.encoder.ln, ClassToken())}


# name -> how it is cut, its width F, and the smallest image that survives its poolings
NETWORKS: dict[str, tuple[Callable[[Any], Stages], int, int]] = {
    "alexnet": (_alexnet, 4096, 63),
    "squeezenet1_1": (_squeezenet, 512, 17),
    "mobilenet_v2": (_mobilenet, 1280, 1),
    "resnet18": (_resnet, 512, 1),
    "resnet50": (_resnet, 2048, 1),
    "resnet101": (_resnet, 2048, 1),
    "vit_b_16": (_vit, 768, 224),
}


def torchvision_backbone(name: str) -> Backbone:
    """torchvision's network of that name, one of NETWORKS, as a backbone, freshly initialised by torchvision's
    rules."""
    from torchvision.models import get_model

    cut, width, smallest = NETWORKS[name]
    model = get_model(name, weights=None)
    backbone = Backbone(
        cut(model),
        out_features=width,
        input_shape=(3, 224, 224),
        smallest=smallest,
        tokens=name.startswith("vit"),
        normalisation="imagenet",
    )
    backbone.published = published_names(model, backbone)
    return backbone


def published_names(model: nn.Module, backbone: nn.Module) -> dict[str, str | None]:
    """Each weight's name in the publisher's model -> its name in the backbone that shares it; None: not in the
    backbone."""
    ours = {id(value): key for key, value in backbone.state_dict(keep_vars=True).items()}
    return {key: ours.get(id(value)) for key, value in model.state_dict(keep_vars=True).items()}
