"""Representative sampling: the definition as loops, the adaptive form against its naive twin, and planted pools."""

import math

import pytest
import torch

from active import Query
from active.strategies.kmeans import kmeans
from active.strategies.representative import (
    adaptive_representatives,
    ask_representative,
    ask_representative_adaptive,
    ask_representative_clusters,
    cluster_representatives,
    nearest_cosine,
    representativeness,
)

ASK = [ask_representative, ask_representative_adaptive, ask_representative_clusters]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def cosine(x, y):
    x, y = x.tolist(), y.tolist()
    length = math.sqrt(sum(a * a for a in x)) * math.sqrt(sum(b * b for b in y))
    return sum(a * b for a, b in zip(x, y, strict=True)) / length if length else 0.0


def scores(target, training):
    """The definition, a sample at a time."""
    return [cosine(x, target.mean(0)) - cosine(x, training.mean(0)) for x in target]


def naive(target, training, budget):
    """The adaptive form with both means taken anew from their samples at every pick."""
    left, chosen = list(range(len(target))), []
    while left and len(chosen) < budget:
        rest, joined = target[left], torch.cat((training, target[chosen]))
        score = {i: cosine(target[i], rest.mean(0)) - cosine(target[i], joined.mean(0)) for i in left}
        best = max(score.values())
        chosen.append(min(i for i in left if score[i] >= best - 1e-9))
        left.remove(chosen[-1])
    return chosen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_definition(dtype):
    target, training = normal(30, 6) + 1, normal(20, 6, seed=1) - 0.5
    expected = torch.tensor(scores(target, training), dtype=torch.float64)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    found = representativeness(target.to(dtype), training.to(dtype))
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    parts = [training[:3].to(dtype), training[:0].to(dtype), training[3:].to(dtype)]
    torch.testing.assert_close(representativeness(target.to(dtype), parts), expected, rtol=0, atol=tolerance)


def test_two_opposite_sides_score_two_and_equal_sides_zero():
    right = torch.tensor([[2.0, 0.0], [5.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(representativeness(right, -right), torch.full((2,), 2.0, dtype=torch.float64))
    x = normal(9, 4)
    torch.testing.assert_close(representativeness(x, x), torch.zeros(9, dtype=torch.float64))


def test_common_scale_and_rotation_decide_nothing():
    target, training = normal(25, 5), normal(15, 5, seed=1) + 1
    turn = torch.linalg.qr(normal(5, 5, seed=2)).Q
    expected = representativeness(target, training)
    torch.testing.assert_close(representativeness(7 * target @ turn, 0.1 * training @ turn), expected)


def test_rows_of_zeros_score_zero():
    target = normal(8, 3)
    target[2] = 0
    assert float(representativeness(target, normal(5, 3))[2]) == 0
    assert bool(representativeness(torch.zeros(4, 3), torch.zeros(2, 3)).eq(0).all())
    assert adaptive_representatives(torch.zeros(4, 3), torch.zeros(2, 3), 9).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("seed", range(4))
def test_the_adaptive_form_equals_its_naive_twin(seed):
    target, training = normal(30, 4, seed=seed) + 0.5, normal(12, 4, seed=seed + 10) - 0.5
    expected = naive(target, training, 40)
    assert adaptive_representatives(target, training, 40).tolist() == expected
    assert adaptive_representatives(target.float(), training.float(), 12).tolist() == expected[:12]
    assert adaptive_representatives(target, [training[:5], training[5:]], 9).tolist() == expected[:9]


def test_equal_rows_go_by_the_lowest():
    target = normal(5, 3).repeat(4, 1)
    training = normal(6, 3, seed=1) - 1
    picks = adaptive_representatives(target, training, 20)
    assert picks.tolist() == naive(target, training, 20)
    assert int(picks[0]) < 5


def test_adaptive_is_a_series_of_single_picks():
    """Each pick joins the training side, so two calls of b are one of 2 b."""
    target, training = normal(30, 4) + 0.3, normal(12, 4, seed=1)
    at_once = adaptive_representatives(target, training, 10)
    first = adaptive_representatives(target, training, 5)
    rest = torch.tensor([i for i in range(30) if i not in first.tolist()])
    second = rest[adaptive_representatives(target[rest], [training, target[first]], 5)]
    assert torch.equal(at_once, torch.cat((first, second)))


def two_lobes():
    """A target with a large lobe and a small one, both unlike the training side."""
    generator = seeded(3)
    truth = torch.tensor([0] * 30 + [1] * 20)
    target = torch.eye(3, dtype=torch.float64)[truth]
    target = target + 0.05 * torch.randn(50, 3, generator=generator, dtype=torch.float64)
    training = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64).repeat(5, 1)
    return target, truth, training


def test_the_adaptive_form_turns_to_the_other_lobe_and_the_plain_one_does_not():
    target, truth, training = two_lobes()
    plain = representativeness(target, training).argsort(descending=True)[:12]
    adaptive = adaptive_representatives(target, training, 12)
    assert set(truth[adaptive].tolist()) == {0, 1}
    shares = [float(truth[picks].double().mean()) for picks in (plain, adaptive)]
    assert min(shares[0], 1 - shares[0]) < min(shares[1], 1 - shares[1])


def test_the_nearest_of_several_directions():
    x, centres = normal(10, 4), normal(3, 4, seed=1) * 5
    expected = [max(cosine(row, c) for c in centres) for row in x]
    torch.testing.assert_close(nearest_cosine(x, centres), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("parts", [1, 2])
def test_with_clusters_as_a_loop(parts):
    target, training = normal(40, 4) + 0.5, normal(30, 4, seed=1)
    generator = seeded(7)
    own = kmeans(target, 5, generator=generator, cosine=True)
    other = kmeans(training, 5, generator=generator, cosine=True)
    score = [max(cosine(x, c) for c in own.centres) - max(cosine(x, c) for c in other.centres) for x in target]
    left = {k: sorted((i for i in range(40) if own.labels[i] == k), key=lambda i: -score[i]) for k in range(5)}
    turns = sorted(left, key=lambda k: -score[left[k][0]])
    expected = []
    while any(left.values()):
        expected += [left[k].pop(0) for k in turns if left[k]]
    side = training if parts == 1 else [training[:12], training[12:]]
    for budget in (0, 1, 4, 17, 40, 50):
        picks = cluster_representatives(target, side, budget, generator=seeded(7), count=5)
        assert picks.tolist() == expected[:budget]


def test_with_clusters_each_lobe_is_held_against_its_own_kind():
    """Two lobes; the source has the one. The mean lies between them, clusters see that the other is missing."""
    target, truth, _ = two_lobes()
    source = target[truth == 0] + 0.01
    query = Query(ids=torch.arange(50), features=target, source_features=source)
    rows = cluster_representatives(target, source, 1, generator=seeded(), count=2)
    assert int(truth[rows[0]]) == 1
    assert len(ask_representative_clusters(query, 10, generator=seeded()).unique()) == 10


@pytest.mark.parametrize("ask", ASK)
def test_labelled_samples_count_as_trained_on(ask):
    """What is like the labelled ones comes last, although the source has nothing like it."""
    target, truth, source = two_lobes()
    labelled = target[truth == 0][:25].mean(0, keepdim=True).repeat(40, 1)
    query = Query(
        ids=torch.arange(50),
        features=target,
        source_features=source,
        labelled_ids=torch.arange(100, 140),
        labelled_features=labelled,
    )
    rows = ask(query, 4, generator=seeded())
    share = float(truth[rows].double().mean())
    cold = Query(ids=query.ids, features=target, source_features=source)
    assert share >= float(truth[ask(cold, 4, generator=seeded())].double().mean())
    if ask is not ask_representative_clusters:
        assert share == 1.0
    only = Query(ids=query.ids, features=target, source_features=source[:0], labelled_features=labelled)
    assert len(ask(only, 4, generator=seeded()).unique()) == 4


@pytest.mark.parametrize("ask", ASK)
def test_a_training_side_without_samples_and_other_bad_input_is_refused(ask):
    target, _, source = two_lobes()

    def query(**fields):
        return Query(**{"ids": torch.arange(50) + 7, "features": target, "source_features": source, **fields})

    with pytest.raises(ValueError, match="training side has no samples"):
        ask(query(source_features=source[:0]), 3, generator=seeded())
    with pytest.raises(ValueError, match="same features"):
        ask(query(source_features=source[:, :2]), 3, generator=seeded())
    with pytest.raises(ValueError, match="source_features holds NaN"):
        ask(query(source_features=source * float("nan")), 3, generator=seeded())
    with pytest.raises(ValueError, match="budget must be"):
        ask(query(), -1, generator=seeded())
    assert ask(query(), 0, generator=seeded()).shape == (0,)
    assert sorted(ask(query(), 99, generator=seeded()).tolist()) == list(range(7, 57))


def test_a_row_that_is_not_finite_is_named():
    bad = torch.ones(4, 2)
    bad[2, 0] = float("inf")
    with pytest.raises(ValueError, match="row 2 of target"):
        representativeness(bad, torch.ones(3, 2))
    with pytest.raises(ValueError, match="row 2 of training"):
        representativeness(torch.ones(3, 2), bad)
