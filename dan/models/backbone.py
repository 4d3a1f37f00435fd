"""Backbone: named stages that run one after the other, so that freezing, aligning and caching can speak of them by
name.

Shapes: N samples; F features; C channels; H, W height and width; L tokens or time steps.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dan.errors import UserError, nearest


class Backbone(nn.Module):
    """forward = the last stage o ... o the first stage.

    stages: name -> module, in the order in which they run; each one's output is the next one's only input.
    out_features: F of the last stage's (flattened) output; None: whoever stands on the backbone learns it from a batch.
    input_shape: the usual (C, H, W), (C, L) or (F,) of one sample; None: unknown. C is binding, H, W and L are not,
        unless `smallest`, the least H, W or L, says so. tokens: outputs (N, L, C) are transformer tokens, the class
        token first. normalisation: "imagenet" if the input is to have ImageNet's mean and deviation; None: no matter.
    published: the publisher's name of each weight -> its name here, or None for what a backbone leaves out
    (classifiers).
    """

    def __init__(
        self,
        stages: Mapping[str, nn.Module],
        *,
        out_features: int | None = None,
        input_shape: tuple[int, ...] | None = None,
        smallest: int = 1,
        tokens: bool = False,
        normalisation: str | None = None,
        published: Mapping[str, str | None] | None = None,
    ) -> None:
        super().__init__()
        if not stages:
            raise ValueError("a backbone needs at least one stage")
        for name, stage in stages.items():
            self.add_module(name, stage)
        self.out_features, self.input_shape, self.smallest = out_features, input_shape, smallest
        self.tokens, self.normalisation = tokens, normalisation
        self.published = dict(published or {})

    @property
    def stages(self) -> dict[str, nn.Module]:
        """The stages by name, from the input on."""
        return {name: stage for name, stage in self._modules.items() if stage is not None}

    @property
    def input_size(self) -> int | None:
        """The usual width of an image, or length of a signal; None for feature vectors and where it isn't known."""
        return self.input_shape[-1] if self.input_shape and len(self.input_shape) > 1 else None

    @property
    def channels(self) -> int | None:
        """How many channels an input must have; None where any will do."""
        return self.input_shape[0] if self.input_shape else None

    def up_to(self, name: str) -> tuple[str, ...]:
        """The names of the stages from the first to this one. Raises UserError where no stage has that name."""
        return tuple(self.stages)[: stage_index(self.stages, name) + 1]

    def run(self, inputs: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """The stages start, ..., stop - 1 alone (all from `start` on for None): run(run(x, 0, k), k) = forward(x)."""
        if start == 0:
            self.check(inputs)
        for stage in list(self.stages.values())[start:stop]:
            inputs = stage(inputs)
        return inputs

    def forward(self, inputs: Tensor) -> Tensor:
        return self.run(inputs)

    def check(self, inputs: Tensor) -> None:
        """Raises UserError where a batch cannot be right: too few dimensions, other channels, or too small."""
        shape, usual = tuple(inputs.shape), self.input_shape
        if usual is None:
            return
        if len(shape) != len(usual) + 1 or shape[1] != usual[0] or (len(usual) > 1 and min(shape[2:]) < self.smallest):
            least = f", at least {self.smallest} wide" if self.smallest > 1 else ""
            raise UserError(
                f"this network takes batches of {usual[0]} channels, usually (N, {', '.join(map(str, usual))})"
                f"{least}, not {shape}: convert the data, or choose another backbone"
            )

    def pooled(self, output: Tensor) -> Tensor:
        """A stage's output as one vector a sample: (N, C) from maps (N, C, H, W) and signals (N, C, L) by the mean
        over positions, from tokens (N, L, C) by the class token; (N, F) stays as it is."""
        return pooled(output, tokens=self.tokens)


def pooled(output: Tensor, *, tokens: bool = False) -> Tensor:
    """See `Backbone.pooled`."""
    if output.ndim == 3 and tokens:
        return output[:, 0]
    return output.flatten(2).mean(2) if output.ndim > 2 else output


def stage_index(stages: Mapping[str, nn.Module], name: str) -> int:
    """Where a stage stands, from 0. Raises UserError, with the nearest name, where there is none of that name."""
    if name not in stages:
        raise UserError(f'the backbone has no stage "{name}"{nearest(name, stages)}: one of {", ".join(stages)}')
    return list(stages).index(name)


def stage_shapes(backbone: Backbone) -> dict[str, tuple[int, ...]]:
    """The shape of each stage's output for one sample of the usual shape, without computing anything.

    The stages run on the meta device, with their own weights left where they are.
    Raises ValueError where the backbone doesn't say what a sample looks like.
    """
    if backbone.input_shape is None:
        raise ValueError("the shapes of the stages are known only if the backbone has an input_shape")
    flow = torch.empty(2, *backbone.input_shape, device="meta")  # two, since batch norm in training refuses one
    shapes = {}
    for name, stage in backbone.stages.items():
        state = {key: value.to("meta") for key, value in stage.state_dict().items()}
        flow = torch.func.functional_call(stage, state, (flow,))
        shapes[name] = tuple(flow.shape[1:])
    return shapes
