"""Random draws that are balanced over groups: shares by plain filling, and uniformity within them."""

import math
from collections import Counter

import pytest
import torch

from active import Query
from active.strategies.random_sampling import ask_random_balanced, balanced_order


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def filled(sizes, budget):
    """Shares of water filling, sorted: one to each group that has one left, again and again."""
    shares, left = [0] * len(sizes), budget
    while left and any(share < size for share, size in zip(shares, sizes, strict=True)):
        for k, size in enumerate(sizes):
            if left and shares[k] < size:
                shares[k] += 1
                left -= 1
    return shares


@pytest.mark.parametrize("sizes", [[10, 10, 10], [1, 4, 20], [0, 7, 3, 0, 12], [5]])
def test_every_beginning_is_as_equal_as_the_pool_allows(sizes):
    groups = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    groups = groups[torch.randperm(len(groups), generator=seeded(9))]
    for seed in range(5):
        order = balanced_order(groups, len(sizes), generator=seeded(seed))
        assert sorted(order.tolist()) == list(range(len(groups)))
        for budget in range(len(groups) + 1):
            shares = groups[order[:budget]].bincount(minlength=len(sizes)).tolist()
            assert sorted(shares) == sorted(filled(sizes, budget))
            lasting = [share for share, size in zip(shares, sizes, strict=True) if share < size]
            assert not lasting or max(shares) - min(lasting) <= 1


def test_uniform_within_a_group_and_in_who_gets_the_odd_one():
    groups = torch.tensor([0] * 12 + [1] * 4 + [2] * 4)
    generator, draws = seeded(), 3000
    counts, odd = Counter(), Counter()
    for _ in range(draws):
        rows = balanced_order(groups, 3, generator=generator)[:7]
        counts.update(rows.tolist())
        odd.update([int(groups[rows].bincount().argmax())])

    def near(count, share):
        return abs(count - draws * share) < 5 * math.sqrt(draws * share * (1 - share))

    assert all(near(odd[k], 1 / 3) for k in range(3))
    share = [7 / 3 / 12] * 12 + [7 / 3 / 4] * 8
    assert all(near(counts[i], share[i]) for i in range(20))


def test_classes_are_the_predicted_ones():
    """Predicted 80 : 15 : 5, so a plain draw of 9 would rarely be 3 : 3 : 3."""
    predicted = torch.tensor([0] * 80 + [1] * 15 + [2] * 5)
    probs = torch.full((100, 4), 0.1, dtype=torch.float64)
    probs[torch.arange(100), predicted] = 0.7  # the fourth class is predicted nowhere
    query = Query(ids=torch.arange(100) + 300, probs=probs)
    for seed in range(5):
        rows = ask_random_balanced(query, 9, generator=seeded(seed)) - 300
        assert predicted[rows].bincount().tolist() == [3, 3, 3]
        many = ask_random_balanced(query, 40, generator=seeded(seed)) - 300
        assert predicted[many].bincount().tolist() == [20, 15, 5]
    draws = {tuple(ask_random_balanced(query, 9, generator=seeded(seed)).tolist()) for seed in range(10)}
    assert len(draws) == 10


def test_what_is_no_distribution_is_named():
    probs = torch.full((5, 2), 0.5)
    probs[3] = torch.tensor([2.0, -1.0])
    with pytest.raises(ValueError, match="sample 13"):
        ask_random_balanced(Query(ids=torch.arange(5) + 10, probs=probs), 2, generator=seeded())
