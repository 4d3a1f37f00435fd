"""The floor under every exact MMD with gradients: the matrix products that such a pass cannot do without, and no more.

    forward     <z_i, z_j> for each unordered pair:     n^2/2 + m^2/2 + n m  pairs, F multiply-adds each
    gradients   sum_j w_ij z_j for i, sum_i w_ij z_i for j:                  twice that
    together    3 F (n^2/2 + m^2/2 + n m) = 3 F (n + m)^2 / 2

Shapes: N, M samples; F features; T rows of a tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

TILE = {"cpu": 1024, "cuda": 8192}  # rows, as in dan.mmd.tiled: on a GPU smaller products are all launching


def multiply_adds(n: int, m: int, features: int) -> float:
    """3 F (n^2/2 + m^2/2 + n m): one product of every pair forward, two backward, symmetric halves once."""
    return 3 * features * (n**2 / 2 + m**2 / 2 + n * m)


def tile_pairs(total: int, tile: int) -> Iterator[tuple[slice, slice]]:
    """(rows, columns) of the products, tile by tile, over the upper triangle of the pooled sample.

    A tile off the diagonal is whole. Half of one on the diagonal is redundant, so it has half the rows (rounded down)
    and all its columns: as many pairs as its upper triangle. Every tile is to be multiplied three times.
    """
    for top in range(0, total, tile):
        end = min(top + tile, total)
        yield slice(top, top + (end - top) // 2), slice(top, end)
        for left in range(end, total, tile):
            yield slice(top, end), slice(left, min(left + tile, total))


def products(x: Tensor, y: Tensor, *, tile: int | None = None) -> Callable[[], None]:
    """A function that does the bare products once, with torch.mm and nothing else: no exponential, no sum, no gradient.

    x (N, F), y (M, F), pooled to z (N + M, F). For each of `tile_pairs` (rows I, columns J; tiles of T = `tile`
    rows, by default 1024, 8192 on a GPU):
        Z_I Z_J'   (T, F)(F, T)  the distances' product, forward
        W Z_J      (T, T)(T, F)  the gradient of the rows
        W' Z_I     (T, T)(T, F)  the gradient of the columns
    each into a buffer that is made once (W is any (T, T) matrix: the result of the product before it). That is
    3 F (N + M)^2 / 2 multiply-adds when all tiles have an even number of rows.
    """
    z = torch.cat([x.detach(), y.detach()])
    tile = tile or TILE.get(z.device.type, 1024)
    rows = min(tile, len(z))
    w, gradient = z.new_empty(rows * rows), z.new_empty(rows, z.shape[1])

    def run() -> None:
        for i, j in tile_pairs(len(z), tile):
            a, b = z[i], z[j]
            block = w[: len(a) * len(b)].view(len(a), len(b))
            torch.mm(a, b.T, out=block)
            torch.mm(block, b, out=gradient[: len(a)])
            torch.mm(block.T, a, out=gradient[: len(b)])

    return run
