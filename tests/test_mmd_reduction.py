"""MMD reduction against brute force, which computes the biased MMD^2 of every candidate from the definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import active.strategies.mmd_witness as witness
from active import Query
from active.strategies import STRATEGIES
from active.strategies.mmd_reduction import TIE, greedy_mmd_reduction, kernel_sums
from dan.mmd import MultiKernel, median_bandwidth

both_forms = pytest.mark.parametrize("joins_source", [False, True], ids=["leaves", "joins"])


def gram(x, y, kernel):
    """sum_u beta_u exp(-|x_i - y_j|^2 / gamma_u) from differences: (N, M) float64."""
    d2 = (x.double()[:, None] - y.double()[None]).square().sum(-1)
    terms = zip(kernel.weights.tolist(), kernel.bandwidths.tolist(), strict=True)
    return sum(beta * torch.exp(-d2 / gamma) for beta, gamma in terms)


def biased_mmd2(x, y, kernel):
    return (gram(x, x, kernel).mean() + gram(y, y, kernel).mean() - 2 * gram(x, y, kernel).mean()).item()


def values_of_removal(target, source, taken, kernel, joins_source):
    """MMD^2 after each row that is left would be taken too: dict row -> value."""
    values = {}
    for row in range(len(target)):
        if row not in taken:
            gone = [*taken, row]
            rest = [other for other in range(len(target)) if other not in gone]
            joined = torch.cat((source, target[gone])) if joins_source else source
            values[row] = biased_mmd2(joined, target[rest], kernel) if rest else 0.0
    return values


def assert_greedy(picks, target, source, kernel, joins_source):
    """Every pick is the lowest row among those within rounding of the least MMD^2."""
    taken: list[int] = []
    for pick in picks:
        values = values_of_removal(target, source, taken, kernel, joins_source)
        least = min(values.values())
        # What the strategy calls a tie, of its witness; a removal changes MMD^2 by at most twice as much.
        near = [row for row, value in values.items() if value <= least + 2 * TIE]
        assert pick in near
        taken.append(pick)


@both_forms
@pytest.mark.parametrize(("n", "s", "f"), [(14, 9, 3), (9, 20, 8), (6, 1, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_brute_force(joins_source, n, s, f, dtype):
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        target = torch.randn(n, f, generator=generator).to(dtype) + 0.7
        source = torch.randn(s, f, generator=generator).to(dtype)
        kernel = MultiKernel(torch.tensor([0.5, 2.0, 9.0]), torch.tensor([0.2, 0.5, 0.3]))
        picks = greedy_mmd_reduction(target, source, n + 1, kernel, joins_source=joins_source).tolist()
        assert sorted(picks) == list(range(n))
        taken: list[int] = []
        for pick in picks:
            values = values_of_removal(target, source, taken, kernel, joins_source)
            assert pick == min(values, key=values.__getitem__)
            taken.append(pick)


@both_forms
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_equals_brute_force_with_duplicates_and_ties(joins_source, data):
    f = data.draw(st.integers(1, 2))
    row = st.lists(st.integers(-2, 2).map(float), min_size=f, max_size=f)
    target = torch.tensor(data.draw(st.lists(row, min_size=1, max_size=7)), dtype=torch.float64)
    source = torch.tensor(data.draw(st.lists(row, min_size=1, max_size=5)), dtype=torch.float64)
    kernel = MultiKernel.ladder(data.draw(st.sampled_from([0.3, 1.0, 8.0])), count=3)
    picks = greedy_mmd_reduction(target, source, len(target), kernel, joins_source=joins_source).tolist()
    assert sorted(picks) == list(range(len(target)))
    assert_greedy(picks, target, source, kernel, joins_source)
    # Of equal rows the lowest is asked for first.
    for at, pick in enumerate(picks):
        assert not any(other < pick and torch.equal(target[other], target[pick]) for other in picks[at + 1 :])


@both_forms
def test_all_equal_rows_are_taken_in_order(joins_source):
    kernel = MultiKernel.ladder(1.0)
    same = torch.full((5, 3), 0.3)
    assert greedy_mmd_reduction(same, same[:2], 9, kernel, joins_source=joins_source).tolist() == [0, 1, 2, 3, 4]


@both_forms
@pytest.mark.parametrize("n", [20, 67])
def test_of_equal_rows_the_lowest_goes_first_whatever_a_product_rounds(joins_source, n):
    generator = torch.Generator().manual_seed(n)
    distinct = torch.randn(n, 37, generator=generator)
    target = distinct.repeat(3, 1)
    source = torch.randn(50, 37, generator=generator) + 0.2
    kernel = MultiKernel.ladder(median_bandwidth(source, target))
    picks = greedy_mmd_reduction(target, source, 3 * n, kernel, joins_source=joins_source).tolist()
    place = {row: at for at, row in enumerate(picks)}
    assert all(place[row] < place[row + n] < place[row + 2 * n] for row in range(n))


@both_forms
def test_what_lies_outside_the_source_is_asked_for_first(joins_source):
    generator = torch.Generator().manual_seed(5)
    source = torch.randn(80, 4, generator=generator)
    target = torch.randn(60, 4, generator=generator)
    planted = list(range(7, 43, 3))
    target[planted] = 6 + 0.3 * torch.randn(len(planted), 4, generator=generator)
    kernel = MultiKernel.ladder(median_bandwidth(source, target))
    picks = greedy_mmd_reduction(target, source, 4, kernel, joins_source=joins_source).tolist()
    assert set(picks) <= set(planted)


def test_joining_picks_is_the_same_in_one_batch_or_in_two():
    generator = torch.Generator().manual_seed(2)
    source = torch.randn(30, 3, generator=generator)
    target = torch.randn(25, 3, generator=generator) + 1
    kernel = MultiKernel.ladder(4.0)
    once = greedy_mmd_reduction(target, source, 10, kernel, joins_source=True)
    left = torch.ones(25, dtype=torch.bool)
    left[once[:4]] = False
    rows = left.nonzero()[:, 0]
    then = greedy_mmd_reduction(target[left], torch.cat((source, target[once[:4]])), 6, kernel, joins_source=True)
    assert torch.equal(rows[then], once[4:])


def test_picks_follow_a_permutation_and_a_shift_of_both_domains():
    generator = torch.Generator().manual_seed(4)
    source = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    target = torch.randn(30, 3, generator=generator, dtype=torch.float64) + 0.5
    order = torch.randperm(30, generator=generator)
    kernel = MultiKernel.ladder(3.0)
    picks = greedy_mmd_reduction(target, source, 12, kernel)
    assert torch.equal(order[greedy_mmd_reduction(target[order], source.flip(0), 12, kernel)], picks)
    assert torch.equal(greedy_mmd_reduction(target + 100, source + 100, 12, kernel), picks)


def test_the_strategy_counts_labelled_samples_as_source_and_uses_the_querys_kernel():
    generator = torch.Generator().manual_seed(6)
    source = torch.randn(40, 2, generator=generator)
    near, far = torch.randn(20, 2, generator=generator) + 4, torch.randn(20, 2, generator=generator) - 4
    target = torch.cat((near, far))
    ids = torch.arange(40) + 500
    ask = STRATEGIES["mmd_reduction"]

    def asked(**fields):
        query = Query(ids=ids, features=target, source_features=source, **fields)
        return ask(query, 6, generator=torch.Generator().manual_seed(0))

    ladder = MultiKernel.ladder(median_bandwidth(source, target))
    expected = greedy_mmd_reduction(target, source, 6, ladder, joins_source=True) + 500
    assert torch.equal(asked(), expected)
    assert torch.equal(asked(labelled_features=target[:0]), expected)
    # With the near half covered by labels, all that is asked for lies in the far half.
    labelled = torch.randn(30, 2, generator=generator) + 4
    assert bool((asked(labelled_features=labelled) >= 520).all())
    narrow = MultiKernel.ladder(0.01, count=1)
    picks = greedy_mmd_reduction(target, source, 6, narrow, joins_source=True) + 500
    assert torch.equal(asked(kernel=narrow), picks)
    assert not torch.equal(picks, expected)


@pytest.mark.parametrize(
    ("target", "source", "budget", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(0, 2), 1, "source has no samples"),
        (torch.zeros(3, 2), torch.zeros(2, 3), 1, "same features"),
        (torch.zeros(3), torch.zeros(2, 3), 1, "same features"),
        (torch.zeros(3, 2), torch.zeros(2, 2), -1, "budget must be"),
        (torch.tensor([[0.0], [float("nan")]]), torch.zeros(2, 1), 1, "row 1 of target"),
        (torch.zeros(2, 1), torch.tensor([[float("inf")]]), 1, "row 0 of source"),
    ],
)
def test_what_cannot_work_is_refused(target, source, budget, message):
    with pytest.raises(ValueError, match=message):
        greedy_mmd_reduction(target, source, budget, MultiKernel.ladder(1.0))


def test_budget_zero_and_an_empty_target_are_empty():
    kernel = MultiKernel.ladder(1.0)
    assert greedy_mmd_reduction(torch.zeros(3, 2), torch.zeros(1, 2), 0, kernel).shape == (0,)
    assert greedy_mmd_reduction(torch.zeros(0, 2), torch.zeros(1, 2), 4, kernel).shape == (0,)


def plain(target, source, budget, kernel, joins_source):
    """The greedy with every sum in float64 from differences, and a whole row of the kernel at each pick."""
    target, source = target.double(), source.double()

    def k(x, y):
        d = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
        return kernel.of_squared_distances(d.square()) / kernel.weights.double().sum()

    p, r = k(target, source).sum(1), k(target, target).sum(1)
    n, m, picks = len(source), len(target), []
    for _ in range(budget):
        w = p / (n + joins_source) - r / max(1, m - 1)
        w[picks] = torch.inf
        picks.append(int((w <= w.min() + TIE).nonzero()[0, 0]))
        row = k(target, target[picks[-1]][None])[:, 0]
        m, r = m - 1, r - row
        if joins_source:
            n, p = n + 1, p + row
    return picks


def hard(kind, generator):
    """Features in float32 whose kernel sums in float32 are off in different ways."""
    x, y = torch.randn(160, 24, generator=generator), torch.randn(110, 24, generator=generator) + 0.2
    if kind == "duplicates":
        x = x[torch.randint(50, (160,), generator=generator)]
    elif kind == "far from the origin":
        x, y = x + 300, y + 300
    elif kind == "tight clusters":
        x = 20 * x[torch.randint(5, (160,), generator=generator)].relu() + 0.01 * x
    elif kind == "outliers":
        x[::20] = 1000 + 0.5 * torch.randn(8, 24, generator=generator)
    elif kind == "nearly equal":
        x, y = 1 + 1e-4 * x, 1 + 1e-4 * y
    return x, y


KINDS = ["random", "duplicates", "far from the origin", "tight clusters", "outliers", "nearly equal"]


@both_forms
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("paper", [False, True], ids=["ladder", "paper"])
def test_rounding_in_float32_decides_no_pick(monkeypatch, joins_source, kind, paper):
    x, y = hard(kind, torch.Generator().manual_seed(len(kind)))
    gamma = median_bandwidth(x, y).double()
    kernel = MultiKernel.paper(gamma) if paper else MultiKernel.ladder(gamma)
    expected = plain(x, y, 160, kernel, joins_source)
    assert greedy_mmd_reduction(x, y, 160, kernel, joins_source=joins_source).tolist() == expected
    monkeypatch.setattr(witness, "BATCH", 3)  # rows of the kernel are dropped, and computed again
    assert greedy_mmd_reduction(x, y, 60, kernel, joins_source=joins_source).tolist() == expected[:60]


def test_sums_that_are_wrong_by_more_than_the_bound_are_noticed(monkeypatch):
    """What is seen of the error widens the bound: sums a thousand times worse than float32's give the same picks."""
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(120, 8, generator=generator), torch.randn(90, 8, generator=generator)
    kernel = MultiKernel.ladder(median_bandwidth(x, y))
    sums = kernel_sums(x, y, kernel)
    monkeypatch.setattr(witness, "BATCH", 4)
    coarse = sums * (1 + 1e-2 * torch.randn(2, 120, generator=generator, dtype=torch.float64))
    assert greedy_mmd_reduction(x, y, 60, kernel, sums=coarse).tolist() == plain(x, y, 60, kernel, False)


def test_few_candidates_have_their_sums_taken_anew(monkeypatch):
    generator = torch.Generator().manual_seed(4)
    x, y = torch.randn(1000, 16, generator=generator), torch.randn(500, 16, generator=generator) + 0.3
    met = []
    rows = witness.kernel_rows
    monkeypatch.setattr(witness, "kernel_rows", lambda a, b, *rest: met.append(len(a) * len(b)) or rows(a, b, *rest))
    greedy_mmd_reduction(x, y, 50, MultiKernel.ladder(median_bandwidth(x, y)))
    assert sum(met) < 0.25 * len(x) * (len(x) + len(y))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shards_of_the_sums_add_up_and_give_the_same_picks(dtype):
    generator = torch.Generator().manual_seed(8)
    x, y = torch.randn(130, 6, generator=generator).to(dtype), torch.randn(71, 6, generator=generator).to(dtype)
    kernel = MultiKernel.ladder(median_bandwidth(x, y))
    whole = kernel_sums(x, y, kernel)
    expected = torch.stack((gram(x, y, kernel).sum(1), gram(x, x, kernel).sum(1)))
    tolerance = {"rtol": 1e-5 if dtype == torch.float32 else 1e-12, "atol": 0}
    torch.testing.assert_close(whole, expected, **tolerance)
    for shards in (2, 3, 200):
        parts = [kernel_sums(x, y, kernel, shard=shard, shards=shards) for shard in range(shards)]
        torch.testing.assert_close(sum(parts), whole, **tolerance)
        for joins_source in (False, True):
            picks = greedy_mmd_reduction(x, y, 40, kernel, joins_source=joins_source, sums=sum(parts))
            assert torch.equal(picks, greedy_mmd_reduction(x, y, 40, kernel, joins_source=joins_source))
    with pytest.raises(ValueError, match=r"shard must be in 0 \.\. 1"):
        kernel_sums(x, y, kernel, shard=2, shards=2)
    with pytest.raises(ValueError, match=r"sums must be \(2, 130\)"):
        greedy_mmd_reduction(x, y, 1, kernel, sums=whole[0])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_the_kernel_are_exact_whatever_the_features(kind):
    x, y = hard(kind, torch.Generator().manual_seed(1))
    kernel = MultiKernel.paper(median_bandwidth(x, y).double())
    for other in (x, y):
        rows = witness.kernel_rows(x[:20], other, kernel, witness.mean_row(x))
        torch.testing.assert_close(rows, gram(x[:20], other, kernel), rtol=0, atol=1e-12)
