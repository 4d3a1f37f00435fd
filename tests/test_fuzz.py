"""Readers of strangers' files and the scores, on inputs that nobody would think of: taken, or refused by UserError.

The targets and their seeds are tests/fuzz/targets.py. Three drivers: blind mutation of good files, Hypothesis, and,
where it is installed, atheris, which is guided by coverage.
"""

import importlib.util
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FUZZ = Path(__file__).with_name("fuzz")
sys.path.insert(0, str(FUZZ))

from mutations import mutated  # noqa: E402  (beside the targets)
from targets import SEEDS, TARGETS  # noqa: E402

NAMES = sorted(TARGETS)
Told = Callable[[str, int], None]  # pytest's record_property: what tests/long_figures.py adds up


def driven(name: str, count: int, seed: int) -> Counter[bool]:
    """How many of so many mutated inputs were taken, and how many refused."""
    draw = random.Random(f"{name} {seed}")
    outcomes: Counter[bool] = Counter()
    for number in range(count):
        data = mutated(SEEDS[name], draw)
        try:
            outcomes[TARGETS[name](data)] += 1
        except Exception as error:
            raise AssertionError(f"{name}, input {number} of seed {seed}: {data[:2000]!r}") from error
    return outcomes


def test_seeds_are_taken() -> None:
    """What the mutations start from is good, or they would all be refused at the first byte."""
    assert set(SEEDS) == set(TARGETS)
    for name, seeds in SEEDS.items():
        for number, seed in enumerate(seeds):
            assert TARGETS[name](seed), (name, number)


@pytest.mark.parametrize("name", NAMES)
def test_a_few_mutated_inputs(name: str) -> None:
    outcomes = driven(name, 27, seed=0)
    assert outcomes[True] and (outcomes[False] or name in ("cell", "scores", "features.npy", "features.npz"))


@settings(max_examples=5, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("network",)])
@given(data=st.binary(max_size=200))
def test_a_few_inputs_of_hypothesis(name: str, data: bytes) -> None:
    TARGETS[name](data)


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_a_hundred_thousand_mutated_inputs_of_all_targets(name: str, record_property: Told) -> None:
    outcomes = driven(name, -(-100_000 // len(NAMES)), seed=1)
    assert sum(outcomes.values()) * len(NAMES) >= 100_000
    record_property("inputs", sum(outcomes.values()))
    record_property("refused", outcomes[False])


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_a_thousand_inputs_of_hypothesis(name: str, record_property: Told) -> None:
    outcomes: Counter[bool] = Counter()

    @settings(max_examples=1000, suppress_health_check=[HealthCheck.too_slow])
    @given(data=st.binary(max_size=1000))
    def tried(data: bytes) -> None:
        outcomes[TARGETS[name](data)] += 1

    tried()
    record_property("inputs", sum(outcomes.values()))
    record_property("refused", outcomes[False])


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed: pip install atheris")
@pytest.mark.parametrize("name", NAMES)
def test_inputs_guided_by_coverage(name: str, tmp_path: Path, record_property: Told) -> None:
    words = [sys.executable, str(FUZZ / "guided.py"), name, "-runs=3000", "-seed=1", f"-artifact_prefix={tmp_path}/"]
    places = os.pathsep.join((str(FUZZ.parents[1]), str(FUZZ)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": places}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done 3000 runs" in done.stderr
    record_property("inputs", 3000)
