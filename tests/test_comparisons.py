"""Which cells are compared, what is told of those that are missing, units, and the files and plots that say it."""

from __future__ import annotations

import csv
import io
import itertools
import statistics
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from experiments.framework.measurements import measurements
from experiments.framework.records import to_lines, write_text
from experiments.framework.report import Drawn, Report, write_report
from experiments.framework.reporting import comparison_report, html, plots
from experiments.framework.reporting.comparison_report import (
    FILES,
    caption_of_ranks,
    caption_of_tests,
    matrix_table,
    missing,
    write_comparisons,
)
from experiments.framework.reporting.comparisons import Cell, Family, compare, compare_all, families_of
from experiments.framework.reporting.paired_tests import holm, signed_rank_p
from experiments.framework.reporting.tables import origins


def record(method: str, task: str, seed: int, accuracy: float, labels: int = 0, **more: Any) -> dict[str, Any]:
    about = {"experiment": "made", "task": task, "network": "lenet", "method": method, "labels": labels, "seed": seed}
    about |= {"selection": "last", "paper": None, "provenance": "", "command": "one", "command_of_all": "all"}
    return about | {"accuracy/target": accuracy} | more


def grid(values: dict[str, float], tasks: int, seeds: int = 2) -> list[dict[str, Any]]:
    """Every method on every task and seed: its value + 1 point a task + 2 points a seed; differences are known."""
    return [
        record(method, f"t{task}", seed, value + 0.01 * task + 0.02 * seed)
        for method, value in values.items()
        for task in range(tasks)
        for seed in range(seeds)
    ]


def only(records: list[dict[str, Any]], **family: Any) -> Any:
    (comparison,) = compare_all(records, [Family(**family)])
    return comparison


# --- units ------------------------------------------------------------------------------------------------------------


def test_seeds_are_averaged_from_six_tasks_on() -> None:
    few, many = (only(grid({"a": 0.5, "b": 0.4}, tasks)) for tasks in (5, 6))
    assert (few.unit, few.tests[0].n, few.tests[0].cells) == ("task and seed", 10, 10)
    assert (many.unit, many.tests[0].n, many.tests[0].cells) == ("task", 6, 12)
    assert few.tests[0].p == 2.0**-9 and many.tests[0].p == 2.0**-5  # every difference has one sign
    assert few.tests[0].mean == pytest.approx(10.0) and (many.tests[0].better, many.tests[0].worse) == (6, 0)
    said = " ".join(caption_of_tests(few))
    assert "The unit is the task and seed" in said and "not independent" in said and "5 tasks" in said
    assert (
        "not independent" not in " ".join(caption_of_tests(many))
        and "The unit is the task, n of them" in caption_of_tests(many)[0]
    )


def test_differences_are_means_of_means_by_loops() -> None:
    records = [
        record(method, f"t{task}", seed, ((37 * task + 11 * seed + 5 * len(method) * task * seed) % 97) / 100)
        for method in ("a", "bb")
        for task in range(7)
        for seed in range(3)
        if (method, task, seed) not in {("a", 2, 1), ("bb", 4, 0), ("bb", 4, 2)}
    ]
    value = {(r["method"], r["task"], r["seed"]): 100 * r["accuracy/target"] for r in records}

    def of_task(task: str) -> float:
        both = [s for s in range(3) if ("a", task, s) in value and ("bb", task, s) in value]
        return statistics.fmean(value["a", task, s] - value["bb", task, s] for s in both)

    by_task = [of_task(f"t{task}") for task in range(7)]
    (test,) = only(records).tests
    assert (test.a, test.b, test.n, test.cells) == ("a", "bb", 7, 18)
    assert test.mean == pytest.approx(statistics.fmean(by_task)) and test.p == signed_rank_p(by_task)
    halves = {f"t{task}": f"half {task // 4}" for task in range(7)}
    (test,) = only(records, unit="half", unit_of=lambda cell: halves[cell.task]).tests
    assert (test.n, test.mean) == (
        2,
        pytest.approx((statistics.fmean(by_task[:4]) + statistics.fmean(by_task[4:])) / 2),
    )


def test_too_few_pairs_are_said_to_be_too_few() -> None:
    five = only(grid({"a": 0.5, "b": 0.4}, 5, seeds=1))
    assert five.tests[0].p_holm == 0.0625
    assert "With 5 pairs the smallest p that the test can give is 0.062" in " ".join(caption_of_tests(five))
    assert "no star is possible here" in " ".join(caption_of_tests(five))
    assert "no star" not in " ".join(caption_of_tests(only(grid({"a": 0.5, "b": 0.4}, 6, seeds=1))))
    # Six pairs of four methods: 2^-5 times 6 comparisons.
    four = only(grid({"a": 0.5, "b": 0.4, "c": 0.3, "d": 0.2}, 6, seeds=1))
    assert "Holm's for the best of 6 0.188" in " ".join(caption_of_tests(four))


def test_p_values_are_corrected_for_the_whole_family() -> None:
    shifts = {"a": 0.5, "b": 0.49, "c": 0.48}
    records = [
        each | {"accuracy/target": each["accuracy/target"] * (1.1 if i % 5 else 0.9)}
        for i, each in enumerate(grid(shifts, 7))
    ]
    comparison = only(records)
    assert [t.p_holm for t in comparison.tests] == holm([t.p for t in comparison.tests])
    against = only(records, against="c")
    assert [(t.a, t.b) for t in against.tests] == [("a", "c"), ("b", "c")] and against.ranking is None
    assert [t.p_holm for t in against.tests] == holm([t.p for t in against.tests])


# --- which cells ------------------------------------------------------------------------------------------------------


def test_what_is_compared_by_itself() -> None:
    def curve(method: str, *, test: bool) -> list[dict[str, Any]]:
        more = {"accuracy/target_test": 0.5} if test else {}
        return [record(method, "t", 0, 0.5, labels, **more) for labels in (0, 10)]

    oracle = record("a", "t", 0, 0.9, 10) | {"selection": "oracle"}
    families = families_of([*curve("a", test=True), *curve("b", test=True), oracle, record("a", "mean", 0, 0.5)])
    assert families == [Family(metric=m, split="test", network="lenet") for m in ("accuracy", "alc")]
    families = families_of([*curve("a", test=True), *curve("b", test=False)])
    assert {family.split for family in families} == {"target"}
    assert families_of(curve("a", test=True)) == []


def test_cells_are_at_equal_labels_selection_and_network() -> None:
    records = [
        record("source-only", "t", 0, 0.1, 0),
        *(record(m, "t", 0, v, n) for m, v, n in (("a", 0.2, 0), ("a", 0.3, 10), ("b", 0.4, 10), ("b", 0.5, 20))),
        record("a", "t", 0, 0.9, 10) | {"network": "other"},
        record("b", "t", 0, 0.7, 10) | {"selection": "oracle"},
        record("b", "mean", 0, 0.7, 10),
    ]
    comparison = only(records, network="lenet")
    assert comparison.cells == {
        "source-only": {},
        "a": {Cell("lenet", "t", 10, 0): pytest.approx(30)},
        "b": {Cell("lenet", "t", 10, 0): pytest.approx(40)},
    }
    assert comparison.uncompared == (("source-only", "a"), ("source-only", "b"))
    assert missing(comparison)[-1] == "Not compared, for they share no cell: source-only with any other."
    # Without a network named, its two are two places, and a pair is of one of them.
    both = only(records)
    assert both.tests[0].cells == 1 and len(both.cells["a"]) == 2
    assert set(only(records, methods=("a", "b")).cells) == {"a", "b"}


def test_missing_cells_are_counted_and_compared_on_what_both_have() -> None:
    records = grid({"a": 0.5, "b": 0.4, "c": 0.3, "d": 0.2}, 6)
    short = [r for r in records if r["method"] != "d" or r["task"] in ("t0", "t1")]
    short = [r for r in short if (r["method"], r["task"], r["seed"]) != ("c", "t5", 1)]
    comparison = only(short)
    counts = {(t.a, t.b): (t.n, t.cells) for t in comparison.tests}
    assert counts["a", "b"] == (6, 12) and counts["a", "c"] == (6, 11) and counts["c", "d"] == (2, 4)
    # The difference of a and c is 20 points in every cell: leaving out one of them doesn't show.
    assert all(t.mean == pytest.approx(20.0) for t in comparison.tests if (t.a, t.b) == ("a", "c"))
    assert "Cells measured, of 12: c 11, d 4; the other methods have all." in " ".join(missing(comparison))
    # 3 methods x 11 cells are more than 4 x 4: d has no rank, and that is said.
    assert comparison.ranking.left_out == ("d",) and (comparison.ranking.cells, comparison.ranking.units) == (11, 6)
    assert comparison.ranking.methods == ("a", "b", "c") and comparison.ranking.mean_ranks == (1.0, 2.0, 3.0)
    assert "Not ranked: d." in " ".join(caption_of_ranks(comparison))
    assert missing(only(records)) == []


def test_a_family_with_nothing_to_compare_says_so(tmp_path: Path) -> None:
    comparison = only(grid({"a": 0.5}, 2), against="random")
    assert comparison.tests == () and comparison.uncompared == (("a", "random"),)
    (section,) = write_comparisons(tmp_path, [comparison], experiment="made")
    assert "all against random" in section.heading and "Nothing is compared" in " ".join(section.paragraphs)
    assert "Not compared, for they share no cell: a and random." in (tmp_path / "tests.md").read_text(encoding="utf-8")


def test_ranks_by_hand() -> None:
    cells = {
        m: {Cell("n", f"t{t}", 0, 0): v + 0.1 * t for t in range(6)} for m, v in (("a", 3.0), ("b", 2.0), ("c", 1.0))
    }
    comparison = compare(Family(metric="labels_to_95"), cells)
    assert comparison.ranking is not None and comparison.ranking.methods == ("a", "b", "c")
    assert matrix_table(comparison)[0][1:] == ["a", "b", "c"]
    assert comparison.ranking.chi2 == pytest.approx(12.0)
    assert compare(Family(), {m: cells[m] for m in "ab"}).ranking is None


# --- files ------------------------------------------------------------------------------------------------------------


def test_the_files_say_what_the_comparison_says(tmp_path: Path) -> None:
    records = [r for r in grid({"a|b": 0.5, "_$x": 0.4, "<b>": 0.3}, 8) if (r["method"], r["task"]) != ("<b>", "t0")]
    comparison = only(records)
    sections = write_comparisons(tmp_path, [comparison], experiment="made")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "tests.csv").read_text(encoding="utf-8"))))
    assert [(r["a"], r["b"], r["n"], r["cells"], r["cells_b"]) for r in rows] == [
        ("a|b", "_$x", "8", "16", "16"),
        ("a|b", "<b>", "7", "14", "14"),
        ("_$x", "<b>", "7", "14", "14"),
    ]
    for row, test in zip(rows, comparison.tests, strict=True):
        assert float(row["mean"]) == pytest.approx(test.mean) and float(row["p_holm"]) == pytest.approx(test.p_holm)
        assert (row["unit"], row["comparisons"], row["split"], row["selection"]) == ("task", "3", "target", "last")
    text = (tmp_path / "tests.md").read_text(encoding="utf-8")
    assert "| a\\|b | 1.00 |\n| _$x | 2.00 |\n| <b> | 3.00 |" in text
    assert "| a\\|b − _$x | +10.00 | +10.00 to +10.00 | 8/0/0 | 8 | 16 | 0.008 | 0.023* |" in text
    page = html.page("T", sections)
    assert "<b>" not in page and "&lt;b&gt;" in page and page.count("<img ") == 1 and "http" not in page
    figures = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert figures == ["ranks_1_accuracy_target_last.png"]
    before = [(tmp_path / "figures" / name).read_bytes() for name in figures]
    write_comparisons(tmp_path, [comparison], experiment="made")
    assert [(tmp_path / "figures" / name).read_bytes() for name in figures] == before  # the same, byte by byte
    assert write_comparisons(tmp_path, [], experiment="made") == []
    assert not any((tmp_path / file).exists() for file in FILES) and not list((tmp_path / "figures").iterdir())


def test_many_methods_are_a_matrix_from_the_best_to_the_worst() -> None:
    methods = {f"m{i}": 0.3 + 0.02 * ((3 * i) % 8) for i in range(8)}
    comparison = only(grid(methods, 10))
    headers, rows = comparison_report.table_of_tests(comparison)
    order = sorted(methods, key=lambda m: -methods[m])
    assert headers == ["row − column", *order] and [row[0] for row in rows] == order
    # 28 comparisons of 10 tasks: 28 / 2^9 is above 0.05, so there is no star, and that is said.
    assert rows[0][1:4] == ["", "+2.00", "+4.00"] and rows[1][1] == "−2.00"
    assert (
        "no star is possible" in " ".join(caption_of_tests(comparison))
        and "tests.csv" in caption_of_tests(comparison)[0]
    )
    starred = comparison_report.table_of_tests(only(grid(methods, 11)))[1]
    assert starred[0][2] == "+2.00*"
    listed = comparison_report.table_of_tests(only(grid(methods, 10), against="m0"))[1]
    assert len(listed) == 7 and listed[0][0] == "m1 − m0"


# --- the plots --------------------------------------------------------------------------------------------------------


def test_the_plot_has_every_method_at_its_mean_rank() -> None:
    comparison = only([
        record(f"m_{i}$", f"t{task}", 0, ((i * 7 + task * (i + 3)) % 11) / 11) for i in range(6) for task in range(30)
    ])  # fmt: skip
    ranking = comparison.ranking
    (axes,) = plots.ranks(ranking).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == list(ranking.methods)
    (dots,) = (line for line in axes.lines if line.get_marker() == "o")
    assert list(dots.get_xdata()) == pytest.approx(ranking.mean_ranks)
    (bars,) = axes.collections
    ends = [(float(segment[0][0]), float(segment[1][0])) for segment in bars.get_segments()]
    for i, j in itertools.combinations(range(len(ends)), 2):  # apart where the mean ranks are
        far = ranking.mean_ranks[j] - ranking.mean_ranks[i] > ranking.critical_difference
        assert (ends[i][1] < ends[j][0]) == far
    assert f"{ranking.critical_difference:.2f} at 0.05" in axes.get_xlabel()


def test_without_enough_units_there_is_no_plot_and_the_reason_stands(tmp_path: Path) -> None:
    # 3 methods on 2 tasks of 1 seed: the critical difference, 3.31 / sqrt(2), is above 2.
    comparison = only(grid({"a": 0.5, "b": 0.4, "c": 0.3}, 2, seeds=1))
    assert comparison.ranking is not None and not comparison_report.draws(comparison.ranking)
    write_comparisons(tmp_path, [comparison], experiment="made")
    assert not list((tmp_path / "figures").iterdir())
    assert "Ranks of 3 methods are at most 2 apart" in (tmp_path / "tests.md").read_text(encoding="utf-8")


def test_panels_show_each_task_with_bands() -> None:
    records = [
        record(method, task, seed, 0.5 + 0.1 * seed + labels / 100, labels)
        for method in ("random", *(f"m{i}" for i in range(9)))
        for task in ("a2b", "b2a")
        for seed in (0, 1)
        for labels in (0, 10)
    ]
    figure = plots.panels(measurements([*records, record("DAN", "a2b", 0, 0.6)]), columns=1)
    assert figure is not None and [axes.get_title() for axes in figure.axes] == ["a2b", "b2a"]
    first, second = figure.axes
    assert len(second.lines) == len(second.collections) == 10 and len(first.lines) == 11
    assert {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in second.lines}.__len__() == 10
    band = second.collections[0].get_paths()[0].vertices[:, 1]
    deviation = statistics.stdev((50.0, 60.0))
    assert band.min() == pytest.approx(55 - deviation) and band.max() == pytest.approx(65 + deviation)
    assert plots.panels(measurements(grid({"a": 0.5}, 2))) is None


# --- one call for an experiment ---------------------------------------------------------------------------------------


def test_one_call_makes_every_file(tmp_path: Path) -> None:
    records = grid({"random": 0.4, "k_center": 0.5, "badge": 0.45}, 7)
    records += [records[0] | {"method": "DAN", "paper": 61.0, "provenance": "Table 9, row X"}]
    write_text(tmp_path / "records.jsonl", to_lines(records))
    stale = tmp_path / "figures" / "ranks_9_old.png"
    write_text(stale, "old")
    families = [Family(), Family(against="random")]
    made = write_report(
        tmp_path,
        records,
        Report(
            title="Made",
            findings=["One finding."],
            tables=[("Accuracy, 50 %", (["method", "a_b"], [["k_center", "50.0 ± 1.0"]]))],
            figures=[Drawn("empty.png", Figure(figsize=(1, 1)), "Nothing.")],
            captions=["How it was measured."],
            compared=compare_all(records, families),
        ),
    )
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {
        *("records.jsonl", "table.csv", "table.md", "table.tex", "report.html", *FILES),
        *("figures.md", "figures/empty.png"),
        "figures/ranks_1_accuracy_target_last.png",
    }
    tex = (tmp_path / "table.tex").read_text(encoding="ascii")
    said = "Selection of the model: last: after the last step, nothing is selected. Published numbers: Table 9, row X."
    assert (
        r"\caption{Accuracy, 50 \%. How it was measured. " + said + "}" in tex
        and r"k\_center & 50.0 $\pm$ 1.0 \\" in tex
    )
    markdown = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert said in markdown and "tests.md" in markdown and origins(records) == said
    text = made.read_text(encoding="utf-8")
    assert text.count("Paired tests:") == 2 and "all against random" in text and "critical difference" in text
    more = [records[0] | {"paper": 1.0, "provenance": f"Table 9, row {row}; read"} for row in "YZ"]
    assert origins(more).endswith("Published numbers: Table 9, rows Y, Z; read.")
    # Nothing to compare: no such files, and no word of them.
    write_report(tmp_path, grid({"a": 0.4}, 7), Report(title="", findings=[], tables=[]))
    assert not any((tmp_path / file).exists() for file in FILES)
    assert "tests.md" not in (tmp_path / "table.md").read_text(encoding="utf-8")
