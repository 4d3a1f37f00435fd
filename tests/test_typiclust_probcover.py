"""TypiClust and ProbCover against their definitions as loops, the best cover by brute force, and planted pools."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch.nn.functional import normalize

import active.strategies.typiclust_probcover as module
from active import Query
from active.strategies.coreset import k_center_greedy
from active.strategies.kmeans import kmeans
from active.strategies.typiclust_probcover import (
    ask_probcover,
    ask_typiclust,
    neighbour_distance,
    probcover,
    pure_radius,
    typiclust,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def blobs(sizes, f=8, spread=0.1, seed=0):
    """That many rows around each axis, and which axis each is from."""
    truth = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return torch.eye(f, dtype=torch.float64)[truth] + spread * normal(len(truth), f, seed=seed), truth


def distances(x, y):
    return torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")


def plain_neighbour_distance(x, count):
    """Sorted distances to the others, a sample at a time."""
    d = distances(x, x)
    means = []
    for i in range(len(x)):
        nearest = sorted(float(d[i, j]) for j in range(len(x)) if j != i)[:count]
        means.append(sum(nearest) / len(nearest) if nearest else 0.0)
    return means


def plain_typiclust(x, labelled, labels, budget):
    """The picks for given clusters: fewest labels, then largest, small ones last; at most half as neighbours."""
    given = len(labelled)
    size = labels.bincount().tolist()
    have = labels[:given].bincount(minlength=len(size)).tolist()
    free = {k: [i for i in range(len(x)) if labels[given + i] == k] for k in range(len(size))}
    picks = []
    while len(picks) < min(budget, len(x)):
        k = min((k for k in free if free[k]), key=lambda k: (size[k] <= 5, have[k], -size[k], k))
        typical = plain_neighbour_distance(x[free[k]], max(1, min(20, len(free[k]) // 2)))
        picks.append(free[k].pop(typical.index(min(typical))))
        have[k] += 1
    return picks


def plain_probcover(x, labelled, budget, delta):
    """The greedy cover with its whole graph."""
    ball = distances(x, x) < delta
    uncovered = torch.ones(len(x), dtype=torch.bool)
    if len(labelled):
        uncovered &= ~(distances(x, labelled) < delta).any(1)
    picks = []
    while len(picks) < budget and bool(uncovered.any()):
        gain = (ball & uncovered).sum(1).tolist()
        picks.append(gain.index(max(gain)))
        uncovered &= ~ball[picks[-1]]
    return picks


@pytest.mark.parametrize("count", [1, 3, 20, 99])
@pytest.mark.parametrize("block", [1, 2**22])
def test_mean_distance_to_the_nearest(count, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
    x = normal(30, 4) + 100
    found = neighbour_distance(x, count)
    torch.testing.assert_close(found, torch.tensor(plain_neighbour_distance(x, count), dtype=torch.float64))
    torch.testing.assert_close(neighbour_distance(x.float(), count).double(), found, rtol=1e-3, atol=1e-3)
    assert neighbour_distance(x[:1], count).tolist() == [0.0]


@pytest.mark.parametrize("labelled", [0, 9])
@pytest.mark.parametrize("budget", [1, 5, 17, 60, 70])
def test_typiclust_is_the_plain_one_on_the_same_clusters(labelled, budget):
    rows = normal(60 + labelled, 3)
    given, x = rows[:labelled], rows[labelled:]
    labels = kmeans(rows, min(labelled + min(budget, 60), len(rows)), generator=seeded(2)).labels
    picks = typiclust(x, given if labelled else None, budget, generator=seeded(2))
    assert picks.tolist() == plain_typiclust(x, given, labels, budget)
    assert len(picks.unique()) == min(budget, 60)


def test_typiclust_with_fewer_clusters_than_labels_goes_round(monkeypatch):
    """At the limit on clusters each of them gives a second sample before any gives a third."""
    monkeypatch.setattr(module, "MAX_CLUSTERS", 3)
    x, truth = blobs([20, 30, 25])
    picks = typiclust(x, None, 8, generator=seeded())
    assert truth[picks].tolist() == [1, 2, 0, 1, 2, 0, 1, 2]
    labels = kmeans(x, 3, generator=seeded()).labels
    assert picks.tolist() == plain_typiclust(x, x[:0], labels, 8)


def test_typiclust_asks_the_densest_of_the_largest_blobs_that_have_no_label():
    x, truth = blobs([40, 30, 20, 10])
    labelled = x[truth == 0][:1]
    pool, truth = x[1:], truth[1:]
    query = Query(ids=torch.arange(99) + 100, features=5 * pool, labelled_features=labelled)
    rows = ask_typiclust(query, 3, generator=seeded()) - 100
    assert truth[rows].tolist() == [1, 2, 3]
    unit = normalize(pool, dim=1)
    for k, row in zip([1, 2, 3], rows.tolist(), strict=True):
        of = (truth == k).nonzero()[:, 0]
        typical = plain_neighbour_distance(unit[of], min(20, len(of) // 2))
        assert row == int(of[typical.index(min(typical))])
    cold = ask_typiclust(replace(query, labelled_features=None), 4, generator=seeded()) - 100
    assert sorted(truth[cold].tolist()) == [0, 1, 2, 3]


def test_typiclust_leaves_outliers_for_last():
    """Five far points make clusters of their own, and are small."""
    x, truth = blobs([20, 20, 1, 1, 1], spread=0.02)
    labelled = x[:0]
    rows = typiclust(x, labelled, 5, generator=seeded())
    assert set(truth[rows].tolist()) <= {0, 1}
    everyone = typiclust(x, None, 43, generator=seeded())
    assert len(everyone.unique()) == 43


@pytest.mark.parametrize("purity", [1.0, 0.95, 0.8, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_radius_is_the_largest_that_is_pure_enough(purity, dtype):
    x = normal(60, 2).to(dtype)
    labels = kmeans(x, 4, generator=seeded()).labels
    delta = pure_radius(x, labels, purity=purity)
    d = distances(x, x)
    other = labels[:, None] != labels

    def share(radius):
        return float((~((d < radius) & other).any(1)).double().mean())

    slack = 1e-5 if dtype == torch.float32 else 1e-9
    assert share(delta - slack) >= purity - 1e-12
    assert share(delta + slack) < purity
    grid = sorted(set(d[other].tolist()))  # purity can change only there
    best = max(radius for radius in grid if share(radius) >= purity - 1e-12)
    assert delta == pytest.approx(best, abs=slack)


def test_the_radius_of_some_rows_and_of_one_label():
    x = normal(40, 3)
    labels = (x[:, 0] > 0).long()
    rows = torch.tensor([4, 9, 30])
    nearest = [min(float((x[i] - x[j]).norm()) for j in range(40) if labels[j] != labels[i]) for i in rows.tolist()]
    assert pure_radius(x, labels, purity=1.0, rows=rows) == pytest.approx(min(nearest))
    assert pure_radius(x, labels, purity=0.5, rows=rows) == pytest.approx(sorted(nearest)[1])
    assert pure_radius(x, torch.zeros(40), purity=0.95) == float("inf")


@pytest.mark.parametrize("labelled", [0, 6])
@pytest.mark.parametrize("delta", [0.05, 0.5, 1.0, 3.0, 50.0])
@pytest.mark.parametrize("block", [1, 2**22])
def test_probcover_is_the_plain_one(labelled, delta, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
    rows = normal(50 + labelled, 3)
    given, x = rows[:labelled], rows[labelled:]
    for budget in (0, 1, 7, 60):
        picks = probcover(x, given if labelled else None, budget, delta)
        assert picks.tolist() == plain_probcover(x, given, budget, delta)
    assert probcover(x.float(), given.float(), 7, delta).tolist() == plain_probcover(x, given, 7, delta)


def test_probcover_reaches_the_share_of_the_best_cover_that_greedy_promises():
    for seed in range(8):
        x = normal(12, 2, seed=seed)
        ball = distances(x, x) < 0.8
        greedy = int(ball[probcover(x, None, 3, 0.8)].any(0).sum())
        best = max(int(ball[list(rows)].any(0).sum()) for rows in combinations(range(12), 3))
        assert best >= greedy >= (1 - (1 - 1 / 3) ** 3) * best


def test_distances_that_round_differently_end():
    """A grid, where thousands of distances are the radius itself."""
    axis = torch.arange(12).float() / 10
    x = torch.cartesian_prod(axis, axis)
    picks = probcover(x, None, 1000, 0.1)
    assert len(picks) == len(picks.unique()) <= 144
    ball = distances(x, x) < 0.1 + 1e-4
    assert bool(ball[picks].any(0).all())


def test_probcover_asks_one_of_each_planted_blob_the_largest_first():
    x, truth = blobs([40, 30, 20, 10])
    query = Query(ids=torch.arange(100) + 100, features=3 * x, probs=torch.full((100, 4), 0.25))
    assert truth[ask_probcover(query, 4, generator=seeded()) - 100].tolist() == [0, 1, 2, 3]
    with_label = replace(query, labelled_features=x[truth == 1][:1])
    assert truth[ask_probcover(with_label, 3, generator=seeded()) - 100].tolist() == [0, 2, 3]
    assert sorted(ask_probcover(query, 200, generator=seeded()).tolist()) == query.ids.tolist()


def test_what_is_covered_is_followed_by_the_farthest():
    x, truth = blobs([30, 30])
    labelled = normalize(x[[0, 31]], dim=1)
    unit = normalize(x, dim=1)
    labels = kmeans(torch.cat((unit, labelled)), 2, generator=seeded()).labels
    delta = pure_radius(torch.cat((unit, labelled)), labels)
    cover = plain_probcover(unit, labelled, 10, delta)
    assert len(cover) < 6
    left = [i for i in range(60) if i not in cover]
    rest = k_center_greedy(unit[left], torch.cat((labelled, unit[cover])), 6 - len(cover))
    query = Query(ids=torch.arange(60), features=x, labelled_features=x[[0, 31]], probs=torch.full((60, 2), 0.5))
    rows = ask_probcover(query, 6, generator=seeded())
    assert rows.tolist() == cover + [left[i] for i in rest.tolist()]


@pytest.mark.parametrize(
    ("fields", "classes"),
    [
        ({"probs": torch.full((50, 5), 0.2)}, 5),
        ({"logits": torch.zeros(50, 3)}, 3),
        ({"source_targets": torch.arange(40) % 4}, 4),
        ({"labelled_targets": torch.tensor([0, 6, 6])}, 2),
        ({"source_targets": torch.zeros(9), "labelled_targets": torch.arange(3)}, 3),
        ({}, 6),  # as many as there will be labels
    ],
)
def test_as_many_pseudo_labels_as_classes(fields, classes, monkeypatch):
    counts = []

    def counting(x, count, **options):
        counts.append(count)
        return kmeans(x, count, **options)

    monkeypatch.setattr(module, "kmeans", counting)
    query = Query(ids=torch.arange(50), features=normal(50, 4), **fields)
    assert len(ask_probcover(query, 6, generator=seeded()).unique()) == 6
    assert counts == [classes]


def test_a_large_pool_is_judged_by_a_sample_from_the_generator(monkeypatch):
    monkeypatch.setattr(module, "PURITY_SAMPLE", 10)
    judged = []

    def watching(x, labels, **options):
        judged.append(options["rows"].tolist())
        return pure_radius(x, labels, **options)

    monkeypatch.setattr(module, "pure_radius", watching)
    query = Query(ids=torch.arange(50), features=normal(50, 4), probs=torch.full((50, 3), 1 / 3))
    for seed in (0, 0, 1):
        ask_probcover(query, 5, generator=seeded(seed))
    assert judged[0] == judged[1] != judged[2]
    assert len(set(judged[0])) == 10


@pytest.mark.parametrize("ask", [ask_typiclust, ask_probcover])
def test_edges(ask):
    query = Query(ids=torch.arange(30) + 7, features=normal(30, 4))
    scale = 10 ** torch.empty(30, 1, dtype=torch.float64).uniform_(-2, 2, generator=seeded(1))
    scaled = ask(replace(query, features=query.features * scale), 5, generator=seeded())
    assert torch.equal(scaled, ask(query, 5, generator=seeded()))  # lengths of features decide nothing
    assert ask(query, 0, generator=seeded()).shape == (0,)
    with pytest.raises(ValueError, match="budget must be"):
        ask(query, -1, generator=seeded())
    broken = query.features.clone()
    broken[4, 2] = float("nan")
    with pytest.raises(ValueError, match="sample 11"):
        ask(replace(query, features=broken), 3, generator=seeded())
    with pytest.raises(ValueError, match="labelled_features holds NaN"):
        ask(replace(query, labelled_features=broken[4:6]), 3, generator=seeded())
    zeros = replace(query, features=torch.zeros(30, 4))
    assert len(ask(zeros, 12, generator=seeded()).unique()) == 12
