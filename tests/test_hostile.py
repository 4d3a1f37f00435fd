"""Files from strangers: each hostile one is refused in one line; nothing in it runs, and nothing outside is read."""

import csv
import html.parser
import time
from pathlib import Path

import hostile
import pytest
from hypothesis import given
from hypothesis import strategies as st

from active.annotation.tasks import Task, read_answers, write_tasks
from active.gallery import Card, gallery
from dan.safe_csv import FORMULA, as_written, plain_text, write_csv
from experiments.framework.reporting import html as report_page

NASTY = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&"


@pytest.mark.parametrize("case", hostile.CASES, ids=lambda case: case.name)
def test_it_is_refused_in_one_line(case: hostile.Case, tmp_path: Path) -> None:
    began = time.process_time()
    line = hostile.line_of(case, tmp_path)
    assert case.says in line
    assert line.isprintable(), line
    assert len(line) < 1000
    assert not (tmp_path / "sign").exists()  # what a pickle would have left
    assert time.process_time() - began < 20  # and it was refused, not worked through


def test_the_page_lists_every_case() -> None:
    """Their lines are made by `python tests/hostile.py`; some have words of libraries in them, which differ."""
    page = hostile.PAGE.read_text(encoding="utf-8")
    listed = page.split(hostile.MARKS[0])[1].split(hostile.MARKS[1])[0]
    rows = [line.split(" | ") for line in listed.splitlines() if line.startswith("| ") and not line.startswith("| |")]
    assert [(row[0].removeprefix("| "), row[1]) for row in rows] == [(case.kind, case.name) for case in hostile.CASES]
    for row, case in zip(rows, hostile.CASES, strict=True):
        assert case.says in row[2], case.name


@given(st.text())
def test_a_cell_that_was_made_harmless_reads_back(text: str) -> None:
    written = plain_text(text)
    assert as_written(written) == text
    assert not written.startswith(FORMULA)


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",))), min_size=1, max_size=5))
def test_a_file_of_cells_reads_back(tmp_path_factory: pytest.TempPathFactory, cells: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "cells.csv"
    write_csv(path, ["a"] * len(cells), [cells, cells])
    with path.open(encoding="utf-8", newline="") as file:
        _, *rows = csv.reader(file)
    found = [[as_written(cell) for cell in row] for row in rows]
    assert found == [cells, cells] or cells == [""]  # one empty cell is an empty line


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "'=1+1", "''=1", "=cmd|' /C calc'!A0"])
def test_classes_that_a_spreadsheet_would_compute_come_back_from_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / "tasks.csv"
    write_tasks(path, [Task(order=1, sample="a" * 64, path=name, guess=name, confidence=0.5)], (name, "b"))
    with path.open(encoding="utf-8", newline="") as file:
        header, row = csv.reader(file)
    assert not row[header.index("path")].startswith(FORMULA) and not row[header.index("guess")].startswith(FORMULA)
    row[header.index("label")] = row[header.index("guess")]  # a person copies the guess
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, row])
    assert [answer.label for answer in read_answers(path, annotator="me", when="now")] == [name]


class Seen(html.parser.HTMLParser):
    """The tags of a page, the attributes that run something, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.running: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.running += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_pages_show_a_name_and_never_obey_it(tmp_path: Path) -> None:
    png = tmp_path / "a.png"
    png.write_bytes(hostile.png(1, 1, b"\0\0"))
    card = Card(order=1, title=NASTY, share=0.5, path=NASTY, facts=[(NASTY, NASTY, True)], picture=NASTY)
    report = report_page.Section(
        heading=NASTY,
        notes=[NASTY],
        table=([NASTY], [[NASTY]]),
        paragraphs=[NASTY],
        figures=[report_page.Shown(png=png, caption=NASTY)],
        facts=[(NASTY, NASTY)],
    )
    for page, shown in (
        (gallery(NASTY, [NASTY], [card], notes=[NASTY]), 8),
        (report_page.page(NASTY, [report]), 10),
    ):
        seen = Seen()
        seen.feed(page)
        assert "script" not in seen.tags and not seen.running
        assert seen.text.count(NASTY) >= shown
