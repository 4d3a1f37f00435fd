"""Tiled backend: every pair once, never more than a tile of them in memory; the gradient is ready when the value is.

For S = sum_ij c_ij k(x_i, y_j) over a block of pairs, with V_ij = c_ij sum_u (beta_u / gamma_u) k_u(x_i, y_j),
    dS/dx_i = 2 sum_j V_ij (y_j - x_i)      and      dS/dy_j = 2 sum_i V_ij (x_i - y_j),
so a tile that is at hand gives its share of both by two more products. Within one sample only the tiles on and above
the diagonal are computed. One product gives a tile of distances, from rows that carry their own norms:
    [2 x, -|x|^2, -1] . [y, 1, |y|^2] = -|x - y|^2.
Sums over a tile are taken in the precision of the features, those over tiles in float64.

The samples are only ever read a tile of rows at a time, so they may be memory-mapped files larger than the memory.

Shapes: N, M samples; F features; K kernels; T, T' rows of two tiles. Memory O((N + M) F) with gradients, O(T F + T^2)
without.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from dan.mmd.autograd import first_order_only
from dan.mmd.dense import at_least_float32, by_subtraction, measured_by_subtraction
from dan.mmd.kernel_powers import kernels, scale_of
from dan.mmd.kernels import MultiKernel

TILE = {"cpu": 1024, "cuda": 8192}  # rows: a tile of pairs fits a CPU's last cache, and keeps a GPU busy
WIDEST = {"cpu": 2**21, "cuda": 2**24}  # numbers in the rows of a tile: of very wide features it has fewer rows


class _Tile(NamedTuple):
    """The pairs of some rows with some columns."""

    rows: slice
    columns: slice
    a: Tensor  # [z, 1, |z|^2] of the rows (T, F + 2), in float64 if exact
    b: Tensor  # the same of the columns (T', F + 2)
    negative_d2: Tensor  # -|z_i - z_j|^2 (T, T'), in units of the scale; its buffer is used again for the next tile
    diagonal: bool  # whether rows and columns are the same: then every pair is in it twice, and itself once
    exact: bool  # whether pairs that all but coincide asked for float64


class _Rows:
    """One sample, tile by tile: centred and divided by the root of the scale; and the sums its gradient is made of."""

    def __init__(self, x: Tensor, centre: Tensor, scale: float, tile: int) -> None:
        self.x, self.centre, self.factor, self.tile = x, centre, scale**-0.5, tile
        self.sums: Tensor | None = None

    def slices(self) -> list[slice]:
        return [slice(start, min(start + self.tile, len(self.x))) for start in range(0, len(self.x), self.tile)]

    def __getitem__(self, rows: slice) -> Tensor:
        """[z, 1, |z|^2] (T, F + 2)."""
        return self.of(rows, self.centre.dtype)

    def of(self, rows: slice, dtype: torch.dtype) -> Tensor:
        """The same in another precision, from the very features."""
        part = self.x[rows].detach().to(dtype)
        result = part.new_empty(len(part), part.shape[1] + 2)
        z = result[:, :-2]
        torch.sub(part, self.centre.to(dtype), out=z)
        z.mul_(self.factor)
        result[:, -2] = 1
        result[:, -1] = torch.linalg.vecdot(z, z)
        return result

    def add(self, rows: slice, v: Tensor, other: Tensor, exact: bool) -> None:
        """Gather [sum_j V_ij z_j, sum_j V_ij] of these rows: v (T, T'), other [z, 1, |z|^2] (T', F + 2).

        exact: V is large for pairs that all but coincide, little remains of the two sums, and `other` is float64.
        """
        if self.sums is None:
            self.sums = other.new_zeros(len(self.x), other.shape[1] - 1)
        if exact:
            self.sums = self.sums.double()
        if self.sums.dtype == v.dtype:
            self.sums[rows].addmm_(v, other[:, :-1])
        elif exact:
            self.sums[rows].addmm_(v.double(), other[:, :-1])
        else:
            self.sums[rows] += v @ other[:, :-1]

    def gradient(self) -> Tensor:
        """2 sum_j V_ij (z_j - z_i) in the unit of x (N, F), from what was gathered."""
        assert self.sums is not None
        for rows in self.slices():
            part = self.sums[rows]
            part[:, :-1].addcmul_(self.of(rows, part.dtype)[:, :-2], part[:, -1:], value=-1)
        return self.sums[:, :-1].mul_(2 * self.factor).to(self.centre.dtype)


def _left(right: Tensor) -> Tensor:
    """[2 z, -|z|^2, -1] from [z, 1, |z|^2]."""
    result = right.mul(2)
    result[:, -2] = -right[:, -1]
    result[:, -1] = -1
    return result


def _tile_rows(device: str, features: int) -> int:
    device = device if device in TILE else "cpu"
    return min(TILE[device], max(16, WIDEST[device] // max(1, features)))


def _rows(samples: Sequence[Tensor], scale: float, tile: int | None) -> list[_Rows]:
    """The samples, centred on the mean of all their rows, which is taken a tile at a time too."""
    first = samples[0]
    tile = tile or _tile_rows(first.device.type, first.shape[1])
    total = torch.zeros(first.shape[1], dtype=torch.float64, device=first.device)
    for x in samples:
        for part in x.detach().split(tile):
            total += at_least_float32(part).sum(0)
    centre = (total / sum(len(x) for x in samples)).to(at_least_float32(first[:0]).dtype)
    return [_Rows(x, centre, scale, tile) for x in samples]


def _tiles(x: _Rows, y: _Rows, bandwidths: tuple[float, ...]) -> Iterator[_Tile]:
    """All pairs of two samples. y is x: those within one, tiles on and above the diagonal, itself exactly 0."""
    within = y is x
    buffer: Tensor | None = None
    for number, rows in enumerate(x.slices()):
        a = x[rows]
        left, a_norm = _left(a), float(a[:, -1].mean())
        for columns in y.slices()[number if within else 0 :]:
            diagonal = within and columns == rows
            b = a if diagonal else y[columns]
            if buffer is None or buffer.shape != (len(a), len(b)):
                buffer = a.new_empty(len(a), len(b))
            negative = torch.mm(left, b.T, out=buffer)
            if diagonal:
                negative.fill_diagonal_(-torch.inf)
            mean_norm = (a_norm + float(b[:, -1].mean())) / 2
            exact = measured_by_subtraction(negative, mean_norm, bandwidths)
            high_a, high_b = a, b
            if exact:
                high_a, high_b = x.of(rows, torch.float64), y.of(columns, torch.float64)
                high = _left(high_a) @ high_b.T
                if diagonal:
                    high.fill_diagonal_(-torch.inf)
                if measured_by_subtraction(high, mean_norm, bandwidths):
                    high = by_subtraction(high_a[:, :-2], high_b[:, :-2])
                negative = buffer.copy_(high)
            negative.clamp_max_(0)  # rounding can push a tiny distance below zero
            if diagonal:
                negative.fill_diagonal_(0)
            yield _Tile(rows, columns, high_a, high_b, negative, diagonal, exact)


@torch.no_grad()
def _sweep(
    x: Tensor,
    y: Tensor,
    bandwidths: tuple[float, ...],
    coefficients: Sequence[Sequence[float]] | None,
    tile_rows: int | None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """One pass over all pairs: totals (3, K) in float64, and the gradients of sum coefficients * totals in x and y.

    coefficients: (3, K), for the sums within x, within y and between; None: no gradients.
    """
    scale = scale_of(bandwidths)
    sums = torch.zeros(3, len(bandwidths), dtype=torch.float64, device=x.device)
    gradients: list[Tensor | None] = [None, None]
    for block, sides in enumerate(((0,), (1,), (0, 1))):
        views = _rows([(x, y)[side] for side in sides], scale, tile_rows)
        first, second = views[0], views[-1]
        slopes = None
        if coefficients is not None:
            slopes = [c * scale / gamma for c, gamma in zip(coefficients[block], bandwidths, strict=True)]
        v = torch.empty(0, dtype=first.centre.dtype, device=x.device)
        for tile in _tiles(first, second, bandwidths):
            times = 2 if first is second and not tile.diagonal else 1  # the ordered pairs for which this one stands
            if slopes is not None:
                v = v if v.shape == tile.negative_d2.shape else torch.empty_like(tile.negative_d2)
            for position, (u, k) in enumerate(kernels(tile.negative_d2, bandwidths)):
                sums[block, u] += k.sum().double() * times - (len(k) if tile.diagonal else 0)
                if slopes is not None:
                    if position:
                        v.add_(k, alpha=slopes[u])
                    else:
                        torch.mul(k, slopes[u], out=v)
            if slopes is not None:
                if tile.diagonal:
                    v.fill_diagonal_(
                        0
                    )  # nothing pulls at itself: but for rounding, which a narrow kernel would blow up
                first.add(tile.rows, v, tile.b, tile.exact)
                if not tile.diagonal:
                    second.add(tile.columns, v.T, tile.a, tile.exact)
        if slopes is not None:
            for side, view in zip(sides, views, strict=True):
                # Within a sample k(x_i, x_j) depends on x_i twice: as (i, j) and as (j, i).
                part = view.gradient().mul_(2 if first is second else 1)
                whole = gradients[side]
                gradients[side] = part.clone() if whole is None else whole.add_(part)
                view.sums = None
    return sums, gradients[0], gradients[1]


def weighted(
    x: Tensor,
    y: Tensor,
    bandwidths: tuple[float, ...],
    weights: Sequence[float],
    coefficients: tuple[float, float, float],
    gradients: bool,
    *,
    tile: int | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """As `dan.mmd.dense.weighted`."""
    table = [[c * beta for beta in weights] for c in coefficients]
    sums, of_x, of_y = _sweep(x, y, bandwidths, table if gradients else None, tile)
    return (sums * torch.tensor(table, dtype=torch.float64, device=sums.device)).sum(), of_x, of_y


class _Totals(Function):
    """totals, with the pass repeated for the gradient: only then is it known which kernels it is wanted of."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, bandwidths: tuple[float, ...], tile: int | None) -> Tensor:
        ctx.save_for_backward(x, y)
        ctx.bandwidths, ctx.tile = bandwidths, tile
        return _sweep(x, y, bandwidths, None, tile)[0]

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, y = ctx.saved_tensors
        with torch.autocast(device_type=x.device.type, enabled=False):
            _, of_x, of_y = _sweep(x, y, ctx.bandwidths, outputs[0].tolist(), ctx.tile)
        assert of_x is not None
        assert of_y is not None
        return first_order_only(of_x.to(x.dtype), x), first_order_only(of_y.to(y.dtype), y), None, None


def totals(x: Tensor, y: Tensor, bandwidths: tuple[float, ...], *, tile: int | None = None) -> Tensor:
    """As `dan.mmd.dense.totals`, (3, K) in float64; a gradient costs a second pass, and is not differentiable again."""
    return _Totals.apply(x, y, bandwidths, tile)


class _RowSums(Function):
    """row_sums, with the pass repeated for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, bandwidths: tuple[float, ...], tile: int | None) -> Tensor:
        ctx.save_for_backward(x, y)
        ctx.bandwidths, ctx.tile = bandwidths, tile
        scale = scale_of(bandwidths)
        first, second = _rows([x, y], scale, tile)
        result = torch.zeros(len(x), len(bandwidths), dtype=torch.float64, device=x.device)
        for part in _tiles(first, second, bandwidths):
            for u, k in kernels(part.negative_d2, bandwidths):
                result[part.rows, u] += k.sum(1)
        return result.to(first.centre.dtype)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, y = ctx.saved_tensors
        bandwidths, output = ctx.bandwidths, outputs[0]
        with torch.no_grad(), torch.autocast(device_type=x.device.type, enabled=False):
            scale = scale_of(bandwidths)
            first, second = _rows([x, y], scale, ctx.tile)
            for part in _tiles(first, second, bandwidths):
                v = torch.zeros_like(part.negative_d2)
                for u, k in kernels(part.negative_d2, bandwidths):
                    v.addcmul_(k, output[part.rows, u, None], value=scale / bandwidths[u])
                first.add(part.rows, v, part.b, part.exact)
                second.add(part.columns, v.T, part.a, part.exact)
            of_x, of_y = first.gradient().to(x.dtype), second.gradient().to(y.dtype)
        return first_order_only(of_x, x), first_order_only(of_y, y), None, None


def row_sums(x: Tensor, y: Tensor, bandwidths: tuple[float, ...], *, tile: int | None = None) -> Tensor:
    """As `dan.mmd.dense.row_sums`, (N, K), streamed."""
    return _RowSums.apply(x, y, bandwidths, tile)


@torch.no_grad()
def kernel_blocks(z: Tensor, kernel: MultiKernel, *, tile: int = 1024) -> Iterator[tuple[slice, slice, Tensor]]:
    """The Gram matrix of z (N, F) under the weighted kernel, a tile (T, T') at a time: (rows, columns, values).

    Tiles on and above the diagonal only; those on it are whole, with k(z_i, z_i) = 1 exactly. No gradient.
    """
    bandwidths, weights = tuple(kernel.bandwidths.tolist()), kernel.weights.tolist()
    scale = scale_of(bandwidths)
    (view,) = _rows([z], scale, tile)
    for part in _tiles(view, view, bandwidths):
        values = torch.zeros_like(part.negative_d2)
        for u, k in kernels(part.negative_d2, bandwidths):
            values.add_(k, alpha=weights[u])
        if part.diagonal:
            values.fill_diagonal_(1)  # weights sum to 1 up to rounding
        yield part.rows, part.columns, values
