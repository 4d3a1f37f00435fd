"""The report of an experiment, from records alone: tables in CSV, Markdown, LaTeX and HTML, figures, paired tests.

    table.csv                        every number in long form
    table.md, table.tex              findings, tables, how they were measured
    figures/, figures.md             the figures with their captions
    tests.csv, tests.md              where there are methods to compare
    report.html                      all of it on one page

No number is typed by hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from experiments.framework.measurements import Row, aggregate, to_csv
from experiments.framework.records import Record, write_text
from experiments.framework.reporting import html, latex, markdown
from experiments.framework.reporting.comparison_report import write_comparisons
from experiments.framework.reporting.comparisons import Comparison, compare_all
from experiments.framework.reporting.html import Section, Shown
from experiments.framework.reporting.tables import TESTS, Table, machines, origins

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Drawn(NamedTuple):
    """A figure for figures/<file>, and its caption. of_images: it shows data, not a plot."""

    file: str
    figure: Figure
    caption: str
    of_images: bool = False


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a report shows.

    findings: sentences that the records decide. tables: (heading, table); those without a row are left out. captions:
    how it was measured. rows: of table.csv; None: the accuracies and seconds of the records. compared: which methods
    are tested against each other (`comparisons.compare_all` of families, or `comparisons.compare` of a metric of one's
    own); None: the accuracies, and areas under curves, of the records. facts: more (term, text) of how it was measured.
    """

    title: str
    findings: Sequence[str]
    tables: Sequence[tuple[str, Table]]
    figures: Sequence[Drawn] = ()
    captions: Sequence[str] = ()
    rows: Sequence[Row] | None = None
    compared: Sequence[Comparison] | None = None
    facts: Sequence[tuple[str, str]] = ()


def write_report(folder: Path, records: Sequence[Record], report: Report) -> Path:
    """Write all files of the report into a folder; the path of its page, report.html."""
    write_text(folder / "table.csv", to_csv(aggregate(records) if report.rows is None else report.rows))
    name = str(records[0]["experiment"])
    shown = draw(folder, report.figures)
    compared = compare_all(records) if report.compared is None else report.compared
    against = write_comparisons(folder, compared, experiment=name)
    chosen = [origins(records)] if any(record.get("selection") for record in records) else []
    captions = [*report.captions, *chosen]
    tables = [(heading, table) for heading, table in report.tables if table[1]]

    text = [f"- {sentence}" for sentence in report.findings]
    for heading, table in tables:
        text += ["", f"**{heading}**", "", markdown.table(*table)]
    text += [*(f"{caption}\n" for caption in captions), made_by(records) + (f" {TESTS}" if against else "")]
    write_text(folder / "table.md", "\n".join(text).strip() + "\n")
    write_text(folder / "table.tex", latex.tables(tables, captions=captions, label=name))
    sections = [
        Section(notes=report.findings),
        *(Section(heading=heading, table=table) for heading, table in tables),
        Section(figures=shown),
        *against,
        Section(heading="How it was measured", paragraphs=captions),
        Section(facts=[("Command", "; ".join(commands_of(records))), *report.facts, *machines(records)]),
    ]
    write_text(folder / "report.html", html.page(report.title, sections))
    return folder / "report.html"


def draw(folder: Path, figures: Iterable[Drawn]) -> list[Shown]:
    """Write the figures of a report, and figures.md, which shows them; what the page shows of them."""
    place = folder / "figures"
    place.mkdir(parents=True, exist_ok=True)
    for old in place.glob("*.png"):
        old.unlink()
    shown = []
    for drawn in figures:
        drawn.figure.savefig(place / drawn.file, dpi=110)
        shown.append(Shown(png=place / drawn.file, caption=drawn.caption, of_images=drawn.of_images))
    plain = str.maketrans("[]", "()")
    linked = [f"![{each.caption.translate(plain)}](figures/{each.png.name})\n\n{each.caption}\n" for each in shown]
    write_text(folder / "figures.md", "\n".join(linked))
    return shown


def commands_of(records: Iterable[Mapping[str, object]]) -> list[str]:
    """The commands that make all of the records."""
    return list(dict.fromkeys(str(record["command_of_all"]) for record in records if "command_of_all" in record))


def made_by(records: Sequence[Record]) -> str:
    """One sentence on the commands that make the tables again."""
    commands = ", ".join(f"`{command}`" for command in commands_of(records))
    return f"Made by {commands}; one cell alone: `command` in table.csv."
