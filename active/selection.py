"""What there is to say of each sample that was picked: the guess, how sure it is, and how far it lies from what is
labelled.

    probability p1      margin p1 - p2      entropy -sum_c p_c log p_c / log C, in [0, 1]
    distance            min over labelled samples l of |f - f_l|, Euclidean, in the last hidden layer

Labelled are the source's samples and the target's bought ones.

Shapes: N unlabelled samples; L labelled, S source; B picked; C classes; F features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from active.pool import Query


@dataclass(frozen=True, kw_only=True)
class Pick:
    """One picked sample. order: from 1. id: global. guess, second: classes. distance: NaN where nothing is labelled.

    nearest: class of the nearest labelled sample, and nearest_in the domain it is of.
    """

    order: int
    id: int
    guess: int
    second: int
    probability: float
    margin: float
    entropy: float
    distance: float = math.nan
    nearest: int = -1
    nearest_in: Literal["", "source", "target"] = ""


def pick_details(ids: Tensor | Sequence[int], query: Query) -> list[Pick]:
    """The picks `ids` (B,), in their order, of a query that has probs, and features where distances are wanted.

    Raises ValueError for an id that is not of the query.
    """
    (probs,) = query.need("probs")
    wanted = torch.as_tensor(ids, dtype=torch.long)
    row_of = {sample: row for row, sample in enumerate(query.ids.tolist())}
    missing = [sample for sample in wanted.tolist() if sample not in row_of]
    if missing:
        raise ValueError(f"sample {missing[0]} is not among the query's")
    rows = torch.tensor([row_of[sample] for sample in wanted.tolist()], dtype=torch.long)
    p = probs[rows].double()  # (B, C)
    top, classes = p.topk(2, dim=1)
    entropy = -torch.xlogy(p, p).sum(1) / math.log(p.shape[1])
    nearest = _nearest(rows, query)
    return [
        Pick(
            order=i + 1,
            id=int(wanted[i]),
            guess=int(classes[i, 0]),
            second=int(classes[i, 1]),
            probability=float(top[i, 0]),
            margin=float(top[i, 0] - top[i, 1]),
            entropy=float(entropy[i]),
            distance=nearest[i][0],
            nearest=nearest[i][1],
            nearest_in=nearest[i][2],
        )
        for i in range(len(rows))
    ]


def pick_facts(pick: Pick, classes: Sequence[str]) -> list[tuple[str, str, bool]]:
    """What a gallery says of a pick: (name, value, False)."""
    facts = [
        ("probability", f"{pick.probability:.3f}"),
        ("second", f"{classes[pick.second]}"),
        ("margin", f"{pick.margin:.3f}"),
        ("entropy", f"{pick.entropy:.3f}"),
    ]
    if not math.isnan(pick.distance):
        facts += [("distance", f"{pick.distance:.3g}"), ("nearest", f"{classes[pick.nearest]} ({pick.nearest_in})")]
    return [(name, value, False) for name, value in facts]


def _nearest(rows: Tensor, query: Query) -> list[tuple[float, int, Literal["", "source", "target"]]]:
    """(distance, class, domain) of the labelled sample nearest to each of these rows."""
    found: list[tuple[float, int, Literal["", "source", "target"]]] = [(math.nan, -1, "")] * len(rows)
    if query.features is None:
        return found
    f = query.features[rows].double()  # (B, F)
    sides: list[tuple[Tensor | None, Tensor | None, Literal["source", "target"]]] = [
        (query.labelled_features, query.labelled_targets, "target"),
        (query.source_features, query.source_targets, "source"),
    ]
    for features, targets, domain in sides:
        if features is None or targets is None or not len(features):
            continue
        distance, at = torch.cdist(f, features.double(), compute_mode="donot_use_mm_for_euclid_dist").min(1)
        for i in range(len(rows)):
            if not found[i][0] <= float(distance[i]):
                found[i] = (float(distance[i]), int(targets[at[i]]), domain)
    return found
