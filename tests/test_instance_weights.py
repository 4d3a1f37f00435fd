"""Kernel mean matching against another solver, its optimality conditions and planted shifts; subsets against loops."""

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor
from torch.utils.data import TensorDataset

from dan import DAN, instance_weights
from dan.__main__ import main
from dan.cli.source_weights import backbone_features, source_weights
from dan.errors import UserError
from dan.instance_weights import effective_size, kernel_mean_matching, source_subset
from dan.mmd import MultiKernel, median_bandwidth, mmd2
from dan.run_dir import read_records


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gram(x: Tensor, y: Tensor, kernel: MultiKernel) -> Tensor:
    return kernel.of_squared_distances((x[:, None].double() - y.double()).square().sum(2))


def distance(w: Tensor, x: Tensor, y: Tensor, kernel: MultiKernel) -> float:
    """|(1/N) sum w phi(x) - (1/M) sum phi(y)|^2, from all pairs."""
    w = w / len(x)
    return float(w @ gram(x, x, kernel) @ w - 2 * w @ gram(x, y, kernel).mean(1) + gram(y, y, kernel).mean())


def shifted(n: int = 300, m: int = 200, f: int = 1, seed: int = 0) -> tuple[Tensor, Tensor, MultiKernel]:
    """Source N(0, 1), target N(1, 1/4) in the first feature: the log of the ratio is quadratic in it."""
    x, y = normal(n, f, seed=seed), normal(m, f, seed=seed + 1)
    y[:, 0] = 1 + y[:, 0] / 2
    return x, y, MultiKernel.ladder(median_bandwidth(x, y))


@settings(max_examples=12)
@given(
    n=st.integers(2, 12),
    m=st.integers(1, 9),
    f=st.integers(1, 3),
    bound=st.sampled_from([1.2, 3.0, 1000.0]),
    slack=st.sampled_from([0.0, 0.1, 0.5]),
    seed=st.integers(0, 1000),
)
def test_reaches_what_another_solver_reaches(n: int, m: int, f: int, bound: float, slack: float, seed: int) -> None:
    x, y = normal(n, f, seed=seed), normal(m, f, seed=seed + 1) + 0.7
    kernel = MultiKernel.of([1.0, 8.0])
    w = kernel_mean_matching(x, y, kernel, bound=bound, slack=slack)
    k, a = gram(x, x, kernel).numpy(), gram(x, y, kernel).mean(1).numpy()
    other = minimize(
        lambda v: (v @ k @ v / n - 2 * a @ v, 2 * (k @ v / n - a)),
        np.ones(n),
        jac=True,
        method="SLSQP",
        bounds=[(0, bound)] * n,
        constraints=[
            {"type": "ineq", "fun": lambda v: v.mean() - (1 - slack), "jac": lambda v: np.full(n, 1 / n)},
            {"type": "ineq", "fun": lambda v: (1 + slack) - v.mean(), "jac": lambda v: np.full(n, -1 / n)},
        ],
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    of_other = distance(torch.from_numpy(other.x), x, y, kernel)
    assert distance(w, x, y, kernel) == pytest.approx(of_other, abs=2e-6)


@pytest.mark.parametrize(("bound", "slack"), [(10.0, 0.1), (2.0, 0.0), (1000.0, 0.97), (1.0, 0.0), (5.0, 1.0)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_the_bounds_hold_exactly(bound: float, slack: float, dtype: torch.dtype) -> None:
    x, y, kernel = shifted(f=3)
    w = kernel_mean_matching(x.to(dtype), y.to(dtype), kernel, bound=bound, slack=slack)
    assert w.dtype == torch.float64 and w.shape == (300,)
    assert float(w.min()) >= 0 and float(w.max()) <= bound
    assert abs(float(w.mean()) - 1) <= slack + 1e-12
    if bound == 1:
        assert bool((w == 1).all())  # the only weights of mean 1


@pytest.mark.parametrize(("bound", "slack"), [(10.0, 0.1), (3.0, 0.0), (1.5, 0.02)])
def test_optimality_conditions(bound: float, slack: float) -> None:
    """With one multiplier for the mean, the gradient vanishes between the bounds, and points outwards on them."""
    x, y, kernel = shifted(150, 100, 2)
    w = kernel_mean_matching(x, y, kernel, bound=bound, slack=slack)
    gradient = 2 * (gram(x, x, kernel) @ w / len(x) - gram(x, y, kernel).mean(1))
    inside = (w > 1e-3) & (w < bound - 1e-3)
    multiplier = float(gradient[inside].mean())
    assert float((gradient[inside] - multiplier).abs().max()) < 1e-4
    assert float(gradient[w < 1e-5].min()) > multiplier - 1e-4
    if bool((w > bound - 1e-5).any()):
        assert float(gradient[w > bound - 1e-5].max()) < multiplier + 1e-4
    if abs(float(w.mean()) - 1) < slack - 1e-4:
        assert abs(multiplier) < 1e-4  # the band is not felt


def test_recovers_the_ratio_of_densities() -> None:
    x, y, kernel = shifted(800, 800)
    w = kernel_mean_matching(x, y, kernel)
    z = x[:, 0]
    ratio = 2 * torch.exp(z**2 / 2 - 2 * (z - 1) ** 2)
    bins = torch.tensor([-1.0, -0.25, 0.0, 0.25, 0.5, 1.0])
    place = torch.bucketize(z, bins)
    # Weights of single samples scatter (the kernel matrix is all but singular); those of regions may not.
    of_weights, of_ratio = ([float(v[place == b].mean()) for b in range(7)] for v in (w, ratio))
    assert of_weights[:6] == sorted(of_weights[:6])
    assert of_weights == pytest.approx(of_ratio, abs=0.35)
    assert np.corrcoef(w, ratio)[0, 1] > 0.6
    # What they are for: means under the weights are the target's.
    assert float((w * z).mean()) == pytest.approx(float(y.mean()), abs=0.05)
    assert abs(float(z.mean() - y.mean())) > 0.9


def test_weighted_mean_embedding_is_nearer() -> None:
    x, y, kernel = shifted(f=4)
    w, ones = kernel_mean_matching(x, y, kernel), torch.ones(300, dtype=torch.float64)
    assert distance(w, x, y, kernel) < distance(ones, x, y, kernel) / 10
    looser = kernel_mean_matching(x, y, kernel, bound=1000, slack=0.9)
    assert distance(looser, x, y, kernel) <= distance(w, x, y, kernel) + 1e-9
    tighter = kernel_mean_matching(x, y, kernel, bound=2, slack=0.0)
    assert distance(tighter, x, y, kernel) >= distance(w, x, y, kernel) - 1e-9
    assert effective_size(tighter) > effective_size(w) > effective_size(looser) > 1


def test_a_classifier_learns_the_target_better_under_the_weights() -> None:
    """The classes' border bends; a linear classifier must choose where to be right, and the weights say where."""
    from sklearn.linear_model import LogisticRegression

    x, y, kernel = shifted(400, 300, 2)
    label, truth = ((z[:, 1] > z[:, 0] ** 2 - 1).long() for z in (x, y))
    w = kernel_mean_matching(x, y, kernel)
    plain = LogisticRegression().fit(x, label).score(y, truth)
    weighted = LogisticRegression().fit(x, label, sample_weight=w).score(y, truth)
    assert weighted > plain + 0.05


def test_equal_domains_have_equal_weights_for_equal_samples() -> None:
    x = normal(40, 2)
    w = kernel_mean_matching(x, x, MultiKernel.of([2.0]), slack=0.5)
    assert distance(w, x, x, MultiKernel.of([2.0])) == pytest.approx(0, abs=1e-6)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    y = normal(30, 2, seed=5) + 1
    kernel = MultiKernel.of([0.05])  # narrow: the matrix is well conditioned, the solution unique
    w = kernel_mean_matching(x, y, kernel, slack=1.0)
    torch.testing.assert_close(kernel_mean_matching(x[order], y, kernel, slack=1.0), w[order], rtol=0, atol=1e-4)


def test_bad_input_of_matching(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, kernel = normal(5, 2), normal(4, 2), MultiKernel.of([1.0])
    with pytest.raises(ValueError, match="cannot have a mean of 0.9 or more"):
        kernel_mean_matching(x, y, kernel, bound=0.5)
    with pytest.raises(ValueError, match="the slack must be 0 or more, not -0.1"):
        kernel_mean_matching(x, y, kernel, slack=-0.1)
    with pytest.raises(ValueError, match="NaN or infinite"):
        kernel_mean_matching(x, y * torch.nan, kernel)
    with pytest.raises(ValueError, match=r"must be \(N, F\)"):
        kernel_mean_matching(x, y[:, :1], kernel)
    with pytest.raises(ValueError, match="at least one sample each"):
        kernel_mean_matching(x, y[:0], kernel)
    monkeypatch.setattr(instance_weights, "LARGEST", 4)
    with pytest.raises(ValueError, match="of at most 4 samples, not 5: .* source_subset"):
        kernel_mean_matching(x, y, kernel)


# Subsets


def subset_by_loops(x: Tensor, y: Tensor, kernel: MultiKernel, count: int) -> list[int]:
    """The definition: every candidate's biased MMD^2 anew at every pick."""
    picks: list[int] = []
    for _ in range(count):
        left = [i for i in range(len(x)) if i not in picks]
        values = [float(mmd2(x[[*picks, i]], y, kernel, "biased")) for i in left]
        picks.append(left[int(np.argmin(values))])
    return picks


@settings(max_examples=20)
@given(n=st.integers(1, 9), m=st.integers(1, 7), f=st.integers(1, 3), seed=st.integers(0, 1000), data=st.data())
def test_subset_is_the_greedy_definition(n: int, m: int, f: int, seed: int, data: st.DataObject) -> None:
    x, y, kernel = normal(n, f, seed=seed), normal(m, f, seed=seed + 1) + 0.5, MultiKernel.of([0.5, 4.0])
    count = data.draw(st.integers(1, n))
    picks = source_subset(x, y, kernel, count)
    assert picks.dtype == torch.long and picks.tolist() == subset_by_loops(x, y, kernel, count)


def test_subset_is_near_the_best_of_all() -> None:
    x, y, kernel = normal(9, 2), normal(20, 2, seed=1) + 0.5, MultiKernel.of([1.0, 4.0])
    values = [float(mmd2(x[list(s)], y, kernel, "biased")) for s in itertools.combinations(range(9), 4)]
    chosen = float(mmd2(x[source_subset(x, y, kernel, 4)], y, kernel, "biased"))
    assert min(values) <= chosen + 1e-12 and sum(value < chosen for value in values) <= 0.1 * len(values)


def test_subset_finds_the_part_of_the_source_that_is_like_the_target() -> None:
    x = torch.cat([normal(60, 4), normal(60, 4, seed=1) + 3])  # the first half is of the target's distribution
    y = normal(80, 4, seed=2)
    kernel = MultiKernel.ladder(median_bandwidth(x, y))
    picks = source_subset(x, y, kernel, 40)
    assert len(set(picks.tolist())) == 40 and int((picks < 60).sum()) == 40
    random = torch.randperm(60, generator=torch.Generator().manual_seed(3))[:40]  # even among those of the right half
    assert float(mmd2(x[picks], y, kernel, "biased")) < float(mmd2(x[random], y, kernel, "biased"))
    assert sorted(source_subset(x, y, kernel, 120).tolist()) == list(range(120))


def test_subset_ties_and_precision() -> None:
    x = torch.zeros(4, 2)
    assert source_subset(x, x, MultiKernel.of([1.0]), 4).tolist() == [0, 1, 2, 3]
    x, y, kernel = normal(30, 3), normal(20, 3, seed=1) + 0.5, MultiKernel.of([2.0])
    assert torch.equal(source_subset(x.float(), y.float(), kernel, 5), source_subset(x, y, kernel, 5))
    far = source_subset((x + 1e3).float(), (y + 1e3).float(), kernel, 5)
    assert torch.equal(far, source_subset(x, y, kernel, 5))


def test_bad_input_of_subset() -> None:
    x, y, kernel = normal(5, 2), normal(4, 2), MultiKernel.of([1.0])
    for count in (0, 6):
        with pytest.raises(ValueError, match=f"1 to 5 of them, not {count}"):
            source_subset(x, y, kernel, count)
    with pytest.raises(ValueError, match="NaN or infinite"):
        source_subset(x * torch.nan, y, kernel, 2)


def test_effective_size() -> None:
    assert effective_size(torch.full((7,), 0.3)) == pytest.approx(7)
    assert effective_size(torch.tensor([0.0, 5.0, 0.0])) == pytest.approx(1)
    assert effective_size(torch.tensor([1.0, 3.0])) == pytest.approx(16 / 10)


# At the door: --source-weights.


def test_the_doors_weights_are_of_the_backbones_features() -> None:
    torch.manual_seed(0)
    model = DAN("lenet", 2, layers=(4,)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    source = TensorDataset(normal(30, 1, 8, 8, dtype=torch.float32), torch.arange(30) % 2)
    target = TensorDataset(normal(20, 1, 8, 8, seed=1, dtype=torch.float32) + 0.5, torch.full((20,), -1))
    model.eval()
    with torch.no_grad():
        x, y = (model.backbone(data.tensors[0]) for data in (source, target))
    model.train()
    torch.testing.assert_close(backbone_features(model, source), x)
    kernel = MultiKernel.ladder(median_bandwidth(x, y), count=3, step=4.0)
    matched = source_weights("kmm", model, source, target, bound=1.5, kernels=3, bandwidth_ratio=4.0)
    torch.testing.assert_close(matched, kernel_mean_matching(x, y, kernel, bound=1.5), rtol=1e-3, atol=1e-3)
    assert float(matched.max()) == pytest.approx(1.5)
    chosen = source_weights("select", model, source, target, share=0.3, kernels=3, bandwidth_ratio=4.0)
    assert sorted(chosen.nonzero()[:, 0].tolist()) == sorted(source_subset(x, y, kernel, 9).tolist())
    assert set(chosen.tolist()) == {0.0, 30 / 9} and float(chosen.mean()) == pytest.approx(1)
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_convolutional_outputs_are_pooled() -> None:
    model = DAN("squeezenet1_1", 2, layers=())
    assert backbone_features(model, TensorDataset(torch.zeros(2, 3, 33, 33), torch.zeros(2).long())).shape == (2, 512)


def test_the_door_refuses_what_it_cannot_weigh() -> None:
    model = DAN("features", 2, layers=(4,))
    one, many = (TensorDataset(torch.zeros(n, 2), torch.zeros(n).long()) for n in (1, instance_weights.LARGEST + 1))
    with pytest.raises(UserError, match=r"at most 10000 source samples, and there are 10001: use --source-weights sel"):
        source_weights("kmm", model, many, one)
    for share in (0.0, 1.1, float("nan")):
        with pytest.raises(UserError, match="share of the source from above 0 to 1"):
            source_weights("select", model, one, one, share=share)
    with pytest.raises(UserError, match="--kmm-bound is what one sample may count for, 1 or more, not 0.5"):
        source_weights("kmm", model, one, one, bound=0.5)


def write(path: Path, x: Tensor, y: Tensor) -> str:
    np.savez(path, x=x.float().numpy(), y=y.numpy())
    return str(path)


def test_the_command_learns_from_the_samples_that_are_like_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of the source, far from the target in one feature, has the classes the wrong way round."""
    y = torch.arange(200) % 2
    far = (torch.arange(200) >= 100).double()
    x = 0.5 * normal(200, 3)
    x[:, 0] += (2 * y - 1) * (1 - 2 * far)
    x[:, 1] += 3 * far
    source = write(tmp_path / "source.npz", x, y)
    z = 0.5 * normal(100, 3, seed=1)
    z[:, 0] += 2 * y[:100] - 1
    domains = ["--source", source, "--target", write(tmp_path / "target.npz", z, y[:100])]

    def accuracy(name: str, *flags: str) -> tuple[float, dict[str, Any]]:
        words = ["train", "folders", *domains, "--layers", "--trade-off", "0", "--steps", "150", "--no-feature-map"]
        monkeypatch.setattr(sys, "argv", ["dan", *words, "--device", "cpu", "--run", str(tmp_path / name), *flags])
        assert main() == 0
        records = read_records(tmp_path / name / "records.jsonl")
        return records[-2]["accuracy/target"], records[0]

    plain, header = accuracy("plain")
    assert "source_weights" not in header and "select_fraction" not in header
    matched, header = accuracy("kmm", "--source-weights", "kmm")
    assert (header["source_weights"], header["kmm_bound"]) == ("kmm", 3.0) and "select_fraction" not in header
    assert "source weights: 200 samples, effective sample size " in capsys.readouterr().out
    chosen, header = accuracy("select", "--source-weights", "select", "--select-fraction", "0.3")
    assert (header["source_weights"], header["select_fraction"]) == ("select", 0.3)
    assert "kmm_bound" not in header
    assert plain < 0.75 and matched > 0.9 and chosen > 0.9
