"""Deep Adaptation Network: a trunk, task-specific layers on it, and the activations that MK-MMD will align.

Shapes: N samples; F features; C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from dan.networks.backbones import build_backbone


@dataclass(frozen=True)
class Output:
    """What a network says of a batch: logits (N, C), and its task-specific layers by name, in order, (N, F) each.

    The layers are "hidden1", "hidden2", ... and "output" (the logits).
    """

    logits: Tensor
    layers: dict[str, Tensor]

    @property
    def features(self) -> Tensor:
        """The last layer before the logits (N, F): where core-sets are chosen. The logits if there is no hidden one."""
        return list(self.layers.values())[max(0, len(self.layers) - 2)]


class DAN(nn.Module):
    """Trunk -> hidden layers (Linear, ReLU, dropout) -> logits, as Long et al., "Learning Transferable Features with
    Deep Adaptation Networks", ICML 2015, figure 1.

    backbone: a name of `dan.networks.backbones.BACKBONES`, or any nn.Module from a batch to (N, F) (other shapes are
        flattened). Its attribute `out_features` tells F; without one, F is read off the first batch.
    num_classes: C. layers: widths of the hidden task-specific layers.
    weights: a state dict for the whole network, loaded strictly; None leaves the fresh initialisation.

    Raises ValueError for num_classes < 2 or a width < 1, UserError for an unknown backbone.
    """

    def __init__(
        self,
        backbone: str | nn.Module,
        num_classes: int,
        *,
        layers: Sequence[int] = (64,),
        dropout: float = 0.0,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 2 or any(width < 1 for width in layers):
            raise ValueError(f"a network needs num_classes >= 2 and widths >= 1, not {num_classes} and {list(layers)}")
        self.trunk = build_backbone(backbone) if isinstance(backbone, str) else backbone
        # What `load` needs to build the same network again; a module of one's own cannot be built from a file.
        self.settings = {
            "backbone": backbone if isinstance(backbone, str) else None,
            "num_classes": num_classes,
            "layers": list(layers),
            "dropout": dropout,
        }
        widths = [getattr(self.trunk, "out_features", None), *layers, num_classes]
        self.hidden = nn.ModuleList(
            nn.Sequential(_linear(before, width), nn.ReLU(), nn.Dropout(dropout))
            for before, width in zip(widths[:-2], layers, strict=True)
        )
        self.output = _linear(widths[-2], num_classes)
        if weights is not None:
            self.load_state_dict(weights)

    @property
    def layer_names(self) -> list[str]:
        """The names of the layers that can be aligned, from the trunk to the logits."""
        return [*(f"hidden{i + 1}" for i in range(len(self.hidden))), "output"]

    def forward(self, inputs: Tensor) -> Output:
        features = self.trunk(inputs).flatten(1)
        layers = {}
        for name, hidden in zip(self.layer_names, self.hidden, strict=False):
            layers[name] = features = hidden(features)
        logits = layers["output"] = self.output(features)
        return Output(logits, layers)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by learning rate: "trunk" (may be pre-trained) and "new" (the task-specific layers)."""
        trunk = list(self.trunk.parameters())
        return {"trunk": trunk, "new": [*self.hidden.parameters(), *self.output.parameters()]}


def _linear(before: int | None, width: int) -> nn.Module:
    return nn.LazyLinear(width) if before is None else nn.Linear(before, width)
