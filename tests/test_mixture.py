"""A share by a strategy and the rest at random: counts, order, uniformity, and names with a share."""

import pytest
import torch

from active import STRATEGIES, Query
from active.strategies.mixture import mixture, parse_mixture
from dan.errors import UserError


def query(n=40):
    generator = torch.Generator().manual_seed(0)
    ids = 500 + 3 * torch.randperm(n, generator=generator)
    return Query(ids=ids, probs=torch.randn(n, 3, generator=generator).softmax(1))


def ask(strategy, budget, seed=0, pool=None):
    return strategy(pool or query(), budget, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("share", "budget", "first"),
    [(0.3, 10, 3), (0.25, 10, 3), (0.24, 10, 2), (0.5, 1, 1), (0.49, 1, 0), (0.29, 50, 12), (1 / 3, 9, 3), (0.5, 0, 0)],
)
def test_the_strategys_share_comes_first_rounded_half_up(share, budget, first):
    count = min(budget, 40)
    by_margin = ask(STRATEGIES["margin"], 40)[:count]
    answers = [ask(mixture(STRATEGIES["margin"], share), budget, seed) for seed in range(10)]
    assert all(len(picks) == count == len(set(picks.tolist())) for picks in answers)
    # What comes after the strategy's own differs with the seed.
    alike = [all(picks[at] == by_margin[at] for picks in answers) for at in range(count)]
    assert alike == [True] * first + [False] * (count - first)


def test_the_ends_are_random_and_the_strategy_itself():
    assert torch.equal(ask(mixture(STRATEGIES["margin"], 0.0), 9), ask(STRATEGIES["random"], 9))
    assert torch.equal(ask(mixture(STRATEGIES["margin"], 1.0), 9), ask(STRATEGIES["margin"], 9))
    # A share of nothing needs nothing.
    assert len(ask(mixture(STRATEGIES["margin"], 0.0), 9, pool=Query(ids=torch.arange(20)))) == 9


def test_the_rest_is_uniform_over_the_others():
    """Of 37 others 6 are drawn: each in 6/37 of the draws, within five standard deviations over 2000 of them."""
    strategy, pool = mixture(STRATEGIES["margin"], 0.3), query()
    first = set(ask(strategy, 9)[:3].tolist())
    counts = dict.fromkeys(pool.ids.tolist(), 0)
    generator = torch.Generator().manual_seed(1)
    for _ in range(2000):
        for sample in strategy(pool, 9, generator=generator)[3:].tolist():
            counts[sample] += 1
    assert all(counts.pop(sample) == 0 for sample in first)
    share = 6 / 37
    tolerance = 5 * (2000 * share * (1 - share)) ** 0.5
    assert all(abs(count - 2000 * share) < tolerance for count in counts.values())


def test_the_order_of_the_pool_decides_nothing_and_the_name_says_what_it_is():
    strategy, pool = mixture(STRATEGIES["margin"], 0.5), query()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(5))
    shuffled = Query(ids=pool.ids[order], probs=pool.probs[order])
    assert torch.equal(ask(strategy, 8, pool=shuffled), ask(strategy, 8))
    assert strategy.__name__.endswith("@0.5")


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="share"):
        mixture(STRATEGIES["margin"], share)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("margin", None),
        ("my.module:function", None),
        ("margin@0.3", ("margin", 0.3)),
        ("k_center@1", ("k_center", 1.0)),
        ("my.module:function@0", ("my.module:function", 0.0)),
    ],
)
def test_a_name_with_a_share_is_parsed(name, expected):
    assert parse_mixture(name) == expected


@pytest.mark.parametrize(
    "name", ["margin@", "@0.3", "@", "margin@30", "margin@-0.1", "margin@nan", "margin@a", "a@1@1"]
)
def test_a_name_that_is_no_mixture_is_one_clear_line(name):
    with pytest.raises(UserError, match="as in margin@0.3") as caught:
        parse_mixture(name)
    assert "\n" not in str(caught.value)
