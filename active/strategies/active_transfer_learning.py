"""Active transfer learning: train a new last layer to tell what the network gets wrong, or what it was trained on.

    atl_uncertainty     argmax P(incorrect | x), learnt from the validation samples that the network gets right or wrong
    atl_representative  argmin P(training domain | x), learnt from source and labelled samples against the pool
    atlas               a few by atl_uncertainty; take them as correct, for they will be labelled; train anew; again

Each is a logistic regression on features that the network has already (`active.strategies.linear_probe`).
Source: R. Munro, Human-in-the-Loop Machine Learning, 2021, ch. 5.

Shapes: N pool samples, V validation samples, S samples of the training domain, C classes, F features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from active.strategies.linear_probe import PENALTY, fit_head
from active.strategies.uncertainty import highest_first
from active.strategies.validation import how_many

if TYPE_CHECKING:
    from active.pool import Query


def incorrect(logits: Tensor, targets: Tensor) -> Tensor:
    """Which samples the network gets wrong: argmax_c logits != target. logits (V, C), targets (V,) -> bool (V,).

    Raises ValueError on shapes that do not fit, and for no samples.
    """
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        raise ValueError(
            f"logits {tuple(logits.shape)} must be (samples, classes) with a target each, not {len(targets)}"
        )
    if len(logits) == 0:
        raise ValueError("there are no validation samples to learn from: hold some labelled samples out of training")
    return logits.argmax(dim=1) != targets.to(logits.device)


def incorrect_log_odds(
    features: Tensor, validation: Tensor, wrong: Tensor, *, correct: Tensor | None = None, penalty: float = PENALTY
) -> Tensor:
    """log P(incorrect) / P(correct) of features (N, F), learnt from validation (V, F) and what was wrong (V,): (N,).

    correct: (M, F), further samples to take as correct. Log-odds rank as P does, and do not tie where P rounds to 1.
    Where all samples are correct, or all incorrect, there is nothing to tell apart: every sample gets 0.
    Deterministic, float64. Raises ValueError on shapes that do not fit.
    """
    if features.ndim != 2 or features.shape[1:] != validation.shape[1:]:
        raise ValueError(
            f"features {tuple(features.shape)} must have the features of validation {tuple(validation.shape)}"
        )
    parts = [validation] if correct is None else [validation, correct]
    yes = torch.cat([wrong, wrong.new_zeros(sum(len(part) for part in parts[1:]))])  # (V + M,)
    if bool(yes.all()) or not bool(yes.any()):
        return torch.zeros(len(features), dtype=torch.float64, device=features.device)
    return fit_head(parts, yes, penalty=penalty).log_odds(features)


def atlas(
    features: Tensor,
    validation: Tensor,
    wrong: Tensor,
    confidence: Tensor,
    budget: int,
    *,
    steps: int = 10,
    penalty: float = PENALTY,
) -> Tensor:
    """Rows of features (N, F) by active transfer learning for adaptive sampling: LongTensor (min(budget, N),).

    In each of `steps` steps the budget's next share (rounded up) goes to the samples most likely incorrect; they join
    the validation samples (V, F) as correct, and the head is trained anew. Ties go to the lowest confidence (N,), then
    to the lowest row. One step is `atl_uncertainty`. Time: `steps` trainings on V + budget samples, and O(N F) a step.
    Raises ValueError on a bad budget, steps < 1, and shapes that do not fit.
    """
    if steps < 1:
        raise ValueError(f"atlas takes at least one step, not {steps}")
    if confidence.shape != features.shape[:1]:
        raise ValueError(f"{len(confidence)} confidences for {len(features)} rows of features")
    budget = how_many(budget, len(features))
    picks = torch.empty(0, dtype=torch.long, device=features.device)
    for step in range(min(steps, budget)):
        share = -(-(budget - len(picks)) // (min(steps, budget) - step))  # what is left over the steps left, rounded up
        score = incorrect_log_odds(features, validation, wrong, correct=features[picks], penalty=penalty)
        score[picks] = -torch.inf
        picks = torch.cat((picks, _highest_then_least_confident(score, confidence, share)))
    return picks


@torch.no_grad()
def training_domain_log_odds(
    pool: Tensor, training: list[Tensor], *, generator: torch.Generator, folds: int = 3, penalty: float = PENALTY
) -> Tensor:
    """log P(training domain) / P(application domain) of pool (N, F), each by a head that was not trained on it: (N,).

    training: tensors (S_1, F), (S_2, F), ... of the training domain. The pool is dealt into min(folds, N) equal folds
    through the generator; a fold is scored by a head that tells all of the training domain from the other folds, both
    sides weighing the same. float64. Raises ValueError for fewer than two pool samples or folds, an empty training
    domain, and shapes that do not fit.
    """
    n, s = len(pool), sum(len(part) for part in training)
    folds = min(folds, n)
    if folds < 2:
        raise ValueError(f"a sample is scored by a head trained on others: {n} samples in {folds} folds leave none")
    if s == 0:
        raise ValueError("the training domain has no samples: there is nothing to tell the pool from")
    fold = torch.empty(n, dtype=torch.long)
    fold[torch.randperm(n, generator=generator, device=generator.device).cpu()] = torch.arange(n) % folds
    yes = torch.cat([torch.ones(s, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)])
    score = torch.empty(n, dtype=torch.float64, device=pool.device)
    for held_out in range(folds):
        learnt = fold != held_out
        weights = torch.cat([torch.full((s,), 1 / s, dtype=torch.float64), learnt.double() / int(learnt.sum())])
        head = fit_head([*training, pool], yes, weights=weights, penalty=penalty)
        mine = (~learnt).nonzero()[:, 0].to(pool.device)
        score[mine] = head.log_odds(pool[mine])
    return score


def ask_atl_uncertainty(query: Query, budget: int, *, generator: torch.Generator) -> Tensor:
    """Ask for what the network most likely gets wrong, as a head trained on its validation errors has it.

    The head sees `features` where the pool and the validation samples have them, else the logits. Equal P(incorrect),
    as when the network makes no error on validation, goes to the lowest confidence, then to the lowest id. Draws
    nothing at random.
    """
    query = query.by_id()
    features, validation, wrong, confidence = _what_is_known(query)
    return query.ids[atlas(features, validation, wrong, confidence, budget, steps=1)]


def ask_atlas(query: Query, budget: int, *, generator: torch.Generator, steps: int = 10) -> Tensor:
    """As `ask_atl_uncertainty`, in steps: what was asked for counts as correct from then on, so the next are others."""
    query = query.by_id()
    features, validation, wrong, confidence = _what_is_known(query)
    return query.ids[atlas(features, validation, wrong, confidence, budget, steps=steps)]


def ask_atl_representative(query: Query, budget: int, *, generator: torch.Generator, folds: int = 3) -> Tensor:
    """Ask for what looks least like the training domain (source and labelled), as a cross-fitted head has it.

    The head sees all layers where the query has them for pool, source and, if there are any, labelled samples; else the
    features. The generator deals the folds over the sorted ids. Ties to the lowest id.
    """
    query = query.by_id()
    pool, source = query.need("features", "source_features")
    count = how_many(budget, len(pool))
    training = [source]
    labelled = query.labelled_features is not None and len(query.labelled_features) > 0
    if labelled:
        training += query.need("labelled_features")
    if query.layers is not None and query.source_layers is not None:
        if not labelled:
            pool, *training = query.need("layers", "source_layers")
        elif query.labelled_layers is not None:
            pool, *training = query.need("layers", "source_layers", "labelled_layers")
    if len(pool) < 2:
        return query.ids[:count]  # no other sample to learn from, and no choice to make
    return query.ids[highest_first(-training_domain_log_odds(pool, training, generator=generator, folds=folds), count)]


def _what_is_known(query: Query) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pool and validation features for the head, which validation samples are wrong, and the pool's confidence."""
    logits, validation_logits, targets = query.need("logits", "validation_logits", "validation_targets")
    wrong = incorrect(validation_logits, targets)
    confidence = logits.double().softmax(dim=1).amax(dim=1)  # (N,)
    if query.features is None or query.validation_features is None:
        return logits, validation_logits, wrong, confidence
    features, validation = query.need("features", "validation_features")
    return features, validation, wrong, confidence


def _highest_then_least_confident(score: Tensor, confidence: Tensor, count: int) -> Tensor:
    """Rows of the `count` highest scores, equal ones by lowest confidence, then by lowest row."""
    order = torch.sort(confidence, stable=True).indices
    return order[highest_first(score[order], count)]
