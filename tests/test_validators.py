"""Rules on fabricated records, whose right choice is known; the label-free score on features aligned and not."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dan.errors import UserError
from dan.evaluation.validators import RULES, choose, information, label_free_score, two_sample_error
from dan.mmd import a_distance


def record(step: int, **fields: float) -> dict[str, Any]:
    names = {
        "source": "accuracy/source_test",
        "target": "accuracy/target",
        "two_sample": "label_free/two_sample",
        "information": "label_free/information",
    }
    return {"event": "evaluation", "step": step, **{names[name]: value for name, value in fields.items()}}


RECORDS = [
    {"event": "settings", "seed": 1},
    record(100, source=0.90, target=0.50, two_sample=0.30, information=1.0),
    record(200, source=0.95, target=0.60, two_sample=0.40, information=1.4),
    record(300, source=0.93, target=0.80, two_sample=0.50, information=1.2),
    record(400, source=0.91, target=0.70, two_sample=0.45, information=1.1),
    {"event": "done", "step": 400},
]


@pytest.mark.parametrize(
    ("rule", "step"), [("last", 400), ("source", 200), ("two_sample", 100), ("information", 200), ("oracle", 300)]
)
def test_each_rule_keeps_its_own(rule: str, step: int) -> None:
    chosen = choose(RECORDS, rule)
    assert chosen["step"] == step
    assert {name: chosen[name] for name in RECORDS[step // 100]} == RECORDS[step // 100]  # nothing else is changed
    assert chosen["selection"] == {"last": "last", "source": "source", "oracle": "oracle"}.get(rule, "label_free")


def test_only_the_oracle_reads_target_labels_and_says_so() -> None:
    """Whatever the target's labels are: no other rule chooses differently."""
    for rule, entry in RULES.items():
        turned = [{**r, "accuracy/target": 1 - r["accuracy/target"]} if "accuracy/target" in r else r for r in RECORDS]
        without = [{k: v for k, v in r.items() if k != "accuracy/target"} for r in RECORDS]
        if rule == "oracle":
            assert entry.selection == "oracle" and "ORACLE, reads target labels" in entry.line
            assert choose(turned, rule)["step"] == 100
        else:
            assert "ORACLE" not in entry.line
            assert choose(turned, rule)["step"] == choose(without, rule)["step"] == choose(RECORDS, rule)["step"]


def test_every_rule_is_documented() -> None:
    page = (Path(__file__).parents[1] / "docs" / "validators.md").read_text(encoding="utf-8")
    rows = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("| `")}
    for name, entry in RULES.items():
        assert rows[f"`{name}`"].rstrip(" |").endswith(f"`{entry.selection}`")
        assert entry.key is None or f"`{entry.key}`" in rows[f"`{name}`"]


def test_the_default_chooses_nothing() -> None:
    assert choose(RECORDS)["step"] == 400


def test_of_equals_the_later_is_kept() -> None:
    assert choose([record(1, source=0.9), record(2, source=0.9), record(3, source=0.8)], "source")["step"] == 2
    assert choose([record(1, two_sample=0.5), record(2, two_sample=0.5)], "two_sample")["step"] == 2


def test_settings_are_chosen_as_steps_are() -> None:
    ends = [{**record(400, information=value), "trade_off": t} for t, value in ((0.1, 0.3), (1.0, 1.5), (3.0, 0.9))]
    assert choose(ends, "information")["trade_off"] == 1.0
    assert choose([{"label_free/information": 1.0}], "information")["selection"] == "label_free"  # no event: one record


def test_bad_records() -> None:
    with pytest.raises(UserError, match='unknown rule "orakel" .did you mean "oracle"'):
        choose(RECORDS, "orakel")
    with pytest.raises(UserError, match="no evaluation to choose among"):
        choose(RECORDS[:1], "last")
    with pytest.raises(
        UserError, match=r"needs label_free/two_sample in every evaluation, and that of step 2 has None"
    ):
        choose([record(1, two_sample=0.5), record(2, source=0.9)], "two_sample")
    with pytest.raises(UserError, match="of step 2 has nan"):
        choose([record(1, information=0.5), record(2, information=math.nan)], "information")


# The paper's rule


def features(shift: float, seed: int, n: int = 200) -> Tensor:
    return torch.randn(n, 8, generator=torch.Generator().manual_seed(seed)) + shift


def test_two_sample_error_is_half_by_chance_and_none_apart() -> None:
    assert two_sample_error(features(0, 0), features(0, 1)) == pytest.approx(0.5, abs=0.08)
    assert two_sample_error(features(0, 0), features(4, 1)) == pytest.approx(0, abs=0.01)
    between = two_sample_error(features(0, 0), features(0.3, 1))
    assert 0.05 < between < 0.45
    # The best linear classifier of N(0, I) and N(s 1, I) errs with Phi(-s sqrt(F) / 2).
    best = 0.5 * math.erfc(0.3 * math.sqrt(8) / 2 / math.sqrt(2))
    assert between == pytest.approx(best, abs=0.07)
    assert a_distance(features(0, 0), features(0.3, 1), seed=0) == pytest.approx(2 * (1 - 2 * between))


def test_two_sample_error_is_held_out_balanced_and_reproducible() -> None:
    wide = [torch.randn(30, 200, generator=torch.Generator().manual_seed(s)) for s in (0, 1)]
    assert two_sample_error(*wide) > 0.3  # 200 features tell 60 samples apart without error, in training
    x, y = features(0, 0, 400), features(0, 1, 20)
    assert two_sample_error(x, y) == pytest.approx(0.5, abs=0.2)  # always saying "source" would err on 5 %
    assert two_sample_error(x, y, seed=3) == two_sample_error(x, y, seed=3)
    assert len({two_sample_error(x, y, seed=s) for s in range(4)}) > 1


def test_aligned_features_beat_shifted_ones_at_equal_source_error() -> None:
    aligned = two_sample_error(features(0, 0), features(0, 1))
    shifted = two_sample_error(features(0, 0), features(1, 1))
    for source_error in (0.0, 0.2, 0.9):
        assert label_free_score(source_error, aligned) < label_free_score(source_error, shifted)
        assert source_error + aligned > source_error + shifted  # a plain sum would keep the shifted ones
    assert label_free_score(0.1, aligned) < label_free_score(0.3, aligned)


def test_label_free_score_closed_forms() -> None:
    assert label_free_score(0.0, 0.5) == 0 and label_free_score(0.1, 0.7) == pytest.approx(0.1)  # chance is chance
    assert label_free_score(0.25, 0.0) == 1.25 and label_free_score(1.0, 0.0) == 2
    assert label_free_score(0.0, 0.25) == pytest.approx(0.5)
    with pytest.raises(ValueError, match=r"the source error must be in \[0, 1\], not 20"):
        label_free_score(20, 0.5)
    with pytest.raises(ValueError, match="the two-sample error must be"):
        label_free_score(0.2, math.nan)


# Information


def test_information_closed_forms() -> None:
    eye = torch.eye(4).repeat(3, 1)
    assert float(information(eye)) == pytest.approx(math.log(4))  # sure, and spread
    assert float(information(eye[:1].repeat(5, 1))) == pytest.approx(0, abs=1e-6)  # sure, of one class
    assert float(information(torch.full((5, 4), 0.25))) == pytest.approx(0, abs=1e-6)  # unsure of all
    p = torch.tensor([[0.7, 0.3], [0.2, 0.8]], dtype=torch.float64)
    mutual = sum(
        0.5 * float(p[i, c]) * math.log(float(p[i, c]) / float(p[:, c].mean())) for i in (0, 1) for c in (0, 1)
    )
    assert float(information(p)) == pytest.approx(mutual)
