"""What autograd and `torch.func` may ask of MMD, and what is an error rather than a wrong number.

Gradients made in closed form are first-order only. `torch.autograd.function.once_differentiable` looks at the incoming
gradient alone; in a gradient penalty, `(loss + grad(loss, x, create_graph=True).square().sum()).backward()`, that one
is a constant, and the penalty would be left out without a word. Here the gradient depends on the sample itself.
"""

from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch  # torch.func.debug_unwrap does the same, but not in every version supported
from torch.autograd import Function, forward_ad

TWIN = 'mmd2_per_kernel(x, y, kernel, backend="dense") @ kernel.weights'  # plain operations, slower


class _FirstOrderOnly(Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, sample: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, ...]:
        raise RuntimeError(
            "this gradient of MMD was computed in the pass that gave its value, and cannot be differentiated again: "
            f"use {TWIN}, which can"
        )


def first_order_only(gradient: Tensor, sample: Tensor) -> Tensor:
    """`gradient`, made dependent on `sample`, whose gradient it is, so that a second derivative raises RuntimeError."""
    # Without create_graph nothing would be recorded, and the copy made for nothing.
    return _FirstOrderOnly.apply(gradient, sample) if torch.is_grad_enabled() and sample.requires_grad else gradient


def refuse_vmap(*tensors: Tensor) -> None:
    """Raises ValueError under torch.vmap: which pairs need more precision is decided by their values."""
    if any(_unwrapped(z).ndim != z.ndim for z in tensors):
        raise ValueError(
            "MMD cannot be mapped by torch.vmap: loop over the batch, "
            "torch.stack([mmd2(a, b, kernel) for a, b in zip(x, y)])"
        )


def refuse_transforms(*tensors: Tensor) -> None:
    """Raises ValueError under torch.func's transforms and forward-mode derivatives, for gradients in closed form."""
    if any(_unwrapped(z) is not z or forward_ad.unpack_dual(z).tangent is not None for z in tensors):
        raise ValueError(
            "mmd2 works with backward() and torch.autograd.grad, not with torch.func or in forward mode: there, use "
            f"{TWIN}"
        )


def _unwrapped(z: Tensor) -> Tensor:
    """The tensor inside all of torch.func's wrappers; z itself where it has none."""
    while _functorch.is_functorch_wrapped_tensor(z):
        z = _functorch.get_unwrapped(z)
    return z
