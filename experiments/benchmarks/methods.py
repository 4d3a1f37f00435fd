"""The methods that are measured: each turns a MultiKernel into a loss on (x, y), so that all compute the same kernel.

    ours        k(x, y) = sum_u beta_u exp(-|x - y|^2 / gamma_u)
Every peer has a convention of its own; `build` maps our gamma_u to it, and `equals` says which of our estimates the
result then is. Equal weights beta_u = 1/K throughout, for no peer has others.

Shapes: N, M samples; F features; K kernels.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, Literal

import torch
from torch import Tensor

from dan.mmd import MultiKernel, mmd2
from dan.mmd.keops import why_not

Loss = Callable[[Tensor, Tensor], Tensor]
Kind = Literal["ours", "exact", "plain", "other kernel", "linear", "floor"]


class Unavailable(Exception):
    """The method cannot run here; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row of the table.

    kind: "ours", "exact" (a library that computes the same function over all pairs), "plain" (the definition, written
        out in PyTorch), "other kernel" (a library, all pairs, but not the same function), "linear" (the linear-time
        estimate, however it is computed), "floor" (no loss at all).
    what: one line for the reader: what is called, and how our bandwidths become its own.
    build: kernel, on the device of the samples -> loss(x, y), a scalar; raises Unavailable. None for the floor.
    equals: the estimator of `dan.mmd.mmd2` whose value the loss is, None if none.
    power: time grows as n ** power.
    """

    kind: Kind
    what: str
    build: Callable[[MultiKernel], Loss] | None
    equals: str | None
    power: int = 2


def _peer(module: str, name: str) -> Any:
    """A name of another library's module; Unavailable if the library is not there."""
    try:
        # What their imports have to say of their own dependencies is no matter of ours.
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            return getattr(import_module(module), name)
    except ImportError as error:
        raise Unavailable(f"not installed ({error})") from None


def _ours(kernel: MultiKernel, *, backend: str) -> Loss:
    # Where KeOps does not work its backend hands over to another, whose time is not KeOps's.
    if backend == "keops" and (reason := why_not(kernel.bandwidths.device.type)):
        raise Unavailable(f"not installed ({reason})")
    return partial(mmd2, kernel=kernel, backend=backend)


def _our_linear(kernel: MultiKernel) -> Loss:
    return partial(mmd2, kernel=kernel, estimator="linear")


def _pytorch_adapt(kernel: MultiKernel, *, name: str = "MMDLoss", mmd_type: str = "quadratic") -> Loss:
    loss = _peer("pytorch_adapt.layers.mmd_loss", name)
    return loss(kernel_scales=1 / kernel.bandwidths, bandwidth=1.0, mmd_type=mmd_type)


def _skada(kernel: MultiKernel) -> Loss:
    return partial(_peer("skada.deep.losses", "dan_loss"), sigmas=kernel.bandwidths.sqrt().tolist())


def _geomloss(kernel: MultiKernel) -> Loss:
    samples_loss = _peer("geomloss", "SamplesLoss")
    losses = [samples_loss("gaussian", blur=(gamma / 2) ** 0.5) for gamma in kernel.bandwidths.tolist()]

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return 2 / len(losses) * torch.stack([one(x, y) for one in losses]).sum()

    return loss


def _keops_by_hand(kernel: MultiKernel) -> Loss:
    lazy = _peer("pykeops.torch", "LazyTensor")
    gammas = kernel.bandwidths.tolist()

    def total(a: Tensor, b: Tensor) -> Tensor:
        d2 = lazy(a[:, None]).sqdist(lazy(b[None]))
        return sum((d2 / -gamma).exp() for gamma in gammas).sum(1).sum() / len(gammas)

    return partial(_unbiased, total)


def _unbiased(total: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """The unbiased estimate from sums over all pairs, in which the diagonal counts 1 an entry."""
    n, m = len(x), len(y)
    xx, yy = (total(x, x) - n) / (n * (n - 1)), (total(y, y) - m) / (m * (m - 1))
    return xx + yy - 2 * total(x, y) / (n * m)


def _plain(kernel: MultiKernel, *, distances: Callable[[Tensor], Tensor]) -> Loss:
    gammas = kernel.bandwidths.tolist()

    def loss(x: Tensor, y: Tensor) -> Tensor:
        n, m = len(x), len(y)
        d2 = distances(torch.cat([x, y]))
        k = sum((torch.exp(d2 / -gamma) for gamma in gammas), torch.zeros_like(d2)) / len(gammas)
        xx, yy = (k[:n, :n].sum() - n) / (n * (n - 1)), (k[n:, n:].sum() - m) / (m * (m - 1))
        return xx + yy - 2 * k[:n, n:].mean()

    return loss


def _broadcast(z: Tensor) -> Tensor:
    return (z[:, None] - z[None]).square().sum(2)  # the (2N, 2N, F) differences


def _cdist(z: Tensor) -> Tensor:
    return torch.cdist(z, z).square()


def _our_method(backend: str, what: str) -> Method:
    return Method(kind="ours", what=what, build=partial(_ours, backend=backend), equals="unbiased")


METHODS: dict[str, Method] = {
    "ours dense": _our_method("dense", 'mmd2(x, y, kernel, backend="dense")'),
    "ours tiled": _our_method("tiled", 'mmd2(x, y, kernel, backend="tiled")'),
    "ours keops": _our_method("keops", 'mmd2(x, y, kernel, backend="keops")'),
    "ours auto": _our_method("auto", "mmd2(x, y, kernel)"),
    "pytorch-adapt": Method(
        kind="exact",
        what='MMDLoss(mmd_type="quadratic"): exp(-d^2 s_u / b), mean over u, unbiased; b = 1, s_u = 1/gamma_u',
        build=_pytorch_adapt,
        equals="unbiased",
    ),
    "pytorch-adapt batched": Method(
        kind="exact",
        what='MMDBatchedLoss(mmd_type="quadratic"): the same sum in blocks of 1024 rows, which autograd keeps',
        build=partial(_pytorch_adapt, name="MMDBatchedLoss"),
        equals="unbiased",
    ),
    "geomloss": Method(
        kind="exact",
        what='SamplesLoss("gaussian", blur=s), once a kernel: exp(-d^2 / (2 s^2)), half the biased MMD^2; '
        "s_u = sqrt(gamma_u / 2), times 2/K",
        build=_geomloss,
        equals="biased",
    ),
    "KeOps by hand": Method(
        kind="exact",
        what="pykeops LazyTensor, sum_u (-d^2 / gamma_u).exp() summed over all pairs; compiled before it is timed",
        build=_keops_by_hand,
        equals="unbiased",
    ),
    "plain broadcast": Method(
        kind="plain",
        what="the definition on the (2n, 2n, F) tensor of differences",
        build=partial(_plain, distances=_broadcast),
        equals="unbiased",
    ),
    "plain cdist": Method(
        kind="plain",
        what="the definition on torch.cdist(z, z) ** 2",
        build=partial(_plain, distances=_cdist),
        equals="unbiased",
    ),
    "skada": Method(
        kind="other kernel",
        what="dan_loss: a Laplace kernel, exp(-d / s_u) with the unsquared distance, summed over u, biased; "
        "s_u = sqrt(gamma_u): another function, at the cost of all pairs",
        build=_skada,
        equals=None,
    ),
    "pytorch-adapt linear": Method(
        kind="linear",
        what='MMDLoss(mmd_type="linear"): not exact; the linear-time estimate, read off the whole distance matrices',
        build=partial(_pytorch_adapt, mmd_type="linear"),
        equals="linear",
    ),
    "ours linear": Method(
        kind="linear",
        what='mmd2(x, y, kernel, estimator="linear"): not exact; builds no matrix',
        build=_our_linear,
        equals="linear",
        power=1,
    ),
    "floor": Method(
        kind="floor",
        what="the bare matrix products of an exact pass, 3 F (n + m)^2 / 2 multiply-adds in tiles of 1024 rows, "
        "8192 on a GPU (experiments/benchmarks/floor.py): no exponentials, no sums",
        build=None,
        equals=None,
    ),
}
