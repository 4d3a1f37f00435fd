"""k-means against Lloyd's steps as plain loops, against scikit-learn, and against what must hold of any k-means."""

import pytest
import torch

import active.strategies.kmeans as module
from active.strategies.kmeans import _plus_plus, _Rows, kmeans

both = pytest.mark.parametrize("cosine", [False, True])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def mixture(n=300, k=6, f=5, spread=0.2, seed=0, dtype=torch.float64):
    """Rows around k planted centres, and which centre each is from."""
    generator = seeded(seed)
    centres = 3 * torch.randn(k, f, generator=generator, dtype=torch.float64)
    truth = torch.randint(k, (n,), generator=generator)
    x = centres[truth] + spread * torch.randn(n, f, generator=generator, dtype=torch.float64)
    return x.to(dtype), truth


def plain_lloyd(x, start, weights, cosine):
    """The definition, a sample at a time, until nothing changes: (labels, centres)."""
    unit = [row / row.norm() if cosine else row for row in x.double()]
    centres = [c / c.norm() if cosine else c for c in start.double()]
    labels = None
    while True:
        new = [
            min(range(len(centres)), key=lambda k, row=row: float((row - centres[k]).square().sum())) for row in unit
        ]
        if new == labels:
            return labels, torch.stack(centres)
        labels = new
        for k in range(len(centres)):
            members = [i for i, label in enumerate(labels) if label == k]
            assert members, "this twin knows no empty clusters"
            mean = sum(weights[i] * unit[i] for i in members) / sum(weights[i] for i in members)
            centres[k] = mean / mean.norm() if cosine else mean


@both
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_plain_lloyd_from_the_same_start(cosine, weighted, dtype):
    x, _ = mixture(n=120, k=4, spread=2.0, dtype=dtype)
    weights = torch.rand(120, generator=seeded(1), dtype=torch.float64) + 0.1 if weighted else None
    start = x[[3, 50, 77, 100]]
    found = kmeans(x, 4, generator=seeded(), weights=weights, cosine=cosine, start=start, tolerance=0.0)
    labels, centres = plain_lloyd(x, start, torch.ones(120) if weights is None else weights, cosine)
    assert found.labels.tolist() == labels
    torch.testing.assert_close(found.centres.double(), centres, rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-5)
    rows = x.double() / x.double().norm(dim=1, keepdim=True) if cosine else x.double()
    expected = (rows - centres[labels]).square().sum(1)
    torch.testing.assert_close(found.distances, expected, rtol=1e-4 if dtype == torch.float32 else 1e-10, atol=1e-6)
    w = torch.ones(120, dtype=torch.float64) if weights is None else weights
    assert found.inertia == pytest.approx(float((w * expected).sum()), rel=1e-5)


@both
def test_weights_are_repetitions(cosine):
    x, _ = mixture(n=80, spread=1.5)
    times = torch.randint(1, 5, (80,), generator=seeded(2))
    start = x[:5]
    weighted = kmeans(x, 5, generator=seeded(), weights=times.double(), cosine=cosine, start=start, tolerance=0.0)
    repeated = kmeans(x.repeat_interleave(times, 0), 5, generator=seeded(), cosine=cosine, start=start, tolerance=0.0)
    torch.testing.assert_close(weighted.centres, repeated.centres, rtol=0, atol=1e-12)
    assert torch.equal(weighted.labels.repeat_interleave(times), repeated.labels)
    assert weighted.inertia == pytest.approx(repeated.inertia, rel=1e-12)
    plain = kmeans(x, 5, generator=seeded(), cosine=cosine, start=start, tolerance=0.0)
    assert not torch.allclose(plain.centres, weighted.centres)


@both
def test_samples_of_weight_zero_move_nothing_and_start_nothing(cosine):
    x, _ = mixture(n=60)
    ghosts = 100 + torch.randn(9, 5, generator=seeded(1), dtype=torch.float64)
    weights = torch.cat((torch.ones(60), torch.zeros(9)))
    for seed in range(5):
        found = kmeans(torch.cat((x, ghosts)), 6, generator=seeded(seed), weights=weights, cosine=cosine, tolerance=0.0)
        again = kmeans(x, 6, generator=seeded(seed), cosine=cosine, start=found.centres, tolerance=0.0)
        torch.testing.assert_close(again.centres, found.centres, rtol=0, atol=1e-10)
        assert again.inertia == pytest.approx(found.inertia, rel=1e-9)
        assert len(found.labels) == 69


@both
@pytest.mark.parametrize("kind", ["rows", "one far point", "equal"])
def test_the_inertia_never_rises(cosine, kind):
    """Also while empty clusters are moved, with weights, and from starts that leave clusters empty."""
    x, _ = mixture(n=150, k=8, spread=1.0)
    start = x[:8].clone()
    if kind == "one far point":
        start[1:] = 50.0
    elif kind == "equal":
        start[:] = x[0]
    weights = torch.rand(150, generator=seeded(3), dtype=torch.float64)
    weights[::7] = 0
    found = [
        kmeans(x, 8, generator=seeded(), weights=weights, cosine=cosine, start=start, max_steps=s, tolerance=0.0)
        for s in range(12)
    ]
    inertia = [clusters.inertia for clusters in found]
    assert all(after <= before * (1 + 1e-12) for before, after in zip(inertia, inertia[1:], strict=False))
    assert inertia[-1] < inertia[0]
    assert len(found[-1].labels.unique()) == 8


def test_stops_at_the_tolerance_and_at_the_step_limit():
    x, _ = mixture(n=300, k=8, spread=2.0)
    exact = kmeans(x, 8, generator=seeded(), tolerance=0.0, max_steps=1000)
    coarse = kmeans(x, 8, generator=seeded(), tolerance=0.5, max_steps=1000)
    none = kmeans(x, 8, generator=seeded(), max_steps=0)
    assert exact.inertia < coarse.inertia < none.inertia
    means = torch.stack([x[exact.labels == k].mean(0) for k in range(8)])
    torch.testing.assert_close(exact.centres, means)  # a fixed point
    assert torch.equal(exact.labels, torch.cdist(x, exact.centres).argmin(1))
    assert torch.equal(coarse.labels, torch.cdist(x, coarse.centres).argmin(1))  # labels are of the centres returned


def test_finds_a_planted_mixture_as_well_as_scikit_learn():
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score

    x, truth = mixture(n=800, k=10, f=8)
    theirs = KMeans(10, n_init=5, random_state=0).fit(x.numpy())
    for seed in range(5):
        found = kmeans(x, 10, generator=seeded(seed))
        assert found.inertia == pytest.approx(theirs.inertia_, rel=1e-6)
        assert adjusted_rand_score(truth.numpy(), found.labels.numpy()) == 1.0
    blurred, _ = mixture(n=800, k=10, f=8, spread=2.5)
    weights = torch.rand(800, generator=seeded(1), dtype=torch.float64)
    theirs = KMeans(10, n_init=5, random_state=0).fit(blurred.numpy(), sample_weight=weights.numpy())
    ours = [kmeans(blurred, 10, generator=seeded(seed), weights=weights).inertia for seed in range(5)]
    assert min(ours) < 1.005 * theirs.inertia_
    assert max(ours) < 1.1 * theirs.inertia_  # one start may end in a poorer optimum, theirs too


def test_spherical_finds_directions_whatever_the_lengths():
    x, truth = mixture(n=300, k=5, f=6, spread=0.1)
    scale = 10 ** torch.empty(300, 1, dtype=torch.float64).uniform_(-3, 3, generator=seeded(4))
    found = kmeans(x, 5, generator=seeded(), cosine=True)
    scaled = kmeans(x * scale, 5, generator=seeded(), cosine=True)
    assert torch.equal(found.labels, scaled.labels)
    assert all(len(found.labels[truth == k].unique()) == 1 for k in range(5))
    torch.testing.assert_close(found.centres.norm(dim=1), torch.ones(5, dtype=torch.float64))
    cosine = torch.nn.functional.cosine_similarity(x, found.centres[found.labels])
    torch.testing.assert_close(found.distances, 2 - 2 * cosine)


def test_distance_from_the_origin_costs_no_digits():
    x, truth = mixture(n=300, k=6, dtype=torch.float32)
    found = kmeans(x + 1000, 6, generator=seeded())
    assert len(found.labels.unique()) == 6
    assert all(len(found.labels[truth == k].unique()) == 1 for k in range(6))
    near = kmeans(x, 6, generator=seeded())
    assert found.inertia == pytest.approx(near.inertia, rel=1e-2)  # 1000 leaves float32 four digits of x itself


@both
def test_blocks_change_nothing(cosine, monkeypatch):
    x, _ = mixture(n=200, spread=1.0)
    expected = kmeans(x, 7, generator=seeded(), cosine=cosine)
    monkeypatch.setattr(module, "BLOCK", 1)  # 16 rows a block
    found = kmeans(x, 7, generator=seeded(), cosine=cosine)
    assert torch.equal(found.labels, expected.labels)
    torch.testing.assert_close(found.centres, expected.centres, rtol=0, atol=1e-12)


def test_the_generator_alone_decides():
    x, _ = mixture(n=200, k=12, spread=2.0)
    before = torch.get_rng_state()
    first = kmeans(x, 12, generator=seeded(1))
    assert torch.equal(kmeans(x, 12, generator=seeded(1)).centres, first.centres)
    assert not torch.equal(kmeans(x, 12, generator=seeded(2)).centres, first.centres)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5, 0.0]])
def test_the_start_is_drawn_by_squared_distance_and_weight(weights):
    """The second of two starts, in closed form: the better of two draws with probability w_i D_i^2."""
    x = torch.tensor([[0.0], [1.0], [3.0], [7.0]], dtype=torch.float64)
    w = torch.ones(4, dtype=torch.float64) if weights is None else torch.tensor(weights, dtype=torch.float64)
    d2 = torch.cdist(x, x).square()
    expected = torch.zeros(4, 4, dtype=torch.float64)
    for i in range(4):
        chance = w * d2[i]
        chance = chance / chance.sum()
        left = [float((w * torch.minimum(d2[i], d2[j])).sum()) for j in range(4)]
        for a in range(4):
            for b in range(4):
                best = a if left[a] <= left[b] else b
                expected[i, best] += w[i] / w.sum() * chance[a] * chance[b]
    generator, rows, draws = seeded(5), _Rows(x, w, False), 1000
    counts = torch.zeros(4, 4)
    for _ in range(draws):
        i, j = _plus_plus(rows, 2, generator).tolist()
        counts[i, j] += 1
    tolerance = 5 * (expected * (1 - expected) / draws).sqrt()
    assert bool(((counts / draws - expected).abs() <= tolerance).all())


@both
@pytest.mark.parametrize("distinct", [1, 3])
def test_fewer_distinct_rows_than_clusters(cosine, distinct):
    x = torch.eye(4, dtype=torch.float32)[:distinct].repeat(7, 1) * 0.1
    found = kmeans(x, 5, generator=seeded(), cosine=cosine)
    assert found.inertia == pytest.approx(0, abs=1e-10)
    assert all(len(found.labels[k::distinct].unique()) == 1 for k in range(distinct))
    assert len(found.labels.unique()) == distinct
    assert len(found.order()) == distinct


@both
def test_one_cluster_and_as_many_as_rows(cosine):
    x, _ = mixture(n=20)
    one = kmeans(x, 1, generator=seeded(), cosine=cosine)
    mean = torch.nn.functional.normalize(x, dim=1).sum(0) if cosine else x.mean(0)
    torch.testing.assert_close(one.centres[0], mean / mean.norm() if cosine else mean)
    every = kmeans(x, 20, generator=seeded(), cosine=cosine)
    assert sorted(every.labels.tolist()) == list(range(20)) and every.inertia == 0
    given = kmeans(x, 20, generator=seeded(), cosine=cosine, start=x)
    torch.testing.assert_close(every.centres, given.centres)


def test_rows_of_zeros_have_no_direction_and_break_nothing():
    x, _ = mixture(n=50)
    x[::5] = 0
    found = kmeans(x, 4, generator=seeded(), cosine=True)
    assert bool(found.centres.isfinite().all()) and bool(found.distances.isfinite().all())
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    found = kmeans(opposite, 1, generator=seeded(), cosine=True)  # they cancel out: the centre stays where it was
    assert float(found.centres.norm()) == pytest.approx(1)


def test_weights_that_are_all_zero_count_as_equal():
    x, _ = mixture(n=60)
    found = kmeans(x, 4, generator=seeded(), weights=torch.zeros(60))
    assert torch.equal(found.centres, kmeans(x, 4, generator=seeded()).centres)


def test_the_order_is_by_size():
    x = torch.tensor([[0.0], [10.0], [10.1], [20.0], [20.05], [20.2]])
    found = kmeans(x, 4, generator=seeded(), start=torch.tensor([[0.0], [10.0], [20.0], [20.2]]), max_steps=0)
    assert found.labels.tolist() == [0, 1, 1, 2, 2, 3]
    assert found.order().tolist() == [1, 2, 0, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(4)}, "samples, features"),
        ({"count": 0}, "cannot make 0 clusters of 4"),
        ({"count": 5}, "cannot make 5 clusters of 4"),
        ({"x": torch.tensor([[0.0], [float("nan")]])}, "row 1 of x"),
        ({"start": torch.zeros(2, 3)}, "start must be"),
        ({"weights": torch.ones(3)}, "weights must be"),
        ({"weights": torch.tensor([1.0, -1.0, 1.0, 1.0])}, "weight 1 is -1"),
        ({"weights": torch.tensor([1.0, 1.0, float("inf"), 1.0])}, "weight 2"),
    ],
)
def test_what_cannot_work_is_refused(change, message):
    arguments = {"x": torch.zeros(4, 1), "count": 2, "generator": seeded(), **change}
    with pytest.raises(ValueError, match=message):
        kmeans(arguments.pop("x"), arguments.pop("count"), **arguments)
