"""What the pages of experiments share: a cell, a table in Markdown, a light grid, dots and a legend, the machine, and
the page of a small experiment, from records alone.

    cell = mean ± sqrt(sum_i (v_i - mean)^2 / (n - 1)) over seeds
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from experiments.records import Record, Row, aggregate, to_csv, write_text
from experiments.reporting import report_html, report_latex, report_markdown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from experiments.reporting.comparisons import Comparison

Table = tuple[list[str], list[list[str]]]  # headers and rows

# Said where a report has them.
TESTS = "Paired tests between the methods, corrected for their number, and mean ranks: tests.md, tests.csv, ranks.csv."

# What a record's `selection` says of the model that was measured.
RULES = {
    "last": "after the last step, nothing is selected",
    "source": "chosen by held-out source samples",
    "label_free": "chosen without a target label",
    "oracle": "chosen by target labels, which is no result",
}


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


def difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> dict[int, float]:
    """{seed: ours minus theirs}, of the seeds that both have."""
    return {seed: value - theirs[seed] for seed, value in ours.items() if seed in theirs}


def signed(value: float | None, digits: int = 1) -> str:
    """A difference, with its sign; a dash for none."""
    return "–" if value is None else f"{value:+.{digits}f}".replace("-", "−")


def points(differences: Mapping[int, float] | None, digits: int = 1) -> str:
    """The mean difference with its sign, ± its standard deviation over seeds; a dash for none."""
    values = list((differences or {}).values())
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return signed(mean_of(differences), digits) + spread


def each(records: Iterable[Record], name: str, form: str = ",") -> str:
    """All values that records have under `name`, from small to large."""
    return ", ".join(f"{v:{form}}" for v in sorted({r[name] for r in records if r.get(name) is not None}))


def markdown(table: Table) -> str:
    """A table in Markdown, its first column to the left."""
    return report_markdown.table(*table)


def origins(records: Iterable[Record]) -> str:
    """By which rule the models that count were chosen, and where published numbers beside ours are from."""
    records = [record for record in records if record.get("selection")]
    rules = dict.fromkeys(str(record["selection"]) for record in records)
    told = "; ".join(f"{rule}: {RULES[rule]}" if rule in RULES else rule for rule in rules)
    papers: dict[tuple[str, str], list[str]] = {}  # (source, how it was read) -> its rows
    for said in dict.fromkeys(str(r["provenance"]) for r in records if r.get("paper") is not None):
        source, _, rest = said.partition(", row ")
        row, _, read = rest.partition("; ")
        papers.setdefault((source, read), []).extend([row] if row else [])
    listed = [
        source + (f", row{'s' * (len(rows) > 1)} {', '.join(rows)}" if rows else "") + (f"; {read}" if read else "")
        for (source, read), rows in papers.items()
        if source
    ]
    published = f" Published numbers: {'; '.join(listed)}." if listed else ""
    return f"Selection of the model: {told}.{published}"


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


def legend_above(figure: Figure, axes: Axes, columns: int) -> None:
    """What the lines of these axes are, above all panels."""
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=columns, fontsize=8, frameon=False)


def dots(axes: Axes, place: float, values: Sequence[float], colour: str, sizes: tuple[float, float]) -> None:
    """A dot a seed at this height, and a diamond at their mean; sizes: of both."""
    small, large = sizes
    axes.scatter(values, [place] * len(values), s=small, color=colour, alpha=0.5, linewidths=0, zorder=2)
    axes.scatter([statistics.fmean(values)], [place], s=large, color=colour, marker="D", zorder=3)


def write_figures(folder: Path, figures: Iterable[tuple[str, str]]) -> None:
    """folder/figures.md: each (file in folder/figures, caption) as Markdown shows it."""
    plain = str.maketrans("[]", "()")
    shown = [f"![{caption.translate(plain)}](figures/{file})\n\n{caption}\n" for file, caption in figures]
    write_text(folder / "figures.md", "\n".join(shown))


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
    compared: Sequence[Comparison] | None = None,
) -> Path:
    """All files of a report from records, into a folder; the path of its page, report.html.

    table.csv; table.md and table.tex with the same tables; the figures, and figures.md, which shows them; tests.csv,
    tests.md, ranks.csv and the plot of mean ranks where there are methods to compare; and one HTML page with all of it.

    findings: sentences that the records decide. tables: (heading, table). captions: how it was measured. rows: of
    table.csv; None: the accuracies and seconds of the records. compared: which methods, on what
    (`comparisons.compare_all` of families, or `comparisons.compare` of a metric of one's own); None: the accuracies,
    and the areas under curves, of the records. A record's `command_of_all` makes them all again.
    """
    from experiments.reporting.comparison_report import write_comparisons
    from experiments.reporting.comparisons import compare_all

    write_text(folder / "table.csv", to_csv(aggregate(records) if rows is None else rows))
    drawn = folder / "figures"
    drawn.mkdir(exist_ok=True)
    for old in drawn.glob("*.png"):
        old.unlink()
    captions = [*captions, *([origins(records)] if any(record.get("selection") for record in records) else [])]
    text = [*(f"- {sentence}" for sentence in findings), ""]
    sections = [report_html.note(findings)]
    for heading, table in tables:
        text += [f"**{heading}**", "", markdown(table)]
        sections += [report_html.heading(heading), report_html.table(*table)]
    shown = []
    for file, figure, caption in figures:
        figure.savefig(drawn / file, dpi=110)
        shown.append(report_html.figure(drawn / file, caption, wide=True))
    write_figures(folder, [(file, caption) for file, _, caption in figures])
    sections.append(report_html.figures(shown))
    name = str(records[0]["experiment"])
    against = write_comparisons(folder, compare_all(records) if compared is None else compared, experiment=name)
    sections += against
    whole = dict.fromkeys(str(record["command_of_all"]) for record in records)
    made = "Made by " + ", ".join(f"`{command}`" for command in whole) + "; one cell alone: `command` in table.csv."
    text += [*(f"{caption}\n" for caption in captions), made + (f" {TESTS}" if against else "")]
    sections += [report_html.heading("How it was measured"), *map(report_html.paragraph, captions)]
    write_text(folder / "table.md", "\n".join(text).rstrip() + "\n")
    write_text(folder / "table.tex", report_latex.tables(tables, captions=captions, label=name))
    facts = [("Command", "; ".join(whole)), *machines(records)]
    write_text(folder / "report.html", report_html.page(title, [*sections, report_html.facts(facts)]))
    return folder / "report.html"
