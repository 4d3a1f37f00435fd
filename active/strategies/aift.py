"""Ask for candidates whose patches the network can't settle, or does not agree about: AIFT's entropy and diversity.

A candidate has patches j = 1 .. M that share one label; x_jc is the network's probability of class c for patch j.
    R_jj = entropy_weight   * -sum_c x_jc log x_jc
    R_jl = diversity_weight *  sum_c (x_jc - x_lc) (log x_jc - log x_lc)        j != l, a symmetric KL divergence
    score = sum of all entries of R, so every pair counts twice
Of the patches, only the share alpha is scored that is most certain of the candidate's majority class: an object in
one corner leaves the other patches with a wrong label, which would look like disagreement (majority selection).

The pair sum needs no pairs. With l_jc = log x_jc and means over the m patches that are kept, for each class
    sum_jl (x_j - x_l)(l_j - l_l) = 2 (m sum_j x_j l_j - sum_j x_j sum_j l_j) = 2 m sum_j (x_j - mean x)(l_j - mean l),
O(m) in place of O(m^2); the centred form loses nothing to cancellation.

A code such as "E+M+R" says which of it is used: D diversity, E entropy, M majority selection, R a batch that is drawn
at random, in proportion to the scores, from the top of the sorted list. "aift:E+M+R" is that strategy's name.

Source: Zhou et al., Fine-tuning Convolutional Neural Networks for Biomedical Image Analysis: Actively and
Incrementally, CVPR 2017, equations 1-3 and section 3.5; the codes: Zhou et al., Active, continual fine tuning of
convolutional neural networks for reducing annotation efforts, Medical Image Analysis 71:101997, 2021. The method is
patented: see docs/aift.md.

Shapes: N candidates, M patches, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from active.strategies.uncertainty import highest_first
from active.strategies.validation import SUM_TOLERANCE, check_probabilities, how_many
from dan.errors import UserError, nearest

if TYPE_CHECKING:
    from active.pool import Query

EPS = 2.0**-52  # 2.2e-16, inside the logarithm of the authors' demo; between hard 0 and 1 it decides the divergence
BLOCK = 2**20  # numbers of a block of candidates, in float64
EXTENSION = 5.0  # batches that the top of the sorted list holds, for R to draw from

# What can be scored, each plain and with either addition or both: the paper's eight, and both parts at once.
CODES = tuple(part + extra for part in ("D", "E", "D+E") for extra in ("", "+M", "+R", "+M+R"))


@torch.no_grad()
def candidate_scores(
    patch_probs: Tensor,
    alpha: float = 0.25,
    entropy_weight: float = 1.0,
    diversity_weight: float = 1.0,
    majority: bool = True,
    *,
    eps: float = EPS,
) -> Tensor:
    """The AIFT score of each candidate, higher = ask: (N,) float64.

    patch_probs: (N, M) the probability of the positive class of two, which is the same as (N, M, 2) with [1 - p, p]; or
        (N, M, C), each patch a distribution over C classes.
    majority: keep max(1, alpha M rounded half up) patches, those that give the candidate's majority class the highest
        probability (ties to the earlier patch). The majority class is the argmax of the patches' mean: of two classes
        the positive one if its mean is above 0.5. If False, every patch is kept, and alpha has no part.
    alpha: in (0, 1]; the paper's 1/4. entropy_weight, diversity_weight: the paper's lambda_1 and lambda_2, >= 0.
    eps: added inside every logarithm. Natural logarithms.

    A mean within 1e-12 of the largest (for less than float64, 8 roundings of that precision) counts as equal to it, and
    of equal ones the first class is the majority: a mean of exactly 0.5 is not above.
    Time O(N M (C + log M)); candidates are read in blocks, so memory beside patch_probs is O(N).
    Raises ValueError for other shapes, no patch, values that are no probabilities, and options out of their range.
    """
    shape = patch_probs.shape
    if len(shape) not in (2, 3) or shape[1] == 0 or (len(shape) == 3 and shape[2] < 2):
        raise ValueError(
            "patch_probs must be (candidates, patches), or (candidates, patches, classes) with at least 1 patch and 2 "
            f"classes, not {tuple(shape)}"
        )
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha is the share of patches to keep, above 0 and at most 1, not {alpha}")
    for name, value in (("entropy_weight", entropy_weight), ("diversity_weight", diversity_weight)):
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be >= 0 and finite, not {value}")
    if not 0 < eps < 1:
        raise ValueError(f"eps keeps the logarithm of 0 finite: above 0 and below 1, not {eps}")
    patches = shape[1]
    keep = max(1, math.floor(alpha * patches + 0.5 + 1e-9)) if majority else patches
    coarse = patch_probs.is_floating_point() and patch_probs.dtype != torch.float64
    near = 8 * torch.finfo(patch_probs.dtype).eps if coarse else 1e-12

    scores = torch.zeros(len(patch_probs), dtype=torch.float64, device=patch_probs.device)
    rows = max(1, BLOCK // (patches * (2 if len(shape) == 2 else shape[2])))
    at = 0
    for block in patch_probs.split(rows):
        x = _distributions(block, at)  # (n, M, C)
        if keep < patches:
            mean = x.mean(dim=1)  # (n, C)
            largest = mean >= mean.amax(dim=1, keepdim=True) - 2 * near  # of two classes, 0.5 + near
            dominant = largest.to(torch.uint8).argmax(dim=1)  # the first of them
            of_dominant = x.gather(2, dominant[:, None, None].expand(-1, patches, 1))[:, :, 0]  # (n, M)
            kept = of_dominant.sort(dim=1, descending=True, stable=True).indices[:, :keep]
            x = x.gather(1, kept[:, :, None].expand(-1, -1, x.shape[2]))  # (n, m, C)
        log = (x + eps).log()
        part = scores[at : at + len(block)]
        if entropy_weight:
            part -= entropy_weight * (x * log).sum(dim=(1, 2))
        if diversity_weight:
            around = (x - x.mean(dim=1, keepdim=True)) * (log - log.mean(dim=1, keepdim=True))
            part += 2 * keep * diversity_weight * around.sum(dim=(1, 2))
        at += len(block)
    return scores


def score_matrix(
    patch_probs: Tensor, *, entropy_weight: float = 1.0, diversity_weight: float = 1.0, eps: float = EPS
) -> Tensor:
    """R (M, M) of one candidate by its definition: patch_probs (M,) or (M, C), every patch kept. Its sum is the score.

    The plain form of `candidate_scores(..., majority=False)`, to look at which patches disagree; O(M^2 C).
    Raises ValueError for values that are no probabilities.
    """
    (x,) = _distributions(patch_probs[None], 0)  # (M, C)
    log = (x + eps).log()
    matrix = diversity_weight * ((x[:, None] - x[None]) * (log[:, None] - log[None])).sum(dim=2)
    entropy = -(x * log).sum(dim=1)
    return matrix.fill_diagonal_(0) + torch.diag(entropy_weight * entropy)


def ask_aift(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """Ask for the candidates of the highest `candidate_scores`, ties to the lowest id; draws nothing at random.

    With majority selection at alpha = 1/4 and weights 1, as in the paper.
    """
    query = query.by_id()
    count = how_many(budget, len(query.ids))
    return query.ids[highest_first(patch_scores(query), count)]


def aift_strategy(
    code: str,
    *,
    alpha: float = 0.25,
    entropy_weight: float = 1.0,
    diversity_weight: float = 1.0,
    eps: float = EPS,
    extension: float = EXTENSION,
) -> Callable[..., Tensor]:
    """The strategy of a selection code, one of CODES: "D+E+M" is `ask_aift`.

    A part that the code doesn't name weighs nothing; without M every patch is scored, and without R nothing is drawn at
    random. The options are those of `candidate_scores` and of `drawn_from_top`.
    Raises UserError for another code, with the nearest one; ValueError for options out of their range, here and not
    when it is asked.
    """
    if code not in CODES:
        raise UserError(f'"{code}" is no code of aift{nearest(code, CODES)}: one of {", ".join(CODES)}')
    parts = code.split("+")
    options: dict[str, Any] = {
        "alpha": alpha,
        "entropy_weight": entropy_weight if "E" in parts else 0.0,
        "diversity_weight": diversity_weight if "D" in parts else 0.0,
        "majority": "M" in parts,
        "eps": eps,
    }
    candidate_scores(torch.zeros(0, 1), **options)  # the options are checked here
    _check_extension(extension)

    def ask(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
        query = query.by_id()
        count = how_many(budget, len(query.ids))
        scores = patch_scores(query, **options)
        if "R" in parts:
            return query.ids[drawn_from_top(scores, count, extension=extension, generator=generator)]
        return query.ids[highest_first(scores, count)]

    ask.__name__ = ask.__qualname__ = f"aift:{code}"
    ask.__doc__ = f"Ask for candidates by the code {code} of AIFT."
    ask.needs = ("patch_probs",)  # type: ignore[attr-defined]
    return ask


def drawn_from_top(scores: Tensor, budget: int, *, extension: float = EXTENSION, generator: torch.Generator) -> Tensor:
    """Rows of `budget` scores (N,), drawn without replacement from the top of the sorted list: (min(budget, N),).

    Of the K = extension * budget highest, rounded up and at most N, s_1 >= ... >= s_K, each draw takes i with
        p_i = (s_i - s_K) / sum_j (s_j - s_K)        over those that are left,
    so the K-th itself comes only when nothing else is left; equal scores have equal chances. extension: >= 1; at 1 the
    batch is that of the highest scores. Raises ValueError for another extension.
    Source: Zhou et al. 2021, the randomness of "+R". How far the top reaches is this project's choice.
    """
    count = how_many(budget, len(scores))
    _check_extension(extension)
    top = highest_first(scores, math.ceil(extension * count - 1e-9))
    if not count:
        return top
    above = (scores[top] - scores[top[-1]]).double()
    weights = above if bool(above[0] > 0) else torch.ones_like(above)
    # The first of independent exponential waiting times of rates w_i is i with probability w_i / sum w, and so on.
    draws = torch.empty(len(top), dtype=torch.float64, device=generator.device).exponential_(generator=generator)
    waits = torch.where(weights > 0, draws.to(weights.device) / weights, math.inf)
    return top[waits.sort(stable=True).indices[:count]]


def _check_extension(extension: float) -> None:
    if not 1 <= extension < math.inf:
        raise ValueError(f"extension is how many batches the top of the list holds: 1 or more, not {extension}")


def patch_scores(query: Query, **options: Any) -> Tensor:
    """`candidate_scores` of a query's patch_probs: (N,). A patch that is no distribution is named by its sample."""
    (probs,) = query.need("patch_probs")
    if probs.ndim == 3 and probs.shape[1]:
        rows = max(1, BLOCK // probs.shape[1:].numel())
        for ids, block in zip(query.ids.split(rows), probs.split(rows), strict=True):
            check_probabilities(block.flatten(0, 1), ids=ids.repeat_interleave(probs.shape[1]))
    return candidate_scores(probs, **options)


def _distributions(probs: Tensor, first: int) -> Tensor:
    """(n, M) or (n, M, C) -> (n, M, C) in float64. ValueError naming the first bad candidate, `first` + its row."""
    x = probs.double()
    if x.ndim == 2:
        x = torch.stack((1 - x, x), dim=2)
    fine = (x >= 0).all(dim=2) & (x <= 1 + SUM_TOLERANCE).all(dim=2) & ((x.sum(dim=2) - 1).abs() <= SUM_TOLERANCE)
    if not bool(fine.all()):
        row, patch = (~fine).nonzero()[0].tolist()
        raise ValueError(
            f"patch {patch} of row {first + row} of patch_probs is no distribution: values in [0, 1] that sum to 1"
        )
    return x
