"""Sums of a kernel over all pairs: the one seam through which estimators and strategies reach a backend.

dense   one matrix of all pairs; best at batch size                                       dan/mmd/dense.py
tiled   a tile of pairs at a time, the gradient with the value; best beyond, any size     dan/mmd/tiled.py
keops   a compiled formula, no matrix; where few features meet many samples on a GPU      dan/mmd/keops.py
auto    the fastest by a table of measured crossovers                                     dan/mmd/crossovers.json

All agree; the tests hold them to a loop in float64. Distances are never in half precision, whatever autocast says, and
the samples are centred first.

Shapes: N, M samples; F features; K kernels.
"""

import json
import logging
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from dan.errors import nearest
from dan.mmd import dense, keops, tiled
from dan.mmd.autograd import first_order_only, refuse_transforms, refuse_vmap
from dan.mmd.distances import precision_of, squared_distances
from dan.mmd.kernels import MultiKernel
from dan.mmd.sample_weights import SampleWeights

__all__ = ["BACKENDS", "choose_backend", "kernel_row_sums", "kernel_totals", "squared_distances", "weighted_total"]

log = logging.getLogger(__name__)

BACKENDS: dict[str, Callable[..., Tensor]] = {"dense": dense.totals, "tiled": tiled.totals, "keops": keops.totals}
ROW_SUMS: dict[str, Callable[..., Tensor]] = {
    "dense": dense.row_sums,
    "tiled": tiled.row_sums,
    "keops": keops.row_sums,
}
WITH_GRADIENT: dict[str, Callable[..., Any]] = {"dense": dense.weighted, "tiled": tiled.weighted}


def kernel_totals(
    x: Tensor,
    y: Tensor,
    bandwidths: Tensor,
    *,
    backend: str = "auto",
    sample_weights: SampleWeights | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of exp(-|a - b|^2 / gamma_u) over ordered pairs, for each kernel u.

    x (N, F), y (M, F), bandwidths (K,) -> (pairs i != j within x, pairs i != j within y, pairs between), each (K,) in
    float64, differentiable in x and y. backend: "auto" or a name of BACKENDS. With sample_weights a pair counts as the
    product of its samples' weights.
    """
    x, y = _alike(x, y)
    name = choose_backend(backend, x, y, len(bandwidths))
    with torch.autocast(device_type=x.device.type, enabled=False):
        weights = None if sample_weights is None else sample_weights.rows.to(x.dtype)
        xx, yy, xy = BACKENDS[name](x, y, _listed(bandwidths), weights).double().unbind(0)
    return xx, yy, xy


def kernel_row_sums(
    x: Tensor, y: Tensor, kernel: MultiKernel, *, backend: str = "auto", per_kernel: bool = False
) -> Tensor:
    """sum_j k(x_i, y_j) for x (N, F), y (M, F) -> (N,), under the weighted kernel, or (N, K) per kernel.

    Differentiable in x and y.
    """
    x, y = _alike(x, y)
    name = choose_backend(backend, x, y, len(kernel.bandwidths))
    with torch.autocast(device_type=x.device.type, enabled=False):
        sums = ROW_SUMS[name](x, y, _listed(kernel.bandwidths))
        return sums if per_kernel else sums @ kernel.weights.to(sums)


def weighted_total(
    x: Tensor,
    y: Tensor,
    kernel: MultiKernel,
    coefficients: tuple[float, float, float],
    *,
    backend: str = "auto",
    sample_weights: SampleWeights | None = None,
) -> Tensor:
    """a xx + b yy + c xy of the weighted totals xx = sum_u beta_u xx_u, ...; coefficients (a, b, c) -> scalar.

    The same as weighing `kernel_totals`, and faster: what the gradient is wanted of is known beforehand, so that it is
    computed in the same pass ("dense", "tiled").
    """
    x, y = _alike(x, y)
    name = choose_backend(backend, x, y, len(kernel.bandwidths))
    bandwidths = _listed(kernel.bandwidths)
    weights = None if sample_weights is None else sample_weights.rows.to(x.dtype)
    with torch.autocast(device_type=x.device.type, enabled=False):
        if name not in WITH_GRADIENT:
            sums = BACKENDS[name](x, y, bandwidths, weights)
            return (sums.new_tensor(coefficients) @ sums @ kernel.weights.to(sums)).to(x.dtype)
        refuse_transforms(x, y)
        arguments = (bandwidths, kernel.weights.tolist(), coefficients, weights)
        if torch.is_grad_enabled() and (x.requires_grad or y.requires_grad):
            return _Weighted.apply(x, y, WITH_GRADIENT[name], arguments)
        return WITH_GRADIENT[name](x, y, *arguments, gradients=False)[0].to(x.dtype)


class _Weighted(Function):
    """A weighted total whose gradient was computed beside it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, sweep: Callable[..., Any], arguments: tuple[Any, ...]) -> Tensor:
        value, of_x, of_y = sweep(x, y, *arguments, gradients=True)
        ctx.save_for_backward(of_x, of_y, x, y)
        return value.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        of_x, of_y, x, y = ctx.saved_tensors
        scale = outputs[0].detach()
        return (
            first_order_only(of_x * scale, x) if ctx.needs_input_grad[0] else None,
            first_order_only(of_y * scale, y) if ctx.needs_input_grad[1] else None,
            None,
            None,
        )


def choose_backend(name: str, x: Tensor, y: Tensor, kernels: int) -> str:
    """The backend that will run: `name` itself, the fastest for these samples if it is "auto".

    "keops" where KeOps does not work (no compiler, no CUDA toolkit) becomes "tiled", with a warning that says why.
    Raises ValueError for an unknown name.
    """
    valid = ["auto", *BACKENDS]
    if name not in valid:
        raise ValueError(f'unknown backend "{name}"{nearest(name, valid)}: one of {", ".join(valid)}')
    if name == "auto":
        name = _fastest(x.device.type, str(x.dtype), len(x) + len(y), x.shape[1], kernels)
    if name == "keops" and (reason := keops.why_not(x.device.type)):
        _warn_once("KeOps does not work here (%s): using the tiled backend", reason)
        return "tiled"
    return name


@lru_cache(maxsize=16)
def _warn_once(message: str, reason: str) -> None:
    """A training loop asks at every step."""
    log.warning(message, reason)


@lru_cache(maxsize=256)
def _fastest(device: str, dtype: str, samples: int, features: int, kernels: int) -> str:
    """By the measured case nearest in log F and log K; a device not measured goes by the CPU, without KeOps."""
    table = _crossovers()
    measured = device in table
    cases = [case for case in table[device if measured else "cpu"] if f"torch.{case['dtype']}" == dtype]

    def distance(case: dict[str, Any]) -> float:
        return abs(math.log(case["features"] / max(1, features))) + abs(math.log(case["kernels"] / kernels)) / 4

    case = min(cases, key=distance)
    if measured and case["keops_from"] is not None and samples >= 2 * case["keops_from"]:
        return "keops"
    return "dense" if case["tiled_from"] is None or samples < 2 * case["tiled_from"] else "tiled"


@lru_cache(maxsize=1)
def _crossovers() -> dict[str, list[dict[str, Any]]]:
    """{device type: [{dtype, features, kernels, tiled_from, keops_from}]}: sizes n = m from which each is faster.

    Made by `python -m experiments.benchmarks.crossovers`.
    """
    return json.loads((files("dan.mmd") / "crossovers.json").read_text(encoding="utf-8"))


def _alike(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both in one precision, float32 at least."""
    refuse_vmap(x, y)
    if x.dtype == y.dtype and x.dtype in (torch.float32, torch.float64):
        return x, y
    dtype = precision_of(x, y)
    return x.to(dtype), y.to(dtype)


def _listed(bandwidths: Tensor | Sequence[float]) -> tuple[float, ...]:
    return tuple(torch.as_tensor(bandwidths).tolist())
