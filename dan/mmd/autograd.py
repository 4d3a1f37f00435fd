"""Gradients made in closed form are first-order only: differentiating them again is an error, not a silent zero.

`torch.autograd.function.once_differentiable` looks at the incoming gradient alone. In a gradient penalty,
`(loss + grad(loss, x, create_graph=True).square().sum()).backward()`, that one is a constant, and the penalty would be
left out without a word. Here the gradient depends on the sample itself.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class _FirstOrderOnly(Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, sample: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, ...]:
        raise RuntimeError(
            "this gradient of MMD was computed in the pass that gave its value, and cannot be differentiated again: "
            'use mmd2_per_kernel(x, y, kernel, backend="dense") @ kernel.weights, which can'
        )


def first_order_only(gradient: Tensor, sample: Tensor) -> Tensor:
    """`gradient`, made dependent on `sample`, whose gradient it is, so that a second derivative raises RuntimeError."""
    # Without create_graph nothing would be recorded, and the copy made for nothing.
    return _FirstOrderOnly.apply(gradient, sample) if torch.is_grad_enabled() and sample.requires_grad else gradient
