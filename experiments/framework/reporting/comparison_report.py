"""Comparisons between methods as people read them: tests.csv, tests.md, and the plot of mean ranks."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.framework.records import write_text
from experiments.framework.reporting import markdown, plots
from experiments.framework.reporting.comparisons import ALPHA, Comparison, Family, Ranking
from experiments.framework.reporting.html import Section, Shown
from experiments.framework.reporting.markdown import Table

METRICS = {
    "accuracy": "accuracy",
    "alc": "area under the accuracy-labels curve",
    "roc_auc_alc": "area under the AUC-labels curve",
}
LISTED = 21  # comparisons that a table lists one by one: all pairs of seven methods; more are a matrix
FILES = ("tests.csv", "tests.md")


def write_comparisons(folder: Path, comparisons: Sequence[Comparison], *, experiment: str) -> list[Section]:
    """tests.csv, tests.md and figures/ranks_*.png of a folder; the sections of its HTML page.

    Without a comparison there are no such files, those of an earlier report included.
    """
    figures = folder / "figures"
    for old in (*(folder / file for file in FILES), *figures.glob("ranks_*.png")):
        old.unlink(missing_ok=True)
    if not comparisons:
        return []
    figures.mkdir(exist_ok=True)
    text: list[str] = []
    sections: list[Section] = []
    for number, comparison in enumerate(comparisons, start=1):
        title, table, ranking = title_of(comparison), table_of_tests(comparison), comparison.ranking
        said = [*caption_of_tests(comparison), *caption_of_ranks(comparison)]
        text += [f"**{title}**", ""] + [markdown.table(*table)] * bool(table[1]) + [f"{line}\n" for line in said]
        sections.append(Section(heading=f"Paired tests: {title}", table=table, paragraphs=said))
        if ranking is not None:
            ranks = table_of_ranks(ranking)
            text += [markdown.table(*ranks)]
            sections.append(Section(table=ranks))
            if draws(ranking):
                png = figures / f"ranks_{number}_{_file_name(comparison.family)}.png"
                plots.ranks(ranking).savefig(png, dpi=110)
                caption = f"Mean ranks, the best on top: {title}. Methods whose intervals overlap are not told apart."
                sections[-1] = Section(figures=[Shown(png=png, caption=caption)])
    if rows := [row for comparison in comparisons for row in rows_of_tests(comparison, experiment)]:
        write_text(folder / "tests.csv", _csv(rows))
    write_text(folder / "tests.md", "\n".join(text).rstrip() + "\n")
    return sections


def draws(ranking: Ranking) -> bool:
    """Whether a plot could show anything: mean ranks are K - 1 apart at most."""
    return ranking.critical_difference < len(ranking.methods) - 1


# --- tables -----------------------------------------------------------------------------------------------------------


def table_of_tests(comparison: Comparison) -> Table:
    """One row a comparison; for many methods, one against one, a matrix of the mean differences."""
    if is_matrix(comparison):
        return matrix_table(comparison)
    rows = []
    for t in comparison.tests:
        interval = "–" if t.low is None or t.high is None else f"{_signed(t.low)} to {_signed(t.high)}"
        about = [f"{t.a} − {t.b}", _signed(t.mean), interval, f"{t.better}/{t.n - t.better - t.worse}/{t.worse}"]
        rows.append([*about, str(t.n), str(t.cells), _p(t.p), _p(t.p_holm) + _star(t.p_holm)])
    headers = ["A − B", "mean difference", "95 % interval", "better/equal/worse", "n", "cells", "p", "Holm p"]
    return headers, rows


def is_matrix(comparison: Comparison) -> bool:
    """Whether there are too many comparisons to list them."""
    return comparison.family.against is None and len(comparison.tests) > LISTED


def matrix_table(comparison: Comparison) -> Table:
    """The mean difference, row minus column, methods from the best to the worst; a star for a Holm p below ALPHA."""
    found: dict[tuple[str, str], str] = {}
    leads: dict[str, list[float]] = {}
    for t in comparison.tests:
        found[t.a, t.b] = _signed(t.mean) + _star(t.p_holm)
        found[t.b, t.a] = _signed(-t.mean) + _star(t.p_holm)
        leads.setdefault(t.a, []).append(t.mean)
        leads.setdefault(t.b, []).append(-t.mean)
    order = sorted(leads, key=lambda method: -sum(leads[method]) / len(leads[method]))
    rows = [[a, *("" if a == b else found.get((a, b), "–") for b in order)] for a in order]
    return ["row − column", *order], rows


def table_of_ranks(ranking: Ranking) -> Table:
    """Mean ranks, best first."""
    rows = [[m, f"{rank:.2f}"] for m, rank in zip(ranking.methods, ranking.mean_ranks, strict=True)]
    return ["method", "mean rank"], rows


# --- words ------------------------------------------------------------------------------------------------------------


def title_of(comparison: Comparison) -> str:
    """What is compared, in words."""
    family = comparison.family
    where = plots.SPLIT_NAMES.get(family.split, family.split)
    parts = [METRICS.get(family.metric, family.metric) + (f" on {where}" if where else "")]
    parts += [family.network] if family.network else []
    parts += [f"{labels} labels"] if (labels := labels_of(comparison)) not in ("", "0") else []
    parts += [f"all against {family.against}"] if family.against else []
    parts += [family.where] if family.where else []
    return ", ".join([*parts, f"model: {family.selection}"])


def labels_of(comparison: Comparison) -> str:
    """The number of labels compared at, or its range over tasks."""
    counts = sorted({cell.labels for own in comparison.cells.values() for cell in own})
    if not counts:
        return ""
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def caption_of_tests(comparison: Comparison) -> list[str]:
    """How the tests were made (docs/report.md), what they can't show, and which cells are missing."""
    tests, m = comparison.tests, len(comparison.tests)
    if not tests:
        nothing = "Nothing is compared: no cell of one method is at the task, seed and labels of another's."
        return [nothing, *missing(comparison)]
    most, least = max(t.n for t in tests), 2.0 ** (1 - max(t.n for t in tests))
    shown = "row minus column (intervals: tests.csv)" if is_matrix(comparison) else "and its own 95 % t interval"
    lines = [
        f"Mean difference of pairs at equal task, seed and labels, {shown}. p: Wilcoxon's signed-rank test, two-sided, "
        f"exact, with ties and zeros (Pratt); Holm p: corrected for the {m} comparison{'s' * (m > 1)} of this table; "
        f"*: Holm p below {ALPHA:g}. {_unit(comparison, most)}"
    ]
    if least * m >= ALPHA:
        lines.append(
            f"With {most} pair{'s' * (most > 1)} the smallest p that the test can give is {_p(least)}, Holm's for the "
            f"best of {m} {_p(min(1.0, least * m))}: no star is possible here."
        )
    return [*lines, *missing(comparison)]


def _unit(comparison: Comparison, most: int) -> str:
    """What is one sample of the tests."""
    if comparison.unit == "task and seed":
        tasks = len({(cell.network, cell.task) for own in comparison.cells.values() for cell in own})
        return (
            f"The unit is the task and seed, n of them (most: {most}), of {tasks} task{'s' * (tasks > 1)}: seeds of a "
            "task share its images and are not independent, so p says how steady a difference is over these runs, and "
            "nothing of other tasks."
        )
    over = "over its tasks and seeds" if comparison.family.unit_of is not None else "over seeds"
    shared = "" if comparison.family.unit_of is not None else " Tasks that share a domain are not quite independent."
    return f"The unit is the {comparison.unit}, n of them (most: {most}), each the mean {over}.{shared}"


def missing(comparison: Comparison) -> list[str]:
    """The methods that lack cells of the others, counted, and the pairs that share none."""
    every = {cell for own in comparison.cells.values() for cell in own}
    counts: Mapping[str, int] = {method: len(own) for method, own in comparison.cells.items()}
    short = [f"{method} {count}" for method, count in counts.items() if count < len(every)]
    lines = []
    if short:
        lines.append(f"Cells measured, of {len(every)}: {', '.join(short)}; the other methods have all.")
    if comparison.uncompared:
        alone = [method for method, count in counts.items() if not count]
        pairs = [f"{', '.join(alone)} with any other"] if alone else []
        pairs += [f"{a} and {b}" for a, b in comparison.uncompared if not pairs or not {a, b} & set(alone)]
        lines.append(f"Not compared, for they share no cell: {'; '.join(pairs)}.")
    return lines


def caption_of_ranks(comparison: Comparison) -> list[str]:
    """What the mean ranks are of, Friedman's test, and how far apart they must be."""
    ranking = comparison.ranking
    if ranking is None:
        return []
    methods = len(ranking.methods)
    units = "pairs of task and seed" if comparison.unit == "task and seed" else f"{comparison.unit}s"
    lines = [
        f"Mean ranks (1 is best, ties share) of {methods} methods over {ranking.units} {units}. Friedman's test that "
        f"all are equal: chi² = {ranking.chi2:.1f}, p {_equals(ranking.p)}. Nemenyi's critical difference at "
        f"{ALPHA:g}: {ranking.critical_difference:.2f}; means closer than that are not told apart."
    ]
    if not draws(ranking):
        lines.append(f"Ranks of {methods} methods are at most {methods - 1} apart: nothing is told apart, and no plot.")
    if ranking.left_out:
        lines.append(
            f"Not ranked: {', '.join(ranking.left_out)}. Ranks need cells that every method has; with "
            f"{'it' if len(ranking.left_out) == 1 else 'them'} fewer than {ranking.cells} a method would be left."
        )
    return lines


def _signed(value: float) -> str:
    return f"{value + 0.0:+.2f}".replace("-", "−") if round(value, 2) else "0.00"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _equals(p: float) -> str:
    return _p(p) if p < 0.001 else f"= {_p(p)}"


def _star(p: float) -> str:
    return "*" if p < ALPHA else ""


# --- files ------------------------------------------------------------------------------------------------------------


def rows_of_tests(comparison: Comparison, experiment: str) -> list[dict[str, Any]]:
    """Lines of tests.csv."""
    family = comparison.family
    networks = sorted({cell.network for own in comparison.cells.values() for cell in own})
    about = {"experiment": experiment, "network": family.network or " ".join(networks), "metric": family.metric}
    about |= {"split": family.split, "labels": labels_of(comparison), "selection": family.selection}
    return [
        {
            **about,
            "unit": comparison.unit,
            **test._asdict(),
            "cells_a": len(comparison.cells[test.a]),
            "cells_b": len(comparison.cells[test.b]),
            "comparisons": len(comparison.tests),
        }
        for test in comparison.tests
    ]


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    return text.getvalue()


def _file_name(family: Family) -> str:
    parts = [family.network or "", family.metric, family.split, family.selection]
    return "_".join("".join(c if c.isascii() and c.isalnum() else "-" for c in part) for part in parts if part)
