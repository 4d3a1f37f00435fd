"""Trainings give the records that they gave before the code was restructured, bit by bit (tests/golden/records.json).

Bits depend on the processor, on the version of torch, and on the number of threads: elsewhere than where the records
were made, the figures are held to a tolerance that wide mistakes exceed.
"""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.golden.runs import RUNS, machine, make_images, make_run, without_clock

GOLDEN = json.loads((Path(__file__).parent / "golden" / "records.json").read_text())
RENAMED = {"asked": "queried"}  # keys of records, as they were and as they are


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_images(folder)
    return folder


def renamed(value: Any) -> Any:
    if isinstance(value, dict):
        return {RENAMED.get(name, name): renamed(part) for name, part in value.items()}
    return [renamed(part) for part in value] if isinstance(value, list) else value


def assert_close(was: Any, now: Any, where: str) -> None:
    if isinstance(was, dict):
        assert set(was) == set(now), where
        for name in was:
            assert_close(was[name], now[name], f"{where}/{name}")
    elif isinstance(was, float) and "loss" in where:
        assert math.isclose(was, now, rel_tol=0.05, abs_tol=0.05), where
    elif isinstance(was, list) and "queried" not in where:
        assert len(was) == len(now), where
        for number, (a, b) in enumerate(zip(was, now, strict=True)):
            assert_close(a, b, f"{where}/{number}")
    else:
        assert type(was) is type(now), where


@pytest.mark.long
@pytest.mark.parametrize("name", RUNS)
def test_records_are_as_before(name: str, made: Path) -> None:
    # A file of records without an evaluation or a round, as the demo's own, says nothing, wherever it lies.
    was, now = (
        {path: kept for path, kept in found.items() if kept}
        for found in (renamed(GOLDEN["runs"][name]), without_clock(make_run(name, made)))
    )
    if machine() == GOLDEN["machine"]:
        assert now == was
    else:
        assert_close(was, now, name)
