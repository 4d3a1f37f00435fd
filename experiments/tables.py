"""What the pages of experiments share: a cell, a table in Markdown, a light grid, the machine, and the page of a small
experiment, from records alone.

    cell = mean ± sqrt(sum_i (v_i - mean)^2 / (n - 1)) over seeds
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from experiments import report_html
from experiments.records import Record, Row, aggregate, to_csv, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Table = tuple[list[str], list[list[str]]]  # headers and rows


class Drawn(NamedTuple):
    """A figure for figures/<file>, and what stands below it."""

    file: str
    figure: Figure
    caption: str


# --- cells ------------------------------------------------------------------------------------------------------------


def told(by_seed: Mapping[int, float] | None, digits: int = 1) -> str:
    """Mean ± standard deviation over seeds; the mean alone for one seed; a dash for none."""
    values = list((by_seed or {}).values())
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"


def mean_of(by_seed: Mapping[int, float] | None) -> float | None:
    """The mean over seeds; None for none."""
    return statistics.fmean(by_seed.values()) if by_seed else None


def signed(value: float | None) -> str:
    """A difference, with its sign; a dash for none."""
    return "–" if value is None else f"{value:+.1f}".replace("-", "−")


def markdown(table: Table) -> str:
    """A table in Markdown, its first column to the left."""
    headers, rows = table

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"

    return line(headers) + "|---|" + "---:|" * (len(headers) - 1) + "\n" + "".join(map(line, rows))


def machines(records: Iterable[Record]) -> list[tuple[str, str]]:
    """What the records were measured with, as (term, text)."""
    records = list(records)
    where = {f"PyTorch {r['torch']}, Python {r['python']}, {r['processor']}" for r in records if "processor" in r}
    commits = {r["commit"] for r in records if r.get("commit")}
    return [("Measured on", "; ".join(sorted(where)) + "; one thread a trial"), ("Commit", ", ".join(sorted(commits)))]


def tidy(axes: Axes, grid: str = "both") -> None:
    """A light grid behind the data, no box around it."""
    axes.grid(axis=grid, color="#dddddd", linewidth=0.6)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


# --- the page of a small experiment -----------------------------------------------------------------------------------


def write_report(
    folder: Path,
    records: Sequence[Record],
    *,
    title: str,
    findings: Sequence[str],
    tables: Sequence[tuple[str, Table]],
    figures: Sequence[Drawn],
    captions: Sequence[str],
    rows: Sequence[Row] | None = None,
) -> Path:
    """table.csv, table.md, figures and report.html of a folder; the path of the page.

    findings: sentences that the records decide. tables: (heading, table). captions: how it was measured. rows: of
    table.csv; None: the accuracies and seconds of the records. A record's `command_of_all` makes them all again.
    """
    write_text(folder / "table.csv", to_csv(aggregate(records) if rows is None else rows))
    drawn = folder / "figures"
    drawn.mkdir(exist_ok=True)
    for old in drawn.glob("*.png"):
        old.unlink()
    text = [*(f"- {sentence}" for sentence in findings), ""]
    sections = [report_html.note(findings)]
    for heading, table in tables:
        text += [f"**{heading}**", "", markdown(table)]
        sections += [report_html.heading(heading), report_html.table(*table)]
    shown = []
    for file, figure, caption in figures:
        figure.savefig(drawn / file, dpi=110)
        shown.append(report_html.figure(drawn / file, caption, wide=True))
    sections.append(report_html.figures(shown))
    whole = dict.fromkeys(str(record["command_of_all"]) for record in records)
    text += [*(f"{caption}\n" for caption in captions)]
    text += ["Made by " + ", ".join(f"`{command}`" for command in whole) + "; one cell alone: `command` in table.csv."]
    sections += [report_html.heading("How it was measured"), *map(report_html.paragraph, captions)]
    write_text(folder / "table.md", "\n".join(text).rstrip() + "\n")
    facts = [("Command", "; ".join(whole)), *machines(records)]
    write_text(folder / "report.html", report_html.page(title, [*sections, report_html.facts(facts)]))
    return folder / "report.html"
