"""BALD's mutual information: its definition, its closed forms and its bounds."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import active.strategies.bald as disagreement
from active import Query
from active.strategies.bald import ask_dropout_disagreement, mutual_information


def passes(t, n, c, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(t, n, c, generator=generator, dtype=torch.float64)).softmax(2)


def entropy(p):
    return -sum(x * math.log(x) for x in p if x > 0)


def looped(probs):
    t, n, c = probs.shape
    values = []
    for i in range(n):
        mean = [sum(probs[k, i, j].item() for k in range(t)) / t for j in range(c)]
        values.append(entropy(mean) - sum(entropy(probs[k, i].tolist()) for k in range(t)) / t)
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_is_its_definition_over_blocks(dtype, monkeypatch):
    probs = passes(5, 17, 4).to(dtype)
    torch.testing.assert_close(mutual_information(probs), looped(probs), atol=1e-14, rtol=1e-12)
    monkeypatch.setattr(disagreement, "BLOCK", 3 * 5 * 4)
    torch.testing.assert_close(mutual_information(probs), looped(probs), atol=1e-14, rtol=1e-12)


def test_is_the_mean_divergence_from_the_mean():
    """I = mean_t KL(p_t | mean p): another way to write it."""
    probs = passes(6, 20, 3)
    mean = probs.mean(0, keepdim=True)
    torch.testing.assert_close(mutual_information(probs), (probs * (probs / mean).log()).sum(2).mean(0))


@pytest.mark.parametrize("classes", [2, 5])
def test_passes_that_are_sure_of_all_classes_in_turn_disagree_by_log_c(classes):
    probs = torch.eye(classes)[:, None]  # pass t is sure of class t
    assert mutual_information(probs).item() == pytest.approx(math.log(classes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("times", [2, 3, 7])
def test_passes_that_agree_are_exactly_zero_however_unsure(dtype, times):
    one = passes(1, 50, 4).to(dtype)
    assert torch.equal(mutual_information(one.expand(times, 50, 4)), torch.zeros(50, dtype=torch.float64))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 5), st.integers(2, 4), st.integers(0, 10**6), st.floats(0.01, 50))
def test_bounded_and_blind_to_the_order_of_passes_and_classes(t, c, seed, scale):
    probs = passes(t, 6, c, seed=seed, scale=scale)
    information = mutual_information(probs)
    assert bool((information >= 0).all())
    assert bool((information <= min(math.log(c), math.log(t)) + 1e-12).all())
    torch.testing.assert_close(mutual_information(probs.flip(0)), information, atol=1e-11, rtol=0)
    torch.testing.assert_close(mutual_information(probs.flip(2)), information, atol=1e-11, rtol=0)


def test_asks_for_contradiction_before_doubt():
    sure = torch.tensor([0.98, 0.02])
    probs = torch.stack(
        (
            torch.stack((torch.tensor([0.5, 0.5]), sure, sure, torch.tensor([0.6, 0.4]))),
            torch.stack((torch.tensor([0.5, 0.5]), sure, sure.flip(0), torch.tensor([0.4, 0.6]))),
        )
    )
    query = Query(ids=torch.tensor([8, 6, 4, 2]), dropout_probs=probs)
    assert ask_dropout_disagreement(query, 4, generator=torch.Generator()).tolist() == [4, 2, 6, 8]


@pytest.mark.parametrize("shape", [(1, 3, 2), (0, 3, 2), (3, 2)])
def test_fewer_than_two_passes_are_refused(shape):
    with pytest.raises(ValueError, match="at least 2 passes"):
        mutual_information(torch.full(shape, 0.5))


def test_a_pass_that_is_no_distribution_is_named_by_id():
    probs = passes(3, 4, 2)
    probs[2, 1] *= 2
    query = Query(ids=torch.tensor([30, 20, 10, 0]), dropout_probs=probs)
    with pytest.raises(ValueError, match=r"sample 20\b.*no distribution"):
        ask_dropout_disagreement(query, 1, generator=torch.Generator())
    with pytest.raises(ValueError, match="row 1"):
        mutual_information(probs)


def test_no_samples_have_no_information():
    assert mutual_information(torch.empty(3, 0, 4)).shape == (0,)
