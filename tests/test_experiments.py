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

from dan.errors import UserError
from experiments.__main__ import EXPERIMENTS, experiment_named, main
from experiments.demo import Demo
from experiments.framework import measurements, publish, records
from experiments.framework.options import command_of
from experiments.framework.report import Drawn, Report, write_report
from experiments.framework.reporting import html
from experiments.framework.reporting.summary import summary
from experiments.framework.results_page import options_of
from experiments.framework.trials import Trial, run_trials

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


def row(rows: list[measurements.Row], **where: Any) -> measurements.Row:
    (found,) = [r for r in rows if all(getattr(r, name) == value for name, value in where.items())]
    return found


def test_every_experiment_is_in_the_list() -> None:
    """A declaration that `run` doesn't know can't be found by anyone."""
    home = ROOT / "experiments"
    files = {path.stem: path for path in home.glob("*.py")} | {p.parent.name: p for p in home.glob("*/__init__.py")}
    parts = ("\nEXPERIMENT = ", "\nCOMMAND = ")
    found = {name for name, path in files.items() if any(part in path.read_text(encoding="utf-8") for part in parts)}
    assert found - {"publish_checkpoint"} == {experiment.name for experiment in EXPERIMENTS}


HEAVY = ("torch", "numpy", "scipy", "matplotlib", "sklearn", "PIL", "jinja2", "rich")


def test_the_list_needs_no_heavy_library() -> None:
    """`python -m experiments list` answers at once: experiments import torch inside their trial functions."""
    code = "import sys, time\nfrom experiments.__main__ import EXPERIMENTS\n"
    code += f"print(time.process_time(), [name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, _, heavy = done.stdout.strip().partition(" ")
    assert heavy == "[]" and float(seconds) < 0.6


def test_rows_are_mean_and_sample_deviation_in_percent() -> None:
    rows = measurements.aggregate(FABRICATED)
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
    (only,) = measurements.aggregate([record("DAN", 3, 0, 0.5)])
    assert (only.mean, only.spread, only.n) == (50.0, None, 1)
    assert next(csv.DictReader(io.StringIO(measurements.to_csv([only]))))["spread"] == ""


def test_a_seed_recorded_twice_is_refused() -> None:
    with pytest.raises(UserError, match="seed 0 is recorded twice"):
        measurements.aggregate([*FABRICATED, FABRICATED[1]])


def test_csv_columns_are_the_contract() -> None:
    lines = measurements.to_csv(measurements.aggregate(FABRICATED)).splitlines()
    columns = "experiment,task,network,method,labels,split,metric,mean,spread,n,selection,paper,provenance,command"
    assert lines[0] == columns
    assert (
        "demo,a2b,lenet,source-only,0,target,accuracy,70.0000,14.1421,2,last,,,python -m experiments run demo" in lines
    )


@given(st.sets(st.integers(0, 10_000), min_size=2), st.floats(0, 100), st.floats(0, 100))
def test_alc_of_lines(counts: set[int], begin: float, end: float) -> None:
    labels = sorted(counts)
    assert measurements.alc(labels, [begin] * len(labels)) == pytest.approx(begin)
    share = [(count - labels[0]) / (labels[-1] - labels[0]) for count in labels]
    straight = [begin + (end - begin) * part for part in share]
    assert measurements.alc(labels, straight) == pytest.approx((begin + end) / 2)


@pytest.mark.parametrize("labels", [[], [1], [1, 1], [2, 1]])
def test_alc_needs_increasing_labels(labels: list[int]) -> None:
    with pytest.raises(ValueError, match="increasing"):
        measurements.alc(labels, [0.5] * len(labels))


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
    headers, rows = summary(FABRICATED)
    cells = {line[0]: dict(zip(headers, line, strict=True)) for line in rows}
    assert cells["source-only"]["target"] == "70.0 ± 14.1"
    assert cells["source-only"]["worst"] == "60.0"
    assert cells["source-only"]["unqueried"] == "–"
    assert (cells["margin"]["labels"], cells["margin"]["target"]) == ("30", "98.0 ± 2.8")
    assert cells["margin"]["worst"] == "96.0"
    assert cells["margin"]["unqueried"] == "94.0 ± 1.4"


def made_report(folder: Path, lines: list[dict[str, Any]] = FABRICATED, **more: Any) -> Path:
    records.write(folder, lines)
    parts = {"findings": ["one finding"], "tables": [("Table", summary(lines))], "captions": ["how"]} | more
    return write_report(folder, lines, Report(title="T", **parts))


def picture(file: str, caption: str, **more: Any) -> Drawn:
    return Drawn(file, Figure(figsize=(1, 1)), caption, **more)


def test_html_escapes_a_hostile_class_and_carries_its_pictures(tmp_path: Path) -> None:
    hostile = "<script>alert('x')</script>\"&"
    drawn = [picture("queried.png", f"queried: {hostile}", of_images=True), picture("plot.png", "a plot")]
    lines = [{**each, "method": f"margin{hostile}"} if each["method"] == "margin" else each for each in FABRICATED]
    text = made_report(tmp_path, lines, figures=drawn, findings=[hostile]).read_text(encoding="utf-8")
    assert "<script" not in text
    assert (
        text.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&#34;&amp;") >= 4
    )  # a row, a caption twice, a finding
    assert "http" not in text  # nothing comes from elsewhere
    assert text.count("<img ") == text.count('src="data:image/png;base64,') == 2
    assert text.count('<figure class="images') == text.count('<figure class="plot') == 1
    assert text.count("<figcaption>") == 2


def test_a_page_has_what_its_sections_have(tmp_path: Path) -> None:
    sections = [
        html.Section(heading="A", table=(["x", "y"], [["1", "2"]]), paragraphs=["p"]),
        html.Section(facts=[("term", "<fact>")], table=(["empty"], [])),
    ]
    text = html.page("Title & more", sections)
    assert text.count("<h2>") == text.count("<table>") == text.count("<p>p</p>") == 1
    assert "<th>x</th><th>y</th>" in text and "<td>1</td><td>2</td>" in text
    assert "<dt>term</dt><dd>&lt;fact&gt;</dd>" in text and "Title &amp; more" in text


DEMO = experiment_named("demo")


def test_publish_writes_the_page_and_rewrites_only_its_blocks(tmp_path: Path) -> None:
    made_report(tmp_path / "run", figures=[picture("accuracy.png", "A [plot].")])
    docs, readme = tmp_path / "docs", tmp_path / "README.md"
    docs.mkdir()
    (docs / "rounds.md").write_text("# Rounds\n[results](results/demo.md)\n")
    before, after = "# é \\1 title\n\n", "\n\n<!-- results:other -->\nkeep\n<!-- /results:other -->\n"
    readme.write_text(f"{before}<!-- results:demo -->\nold\n<!-- /results:demo -->{after}", encoding="utf-8")
    for _ in range(2):  # the second time changes nothing
        results = publish.publish(DEMO, "demo", tmp_path / "run", home=tmp_path / "experiments", readme=readme)
        table = (tmp_path / "run" / "table.md").read_text(encoding="utf-8")
        text = readme.read_text(encoding="utf-8")
        assert text == f"{before}<!-- results:demo -->\n{table}<!-- /results:demo -->{after}"
    made = {"records.jsonl.xz", "table.md", "table.csv", "table.tex", "tests.csv", "tests.md", "figures", "figures.md"}
    assert {path.name for path in results.iterdir()} == made
    assert {path.name for path in (results / "figures").iterdir()} >= {"accuracy.png"}

    page = (docs / "results" / "demo.md").read_text(encoding="utf-8")
    assert page.startswith(f"# demo\n\n{DEMO.summary}\n\nExplained in [Rounds](../rounds.md).\n") and table in page
    assert "![A (plot).](../../experiments/results/demo/figures/accuracy.png)\n\nA [plot].\n" in page
    assert "| --steps | 800 | 20 | training steps of source-only and of DAN |" in page and "--workers" not in page
    assert f"| [demo](demo.md) | {DEMO.summary} |" in (docs / "results" / "index.md").read_text(encoding="utf-8")
    assert publish.published(tmp_path / "experiments") == {"demo": "demo"}
    again = publish.republish(DEMO, "demo", home=tmp_path / "experiments", readme=readme)
    assert again == results and "| margin |" in (results / "table.md").read_text(encoding="utf-8")


def test_publish_renews_as_many_findings_as_a_page_wants(tmp_path: Path) -> None:
    table = "- one finding\n- another\n\n| a |\n|---|\n"
    readme, page = tmp_path / "README.md", tmp_path / "docs" / "demo.md"
    page.parent.mkdir()
    readme.write_text("# readme\n<!-- findings:demo 1 -->\nold\n<!-- /findings:demo -->\nend\n")
    page.write_text("<!-- findings:demo -->\n<!-- /findings:demo -->\n")
    new = publish.renewed("demo", table, readme)
    assert new == {
        readme: "# readme\n<!-- findings:demo 1 -->\n- one finding\n<!-- /findings:demo -->\nend\n",
        page: "<!-- findings:demo -->\n- one finding\n- another\n<!-- /findings:demo -->\n",
    }
    with pytest.raises(UserError, match=r"table\.md has none"):
        publish.renewed("demo", "| a |\n", readme)


@pytest.mark.parametrize("text", ["<!-- results:demo --> only", "<!-- /results:demo --><!-- results:demo -->"])
def test_publish_needs_both_marks(tmp_path: Path, text: str) -> None:
    made_report(tmp_path / "run")
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(UserError, match="each mark <!-- results:demo --> needs one"):
        publish.publish(DEMO, "demo", tmp_path / "run", home=tmp_path, readme=tmp_path / "README.md")
    assert not (tmp_path / "results").exists()
    assert (tmp_path / "README.md").read_text() == text


def test_options_are_told_with_the_values_of_each_form() -> None:
    lines = options_of(experiment_named("coreset_curve").options).splitlines()
    assert lines[0] == "| option | default | --quick | --full | meaning |"
    table = {cells[1]: cells[2:] for line in lines[2:] if (cells := [cell.strip() for cell in line.split("|")])}
    assert table["--budget"] == ["1500", "100", "1000", "labels a round", ""]
    assert table["--device"][:3] == ["cpu", "", ""] and "--full" not in table


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
    def trial(name: str, after: tuple[Trial, ...] = (), **more: Any) -> Trial:
        return Trial(name, count_up, {"counter": str(tmp_path / f"{name}.count"), **more}, after)

    # "second" stands before what it starts from.
    first, bad = trial("first"), trial("bad", fail=True)
    trials = [trial("second", (first,), start="first"), first, bad, trial("orphan", (bad,))]
    folder = tmp_path / "run"
    outcome = run_trials(trials, folder=folder, workers=2, quiet=True)
    assert list(outcome.results) == ["first", "second"]
    assert outcome.results["second"]["before"] == outcome.results["first"]["pid"]
    assert outcome.results["first"]["threads"] == 1
    assert outcome.results["first"]["omp"] == "1"
    assert outcome.results["first"]["pid"] != os.getpid()
    assert outcome.failed["bad"].startswith("bad: RuntimeError: a reason (traceback in ")
    assert "\n" not in outcome.failed["bad"]
    assert "and more" in (folder / "bad" / "error.txt").read_text()
    assert outcome.failed["orphan"] == "orphan: not started, for bad failed"

    # What is finished is read, and starts no process; what failed is tried again.
    again = run_trials(trials[:1], folder=folder, quiet=True)  # with what it starts from
    assert again.results == outcome.results
    assert (tmp_path / "first.count").read_text() == (tmp_path / "second.count").read_text() == "x"

    with pytest.raises(UserError, match=r"start was 'first', is 'bad'") as refused:
        run_trials([replace(trials[0], arguments={**trials[0].arguments, "start": "bad"}, after=())], folder=folder)
    assert "\n" not in str(refused.value)
    # A trial that failed is held to its arguments too: half of its work may be there.
    with pytest.raises(UserError, match="fail was True, is False"):
        run_trials([trial("bad", fail=False)], folder=folder)


def test_trials_that_cannot_work_are_refused(tmp_path: Path) -> None:
    one = Trial("one", count_up, {})
    for trials, workers, message in [
        ([one, replace(one, arguments={"fail": True})], 1, "the name 'one'"),
        ([one], 0, "workers"),
    ]:
        with pytest.raises(UserError, match=message):
            run_trials(trials, folder=tmp_path, workers=workers)


# --- the command line and the demo ------------------------------------------------------------------------------------


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_records_keep_what_a_trial_shares_once_and_come_back_the_same(tmp_path: Path) -> None:
    """In their order, with the same types, whatever differs between the evaluations of a trial."""
    shared = {"task": "a", "network": "n", "command": "c", "settings": {"lr": 0.1}, "none": None}
    lines = [
        {
            **shared,
            "method": "m",
            "seed": seed,
            "labels": labels,
            "flag": labels == 1,
            **({"extra": 1.0} if labels else {}),
        }
        for seed in (0, 1)
        for labels in (0, 1, 2)
    ]
    lines.append({**shared, "method": "m", "seed": 1, "labels": 3, "flag": 1})  # 1 is not True
    path = records.write(tmp_path, lines)
    assert path.name == "records.jsonl.xz"
    assert records.read(tmp_path) == records.read(path) == lines
    assert [type(record["flag"]) for record in records.read(path)] == [type(record["flag"]) for record in lines]
    stored = records.text_of(path)
    assert stored.count('"lr"') == 2 and len(stored.splitlines()) == len(lines) + 2
    first = path.read_bytes()
    assert records.write(tmp_path, lines).read_bytes() == first
    path.write_bytes(first[:40])
    with pytest.raises(UserError, match="damaged"):
        records.read(tmp_path)


def test_old_fields_are_read_by_their_names_of_today(tmp_path: Path) -> None:
    records.write_text(tmp_path / "records.jsonl", '{"asked": [1], "rate": 0.1, "how": {"rate": 0.2, "asks": 1}}\n')
    assert records.read(tmp_path) == [{"queried": [1], "lr": 0.1, "how": {"lr": 0.2, "asks": 1}}]


def test_the_command_of_the_demo_tells_what_was_changed() -> None:
    assert command_of(Demo(out=Path("x"), workers=1)) == "python -m experiments run demo"
    assert command_of(Demo(seeds=(0, 7), steps=5)) == "python -m experiments run demo --steps 5 --seeds 0 7"


def test_a_quick_demo_makes_its_records_and_report_and_runs_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["run", "demo", "--quick", "--strategies", "margin", "--workers", "1", "--quiet"]
    assert main(words) == 0
    first = capsys.readouterr().out
    out = tmp_path / "runs" / "demo_quick"
    assert "source-only" in first and "report: runs/demo_quick/report.html" in first
    assert (out / "report.html").read_text(encoding="utf-8").count("<img ") == 5  # accuracy, three curves, the queried
    lines = records.read(out)
    assert {line["command"] for line in lines} == {"python -m experiments run demo --quick --strategies margin"}
    table = measurements.aggregate(lines)
    assert {(r.method, r.labels) for r in table} >= {("source-only", 0), ("DAN", 0), ("margin", 0), ("margin", 5)}
    assert {r.split for r in table if r.method == "margin"} == {"target", "unqueried", "test", ""}

    trained = {path: path.stat().st_mtime_ns for path in out.glob("*/*")}
    assert main(words) == 0
    assert capsys.readouterr().out.split("took:")[0] == first.split("took:")[0]
    assert {path: path.stat().st_mtime_ns for path in out.glob("*-seed0/*")}.items() <= trained.items()
    assert main([*words, "--budget", "6"]) == 2
    assert "budget was 5, is 6" in capsys.readouterr().err
