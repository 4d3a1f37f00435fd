"""MMD^2 with bandwidths that follow the samples, for training: distances once, and everything from them.

Per layer of a network, over the pairs i < j of the pooled sample z = (x, y), in one vector of P = (N + M)(N + M - 1)/2:
    d_p = |z_i - z_j|,     gamma = median of d^2 (or mean),     gamma_u = m_u gamma,
    MMD^2 = sum_p c_p sum_u beta_u exp(-d_p^2 / gamma_u) + constant,
    s_p = dMMD^2/d(d_p^2) = -c_p sum_u (beta_u / gamma_u) exp(-d_p^2 / gamma_u),
    dMMD^2/dz_i = 2 sum_j s_ij (z_i - z_j), a product with the matrix 2 (diag(s 1) - s) in float64,
with c_p = 2/(N (N-1)) within x, 2/(M (M-1)) within y and -2/(N M) between (unbiased). The sums over u are one product.
Distances are differences, so exact at any offset; nothing is read back from the device; nothing is checked but shapes.

Shapes: L layers; N, M samples; F features; P pairs; K kernels, in H chains of at most S, each the square of the one
before.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from dan.mmd.autograd import first_order_only
from dan.mmd.distances import at_least_float32
from dan.mmd.kernel_powers import chains

FAR = 1e18  # its square is in float32's range; farther pairs are beyond every kernel
LOWEST = {torch.float32: -80.0, torch.float64: -700.0}  # below it exp is slow, and 0 for any sum
READABLE = ("cpu",)  # devices of which a value is read without waiting
NUMBERS = {"cpu": 2**18, "cuda": 2**24}  # kernels of pairs at a time: a CPU's cache holds them


def ladder_multiples(count: int = 5, step: float = 2.0) -> tuple[float, ...]:
    """m_u = step^(u - (count - 1)/2), u = 0 .. count - 1: the bandwidths of `MultiKernel.ladder`, over its gamma.

    Raises ValueError for count < 1 and step <= 0.
    """
    if count < 1 or not 0 < step < math.inf:
        raise ValueError(f"a ladder needs count >= 1 and step > 0, not count={count}, step={step}")
    return tuple(float(step) ** (u - (count - 1) / 2) for u in range(count))


class PairDistances:
    """The distances of all pairs within the pooled samples of several layers, of which bandwidths and MMD^2 are made.

    layers: pooled activations (N + M, F_l) of the same samples, those of x first; count: N. Differentiable, as
    `torch.pdist`; float32 at least. Memory O(L (N + M)^2 / 2): it is for batches.
    Raises ValueError for layers that do not belong together, and for no sample on either side.
    """

    def __init__(self, layers: Sequence[Tensor], count: int) -> None:
        shapes = [tuple(layer.shape) for layer in layers]
        if not shapes or any(len(shape) != 2 or shape[0] != shapes[0][0] for shape in shapes):
            raise ValueError(f"layers must be (N + M, F) of the same samples, not {shapes}")
        self.n, self.m = count, shapes[0][0] - count
        if min(self.n, self.m) < 1:
            raise ValueError(f"MMD needs at least 1 sample on each side, not {self.n} and {self.m}")
        self.layers = [at_least_float32(layer) for layer in layers]
        with torch.no_grad():
            # Infinite where rows are merely far away, which is beyond every kernel; NaN stays.
            distances = torch.stack([pair_distances(layer) for layer in self.layers]).clamp_(max=FAR)
            self.squares = distances.square_()  # (L, P)

    @torch.no_grad()
    def median(self, most_pairs: int | None = None) -> Tensor:
        """The median of d^2 over pairs, (L,); as `median_bandwidth`, but 1 already where it is below float32's range.

        most_pairs: take no more pairs than that, evenly; None: all, exactly.
        """
        squares = self.squares
        pairs = squares.shape[1]
        if most_pairs is not None and pairs > most_pairs:
            squares = squares[:, :: -(-pairs // most_pairs)]
            pairs = squares.shape[1]
        lowest = squares.topk(pairs // 2 + 1, largest=False, sorted=False).values
        middle = lowest.amax(1) if pairs % 2 else lowest.topk(2).values.sum(1) / 2
        if squares.device.type in READABLE and bool((middle >= torch.finfo(middle.dtype).tiny).all()):
            return middle  # as below, in three calls
        apart = squares.sum(1) / squares.sign().sum(1)  # the mean of those above 0; NaN if there are none
        return _positive(torch.where(middle > 0, middle, apart))

    @torch.no_grad()
    def mean(self) -> Tensor:
        """The mean of d^2 over pairs, (L,), 1 where all points are equal; as `mean_bandwidth`."""
        return _positive(self.squares.mean(1))

    def mmd2(
        self,
        gamma: Tensor,
        multiples: tuple[float, ...],
        weights: Tensor | None = None,
        x_weights: Tensor | None = None,
        y_weights: Tensor | None = None,
        *,
        estimator: str = "unbiased",
    ) -> tuple[Tensor, ...]:
        """MMD^2 of each layer, L scalars, under bandwidths gamma_l m_u and weights beta.

        gamma: (L,), positive. multiples: m (K,), positive. weights: beta (L, K) or (K,), >= 0, of sum 1; None: equal.
        estimator: "unbiased" or "biased". x_weights (N,), y_weights (M,): as of `dan.mmd.mmd2`, but where they leave an
        effective size below 2 the unbiased estimate is 0, without gradient. None of these is looked at.
        Raises ValueError for another estimator, and fewer than 2 samples on a side where it is unbiased.
        """
        coefficients, constant = self._coefficients(estimator, x_weights, y_weights)
        chosen = (gamma.to(self.squares), multiples, weights, coefficients)
        values: tuple[Tensor, ...] = _PairMMD.apply(self.squares, chosen, *self.layers)
        return values if constant is None else tuple(value + constant for value in values)

    def _coefficients(self, estimator: str, a: Tensor | None, b: Tensor | None) -> tuple[Tensor, Tensor | float | None]:
        """c (P,), and the constant if there is one."""
        if estimator not in ("unbiased", "biased"):
            raise ValueError(f'the estimator is "unbiased" or "biased" here, not "{estimator}"')
        if estimator == "unbiased" and min(self.n, self.m) < 2:
            raise ValueError(
                f"the unbiased estimate needs at least 2 samples on each side, not {self.n} and {self.m}: "
                'use a larger batch, or estimator="biased"'
            )
        like = self.squares
        if a is None and b is None:
            constant = 1 / self.n + 1 / self.m if estimator == "biased" else None
            return _pair_coefficients(self.n, self.m, estimator, like.dtype, like.device), constant
        ones = _one(like.dtype, like.device)
        return _weighted_coefficients(
            (ones if a is None else a.detach().to(like)).expand(self.n),
            (ones if b is None else b.detach().to(like)).expand(self.m),
            estimator,
        )


def adaptive_mmd2(
    x: Sequence[Tensor],
    y: Sequence[Tensor],
    *,
    multiples: tuple[float, ...] | None = None,
    weights: Tensor | None = None,
    heuristic: str = "median",
    estimator: str = "unbiased",
    x_weights: Tensor | None = None,
    y_weights: Tensor | None = None,
) -> Tensor:
    """MMD^2 of several layers, each under kernels around its own median (or mean) squared distance -> (L,).

    x: layers (N, F_l) of the same samples; y: (M, F_l). For each, `mmd2(x, y, MultiKernel.ladder(median_bandwidth(x,
    y)))` but for the last bits, at a fraction of its cost at batch size: every distance is taken once, and nothing is
    read back from the device. The bandwidths carry no gradient. Differentiable once in x and y.
    multiples: the bandwidths over the heuristic's, `ladder_multiples(count, step)`; None: the ladder of five. weights:
    beta (L, K) or (K,), None: equal. heuristic: "median" or "mean". The others: see `PairDistances.mmd2`.

    Raises ValueError for layers that do not belong together, too few samples, and unknown names.
    Source: Long et al., ICML 2015, equations 1 and 4.
    """
    if len(x) != len(y):
        raise ValueError(f"x and y must be of the same layers, not {len(x)} and {len(y)}")
    for a, b in zip(x, y, strict=True):
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
            raise ValueError(f"each layer must be (N, F) and (M, F), not {tuple(a.shape)} and {tuple(b.shape)}")
    if heuristic not in ("median", "mean"):
        raise ValueError(f'the heuristic is "median" or "mean", not "{heuristic}"')
    pooled = [torch.cat([at_least_float32(a), at_least_float32(b)]) for a, b in zip(x, y, strict=True)]
    pairs = PairDistances(pooled, len(x[0]) if x else 0)
    gamma = pairs.median() if heuristic == "median" else pairs.mean()
    multiples = ladder_multiples() if multiples is None else multiples
    return torch.stack(pairs.mmd2(gamma, multiples, weights, x_weights, y_weights, estimator=estimator))


def pair_distances(z: Tensor) -> Tensor:
    """|z_i - z_j| of all pairs i < j of z (N, F), (P,): `torch.pdist`, also on devices that have none (Apple's).

    It subtracts before it squares: exact zeros for duplicates, at any offset from the origin.
    """
    return torch.pdist(z) if z.device.type in ("cpu", "cuda") else differences(z)


def differences(z: Tensor) -> Tensor:
    """The plain twin of `torch.pdist`, with memory for the (P, F) differences."""
    i, j = torch.triu_indices(len(z), len(z), offset=1, device=z.device)
    return torch.linalg.vector_norm(z[i] - z[j], dim=1)


class _PairMMD(Function):
    """A scalar a layer, from its pooled activations (N + M, F); the gradients are computed with the values."""

    @staticmethod
    def forward(ctx: Any, squares: Tensor, chosen: tuple[Any, ...], *layers: Tensor) -> tuple[Tensor, ...]:
        gamma, multiples, weights, coefficients = chosen
        with torch.autocast(squares.device.type, enabled=False) if _autocast(squares) else nullcontext():
            total, slopes = _kernel_sums(squares, gamma, multiples, weights)
            value = total @ coefficients
            if any(ctx.needs_input_grad[2:]):
                # Here and not in backward, where it would take more calls: there each layer's is only scaled.
                factors = _laplacians(slopes.mul_(coefficients), 2 / gamma, len(layers[0]))
                gradients = [_product(factor, layer) for factor, layer in zip(factors, layers, strict=True)]
                ctx.save_for_backward(*gradients, *layers)
        # An infinite feature is in no distance that counts: it makes the value NaN here.
        return value.add_(torch.stack([layer.sum() for layer in layers]).mul_(0)).unbind()

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        saved, count = ctx.saved_tensors, len(outputs)
        gradients = [scale.detach() * own for scale, own in zip(outputs, saved[:count], strict=True)]
        return None, None, *map(first_order_only, gradients, saved[count:])


def _product(factor: Tensor, layer: Tensor) -> Tensor:
    """factor (N + M, N + M) times the layer, in the factor's precision and then in the layer's."""
    return (factor @ layer.to(factor.dtype).clamp(-FAR, FAR)).to(layer.dtype)


def _laplacians(slopes: Tensor, factors: Tensor, size: int) -> Tensor:
    """f (s - diag(s 1)) of each layer (L, N + M, N + M), from s of its pairs (L, P) and f (L,); in float64.

    Its product with z is f sum_j s_ij (z_j - z_i): in float64 nothing is lost where all z are far from the origin.
    """
    wide = torch.float64 if slopes.device.type != "mps" else slopes.dtype
    scaled = slopes * factors[:, None]
    matrices = scaled.index_select(1, _positions(size, slopes.device)).view(-1, size, size).to(wide)
    diagonal = matrices.diagonal(dim1=1, dim2=2)
    diagonal.zero_()
    diagonal.sub_(matrices.sum(2))
    return matrices


@lru_cache(maxsize=16)
def _positions(size: int, device: torch.device) -> Tensor:
    """Which pair each entry of a symmetric matrix is, row by row (size^2,); 0 on the diagonal."""
    i, j = torch.triu_indices(size, size, offset=1)
    positions = torch.zeros(size, size, dtype=torch.long)
    positions[i, j] = positions[j, i] = torch.arange(len(i))
    return positions.flatten().to(device)


def _kernel_sums(
    squares: Tensor, gamma: Tensor, multiples: tuple[float, ...], weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """sum_u beta_u k_u and sum_u (beta_u / m_u) k_u of every pair, (L, P) each."""
    layers, pairs = squares.shape
    heads, levels, table, rows = _plan(multiples, layers, squares.dtype, squares.device)
    if weights is not None:
        rows = (weights.to(table).expand(layers, -1) @ table).view(layers, 2, -1)
    exponents = heads / gamma[:, None, None]  # (L, H, 1)
    most = max(1, NUMBERS.get(squares.device.type, 2**24) // (layers * levels * len(heads)))
    parts = []
    for some in [squares] if pairs <= most else squares.split(most, dim=1):
        grid = some.new_empty(layers, levels, len(heads), some.shape[1])
        by_level = grid.unbind(1)
        torch.mul(some[:, None], exponents, out=by_level[0]).clamp_(min=LOWEST[squares.dtype]).exp_()
        for above, below in zip(by_level[:-1], by_level[1:], strict=True):
            torch.mul(above, above, out=below)
        parts.append(torch.bmm(rows, grid.flatten(1, 2)))  # (L, 2, P)
    sums = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
    total, slopes = sums.unbind(1)
    return total, slopes


def _autocast(z: Tensor) -> bool:
    return torch.is_autocast_enabled(z.device.type)


@lru_cache(maxsize=64)
def _plan(
    multiples: tuple[float, ...], layers: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, int, Tensor, Tensor]:
    """-1 / m of each chain's first kernel (H, 1); S; the table that puts beta and beta / m in place, (K, 2 S H); and
    what it makes of equal weights (L, 2, S H).

    Kernels are computed on a grid of S rows of H chains, each row the square of the one above.
    """
    order = chains(multiples, 4 * torch.finfo(dtype).eps)
    width = len(order)
    places = {}
    for column, chain in enumerate(order):
        level = 0
        for u, squarings in chain:
            level += squarings
            places[u] = level * width + column
    levels = max(places.values()) // width + 1
    table = torch.zeros(len(multiples), 2, levels * width, dtype=dtype)
    for u, place in places.items():
        table[u, :, place] = torch.tensor([1.0, 1 / multiples[u]], dtype=dtype)
    heads = torch.tensor([[-1 / multiples[chain[0][0]]] for chain in order], dtype=dtype)
    equal = table.mean(0).expand(layers, -1, -1).contiguous()
    return heads.to(device), levels, table.flatten(1).to(device), equal.to(device)


@lru_cache(maxsize=16)
def _pair_coefficients(n: int, m: int, estimator: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """c (P,), in the order of `torch.pdist`."""
    less = 1 if estimator == "unbiased" else 0
    values = torch.tensor([2 / (n * (n - less)), -2 / (n * m), 2 / (m * (m - less))], dtype=dtype)
    return values[_blocks(n, m, torch.device("cpu"))[2]].to(device)


@lru_cache(maxsize=16)
def _blocks(n: int, m: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """i, j and the block of every pair i < j (P,): 0 within x, 1 between, 2 within y."""
    i, j = torch.triu_indices(n + m, n + m, offset=1, device=device)
    return i, j, (i >= n).long() + (j >= n).long()


def _weighted_coefficients(a: Tensor, b: Tensor, estimator: str) -> tuple[Tensor, Tensor | None]:
    """c (P,), and the constant if there is one, for weights a (N,) and b (M,); 0 where an effective size is below 2."""
    a, b = a / a.sum(), b / b.sum()
    a2, b2 = a.square().sum(), b.square().sum()
    i, j, block = _blocks(len(a), len(b), a.device)
    w = torch.cat([a, b])
    products = w[i] * w[j]
    if estimator == "biased":
        return products * products.new_tensor([2.0, -2.0, 2.0])[block], a2 + b2
    values = torch.stack([2 / (1 - a2), torch.full_like(a2, -2), 2 / (1 - b2)])
    enough = torch.maximum(a2, b2) <= 0.5 + 1e-6
    return products * torch.where(enough, values, 0)[block], None


def _positive(gamma: Tensor) -> Tensor:
    """gamma (L,), or 1 where it is NaN or below the smallest normal number: as `median_bandwidth`."""
    return torch.where(gamma >= torch.finfo(gamma.dtype).tiny, gamma, _one(gamma.dtype, gamma.device))


@lru_cache(maxsize=8)
def _one(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.ones((), dtype=dtype, device=device)
