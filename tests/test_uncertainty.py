"""Uncertainty scores against the book's worked example, their bounds and their symmetries."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from active import Query
from active.strategies.uncertainty import (
    ask_highest,
    at_temperature,
    entropy,
    highest_first,
    least_confidence,
    margin_of_confidence,
    ratio_of_confidence,
)
from active.strategies.validation import check_probabilities

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
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("classes", [2, 3, 31, 345])
def test_softmax_in_half_precision_is_a_distribution(score, dtype, classes):
    """Rounded to 8 bits, the values of a row sum to 1 within 2^-8: a share of 2^-8 of each at most."""
    logits = 3 * torch.randn(3000, classes, generator=torch.Generator().manual_seed(classes))
    probs = logits.to(dtype).softmax(1)
    assert dtype != torch.bfloat16 or (probs.double().sum(1) - 1).abs().max() > 1e-3
    exact = score(probs.double() / probs.double().sum(1, keepdim=True))
    torch.testing.assert_close(score(probs).double(), exact, atol=0.03, rtol=0)
    torch.testing.assert_close(score(probs.float()).double(), exact, atol=0.02, rtol=0)
    with pytest.raises(ValueError, match="is no distribution"):
        score(probs.float() * 1.01)


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


@settings(max_examples=50, deadline=None)
@given(
    logits=st.integers(2, 6).flatmap(
        lambda c: st.lists(st.lists(st.floats(-60, 60), min_size=c, max_size=c), min_size=1, max_size=5)
    ),
    temperature=st.floats(0.05, 50),
)
def test_a_temperature_is_that_of_the_softmax(logits, temperature):
    logits = torch.tensor(logits, dtype=torch.float64)
    expected = (logits / temperature).softmax(dim=1)
    torch.testing.assert_close(at_temperature(logits.softmax(dim=1), temperature), expected, atol=1e-12, rtol=1e-9)
    single = at_temperature(logits.softmax(dim=1).float(), temperature)
    assert single.dtype == torch.float32
    # Probabilities below 1e-38 are lost in float32; at temperature T they were below 1e-38 ** (1 / T).
    torch.testing.assert_close(
        single.double(), expected, atol=1e-5 + logits.shape[1] * 1e-38 ** (1 / temperature), rtol=0
    )


def test_a_probability_of_zero_stays_zero_at_every_temperature():
    probs = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.25, 0.75]])
    for temperature in (1e-300, 1e-3, 1.0, 1e3, 1e300):
        scaled = at_temperature(probs, temperature)
        assert bool(scaled.isfinite().all())
        assert scaled[:, 0].tolist() == [0, 0]
        torch.testing.assert_close(scaled.sum(1), torch.ones(2))
    torch.testing.assert_close(at_temperature(probs, 1e9)[1], torch.tensor([0.0, 0.5, 0.5]))
    assert torch.equal(at_temperature(probs, 1e-9)[1], torch.tensor([0.0, 0.0, 1.0]))
    assert at_temperature(probs.half(), 2.0).dtype == torch.float32


def test_temperatures_multiply():
    probs = torch.randn(8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).softmax(1)
    torch.testing.assert_close(at_temperature(at_temperature(probs, 2.0), 3.0), at_temperature(probs, 6.0))
    torch.testing.assert_close(at_temperature(probs, 1.0), probs)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_without_a_meaning_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature"):
        at_temperature(torch.tensor([[0.5, 0.5]]), temperature)
    with pytest.raises(ValueError, match="temperature"):
        ask_highest(entropy, temperature)


def test_probabilities_for_a_temperature_are_checked():
    with pytest.raises(ValueError, match=r"^row 1 of probs"):
        at_temperature(torch.tensor([[0.5, 0.5], [0.5, 0.6]]), 2.0)


@each_score
def test_a_strategy_asks_at_its_temperature(score):
    logits = 4 * torch.randn(200, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    query = Query(ids=10 + torch.arange(200), probs=logits.softmax(1))
    generator = torch.Generator()
    plain = ask_highest(score)(query, 200, generator=generator)
    hot = ask_highest(score, temperature=8.0)(query, 200, generator=generator)
    assert torch.equal(hot, query.ids[highest_first(score((logits / 8).softmax(1)), 200)])
    # p2 / p1 at T is (p2 / p1) ** (1 / T): of the four, only this one keeps its order.
    assert torch.equal(hot, plain) == (score is ratio_of_confidence)
