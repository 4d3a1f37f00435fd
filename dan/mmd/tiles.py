"""The pairs of one or two samples, a tile of rows and columns at a time: distances, and the sums of a gradient.

One product gives a tile of distances, from rows that carry their own norms:
    [2 x, -|x|^2, -1] . [y, 1, |y|^2] = -|x - y|^2.
The samples are only ever read a tile of rows at a time, so they may be memory-mapped files larger than the memory.

Shapes: N samples; F features; T, T' rows of two tiles.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dan.mmd.distances import at_least_float32, by_subtraction, compress_gaps, gram_is_inexact

TILE = {"cpu": 1024, "cuda": 8192}  # rows: a tile of pairs fits a CPU's last cache, and keeps a GPU busy
WIDEST = {"cpu": 2**21, "cuda": 2**24}  # numbers in the rows of a tile: of very wide features it has fewer rows


class Tile(NamedTuple):
    """The pairs of some rows with some columns."""

    rows: slice
    columns: slice
    a: Tensor  # [z, 1, |z|^2] of the rows (T, F + 2), in float64 if exact
    b: Tensor  # the same of the columns (T', F + 2)
    negative_d2: Tensor  # -|z_i - z_j|^2 (T, T'), in units of the scale; its buffer is used again for the next tile
    diagonal: bool  # whether rows and columns are the same: then every pair is in it twice, and itself once
    exact: bool  # whether pairs that all but coincide asked for float64
    moved: bool  # whether a and b are in coordinates of this tile's own, from `compress_gaps`


class Rows:
    """One sample, tile by tile: centred and divided by the root of the scale; and the sums its gradient is made of.

    weights: (N,), of the samples; None: ones.
    """

    def __init__(self, x: Tensor, centre: Tensor, scale: float, tile: int, weights: Tensor | None = None) -> None:
        self.x, self.centre, self.factor, self.tile, self.weights = x, centre, scale**-0.5, tile, weights
        self.sums: Tensor | None = None

    def slices(self) -> list[slice]:
        return [slice(start, min(start + self.tile, len(self.x))) for start in range(0, len(self.x), self.tile)]

    def __getitem__(self, rows: slice) -> Tensor:
        """[z, 1, |z|^2] (T, F + 2)."""
        return self.of(rows, self.centre.dtype)

    def of(self, rows: slice, dtype: torch.dtype) -> Tensor:
        """The same in another precision, from the very features."""
        part = self.x[rows].detach().to(dtype)
        return with_norms(part, self.centre.to(dtype), self.factor)

    def weigh(self, rows: slice, values: Tensor) -> Tensor:
        """values (T, .) of these rows times their weights."""
        return values if self.weights is None else values * self.weights[rows, None].to(values.dtype)

    def add(self, rows: slice, v: Tensor, own: Tensor, other: Tensor, tile: Tile) -> None:
        """Gather [sum_j V_ij z_j, sum_j V_ij] of these rows: v (T, T'), other [z, 1, |z|^2] (T', F + 2), weighted.

        In an exact tile V is large for pairs that all but coincide, little remains of the two sums, and `other` is
        float64. Coordinates of the tile's own end here: sum_j V_ij (z_j - z_i) goes to the first, with `own` as z_i.
        """
        if self.sums is None:
            self.sums = other.new_zeros(len(self.x), other.shape[1] - 1)
        if tile.exact:
            self.sums = self.sums.double()
        if tile.moved:
            v = v.double()
            self.sums[rows, :-1] += v @ other[:, :-2] - (v @ other[:, -2:-1]) * own[:, :-2]
        elif self.sums.dtype == v.dtype:
            self.sums[rows].addmm_(v, other[:, :-1])
        elif tile.exact:
            self.sums[rows].addmm_(v.double(), other[:, :-1])
        else:
            self.sums[rows] += v @ other[:, :-1]

    def gradient(self) -> Tensor:
        """2 w_i sum_j V_ij (z_j - z_i) in the unit of x (N, F), from what was gathered."""
        assert self.sums is not None
        for rows in self.slices():
            part = self.sums[rows]
            z = self.of(rows, part.dtype)[:, :-2]
            z.clamp_(-(largest := torch.finfo(z.dtype).max), largest)  # 0 times infinity is 0 here
            part[:, :-1].addcmul_(z, part[:, -1:], value=-1)
            if self.weights is not None:
                part.mul_(self.weights[rows, None])
        return self.sums[:, :-1].mul_(2 * self.factor).to(self.centre.dtype)


def with_norms(x: Tensor, centre: Tensor, factor: float) -> Tensor:
    """[z, 1, |z|^2] (T, F + 2) with z = (x - centre) factor."""
    result = x.new_empty(len(x), x.shape[1] + 2)
    z = result[:, :-2]
    torch.sub(x, centre, out=z)
    z.mul_(factor)
    result[:, -2] = 1
    result[:, -1] = torch.linalg.vecdot(z, z)
    return result


def left_factor(right: Tensor) -> Tensor:
    """[2 z, -|z|^2, -1] from [z, 1, |z|^2]."""
    result = right.mul(2)
    result[:, -2] = -right[:, -1]
    result[:, -1] = -1
    return result


def _tile_rows(device: str, features: int) -> int:
    device = device if device in TILE else "cpu"
    return min(TILE[device], max(16, WIDEST[device] // max(1, features)))


def centred_rows(
    samples: Sequence[Tensor], scale: float, tile: int | None, weights: Sequence[Tensor | None] = (None, None)
) -> list[Rows]:
    """The samples, centred on the mean of all their rows, which is taken a tile at a time too. weights: (N,) each."""
    first = samples[0]
    tile = tile or _tile_rows(first.device.type, first.shape[1])
    total = torch.zeros(first.shape[1], dtype=torch.float64, device=first.device)
    for x in samples:
        for part in x.detach().split(tile):
            total += at_least_float32(part).sum(0)
    centre = (total / sum(len(x) for x in samples)).to(at_least_float32(first[:0]).dtype)
    centre = torch.where(centre.isfinite(), centre, 0)  # the sum of fill values may be too large
    return [Rows(x, centre, scale, tile, w) for x, w in zip(samples, weights, strict=False)]


def pair_tiles(x: Rows, y: Rows, bandwidths: tuple[float, ...]) -> Iterator[Tile]:
    """All pairs of two samples. y is x: those within one, tiles on and above the diagonal, itself exactly 0."""
    within = y is x
    buffer: Tensor | None = None
    for number, rows in enumerate(x.slices()):
        a = x[rows]
        left, a_norm = left_factor(a), float(a[:, -1].mean())
        for columns in y.slices()[number if within else 0 :]:
            diagonal = within and columns == rows
            b = a if diagonal else y[columns]
            if buffer is None or buffer.shape != (len(a), len(b)):
                buffer = a.new_empty(len(a), len(b))
            negative = torch.mm(left, b.T, out=buffer)
            if diagonal:
                negative.fill_diagonal_(-torch.inf)
            mean_norm = (a_norm + float(b[:, -1].mean())) / 2
            exact, moved = gram_is_inexact(negative, mean_norm, bandwidths, a[:, -1], b[:, -1]), False
            high_a, high_b = a, b
            if exact:
                high_a, high_b, high, moved = _exactly(x, rows, y, columns, bandwidths)
                negative = buffer.copy_(high)
            negative.clamp_max_(0)  # rounding can push a tiny distance below zero
            if diagonal:
                negative.fill_diagonal_(0)
            yield Tile(rows, columns, high_a, high_b, negative, diagonal, exact, moved)


def _exactly(
    x: Rows, rows: slice, y: Rows, columns: slice, bandwidths: tuple[float, ...]
) -> tuple[Tensor, Tensor, Tensor, bool]:
    """a, b and -d2 of a tile in float64, and whether a and b are in coordinates of its own."""

    def gram(a: Tensor, b: Tensor) -> tuple[Tensor, bool]:
        negative = left_factor(a) @ b.T
        off_diagonal = negative.clone().fill_diagonal_(-torch.inf) if x is y and rows == columns else negative
        mean_norm = float(a[:, -1].mean() + b[:, -1].mean()) / 2
        return negative, gram_is_inexact(off_diagonal, mean_norm, bandwidths, a[:, -1], b[:, -1])

    a, b = x.of(rows, torch.float64), y.of(columns, torch.float64)
    negative, inexact = gram(a, b)
    if not inexact:
        return a, b, negative, False
    z = compress_gaps(torch.cat([x.x[rows].detach(), y.x[columns].detach()]), bandwidths)
    a, b = (with_norms(part, z.new_zeros(z.shape[1]), x.factor) for part in (z[: len(a)], z[len(a) :]))
    negative, inexact = gram(a, b)
    if inexact:
        negative = by_subtraction(a[:, :-2], b[:, :-2])
    return a, b, negative, True
