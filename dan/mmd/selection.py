"""The median of the distances of all pairs, without sorting them, and exact to the last bit.

A sample of the values brackets the median; a count of those below its own median says how far it is off, and narrows
the bracket; those below the bracket are counted, and only those inside are ranked.

On a CPU, of many samples, one product gives all d^2 within some delta, and pairs within 2 delta of the ranks wanted may
be on either side of them: those, a handful, are measured by differences, as `torch.pdist` does, and ranked anew.

Shapes: N samples; F features; P = N (N - 1)/2 pairs; C candidates.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

MANY = 300  # samples from which the product is faster than pdist
ROWS = 128  # of the matrix at a time
SAMPLE = 2048  # values that bracket the median
SLACK = 0.005  # of all values, on either side of where the median is expected
MOST = 4096  # pairs measured exactly, at most


def median_squared_distance(z: Tensor) -> Tensor:
    """Median of |z_i - z_j|^2 over i < j, the mean of the middle two where P is even: z (N, F), finite -> scalar."""
    if z.device.type == "cpu" and len(z) >= MANY and z.shape[1]:
        middle = _by_product(z)
        if middle is not None:
            return middle
    # pdist subtracts before it squares: exact zeros for duplicates, at any offset from the origin.
    return median(torch.pdist(z.contiguous()).square())


def median(values: Tensor) -> Tensor:
    """Median of values (P,), none NaN; the mean of the middle two where P is even, unlike torch's own."""
    if values.device.type == "cpu" and len(values) > 2 * SAMPLE:
        return _mean_of(_middle_two(values.numpy()), values)
    low = values.median()
    if len(values) % 2:
        return low
    above = torch.where(values > low, values, torch.inf).amin()
    return torch.where((values <= low).sum() > len(values) // 2, low, low / 2 + above / 2)


def _mean_of(two: np.ndarray, like: Tensor) -> Tensor:
    low, high = torch.from_numpy(two).to(like.dtype)
    return low if bool(low == high) else low / 2 + high / 2


def _middle_two(values: np.ndarray) -> np.ndarray:
    """The middle two of values (P,), the same twice where P is odd."""
    ranks = np.array([(len(values) - 1) // 2, len(values) // 2])
    first, last, below = _bracket([values], values[:: len(values) // SAMPLE], len(values), 0.0)
    inside = values[(values >= first) & (values <= last)]
    if below <= ranks[0] and ranks[1] < below + len(inside):
        values, ranks = inside, ranks - below
    return np.partition(values, ranks)[ranks]


def _bracket(
    parts: list[np.ndarray], sample: np.ndarray, total: int, rounding: float
) -> tuple[np.floating, np.floating, int]:
    """Two values that the median of `total` values is likely to lie between, and how many are below the first."""
    ordered = np.sort(sample)

    def quantile(p: float) -> np.floating:
        return ordered[min(len(ordered) - 1, max(0, round(p * (len(ordered) - 1))))]

    def below(value: np.floating) -> int:
        return sum(int(np.count_nonzero(part < value)) for part in parts)

    off = 0.5 - below(quantile(0.5)) / total
    width = abs(off) / 2 + SLACK
    first, last = quantile(0.5 + off - width) - rounding, quantile(0.5 + off + width) + rounding
    return first, last, below(first)


def _by_product(z: Tensor) -> Tensor | None:
    """As `median_squared_distance`; None where rounding, duplicates or far samples make too many candidates."""
    centred = z - z.mean(0)
    norms = torch.linalg.vecdot(centred, centred)
    largest, pairs = float(norms.max()), len(z) * (len(z) - 1) // 2
    if not 1e-30 < largest < 1e30:
        return None
    delta = (8 + math.sqrt(z.shape[1])) * torch.finfo(z.dtype).eps * largest
    starts, blocks = range(0, len(z), ROWS), _blocks(centred, norms)
    sample = np.concatenate([block[:: pairs // SAMPLE] for block in blocks])
    first, last, below = _bracket(blocks, sample[sample < np.inf], pairs, 4 * delta)
    places = [np.flatnonzero((block >= first) & (block <= last)) for block in blocks]
    values = np.concatenate([block[at] for block, at in zip(blocks, places, strict=True)])
    ranks = np.array([(pairs - 1) // 2, pairs // 2]) - below
    if ranks[0] < 0 or ranks[1] >= len(values):
        return None
    low, high = np.partition(values, ranks)[ranks]
    low, high = low - 2 * delta, high + 2 * delta
    near = (values >= low) & (values <= high)
    if low < first or high > last or np.count_nonzero(near) > MOST:
        return None
    start = np.repeat(starts, [len(at) for at in places])[near]
    row, column = np.divmod(np.concatenate(places)[near], len(z) - start)
    exact = _measured(z, row + start, column + start)
    if float(np.abs(exact - values[near]).max()) > delta / 2:
        return None  # the product's rounding is larger than was taken for granted
    return _mean_of(np.sort(exact)[ranks - int(np.count_nonzero(values < low))], z)


def _blocks(centred: Tensor, norms: Tensor) -> list[np.ndarray]:
    """d^2 of every ROWS rows with the columns from the first of them on, flat, infinite on and below the diagonal."""
    ones = torch.ones_like(norms)[:, None]
    left = torch.cat([centred * -2, norms[:, None], ones], dim=1)
    right = torch.cat([centred, ones, norms[:, None]], dim=1)
    blocks = []
    for start in range(0, len(centred), ROWS):
        rows = left[start : start + ROWS]
        block = rows @ right[start:].T
        block[:, : len(rows)] += _below_diagonal(len(rows), block.dtype)
        blocks.append(block.flatten().numpy())
    return blocks


@lru_cache(maxsize=8)
def _below_diagonal(rows: int, dtype: torch.dtype) -> Tensor:
    """Infinity on and below the diagonal, else 0."""
    return torch.full((rows, rows), torch.inf, dtype=dtype).tril_()


def _measured(z: Tensor, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """|z_i - z_j|^2 of pairs (C,), with the bits of `torch.pdist`: 32 pairs at a time."""
    rows = torch.from_numpy(np.stack([i, j], axis=1).ravel())  # pairs are neighbours
    parts = []
    for some in rows.split(64):
        first = np.arange(0, len(some), 2)
        parts.append(torch.pdist(z[some]).square().numpy()[first * (2 * len(some) - first - 1) // 2])
    return np.concatenate(parts)
