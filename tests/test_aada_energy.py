"""AADA and EADA's sampling: the definitions as loops, their limits, and what each step may leave out."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from active import Query
from active.strategies.aada_energy import (
    aada,
    ask_aada,
    ask_energy,
    free_energy,
    highest_energy_then_smallest_gap,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_aada_is_its_definition():
    probs, d = normal(20, 5).softmax(1), normal(20, seed=1).sigmoid()
    for row in range(20):
        entropy = -sum(p * math.log(p) for p in probs[row].tolist()) / math.log(5)
        expected = (1 - d[row].item()) / d[row].item() * entropy
        assert aada(probs, d)[row].item() == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(aada(probs.float(), d.float()), aada(probs, d), atol=1e-6, rtol=1e-5)


def test_aada_is_the_entropy_where_the_domains_are_as_likely():
    probs = torch.full((1, 4), 0.25).double()
    assert aada(probs, torch.tensor([0.5])).item() == pytest.approx(1)
    assert aada(probs, torch.tensor([0.2])).item() == pytest.approx(4)  # four times likelier in the target


def test_aada_rises_with_the_target_and_with_the_entropy():
    probs = normal(1, 4).softmax(1)
    scores = aada(probs.expand(99, 4), torch.arange(1, 100).double() / 100)
    assert bool((scores.diff() < 0).all())
    share = torch.linspace(0, 1, 21, dtype=torch.float64)[:, None]
    flatter = (1 - share) * torch.eye(4, dtype=torch.float64)[2] + share / 4
    assert bool((aada(flatter, torch.full((21,), 0.3)).diff() > 0).all())


def test_aada_of_a_certain_discriminator_is_finite_and_still_orders_by_entropy():
    probs = torch.tensor([[0.9, 0.1], [0.6, 0.4], [1.0, 0.0]]).double()
    for certain in (0.0, 1.0):
        scores = aada(probs, torch.full((3,), certain))
        assert bool(scores.isfinite().all())
        assert scores[1] > scores[0] > scores[2] == 0
    factor = aada(probs, torch.zeros(3), eps=0.01) / aada(probs, torch.full((3,), 0.5))
    torch.testing.assert_close(factor[:2], torch.full((2,), 99.0).double())  # (1 - eps) / eps


@pytest.mark.parametrize("eps", [0.0, 0.5, -1, float("nan")])
def test_aada_refuses_an_eps_that_clamps_nothing_or_all(eps):
    with pytest.raises(ValueError, match="eps"):
        aada(torch.full((1, 2), 0.5), torch.tensor([0.5]), eps=eps)


def test_aada_refuses_other_shapes():
    with pytest.raises(ValueError, match="one number a row"):
        aada(torch.full((3, 2), 0.5), torch.full((2,), 0.5))


@pytest.mark.parametrize("bad", [-0.1, 1.1])
def test_aada_names_a_sample_whose_domain_probability_is_none(bad):
    query = Query(
        ids=torch.tensor([9, 4, 6]), probs=torch.full((3, 2), 0.5), domain_probs=torch.tensor([0.5, bad, 0.5])
    )
    with pytest.raises(ValueError, match=r"domain_probs of sample 4\b"):
        ask_aada(query, 1, generator=torch.Generator())
    with pytest.raises(ValueError, match="row 1 of domain_probs"):
        aada(query.probs, query.domain_probs)


def test_aada_asks_for_target_like_and_unsure_samples():
    probs = torch.tensor([[0.5, 0.5], [0.99, 0.01], [0.5, 0.5], [0.99, 0.01]])
    query = Query(ids=torch.tensor([40, 10, 30, 20]), probs=probs, domain_probs=torch.tensor([0.1, 0.1, 0.9, 0.9]))
    assert ask_aada(query, 4, generator=torch.Generator()).tolist() == [40, 10, 30, 20]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_free_energy_is_its_definition_and_stays_finite(temperature):
    logits = normal(10, 4)
    for row, value in zip(logits.tolist(), free_energy(logits, temperature=temperature).tolist(), strict=True):
        assert value == pytest.approx(-temperature * math.log(sum(math.exp(x / temperature) for x in row)))
    torch.testing.assert_close(
        free_energy(logits + 1e4, temperature=temperature), free_energy(logits, temperature=temperature) - 1e4
    )
    # Nearly cold it is the lowest class energy.
    torch.testing.assert_close(free_energy(logits, temperature=1e-6), -logits.amax(1))


def two_steps(logits, budget, share, temperature):
    """The definition, one sample after the other."""
    energy, gap = [], []
    for row in logits.tolist():
        energy.append(-temperature * math.log(sum(math.exp(x / temperature) for x in row)))
        lowest, second = sorted(-x for x in row)[:2]
        gap.append(second - lowest)
    n = len(energy)
    kept = sorted(range(n), key=lambda i: (-energy[i], i))[: max(min(budget, n), math.ceil(share * n))]
    return sorted(kept, key=lambda i: (gap[i], i))[:budget]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(0, 25),
    st.sampled_from([0.125, 0.5, 0.75, 1.0]),
    st.sampled_from([0.5, 1.0, 4.0]),
)
def test_two_steps_are_their_definition(seed, budget, share, temperature):
    logits = 3 * normal(20, 4, seed=seed)
    rows = highest_energy_then_smallest_gap(logits, budget, share=share, temperature=temperature)
    assert rows.tolist() == two_steps(logits, budget, share, temperature)


def test_the_first_step_leaves_out_what_is_known_however_small_its_gap():
    """Rows 0 and 1 tie between two classes of low energy: certainly known, just not which. EADA asks for neither."""
    logits = torch.tensor([[30.0, 30.0, 0.0], [20.0, 20.0, 0.0], [1.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    assert highest_energy_then_smallest_gap(logits, 2).tolist() == [2, 3]
    assert highest_energy_then_smallest_gap(logits, 2, share=1.0).tolist() == [0, 1]


def test_the_share_kept_is_never_below_the_budget():
    logits = 3 * normal(30, 4)
    assert sorted(highest_energy_then_smallest_gap(logits, 30, share=0.01).tolist()) == list(range(30))
    kept = highest_energy_then_smallest_gap(logits, 7, share=0.01)
    assert sorted(kept.tolist()) == sorted(free_energy(logits).argsort(descending=True)[:7].tolist())


def test_a_share_of_a_round_number_is_exact():
    """0.07 x 100 is 7.000000000000001 in binary: seven are kept, not eight."""
    logits = torch.stack((-torch.arange(100.0), torch.zeros(100)), 1) - torch.arange(100.0)[:, None]
    kept = highest_energy_then_smallest_gap(logits.flip(0), 7, share=0.07)
    assert sorted(kept.tolist()) == list(range(7))


def test_the_temperature_decides_which_are_kept():
    """Hot, many middling classes are much energy taken together; cold, the best class alone decides."""
    logits = torch.tensor([[3.0, 0.0, 0.0, 0.0, 0.0], [2.5, 2.4, 2.3, 2.2, 2.1]])
    assert highest_energy_then_smallest_gap(logits, 1, share=0.5, temperature=10.0).tolist() == [0]
    assert highest_energy_then_smallest_gap(logits, 1, share=0.5, temperature=0.01).tolist() == [1]


def test_equal_logits_tie_to_the_lowest_id():
    query = Query(ids=torch.tensor([5, 3, 9, 1]), logits=torch.ones(4, 3))
    assert ask_energy(query, 3, generator=torch.Generator()).tolist() == [1, 3, 5]


def test_the_strategy_passes_its_options_on():
    query = Query(ids=torch.arange(10, 14), logits=torch.tensor([[30.0, 30, 0], [20, 20, 0], [1, 0, 0], [2, 0, 0]]))
    assert ask_energy(query, 2, generator=torch.Generator(), share=1.0).tolist() == [10, 11]
    query = Query(ids=torch.tensor([7, 8]), logits=torch.tensor([[3.0, 0, 0, 0, 0], [2.5, 2.4, 2.3, 2.2, 2.1]]))
    assert ask_energy(query, 1, generator=torch.Generator(), temperature=10.0).tolist() == [7]
    assert ask_energy(query, 1, generator=torch.Generator(), temperature=0.01).tolist() == [8]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"share": 0.0}, "share"), ({"share": 1.5}, "share"), ({"temperature": 0.0}, "temperature")],
)
def test_options_without_a_meaning_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        highest_energy_then_smallest_gap(torch.zeros(3, 2), 1, **options)


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_fewer_than_two_classes_are_refused(shape):
    with pytest.raises(ValueError, match="at least 2 classes"):
        highest_energy_then_smallest_gap(torch.zeros(shape), 1)
