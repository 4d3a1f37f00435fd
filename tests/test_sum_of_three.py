"""The sum of three against its parts alone, and against its definition with every part anew at every pick."""

from dataclasses import replace

import pytest
import torch

from active import STRATEGIES, Query
from active.strategies.aift import ask_aift, candidate_scores
from active.strategies.coreset import k_center_greedy
from active.strategies.mmd_reduction import greedy_mmd_reduction
from active.strategies.sum_of_three import ask_sum_of_three, sum_of_three, sum_of_three_picks
from active.strategies.uncertainty import highest_first
from dan.mmd import MultiKernel, median_bandwidth

KERNEL = MultiKernel(torch.tensor([0.5, 2.0, 9.0]), torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64))


def problem(n=40, labelled=6, f=4, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return {
        "features": normal(n, f) + 0.5,
        "source": normal(30, f),
        "scores": normal(n),
        "labelled": normal(labelled, f),
    }


def picks(given, budget, **weights):
    return sum_of_three_picks(
        given["features"], given["source"], given["scores"], budget, KERNEL, labelled=given["labelled"], **weights
    )


def naive(given, budget, weights):
    """Distances, the kernel's matrix and every part from the definition, anew at every pick."""
    x, source, scores, labelled = (given[name].double() for name in ("features", "source", "scores", "labelled"))

    def distances(a, b):
        return (a[:, None] - b[None]).square().sum(-1).sqrt()

    def scaled(values, rows):
        low, high = min(values[rows]), max(values[rows])
        return (values - low) / (high - low) if high > low else torch.zeros_like(values)

    chosen: list[int] = []
    for _ in range(min(budget, len(x))):
        rows = [row for row in range(len(x)) if row not in chosen]
        known, rest = torch.cat((labelled, x[chosen])), x[rows]
        joined = torch.cat((source, known))
        d = distances(x, known).amin(1) if len(known) else -distances(x, x.mean(0)[None])[:, 0]
        total = weights[0] * scaled(d, rows) + weights[2] * scaled(scores, rows)
        if len(rows) > 1:
            mine = KERNEL.of_squared_distances(distances(x, joined).square()).sum(1)
            theirs = KERNEL.of_squared_distances(distances(x, rest).square()).sum(1)
            total = total + weights[1] * scaled(theirs / (len(rows) - 1) - mine / (len(joined) + 1), rows)
        best = max(total[row].item() for row in rows)
        chosen.append(next(row for row in rows if total[row] >= best - 1e-12))
    return chosen


@pytest.mark.parametrize("labelled", [0, 6])
@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 1, 0), (0, 1, 1), (1, 0, 1), (0.3, 2, 0.7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_its_definition(labelled, weights, dtype):
    for seed in range(2):
        given = problem(labelled=labelled, seed=seed, dtype=dtype)
        named = dict(zip(("diversity", "transfer", "patches"), weights, strict=True))
        assert picks(given, 50, **named).tolist() == naive(given, 50, weights)


@pytest.mark.parametrize("labelled", [0, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_part_alone_is_its_own_strategy(labelled, dtype):
    given = problem(labelled=labelled, dtype=dtype)
    joined = torch.cat((given["source"], given["labelled"]))
    alone = {
        "diversity": k_center_greedy(given["features"], given["labelled"], 30),
        "transfer": greedy_mmd_reduction(given["features"], joined, 30, KERNEL, joins_source=True),
        "patches": highest_first(given["scores"], 30),
    }
    for name, expected in alone.items():
        weights = dict.fromkeys(alone, 0.0) | {name: 0.7}
        assert torch.equal(picks(given, 30, **weights), expected)
        # And the sum comes to the same as the other parts' weights vanish.
        weights = dict.fromkeys(alone, 1e-9) | {name: 1.0}
        assert torch.equal(picks(given, 30, **weights), expected)


def test_the_strategies_alone_are_those_that_have_names():
    generator = torch.Generator().manual_seed(3)
    n = 25
    query = Query(
        ids=300 + 2 * torch.randperm(n, generator=generator),
        probs=torch.randn(n, 3, generator=generator).softmax(1),
        features=torch.randn(n, 5, generator=generator),
        source_features=torch.randn(20, 5, generator=generator) + 0.5,
        labelled_features=torch.randn(4, 5, generator=generator),
        patch_probs=torch.randn(n, 8, 3, generator=generator).softmax(2),
    )
    for asked in (query, replace(query, kernel=KERNEL), replace(query, labelled_features=None)):
        for weights, strategy in (
            ({"transfer": 0, "patches": 0}, STRATEGIES["k_center"]),
            ({"diversity": 0, "patches": 0}, STRATEGIES["mmd_reduction"]),
            ({"diversity": 0, "transfer": 0}, ask_aift),
        ):
            answer = sum_of_three(**weights)(asked, 9, generator=generator)
            assert torch.equal(answer, strategy(asked, 9, generator=generator))
    # Without patches a sample is a candidate of one patch: asked for by the entropy of its probs.
    without = replace(query, patch_probs=None)
    by_entropy = sum_of_three(diversity=0, transfer=0)(without, 25, generator=generator)
    assert torch.equal(by_entropy, STRATEGIES["entropy"](without, 25, generator=generator))


def test_the_strategy_weighs_its_parts_alike():
    given = problem(n=30)
    ids = 40 + torch.arange(30)
    probs = torch.randn(30, 3, generator=torch.Generator().manual_seed(9)).softmax(1)
    query = Query(
        ids=ids,
        probs=probs,
        features=given["features"],
        source_features=given["source"],
        kernel=KERNEL,
        labelled_features=given["labelled"],
    )
    given["scores"] = candidate_scores(probs[:, None])
    assert (ask_sum_of_three(query, 12, generator=torch.Generator()) - 40).tolist() == naive(given, 12, (1, 1, 1))
    ladder = MultiKernel.ladder(median_bandwidth(given["source"], given["features"]))
    expected = sum_of_three_picks(
        given["features"], given["source"], given["scores"], 12, ladder, labelled=given["labelled"]
    )
    assert torch.equal(ask_sum_of_three(replace(query, kernel=None), 12, generator=torch.Generator()) - 40, expected)


def test_units_and_scales_of_the_parts_do_not_matter():
    given = problem()
    expected = picks(given, 15)
    assert torch.equal(picks(given | {"scores": 1000 * given["scores"] - 3}, 15), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "f"), [(67, 37), (203, 50)])
def test_a_part_without_spread_says_nothing(dtype, n, f):
    """Equal features leave the score to decide: what a product rounds differently, scaled up, must not."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(n, generator=generator)
    same = torch.randn(1, f, generator=generator).to(dtype).expand(n, f).clone()
    source = torch.randn(33, f, generator=generator).to(dtype)
    for labelled in (None, same[:2]):
        answer = sum_of_three_picks(same, source, scores, n, MultiKernel.ladder(2.0 * f), labelled=labelled)
        assert torch.equal(answer, highest_first(scores, n))
    given = problem(dtype=dtype)
    flat = given | {"scores": torch.ones(40)}
    assert torch.equal(picks(flat, 20), picks(given, 20, patches=0))


@pytest.mark.parametrize(
    ("change", "weights", "message"),
    [
        ({}, {"diversity": -1.0}, "weight of diversity"),
        ({}, {"patches": float("nan")}, "weight of patches"),
        ({}, {"diversity": 0, "transfer": 0, "patches": 0}, "at least one of"),
        ({"scores": torch.zeros(3)}, {}, "scores must be"),
        ({"scores": torch.full((40,), torch.nan)}, {}, "scores must be"),
        ({"source": torch.zeros(0, 4)}, {}, "source has no samples"),
        ({"labelled": torch.zeros(2, 3)}, {}, "centres"),
    ],
)
def test_what_cannot_work_is_refused(change, weights, message):
    with pytest.raises(ValueError, match=message):
        picks(problem() | change, 3, **weights)


def test_budgets_of_nothing_and_of_more_than_there_is():
    given = problem(n=7)
    assert picks(given, 0).shape == (0,)
    assert sorted(picks(given, 99).tolist()) == list(range(7))
    empty = given | {"features": given["features"][:0], "scores": given["scores"][:0]}
    assert picks(empty, 3).shape == (0,)
