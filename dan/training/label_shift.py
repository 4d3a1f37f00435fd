"""Label shift, estimated before anything is aligned: a source-only network, calibrated on held-out source samples.

    1. split the source, class by class, into a training part and a held-out part
    2. train a copy of the network on the training part, without alignment
    3. calibrate its logits on the held-out part (temperature and class biases)
    4. estimate the target's class shares from its outputs; w_c = p_T(c) / p_S(c), at most `cap`

After alignment the predicted shares look like the source's, so that a test of the aligned network sees nothing.

Shapes: C classes; n audit labels.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from dan.data.batches import derived_seed, labels_of
from dan.errors import UserError
from dan.evaluation.class_shares import Shares, bbse, class_shares, estimate_shares, posterior_shares
from dan.evaluation.metrics import predict
from dan.evaluation.temperature import fit_bias_corrected
from dan.models.dan import DAN
from dan.training.options import train_options
from dan.training.setup import prepare_data, training_device
from dan.training.trainer import Trainer

HOLDOUT = 0.2  # share of the source that the estimate holds out
SHIFT_LIMIT = 0.15  # total variation from which a shift is reported
CAP = 5.0  # largest class weight


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelShift:
    """What is known of the target's class shares before alignment.

    shares: the estimate with intervals. weights (C,): of source samples by class, mean 1 over the source, none above
    the cap before that. absent: classes of the source that the target seems not to hold.
    """

    shares: Shares
    weights: Tensor
    absent: tuple[int, ...]

    def warnings(self, classes: Sequence[str]) -> list[str]:
        """One line where the shares differ by SHIFT_LIMIT or more: by how much, which classes, and the remedy."""
        distance = self.shares.total_variation
        if distance < SHIFT_LIMIT:
            return []
        change = self.shares.shares - self.shares.source_shares
        more, fewer = int(change.argmax()), int(change.argmin())

        def describe(c: int) -> str:
            return f"{classes[c]} {self.shares.shares[c]:.0%} against {self.shares.source_shares[c]:.0%} in the source"

        return [
            f"class shares differ between the domains by about {distance:.0%} (total variation, estimated before "
            f"alignment): {describe(more)}, {describe(fewer)}. Aligning such domains can harm: use --label-shift "
            "correct, and compare with --trade-off 0"
        ]


def split_by_class(labels: Tensor, share: float, seed: int) -> tuple[list[int], list[int]]:
    """(kept, held out) positions: of each class `share`, at least one of two or more, drawn by the seed; ascending."""
    generator = torch.Generator().manual_seed(seed)
    held: list[int] = []
    for c in labels.unique().tolist():
        rows = (labels == c).nonzero()[:, 0]
        count = max(1, round(share * len(rows))) if len(rows) > 1 else 0
        held += rows[torch.randperm(len(rows), generator=generator)[:count]].tolist()
    chosen = set(held)
    return [i for i in range(len(labels)) if i not in chosen], sorted(held)


def estimate_label_shift(
    model: DAN,
    source: Dataset[Any],
    target: Dataset[Any],
    *,
    method: str = "mlls",
    audit_labels: Tensor | None = None,
    cap: float = CAP,
    seed: int = 0,
    **options: Any,
) -> LabelShift:
    """The target's class shares by a source-only copy of `model`, which stays as it is.

    method: of `dan.evaluation.class_shares.ESTIMATORS`. audit_labels (n,): labels of target samples that were drawn
    UNIFORMLY at random; with them the estimates are combined (`posterior_shares`). Picks of a strategy are no such
    sample. cap: largest weight. options: of `dan.training.fit` (steps, config, cache, device, ...); the trade-off is 0,
    and the estimate writes no run directory.
    Raises UserError for a source without labels, or with too few samples to hold any out.
    Source: Lipton et al., ICML 2018; Alexandari et al., ICML 2020; the posterior is ours.
    """
    chosen = train_options(**{**options, "trade_off": 0.0, "run": None, "seed": seed, "tests": {}})
    chosen = replace(chosen, labelled_target=None, labelled_domain="target", class_weights=None, source_weights=None)
    copied = copy.deepcopy(model).to(training_device(chosen))
    data = prepare_data(copied, source, target, chosen, training_device(chosen))
    labels = labels_of(data.source)
    kept, held = split_by_class(labels, HOLDOUT, derived_seed(seed, 11))
    if len(kept) < chosen.config.batch_size or not held:
        raise UserError(
            f"{len(labels)} source samples are too few to estimate label shift with batches of "
            f"{chosen.config.batch_size}: lower --batch-size, or use --label-shift ignore"
        )
    config = replace(chosen.config, feature_map=False, evaluate_every=chosen.steps, checkpoint_every=chosen.steps)
    common = {
        "steps": chosen.steps,
        "seed": seed,
        "config": config,
        "device": chosen.device,
        "precision": chosen.precision,
    }
    Trainer(copied, Subset(data.source, kept), data.target, trade_off=0.0, log_mmd=False, **common).train()
    on_held = predict(copied, Subset(data.source, held), start=data.start_stage)[0].logits
    on_target = predict(copied, data.target, start=data.start_stage)[0].logits
    return shift_from_outputs(on_held, labels[held], on_target, labels, method, audit_labels, cap, seed)


def shift_from_outputs(
    held_logits: Tensor,
    held_labels: Tensor,
    target_logits: Tensor,
    source_labels: Tensor,
    method: str = "mlls",
    audit_labels: Tensor | None = None,
    cap: float = CAP,
    seed: int = 0,
) -> LabelShift:
    """The same from the outputs of a source-only network: logits of held-out source (N, C) and of the target (M, C).

    source_labels: of the whole source, whose shares the weights are relative to.
    """
    calibration = fit_bias_corrected(held_logits, held_labels)
    on_held, on_target = calibration.probabilities(held_logits), calibration.probabilities(target_logits)
    found = estimate_shares(on_held, held_labels, on_target, method=method, seed=seed)
    of_source = class_shares(source_labels, on_target.shape[1])
    if audit_labels is not None and len(audit_labels):
        centres = torch.stack([of_source, found.shares, bbse(on_held, held_labels, on_target)])
        found = posterior_shares(audit_labels, centres, of_source, seed=seed)
    shares = replace(found, source_shares=of_source)
    weights = shares.weights.clamp(max=cap)
    weights = weights / (weights * of_source).sum()
    absent = [c for c in range(len(weights)) if of_source[c] > 0 and float(shares.high[c]) < 0.1 * float(of_source[c])]
    return LabelShift(shares=shares, weights=weights.float(), absent=tuple(absent))
