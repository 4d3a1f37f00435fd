"""Forecast of the labels that a goal takes: curves, posterior, prior; and by replay on a sample of published runs."""

import json
import math

import numpy as np
import pytest

from active.forecast import FILE, FittedCurve, fit_curve, published_prior
from active.learning_curves import Points, Prior, fit_prior, normal_points, posterior, shape, shares
from experiments import forecast_prior
from experiments.forecast_prior import KEYS, Run, learn, read_runs, replay, summary
from experiments.framework.measurements import labels_to

# r = 0.1, s = 0.05, c = 0.8: almost certain.
THETA = (math.log(0.1 / 0.9), math.log(0.05), math.log(0.8))
SURE = Prior(THETA, tuple(map(tuple, (1e-8 * np.eye(3)).tolist())), 0.05, 20.0, 1)


def curve(labels, pool=1000, start=0.3, theta=THETA):
    """Accuracies on the curve, by its formula."""
    r, s, c = 1 / (1 + math.exp(-theta[0])), math.exp(theta[1]), math.exp(theta[2])
    return [1 - start * (r + (1 - r) * (1 + n / pool / s) ** -c) for n in labels]


def test_the_curve_is_a_shifted_power_law_that_never_falls():
    theta = np.array([THETA, (1.0, -3.0, 1.0)])
    x = np.linspace(0, 1, 50)
    values = shares(theta, x)
    assert (values[:, 0] == 1).all() and (np.diff(values, axis=1) < 0).all()
    r, s, c = shape(theta)
    assert (values > r[:, None]).all()
    # a + b (x + s)^(-c) with a = r, b = (1 - r) s^c
    law = r[:, None] + ((1 - r) * s**c)[:, None] * (x + s[:, None]) ** -c[:, None]
    assert np.allclose(values, law, atol=1e-14)


def test_the_labels_for_a_goal_invert_the_curve():
    labels = [0, 20, 50, 100]
    fitted = fit_curve(labels, curve(labels), 1000, prior=SURE)
    goal = curve([400])[0]
    found = fitted.labels_for(goal)
    assert found.labels == pytest.approx(400, rel=0.05)
    assert found.low < found.labels < found.high and found.reachable and found.probability > 0.99
    low, median, high = fitted.accuracy_at([0, 100, 400])
    assert median == pytest.approx(curve([0, 100, 400]), abs=0.003)
    assert (low <= median).all() and (median <= high).all()
    ceiling = 1 - 0.3 * 0.1
    unreachable = fitted.labels_for(ceiling + 0.01)
    assert unreachable.labels == math.inf and not unreachable.reachable
    assert "not reachable" in str(unreachable)


def test_texts():
    labels = [0, 20, 50, 100]
    fitted = fit_curve(labels, curve(labels), 1000, prior=SURE)
    assert str(fitted.labels_for(curve([400])[0])).startswith("about ") and "(80 %: " in str(fitted.labels_for(0.9))
    assert "is reached" in str(fitted.labels_for(0.8))
    # Two equally likely curves, one of which gets there.
    theta = np.array([THETA, (5.0, THETA[1], THETA[2])])
    half = FittedCurve(np.array([0.5, 0.5]), theta, np.array([0.3, 0.3]), 100, 1000).labels_for(0.93)
    assert half.probability == 0.5 and "over 900 more" in str(half)


def test_the_likelihood_integrates_the_first_error_out():
    points = Points.of([0, 10, 40], [0.7, 0.75, 0.82], 200, [0.02, 0.01, 0.0])
    theta = np.array([THETA, (0.0, -2.0, 0.5)])
    logs, mean, deviation = posterior(theta, points, 0.1, 5.0)
    errors = np.array([0.3, 0.25, 0.18])
    variance = (0.1 * errors) ** 2 + errors * (1 - errors) / 1000 + np.array([0.02, 0.01, 0.0]) ** 2
    e = np.linspace(-1, 2, 200_001)
    for i, left in enumerate(shares(theta, np.array([0, 0.05, 0.2]))):
        density = np.exp(-0.5 * ((errors - e[:, None] * left) ** 2 / variance + np.log(variance)).sum(1))
        total = density.sum() * (e[1] - e[0])
        assert logs[i] == pytest.approx(math.log(total) - 0.5 * math.log(2 * math.pi), abs=1e-6)
        centre = (e * density).sum() / density.sum()
        assert mean[i] == pytest.approx(centre, abs=1e-6)
        assert deviation[i] == pytest.approx((((e - centre) ** 2 * density).sum() / density.sum()) ** 0.5, rel=1e-4)


def test_points_that_were_measured_worse_count_less():
    labels, accuracies = [0, 20, 50, 100], [0.70, 0.72, 0.74, 0.90]
    exact = fit_curve(labels, accuracies, 1000).accuracy_at([100])[1][0]
    rough = fit_curve(labels, accuracies, 1000, deviations=[0, 0, 0, 0.2]).accuracy_at([100])[1][0]
    assert rough < exact


def test_more_points_narrow_the_interval():
    labels = [0, 20, 50, 100, 200]
    forecasts = [fit_curve(labels[:t], curve(labels[:t]), 1000).labels_for(curve([400])[0]) for t in (1, 3, 5)]
    widths = [math.log(min(f.high, 1000) / max(f.low, 1)) for f in forecasts]
    assert widths[0] > widths[1] > widths[2]


def test_quantiles_of_the_normal_distribution():
    points = normal_points(1024, 4)
    assert np.abs(points.mean(0)).max() < 0.01 and np.abs(points.std(0) - 1).max() < 0.01
    assert np.abs(np.corrcoef(points.T) - np.eye(4)).max() < 0.02
    assert np.array_equal(normal_points(1024, 3), points[:, :3])


def test_the_prior_of_simulated_runs_is_found_again(monkeypatch):
    """Runs whose theta is drawn from a known distribution. Its parts trade off, so curves are compared, not theta."""
    monkeypatch.setattr("active.learning_curves.NOISES", ((0.05, 6.0), (0.15, 1.5)))
    rng = np.random.default_rng(0)
    labels = [0, 10, 25, 60, 150, 400, 1000]
    runs, truth = [], []
    for _ in range(60):
        theta = np.array([-3.0, -3.0, 0.0]) + np.array([0.5, 0.6, 0.3]) * rng.standard_normal(3)
        start = rng.uniform(0.2, 0.4)
        errors = 1 - np.array(curve(labels, start=start, theta=theta))
        truth.append(errors / start)
        noisy = np.clip(errors * (1 + 0.05 * rng.standard_normal(7)), 0.001, 1)
        runs.append(Points.of(labels, (1 - noisy).tolist(), 1000))
    prior = fit_prior(runs, draws=1024)
    learned = shares(prior.draws(1024), np.array(labels) / 1000)
    assert prior.runs == 60 and prior.tau == 0.05
    assert np.abs(learned.mean(0) - np.mean(truth, axis=0)).max() < 0.05
    assert np.abs(learned.std(0) - np.std(truth, axis=0)).max() < 0.05
    with pytest.raises(ValueError, match="at least 10 runs"):
        fit_prior(runs[:9])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 10], [0.5], 100), "same length"),
        (([], [], 100), "at least one point"),
        (([10, 0], [0.5, 0.6], 100), "ascend"),
        (([0, 200], [0.5, 0.6], 100), "at most the pool's 100"),
        (([0, 10], [0.5, 1.6], 100), "accuracies must lie"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit_curve(*arguments)


def test_goals_levels_and_measures_out_of_range_are_refused():
    fitted = fit_curve([0], [0.5], 100)
    with pytest.raises(ValueError, match="goal"):
        fitted.labels_for(95)
    with pytest.raises(ValueError, match="level"):
        fitted.labels_for(0.9, level=80)
    with pytest.raises(ValueError, match="pool, held_out"):
        fit_curve([0], [0.5], 100, measure="unqueried")


# --- replay -----------------------------------------------------------------------------------------------------------


def test_where_a_measured_curve_first_reaches_a_goal():
    labels, accuracies = [0, 10, 30], [0.5, 0.7, 0.6]
    assert labels_to(labels, accuracies, 0.6) == pytest.approx(5)
    assert labels_to(labels, accuracies, 0.4) == 0
    assert labels_to(labels, accuracies, 0.8) is None


def test_records_packed_or_not_give_the_same_runs(tmp_path):
    import lzma

    lines = []
    for labels, accuracy in ((0, 0.5), (4, 0.6)):
        about = {"task": "a2b", "method": "random", "seed": 0, "selection": "last", "round": labels // 4}
        lines.append(json.dumps({**about, "labels": labels, "accuracy/target": accuracy}))
    lines.append(
        json.dumps(
            {
                "task": "a2b",
                "method": "all labels",
                "seed": 0,
                "selection": "last",
                "labels": 40,
                "accuracy/target": 0.9,
            }
        )
    )
    text = ("\n".join(lines) + "\n").encode()
    for name in ("plain", "packed"):
        for experiment in ("arena", "active_adaptation"):
            (tmp_path / name / experiment).mkdir(parents=True)
        (tmp_path / name / "active_adaptation" / "records.jsonl").write_bytes(b"")
    (tmp_path / "plain" / "arena" / "records.jsonl").write_bytes(text)
    (tmp_path / "packed" / "arena" / "records.jsonl.xz").write_bytes(lzma.compress(text))
    expected = [Run("arena", "a2b", "random", 0, 40, 0, (0, 4), (0.5, 0.6), 0.9)]
    assert read_runs("pool", tmp_path / "plain") == read_runs("pool", tmp_path / "packed") == expected
    assert expected[0].points(every=True).labels.tolist() == [0, 4, 40]


@pytest.fixture(scope="module")
def pool_runs():
    return read_runs("pool")


def test_replay_of_published_runs_whose_target_domains_the_prior_has_not_seen(pool_runs, monkeypatch):
    """80 % intervals cover about 80 %, and the median error is below 35 %, on a sample of two target domains."""
    monkeypatch.setattr("active.learning_curves.NOISES", ((0.1, 1.5),))  # what all records choose
    known = [run for run in pool_runs if run.target not in ("a", "d")]
    tested = [run for run in pool_runs if run.experiment == "arena" and run.target in ("a", "d")][::12]
    figures = summary(replay("pool", tested, known[::40], parts=60))
    assert len(tested) > 40 and figures["cases"] > 300
    assert 0.7 <= figures["covered"] <= 0.9
    assert figures["error"] < 0.35


def test_a_goal_that_is_given_up_is_rarely_reached(monkeypatch):
    monkeypatch.setattr("active.learning_curves.NOISES", ((0.05, 6.0),))
    runs = read_runs("held_out")
    known = [run for run in runs if run.target not in ("c", "mnist")]
    tested = [run for run in runs if run.target in ("c", "mnist")][::12]
    figures = summary(replay("held_out", tested, known[::20], parts=60))
    assert figures["given_up"] > 20
    assert figures["given_up_right"] >= 0.8


def test_the_published_prior_is_that_of_many_runs():
    for measure in KEYS:
        prior = published_prior(measure)
        assert prior.runs == forecast_prior.PARTS
        assert (np.linalg.eigvalsh(np.array(prior.covariance)) > 0).all()


@pytest.mark.long
def test_the_published_prior_is_what_the_records_give(pool_runs):
    again = learn(pool_runs)
    published = published_prior("pool")
    assert np.allclose(again.mean, published.mean, atol=1e-4) and (again.tau, again.k) == (published.tau, published.k)
    assert json.loads(FILE.read_text())["pool"]["runs"] == again.runs
