"""The experiment that docs/adding_an_experiment.md walks through: short, run in its quick form, and resumed."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import num_kernels
from experiments.__main__ import main
from experiments.framework.records import read

ROOT = Path(__file__).resolve().parent.parent


def test_the_example_is_short_and_the_page_quotes_it() -> None:
    source = (ROOT / "experiments" / "num_kernels.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 120
    page = (ROOT / "docs" / "adding_an_experiment.md").read_text(encoding="utf-8")
    quoted = [line.strip() for block in page.split("```python\n")[1:] for line in block.split("```")[0].splitlines()]
    lines = {line.strip() for line in source.splitlines()}
    assert [line for line in quoted if line and line not in lines and "EXPERIMENT" not in line] == []


def test_the_example_runs_in_its_quick_form_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "num_kernels", "--quick", "--workers", "1", "--quiet", "--out", str(tmp_path)]
    assert main(words) == 0
    assert "| 5 kernels |" in capsys.readouterr().out
    records = read(tmp_path)
    assert [record["method"] for record in records] == ["1 kernels", "5 kernels"]
    assert {record["command"] for record in records} == {
        f"python -m experiments run num_kernels --quick --counts {count}" for count in (1, 5)
    }
    assert all(record["selection"] == "last" and record["step"] == 10 for record in records)
    files = ["table.csv", "table.md", "table.tex", "report.html", "figures/accuracy.png"]
    assert all((tmp_path / file).is_file() for file in files)
    trained = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/trial.json")}
    assert main(words) == 0 and {path: path.stat().st_mtime_ns for path in trained} == trained
    assert main(["run", "num_kernels", "--counts", "2", "--out", str(tmp_path)]) == 2
    assert "--counts" in capsys.readouterr().err
    assert num_kernels.EXPERIMENT.name == "num_kernels"
