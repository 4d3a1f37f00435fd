"""Exact bounds on the number of right answers in a finite population, from one simple random sample.

    P(X >= x | K) = sum_{j >= x} C(K, j) C(U - K, n - j) / C(U, n)      K right among U, X right among n drawn
    K_low = min {K : P(X >= x | K) > alpha},   K_high = U - K_low of the n - x wrong ones

Each bound holds with probability 1 - alpha or more: P(K < K_low) <= alpha, because the probability rises with K.
(K_low, K_high) at alpha / 2 each is the equal-tailed interval (Thompson, Sampling, 3rd ed., 2012, section 5.4). For
U -> infinity it is Clopper and Pearson's (Biometrika, 1934).

Shapes: B populations that are looked at together.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

Counts = NDArray[np.int64]
ROUNDING = 1e-9  # relative; a probability this close to alpha counts as above it, which is the safe side
CELLS = 4_000_000  # terms of the sum that are held in memory at a time


def upper_tail(right: ArrayLike, drawn: ArrayLike, successes: ArrayLike, population: ArrayLike) -> NDArray[np.float64]:
    """P(X >= right) for X right answers among `drawn` samples of a population with `successes`; all broadcast to (B,).

    To about 1e-11 relative: the terms are exponentials of differences of log-factorials.
    """
    x, n, k, u = (v.ravel() for v in np.broadcast_arrays(*map(_counts, (right, drawn, successes, population))))
    terms = int((n - x).max(initial=0)) + 1
    rows = max(CELLS // terms, 1)
    parts = [slice(first, first + rows) for first in range(0, len(x), rows)]
    return np.concatenate([_tail(x[part], n[part], k[part], u[part]) for part in parts] or [np.empty(0)])


def _tail(x: Counts, n: Counts, k: Counts, u: Counts) -> NDArray[np.float64]:
    j = x[:, None] + np.arange(int((n - x).max(initial=0)) + 1)  # (B, terms)
    n, k, u = n[:, None], k[:, None], u[:, None]
    possible = (j <= np.minimum(n, k)) & (n - j <= u - k)
    j = np.where(possible, j, np.clip(n + k - u, 0, None))  # any value that keeps the factorials defined
    log = _log_factorials(int(u.max(initial=0)).bit_length())
    fixed = log[k] + log[u - k] + log[n] + log[u - n] - log[u]  # (B, 1)
    logs = fixed - log[j] - log[k - j] - log[n - j] - log[u - k - n + j]
    return np.where(possible, np.exp(logs), 0.0).sum(1)


def lower_count(right: ArrayLike, drawn: ArrayLike, population: ArrayLike, alpha: float) -> Counts:
    """K_low (B,): the fewest right answers in the population that the sample does not rule out at level alpha.

    right of `drawn` samples were right, without replacement from `population`; all broadcast to (B,). alpha in (0, 1),
    for this side alone. Raises ValueError for counts that no sample can have.
    """
    x, n, u = (v.ravel() for v in np.broadcast_arrays(*map(_counts, (right, drawn, population))))
    if bool(((x < 0) | (x > n) | (n > u)).any()):
        raise ValueError("counts must satisfy 0 <= right <= drawn <= population")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, not {alpha}")
    low, high = x - 1, u - (n - x)  # ruled out; not ruled out: with u - (n - x) right ones X >= x is sure
    while bool((high - low > 1).any()):
        middle = np.maximum((low + high) // 2, 0)
        kept = upper_tail(x, n, middle, u) > alpha * (1 - ROUNDING)
        high, low = np.where(kept, middle, high), np.where(kept, low, middle)
    return high


def upper_count(right: ArrayLike, drawn: ArrayLike, population: ArrayLike, alpha: float) -> Counts:
    """K_high (B,): the most right answers that the sample does not rule out; U - `lower_count` of the wrong ones."""
    x, n, u = (v.ravel() for v in np.broadcast_arrays(*map(_counts, (right, drawn, population))))
    return u - lower_count(n - x, n, u, alpha)


def _counts(value: ArrayLike) -> Counts:
    return np.atleast_1d(np.asarray(value)).astype(np.int64)


@lru_cache(maxsize=2)
def _log_factorials(bits: int) -> NDArray[np.float64]:
    """log i! for i = 0 .. 2^bits."""
    return torch.lgamma(torch.arange(1, 2**bits + 2, dtype=torch.float64)).numpy()
