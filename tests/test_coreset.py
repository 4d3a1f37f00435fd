"""Greedy k-center against its naive twin, and against the best cover by brute force."""

import sys
from itertools import combinations

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

import active.strategies.coreset as coreset
from active.strategies.coreset import k_center_greedy
from active.strategies.distributed import sharded_k_center
from experiments.benchmarks.measure import PeakMemory


def distances(x, y):
    """|x_i - y_j| from differences in float64: (N, M)."""
    return torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")


def naive(pool, centres, budget):
    """The definition: every distance anew at every pick, Python's first maximum."""
    chosen = []
    if centres is None or len(centres) == 0:
        centres = pool[:0]
        if budget:
            chosen = [int(distances(pool, pool.double().mean(0)[None])[:, 0].argmin())]
    while len(chosen) < min(budget, len(pool)):
        d = distances(pool, torch.cat((centres.double(), pool[chosen].double()))).amin(1).tolist()
        chosen.append(max((row for row in range(len(pool)) if row not in chosen), key=lambda row: (d[row], -row)))
    return chosen


def radius(pool, centres):
    return distances(pool, centres).amin(1).max().item()


def features(kind, n, f, generator):
    x = torch.randn(n, f, generator=generator)
    if kind == "clustered relu":
        x = (3 * torch.randn(1 + n // 10, f, generator=generator).repeat(10, 1)[:n] + 0.3 * x).relu()
    elif kind == "duplicates":
        x = x[torch.randint(1 + n // 3, (n,), generator=generator)]
    elif kind == "integer ties":
        x = torch.randint(0, 3, (n, f), generator=generator).float()
    elif kind == "far from the origin":
        x = x + 1000
    elif kind == "an outlier":
        x[n // 2] *= 1e6
    elif kind == "dead":
        x = torch.ones(n, f)
    return x


@pytest.mark.parametrize(
    "kind",
    ["random", "clustered relu", "duplicates", "integer ties", "far from the origin", "an outlier", "dead"],
)
@pytest.mark.parametrize("labelled", [0, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_its_naive_twin(kind, labelled, dtype):
    generator = torch.Generator().manual_seed(len(kind) + labelled)
    for n, f, budget in ((150, 5, 60), (90, 40, 100)):
        x = features(kind, n + labelled, f, generator).to(dtype)
        pool, centres = x[labelled:], x[:labelled]
        picks = k_center_greedy(pool, centres, budget)
        assert picks.dtype == torch.long
        assert picks.tolist() == naive(pool, centres, budget)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_equals_its_naive_twin_on_small_integers_and_odd_floats(data):
    f = data.draw(st.integers(1, 3))
    number = st.integers(-2, 2).map(float) | st.floats(-1e3, 1e3, width=32)
    row = st.lists(number, min_size=f, max_size=f)
    pool = torch.tensor(data.draw(st.lists(row, min_size=1, max_size=12)), dtype=torch.float64)
    centres = torch.tensor(data.draw(st.lists(row, max_size=4)), dtype=torch.float64).reshape(-1, f)
    budget = data.draw(st.integers(0, 14))
    assert k_center_greedy(pool, centres, budget).tolist() == naive(pool, centres, budget)


def test_small_shortlists_and_chunks_change_nothing(monkeypatch):
    """Stale bounds, new shortlists, doubling and blocks all take part when nothing fits into one product."""
    x = features("clustered relu", 130, 6, torch.Generator().manual_seed(3))
    expected = k_center_greedy(x[30:], x[:30], 50)
    for size in (1, 3, 17):
        monkeypatch.setattr(coreset, "SHORTLIST", size)
        monkeypatch.setattr(coreset, "FIRST", size)
        monkeypatch.setattr(coreset, "CHUNK", size + 2)
        assert torch.equal(k_center_greedy(x[30:], x[:30], 50), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_precisions_and_wider_products_change_nothing(dtype, monkeypatch):
    """Half precision is exact in float32; and what is measured in float64 doesn't depend on what products are in."""
    x = features("clustered relu", 130, 6, torch.Generator().manual_seed(4)).to(dtype)
    expected = k_center_greedy(x[30:], x[:30], 50)
    assert torch.equal(k_center_greedy(x[30:].double(), x[:30].double(), 50), expected)
    monkeypatch.setattr(coreset, "full_precision", lambda device: False)
    assert torch.equal(k_center_greedy(x[30:], x[:30], 50), expected)


def test_products_that_are_shortened_are_noticed(monkeypatch):
    assert coreset.full_precision(torch.device("cpu"))
    plain = coreset._squares
    for shorter in (torch.bfloat16, torch.float16):
        monkeypatch.setattr(
            coreset, "_squares", lambda x, x_sq, c, c_sq, to=shorter: plain(x.to(to).float(), x_sq, c, c_sq)
        )
        assert not coreset.full_precision(torch.device("cpu"))


def test_tiny_values_do_not_vanish():
    """Squares below float32's range: products know nothing, differences decide."""
    pool = 1e-30 * torch.arange(40, dtype=torch.float32)[:, None]
    assert k_center_greedy(pool, pool[:1], 20).tolist() == naive(pool, pool[:1], 20)


def test_a_file_is_read_in_blocks(tmp_path):
    """The same picks from a memory-mapped file, and nowhere near a second copy of it in memory."""
    n, f = 100_000, 128
    mapped = np.memmap(tmp_path / "features.bin", dtype=np.float32, mode="w+", shape=(n, f))
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((20, f), dtype=np.float32)
    for low in range(0, n, 10_000):
        noise = 0.1 * generator.standard_normal((10_000, f), dtype=np.float32)
        mapped[low : low + 10_000] = centres[generator.integers(20, size=10_000)] + noise
    pool = torch.from_numpy(mapped)
    expected = k_center_greedy(pool.clone(), pool[:5].clone(), 30)
    peak = PeakMemory(torch.device("cpu"))
    peak.start()
    picks = k_center_greedy(pool, pool[:5], 30)
    beyond = peak.stop()
    assert torch.equal(picks, expected)
    if sys.platform == "linux":
        assert beyond < 0.6 * mapped.nbytes


def share_and_ask(rank, folder):
    """One of two processes: every case of `cases`, its picks to a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    picks = []
    for pool, centres, budget, at in cases():
        share = pool[:at] if rank == 0 else pool[at:]
        picks.append(sharded_k_center(share, centres, budget))
    said = []
    bad = torch.tensor([[0.0], [float("nan")]])
    for share in (bad if rank else bad[:1], torch.zeros(2, 1 + rank)):
        try:
            sharded_k_center(share, None, 1)
        except ValueError as error:
            said.append(str(error))
    torch.save({"picks": picks, "said": said}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def cases():
    """pool, centres, budget, how many rows the first process has."""
    for kind, labelled, at in (
        ("clustered relu", 7, 60),
        ("random", 0, 31),
        ("integer ties", 3, 50),
        ("dead", 0, 40),
        ("duplicates", 0, 0),
    ):
        x = features(kind, 120 + labelled, 5, torch.Generator().manual_seed(labelled + at))
        yield x[labelled:], x[:labelled], 20, at
    yield torch.tensor([[0.0], [4.0], [1.0], [5.0]]), None, 9, 2


def test_two_processes_pick_what_one_picks(tmp_path):
    torch.multiprocessing.spawn(share_and_ask, args=(str(tmp_path),), nprocs=2)
    answers = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    expected = [k_center_greedy(pool, centres, budget) for pool, centres, budget, _ in cases()]
    for answer in answers:
        assert len(answer["picks"]) == len(expected)
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(answer["picks"], expected, strict=True))
    differ = "differ in the budget, the features"
    for said, first in ((answers[0]["said"], "another process"), (answers[1]["said"], "row 1 of this process's share")):
        assert first in said[0] and differ in said[1]


def test_is_lazy(monkeypatch):
    """Far fewer than the N budget distances that one product a pick would take."""
    seen = []
    plain = coreset._upper_bounds

    def counting(x, x_sq, c, c_sq):
        seen.append(len(x) * len(c))
        return plain(x, x_sq, c, c_sq)

    monkeypatch.setattr(coreset, "_upper_bounds", counting)
    x = torch.randn(3000, 16, generator=torch.Generator().manual_seed(0))
    budget = 150
    k_center_greedy(x, None, budget)
    assert sum(seen) < len(x) * budget / 2


@pytest.mark.parametrize("labelled", [0, 1, 3])
@pytest.mark.parametrize("budget", [1, 2, 3])
def test_radius_is_at_most_twice_the_best(labelled, budget):
    for seed in range(15):
        x = torch.randn(9 + labelled, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        pool, centres = x[labelled:], x[:labelled]
        greedy = radius(pool, torch.cat((centres, pool[k_center_greedy(pool, centres, budget)])))
        best = min(
            radius(pool, torch.cat((centres, pool[list(rows)]))) for rows in combinations(range(len(pool)), budget)
        )
        assert best <= greedy <= 2 * best + 1e-12


def test_cold_start_is_the_row_nearest_to_the_mean_wherever_it_stands():
    x = torch.tensor([[9.0, 0.0], [-9.0, 0.0], [0.5, 0.0], [0.0, 9.0], [0.0, -9.0]])
    for shift in range(5):
        pool = x.roll(shift, 0)
        for none in (None, torch.empty(0, 2), torch.empty(0, 0)):
            assert torch.equal(pool[k_center_greedy(pool, none, 1)], x[2:3])


def test_picks_follow_a_permutation_and_a_rigid_motion_of_the_pool():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(60, 4, generator=generator, dtype=torch.float64)
    order = torch.randperm(60, generator=generator)
    picks = k_center_greedy(x, x[:0], 20)
    assert torch.equal(order[k_center_greedy(x[order], None, 20)], picks)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64)).Q
    assert torch.equal(k_center_greedy(3 * x @ turn + 5, None, 20), picks)


def test_equal_rows_still_give_distinct_picks_in_order():
    assert k_center_greedy(torch.full((6, 3), 0.1), torch.full((2, 3), 0.1), 9).tolist() == [0, 1, 2, 3, 4, 5]


def test_huge_values_do_not_overflow_into_wrong_picks():
    pool = torch.tensor([[0.0], [1e30], [-3e30], [1.0]], dtype=torch.float32)
    assert k_center_greedy(pool, torch.zeros(1, 1), 4).tolist() == [2, 1, 3, 0]


@pytest.mark.parametrize(
    ("pool", "centres", "budget", "message"),
    [
        (torch.zeros(3), None, 1, "samples, features"),
        (torch.zeros(3, 2), torch.zeros(1, 3), 1, "features of pool"),
        (torch.zeros(3, 2), None, -1, "budget must be"),
        (torch.zeros(3, 2), None, 1.5, "budget must be"),
        (torch.tensor([[0.0], [float("nan")]]), None, 1, "row 1 of pool"),
        (torch.zeros(2, 1), torch.tensor([[float("inf")]]), 1, "row 0 of centres"),
    ],
)
def test_what_cannot_work_is_refused(pool, centres, budget, message):
    with pytest.raises(ValueError, match=message):
        k_center_greedy(pool, centres, budget)


def test_budget_zero_and_an_empty_pool_are_empty():
    assert k_center_greedy(torch.zeros(3, 2), None, 0).shape == (0,)
    assert k_center_greedy(torch.zeros(0, 2), torch.zeros(1, 2), 5).shape == (0,)
