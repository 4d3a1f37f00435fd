"""Which setting or model is kept: named rules on records; the one that reads target labels is called oracle.

Shapes: N, M samples; F features; C classes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dan.errors import UserError, nearest


def information(probs: Tensor) -> Tensor:
    """H(mean_i p_i) - mean_i H(p_i): predictions that are sure one by one and spread over the classes together.

    probs (N, C) of unlabelled target samples -> scalar in [0, log C], nats; higher is better. It is the mutual
    information between sample and predicted class; it cannot see a consistent confusion of two classes, and
    assumes that the target holds all classes.
    Source: Bridle et al., NIPS 1991; as a label-free rule for adaptation, Musgrave et al., 2021.
    """

    def entropy(p: Tensor) -> Tensor:
        return -(p * p.clamp_min(1e-30).log()).sum(-1)

    return entropy(probs.mean(0)) - entropy(probs).mean()


def two_sample_error(source_features: Tensor, target_features: Tensor, *, seed: int = 0) -> float:
    """The held-out error of a linear classifier that tells source (N, F) from target (M, F): (1 - A / 2) / 2.

    In [0, 1], the domains counting the same: 0 where they are told apart without error, 1/2 by chance, around which it
    scatters. A is `dan.mmd.a_distance`, in two halves of which each is held out once. Raises ValueError as that does.
    """
    from dan.mmd import a_distance

    return (1 - a_distance(source_features, target_features, folds=2, seed=seed) / 2) / 2


def label_free_score(source_error: float, two_sample_error: float) -> float:
    """err_source + max(0, 1 - 2 err_two_sample), in [0, 2]; lower is better.

    source_error: of the class labels, on source samples held out from training; two_sample_error: of the domains, on
    samples held out from the domain classifier. The paper "jointly assesses" both errors and gives no formula. A plain
    sum has the wrong sign: domains that cannot be told apart have the high two-sample error of 1/2. So it is the half
    of their A-distance that is added. Errors above 1/2 are chance, and no better than 1/2.

    Raises ValueError for errors outside [0, 1].
    Source: Long et al., ICML 2015, section 4.1; the sign is our reading.
    """
    for name, error in (("source", source_error), ("two-sample", two_sample_error)):
        if not 0 <= error <= 1:
            raise ValueError(f"the {name} error must be in [0, 1], not {error}")
    return source_error + max(0.0, 1 - 2 * two_sample_error)


@dataclass(frozen=True)
class Rule:
    """One way to choose among evaluations.

    key: the field of a record that decides; better: whether "highest" or "lowest" of it is kept, or the "last" record.
    selection: what tables say: "last", "source", "label_free" or "oracle".
    """

    line: str
    selection: str
    key: str | None = None
    better: str = "last"


RULES: dict[str, Rule] = {
    "last": Rule("the last evaluation: nothing is chosen", "last"),
    "source": Rule("the highest accuracy on held-out source samples", "source", "accuracy/source_test", "highest"),
    "two_sample": Rule(
        "the paper's: lowest source error + max(0, 1 - 2 two-sample error)",
        "label_free",
        "label_free/two_sample",
        "lowest",
    ),
    "information": Rule(
        "the most information in the target's predictions", "label_free", "label_free/information", "highest"
    ),
    "oracle": Rule(
        "ORACLE, reads target labels: the highest accuracy on the target", "oracle", "accuracy/target", "highest"
    ),
}


def choose(records: Sequence[Mapping[str, Any]], rule: str = "last") -> dict[str, Any]:
    """The evaluation that a rule of RULES keeps, with what to call it in a table under "selection".

    records: of one run, or of several one after the other, such as one a setting; what is no evaluation (settings, the
    mark of the end) is passed over. Of equals the later one is kept: it has seen more of the alignment.

    Raises UserError for an unknown rule, no evaluation, or an evaluation without a finite value of what the rule looks
    at: those that lack it can't be compared with those that have it.
    """
    if rule not in RULES:
        raise UserError(f'unknown rule "{rule}"{nearest(rule, RULES)}: one of {", ".join(RULES)}')
    entry = RULES[rule]
    evaluations = [record for record in records if record.get("event", "evaluation") == "evaluation"]
    if not evaluations:
        raise UserError("there is no evaluation to choose among: train first, or name another run")
    best = evaluations[-1]
    if entry.key is not None:
        values = [record.get(entry.key) for record in evaluations]
        for record, value in zip(evaluations, values, strict=True):
            if not isinstance(value, (int, float)) or not math.isfinite(value):
                step = f" of step {record['step']}" if "step" in record else ""
                raise UserError(
                    f'the rule "{rule}" needs {entry.key} in every evaluation, and that{step} has {value}: '
                    "measure it, or choose by another rule"
                )
        sign = 1 if entry.better == "highest" else -1
        # Of equals, max keeps the first that it meets: the last.
        best = max(zip(reversed(values), reversed(evaluations), strict=True), key=lambda pair: sign * pair[0])[1]
    return {**best, "selection": entry.selection}
