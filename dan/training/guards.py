"""Values that must stay finite, kept on the device and read together now and then: a step waits for none of them.

    each step        the loss; the largest activation of every aligned layer
    every 25 steps, and before each evaluation and checkpoint        all of them in one transfer; then the weights, too

So a step that is not finite never reaches a checkpoint, and the message names the step at which it began.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dan.errors import UserError

EVERY = 25  # steps between two readings
LARGEST = 1e15  # activations whose squared distances float32 still holds


class Diverged(UserError):
    """The loss, an activation or a weight is not finite any more: a lower learning rate may help."""


class FiniteGuard:
    """Collects scalars by step; `check` raises what went wrong first. lr: the rate that messages advise to lower."""

    def __init__(self, lr: float) -> None:
        self.lr = lr
        self._values: list[Tensor] = []
        self._meanings: list[tuple[int, str | None]] = []  # step; layer, or None for a loss

    def watch_loss(self, loss: Tensor, step: int) -> None:
        """A loss (scalar), which is to be finite."""
        self._add(loss.detach(), step, None)

    def watch_layers(self, layers: Mapping[str, Tensor], step: int) -> None:
        """Activations, which are to stay below 1e15: beyond it their squared distances leave float32."""
        for name, layer in layers.items():
            self._add(torch.linalg.vector_norm(layer.detach(), math.inf), step, name)

    def check(self) -> None:
        """Read what was collected. Raises Diverged, or UserError where the first step of all is not finite already."""
        if not self._values:
            return
        numbers = torch.stack(self._values).tolist()
        meanings = self._meanings
        self._values, self._meanings = [], []
        for value, (step, layer) in zip(numbers, meanings, strict=True):
            if (layer is None and not math.isfinite(value)) or (layer is not None and not value < LARGEST):
                raise self._failure(value, step, layer)

    def _failure(self, value: float, step: int, layer: str | None) -> UserError:
        lower = f"lower the rate (now {self.lr}) and run again"
        verb = "are" if step == 0 or math.isnan(value) else "grew to"
        what = f"the loss is {value}" if layer is None else f'the activations of layer "{layer}" {verb} {value:.0e}'
        if step > 0:  # activations are watched where they are aligned
            return Diverged(f"{what} at step {step}: {lower}{'' if layer is None else ', or with a lower trade-off'}")
        if layer is None or math.isnan(value):
            return UserError(f"{what} at step 0, before anything was learned: look for NaN in the data")
        return UserError(
            f"{what} at step 0, before anything was trained: look for fill values (such as 1e20) in the data of both "
            "domains, or bring the features to a scale around 1"
        )

    def check_weights(self, model: nn.Module, step: int) -> None:
        """Raises Diverged where the loss was finite and the weights that step `step` led to are not."""
        named = list(model.named_parameters())
        finite = torch.stack([parameter.detach().isfinite().all() for _, parameter in named]).tolist()
        for (name, _), whole in zip(named, finite, strict=True):
            if not whole:
                raise Diverged(f"{name} is NaN after step {step}: lower the rate (now {self.lr}) and run again")

    def _add(self, value: Tensor, step: int, layer: str | None) -> None:
        self._values.append(value)
        self._meanings.append((step, layer))
