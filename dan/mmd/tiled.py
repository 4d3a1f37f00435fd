"""Tiled backend: every pair once, never more than a tile of them in memory; the gradient is ready when the value is.

For S = sum_ij c_ij k(x_i, y_j) over a block of pairs, with V_ij = c_ij sum_u (beta_u / gamma_u) k_u(x_i, y_j),
    dS/dx_i = 2 sum_j V_ij (y_j - x_i)      and      dS/dy_j = 2 sum_i V_ij (x_i - y_j),
so a tile that is at hand gives its share of both by two more products. Within one sample only the tiles on and above
the diagonal are computed. Sums over a tile are taken in the precision of the features, those over tiles in float64.
The samples are only ever read a tile of rows at a time, so they may be memory-mapped files larger than the memory.

Shapes: N, M samples; F features; K kernels; T, T' rows of two tiles. Memory O((N + M) F) with gradients, O(T F + T^2)
without.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from dan.mmd.autograd import first_order_only, refuse_transforms, refuse_vmap
from dan.mmd.kernel_powers import kernels, scale_of
from dan.mmd.kernels import MultiKernel
from dan.mmd.tiles import Rows, Tile, centred_rows, pair_tiles


@torch.no_grad()
def _sweep(
    x: Tensor,
    y: Tensor,
    bandwidths: tuple[float, ...],
    coefficients: Sequence[Sequence[float]] | None,
    weights: Tensor | None,
    tile_rows: int | None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """One pass over all pairs: totals (3, K) in float64, and the gradients of sum coefficients * totals in x and y.

    coefficients: (3, K), for the sums within x, within y and between; None: no gradients. weights: of the samples.
    """
    of_samples = (None, None) if weights is None else (weights[0, : len(x)], weights[1, len(x) :])
    scale = scale_of(bandwidths)
    sums = torch.zeros(3, len(bandwidths), dtype=torch.float64, device=x.device)
    gradients: list[Tensor | None] = [None, None]
    for block, sides in enumerate(((0,), (1,), (0, 1))):
        views = centred_rows([(x, y)[side] for side in sides], scale, tile_rows, [of_samples[side] for side in sides])
        first, second = views[0], views[-1]
        slopes = None
        if coefficients is not None:
            slopes = [c * scale / gamma for c, gamma in zip(coefficients[block], bandwidths, strict=True)]
        v = torch.empty(0, dtype=first.centre.dtype, device=x.device)
        for tile in pair_tiles(first, second, bandwidths):
            times = 2 if first is second and not tile.diagonal else 1  # the ordered pairs for which this one stands
            if slopes is not None:
                v = v if v.shape == tile.negative_d2.shape else torch.empty_like(tile.negative_d2)
            for position, (u, k) in enumerate(kernels(tile.negative_d2, bandwidths)):
                sums[block, u] += _tile_sum(k, tile, first, second) * times
                if slopes is not None:
                    if position:
                        v.add_(k, alpha=slopes[u])
                    else:
                        torch.mul(k, slopes[u], out=v)
            if slopes is not None:
                if tile.diagonal:
                    v.fill_diagonal_(0)  # no pair, but for rounding, which a narrow kernel would blow up
                first.add(tile.rows, v, tile.a, second.weigh(tile.columns, tile.b), tile)
                if not tile.diagonal:
                    second.add(tile.columns, v.T, tile.b, first.weigh(tile.rows, tile.a), tile)
        if slopes is not None:
            for side, view in zip(sides, views, strict=True):
                # Within a sample k(x_i, x_j) depends on x_i twice: as (i, j) and as (j, i).
                part = view.gradient().mul_(2 if first is second else 1)
                whole = gradients[side]
                gradients[side] = part.clone() if whole is None else whole.add_(part)
                view.sums = None
    return sums, gradients[0], gradients[1]


def _tile_sum(k: Tensor, tile: Tile, first: Rows, second: Rows) -> Tensor:
    """The sum of a tile of one kernel k (T, T'), each pair weighted, without the pairs i = j; in float64."""
    if first.weights is None or second.weights is None:
        return k.sum().double() - (len(k) if tile.diagonal else 0)
    a, b = first.weights[tile.rows], second.weights[tile.columns]
    total = a.double() @ (k @ b).double()
    return total - a.double().square().sum() if tile.diagonal else total


def weighted(
    x: Tensor,
    y: Tensor,
    bandwidths: tuple[float, ...],
    betas: Sequence[float],
    coefficients: tuple[float, float, float],
    weights: Tensor | None = None,
    *,
    gradients: bool,
    tile: int | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """As `dan.mmd.dense.weighted`."""
    table = [[c * beta for beta in betas] for c in coefficients]
    sums, of_x, of_y = _sweep(x, y, bandwidths, table if gradients else None, weights, tile)
    return (sums * torch.tensor(table, dtype=torch.float64, device=sums.device)).sum(), of_x, of_y


class _Totals(Function):
    """totals, with the pass repeated for the gradient: only then is it known which kernels it is wanted of."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        bandwidths: tuple[float, ...],
        weights: Tensor | None,
        tile: int | None,
    ) -> Tensor:
        ctx.save_for_backward(x, y)
        ctx.arguments = bandwidths, weights, tile
        return _sweep(x, y, bandwidths, None, weights, tile)[0]

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, y = ctx.saved_tensors
        bandwidths, weights, tile = ctx.arguments
        with torch.autocast(device_type=x.device.type, enabled=False):
            _, of_x, of_y = _sweep(x, y, bandwidths, outputs[0].tolist(), weights, tile)
        assert of_x is not None
        assert of_y is not None
        return first_order_only(of_x.to(x.dtype), x), first_order_only(of_y.to(y.dtype), y), None, None, None


def totals(
    x: Tensor,
    y: Tensor,
    bandwidths: tuple[float, ...],
    weights: Tensor | None = None,
    *,
    tile: int | None = None,
) -> Tensor:
    """As `dan.mmd.dense.totals`, (3, K) in float64; a gradient costs a second pass, and is not differentiable again."""
    refuse_transforms(x, y)
    return _Totals.apply(x, y, bandwidths, weights, tile)


class _RowSums(Function):
    """row_sums, with the pass repeated for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, bandwidths: tuple[float, ...], tile: int | None) -> Tensor:
        ctx.save_for_backward(x, y)
        ctx.bandwidths, ctx.tile = bandwidths, tile
        scale = scale_of(bandwidths)
        first, second = centred_rows([x, y], scale, tile)
        result = torch.zeros(len(x), len(bandwidths), dtype=torch.float64, device=x.device)
        for part in pair_tiles(first, second, bandwidths):
            for u, k in kernels(part.negative_d2, bandwidths):
                result[part.rows, u] += k.sum(1)
        return result.to(first.centre.dtype)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, y = ctx.saved_tensors
        bandwidths, output = ctx.bandwidths, outputs[0]
        with torch.no_grad(), torch.autocast(device_type=x.device.type, enabled=False):
            scale = scale_of(bandwidths)
            first, second = centred_rows([x, y], scale, ctx.tile)
            for part in pair_tiles(first, second, bandwidths):
                v = torch.zeros_like(part.negative_d2)
                for u, k in kernels(part.negative_d2, bandwidths):
                    v.addcmul_(k, output[part.rows, u, None], value=scale / bandwidths[u])
                first.add(part.rows, v, part.a, part.b, part)
                second.add(part.columns, v.T, part.b, part.a, part)
            of_x, of_y = first.gradient().to(x.dtype), second.gradient().to(y.dtype)
        return first_order_only(of_x, x), first_order_only(of_y, y), None, None


def row_sums(x: Tensor, y: Tensor, bandwidths: tuple[float, ...], *, tile: int | None = None) -> Tensor:
    """As `dan.mmd.dense.row_sums`, (N, K), streamed."""
    refuse_transforms(x, y)
    return _RowSums.apply(x, y, bandwidths, tile)


@torch.no_grad()
def kernel_blocks(z: Tensor, kernel: MultiKernel, *, tile: int = 1024) -> Iterator[tuple[slice, slice, Tensor]]:
    """The Gram matrix of z (N, F) under the weighted kernel, a tile (T, T') at a time: (rows, columns, values).

    Tiles on and above the diagonal only; those on it are whole, with k(z_i, z_i) = 1 exactly. No gradient.
    """
    refuse_vmap(z)
    bandwidths, weights = tuple(kernel.bandwidths.tolist()), kernel.weights.tolist()
    scale = scale_of(bandwidths)
    (view,) = centred_rows([z], scale, tile)
    for part in pair_tiles(view, view, bandwidths):
        values = torch.zeros_like(part.negative_d2)
        for u, k in kernels(part.negative_d2, bandwidths):
            values.add_(k, alpha=weights[u])
        if part.diagonal:
            values.fill_diagonal_(1)  # weights sum to 1 up to rounding
        yield part.rows, part.columns, values
