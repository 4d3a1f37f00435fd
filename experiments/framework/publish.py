"""Publishes a report: its files into experiments/results/NAME, its page docs/results/NAME.md, blocks of other pages.

<!-- results:NAME --> ... <!-- /results:NAME -->          in README.md and docs: all of table.md
<!-- findings:NAME 3 --> ... <!-- /findings:NAME -->      the first 3 of its findings; without a number all of them
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from itertools import takewhile
from pathlib import Path
from typing import Any

from dan.errors import UserError
from experiments.framework.experiment import Experiment
from experiments.framework.records import TRIAL, located, read, text_of, write, write_text
from experiments.framework.reporting.comparison_report import FILES
from experiments.framework.results_page import index_of, page_of

PUBLISHED = ("table.md", "table.csv")
IF_MADE = ("table.tex", "figures.md", *FILES)  # published too, by the reports that have them
HOME = Path(__file__).parents[1]
README = HOME.parent / "README.md"
BLOCK = re.compile(r"(<!-- (results|findings):(\w+)(?: (\d+))? -->\n).*?<!-- /\2:\3 -->", re.DOTALL)
MARK = re.compile(r"<!-- /?(?:results|findings):(\w+)(?: \d+)? -->")


def renewed(name: str, table: str, readme: Path = README) -> dict[Path, str]:
    """The pages whose blocks of this experiment change, with their new text; nothing is written.

    Raises UserError for a mark without its other half, and for findings that `table` does not begin with.
    """
    findings = list(takewhile(lambda line: line.startswith("- "), table.splitlines(keepends=True)))
    pages = {}
    for page in [readme, *sorted((readme.parent / "docs").glob("*.md"))]:
        text = page.read_text(encoding="utf-8") if page.is_file() else ""
        blocks = [match for match in BLOCK.finditer(text) if match[3] == name]
        if 2 * len(blocks) != MARK.findall(text).count(name):
            raise UserError(f"{page}: each mark <!-- results:{name} --> needs one <!-- /results:{name} --> after it")
        if not findings and any(match[2] == "findings" for match in blocks):
            raise UserError(f"{page} shows findings of {name}, and its table.md has none")
        new = text
        for match in blocks:
            block = table if match[2] == "results" else "".join(findings[: int(match[4]) if match[4] else None])
            new = new.replace(match[0], f"{match[1]}{block}<!-- /{match[2]}:{name} -->")
        if new != text:
            pages[page] = new
    return pages


def publish(experiment: Experiment[Any], name: str, folder: Path, *, home: Path = HOME, readme: Path = README) -> Path:
    """Copy a run's records, tables and figures to home/results/<name>, and write its page and blocks; the folder.

    Raises UserError if the report was not made, and what `renewed` raises.
    """
    records = read(folder)
    if missing := [file for file in PUBLISHED if not (folder / file).is_file()]:
        raise UserError(f"{folder / missing[0]} does not exist: run python -m experiments report {experiment.name}")
    pages = renewed(name, (folder / "table.md").read_text(encoding="utf-8"), readme)
    results = home / "results" / name
    results.mkdir(parents=True, exist_ok=True)
    write(results, records)
    for file in (*PUBLISHED, *IF_MADE):
        (results / file).unlink(missing_ok=True)  # what is no longer made must not stay published
        if (folder / file).is_file():
            shutil.copyfile(folder / file, results / file)
    shutil.rmtree(results / "figures", ignore_errors=True)
    shutil.copytree(
        folder / "figures", results / "figures", ignore=lambda _, names: [n for n in names if n[-4:] != ".png"]
    )
    for page, text in pages.items():
        write_text(page, text)
    docs = readme.parent / "docs" / "results"
    write_text(docs / f"{name}.md", page_of(experiment, name, results, docs))
    write_text(docs / "index.md", index_of(docs))
    return results


def published(home: Path = HOME) -> dict[str, str]:
    """Published name -> name of its experiment."""
    found = {}
    for table in sorted((home / "results").glob("*/table.csv")):
        first = json.loads(text_of(located(table.parent)).partition("\n")[0])
        found[table.parent.name] = str(first.get(TRIAL, first)["experiment"])
    return found


def republish(experiment: Experiment[Any], name: str, *, home: Path = HOME, readme: Path = README) -> Path:
    """Make a published report again from its own records; its folder."""
    with tempfile.TemporaryDirectory() as made:
        shutil.copy(located(home / "results" / name), made)
        experiment.write_report(Path(made))
        return publish(experiment, name, Path(made), home=home, readme=readme)
