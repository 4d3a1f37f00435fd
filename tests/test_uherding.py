"""Uncertainty coverage against its definition, with every gain taken anew at every pick."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import active.strategies.uherding as module
from active import Query
from active.strategies.uherding import ask_uherding, coverage, fit_temperature, greedy_coverage, smallest_distance
from dan.mmd import MultiKernel, median_bandwidth

KERNEL = MultiKernel(torch.tensor([0.1, 1.0, 4.0]), torch.tensor([0.5, 0.3, 0.2]))


def gram(x, y, kernel):
    """sum_u beta_u exp(-|x_i - y_j|^2 / gamma_u) from differences: (N, M) float64."""
    d2 = (x.double()[:, None] - y.double()[None]).square().sum(-1)
    terms = zip(kernel.weights.double().tolist(), kernel.bandwidths.tolist(), strict=True)
    return sum(beta * torch.exp(-d2 / gamma) for beta, gamma in terms) / kernel.weights.double().sum()


def naive(features, weights, kernel, covered, budget):
    """The definition: the whole matrix, every gain at every pick, the first of those within the tie."""
    k, weights = gram(features, features, kernel), weights.double()
    now = torch.zeros(len(k), dtype=torch.float64) if covered is None else covered.clone()
    picks: list[int] = []
    for _ in range(min(budget, len(k))):
        gains = ((k - now).clamp(min=0) * weights).sum(1)
        gains[picks] = -1
        picks.append(int((gains >= gains.max() - 1e-12 * float(weights.sum())).nonzero()[0, 0]))
        now = torch.maximum(now, k[picks[-1]])
    return picks


def problem(n, f, labelled=0, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n + labelled, f, generator=generator).to(dtype)
    return x[labelled:], torch.rand(n, generator=generator), x[:labelled]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("labelled", [0, 9])
@pytest.mark.parametrize("gamma", [0.02, 1.0, 30.0])
def test_equals_the_definition(monkeypatch, dtype, labelled, gamma):
    features, weights, centres = problem(90, 4, labelled, dtype=dtype)
    kernel = MultiKernel.ladder(gamma, count=3)
    covered = coverage(features, centres, kernel) if labelled else None
    expected = naive(features, weights, kernel, covered, 100)
    assert greedy_coverage(features, weights, kernel, covered, 100).tolist() == expected
    monkeypatch.setattr(module, "NUMBERS", 7 * 90)  # many blocks, of 7 rows
    assert greedy_coverage(features, weights, kernel, covered, 100).tolist() == expected


@settings(max_examples=60)
@given(data=st.data())
def test_equals_the_definition_with_duplicates_ties_and_zero_weights(data):
    f, n = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 12))
    row = st.lists(st.integers(-2, 2).map(float), min_size=f, max_size=f)
    features = torch.tensor(data.draw(st.lists(row, min_size=n, max_size=n)))
    weights = torch.tensor(data.draw(st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=n, max_size=n)))
    covered = torch.tensor(data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=n, max_size=n))).double()
    kernel = MultiKernel.ladder(data.draw(st.sampled_from([0.3, 1.0, 8.0])), count=3)
    expected = naive(features, weights, kernel, covered, n)
    assert greedy_coverage(features, weights, kernel, covered, n).tolist() == expected


def test_takes_few_gains_anew(monkeypatch):
    """What makes it lazy: for a narrow kernel a fraction of the N gains a pick that the definition takes."""
    features, weights, _ = problem(400, 8)
    met = []
    rows = module.kernel_rows
    monkeypatch.setattr(module, "kernel_rows", lambda x, *rest: met.append(len(x)) or rows(x, *rest))
    greedy_coverage(features, weights, MultiKernel.of([2.0]), None, 50)
    assert sum(met) < 400 + 50 * 400 / 10


def test_reaches_the_share_of_the_best_that_submodularity_promises():
    from itertools import combinations

    features, weights, _ = problem(12, 2)
    k = gram(features, features, KERNEL)

    def value(rows):
        return float((k[:, list(rows)].amax(1) * weights.double()).sum())

    best = max(value(rows) for rows in combinations(range(12), 4))
    got = value(greedy_coverage(features, weights, KERNEL, None, 4).tolist())
    assert (1 - 1 / math.e) * best <= got <= best + 1e-12


def test_a_narrow_kernel_asks_by_weight_and_a_wide_one_for_the_middle():
    features, weights, _ = problem(40, 3)
    narrow = greedy_coverage(features, weights, MultiKernel.of([1e-6]), None, 40)
    assert torch.equal(narrow, weights.argsort(descending=True))
    # 1 - |x - y|^2 / gamma: the first pick is nearest to the weighted mean.
    wide = greedy_coverage(features, weights, MultiKernel.of([1e6]), None, 1)
    mean = (weights[:, None].double() * features).sum(0) / weights.double().sum()
    assert wide.tolist() == [int((features - mean).square().sum(1).argmin())]


def test_coverage_is_the_largest_kernel_value():
    features, _, centres = problem(50, 3, 20, dtype=torch.float32)
    expected = gram(features, centres, KERNEL).amax(1)
    torch.testing.assert_close(coverage(features, centres, KERNEL), expected, rtol=1e-12, atol=1e-14)
    assert torch.equal(coverage(features, None, KERNEL), torch.zeros(50, dtype=torch.float64))
    assert torch.equal(coverage(features, centres[:0], KERNEL), torch.zeros(50, dtype=torch.float64))
    assert coverage(features[:0], centres, KERNEL).shape == (0,)


def test_the_temperature_is_that_of_the_highest_likelihood():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(400, 4, generator=generator, dtype=torch.float64)
    targets = torch.multinomial((logits / 3).softmax(1), 1, generator=generator)[:, 0]

    def loss(temperature):
        return torch.nn.functional.cross_entropy(logits / temperature, targets).item()

    fitted = fit_temperature(logits, targets)
    assert 2 < fitted < 5  # the labels were drawn at 3
    assert loss(fitted) < min(loss(fitted * 1.01), loss(fitted / 1.01))
    # Scaling the logits scales the temperature; a shift of a row does not change it.
    assert fit_temperature(2 * logits, targets) == pytest.approx(2 * fitted, rel=1e-9)
    assert fit_temperature(logits + torch.arange(400)[:, None], targets) == pytest.approx(fitted, rel=1e-9)


def test_the_temperature_stays_within_its_bounds():
    logits = torch.eye(3) * 5
    assert fit_temperature(logits, torch.arange(3)) == pytest.approx(1 / 20)
    assert fit_temperature(logits, (torch.arange(3) + 1) % 3) == 20
    for bad in (
        (logits, torch.arange(2)),
        (logits[:0], torch.arange(0)),
        (logits, torch.tensor([0, 1, 3])),
        (logits * torch.nan, torch.arange(3)),
    ):
        with pytest.raises(ValueError, match="logits|classes"):
            fit_temperature(*bad)


@settings(max_examples=40)
@given(data=st.data())
def test_the_smallest_distance_is_that_between_different_rows(data):
    f = data.draw(st.integers(1, 3))
    number = st.integers(-2, 2).map(float) | st.floats(-3, 3, width=32)
    x = torch.tensor(data.draw(st.lists(st.lists(number, min_size=f, max_size=f), max_size=8)), dtype=torch.float64)
    d = [(a - b).square().sum().sqrt().item() for i, a in enumerate(x) for b in x[:i]]
    expected = min((value for value in d if value > 0), default=None)
    got = smallest_distance(x.reshape(-1, f))
    assert got == expected if expected is None else got == pytest.approx(expected, rel=1e-12)


def test_the_smallest_distance_over_several_blocks():
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(2600, 6, generator=generator), dim=1)
    x[1500], x[2599] = x[3], x[7] + 1e-6  # a duplicate, and a pair nearer than a product can tell
    assert smallest_distance(x) == pytest.approx((x[2599].double() - x[7].double()).norm().item(), rel=1e-12)


def uherding(query, budget):
    """The strategy by its definition."""
    logits = query.logits.double() if query.logits is not None else query.probs.double().log()
    temperature = 1.0
    if query.validation_logits is not None:
        temperature = fit_temperature(query.validation_logits, query.validation_targets)
    top = (logits / temperature).softmax(1).sort(1, descending=True).values
    weights = 1 - (top[:, 0] - top[:, 1])
    unit = query.features / query.features.norm(dim=1, keepdim=True)
    known = query.labelled_features / query.labelled_features.norm(dim=1, keepdim=True)
    sigma = min((a - b).norm().item() for i, a in enumerate(known) for b in known[:i])
    kernel = MultiKernel.of([sigma**2])
    picks = naive(unit, weights, kernel, gram(unit, known, kernel).amax(1), budget)
    return query.ids[picks]


def test_the_strategy_equals_its_definition():
    generator = torch.Generator().manual_seed(4)
    n = 60
    logits = 4 * torch.randn(n, 3, generator=generator, dtype=torch.float64)
    fields = {
        "ids": 10 * torch.arange(n),
        "features": torch.randn(n, 5, generator=generator, dtype=torch.float64),
        "labelled_features": torch.randn(7, 5, generator=generator, dtype=torch.float64),
        "probs": logits.softmax(1),
    }
    held = {
        "validation_logits": 4 * torch.randn(50, 3, generator=generator, dtype=torch.float64),
        "validation_targets": torch.randint(0, 3, (50,), generator=generator),
    }
    answers = []
    for more in ({}, held, {"logits": logits}, {"logits": logits, **held}):
        query = Query(**fields, **more)
        answers.append(ask_uherding(query, 12, generator=torch.Generator()))
        assert torch.equal(answers[-1], uherding(query, 12))
    # log p is as good as the logits; a temperature that is not 1 changes the picks.
    assert torch.equal(answers[0], answers[2]) and torch.equal(answers[1], answers[3])
    assert not torch.equal(answers[0], answers[1])


def test_without_two_different_labels_the_width_is_the_median_and_without_doubt_all_weigh_alike():
    generator = torch.Generator().manual_seed(6)
    features = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    sure = torch.eye(3, dtype=torch.float64)[torch.arange(30) % 3]
    unit = torch.nn.functional.normalize(features, dim=1)
    ids = torch.arange(30)

    def asked(**fields):
        return ask_uherding(Query(ids=ids, probs=sure, features=features, **fields), 8, generator=torch.Generator())

    kernel = MultiKernel.of(median_bandwidth(unit, unit[:0])[None])
    assert asked().tolist() == naive(unit, torch.ones(30), kernel, None, 8)
    same = 3 * unit[:1].expand(4, 4)
    kernel = MultiKernel.of(median_bandwidth(unit, torch.nn.functional.normalize(same, dim=1))[None])
    expected = naive(unit, torch.ones(30), kernel, gram(unit, unit[:1], kernel)[:, 0], 8)
    assert asked(labelled_features=same).tolist() == expected


@pytest.mark.parametrize(
    ("features", "weights", "covered", "budget", "message"),
    [
        (torch.zeros(3), torch.ones(3), None, 1, r"\(N, F\)"),
        (torch.zeros(3, 2), torch.ones(2), None, 1, r"\(N, F\)"),
        (torch.zeros(3, 2), torch.ones(3), torch.zeros(2), 1, "covered must be"),
        (torch.zeros(3, 2), torch.ones(3), torch.full((3,), 1.5), 1, "covered must be in"),
        (torch.zeros(3, 2), -torch.ones(3), None, 1, "weight"),
        (torch.zeros(3, 2), torch.ones(3) * torch.nan, None, 1, "weight"),
        (torch.zeros(3, 2), torch.ones(3), None, -1, "budget"),
        (torch.tensor([[0.0], [torch.inf]]), torch.ones(2), None, 1, "row 1 of features"),
    ],
)
def test_what_cannot_work_is_refused(features, weights, covered, budget, message):
    with pytest.raises(ValueError, match=message):
        greedy_coverage(features, weights, KERNEL, covered, budget)


def test_budget_zero_an_empty_pool_and_equal_rows():
    assert greedy_coverage(torch.zeros(3, 2), torch.ones(3), KERNEL, None, 0).shape == (0,)
    assert greedy_coverage(torch.zeros(0, 2), torch.ones(0), KERNEL, None, 2).shape == (0,)
    assert greedy_coverage(torch.full((5, 2), 0.1), torch.ones(5), KERNEL, None, 9).tolist() == [0, 1, 2, 3, 4]
