"""What is published follows from the records: every table.csv, every page of docs/results, the blocks of the pages."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from experiments.__main__ import EXPERIMENTS, experiment_named
from experiments.framework.publish import published, renewed
from experiments.framework.results_page import index_of, page_of

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "experiments" / "results"
TABLES = published()
SLOW = ("ablations", "ablations_source_only", "active_adaptation", "arena")  # 5 to 15 s each


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table.csv without their commands."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: cell for name, cell in row.items() if name != "command"} for row in csv.DictReader(file)]


def test_every_table_is_of_an_experiment() -> None:
    assert set(TABLES.values()) <= {experiment.name for experiment in EXPERIMENTS}
    assert len(TABLES) >= 19 and TABLES["arena_fire8"] == "arena" and TABLES["ablations_source_only"] == "ablations"


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.long] if n in SLOW else []) for n in TABLES])
def test_what_is_published_comes_from_the_published_records(name: str, tmp_path: Path) -> None:
    for path in (RESULTS / name).glob("records.jsonl*"):
        shutil.copy(path, tmp_path)
    experiment_named(TABLES[name]).write_report(tmp_path)
    published, made = rows(RESULTS / name / "table.csv"), rows(tmp_path / "table.csv")
    assert published and made == published
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert text == (RESULTS / name / "table.md").read_text(encoding="utf-8"), f"run: experiments republish {name}"
    assert {path.name for path in (tmp_path / "figures").glob("*.png")} == {
        path.name for path in (RESULTS / name / "figures").glob("*.png")
    }


@pytest.mark.parametrize("name", TABLES)
def test_the_pages_show_what_is_published(name: str) -> None:
    docs = ROOT / "docs" / "results"
    page = page_of(experiment_named(TABLES[name]), name, RESULTS / name, docs)
    assert page == (docs / f"{name}.md").read_text(encoding="utf-8"), f"run: experiments republish {name}"


@pytest.mark.parametrize("table", sorted(RESULTS.glob("*/table.md")), ids=lambda path: path.parent.name)
def test_blocks_of_pages_are_up_to_date(table: Path) -> None:
    """Of benchmarks too."""
    assert renewed(table.parent.name, table.read_text(encoding="utf-8")) == {}


def test_every_page_of_results_is_of_something_published() -> None:
    docs = ROOT / "docs" / "results"
    assert {path.stem for path in docs.glob("*.md")} == {*TABLES, "index"}
    assert index_of(docs) == (docs / "index.md").read_text(encoding="utf-8")
