"""Sampling by cluster: against plain loops over the same clusters, and on planted pools."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize

from active import Query
from active.strategies.clusters import (
    ask_clusters,
    ask_uncertain_cluster,
    ask_uncertain_then_diverse,
    by_uncertain_cluster,
    cluster_sample,
    in_turns,
    uncertain_rows,
)
from active.strategies.kmeans import kmeans


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def directions(sizes, f=6, spread=0.05, seed=0):
    """Rows around orthogonal directions, that many of each, of various lengths: (N, F) and the direction of each."""
    generator = seeded(seed)
    truth = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    x = torch.eye(f, dtype=torch.float64)[truth]
    x = x + spread * torch.randn(len(x), f, generator=generator, dtype=torch.float64)
    return x * (1 + torch.rand(len(x), 1, generator=generator, dtype=torch.float64)), truth


def confident(values):
    """Two-class probabilities whose margin of confidence is these values."""
    values = torch.as_tensor(values, dtype=torch.float64)
    return torch.stack((1 - values / 2, values / 2), dim=1)


def test_a_centre_an_outlier_and_a_random_member_of_each_cluster_the_largest_first():
    x, truth = directions([9, 15, 6])
    picks = cluster_sample(x, 9, generator=seeded())
    centres = normalize(torch.stack([normalize(x[truth == k], dim=1).sum(0) for k in range(3)]), dim=1)
    cosine = cosine_similarity(x, centres[truth])
    by_size = [1, 0, 2]
    of = [[i for i in range(30) if truth[i] == k] for k in range(3)]
    assert picks[:3].tolist() == [max(of[k], key=lambda i: cosine[i]) for k in by_size]
    assert picks[3:6].tolist() == [min(of[k], key=lambda i: cosine[i]) for k in by_size]
    assert truth[picks[6:]].tolist() == by_size
    assert len(picks.unique()) == 9
    randoms = {tuple(cluster_sample(x, 9, generator=seeded(seed))[6:].tolist()) for seed in range(8)}
    assert len(randoms) > 4
    for seed in range(3):
        assert torch.equal(cluster_sample(x, 9, generator=seeded(seed))[:6], picks[:6])


@pytest.mark.parametrize("sizes", [[1, 1, 12], [2, 1, 1], [5, 5, 5, 5]])
def test_every_budget_is_filled_without_repeats(sizes):
    """A cluster of one is its own centre and outlier; of two it has no random member."""
    x, truth = directions(sizes)
    n = len(x)
    for budget in range(n + 3):
        for count in (None, len(sizes)):
            picks = cluster_sample(x, budget, generator=seeded(), count=count)
            assert len(picks) == len(picks.unique()) == min(budget, n)
    shares = truth[cluster_sample(x, 2 * len(sizes), generator=seeded(), count=len(sizes))].bincount()
    assert all(shares[k] >= min(sizes[k], 2) for k in range(len(sizes)))


def test_random_members_are_uniform():
    x, truth = directions([20], spread=0.3)
    generator, counts, draws = seeded(), torch.zeros(20), 200
    for _ in range(draws):
        counts[cluster_sample(x, 5, generator=generator, count=1)] += 1
    always = counts == draws
    assert int(always.sum()) == 2  # the centre and the outlier
    share = 3 / 18
    assert bool(((counts[~always] - draws * share).abs() < 5 * math.sqrt(draws * share * (1 - share))).all())


def test_lengths_of_features_decide_nothing():
    x, _ = directions([9, 7, 5], spread=0.3)
    scale = 10 ** torch.empty(len(x), 1, dtype=torch.float64).uniform_(-2, 2, generator=seeded(1))
    assert torch.equal(cluster_sample(x * scale, 8, generator=seeded()), cluster_sample(x, 8, generator=seeded()))


def test_more_clusters_change_who_is_asked():
    x, truth = directions([9, 7, 5])
    assert sorted(truth[cluster_sample(x, 3, generator=seeded(), count=3)].tolist()) == [0, 1, 2]
    one = cluster_sample(x, 3, generator=seeded(), count=1)
    assert one.tolist() != cluster_sample(x, 3, generator=seeded(), count=3).tolist()


def test_taking_turns_as_a_loop():
    for seed in range(20):
        groups = torch.randint(5, (30,), generator=seeded(seed))
        place = torch.randperm(5, generator=seeded(seed + 100))
        left = {k: [i for i in range(30) if groups[i] == k] for k in range(5)}
        expected = []
        while any(left.values()):
            for k in sorted(left, key=lambda k: int(place[k])):
                if left[k]:
                    expected.append(left[k].pop(0))
        assert in_turns(groups, place).tolist() == expected


def test_the_uncertain_are_a_tenth_or_three_times_the_budget():
    scores = torch.rand(205, generator=seeded())
    order = sorted(range(205), key=lambda i: -scores[i])
    assert uncertain_rows(scores, 4).tolist() == order[:21]
    assert uncertain_rows(scores, 10).tolist() == order[:30]
    assert len(uncertain_rows(scores, 150)) == 205


def test_uncertain_then_diverse_spreads_over_the_uncertain_only():
    """A plain margin would take one clump; here both uncertain clumps are asked, and nobody else."""
    x, truth = directions([8, 8, 200])
    doubt = torch.tensor([0.9, 0.8, 0.1], dtype=torch.float64)[truth]
    doubt = doubt + 0.05 * torch.rand(len(x), generator=seeded(3), dtype=torch.float64)
    query = Query(ids=torch.arange(len(x)) + 500, probs=confident(doubt), features=x)
    for seed in range(5):
        rows = ask_uncertain_then_diverse(query, 6, generator=seeded(seed)) - 500
        shortlist = uncertain_rows(doubt, 6)
        assert set(rows.tolist()) <= set(shortlist.tolist())
        assert {0, 1} <= set(truth[rows].tolist())
    assert set(truth[uncertain_rows(doubt, 0)[:6]].tolist()) == {0}
    everyone = ask_uncertain_then_diverse(query, 216, generator=seeded())
    assert sorted(everyone.tolist()) == query.ids.tolist()


def test_clusters_by_mean_uncertainty_as_a_loop():
    for seed in range(10):
        scores = torch.rand(40, generator=seeded(seed), dtype=torch.float64)
        labels = torch.randint(6, (40,), generator=seeded(seed + 50)) * 2  # some clusters are empty
        order = torch.randperm(40, generator=seeded(seed + 90))
        mean = {k: float(scores[labels == k].mean()) for k in labels.unique().tolist()}
        expected = []
        for k in sorted(mean, key=lambda k: -mean[k]):
            expected += [int(i) for i in order if labels[i] == k]
        assert by_uncertain_cluster(scores, labels, order).tolist() == expected
    assert by_uncertain_cluster(torch.ones(4), torch.tensor([1, 0, 1, 0]), torch.arange(4)).tolist() == [1, 3, 0, 2]


def test_the_most_uncertain_cluster_comes_first_and_then_the_next():
    """Twenty clusters, planted; one sample elsewhere is the most uncertain of all, and its cluster is not."""
    x, truth = directions([6] * 20, f=20, spread=0.02)
    mean = torch.linspace(0.2, 0.8, 20, dtype=torch.float64)[torch.randperm(20, generator=seeded(2))]
    doubt = mean[truth].clone()
    lowest = int(mean.argmin())
    doubt[truth == lowest] = 0.0
    doubt[(truth == lowest).nonzero()[0, 0]] = 1.0
    query = Query(ids=torch.arange(120), probs=confident(doubt), features=x)
    found = kmeans(x, 20, generator=seeded(), cosine=True)
    assert all(len(found.labels[truth == k].unique()) == 1 for k in range(20))  # the clusters are the planted ones
    ranked = sorted(range(20), key=lambda k: -float(doubt[truth == k].mean()))
    rows = ask_uncertain_cluster(query, 9, generator=seeded())
    assert truth[rows].tolist() == [ranked[0]] * 6 + [ranked[1]] * 3
    assert any(not torch.equal(ask_uncertain_cluster(query, 9, generator=seeded(seed)), rows) for seed in range(1, 4))


@pytest.mark.parametrize("ask", [ask_clusters, ask_uncertain_then_diverse, ask_uncertain_cluster])
def test_edges(ask):
    x, _ = directions([9, 7, 5])
    query = Query(ids=torch.arange(21) + 7, probs=confident(torch.full((21,), 0.5)), features=x)
    assert ask(query, 0, generator=seeded()).shape == (0,)
    assert sorted(ask(query, 50, generator=seeded()).tolist()) == query.ids.tolist()
    with pytest.raises(ValueError, match="budget must be"):
        ask(query, -1, generator=seeded())
    broken = x.clone()
    broken[4, 2] = float("nan")
    with pytest.raises(ValueError, match="sample 11"):
        ask(replace(query, features=broken), 3, generator=seeded())


@pytest.mark.parametrize("ask", [ask_uncertain_then_diverse, ask_uncertain_cluster])
def test_probabilities_that_are_none_are_named(ask):
    x, _ = directions([9, 7, 5])
    probs = confident(torch.full((21,), 0.5))
    probs[3] = 1.0
    with pytest.raises(ValueError, match="sample 3: .* is no distribution"):
        ask(Query(ids=torch.arange(21), probs=probs, features=x), 3, generator=seeded())
