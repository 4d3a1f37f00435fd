"""The site of docs/ is built without a broken link, and the notebook's cells run as they are written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "notebooks" / "two_folders_to_labels.ipynb"


def test_the_pages_and_the_interface_are_a_site(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason='no MkDocs: pip install "active-dan[docs]"')
    pytest.importorskip("mkdocstrings", reason='no mkdocstrings: pip install "active-dan[docs]"')
    # Not -q: it would keep the warnings, which are what is strict about it, from being counted.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages <= {path.stem for path in (tmp_path / "site").glob("*.html")}
    # The figures of results come from experiments/results, and each page's links lead to them.
    made = [tmp_path / "site" / f"{page}.html" for page in pages] + list((tmp_path / "site" / "results").glob("*.html"))
    shown = [(page.parent / src).resolve() for page in made for src in _pictures(page)]
    assert len([file for file in shown if file.parent.parent.name == "figures"]) > 10
    assert not [file for file in shown if not file.is_file()]
    text = (tmp_path / "site" / "api.html").read_text(encoding="utf-8")
    for name in ("mmd2", "optimal_weights", "k_center_greedy", "fit", "run_rounds"):
        assert f".{name}" in text


def _pictures(page: Path) -> list[str]:
    found = re.findall(r'<img[^>]* src="([^"]+)"', page.read_text(encoding="utf-8"))
    return [src for src in found if not src.startswith("data:")]


def test_every_page_is_in_the_list_of_pages() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    lost = [path.name for path in sorted((ROOT / "docs").glob("*.md")) if f"({path.name}" not in index]
    assert lost == ["index.md"]


def test_the_notebook_is_executed_and_ended_well() -> None:
    nbformat = pytest.importorskip("nbformat", reason='no nbformat: pip install "active-dan[notebook]"')
    cells = [cell for cell in nbformat.read(NOTEBOOK, 4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert "error" not in kinds
    told = "".join(output.get("text", "") for cell in cells for output in cell.outputs)
    assert "never asked for:" in told
    assert str(Path.home()) not in NOTEBOOK.read_text(encoding="utf-8")


@pytest.mark.long
def test_the_notebook_runs_again(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason='no nbformat: pip install "active-dan[notebook]"')
    nbclient = pytest.importorskip("nbclient", reason='no nbclient: pip install "active-dan[notebook]"')
    notebook = nbformat.read(NOTEBOOK, 4)
    nbclient.NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    before, after = (float(part.split("%")[0].split()[-1]) for part in notebook.cells[-2].outputs[0]["text"].split(","))
    assert after > before


def test_every_page_has_its_place_in_the_site() -> None:
    named = re.findall(r"^ +- ([a-z_0-9]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(named) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))
