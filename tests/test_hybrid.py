"""Coverage under DAN's kernel: the greedy from its definition, in loops."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from active.pool import Query
from active.strategies import STRATEGIES
from active.strategies.hybrid import hybrid
from active.strategies.uherding import greedy_coverage
from active.strategies.uncertainty import margin_of_confidence
from dan.mmd.kernels import MultiKernel

N, S, L, F, C = 14, 6, 3, 4, 3


def query(seed: int = 0, **changes: object) -> Query:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    made = Query(
        ids=torch.arange(100, 100 + N),
        probs=normal(N, C).softmax(1),
        features=normal(N, F),
        labelled_ids=torch.arange(L),
        labelled_features=normal(L, F),
        source_features=normal(S, F),
        kernel=MultiKernel(torch.tensor([0.5, 2.0, 8.0]), torch.tensor([0.2, 0.5, 0.3])),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def k(x: Tensor, y: Tensor, kernel: MultiKernel) -> float:
    squared = sum((float(a) - float(b)) ** 2 for a, b in zip(x, y, strict=True))
    pairs = zip(kernel.weights.tolist(), kernel.bandwidths.tolist(), strict=True)
    return sum(beta * math.exp(-squared / gamma) for beta, gamma in pairs)


def by_definition(q: Query, budget: int, weights: list[float], share: float) -> list[int]:
    """Greedy: at each pick, the objective of every candidate added, in full."""
    assert q.features is not None and q.source_features is not None
    assert q.labelled_features is not None and q.kernel is not None
    picks: list[int] = []
    for _ in range(budget):
        best, most = -1, -1.0
        for candidate in range(N):
            if candidate in picks:
                continue
            total = 0.0
            for n in range(N):
                near = [k(q.features[n], q.features[i], q.kernel) for i in [*picks, candidate]]
                near += [k(q.features[n], x, q.kernel) for x in q.labelled_features]
                near += [share * k(q.features[n], x, q.kernel) for x in q.source_features]
                total += weights[n] * max(near)
            if total > most + 1e-12:
                best, most = candidate, total
        picks.append(best)
    return [100 + i for i in picks]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("power", "share"), [(1.0, 0.0), (2.0, 0.5), (0.5, 1.0)])
def test_picks_are_the_greedy_of_the_definition(seed: int, power: float, share: float) -> None:
    q = query(seed)
    assert q.probs is not None
    ordered = q.probs.sort(1, descending=True).values
    weights = [(1 - float(row[0] - row[1])) ** power for row in ordered]
    picks = hybrid(weight="margin", power=power, share=share)(q, 5, generator=torch.Generator())
    assert picks.tolist() == by_definition(q, 5, weights, share)


@pytest.mark.parametrize("weight", ["entropy", "least_confidence", "patches", "ones"])
def test_the_weight_is_what_it_says(weight: str) -> None:
    q = query(7)
    assert q.probs is not None
    if weight == "entropy" or weight == "patches":  # of one patch, AIFT's score is the entropy, up to a factor
        weights = [-sum(float(p) * math.log(float(p)) for p in row) for row in q.probs]
    elif weight == "least_confidence":
        weights = [1 - float(row.max()) for row in q.probs]
    else:
        weights = [1.0] * N
    picks = hybrid(weight=weight, share=0)(q, 6, generator=torch.Generator())  # type: ignore[arg-type]
    assert picks.tolist() == by_definition(q, 6, weights, 0.0)


def test_power_0_is_ones_and_certainty_everywhere_too() -> None:
    q = query(3)
    plain = hybrid(weight="ones", share=0)(q, 4, generator=torch.Generator())
    assert torch.equal(hybrid(power=0, share=0)(q, 4, generator=torch.Generator()), plain)
    sure = replace(q, probs=torch.eye(C, dtype=torch.float64)[torch.arange(N) % C])
    assert torch.equal(hybrid(share=0)(sure, 4, generator=torch.Generator()), plain)


@pytest.mark.parametrize("seed", range(3))
def test_the_strategy_is_entropy_and_a_source_that_covers_half(seed: int) -> None:
    q = query(seed)
    assert q.probs is not None
    weights = [-sum(float(p) * math.log(float(p)) for p in row) for row in q.probs]
    picks = STRATEGIES["hybrid"](q, 5, generator=torch.Generator())
    assert picks.tolist() == by_definition(q, 5, weights, 0.5)


def test_views_give_the_patch_score() -> None:
    from active.strategies.aift import patch_scores

    generator = torch.Generator().manual_seed(5)
    q = query(5, patch_probs=torch.randn(N, 4, C, generator=generator, dtype=torch.float64).softmax(2))
    scores = patch_scores(q)
    picks = hybrid(weight="patches", share=0)(q, 5, generator=torch.Generator())
    assert picks.tolist() == by_definition(q, 5, scores.tolist(), 0.0)


def test_a_source_that_covers_all_leaves_only_what_is_the_targets_own() -> None:
    """Two groups in the target, one of them on top of the source: with share 1 the other is asked first."""
    near, own = torch.zeros(10, 2, dtype=torch.float64), torch.full((3, 2), 10.0, dtype=torch.float64)
    features = torch.cat((near, own)) + torch.linspace(0, 0.1, 26, dtype=torch.float64).view(13, 2)
    q = Query(
        ids=torch.arange(13),
        probs=torch.full((13, 2), 0.5, dtype=torch.float64),
        features=features,
        source_features=torch.zeros(4, 2, dtype=torch.float64),
        kernel=MultiKernel.of(torch.tensor([1.0])),
    )
    first = int(hybrid(share=1)(q, 1, generator=torch.Generator())[0])
    assert first >= 10
    assert int(hybrid(share=0)(q, 1, generator=torch.Generator())[0]) < 10  # the larger group


def test_without_a_kernel_it_is_the_ladder_at_the_median() -> None:
    from dan.mmd.kernels import median_bandwidth

    q = query(2, kernel=None)
    assert q.features is not None and q.source_features is not None and q.probs is not None
    kernel = MultiKernel.ladder(median_bandwidth(q.source_features, q.features))
    same = replace(q, kernel=kernel)
    ask = hybrid(weight="margin", share=0)
    assert torch.equal(ask(q, 4, generator=torch.Generator()), ask(same, 4, generator=torch.Generator()))
    alone = replace(same, labelled_features=None)
    rows = greedy_coverage(q.features, margin_of_confidence(q.probs), kernel, None, 4)
    assert torch.equal(ask(alone, 4, generator=torch.Generator()), q.ids[rows])


def test_it_works_without_a_source() -> None:
    from dan.mmd.kernels import median_bandwidth

    q = query(2, kernel=None, source_features=None)
    (features,) = q.need("features")
    same = replace(q, kernel=MultiKernel.ladder(median_bandwidth(features, features[:0])))
    picks = hybrid(share=0.5)(q, 4, generator=torch.Generator())
    assert torch.equal(picks, hybrid(share=0)(same, 4, generator=torch.Generator()))


def test_the_order_of_the_pool_decides_nothing() -> None:
    q = query(4)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    assert q.probs is not None and q.features is not None
    mixed = replace(q, ids=q.ids[order], probs=q.probs[order], features=q.features[order])
    ask = hybrid(share=0.5)
    assert torch.equal(ask(q, 5, generator=torch.Generator()), ask(mixed, 5, generator=torch.Generator()))


@pytest.mark.parametrize("options", [{"share": 1.5}, {"share": -0.1}, {"power": -1}, {"weight": "margn"}])
def test_options_that_cannot_be_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        hybrid(**options)  # type: ignore[arg-type]
