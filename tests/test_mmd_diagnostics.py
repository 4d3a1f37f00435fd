"""What the watch says of held samples: its values by their definitions, the frozen bandwidth, and its state.

Shapes: N, M samples; F features.
"""

import json
import pickle
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dan.mmd import MultiKernel, a_distance, median_bandwidth, mmd2, permutation_test
from dan.training.mmd_diagnostics import MMDDiagnostics
from dan.training.tensorboard import Band, TensorBoardLogger

BASIC = {"mmd2", "mmd2_null_low", "mmd2_null_high", "p_value", "a_distance"}


def layers(shift: float, n: int = 40, m: int = 36, f: int = 6, seed: int = 0, name: str = "hidden1"):  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, f, generator=generator), torch.randn(m, f, generator=generator) + shift
    return {name: x}, {name: y}


def unbiased(x: Tensor, y: Tensor, gammas: list[float]) -> float:
    """MMD^2 as loops over the pairs, all kernels weighing the same."""

    def k(a: Tensor, b: Tensor) -> float:
        d2 = float((a - b).square().sum())
        return sum(float(np.exp(-d2 / gamma)) for gamma in gammas) / len(gammas)

    x, y, n, m = x.double(), y.double(), len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def test_every_value_is_what_its_name_says() -> None:
    source, target = layers(0.3)
    x, y = source["hidden1"], target["hidden1"]
    watch = MMDDiagnostics(("hidden1",), num_kernels=3, step=4.0, permutations=60, seed=5)
    record, scalars = watch.look(source, target)
    gamma = float(median_bandwidth(x, y))
    kernel = MultiKernel.ladder(gamma, count=3, step=4.0)
    test = permutation_test(x, y, kernel, permutations=60, generator=torch.Generator().manual_seed(5))
    assert {name.removesuffix("/hidden1") for name in record} == BASIC
    assert record["mmd2/hidden1"] == pytest.approx(unbiased(x, y, [gamma / 4, gamma, gamma * 4]), abs=1e-6)
    assert (record["mmd2_null_low/hidden1"], record["mmd2_null_high/hidden1"]) == test.band
    assert record["p_value/hidden1"] == test.p_value
    assert record["a_distance/hidden1"] == a_distance(x, y, seed=5)
    for u, factor in enumerate((0.25, 1, 4)):
        value = scalars[f"mmd2_per_kernel/hidden1/{u}_{factor:g}_gamma"]
        assert value == pytest.approx(unbiased(x, y, [gamma * factor]), abs=1e-6)
    # At the first look both bandwidths are one.
    assert scalars["gamma_ratio/hidden1"] == 1.0
    for name in BASIC - {"a_distance"}:
        current = re.sub("^(mmd2|p_value)", r"\1_current", name)
        assert scalars[f"{current}/hidden1"] == record[f"{name}/hidden1"]
    assert json.loads(json.dumps(record)) == record


def test_what_is_recorded_is_the_same_where_nothing_is_drawn() -> None:
    plain, quick = MMDDiagnostics(("hidden1",)), MMDDiagnostics(("hidden1",))
    for shift in (0.3, 1.0):
        record, scalars = plain.look(*layers(shift))
        assert scalars and quick.look(*layers(shift), draw=False) == (record, {})
    assert plain.gamma("hidden1") == quick.gamma("hidden1")


def test_the_bandwidth_stays_while_features_grow() -> None:
    source, target = layers(0.5)
    watch = MMDDiagnostics(("hidden1",))
    first, _ = watch.look(source, target)
    gamma = watch.gamma("hidden1")
    assert gamma == pytest.approx(float(median_bandwidth(source["hidden1"], target["hidden1"])))
    grown = [{"hidden1": 3 * side["hidden1"]} for side in (source, target)]
    second, scalars = watch.look(*grown)
    assert watch.gamma("hidden1") == gamma
    kernel = MultiKernel.ladder(gamma)
    assert second["mmd2/hidden1"] == pytest.approx(float(mmd2(*(g["hidden1"] for g in grown), kernel)), abs=1e-6)
    assert abs(second["mmd2/hidden1"] - first["mmd2/hidden1"]) > 0.01
    # The current one grows with them, and a common factor then changes nothing.
    assert scalars["gamma_ratio/hidden1"] == pytest.approx(9, rel=1e-5)
    assert scalars["mmd2_current/hidden1"] == pytest.approx(first["mmd2/hidden1"], abs=1e-6)
    assert scalars["p_value_current/hidden1"] == first["p_value/hidden1"]


def test_domains_that_are_one_lie_in_the_band_and_others_above() -> None:
    apart, _ = MMDDiagnostics(("hidden1",)).look(*layers(1.0))
    assert apart["mmd2/hidden1"] > apart["mmd2_null_high/hidden1"] and apart["p_value/hidden1"] == 1 / 201
    inside = 0
    for seed in range(40):
        one, _ = MMDDiagnostics(("hidden1",), permutations=99).look(*layers(0.0, seed=seed))
        inside += one["mmd2_null_low/hidden1"] <= one["mmd2/hidden1"] <= one["mmd2_null_high/hidden1"]
    assert inside >= 33  # 93 % of 40; 99.9 % of binomial counts


def test_the_relabellings_are_the_same_at_every_look_and_in_every_layer() -> None:
    (x,), (y,) = (list(side.values()) for side in layers(0.2))
    watch = MMDDiagnostics(("a", "b"))
    first, _ = watch.look({"a": x, "b": x}, {"a": y, "b": y})
    again, _ = watch.look({"a": x, "b": x}, {"a": y, "b": y})
    assert first == again
    assert all(first[f"{name}/a"] == first[f"{name}/b"] for name in BASIC)
    other, _ = MMDDiagnostics(("a",), seed=1).look({"a": x}, {"a": y})
    assert other["mmd2/a"] == first["mmd2/a"] and other["mmd2_null_high/a"] != first["mmd2_null_high/a"]


def test_a_resumed_run_keeps_the_bandwidths() -> None:
    """Whatever the layers are called: dots, slashes, and names that an escape could mix up."""
    names = ("layer4.1", "layer4%2E1", "a/b", "output")
    looks = [(dict.fromkeys(names, x), dict.fromkeys(names, y)) for x, y in _samples(0.4, 0.5)]
    watch = MMDDiagnostics(names)
    watch.look(*looks[0])
    resumed = MMDDiagnostics(names)
    assert resumed.gamma("layer4.1") is None
    resumed.load_state_dict(watch.state_dict())
    assert len(watch.state_dict()) == 4
    assert all(resumed.gamma(name) == watch.gamma(name) is not None for name in names)
    assert resumed.look(*looks[1]) == watch.look(*looks[1])
    fresh, _ = MMDDiagnostics(names).look(*looks[1])
    assert fresh != resumed.look(*looks[1])[0]


def _samples(*shifts: float) -> list[tuple[Tensor, Tensor]]:
    found = []
    for seed, shift in enumerate(shifts):
        source, target = layers(shift, seed=seed)
        found.append(((1 + seed) * source["hidden1"], (1 + seed) * target["hidden1"]))
    return found


def test_a_dead_layer_is_zero_and_freezes_when_it_lives() -> None:
    watch = MMDDiagnostics(("hidden1",))
    dead = {"hidden1": torch.zeros(20, 3)}
    record, scalars = watch.look(dead, {"hidden1": torch.zeros(12, 3)})
    assert record == {
        "mmd2/hidden1": 0.0,
        "mmd2_null_low/hidden1": 0.0,
        "mmd2_null_high/hidden1": 0.0,
        "p_value/hidden1": 1.0,
        "a_distance/hidden1": 0.0,
    }
    assert all(np.isfinite(list(scalars.values()))) and watch.gamma("hidden1") is None
    source, target = layers(0.5, f=3)
    watch.look(source, target)
    assert watch.gamma("hidden1") == pytest.approx(float(median_bandwidth(source["hidden1"], target["hidden1"])))
    # Dead on one side alone is a difference like any other.
    record, _ = MMDDiagnostics(("hidden1",)).look(dead, target)
    assert record["p_value/hidden1"] == 1 / 201


def test_too_few_held_samples_say_nothing() -> None:
    watch = MMDDiagnostics(("hidden1",))
    for n, m in ((3, 40), (40, 3)):
        assert watch.look(*layers(0.5, n, m)) == ({}, {})
    assert watch.gamma("hidden1") is None
    assert watch.look(*layers(0.5, 4, 4))[0].keys() == {f"{name}/hidden1" for name in BASIC}


def test_weights_are_drawn_and_change_nothing_else() -> None:
    source, target = layers(0.3)
    beta = torch.tensor([0.0, 0.25, 0.75, 0.0, 0.0], dtype=torch.float64)
    record, scalars = MMDDiagnostics(("hidden1",)).look(source, target, {"hidden1": beta, "elsewhere": beta})
    without, rest = MMDDiagnostics(("hidden1",)).look(source, target, None)
    assert record == without
    drawn = {name: value for name, value in scalars.items() if name not in rest}
    assert drawn == {
        f"beta/hidden1/{u}_{width}_gamma": value
        for u, (width, value) in enumerate(zip(("0.25", "0.5", "1", "2", "4"), beta.tolist(), strict=True))
    }
    # A method with one kernel only, as in DDC.
    _, scalars = MMDDiagnostics(("hidden1",)).look(source, target, {"hidden1": torch.ones(1)})
    assert {n: v for n, v in scalars.items() if n.startswith("beta")} == {"beta/hidden1/0_1_gamma": 1.0}


def test_the_papers_ladder_has_33_curves_of_different_names() -> None:
    _, scalars = MMDDiagnostics(("hidden1",), num_kernels=33, step=2**0.5, permutations=5).look(*layers(0.3))
    assert len([name for name in scalars if name.startswith("mmd2_per_kernel/hidden1/")]) == 33


def test_half_precision_and_gradients_are_looked_at_as_they_are() -> None:
    source, target = layers(0.5)
    exact, _ = MMDDiagnostics(("hidden1",)).look(source, target)
    halves = [{"hidden1": side["hidden1"].half().requires_grad_()} for side in (source, target)]
    half, _ = MMDDiagnostics(("hidden1",)).look(*halves)
    assert half["mmd2/hidden1"] == pytest.approx(exact["mmd2/hidden1"], abs=1e-3)
    assert all(side["hidden1"].grad is None for side in halves)


def test_looking_draws_no_global_random_number() -> None:
    def states() -> tuple[bytes, ...]:
        return (
            torch.get_rng_state().numpy().tobytes(),
            pickle.dumps(np.random.get_state()),
            pickle.dumps(random.getstate()),
        )

    before = states()
    MMDDiagnostics(("hidden1",)).look(*layers(0.5))
    assert states() == before


def test_the_charts_show_every_curve_and_only_curves_that_are_there(tmp_path: Path) -> None:
    watch = MMDDiagnostics(("hidden1", "layer4.1"))
    (x,), (y,) = (list(side.values()) for side in layers(0.3))
    beta = {name: torch.full((5,), 0.2) for name in watch.align}
    record, scalars = watch.look({"hidden1": x, "layer4.1": x}, {"hidden1": y, "layer4.1": y}, beta)
    with TensorBoardLogger(tmp_path) as monitor:
        monitor.charts(watch.charts())
        monitor.scalars({**record, **scalars}, 1)
    shown = [name for charts in watch.charts().values() for chart in charts.values() for name in chart]
    there = {**record, **scalars}
    for name in shown:
        assert any(known.startswith(name) if name.endswith("/") else known == name for known in there), name
    for known in there:
        assert any(known.startswith(name) if name.endswith("/") else known == name for name in shown), known
    bands = [chart for charts in watch.charts().values() for chart in charts.values() if isinstance(chart, Band)]
    assert len(bands) == 4 and all(there[band.low] <= there[band.high] for band in bands)


def test_what_cannot_be_watched() -> None:
    source, target = layers(0.3)
    watch = MMDDiagnostics(("hidden2",))
    with pytest.raises(ValueError, match='aligned layer "hidden2"'):
        watch.look(source, target)
    with pytest.raises(ValueError, match='layer "hidden1" hold NaN'):
        MMDDiagnostics(("hidden1",)).look(source, {"hidden1": target["hidden1"] / 0})
    with pytest.raises(ValueError, match="at least one permutation"):
        MMDDiagnostics(("hidden1",), permutations=0)
    with pytest.raises(ValueError, match="count >= 1"):
        MMDDiagnostics(("hidden1",), num_kernels=0)
    assert MMDDiagnostics(()).look({}, {}) == ({}, {})
