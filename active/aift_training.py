"""What a network is trained on after each purchase, and from where it goes on: the training codes of AIFT and ACFT.

    code        starts from     learns
    RFT         M_0             all that is labelled, which was drawn at random
    AFT(LQ)     M_0             all that is labelled: before (L) and now (Q)
    ACFT(Q)     M_{t-1}         what was labelled now
    ACFT(LQ)    M_{t-1}         all that is labelled
    ACFT(HQ)    M_{t-1}         of what was labelled before, what M_{t-1} gets wrong (H), and what was labelled now

M_0 is the network before the first label, M_t that after the t-th purchase. Here is only the choice; who trains, and
on what besides (a source, an alignment), is the caller's: see `active.learners.candidates`.

Source: Zhou et al., Active, continual fine tuning of convolutional neural networks for reducing annotation efforts,
Medical Image Analysis 71:101997, 2021, Table 2. Patented as AIFT is: see docs/aift.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from active.pool import Pool
from dan.errors import UserError, nearest

Model = TypeVar("Model")


@dataclass(frozen=True)
class TrainingCode:
    """from_last: goes on from the last network, not from M_0. learns: of what was labelled before, "all", "none" or
    what is "wrong". at_random: what is asked for has to be drawn at random."""

    from_last: bool
    learns: Literal["all", "none", "wrong"]
    at_random: bool = False


TRAINING_CODES: dict[str, TrainingCode] = {
    "RFT": TrainingCode(False, "all", at_random=True),
    "AFT(LQ)": TrainingCode(False, "all"),
    "ACFT(Q)": TrainingCode(True, "none"),
    "ACFT(LQ)": TrainingCode(True, "all"),
    "ACFT(HQ)": TrainingCode(True, "wrong"),
}


def training_code(name: str, strategy: str | None = None) -> TrainingCode:
    """The code of that name. strategy: what asks, if it is known.

    Raises UserError for an unknown one, with the nearest, and where RFT meets another strategy than random.
    """
    if name not in TRAINING_CODES:
        known = ", ".join(TRAINING_CODES)
        raise UserError(f'there is no training code "{name}"{nearest(name, TRAINING_CODES)}: one of {known}')
    code = TRAINING_CODES[name]
    if code.at_random and strategy not in (None, "random"):
        raise UserError(f"{name} is fine-tuning on a random draw, and {strategy} is none: take random, or AFT(LQ)")
    return code


def learned_ids(
    code: TrainingCode, pool: Pool, number: int, *, wrong: Callable[[Tensor, Tensor], Tensor] | None = None
) -> Tensor:
    """Ids to learn in round `number` >= 1, in the order in which they were labelled.

    wrong: ids (n,) and their labels (n,) -> (n,) bool, what the last network gets wrong; called only for codes that
    learn it, on what was labelled before this round. ValueError where it is needed and absent.
    """
    ids, labels = pool.labelled_ids, pool.labels
    now = torch.tensor([pool.round_of(i) == number for i in ids.tolist()], dtype=torch.bool)
    if code.learns == "all":
        return ids
    chosen = now.clone()
    if code.learns == "wrong":
        if wrong is None:
            raise ValueError("this code learns what the last network gets wrong: say what that is")
        if not bool(now.all()):
            chosen[~now] = wrong(ids[~now], labels[~now])
    return ids[chosen]


def continual(
    code: TrainingCode,
    *,
    before: Callable[[int], Model],
    train: Callable[[Model, Tensor, Tensor, int], Model],
    predict: Callable[[Model, Tensor], Tensor],
) -> Callable[[Pool, int], Model]:
    """A `fit` for `active.loop` that trains by this code.

    before(r): a copy of M_r, to be trained on. train(model, ids, labels, number) -> M_number, trained on those labels.
    predict(model, ids): a class each, (n,). In round 0 nothing is labelled, and the network is M_0.
    """

    def fit(pool: Pool, number: int) -> Model:
        if number == 0:
            return before(0)

        def wrong(ids: Tensor, labels: Tensor) -> Tensor:
            return predict(before(number - 1), ids) != labels

        ids = learned_ids(code, pool, number, wrong=wrong)
        label = dict(zip(pool.labelled_ids.tolist(), pool.labels.tolist(), strict=True))
        labels = torch.tensor([label[i] for i in ids.tolist()], dtype=torch.long)
        return train(before(number - 1 if code.from_last else 0), ids, labels, number)

    return fit
