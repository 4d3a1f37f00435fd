"""Publishes a report: its files into experiments/results, its tables into the marked blocks of README.md and docs."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

from dan.errors import UserError
from experiments.framework.records import read, write, write_text
from experiments.framework.reporting.comparison_report import FILES

PUBLISHED = ("table.md", "table.csv")
IF_MADE = ("table.tex", "figures.md", *FILES)  # published too, by the reports that have them
PICTURES = (".png", ".svg")
HOME = Path(__file__).parents[1]


def renewed(
    name: str, table: str, readme: Path = HOME.parent / "README.md", *, tests: str = "", figures: str = ""
) -> dict[Path, str]:
    """The pages with an experiment's results in them that change, and their new text; nothing is written.

    In the README and the pages of docs beside it: the whole table between `<!-- results:NAME -->` and
    `<!-- /results:NAME -->`, the sentences that it begins with between `<!-- findings:NAME -->` and
    `<!-- /findings:NAME -->`, `tests`, the text of tests.md, between `<!-- tests:NAME -->` and `<!-- /tests:NAME -->`,
    and `figures`, that of figures.md, between `<!-- figures:NAME -->` and `<!-- /figures:NAME -->`, its links leading
    to experiments/results; nothing else of a page changes. UserError if no page holds the marks of the table, or one
    holds marks that are not there once each and in order, or of something that the report has not.
    """
    findings = "".join(itertools.takewhile(lambda line: line.startswith("- "), table.splitlines(keepends=True)))
    pages = [readme, *sorted((readme.parent / "docs").glob("*.md"))]
    texts = {page: page.read_text(encoding="utf-8") for page in pages if page.is_file()}
    shown = False
    for page in texts:
        up = "" if page == readme else "../"
        linked = figures.replace("](figures/", f"]({up}experiments/results/{name}/figures/")
        for kind, block in (("results", table), ("findings", findings), ("tests", tests), ("figures", linked)):
            begin, end = f"<!-- {kind}:{name} -->", f"<!-- /{kind}:{name} -->"
            text = texts[page]
            if begin not in text and end not in text:
                continue
            if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
                raise UserError(f"{page} needs the marks {begin} and {end}, once each and in this order")
            if not block and kind == "tests":
                raise UserError(f"{page} asks for the tests of {name}, whose report compares no methods")
            if not block and kind == "figures":
                raise UserError(f"{page} asks for the figures of {name}, whose report draws none")
            if not block:
                raise UserError(f"{page} asks for the findings of {name}, whose table.md does not begin with any")
            before, after = text.split(begin)[0], text.split(end)[1]
            texts[page] = f"{before}{begin}\n{block}{end}{after}"
            shown = shown or kind == "results"
    if not shown:
        marks = f"<!-- results:{name} --> and <!-- /results:{name} -->"
        raise UserError(f"{readme} or a page of docs needs the marks {marks}, once each and in this order")
    return {page: text for page, text in texts.items() if text != page.read_text(encoding="utf-8")}


def publish(name: str, folder: Path, *, home: Path = HOME, readme: Path = HOME.parent / "README.md") -> Path:
    """Copy an experiment's records, tables, tests and figures to home/results/<name> and renew its blocks of the pages.

    Raises UserError if the report was not made, and what `renewed` raises.
    """
    records = read(folder)
    if missing := [file for file in PUBLISHED if not (folder / file).is_file()]:
        raise UserError(
            f"{folder / missing[0]} is missing: make the report first (python -m experiments report {name})"
        )
    more = {kind: folder / f"{kind}.md" for kind in ("tests", "figures")}
    pages = renewed(
        name,
        (folder / "table.md").read_text(encoding="utf-8"),
        readme,
        **{kind: path.read_text(encoding="utf-8") if path.is_file() else "" for kind, path in more.items()},
    )
    results = home / "results" / name
    results.mkdir(parents=True, exist_ok=True)
    write(results, records)
    for file in PUBLISHED:
        shutil.copyfile(folder / file, results / file)
    # What is no longer made must not stay published.
    for file in IF_MADE:
        (results / file).unlink(missing_ok=True)
        if (folder / file).is_file():
            shutil.copyfile(folder / file, results / file)
    shutil.rmtree(results / "figures", ignore_errors=True)
    shutil.copytree(
        folder / "figures", results / "figures", ignore=lambda _, names: [n for n in names if n[-4:] not in PICTURES]
    )
    for page, text in pages.items():
        write_text(page, text)
    return results
