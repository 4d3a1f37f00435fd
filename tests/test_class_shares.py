"""Class shares of an unlabelled target: BBSE, RLLS, MLLS and the posterior from audits, against definitions and on
simulated label shift."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from dan.evaluation.class_shares import (
    ESTIMATORS,
    bbse,
    class_shares,
    estimate_shares,
    mlls,
    posterior_shares,
    rlls,
)
from dan.evaluation.temperature import fit_bias_corrected, fit_temperature

MEANS = torch.tensor([[0.0, 0.0], [1.6, 0.0], [0.0, 1.6]], dtype=torch.float64)  # of three normal classes
EVEN = torch.full((3,), 1 / 3, dtype=torch.float64)
SHIFTED = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)


def sample(count: int, shares: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """x (N, 2) and y (N,) of normal classes with these shares."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.multinomial(shares, count, replacement=True, generator=generator)
    return MEANS[y] + torch.randn(count, 2, generator=generator, dtype=torch.float64), y


def bayes(x: Tensor, shares: Tensor) -> Tensor:
    """The exact p(y | x) under these shares."""
    return (shares.log() - (x[:, None] - MEANS).square().sum(2) / 2).softmax(1)


@pytest.fixture(scope="module")
def outputs() -> tuple[Tensor, Tensor, Tensor]:
    x, y = sample(4000, EVEN, 0)
    t, _ = sample(4000, SHIFTED, 1)
    return bayes(x, EVEN), y, bayes(t, EVEN)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_shares_of_a_shifted_target_are_found(name: str, outputs: tuple[Tensor, Tensor, Tensor]) -> None:
    found = ESTIMATORS[name](*outputs)
    assert float(found.sum()) == pytest.approx(1)
    assert float((found - SHIFTED).abs().max()) < (0.06 if name == "rlls" else 0.03)


def test_the_error_falls_with_the_number_of_samples() -> None:
    def error(count: int) -> float:
        errors = []
        for seed in range(12):
            x, y = sample(count, EVEN, 10 + seed)
            t, _ = sample(count, SHIFTED, 50 + seed)
            errors.append(float((bbse(bayes(x, EVEN), y, bayes(t, EVEN)) - SHIFTED).abs().sum()))
        return float(np.mean(errors))

    small, large = error(200), error(3200)
    assert 2.5 < small / large < 6.5  # by sqrt(16) = 4


def test_bbse_is_exact_where_the_confusions_are() -> None:
    """Counts that realise C and mu exactly give w exactly: C w = mu solved by hand."""
    joint = torch.tensor([[0.4, 0.1], [0.1, 0.4]], dtype=torch.float64)
    rows = [(i, j) for i in range(2) for j in range(2) for _ in range(int(10 * joint[i, j] + 0.5))]
    probs = torch.nn.functional.one_hot(torch.tensor([i for i, _ in rows]), 2).double()
    labels = torch.tensor([j for _, j in rows])
    weights = torch.tensor([1.5, 0.5], dtype=torch.float64)
    mu = joint @ weights  # 0.65, 0.35
    target = torch.nn.functional.one_hot(torch.tensor([0] * 65 + [1] * 35), 2).double()
    assert torch.allclose(target.mean(0), mu)
    assert torch.allclose(bbse(probs, labels, target), weights / 2)


def test_bbse_never_gives_a_negative_share() -> None:
    probs = torch.eye(3, dtype=torch.float64)[[0, 0, 1, 1, 2, 2, 0]]
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 1])
    found = bbse(probs, labels, torch.eye(3, dtype=torch.float64)[[2, 2, 2]])
    assert bool((found >= 0).all()) and float(found.sum()) == pytest.approx(1)


@pytest.mark.parametrize("delta", [1e-4, 0.01, 0.05, 0.2, 10.0])
def test_rlls_minimises_its_objective(delta: float, outputs: tuple[Tensor, Tensor, Tensor]) -> None:
    source, y, target = outputs[0][:500], outputs[1][:500], outputs[2][:500]
    joint = np.zeros((3, 3))
    for i, j in zip(source.argmax(1).tolist(), y.tolist(), strict=True):
        joint[i, j] += 1 / len(y)
    mu = np.bincount(target.argmax(1).numpy(), minlength=3) / len(target)
    b = mu - joint.sum(1)

    def objective(theta: np.ndarray) -> float:
        return float(np.linalg.norm(joint @ theta - b) + delta * np.linalg.norm(theta))

    shares = rlls(source, y, target, delta=delta)
    by_hand = min(
        (minimize(objective, start, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 8000})
         for start in (np.zeros(3), np.linalg.solve(joint, b))),
        key=lambda found: found.fun,
    ).x  # fmt: skip
    expected = np.maximum(1 + by_hand, 0) * class_shares(y, 3).numpy()
    assert shares.numpy() == pytest.approx(expected / expected.sum(), abs=2e-4)


def test_rlls_without_a_penalty_is_bbse_and_with_a_large_one_the_source(
    outputs: tuple[Tensor, Tensor, Tensor],
) -> None:
    assert torch.allclose(rlls(*outputs, delta=1e-12), bbse(*outputs), atol=1e-6)
    assert torch.allclose(rlls(*outputs, delta=1e3), class_shares(outputs[1], 3))


def test_mlls_is_the_maximum_of_the_likelihood(outputs: tuple[Tensor, Tensor, Tensor]) -> None:
    target, p = outputs[2][:300], class_shares(outputs[1], 3)
    q = mlls(target, p)

    def likelihood(shares: Tensor) -> float:
        return float((target * shares / p).sum(1).log().mean())

    best = likelihood(q)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        other = (q + 0.02 * torch.randn(3, generator=generator, dtype=torch.float64)).clamp_min(1e-6)
        assert likelihood(other / other.sum()) <= best + 1e-9


def test_without_a_shift_the_shares_are_the_sources() -> None:
    x, y = sample(3000, SHIFTED, 3)
    t, _ = sample(3000, SHIFTED, 4)
    for name in ESTIMATORS:
        found = estimate_shares(bayes(x, SHIFTED), y, bayes(t, SHIFTED), method=name, draws=50)
        assert found.total_variation < 0.05, name
        assert torch.allclose(found.weights, found.shares / found.source_shares)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_interval_covers_on_simulated_shift(name: str) -> None:
    covered = []
    for seed in range(40):
        x, y = sample(400, EVEN, 200 + seed)
        t, _ = sample(400, SHIFTED, 400 + seed)
        found = estimate_shares(bayes(x, EVEN), y, bayes(t, EVEN), method=name, draws=100, level=0.9)
        covered.append(((found.low <= SHIFTED) & (found.high >= SHIFTED)).double().mean())
    # 120 intervals of 90 %; RLLS shrinks towards the source, which its bootstrap does not see.
    assert float(torch.stack(covered).mean()) > (0.5 if name == "rlls" else 0.82)


def test_calibration_lowers_the_loss_and_finds_the_temperature() -> None:
    x, y = sample(2000, EVEN, 5)
    logits = bayes(x, EVEN).log()
    found = fit_temperature(3.0 * logits, y)
    assert found.temperature == pytest.approx(3.0, rel=0.1)
    assert float(found.bias.abs().max()) == 0
    biased = fit_bias_corrected(3.0 * logits + torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64), y)
    assert torch.allclose(
        biased.probabilities(3.0 * logits + torch.tensor([2.0, -1.0, 0.5])), bayes(x, EVEN), atol=0.06
    )
    separable = fit_temperature(torch.tensor([[5.0, 0.0], [0.0, 5.0]]), torch.tensor([0, 1]))
    assert 0 < separable.temperature < 1 and np.isfinite(separable.temperature)


def test_mlls_needs_calibration_and_gets_it() -> None:
    """Overconfident, biased logits mislead MLLS; calibrated on held-out source, they do not."""
    x, y = sample(4000, EVEN, 6)
    t, _ = sample(4000, SHIFTED, 7)
    spoil = torch.tensor([1.5, -1.0, 0.0], dtype=torch.float64)
    of_source, of_target = (0.3 * bayes(v, EVEN).log() + spoil for v in (x, t))
    raw = mlls(of_target.softmax(1), class_shares(y, 3))
    map_ = fit_bias_corrected(of_source, y)
    mended = mlls(map_.probabilities(of_target), class_shares(y, 3))
    error, spoiled = (float((found - SHIFTED).abs().sum()) for found in (mended, raw))
    assert error < 0.12 and error < spoiled / 4


def test_the_posterior_follows_the_audits_and_keeps_a_good_estimate() -> None:
    source, good, bad = EVEN, SHIFTED, torch.tensor([0.05, 0.15, 0.8], dtype=torch.float64)
    generator = torch.Generator().manual_seed(8)

    def errors(centres: list[Tensor], count: int) -> float:
        total = []
        for seed in range(40):
            audits = torch.multinomial(SHIFTED, count, replacement=True, generator=generator)
            found = posterior_shares(audits, torch.stack(centres), source, draws=200, seed=seed)
            total.append(float((found.shares - SHIFTED).abs().sum()))
        return float(np.mean(total))

    assert errors([good], 20) < errors([source], 20)  # a good estimate helps
    assert errors([bad], 20) > errors([bad, good], 20)  # the audits choose between estimates
    assert errors([bad], 1000) < 0.06  # and a bad one is overruled


def test_the_posterior_interval_covers() -> None:
    generator = torch.Generator().manual_seed(9)
    covered = []
    for seed in range(100):
        audits = torch.multinomial(SHIFTED, 50, replacement=True, generator=generator)
        found = posterior_shares(audits, EVEN[None], EVEN, level=0.9, draws=1000, seed=seed)
        covered.append(((found.low <= SHIFTED) & (found.high >= SHIFTED)).double().mean())
    assert float(torch.stack(covered).mean()) > 0.82


def test_without_audits_the_posterior_is_the_prior() -> None:
    found = posterior_shares(torch.empty(0, dtype=torch.long), SHIFTED[None], EVEN)
    assert float((found.shares - SHIFTED).abs().sum()) < 0.3 and float(found.shares.sum()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: estimate_shares(torch.eye(3), torch.arange(3), torch.eye(3), method="bbs"), "unknown estimator"),
        (lambda: bbse(torch.eye(3), torch.arange(3), torch.eye(2)), "must be"),
        (lambda: bbse(torch.eye(3), torch.tensor([0, 1, 3]), torch.eye(3)), "classes 0 to 2"),
        (lambda: posterior_shares(torch.tensor([3]), EVEN[None], EVEN), "classes 0 to 2"),
        (lambda: posterior_shares(torch.tensor([0]), EVEN, EVEN), "centres must be"),
        (lambda: fit_temperature(torch.tensor([[float("nan"), 0.0]]), torch.tensor([0])), "finite"),
    ],
)
def test_bad_input_is_one_line(call: object, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        call()  # type: ignore[operator]
    assert "\n" not in str(caught.value)
