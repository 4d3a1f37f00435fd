"""All kernels of a ladder from few exponentials: exp(-d2 / gamma) squared is exp(-d2 / (gamma / 2)).

A squaring costs an eighth of an exponential, but doubles its relative rounding error; so a chain of squarings is cut
after four, where 16 roundings still are below 2e-6 in float32, and begins anew with an exponential.

Shapes: T, T' rows of two tiles; K kernels.
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

LONGEST_CHAIN = 4  # squarings


@lru_cache(maxsize=64)
def chains(bandwidths: tuple[float, ...], tolerance: float) -> tuple[tuple[tuple[int, int], ...], ...]:
    """The order in which kernels are made: chains of (kernel, squarings since the one before it), widest first.

    Every kernel stands in one chain; two neighbours' bandwidths differ by 2^squarings within `tolerance`, relative.
    """
    waiting = sorted(range(len(bandwidths)), key=lambda u: -bandwidths[u])
    made = []
    while waiting:
        first = waiting.pop(0)
        chain, done = [(first, 0)], 0
        for squarings in range(LONGEST_CHAIN + 1):
            wanted = bandwidths[first] / 2**squarings
            for u in [u for u in waiting if abs(bandwidths[u] - wanted) <= tolerance * wanted]:
                waiting.remove(u)
                chain.append((u, squarings - done))
                done = squarings
        made.append(tuple(chain))
    return tuple(made)


def scale_of(bandwidths: Sequence[float]) -> float:
    """The squared length by which distances are measured: a power of four near the middle of the bandwidths.

    Features are divided by its root, a power of two and so without rounding, before anything is squared, so that
    neither huge nor tiny ones leave the range of their precision.
    """
    return 4.0 ** math.floor((math.log2(min(bandwidths)) + math.log2(max(bandwidths))) / 4)


def kernels(negative_d2: Tensor, bandwidths: tuple[float, ...]) -> Iterator[tuple[int, Tensor]]:
    """(u, exp(-d2 / gamma_u)) for every kernel u, at -d2 / scale_of(bandwidths) (T, T').

    The tensors share a buffer: use each before the next is asked for. `negative_d2` may be overwritten.
    """
    scale = scale_of(bandwidths)
    order = chains(bandwidths, 4 * torch.finfo(negative_d2.dtype).eps)
    buffer = torch.empty_like(negative_d2) if len(order) > 1 else negative_d2
    for chain in order:
        value = torch.mul(negative_d2, scale / bandwidths[chain[0][0]], out=buffer).exp_()
        for u, squarings in chain:
            for _ in range(squarings):
                value.mul_(value)
            yield u, value
