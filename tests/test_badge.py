"""BADGE against k-means++ on the materialised gradient embeddings, with the same draws."""

import itertools

import pytest
import torch

import active.strategies.badge as gradients
from active import Query
from active.strategies.badge import ask_badge, badge


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def embeddings(probs, features):
    """(p - onehot(argmax)) outer features, written out: (N, C F) in float64."""
    rows = []
    for p, h in zip(probs.double(), features.double(), strict=True):
        a = p.clone()
        a[int(p.argmax())] -= 1
        rows.append(torch.outer(a, h).flatten())
    return torch.stack(rows)


def plain(probs, features, budget, draws):
    """k-means++ as it stands, from the row of the largest norm; each next row by one draw in the running sum of D^2."""
    g = embeddings(probs, features)
    chosen = [int(g.square().sum(1).argmax())]
    while len(chosen) < min(budget, len(g)):
        d2 = torch.stack([(g - g[row]).square().sum(1) for row in chosen]).amin(0).tolist()
        sums = list(itertools.accumulate(d2))
        at = draws[len(chosen) - 1] * sums[-1]
        chosen.append(next(row for row, total in enumerate(sums) if total > at))
    return chosen


def the_draws(budget, seed):
    return torch.rand(budget - 1, generator=generator(seed), dtype=torch.float64).tolist()


def samples(kind, n, c, f, seed, dtype=torch.float64):
    g = generator(seed)
    features = torch.randn(n, f, generator=g, dtype=torch.float64)
    logits = torch.randn(n, c, generator=g, dtype=torch.float64)
    if kind == "confident":
        logits *= 12
    elif kind == "flat":
        logits *= 1e-3
    elif kind == "relu":
        features = features.relu()
    elif kind == "far from the origin":
        features += 100
    elif kind == "near twins":
        features = features[: n // 2].repeat(2, 1)[:n] + 1e-7 * features
        logits = logits[: n // 2].repeat(2, 1)[:n]
    return logits.softmax(1).to(dtype), features.to(dtype)


@pytest.mark.parametrize("kind", ["normal", "confident", "flat", "relu", "far from the origin", "near twins"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_k_means_plus_plus_on_the_materialised_embedding(kind, dtype):
    for seed, (n, c, f, budget) in enumerate([(60, 2, 3, 20), (80, 5, 7, 80 // 2), (40, 12, 1, 10)]):
        probs, features = samples(kind, n, c, f, seed, dtype)
        picks = badge(probs, features, budget, generator(seed))
        assert picks.dtype == torch.long
        assert picks.tolist() == plain(probs, features, budget, the_draws(budget, seed))


def test_distances_are_those_of_the_outer_products_where_they_cancel():
    """Twins 1e-9 apart in either factor: float64 keeps nine digits of a distance that the product form loses whole."""
    probs, features = samples("normal", 6, 4, 5, 0)
    probs = torch.cat((probs, probs + 1e-9 * torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)))
    features = torch.cat((features, features * (1 + 1e-9)))
    state = gradients._Gradients(probs, features)
    g = embeddings(probs, features)
    for row in range(6):
        everyone = torch.arange(12)
        found = state.distances(everyone, torch.tensor(row))
        assert float(found[row]) == 0
        torch.testing.assert_close(found, (g - g[row]).square().sum(1), rtol=1e-6, atol=0)


def test_most_samples_are_spared_the_distance(monkeypatch):
    """The bounds do their work: far fewer distances than the N budget of one a sample and pick."""
    seen = []
    plainly = gradients._Gradients.distances

    def counting(self, rows, pick):
        seen.append(len(rows))
        return plainly(self, rows, pick)

    monkeypatch.setattr(gradients._Gradients, "distances", counting)
    probs, features = samples("relu", 2000, 10, 16, 0, torch.float32)
    badge(probs, features, 100, generator())
    assert 2000 <= sum(seen) < 2000 * 100 / 5


def test_blocks_and_wider_products_change_nothing(monkeypatch):
    probs, features = samples("relu", 150, 4, 6, 0, torch.float32)
    expected = badge(probs, features, 40, generator())
    monkeypatch.setattr(gradients, "CHUNK", 7)
    assert torch.equal(badge(probs, features, 40, generator()), expected)
    monkeypatch.setattr(gradients, "full_precision", lambda device: False)
    assert torch.equal(badge(probs, features, 40, generator()), expected)


def test_the_second_pick_has_the_probability_of_its_squared_distance():
    """800 draws of a second pick; five standard deviations for each of six rows."""
    probs, features = samples("normal", 6, 3, 4, 1)
    g = embeddings(probs, features)
    first = int(g.square().sum(1).argmax())
    share = (g - g[first]).square().sum(1)
    share /= share.sum()
    source, draws = generator(), 800
    counts = torch.zeros(6)
    for _ in range(draws):
        picks = badge(probs, features, 2, source).tolist()
        assert picks[0] == first
        counts[picks[1]] += 1
    assert bool(((counts - draws * share).abs() <= 5 * (draws * share * (1 - share)).sqrt()).all())


def test_a_draw_falls_on_rows_that_have_a_share():
    shares = torch.tensor([0.0, 1.0, 0.0, 3.0, 0.0], dtype=torch.float64)
    drawn = [int(gradients._drawn(shares, draw)) for draw in (0.0, 0.24, 0.25, 0.99, 1 - 2.0**-53, 1.0)]
    assert drawn == [1, 1, 3, 3, 3, 3]


def test_rows_of_no_gradient_come_last_and_by_the_lowest():
    """One-hot rows are one point: at most one is drawn while others are left, and the rest are filled in order."""
    probs, features = samples("normal", 10, 3, 4, 2)
    certain = torch.tensor([0, 3, 4, 8, 9])
    probs[certain] = torch.eye(3, dtype=torch.float64)[certain % 3]
    for seed in range(20):
        picks = badge(probs, features, 10, generator(seed)).tolist()
        assert sorted(picks) == [*range(10)]
        of_those = [row for row in picks[:6] if row in certain.tolist()]
        assert len(of_those) == 1
        assert picks[6:] == [row for row in certain.tolist() if row not in of_those]
    everything = torch.eye(3)[torch.arange(7) % 3]
    assert badge(everything, torch.ones(7, 2), 5, generator()).tolist() == [0, 1, 2, 3, 4]
    assert badge(torch.full((4, 2), 0.5), torch.ones(4, 2), 9, generator()).tolist() == [0, 1, 2, 3]
    assert badge(torch.full((4, 2), 0.5), torch.zeros(4, 2), 2, generator()).tolist() == [0, 1]


def test_scaling_the_features_changes_nothing():
    probs, features = samples("relu", 80, 5, 7, 3)
    picks = badge(probs, features, 30, generator())
    for scale in (2.0**-300, 2.0**300):
        assert torch.equal(badge(probs, scale * features, 30, generator()), picks)
    narrow = badge(probs.float(), features.float(), 30, generator())
    for scale in (2.0**-70, 2.0**70):  # squares leave the range of float32
        assert torch.equal(badge(probs.float(), scale * features.float(), 30, generator()), narrow)


def test_renumbering_the_classes_changes_nothing():
    probs, features = samples("normal", 60, 6, 4, 4)
    order = torch.randperm(6, generator=generator())
    assert torch.equal(badge(probs[:, order], features, 25, generator(1)), badge(probs, features, 25, generator(1)))


@pytest.mark.parametrize(
    ("probs", "features", "budget", "message"),
    [
        (torch.full((3, 2), 0.5), torch.zeros(4, 2), 1, "of 3 samples"),
        (torch.full((3, 2), 0.5), torch.zeros(3), 1, "of 3 samples"),
        (torch.full((3, 2), 0.7), torch.zeros(3, 2), 1, "no distribution"),
        (torch.full((3, 2), 0.5), torch.zeros(3, 2), -1, "budget must be"),
        (torch.full((2, 2), 0.5), torch.tensor([[0.0], [float("nan")]]), 1, "row 1 of features"),
        (torch.full((2, 2), 0.5), torch.tensor([[float("inf")], [0.0]]), 1, "row 0 of features"),
    ],
)
def test_what_cannot_work_is_refused(probs, features, budget, message):
    with pytest.raises(ValueError, match=message):
        badge(probs, features, budget, generator())


def test_budget_zero_and_an_empty_pool_are_empty():
    assert badge(torch.full((3, 2), 0.5), torch.zeros(3, 2), 0, generator()).shape == (0,)
    assert badge(torch.full((0, 2), 0.5), torch.zeros(0, 2), 5, generator()).shape == (0,)


def test_the_strategy_speaks_of_ids_and_changes_nothing():
    probs, features = samples("normal", 30, 4, 5, 5)
    order = torch.randperm(30, generator=generator())
    query = Query(ids=500 + order, probs=probs[order], features=features[order])
    before = probs.clone()
    picks = ask_badge(query, 9, generator=generator(2))
    assert torch.equal(picks, 500 + badge(probs, features, 9, generator(2)))
    assert torch.equal(probs, before)
    bad = probs.clone()
    bad[3] *= 2
    with pytest.raises(ValueError, match="sample 503"):
        ask_badge(Query(ids=500 + torch.arange(30), probs=bad, features=features), 9, generator=generator())
