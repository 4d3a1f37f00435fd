"""A gradient that was made by hand can be used once; whoever differentiates it again is told so, not given zeros."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class _OnceOnly(Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, of: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, ...]:
        raise RuntimeError(
            "this gradient of MMD was computed in the pass that gave its value, and cannot be differentiated again: "
            'use mmd2_per_kernel(x, y, kernel, backend="dense") @ kernel.weights, which can'
        )


def once_only(gradient: Tensor, of: Tensor) -> Tensor:
    """`gradient`, tied to `of`, by which it is the gradient, so that a second derivative is refused, not left out."""
    # Without create_graph nothing would be recorded, and the copy made for nothing.
    return _OnceOnly.apply(gradient, of) if torch.is_grad_enabled() and of.requires_grad else gradient
