"""Kernel herding against brute force, which computes the biased MMD^2 to the whole target of every candidate."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import active.strategies.mmd_witness as witness
from active import Query
from active.strategies.kernel_herding import ask_kernel_herding, kernel_herding
from dan.mmd import MultiKernel, median_bandwidth

KERNEL = MultiKernel(torch.tensor([0.5, 2.0, 9.0]), torch.tensor([0.2, 0.5, 0.3]))


def gram(x, y, kernel):
    """sum_u beta_u exp(-|x_i - y_j|^2 / gamma_u) from differences: (N, M) float64."""
    d2 = (x.double()[:, None] - y.double()[None]).square().sum(-1)
    terms = zip(kernel.weights.double().tolist(), kernel.bandwidths.tolist(), strict=True)
    return sum(beta * torch.exp(-d2 / gamma) for beta, gamma in terms) / kernel.weights.double().sum()


def scores(pool, labelled, taken, kernel):
    """mean_t k(x_i, t) - 1/(n + 1) sum_s k(x_i, s): (N,)."""
    chosen = torch.cat((labelled, pool[taken]))
    target = torch.cat((pool, labelled))
    return gram(pool, target, kernel).mean(1) - gram(pool, chosen, kernel).sum(1) / (len(chosen) + 1)


def assert_greedy(picks, pool, labelled, kernel):
    for t, pick in enumerate(picks):
        values = scores(pool, labelled, picks[:t], kernel)
        rows = [row for row in range(len(pool)) if row not in picks[:t]]
        best = max(values[row].item() for row in rows)
        assert pick == next(row for row in rows if values[row] >= best - 1e-12)


def small(seed, n=14, labelled=5, f=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n + labelled, f, generator=generator).to(dtype)
    return x[labelled:], x[:labelled]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("labelled", [0, 1, 6])
def test_equals_the_definition(dtype, labelled):
    for seed in range(3):
        pool, known = small(seed, labelled=labelled, dtype=dtype)
        picks = kernel_herding(pool, known, 20, KERNEL).tolist()
        assert sorted(picks) == list(range(14))
        assert_greedy(picks, pool, known, KERNEL)


@settings(max_examples=40)
@given(data=st.data())
def test_equals_the_definition_with_duplicates_and_ties(data):
    f = data.draw(st.integers(1, 2))
    row = st.lists(st.integers(-2, 2).map(float), min_size=f, max_size=f)
    pool = torch.tensor(data.draw(st.lists(row, min_size=1, max_size=8)))
    labelled = torch.tensor(data.draw(st.lists(row, max_size=4))).reshape(-1, f)
    kernel = MultiKernel.ladder(data.draw(st.sampled_from([0.3, 1.0, 8.0])), count=3)
    assert_greedy(kernel_herding(pool, labelled, len(pool), kernel).tolist(), pool, labelled, kernel)


def test_each_pick_brings_the_chosen_closest_to_the_whole_target():
    """The score is MMD^2(T, L u B u {x}) but for constants and a factor: the greedy step is the best single one."""
    pool, labelled = small(7)
    target = torch.cat((pool, labelled))
    chosen: list[int] = []
    for pick in kernel_herding(pool, labelled, 6, KERNEL).tolist():

        def discrepancy(row, chosen=tuple(chosen)):
            s = torch.cat((labelled, pool[[*chosen, row]]))
            return (gram(s, s, KERNEL).mean() - 2 * gram(s, target, KERNEL).mean()).item()

        rows = [row for row in range(14) if row not in chosen]
        assert pick == min(rows, key=discrepancy)
        chosen.append(pick)


def test_the_first_of_a_cold_start_is_the_mode_and_the_next_is_elsewhere():
    generator = torch.Generator().manual_seed(0)
    small_cluster, large = (
        torch.randn(20, 2, generator=generator) * 0.2 + 5,
        torch.randn(40, 2, generator=generator) * 0.2,
    )
    pool = torch.cat((small_cluster, large))
    picks = kernel_herding(pool, None, 3, MultiKernel.ladder(1.0)).tolist()
    assert [pick < 20 for pick in picks] == [False, True, False]


def test_asking_twice_is_asking_once():
    pool, labelled = small(3, n=25)
    once = kernel_herding(pool, labelled, 10, KERNEL)
    left = torch.ones(25, dtype=torch.bool)
    left[once[:4]] = False
    then = kernel_herding(pool[left], torch.cat((labelled, pool[once[:4]])), 6, KERNEL)
    assert torch.equal(left.nonzero()[:, 0][then], once[4:])


def test_rounding_in_float32_decides_no_pick(monkeypatch):
    generator = torch.Generator().manual_seed(1)
    pool, labelled = torch.randn(300, 24, generator=generator), torch.randn(20, 24, generator=generator)
    kernel = MultiKernel.ladder(median_bandwidth(pool, labelled))
    monkeypatch.setattr(witness, "BATCH", 8)  # rows of the kernel come, go, and come again
    fast = kernel_herding(pool, labelled, 90, kernel)
    assert torch.equal(fast, kernel_herding(pool.double(), labelled.double(), 90, kernel))
    assert_greedy(fast.tolist()[:5], pool, labelled, kernel)


def test_the_strategy_goes_on_from_the_labelled_and_uses_the_querys_kernel():
    pool, labelled = small(5, n=30, labelled=8, dtype=torch.float32)
    ids = 700 + torch.arange(30)

    def asked(**fields):
        return ask_kernel_herding(Query(ids=ids, features=pool, **fields), 7, generator=torch.Generator()) - 700

    alone = MultiKernel.ladder(median_bandwidth(pool, pool[:0]))
    both = MultiKernel.ladder(median_bandwidth(pool, labelled))
    assert torch.equal(asked(), kernel_herding(pool, None, 7, alone))
    assert torch.equal(asked(labelled_features=labelled), kernel_herding(pool, labelled, 7, both))
    assert torch.equal(asked(labelled_features=labelled, kernel=KERNEL), kernel_herding(pool, labelled, 7, KERNEL))
    assert not torch.equal(asked(labelled_features=labelled, kernel=KERNEL), asked(kernel=KERNEL))
    one = Query(ids=ids[:1], features=pool[:1])
    assert ask_kernel_herding(one, 3, generator=torch.Generator()).tolist() == [700]


@pytest.mark.parametrize(
    ("pool", "labelled", "budget", "message"),
    [
        (torch.zeros(3), None, 1, "same features"),
        (torch.zeros(3, 2), torch.zeros(2, 3), 1, "same features"),
        (torch.zeros(3, 2), None, -1, "budget must be"),
        (torch.tensor([[0.0], [float("nan")]]), None, 1, "row 1 of pool"),
        (torch.zeros(2, 1), torch.tensor([[float("inf")]]), 1, "row 0 of labelled"),
    ],
)
def test_what_cannot_work_is_refused(pool, labelled, budget, message):
    with pytest.raises(ValueError, match=message):
        kernel_herding(pool, labelled, budget, KERNEL)


def test_budget_zero_and_an_empty_pool_are_empty_and_equal_rows_go_in_order():
    assert kernel_herding(torch.zeros(3, 2), None, 0, KERNEL).shape == (0,)
    assert kernel_herding(torch.zeros(0, 2), None, 4, KERNEL).shape == (0,)
    assert kernel_herding(torch.full((4, 2), 0.1), torch.full((2, 2), 0.1), 9, KERNEL).tolist() == [0, 1, 2, 3]
