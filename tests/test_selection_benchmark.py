"""The selection benchmark: all rows compute what they say, a finished measurement is not made again, tables say so."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from dan.errors import UserError
from experiments.benchmarks import selection, selection_report, selection_tasks
from experiments.benchmarks.selection import Selection
from experiments.benchmarks.selection_tasks import TASKS, Case, Unavailable
from experiments.framework.records import Record, append, read

QUICK = Selection(quick=True, repetitions=1)


def quick_cases() -> list[Case]:
    return selection.cases(QUICK)


def answer(case: Case, folder: Path) -> object:
    inputs = TASKS[case.task].inputs(case, folder)
    return TASKS[case.task].methods[case.method].build(case, inputs)()


@pytest.mark.parametrize("case", quick_cases(), ids=lambda case: f"{case.task}: {case.method}")
def test_every_row_runs_and_picks_as_many_distinct_rows(case: Case, tmp_path: Path) -> None:
    try:
        found = answer(case, tmp_path)
    except Unavailable as reason:
        pytest.skip(str(reason))
    assert isinstance(found, torch.Tensor)
    if case.method == "one mmd2":
        assert found.shape == () and float(found) > 0
        return
    assert found.shape == (case.budget,)
    assert len(set(found.tolist())) == case.budget
    assert int(found.min()) >= 0 and int(found.max()) < case.n


def test_the_plain_loop_and_ours_pick_the_same(tmp_path: Path) -> None:
    by_method = {case.method: case for case in quick_cases() if case.task == "k_center"}
    ours, loop = (answer(by_method[name], tmp_path) for name in ("ours", "plain loop"))
    assert isinstance(ours, torch.Tensor) and isinstance(loop, torch.Tensor)
    assert torch.equal(ours, loop)


def test_the_file_holds_the_pool_that_stands_in_memory(tmp_path: Path) -> None:
    (case,) = (case for case in quick_cases() if case.task == "k_center from disk")
    on_disk, in_memory = selection_tasks._pool_on_disk(case, tmp_path), selection_tasks._pool(case, tmp_path)
    assert (tmp_path / "features.bin").stat().st_size == 4 * case.n * case.features
    assert all(torch.equal(on_disk[name], in_memory[name]) for name in ("pool", "centres"))


def test_the_radius_is_that_of_the_definition() -> None:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    expected = max(min(float((a - b).norm()) for b in x[:5].double()) for a in x.double())
    assert selection.radius(x, x[:5]) == pytest.approx(expected, rel=1e-9)


def test_features_are_clustered_not_negative_and_the_same_for_a_seed() -> None:
    x = selection_tasks.clustered(5000, 8, seed=3)
    assert torch.equal(x, selection_tasks.clustered(5000, 8, seed=3))
    assert float(x.min()) == 0 and 0.2 < float((x == 0).float().mean()) < 0.8
    assert not torch.equal(x, selection_tasks.clustered(5000, 8, seed=4))


@pytest.mark.long
def test_a_measurement_is_made_in_its_own_process_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(QUICK, tasks=("k_center",), methods=("ours", "scikit-activeml"), out=tmp_path)
    selection.run_selection(config)
    records = read(tmp_path / "records.jsonl")
    assert [record["method"] for record in records] == ["ours", "scikit-activeml"]
    ours, peer = records
    assert ours["seconds_median"] > 0 and ours["radius"] > 0 and ours["peak_bytes"] >= 0 and ours["threads"] == 1
    if "reason" in peer:
        assert peer["reason"].startswith("not installed")
    else:
        assert peer["radius"] == pytest.approx(ours["radius"])
    table = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert f"{ours['radius']:.4f}" in table and peer.get("reason", "| scikit-activeml |") in table

    sent: list[Case] = []

    def instead(case: Case, config: Selection) -> Record:
        sent.append(case)
        return {"reason": "failed (x)"}

    monkeypatch.setattr(selection, "send_out", instead)
    selection.run_selection(config)
    assert [case.method for case in sent] == ["scikit-activeml"] * ("reason" in peer)


@pytest.mark.long
def test_a_process_that_ends_early_or_late_says_so() -> None:
    case = replace(quick_cases()[0], budget=-1)
    assert "budget must be" in selection.send_out(case, QUICK)["reason"]
    assert selection.send_out(quick_cases()[0], replace(QUICK, limit=0.01)) == {"reason": "stopped after 0.01 s"}


def test_the_table_of_fabricated_records(tmp_path: Path) -> None:
    facts = {"device": "cpu", "device_name": "a CPU", "threads": 1, "torch": "2.4", "commit": "abc"}

    def record(task: str, method: str, n: int, seconds: float, **more: object) -> Record:
        case = Case(task=task, method=method, n=n, labelled=0, classes=10, features=4, budget=7)
        return {**asdict(case), **facts, "seconds_median": seconds, "peak_bytes": 2_000_000, **more}

    measured = record("badge", "ours", 1000, 0.5)
    refused = {k: v for k, v in measured.items() if k != "seconds_median"} | {"reason": "failed (x)"}
    for line in (measured, refused, record("badge", "materialised", 100, 2.0)):
        append(tmp_path / "records.jsonl", line)
    rows = [
        line for line in selection_report.write(tmp_path).read_text(encoding="utf-8").splitlines() if "b = 7" in line
    ]
    assert rows == [
        "- **badge**, N = 1,000, C = 10, F = 4, b = 7: 500 ms and 2.00 MB; 40 times that: materialised.",
        "| N = 1,000, C = 10, F = 4, b = 7 | ours | 500 ms | 1.00 | 2.00 MB | – |",
        "| N = 1,000, C = 10, F = 4, b = 7 | materialised | 20.0 s (of N = 100, times 10) | 40.00 | 20.0 MB | – |",
    ]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"tasks": ("k_centre",)}, r'unknown task "k_centre" \(did you mean "k_center"\?\)'),
        ({"methods": ("our",)}, r'unknown method "our" \(did you mean "ours"\?\)'),
        ({"repetitions": 0}, "1 or more"),
        ({"limit": 0.0}, "positive"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, changes: dict[str, object], line: str) -> None:
    with pytest.raises(UserError, match=line):
        selection.run_selection(replace(QUICK, out=tmp_path, **changes))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_sizes_are_those_of_the_published_table() -> None:
    every = {(case.task, case.method): case for case in selection.cases(Selection())}
    assert every["k_center", "ours"].n == 50_000 and every["k_center from disk", "ours"].n == 1_000_000
    assert every["badge", "ours"].n == 50_000 and every["badge", "materialised"].n == 5_000
    assert all(case.n <= 2000 for case in quick_cases())
