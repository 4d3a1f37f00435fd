"""Planted label shift, missing classes and unknown classes are told; domains without any are passed in silence."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from dan.evaluation.label_shift import warnings_of


def labels(shares: list[float], n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(torch.tensor(shares), n, replacement=True, generator=generator)


def predictions(y: Tensor, c: int, *, sure: float = 0.9, scatter: float = 0.05, seed: int = 0) -> Tensor:
    """(N, C): class y with a probability around `sure`, the rest shared evenly."""
    top = sure + scatter * (2 * torch.rand(len(y), 1, generator=torch.Generator().manual_seed(seed)) - 1)
    return top * one_hot(y, c) + (1 - top) * (1 - one_hot(y, c)) / (c - 1)


EVEN = [0.25] * 4


@pytest.mark.parametrize(("n", "m", "c"), [(500, 500, 4), (2000, 40, 4), (60, 60, 31), (12, 12, 3), (300, 5, 10)])
def test_silence_where_nothing_shifts(n: int, m: int, c: int) -> None:
    warned = 0
    for seed in range(60):
        y_source, y_target = labels([1 / c] * c, n, seed), labels([1 / c] * c, m, seed + 1000)
        lines = warnings_of(
            y_source,
            predictions(y_target, c, seed=seed),
            source_probs=predictions(y_source, c, seed=seed + 1),
        )
        warned += bool(lines)
    assert warned == 0


def test_label_shift_is_told_with_its_classes() -> None:
    y_source, y_target = labels(EVEN, 400), labels([0.7, 0.1, 0.15, 0.05], 300)
    (line,) = warnings_of(y_source, predictions(y_target, 4), classes=["bike", "bus", "car", "tram"])
    p, q = torch.bincount(y_source) / 400, torch.bincount(y_target) / 300
    assert f"by {float((p - q).abs().sum() / 2):.0%} (total variation)" in line
    assert f"bike, {float(q[0]):.0%} predicted against {float(p[0]):.0%} of the source" in line
    assert f"tram, {float(q[3]):.0%} against {float(p[3]):.0%}" in line
    (unnamed,) = warnings_of(y_source, predictions(y_target, 4))
    assert "most of all 0, " in unnamed


def test_both_size_and_significance_are_needed() -> None:
    far = [0.45, 0.25, 0.2, 0.1]
    assert warnings_of(labels(EVEN, 1000), predictions(labels(far, 1000), 4))
    assert not warnings_of(labels(EVEN, 12), predictions(labels(far, 12, 1), 4))  # far, but 12 samples scatter as far
    near = [0.27, 0.27, 0.23, 0.23]
    assert not warnings_of(labels(EVEN, 100_000), predictions(labels(near, 100_000), 4))  # significant, but small
    assert warnings_of(labels(EVEN, 100_000), predictions(labels(near, 100_000), 4), share_limit=0.02)
    assert not warnings_of(labels(EVEN, 1000), predictions(labels(far, 1000), 4), share_limit=0.5)
    assert not warnings_of(labels(EVEN, 60), predictions(labels(far, 60, 2), 4), significance=1e-12)


def test_a_class_that_the_target_lacks() -> None:
    shares = [0.3, 0.3, 0.3, 0.1]
    y_target = labels([1.0, 1.0, 1.0, 0.0], 200)
    (line,) = warnings_of(labels(shares, 500), predictions(y_target, 4), classes=["a", "b", "c", "d"])
    assert "of the 200 target samples none is predicted as d (" in line
    # Of ten samples none is of a class of 10 % one time in three: that says nothing.
    assert not warnings_of(labels(shares, 500), predictions(y_target[:10], 4))
    # A class that the source lacks too is not missed.
    assert not warnings_of(labels([1.0, 1.0, 1.0, 0.0], 500), predictions(y_target, 4))


def test_many_missing_classes_are_counted() -> None:
    lines = warnings_of(labels([1.0] * 20, 4000), predictions(labels([1.0] * 10 + [0.0] * 10, 2000), 20))
    assert any("none is predicted as 10, 11, 12, 13, 14 and 5 more (" in line for line in lines)
    assert any("total variation" in line for line in lines)


def test_unknown_classes_lower_the_confidence() -> None:
    y_source, y_target = labels(EVEN, 300), labels(EVEN, 300, 1)
    held_out = predictions(y_source, 4)
    known = predictions(y_target, 4, seed=5)
    unknown = predictions(y_target, 4, sure=0.4, seed=5)
    mixed = torch.where(torch.arange(300)[:, None] % 2 == 0, known, unknown)  # every other one is of no known class
    assert not warnings_of(y_source, known, source_probs=held_out)
    (line,) = warnings_of(y_source, mixed, source_probs=held_out)
    assert "less sure of the target than of held-out source samples: 65% on average against 90%" in line
    share = float((mixed.amax(1) < torch.quantile(held_out.amax(1), 0.05)).double().mean())
    assert share >= 0.5 and f"and {share:.0%} of the target lie below" in line
    assert not warnings_of(y_source, mixed)  # not judged without the source's
    assert not warnings_of(y_source, mixed, source_probs=held_out, confidence_limit=0.3)
    assert not warnings_of(y_source, predictions(y_target, 4, sure=0.95), source_probs=held_out)  # surer is no sign


def test_a_drop_within_its_error_is_no_sign() -> None:
    y = labels(EVEN, 6)
    lines = warnings_of(
        y, predictions(y, 4, sure=0.6, scatter=0.35), source_probs=predictions(y, 4, sure=0.72, scatter=0.25, seed=1)
    )
    assert lines == []


def test_one_class_in_the_source() -> None:
    lines = warnings_of(torch.zeros(50, dtype=torch.long), predictions(torch.ones(50, dtype=torch.long), 2))
    assert len(lines) == 2  # all shares moved, and its only class is never predicted


def test_the_same_twice() -> None:
    arguments = labels(EVEN, 100), predictions(labels([0.9, 0.1, 0, 0], 100), 4)
    assert warnings_of(*arguments) == warnings_of(*arguments) != []


def test_bad_input() -> None:
    y, probs = labels(EVEN, 20), predictions(labels(EVEN, 20), 4)
    with pytest.raises(ValueError, match="row 2 of target_probs is no distribution"):
        warnings_of(y, torch.cat([probs[:2], probs[2:] * 7]))
    with pytest.raises(ValueError, match="row 0 of source_probs"):
        warnings_of(y, probs, source_probs=probs * torch.nan)
    with pytest.raises(ValueError, match="class indices 0 .. 3"):
        warnings_of(y + 1, probs)
    with pytest.raises(ValueError, match="class indices"):
        warnings_of(y.double(), probs)
    with pytest.raises(ValueError, match="3 names were given for 4 classes"):
        warnings_of(y, probs, classes=["a", "b", "c"])
    with pytest.raises(ValueError, match="of the same classes, not 5 and 4"):
        warnings_of(y, probs, source_probs=predictions(y, 5))
    with pytest.raises(ValueError, match="N >= 1"):
        warnings_of(y[:0], probs)
    with pytest.raises(ValueError, match="N >= 1"):
        warnings_of(y, probs[:0])
