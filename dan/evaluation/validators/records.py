"""Which setting or model is kept: named rules on records; the one that reads target labels is called oracle."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dan.errors import UserError, nearest


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
