"""Deep Adaptation Network: a backbone, task-specific layers on it, and the activations that MK-MMD will align.

Shapes: N samples; F features; C classes (channels, of a map); H, W height and width.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dan.models.adapters import adapter_settings, add_lora, is_adapter, residual_adapters
from dan.models.backbone import Backbone, pooled, stage_index
from dan.models.registry import build_backbone

ALIASES = {"fc8": "output", "logits": "output", "bottleneck": "hidden1"}  # what papers call these layers


def layer_named(name: str) -> str:
    """A layer's own name: fc8 and logits are "output", bottleneck is "hidden1"."""
    return ALIASES.get(name, name)


@dataclass(frozen=True)
class Output:
    """What a network says of a batch: logits (N, C), and its named layers, in order, (N, F) each.

    The layers are the captured stages of the backbone, if any, then "hidden1", "hidden2", ... and "output" (the
    logits). weights: (N,) how much each sample counts in the terms that compare domains; None: all the same.
    """

    logits: Tensor
    layers: dict[str, Tensor]
    weights: Tensor | None = None

    @property
    def features(self) -> Tensor:
        """The last layer before the logits (N, F): where core-sets are chosen. The logits if there is none."""
        return list(self.layers.values())[max(0, len(self.layers) - 2)]

    def split(self, sizes: Sequence[int]) -> list["Output"]:
        """The outputs of batches that went through the network as one, `sizes` samples each."""
        layers = {name: layer.split(list(sizes)) for name, layer in self.layers.items()}
        parts = enumerate(self.logits.split(list(sizes)))
        return [Output(logits, {name: layer[i] for name, layer in layers.items()}) for i, logits in parts]


class DAN(nn.Module):
    """Backbone -> hidden layers (Linear, ReLU, dropout) -> logits, as Long et al., "Learning Transferable Features with
    Deep Adaptation Networks", ICML 2015, figure 1.

    backbone: a name that `dan.models.registry.build_backbone` knows, a `Backbone`, or any nn.Module from a batch to
        (N, F) (other shapes are flattened), which is a single stage called "backbone". Its attribute `out_features`
        tells F; without one, F is read off the first batch.
    num_classes: C. layers: widths of the hidden task-specific layers.
    pretrained: weights of a backbone that is given by name: see `build_backbone`.
    capture: stages of the backbone whose outputs are layers too, and so can be aligned; a map is averaged over
    positions. frozen: stages that aren't trained: see `freeze`. None: none, or, where there are adapters, all.
    adapters: "residual", "lora", or {"kind", "rank" (8), "stages" (all with weights)}: few weights that train in a
        frozen backbone: see `dan.models.adapters`.
    weights: a state dict for the whole network, loaded strictly; None leaves it as built.

    Raises ValueError for num_classes < 2 or a width < 1, UserError for an unknown backbone, stage or kind of adapters.
    """

    def __init__(
        self,
        backbone: str | nn.Module,
        num_classes: int,
        *,
        layers: Sequence[int] = (64,),
        dropout: float = 0.0,
        pretrained: str | Path | None = None,
        capture: Sequence[str] = (),
        frozen: Iterable[str] | None = None,
        adapters: str | Mapping[str, Any] | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 2 or any(width < 1 for width in layers):
            raise ValueError(f"a network needs num_classes >= 2 and widths >= 1, not {num_classes} and {list(layers)}")
        if pretrained is not None and not isinstance(backbone, str):
            raise ValueError("pretrained is for a backbone given by name: load the weights of a module of your own")
        self.backbone = build_backbone(backbone, pretrained) if isinstance(backbone, str) else backbone
        chosen = None if adapters is None else adapter_settings(adapters, self.stages)
        # What `load` needs to build the same network again; a module of one's own cannot be built from a file.
        self.settings: dict[str, Any] = {
            "backbone": backbone if isinstance(backbone, str) else None,
            "num_classes": num_classes,
            "layers": list(layers),
            "dropout": dropout,
            "capture": sorted(dict.fromkeys(capture), key=lambda name: stage_index(self.stages, name)),
            "frozen": [],
            "adapters": chosen,
        }
        widths = [getattr(self.backbone, "out_features", None), *layers, num_classes]
        self.hidden = nn.ModuleList(
            nn.Sequential(_linear(before, width), nn.ReLU(), nn.Dropout(dropout))
            for before, width in zip(widths[:-2], layers, strict=True)
        )
        self.output = _linear(widths[-2], num_classes)
        taken = {"output", "adapters", *(f"hidden{i + 1}" for i in range(len(layers)))} & set(self.stages)
        if taken:
            raise ValueError(f"a stage of the backbone cannot be called {taken.pop()}: another part of the network is")
        self.adapters = nn.ModuleDict()
        if chosen and chosen["kind"] == "residual":
            self.adapters = residual_adapters(self.backbone, chosen["stages"], chosen["rank"])
        elif chosen:
            add_lora({name: self.stages[name] for name in chosen["stages"]}, chosen["rank"])
        self.freeze((list(self.stages) if chosen else []) if frozen is None else frozen)
        if weights is not None:
            self.load_state_dict(weights)

    @property
    def stages(self) -> dict[str, nn.Module]:
        """The backbone's stages by name, from the input on; a module of one's own is the one stage "backbone"."""
        return self.backbone.stages if isinstance(self.backbone, Backbone) else {"backbone": self.backbone}

    @property
    def layer_names(self) -> list[str]:
        """The names of the layers that can be aligned, from the backbone to the logits."""
        return [*self.settings["capture"], *(f"hidden{i + 1}" for i in range(len(self.hidden))), "output"]

    def forward(self, inputs: Tensor, start: int = 0) -> Output:
        """start: how many stages of the backbone have been run already: `inputs` are the output of stage start - 1.

        Raises ValueError where a captured stage lies before that one: its output can't be known.
        """
        stages, capture = list(self.stages.items()), self.settings["capture"]
        first = stage_index(self.stages, capture[0]) if capture else len(stages)
        if not 0 <= start <= min(len(stages), first + 1):
            raise ValueError(
                f"the network cannot be entered after {start} of its {len(stages)} stages"
                + (f": the output of {capture[0]} is captured" if capture else "")
            )
        if start == 0 and isinstance(self.backbone, Backbone):
            self.backbone.check(inputs)
        flow, layers = inputs, {}
        if start and stages[start - 1][0] in capture:
            layers[stages[start - 1][0]] = self._pooled(flow)
        for name, stage in stages[start:]:
            flow = stage(flow)
            if name in self.adapters:
                flow = self.adapters[name](flow)
            if name in capture:
                layers[name] = self._pooled(flow)
        features = flow.flatten(1)
        for i, hidden in enumerate(self.hidden):
            layers[f"hidden{i + 1}"] = features = hidden(features)
        logits = layers["output"] = self.output(features)
        return Output(logits, layers)

    def _pooled(self, output: Tensor) -> Tensor:
        return self.backbone.pooled(output) if isinstance(self.backbone, Backbone) else pooled(output)

    def freeze(self, names: Iterable[str] | str = (), *, up_to: str | None = None) -> None:
        """Freeze these stages of the backbone and no others; `freeze()` frees all. up_to: that one and all before it,
        too.

        A frozen stage gets no gradient, and stays in evaluation mode when the network trains: its batch norm keeps its
        statistics and its dropout does nothing. Adapters in it train. Raises UserError for an unknown stage.
        """
        stages = self.stages
        wanted = {names} if isinstance(names, str) else set(names)
        if up_to is not None:
            wanted |= set(list(stages)[: stage_index(stages, up_to) + 1])
        for name in wanted:
            stage_index(stages, name)
        before = set(self.settings["frozen"])
        for name, stage in stages.items():
            if (name in wanted) != (name in before):  # what else its owner has set stays as it is
                for key, parameter in stage.named_parameters(prefix=f"backbone.{name}"):
                    parameter.requires_grad_(name not in wanted or is_adapter(key))
        self.settings["frozen"] = [name for name in stages if name in wanted]
        self.train(self.training)

    def train(self, mode: bool = True) -> "DAN":
        """As of any module, but that frozen stages stay in evaluation mode."""
        super().train(mode)
        for name in self.settings["frozen"]:
            self.stages[name].eval()
        return self

    @property
    def frozen_prefix(self) -> int:
        """How many stages from the input on never change: frozen, and without adapters. 0 if the first one trains."""
        adapted = (self.settings["adapters"] or {"stages": []})["stages"]
        fixed = [name in self.settings["frozen"] and name not in adapted for name in self.stages]
        return [*fixed, False].index(False)

    @property
    def cached_stages(self) -> int:
        """How many stages can be computed once: the frozen prefix, but no further than the first captured stage.

        `forward(outputs, start=cached_stages)` goes on from there.
        """
        capture = self.settings["capture"]
        return min(self.frozen_prefix, stage_index(self.stages, capture[0]) + 1) if capture else self.frozen_prefix

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters that train, by learning rate: "backbone" (may be pre-trained), "new" (task-specific, adapters)."""
        by_stage = self.stage_groups()
        backbone = [parameter for name in self.stages for parameter in by_stage.pop(name, [])]
        return {"backbone": backbone, "new": [parameter for group in by_stage.values() for parameter in group]}

    def stage_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters that train, by part: the backbone's stages, "hidden1", ..., "output", and "adapters".

        Parts in which nothing trains (frozen, or without weights) are left out.
        """
        parts = {
            **{name: stage.named_parameters(prefix=f"backbone.{name}") for name, stage in self.stages.items()},
            **{f"hidden{i + 1}": hidden.named_parameters() for i, hidden in enumerate(self.hidden)},
            "output": self.output.named_parameters(),
        }
        groups = {
            part: [parameter for name, parameter in named if parameter.requires_grad and not is_adapter(name)]
            for part, named in parts.items()
        }
        groups["adapters"] = [p for name, p in self.named_parameters() if is_adapter(name) and p.requires_grad]
        return {part: group for part, group in groups.items() if group}


def _linear(before: int | None, width: int) -> nn.Module:
    return nn.LazyLinear(width) if before is None else nn.Linear(before, width)
