"""Parameter-efficient tuning of a frozen backbone: few new weights beside the old ones, which start by changing
nothing.

    residual:   y' = y + U relu(D y)    after a stage, at each position; D: C -> rank, U: rank -> C, which starts at 0
    LoRA:       W' = W + B A            inside a layer; A: in -> rank, B: rank -> out, which starts at 0; by peft

Shapes: N samples; F features; C channels; H, W height and width; L tokens or time steps.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import relu

from dan.errors import UserError, nearest
from dan.models.backbone import Backbone, stage_index, stage_shapes

KINDS = ("residual", "lora")
RANK = 8


class Residual(nn.Module):
    """y + up(relu(down(y))): y (N, C, H, W), (N, C, L), or (..., C) with the channels last; up starts at 0.

    Source: Rebuffi, Bilen & Vedaldi, "Learning multiple visual domains with residual adapters", NIPS 2017 (1 x 1
    convolutions in a frozen network); Houlsby et al., "Parameter-efficient transfer learning for NLP", ICML 2019 (the
    bottleneck, and the start near the identity). Deviations: one for each stage, after it; no normalisation of its own.
    """

    def __init__(self, channels: int, rank: int, *, dimensions: int = 0) -> None:
        """dimensions: how many come after the channels: 2 for maps, 1 for signals, 0 where the channels are last."""
        super().__init__()
        if dimensions:
            layer: Any = {1: nn.Conv1d, 2: nn.Conv2d}[dimensions]
            self.down, self.up = layer(channels, rank, 1), layer(rank, channels, 1)
        else:
            self.down, self.up = nn.Linear(channels, rank), nn.Linear(rank, channels)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, y: Tensor) -> Tensor:
        return y + self.up(relu(self.down(y)))


def adapter_settings(adapters: str | Mapping[str, Any], stages: Mapping[str, nn.Module]) -> dict[str, Any]:
    """{"kind", "rank", "stages"}, checked and complete, from a kind alone or from a part of these settings.

    Unless named, all stages with weights get adapters. Raises UserError for what isn't there.
    """
    given = {"kind": adapters} if isinstance(adapters, str) else dict(adapters)
    kind, rank = given.pop("kind", None), given.pop("rank", RANK)
    named = given.pop("stages", None)
    if given:
        raise UserError(f"adapters are told by kind, rank and stages, not by {', '.join(given)}")
    if kind not in KINDS:
        raise UserError(f'unknown adapters "{kind}"{nearest(str(kind), KINDS)}: one of {", ".join(KINDS)}')
    if not isinstance(rank, int) or rank < 1:
        raise UserError(f"the rank of adapters must be a whole number of at least 1, not {rank}")
    if named is None:
        named = [name for name, stage in stages.items() if any(True for _ in stage.parameters())]
    named = sorted(dict.fromkeys(named), key=lambda name: stage_index(stages, name))
    if not named:
        raise UserError("there is nothing to adapt: the backbone has no weights of its own")
    return {"kind": kind, "rank": rank, "stages": named}


def residual_adapters(backbone: nn.Module, stages: Sequence[str], rank: int) -> nn.ModuleDict:
    """A `Residual` for each of these stages, as wide as the stage's output. UserError where widths aren't known."""
    if not isinstance(backbone, Backbone) or backbone.input_shape is None:
        raise UserError(
            "residual adapters need a dan.models.backbone.Backbone that knows its input_shape: build one of the "
            'stages of the network, or use adapters="lora"'
        )
    shapes = stage_shapes(backbone)
    result = nn.ModuleDict()
    for name in stages:
        shape = shapes[name]
        last = len(shape) == 1 or (len(shape) == 2 and backbone.tokens)
        result[name] = Residual(shape[-1] if last else shape[0], rank, dimensions=0 if last else len(shape) - 1)
    return result


def add_lora(stages: Mapping[str, nn.Module], rank: int) -> None:
    """LoRA on every Linear and every ungrouped Conv2d of these stages, in place, with alpha = rank.

    Each W gets A (rank, in) and B (out, rank) beside it, under names that hold "lora_". The output projection of
    torch's attention is left alone (it is used by its weight, not called), and so are depthwise convolutions (A and B
    would be larger than W). Raises UserError where peft is missing, or a stage has nothing to adapt.
    Source: Hu et al., "LoRA: low-rank adaptation of large language models", ICLR 2022.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError('adapters="lora" need peft: pip install "active-dan[peft]", or use residual ones') from None
    for name, stage in stages.items():
        targets = list(_adaptable(stage))
        if not targets:
            raise UserError(f'LoRA finds no linear or convolution layer in the stage "{name}": leave it out')
        if targets == [""]:
            raise UserError(f'the stage "{name}" is a bare layer, which LoRA cannot replace: wrap it in nn.Sequential')
        trains = {parameter: parameter.requires_grad for parameter in stage.parameters()}
        pattern = "|".join(map(re.escape, targets))
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=f"(?:{pattern})"), stage)
        for parameter, trained in trains.items():  # peft freezes all else; what is frozen is not for it to say
            parameter.requires_grad_(trained)


def _adaptable(module: nn.Module, prefix: str = "") -> Iterable[str]:
    if isinstance(module, nn.MultiheadAttention):
        return
    if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1):
        yield prefix
    for name, child in module.named_children():
        yield from _adaptable(child, f"{prefix}.{name}" if prefix else name)


def is_adapter(name: str) -> bool:
    """Whether a parameter of a DAN, by its name in the state dict, belongs to an adapter."""
    return name.startswith("adapters.") or ".lora_" in name
