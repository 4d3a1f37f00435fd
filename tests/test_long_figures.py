"""The figures of the long tests: added up over cases, and the page shows what is kept."""

from pathlib import Path

from long_figures import MARKS, PAGE, figures, kept, table

REPORT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" tests="4">
<testcase classname="tests.test_x" name="test_many[a]" time="1.26">
<properties><property name="inputs" value="5264"/><property name="refused" value="5000"/></properties></testcase>
<testcase classname="tests.test_x" name="test_many[b-c]" time="2.5">
<properties><property name="inputs" value="5264"/><property name="refused" value="1"/></properties></testcase>
<testcase classname="tests.test_x" name="test_many[d]" time="0.0"><skipped message="no">no</skipped></testcase>
<testcase classname="tests.test_y" name="test_killed" time="3"><failure message="no">no</failure></testcase>
</testsuite></testsuites>"""


def test_cases_of_a_test_are_added_up(tmp_path: Path) -> None:
    (tmp_path / "long.xml").write_text(REPORT)
    many = {"test": "tests/test_x.py::test_many", "passed": 2, "skipped": 1, "failed": 0, "seconds": 3.8}
    many |= {"inputs": 10528, "refused": 5001, "commit": "abc"}
    killed = {"test": "tests/test_y.py::test_killed", "passed": 0, "skipped": 0, "failed": 1, "seconds": 3.0}
    found = figures(tmp_path / "long.xml", "abc")
    assert found == {many["test"]: many, killed["test"]: killed | {"commit": "abc"}}
    assert "| `tests/test_x.py::test_many` | 2 of 3 |  | 10,528 | 5,001 | 4 |" in table(found)
    assert "| `tests/test_y.py::test_killed` | 0 of 1 |  |  |  | 3 |" in table(found)
    assert table(found).endswith("| all | 2 of 4 | 0 | 10,528 | 5,001 | 7 |\n")


def test_the_page_shows_what_is_kept() -> None:
    text = PAGE.read_text(encoding="utf-8").split(MARKS[0])[1].split(MARKS[1])[0]
    assert text.strip() == table(kept()).strip()
