"""Records to what people read: tables in CSV, Markdown, LaTeX and the terminal, plots, one HTML page, blocks of pages.

Nothing here trains or measures, and no number is typed by hand: every table is made from records alone.
"""

from __future__ import annotations

import itertools
import json
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dan.errors import UserError
from experiments.records import Record, aggregate, measurements, read, to_csv, write_text
from experiments.reporting import plots, report_html, report_latex, report_markdown
from experiments.reporting.comparison_report import FILES, write_comparisons
from experiments.reporting.comparisons import compare_all
from experiments.reporting.tables import TESTS, origins

PUBLISHED = ("records.jsonl", "table.md", "table.csv")
IF_MADE = ("table.tex", "figures.md", *FILES)  # published too, by the reports that have them
PICTURES = (".png", ".svg")
HOME = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG file in the report's figures folder, made by the experiment.

    of_images: it shows data, not a plot. wide: it needs the width of the page.
    """

    file: str
    caption: str
    of_images: bool = False
    wide: bool = False


@dataclass(frozen=True, kw_only=True)
class Page:
    """What an experiment says about itself: the report around its tables.

    notes: what a reader must know to trust the numbers. facts: how they were measured, (term, text). sections: more
    figures, (heading, text, pictures).
    """

    title: str
    opening: str
    notes: Sequence[str]
    facts: Sequence[tuple[str, str]]
    sections: Sequence[tuple[str, str, Sequence[Picture]]] = ()


def summary(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """Headers and one row a method at its most labels: mean and spread over seeds, and the worst seed beside them."""
    measured = measurements(records)
    spread = {(row.method, row.labels, row.split, row.metric): row.spread for row in aggregate(records)}
    headers = ["method", "labels", "target", "worst", "unqueried", "test", "ALC", "n"]
    rows = []
    on_target = plots.final(measured, "target")
    others = [plots.final(measured, "unqueried"), plots.final(measured, "test"), plots.final(measured, "target", "alc")]
    for method, (key, values) in on_target.items():
        cells = []
        for column in [on_target, *others]:
            if method not in column:
                cells.append("–")
                continue
            where, numbers = column[method]
            deviation = spread[method, where.labels, where.split, where.metric]
            cells.append(
                f"{statistics.fmean(numbers.values()):.1f}" + ("" if deviation is None else f" ± {deviation:.1f}")
            )
        cells.insert(1, f"{min(values.values()):.1f}")
        rows.append([method, str(key.labels), *cells, str(len(values))])
    return headers, rows


LEGEND = (
    "Accuracy in percent, mean ± standard deviation over seeds. labels: target labels asked for; target: all target "
    "images, those that were labelled included; worst: the same of the worst seed; unqueried: target images that no "
    "label was asked for; test: the target's own test split; ALC: area under the accuracy-labels curve on all target "
    "images, over its label range; n: seeds."
)


def markdown(records: Sequence[Record]) -> str:
    """The summary as a Markdown table, with its legend and the commands that make it again."""
    commands = dict.fromkeys(str(record["command"]) for record in records)
    made_by = "Made by " + ", ".join(f"`{command}`" for command in commands) + "."
    return f"{report_markdown.table(*summary(records))}\n{LEGEND} {origins(records)} {made_by}\n"


def _took(folder: Path) -> str:
    """One line on the time of the whole, if it was all made in one go."""
    path = folder / "took.json"
    if not path.is_file():
        return ""
    took = json.loads(path.read_text(encoding="utf-8"))
    return f"\nAll of it took {took['seconds']} s, {took['workers']} trials at a time, one thread each.\n"


def show(records: Sequence[Record], *, title: str, console: Console | None = None) -> None:
    """The summary in the terminal."""
    headers, rows = summary(records)
    # As narrow as it can be: it has to fit a terminal of 80 columns.
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for place, header in enumerate(headers):
        table.add_column(header, justify="right" if place else "left", no_wrap=not place, header_style="bold underline")
    for row in rows:
        table.add_row(*(cell.replace("[", "\\[") for cell in row))
    (console or Console()).print(table)


def write(folder: Path, page: Page) -> Path:
    """Make the tables, tests, plots and report.html of a folder from its records.jsonl; the path of the page.

    The pictures that `page` names must lie in folder/figures.
    """
    records = read(folder / "records.jsonl")
    measured = measurements(records)
    write_text(folder / "table.csv", to_csv(aggregate(records)))
    name = str(records[0]["experiment"])
    against = write_comparisons(folder, compare_all(records), experiment=name)
    write_text(folder / "table.md", markdown(records) + (f"\n{TESTS}\n" if against else "") + _took(folder))
    shown_in_tex = [(page.title, summary(records))]
    write_text(folder / "table.tex", report_latex.tables(shown_in_tex, captions=[LEGEND, origins(records)], label=name))
    drawn = {
        "accuracy.png": (
            plots.bars(measured),
            "Accuracy on all of the target: mean, standard deviation, one dot a seed.",
        ),
        "labels.png": (plots.curves(measured), "Accuracy on all of the target against the target labels asked for."),
        "labels_unqueried.png": (
            plots.curves(measured, "unqueried"),
            "The same on the target images that were never asked about: what was learned, not what was told.",
        ),
        "labels_test.png": (
            plots.curves(measured, "test"),
            "The same on the target's test split, which nobody trains on.",
        ),
    }
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    shown = []
    for file, (figure, caption) in drawn.items():
        if figure is not None:
            figure.savefig(figures / file, dpi=110)
            shown.append(report_html.figure(figures / file, caption))

    more = []
    for heading, text, pictures in page.sections:
        inside = [report_html.figure(figures / p.file, p.caption, of_images=p.of_images, wide=p.wide) for p in pictures]
        more += [report_html.heading(heading), report_html.paragraph(text), report_html.figures(inside)]
    headers, rows = summary(records)
    sections = [
        report_html.paragraph(page.opening),
        report_html.table(headers, rows),
        report_html.paragraph(f"{LEGEND} {origins(records)}"),
        report_html.note(page.notes),
        report_html.heading("Accuracy"),
        report_html.figures(shown),
        *against,
        *more,
        report_html.heading("How it was measured"),
        report_html.facts(page.facts),
    ]
    write_text(folder / "report.html", report_html.page(page.title, sections))
    return folder / "report.html"


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
