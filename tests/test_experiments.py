"""Records to tables by hand-computed numbers, trials done once, reports that escape, and the tiny demo end to end."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from rich.console import Console

from dan.errors import UserError
from experiments import records, report
from experiments.__main__ import EXPERIMENTS, main
from experiments.demo import Demo, command_of
from experiments.reporting import report_html
from experiments.reporting.tables import write_figures
from experiments.trials import Trial, run_trials

ROOT = Path(__file__).resolve().parent.parent


def record(method: str, seed: int, labels: int, target: float, **more: Any) -> dict[str, Any]:
    made = {"experiment": "demo", "task": "a2b", "network": "lenet", "method": method, "labels": labels, "seed": seed}
    made |= {"selection": "last", "paper": None, "provenance": "", "command": "python -m experiments run demo"}
    return made | {"accuracy/target": target} | more


# Two methods, two seeds; numbers chosen so that means and deviations are easily had by hand.
FABRICATED = [
    record("source-only", 0, 0, 0.20, selection="", step=10),  # on the way: on no table
    record("source-only", 0, 0, 0.60, seconds=2.0),
    record("source-only", 1, 0, 0.80, seconds=4.0),
    record("margin", 0, 0, 0.70, **{"accuracy/unqueried": 0.70}),
    record("margin", 0, 10, 0.90, **{"accuracy/unqueried": 0.85}),
    record("margin", 0, 30, 1.00, **{"accuracy/unqueried": 0.95}),
    record("margin", 1, 0, 0.74, **{"accuracy/unqueried": 0.74}),
    record("margin", 1, 10, 0.94, **{"accuracy/unqueried": 0.91}),
    record("margin", 1, 30, 0.96, **{"accuracy/unqueried": 0.93}),
]


def row(rows: list[records.Row], **where: Any) -> records.Row:
    (found,) = [r for r in rows if all(getattr(r, name) == value for name, value in where.items())]
    return found


def test_every_experiment_is_in_the_list() -> None:
    """A module with a command and a report that `run` doesn't know can't be found by anyone."""
    sources = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "experiments").glob("*.py")}
    parts = ("\nCOMMAND = ", "\ndef report(")
    modules = {f"experiments.{stem}" for stem, text in sources.items() if all(part in text for part in parts)}
    assert modules == {module for module, _line in EXPERIMENTS.values()}


def test_rows_are_mean_and_sample_deviation_in_percent() -> None:
    rows = records.aggregate(FABRICATED)
    source_only = row(rows, method="source-only", split="target", metric="accuracy")
    # 60 and 80: mean 70, deviation sqrt((10^2 + 10^2) / 1).
    assert (source_only.mean, source_only.n, source_only.labels) == (pytest.approx(70.0), 2, 0)
    assert source_only.spread == pytest.approx(200**0.5)
    assert row(rows, method="source-only", metric="seconds").mean == pytest.approx(3.0)
    # seed 0: (10 * (70 + 90) / 2 + 20 * (90 + 100) / 2) / 30 = 90; seed 1: (10 * 84 + 20 * 95) / 30 = 91.333.
    area = row(rows, method="margin", split="target", metric="alc")
    assert (area.mean, area.labels) == (pytest.approx((90 + 2740 / 30) / 2), 30)
    assert area.spread == pytest.approx((2740 / 30 - 90) / 2**0.5)
    assert not [r for r in rows if r.method == "source-only" and r.metric == "alc"]


def test_one_seed_has_no_spread() -> None:
    (only,) = records.aggregate([record("DAN", 3, 0, 0.5)])
    assert (only.mean, only.spread, only.n) == (50.0, None, 1)
    assert next(csv.DictReader(io.StringIO(records.to_csv([only]))))["spread"] == ""


def test_a_seed_recorded_twice_is_refused() -> None:
    with pytest.raises(UserError, match="seed 0 is recorded twice"):
        records.aggregate([*FABRICATED, FABRICATED[1]])


def test_csv_columns_are_the_contract() -> None:
    lines = records.to_csv(records.aggregate(FABRICATED)).splitlines()
    columns = "experiment,task,network,method,labels,split,metric,mean,spread,n,selection,paper,provenance,command"
    assert lines[0] == columns
    assert (
        "demo,a2b,lenet,source-only,0,target,accuracy,70.0000,14.1421,2,last,,,python -m experiments run demo" in lines
    )


@given(st.sets(st.integers(0, 10_000), min_size=2), st.floats(0, 100), st.floats(0, 100))
def test_alc_of_lines(counts: set[int], begin: float, end: float) -> None:
    labels = sorted(counts)
    assert records.alc(labels, [begin] * len(labels)) == pytest.approx(begin)
    share = [(count - labels[0]) / (labels[-1] - labels[0]) for count in labels]
    straight = [begin + (end - begin) * part for part in share]
    assert records.alc(labels, straight) == pytest.approx((begin + end) / 2)


@pytest.mark.parametrize("labels", [[], [1], [1, 1], [2, 1]])
def test_alc_needs_increasing_labels(labels: list[int]) -> None:
    with pytest.raises(ValueError, match="increasing"):
        records.alc(labels, [0.5] * len(labels))


def test_records_come_back_as_written_and_not_finite_is_null(tmp_path: Path) -> None:
    path = tmp_path / "a" / "records.jsonl"
    for each in FABRICATED:
        records.append(path, each)
    records.append(path, {"loss": float("nan")})
    assert records.read(path) == [*FABRICATED, {"loss": None}]
    path.write_text('{"a": 1}\n{"a":')
    with pytest.raises(UserError, match="line 2"):
        records.read(path)


# --- the report -------------------------------------------------------------------------------------------------------


def test_summary_shows_the_worst_seed_and_the_most_labels() -> None:
    headers, rows = report.summary(FABRICATED)
    cells = {line[0]: dict(zip(headers, line, strict=True)) for line in rows}
    assert cells["source-only"]["target"] == "70.0 ± 14.1"
    assert cells["source-only"]["worst"] == "60.0"
    assert cells["source-only"]["unqueried"] == "–"
    assert (cells["margin"]["labels"], cells["margin"]["target"]) == ("30", "98.0 ± 2.8")
    assert cells["margin"]["worst"] == "96.0"
    assert cells["margin"]["unqueried"] == "94.0 ± 1.4"


def page(**more: Any) -> report.Page:
    return report.Page(title="T", opening="O", notes=["N"], facts=[("seeds", "0, 1")], **more)


def made_report(folder: Path, lines: list[dict[str, Any]] = FABRICATED, **more: Any) -> Path:
    records.write_text(folder / "records.jsonl", records.to_lines(lines))
    return report.write(folder, page(**more))


def test_html_escapes_a_hostile_class_and_carries_its_pictures(tmp_path: Path) -> None:
    hostile = "<script>alert('x')</script>\"&"
    figures = tmp_path / "figures"
    figures.mkdir()
    Figure(figsize=(1, 1)).savefig(figures / "asked.png")
    picture = report.Picture(file="asked.png", caption=f"asked for: {hostile}", of_images=True)
    lines = [{**each, "method": f"margin{hostile}"} if each["method"] == "margin" else each for each in FABRICATED]
    text = made_report(tmp_path, lines, sections=[("Asked", hostile, [picture])]).read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&quot;&amp;" in text
    assert "http" not in text  # nothing comes from elsewhere
    assert text.count("<img ") == text.count('src="data:image/png;base64,') == 4  # bars, two curves, asked


def test_html_has_a_caption_and_a_kind_for_every_picture(tmp_path: Path) -> None:
    Figure(figsize=(1, 1)).savefig(tmp_path / "a.png")
    assert '<figure class="plot"' in report_html.figure(tmp_path / "a.png", "c")
    assert '<figure class="images"' in report_html.figure(tmp_path / "a.png", "c", of_images=True)


def test_terminal_table_fits_80_columns() -> None:
    text = io.StringIO()
    named = [{**each, "method": each["method"].replace("margin", "[b]_reduction")} for each in FABRICATED]
    report.show(named, title="T", console=Console(file=text, width=80))
    for cell in ("source-only", "[b]_reduction", "98.0 ± 2.8", "94.0 ± 1.4", "96.0"):  # whole, in 80 columns
        assert cell in text.getvalue()


def test_publish_rewrites_only_its_block(tmp_path: Path) -> None:
    made_report(tmp_path / "run")
    readme = tmp_path / "README.md"
    before, after = "# é \\1 title\n\n", "\n\n<!-- results:other -->\nkeep\n<!-- /results:other -->\n"
    readme.write_text(f"{before}<!-- results:demo -->\nold\n<!-- /results:demo -->{after}", encoding="utf-8")
    for _ in range(2):  # the second time changes nothing
        results = report.publish("demo", tmp_path / "run", home=tmp_path, readme=readme)
        text = readme.read_text(encoding="utf-8")
        table = (tmp_path / "run" / "table.md").read_text(encoding="utf-8")
        assert text == f"{before}<!-- results:demo -->\n{table}<!-- /results:demo -->{after}"
    made = {"records.jsonl", "table.md", "table.csv", "table.tex", "tests.csv", "tests.md", "figures"}
    assert {path.name for path in results.iterdir()} == made
    assert {path.name for path in (results / "figures").iterdir()} >= {"accuracy.png", "labels.png"}


def test_publish_renews_pages_of_docs_and_the_findings_too(tmp_path: Path) -> None:
    made_report(tmp_path / "run")
    table = "- one finding\n- another\n\n| a |\n|---|\n"
    (tmp_path / "run" / "table.md").write_text(table)
    (tmp_path / "docs").mkdir()
    page, readme = tmp_path / "docs" / "demo.md", tmp_path / "README.md"
    page.write_text("# page\n<!-- results:demo -->\n<!-- /results:demo -->\nend\n")
    readme.write_text("# readme\n<!-- findings:demo -->\nold\n<!-- /findings:demo -->\nend\n")
    report.publish("demo", tmp_path / "run", home=tmp_path, readme=readme)
    assert page.read_text() == f"# page\n<!-- results:demo -->\n{table}<!-- /results:demo -->\nend\n"
    findings = "- one finding\n- another\n"
    assert readme.read_text() == f"# readme\n<!-- findings:demo -->\n{findings}<!-- /findings:demo -->\nend\n"
    (tmp_path / "run" / "table.md").write_text("| a |\n")
    with pytest.raises(UserError, match="does not begin with any"):
        report.publish("demo", tmp_path / "run", home=tmp_path, readme=readme)


def test_publish_shows_figures_where_they_are(tmp_path: Path) -> None:
    made_report(tmp_path / "run")
    write_figures(tmp_path / "run", [("a.png", "A [curve].")])
    page = tmp_path / "docs" / "demo.md"
    page.parent.mkdir()
    marks = "<!-- results:demo -->\n<!-- /results:demo -->\n<!-- figures:demo -->\n<!-- /figures:demo -->\n"
    page.write_text(marks)
    (tmp_path / "README.md").write_text("# readme\n")
    report.publish("demo", tmp_path / "run", home=tmp_path / "experiments", readme=tmp_path / "README.md")
    shown = "![A (curve).](../experiments/results/demo/figures/a.png)\n\nA [curve].\n"
    assert page.read_text().endswith(f"<!-- figures:demo -->\n{shown}<!-- /figures:demo -->\n")
    (tmp_path / "run" / "figures.md").unlink()
    with pytest.raises(UserError, match="draws none"):
        report.publish("demo", tmp_path / "run", home=tmp_path / "experiments", readme=tmp_path / "README.md")


@pytest.mark.parametrize(
    "text", ["no marks", "<!-- results:demo --> only", "<!-- /results:demo --><!-- results:demo -->"]
)
def test_publish_needs_its_marks(tmp_path: Path, text: str) -> None:
    made_report(tmp_path / "run")
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(UserError, match="needs the marks <!-- results:demo -->"):
        report.publish("demo", tmp_path / "run", home=tmp_path, readme=tmp_path / "README.md")
    assert not (tmp_path / "results").exists()
    assert (tmp_path / "README.md").read_text() == text


# --- trials -----------------------------------------------------------------------------------------------------------


def count_up(folder: Path, *, counter: str, fail: bool = False, start: str | None = None) -> dict[str, Any]:
    """A trial of the tests: one more letter in the counter file."""
    import torch

    with Path(counter).open("a") as file:
        file.write("x")
    if fail:
        raise RuntimeError("a reason\nand more")
    before = json.loads((folder.parent / start / "trial.json").read_text())["result"]["pid"] if start else 0
    return {
        "threads": torch.get_num_threads(),
        "omp": os.environ["OMP_NUM_THREADS"],
        "pid": os.getpid(),
        "before": before,
    }


def test_trials_run_once_in_order_and_failures_are_told(tmp_path: Path) -> None:
    function = f"{__name__}:count_up"

    def trial(name: str, after: tuple[str, ...] = (), **more: Any) -> Trial:
        return Trial(name, function, {"counter": str(tmp_path / f"{name}.count"), **more}, after)

    # "second" stands before what it starts from.
    trials = [
        trial("second", ("first",), start="first"),
        trial("first"),
        trial("bad", fail=True),
        trial("orphan", ("bad",)),
    ]
    folder = tmp_path / "run"
    outcome = run_trials(trials, folder=folder, workers=2, quiet=True)
    assert list(outcome.results) == ["second", "first"]
    assert outcome.results["second"]["before"] == outcome.results["first"]["pid"]
    assert outcome.results["first"]["threads"] == 1
    assert outcome.results["first"]["omp"] == "1"
    assert outcome.results["first"]["pid"] != os.getpid()
    assert outcome.failed["bad"].startswith("bad: RuntimeError: a reason (traceback in ")
    assert "\n" not in outcome.failed["bad"]
    assert "and more" in (folder / "bad" / "error.txt").read_text()
    assert outcome.failed["orphan"] == "orphan: not started, for bad failed"

    # What is finished is read, and starts no process; what failed is tried again.
    again = run_trials(trials[:2], folder=folder, quiet=True)
    assert again.results == outcome.results
    assert (tmp_path / "first.count").read_text() == (tmp_path / "second.count").read_text() == "x"

    with pytest.raises(UserError, match=r"start was 'first', is 'bad'") as refused:
        run_trials([replace(trials[0], arguments={**trials[0].arguments, "start": "bad"}, after=())], folder=folder)
    assert "\n" not in str(refused.value)
    # A trial that failed is held to its arguments too: half of its work may be there.
    with pytest.raises(UserError, match="fail was True, is False"):
        run_trials([trial("bad", fail=False)], folder=folder)


def test_trials_that_cannot_work_are_refused(tmp_path: Path) -> None:
    one = Trial("one", "m:f", {})
    for trials, workers, message in [
        ([one, one], 1, "same name"),
        ([one], 0, "workers"),
        ([replace(one, after=("x",))], 1, "'x'"),
    ]:
        with pytest.raises(UserError, match=message):
            run_trials(trials, folder=tmp_path, workers=workers)


# --- the door and the demo --------------------------------------------------------------------------------------------


def test_the_door(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert capsys.readouterr().out.startswith("demo ")
    assert main(["run", "dmeo"]) == 2
    assert 'did you mean "demo"' in capsys.readouterr().err
    assert main(["report", "dmeo"]) == 2
    assert 'did you mean "demo"' in capsys.readouterr().err
    assert main(["run", "demo", "--seeds", "0", "0"]) == 2
    assert "--seeds" in capsys.readouterr().err
    assert main(["run", "demo", "--help"]) == 0
    assert "--steps-per-round" in capsys.readouterr().out


def test_the_command_of_the_demo_tells_what_was_changed() -> None:
    assert command_of(Demo(out=Path("x"), workers=1)) == "python -m experiments run demo"
    assert command_of(Demo(seeds=(0, 7), steps=5)) == "python -m experiments run demo --steps 5 --seeds 0 7"


def test_tiny_demo_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = {"steps": 20, "seeds": 0, "rounds": 1, "budget": 5, "steps-per-round": 10, "workers": 1, "out": "demo"}
    flags = [word for name, value in tiny.items() for word in (f"--{name}", str(value))]
    flags += ["--strategies", "random", "margin"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
        )

    first = call("-m", "experiments", "run", "demo", *flags)
    assert first.returncode == 0, first.stderr
    out = tmp_path / "demo"
    for word in (
        "source-only",
        "DAN",
        "random",
        "margin",
        "report: demo/report.html",
        "tensorboard --logdir demo",
    ):
        assert word in first.stdout
    text = (out / "report.html").read_text(encoding="utf-8")
    assert "oracle" in text
    assert text.count("<img ") >= 7  # accuracy, three curves, two maps, what was asked
    table = records.aggregate(records.read(out / "records.jsonl"))
    assert {(r.method, r.labels) for r in table} >= {("source-only", 0), ("DAN", 0), ("random", 5), ("margin", 5)}
    assert {r.split for r in table if r.method == "margin"} == {"target", "unqueried", "test", ""}

    # The script, on the same folder: the same table, and no file is written.
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    second = call(str(ROOT / "experiments" / "demo.py"), *flags)
    assert second.returncode == 0, second.stderr
    assert second.stdout.split("took:")[0] == first.stdout.split("took:")[0]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before

    monkeypatch.chdir(tmp_path)
    assert main(["run", "demo", *flags, "--budget", "6"]) == 2
    assert "budget was 5, is 6" in capsys.readouterr().err
