"""CLUE: entropies in closed form, who is nearest as a loop, and what weights and temperature do on planted pools."""

import math
from dataclasses import replace

import pytest
import torch

import active.strategies.clue as module
from active import Query
from active.strategies.clue import ask_clue, clue, nearest_free, tempered_entropy


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def test_entropies_in_closed_form():
    p = torch.tensor([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]], dtype=torch.float64)
    expected = [-sum(q * math.log(q) for q in (0.5, 0.3, 0.2)), 0.0, math.log(3)]
    assert tempered_entropy(p.log()).tolist() == pytest.approx(expected)
    root = [math.sqrt(q) for q in (0.5, 0.3, 0.2)]
    root = [q / sum(root) for q in root]
    assert float(tempered_entropy(p[:1].log(), 2.0)) == pytest.approx(-sum(q * math.log(q) for q in root))


def test_temperature_flattens():
    logits = normal(20, 5) * 3
    values = torch.stack([tempered_entropy(logits, t) for t in (0.01, 0.1, 1.0, 10.0, 1e4)])
    assert bool((values.diff(dim=0) >= -1e-12).all())
    assert float(values[0].max()) < 0.7 and bool((values[-1] > math.log(5) - 1e-6).all())
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="temperature must be"):
            tempered_entropy(logits, bad)


@pytest.mark.parametrize("kind", ["random", "crowded centres", "integer ties", "equal"])
@pytest.mark.parametrize("block", [1, 2**20])
def test_nearest_free_as_a_loop(kind, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
    x, centres = normal(40, 3), normal(15, 3, seed=1)
    if kind == "crowded centres":
        centres = 0.01 * centres + x[7]
    elif kind == "integer ties":
        x, centres = (2 * x).round(), (2 * centres).round()
    elif kind == "equal":
        x, centres = torch.ones(40, 3, dtype=torch.float64), torch.ones(15, 3, dtype=torch.float64)
    free, expected = list(range(40)), []
    for c in centres:
        d2 = {i: float((x[i] - c).square().sum()) for i in free}
        least = min(d2.values())
        expected.append(min(i for i in free if d2[i] <= least + 1e-12))
        free.remove(expected[-1])
    found = nearest_free(x, centres)
    if kind == "integer ties":  # among equally near rows the rounding of a product may choose
        assert len(found.unique()) == 15
        assert [float((x[i] - c).norm()) for i, c in zip(found[:1], centres[:1], strict=True)] == pytest.approx(
            [float((x[i] - c).norm()) for i, c in zip(expected[:1], centres[:1], strict=True)]
        )
    else:
        assert found.tolist() == expected


def test_far_from_the_origin_the_nearest_is_still_found():
    x = normal(50, 4).float() + 1000
    centres = x[[3, 17, 41]]
    assert nearest_free(x, centres).tolist() == [3, 17, 41]
    with pytest.raises(ValueError, match="4 centres cannot have a row each of 3"):
        nearest_free(x[:3], x[:4])


def test_the_centres_of_planted_blobs_are_asked_for_the_heaviest_first():
    truth = torch.arange(4).repeat_interleave(torch.tensor([10, 20, 5, 15]))
    x = 10 * torch.eye(4, dtype=torch.float64)[truth] + 0.2 * normal(50, 4)
    weights = torch.tensor([1.0, 0.3, 4.0, 0.5], dtype=torch.float64)[truth]  # masses 10, 6, 20, 7.5
    picks = clue(x, weights, 4, generator=seeded())
    assert truth[picks].tolist() == [2, 0, 3, 1]
    for k, pick in zip([2, 0, 3, 1], picks.tolist(), strict=True):
        of = (truth == k).nonzero()[:, 0]
        centre = x[of].mean(0)
        assert pick == int(of[(x[of] - centre).norm(dim=1).argmin()])


def test_weights_pull_the_picks_to_the_uncertain():
    """One broad cloud: equal weights ask near its mean, weights on one side ask there."""
    x = normal(200, 2)
    side = (x[:, 0] > 0.5).double()
    plain = clue(x, torch.ones(200), 1, generator=seeded())
    pulled = clue(x, side + 1e-6, 1, generator=seeded())
    mean = x[side == 1].mean(0)
    assert float((x[pulled] - mean).norm()) < 0.3 < float((x[plain] - mean).norm())
    assert torch.equal(
        clue(x, torch.zeros(200), 5, generator=seeded()), clue(x, torch.ones(200), 5, generator=seeded())
    )
    assert torch.equal(clue(x, 7 * side + 1, 5, generator=seeded()), clue(x, 14 * side + 2, 5, generator=seeded()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_budget_is_filled_without_repeats(dtype):
    x = normal(12, 2).to(dtype)
    x[5:] = x[5]  # eight equal rows
    weights = torch.rand(12, generator=seeded()).to(dtype)
    for budget in range(15):
        picks = clue(x, weights, budget, generator=seeded())
        assert len(picks) == len(picks.unique()) == min(budget, 12)
    assert torch.equal(clue(normal(12, 2), weights, 12, generator=seeded()), weights.argsort(descending=True))
    with pytest.raises(ValueError, match="budget must be"):
        clue(x, weights, -1, generator=seeded())


def query(logits, features):
    return Query(ids=torch.arange(len(logits)) + 50, probs=logits.softmax(1), logits=logits, features=features)


def test_logits_are_taken_where_there_are_some_and_say_the_same_as_probs():
    given = query(3 * normal(60, 4), normal(60, 5, seed=1))
    without = replace(given, logits=None)
    for temperature in (0.3, 1.0, 4.0):
        one = ask_clue(given, 8, generator=seeded(), temperature=temperature)
        assert torch.equal(one, ask_clue(without, 8, generator=seeded(), temperature=temperature))
    # Probabilities in float32 that have lost what the logits still know.
    logits = torch.zeros(60, 4, dtype=torch.float64)
    logits[:, 0] = torch.linspace(200, 900, 60, dtype=torch.float64)
    sure = query(logits, given.features)
    hot = ask_clue(sure, 8, generator=seeded(), temperature=200.0)
    lost = replace(sure, probs=sure.probs.float().double(), logits=None)
    assert not torch.equal(hot, ask_clue(lost, 8, generator=seeded(), temperature=200.0))


def test_a_low_temperature_asks_for_the_unsure_and_a_high_one_for_everything():
    logits = torch.zeros(120, 3, dtype=torch.float64)
    unsure = torch.arange(120) < 20
    logits[~unsure, 0] = 4.0
    features = torch.where(unsure[:, None], 1.0, -1.0) + 1.5 * normal(120, 2)
    share = {
        t: float(unsure[ask_clue(query(logits, features), 6, generator=seeded(), temperature=t) - 50].double().mean())
        for t in (0.1, 100.0)
    }
    assert share[0.1] > share[100.0]
    assert torch.equal(
        ask_clue(query(logits, features), 6, generator=seeded()),
        ask_clue(query(logits, features), 6, generator=seeded(), temperature=1.0),
    )


def test_bad_input_is_named_by_its_id():
    good = query(normal(10, 3), normal(10, 4, seed=1))
    bad = good.features.clone()
    bad[6, 1] = float("nan")
    with pytest.raises(ValueError, match="features of sample 56"):
        ask_clue(replace(good, features=bad), 3, generator=seeded())
    logits = good.logits.clone()
    logits[2, 1] = float("inf")
    with pytest.raises(ValueError, match="logits of sample 52"):
        ask_clue(replace(good, logits=logits), 3, generator=seeded())
    with pytest.raises(ValueError, match="sample 50: .* is no distribution"):
        ask_clue(replace(good, probs=good.logits), 3, generator=seeded())
