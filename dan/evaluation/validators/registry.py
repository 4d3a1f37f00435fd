"""The validators by name: what each is, needs, and comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dan.errors import UserError, nearest
from dan.evaluation.validators.inputs import ValidatorInputs
from dan.evaluation.validators.probing_rules import circular, mixed_samples
from dan.evaluation.validators.source_rules import (
    deep_embedded,
    importance_weighted,
    source_risk,
    thresholded_confidence,
    two_sample,
)
from dan.evaluation.validators.target_rules import (
    entropy,
    information_maximisation,
    matrix_norm,
    nuclear_norm,
    soft_neighbourhood_density,
)


@dataclass(frozen=True)
class Validator:
    """score: higher is better. line: what it is. needs: the fields of `ValidatorInputs` that must be there. source."""

    score: Callable[[ValidatorInputs], float]
    line: str
    needs: tuple[str, ...]
    source: str


TARGET = ("target_logits",)
LABELLED = ("source_logits", "source_labels")
BOTH = (*LABELLED, "source_features", "target_features")

VALIDATORS: dict[str, Validator] = {
    "entropy": Validator(entropy, "negative mean entropy of target predictions", TARGET, "Morerio et al., ICLR 2018"),
    "information": Validator(
        information_maximisation, "entropy of the mean prediction minus mean entropy", TARGET, "Musgrave et al., 2021"
    ),
    "nuclear_norm": Validator(
        nuclear_norm, "normalised nuclear norm of target predictions", TARGET, "Deng et al., ICML 2023"
    ),
    "snd": Validator(
        soft_neighbourhood_density, "soft neighbourhood density of target predictions", TARGET,
        "Saito et al., ICCV 2021, eq. 2",
    ),
    "mano": Validator(matrix_norm, "L4 norm of normalised target logits", TARGET, "Xie et al., NeurIPS 2024, eq. 2"),
    "source_risk": Validator(source_risk, "negative error on held-out source", LABELLED, "no adaptation"),
    "two_sample": Validator(
        two_sample, "negative source error and A-distance", BOTH, "Long et al., ICML 2015, section 4.1"
    ),
    "iwcv": Validator(
        importance_weighted, "negative source error weighted by density ratios", BOTH, "Sugiyama et al., JMLR 2007"
    ),
    "dev": Validator(
        deep_embedded, "the same with a control variate", BOTH, "You et al., ICML 2019"
    ),
    "atc": Validator(
        thresholded_confidence, "share of target samples above the confidence threshold of the source", LABELLED,
        "Garg et al., ICLR 2022",
    ),
    "mixval": Validator(
        mixed_samples, "consistency of predictions for mixed target samples", (*TARGET, "mixed_logits"),
        "Hu et al., NeurIPS 2023",
    ),
    "circular": Validator(
        circular, "source accuracy of a classifier trained on target predictions",
        ("source_labels", "reverse_prediction"), "Bruzzone & Marconcini, TPAMI 2010",
    ),
}  # fmt: skip


def available(inputs: ValidatorInputs) -> list[str]:
    """The names of the validators whose needs these inputs meet, in the order of VALIDATORS."""
    return [name for name, v in VALIDATORS.items() if all(getattr(inputs, field) is not None for field in v.needs)]


def validate(inputs: ValidatorInputs, names: Iterable[str] | None = None) -> dict[str, float]:
    """The score of each validator named; None: of all that are `available`. Higher is better in each.

    Raises UserError for an unknown name, and ValueError where inputs lack what a named validator needs.
    """
    chosen = available(inputs) if names is None else list(names)
    for name in chosen:
        if name not in VALIDATORS:
            raise UserError(f'unknown validator "{name}"{nearest(name, VALIDATORS)}: one of {", ".join(VALIDATORS)}')
    return {name: VALIDATORS[name].score(inputs) for name in chosen}
