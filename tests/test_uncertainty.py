"""Uncertainty scores against the book's worked example, their bounds and their symmetries."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from active.strategies.uncertainty import (
    check_probabilities,
    entropy,
    highest_first,
    least_confidence,
    margin_of_confidence,
    ratio_of_confidence,
)

SCORES = [least_confidence, margin_of_confidence, ratio_of_confidence, entropy]
each_score = pytest.mark.parametrize("score", SCORES, ids=lambda score: score.__name__)


@pytest.mark.parametrize(
    ("score", "value"), [(SCORES[0], 0.4748), (SCORES[1], 0.5930), (SCORES[2], 0.3679), (SCORES[3], 0.6835)]
)
def test_the_books_example(score, value):
    probs = torch.tensor([[0.0321, 0.6439, 0.0871, 0.2369]], dtype=torch.float64)
    assert score(probs).item() == pytest.approx(value, abs=5e-5)


def test_formulas_over_three_classes():
    a, b, c = 0.5, 0.3, 0.2
    probs = torch.tensor([[b, c, a]], dtype=torch.float64)
    assert least_confidence(probs).item() == pytest.approx((1 - a) * 3 / 2)
    assert margin_of_confidence(probs).item() == pytest.approx(1 - (a - b))
    assert ratio_of_confidence(probs).item() == pytest.approx(b / a)
    bits = -sum(p * math.log2(p) for p in (a, b, c))
    assert entropy(probs).item() == pytest.approx(bits / math.log2(3))


@each_score
@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_certain_is_zero_and_uniform_is_one(score, classes, dtype):
    certain = torch.eye(classes, dtype=dtype)[:5]
    assert torch.equal(score(certain), torch.zeros(len(certain), dtype=dtype))
    uniform = torch.full((2, classes), 1 / classes, dtype=dtype)
    torch.testing.assert_close(score(uniform), torch.ones(2, dtype=dtype))


@each_score
@settings(max_examples=50, deadline=None)
@given(
    logits=st.integers(2, 6).flatmap(
        lambda c: st.lists(st.lists(st.floats(-60, 60), min_size=c, max_size=c), min_size=1, max_size=5)
    ),
    single=st.booleans(),
)
def test_bounded_and_blind_to_the_numbering_of_classes(score, logits, single):
    probs = torch.tensor(logits, dtype=torch.float32 if single else torch.float64).softmax(dim=1)
    value = score(probs)
    assert value.shape == (len(probs),)
    assert value.dtype == probs.dtype
    assert bool(((value >= 0) & (value <= 1)).all())
    assert torch.equal(score(probs.flip(1)), value)
    assert torch.equal(score(probs.roll(1, 1)), value)


@each_score
def test_grows_along_the_line_from_certain_to_uniform(score):
    share = torch.linspace(0, 1, 21, dtype=torch.float64)[:, None]
    probs = (1 - share) * torch.eye(4, dtype=torch.float64)[2] + share / 4
    assert bool((score(probs).diff() > 0).all())


@each_score
def test_half_precision_is_scored_in_float32(score):
    probs = torch.tensor([[2.0, 1.0, 0.5], [0.0, 0.0, 0.0]]).softmax(dim=1)
    assert score(probs.half()).dtype == torch.float32
    torch.testing.assert_close(score(probs.half()), score(probs), atol=5e-3, rtol=0)


@each_score
def test_no_samples_have_no_scores(score):
    assert score(torch.empty(0, 3)).shape == (0,)


@each_score
@pytest.mark.parametrize(
    "bad", [[0.5, 0.6], [0.5, 0.4], [1.2, -0.2], [float("nan"), 1.0], [float("inf"), 0.0]], ids=str
)
def test_a_row_that_is_no_distribution_is_named(score, bad):
    probs = torch.tensor([[0.5, 0.5], [1.0, 0.0], bad, bad])
    with pytest.raises(ValueError, match=r"^row 2 of probs: .* is no distribution"):
        score(probs)
    with pytest.raises(ValueError, match="probs of sample 77"):
        check_probabilities(probs, ids=torch.tensor([5, 6, 77, 8]))


@each_score
@pytest.mark.parametrize("shape", [(4, 1), (4,), (2, 2, 2), (0, 1)])
def test_fewer_than_two_classes_or_another_shape_is_an_error(score, shape):
    with pytest.raises(ValueError, match="at least 2 classes"):
        score(torch.ones(shape))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=30), st.integers(0, 35))
def test_highest_first_with_ties_to_the_lowest_row(values, budget):
    rows = highest_first(torch.tensor(values, dtype=torch.float32), budget)
    assert rows.tolist() == sorted(range(len(values)), key=lambda row: (-values[row], row))[:budget]
