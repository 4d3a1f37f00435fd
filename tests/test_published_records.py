"""The published numbers: `report` makes every table.csv of experiments/results again from the records beside it."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from experiments.__main__ import EXPERIMENTS, main

RESULTS = Path(__file__).resolve().parent.parent / "experiments" / "results"
# Published under a name of their own: runs of an experiment with other settings.
RUNS_OF = {"ablations_source_only": "ablations", "arena_fire8": "arena"}
TABLES = sorted(path.parent.name for path in RESULTS.glob("*/table.csv"))
SLOW = ("ablations", "ablations_source_only", "active_adaptation", "arena")  # 5 to 15 s each


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table.csv without their commands."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: cell for name, cell in row.items() if name != "command"} for row in csv.DictReader(file)]


def test_every_table_is_of_an_experiment() -> None:
    assert {RUNS_OF.get(name, name) for name in TABLES} <= set(EXPERIMENTS)
    assert len(TABLES) >= 19


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.long] if n in SLOW else []) for n in TABLES])
def test_the_published_table_comes_from_the_published_records(name: str, tmp_path: Path) -> None:
    for path in (RESULTS / name).glob("records.jsonl*"):
        shutil.copy(path, tmp_path)
    assert main(["report", RUNS_OF.get(name, name), "--out", str(tmp_path)]) == 0
    published, made = rows(RESULTS / name / "table.csv"), rows(tmp_path / "table.csv")
    assert published and made == published
