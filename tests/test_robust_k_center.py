"""Robust k-center: the best cover by brute force, planted outliers, bounds around the greedy radius."""

import logging
from itertools import combinations

import pytest
import torch

import active.strategies.robust_k_center as robust
from active import Query
from active.strategies.coreset import k_center_greedy, robust_k_center


def distances(x, y):
    return torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")


def radius(pool, centres, rows, outliers=0):
    """The (outliers + 1)-th largest distance to the nearest centre, the definition."""
    covered = torch.cat((centres, pool[list(rows)]))
    return sorted(distances(pool, covered).amin(1).tolist(), reverse=True)[outliers]


def points(n, f, seed):
    return torch.randn(n, f, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("labelled", [0, 2])
@pytest.mark.parametrize("outliers", [0, 1, 3])
@pytest.mark.parametrize("budget", [1, 2, 3])
def test_is_the_best_of_all_subsets(labelled, outliers, budget):
    for seed in range(4):
        x = points(9 + labelled, 2, seed)
        pool, centres = x[labelled:], x[:labelled]
        picks = robust_k_center(pool, centres, budget, outliers=outliers)
        best = min(radius(pool, centres, rows, outliers) for rows in combinations(range(len(pool)), budget))
        assert radius(pool, centres, picks.tolist(), outliers) == best


@pytest.mark.parametrize("labelled", [0, 3])
def test_without_outliers_lies_between_half_the_greedy_radius_and_all_of_it(labelled):
    better = 0
    for seed in range(4):
        x = points(50 + labelled, 3, seed)
        pool, centres = x[labelled:], x[:labelled]
        greedy = radius(pool, centres, k_center_greedy(pool, centres, 4).tolist())
        least = radius(pool, centres, robust_k_center(pool, centres, 4, outliers=0).tolist())
        assert greedy / 2 <= least <= greedy
        better += least < greedy
    assert better


def planted():
    """Three tight groups of 15, and 4 rows far from everything: 0-44 and 45-48."""
    groups = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]], dtype=torch.float64).repeat_interleave(15, 0)
    far = torch.tensor([[80.0, 0.0], [0.0, 90.0], [-70.0, 0.0], [0.0, -60.0]], dtype=torch.float64)
    return torch.cat((groups + 0.3 * points(45, 2, 0), far))


def test_covers_the_groups_and_leaves_planted_outliers_where_greedy_asks_for_them():
    pool = planted()
    none = pool[:0]
    greedy = k_center_greedy(pool, None, 3).tolist()
    picks = robust_k_center(pool, None, 3, outliers=4).tolist()
    assert sum(row >= 45 for row in greedy) >= 2
    assert sorted(row // 15 for row in picks) == [0, 1, 2]
    assert radius(pool, none, picks, 4) < 1 < 10 < radius(pool, none, greedy, 4)
    # One outlier fewer than there are: one of the picks has to hold it.
    assert radius(pool, none, robust_k_center(pool, None, 3, outliers=3).tolist(), 3) > 5


def test_the_pick_order_is_farthest_first_and_repeats():
    pool = planted()
    for centres in (None, pool[:1] + 1):
        picks = robust_k_center(pool, centres, 5, outliers=2)
        assert torch.equal(picks, picks[k_center_greedy(pool[picks], centres, 5)])
        assert torch.equal(picks, robust_k_center(pool.float(), centres, 5, outliers=2))
    ordered = robust_k_center(pool, None, 5, outliers=2)
    assert int(ordered[0]) == int(ordered[distances(pool[ordered], pool.mean(0, keepdim=True))[:, 0].argmin()])


def test_picks_that_the_cover_does_not_need_are_the_farthest_from_it():
    """Two points with twins, and an outlier: two picks cover at radius 0, and the third is the outlier, not a twin."""
    pool = torch.tensor([[0.0], [0.0], [5.0], [5.0], [9.0]], dtype=torch.float64)
    picks = robust_k_center(pool, None, 4, outliers=1).tolist()
    assert len(set(picks)) == 4
    assert radius(pool, pool[:0], picks) == 0
    assert 4 in robust_k_center(pool, None, 3, outliers=1).tolist()
    assert sorted(robust_k_center(pool, None, 9, outliers=0).tolist()) == [0, 1, 2, 3, 4]


def test_equal_rows_and_empty_pools_are_answered():
    assert sorted(robust_k_center(torch.full((6, 3), 0.1), torch.full((2, 3), 0.1), 9, outliers=0).tolist()) == [
        *range(6)
    ]
    assert robust_k_center(torch.full((6, 3), 0.1), None, 2, outliers=1).tolist() == [0, 1]
    assert robust_k_center(torch.zeros(0, 2), torch.zeros(1, 2), 5, outliers=0).shape == (0,)
    assert robust_k_center(torch.zeros(3, 2), None, 0, outliers=0).shape == (0,)
    assert len(robust_k_center(points(5, 2, 0), None, 2, outliers=50)) == 2


def test_a_time_limit_leaves_a_cover_and_says_the_gap(caplog):
    x = points(200, 2, 0)
    greedy = k_center_greedy(x, None, 12)
    with caplog.at_level(logging.WARNING, logger="active"):
        picks = robust_k_center(x, None, 12, outliers=0, time_limit=1e-9)
    assert "stopped at its limit" in caplog.text and "gap" in caplog.text
    assert sorted(picks.tolist()) == sorted(greedy.tolist())
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="active"):
        robust_k_center(x[:40], None, 4, outliers=0)
    assert "is the least" in caplog.text and "stopped" not in caplog.text


@pytest.mark.parametrize(
    ("pool", "centres", "budget", "options", "message"),
    [
        (torch.zeros(3), None, 1, {}, "samples, features"),
        (torch.zeros(3, 2), torch.zeros(1, 3), 1, {}, "features of pool"),
        (torch.zeros(3, 2), None, -1, {}, "budget must be"),
        (torch.zeros(3, 2), None, 1, {"outliers": -1}, "outliers must be"),
        (torch.zeros(3, 2), None, 1, {"outliers": 0.5}, "outliers must be"),
        (torch.zeros(3, 2), None, 1, {"time_limit": 0}, "time_limit must be"),
        (torch.tensor([[0.0], [float("nan")]]), None, 1, {}, "row 1 of pool"),
        (torch.zeros(2, 1), torch.tensor([[float("inf")]]), 1, {}, "row 0 of centres"),
        (
            torch.zeros(robust.LARGEST + 1, 1),
            None,
            1,
            {},
            f"at most {robust.LARGEST} samples, not {robust.LARGEST + 1}",
        ),
    ],
)
def test_what_cannot_work_is_refused(pool, centres, budget, options, message):
    with pytest.raises(ValueError, match=message):
        robust_k_center(pool, centres, budget, **{"outliers": 0, **options})


def test_the_strategy_leaves_one_in_a_hundred_out():
    """99 rows in three groups and one far away: greedy takes it, the strategy doesn't."""
    groups = torch.tensor([[0.0], [10.0], [20.0]]).repeat_interleave(33, 0) + 0.1 * points(99, 1, 1).float()
    features = torch.cat((groups, torch.tensor([[500.0]])))
    query = Query(ids=torch.arange(1000, 1100), features=features)
    generator = torch.Generator()
    assert 1099 not in robust.ask_robust_k_center(query, 3, generator=generator).tolist()
    labelled = Query(ids=query.ids, features=features, labelled_features=features[:1])
    picks = robust.ask_robust_k_center(labelled, 2, generator=generator)
    assert sorted(int(row) // 33 for row in picks - 1000) == [1, 2]
