"""Benchmarks: what is compared is the same function, the floor counts right, a cell is measured once, tables say so."""

import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dan import MultiKernel
from dan.errors import UserError
from experiments.benchmarks import crossovers, dan_step, floor, measure, mmd, mmd_report, training_step
from experiments.benchmarks.methods import METHODS, Method, Unavailable
from experiments.benchmarks.scout import Task, scout, send_out, too_much
from experiments.framework.records import Record, read, to_lines

CPU = torch.device("cpu")


def by_loops(x: Tensor, y: Tensor, kernel: MultiKernel, estimator: str, *, laplace: bool = False) -> Tensor:
    """The definition, one pair at a time, in float64; its gradients come from autograd on these loops."""

    def k(a: Tensor, b: Tensor) -> Tensor:
        # Coinciding points by hand: the root in the Laplace kernel has no gradient there.
        if a is b:
            return torch.ones((), dtype=torch.float64)
        d2 = (a - b).square().sum()
        parts = [torch.exp(-(d2 / g).sqrt()) if laplace else torch.exp(-d2 / g) for g in kernel.bandwidths.double()]
        return torch.stack(parts).mean()

    xs, ys = list(x.double()), list(y.double())
    n, m = len(xs), len(ys)
    if estimator == "linear":
        quadruples = zip(xs[0::2], xs[1::2], ys[0::2], ys[1::2], strict=True)
        return torch.stack([k(a, b) + k(c, d) - k(a, d) - k(b, c) for a, b, c, d in quadruples]).mean()
    left_out = estimator == "unbiased"
    xx = sum(k(a, b) for i, a in enumerate(xs) for j, b in enumerate(xs) if not (left_out and i == j))
    yy = sum(k(a, b) for i, a in enumerate(ys) for j, b in enumerate(ys) if not (left_out and i == j))
    xy = sum(k(a, b) for a in xs for b in ys)
    return torch.as_tensor(xx / (n * (n - left_out)) + yy / (m * (m - left_out)) - 2 * xy / (n * m))


def built(method: Method, kernel: MultiKernel) -> measure.Step:
    assert method.build is not None
    try:
        return method.build(kernel)
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.mark.filterwarnings("ignore::UserWarning")  # peers speak of their own dependencies
@pytest.mark.parametrize(
    "name",
    [  # KeOps compiles half a minute for each of its two rows; the backend itself has its own tests
        pytest.param(name, marks=pytest.mark.long if "keops" in name.lower() else ())
        for name, method in METHODS.items()
        if method.equals
    ],
)
def test_a_method_is_the_estimate_that_it_says(name: str) -> None:
    method = METHODS[name]
    assert method.equals is not None
    x, y = measure.samples(8, 3, device=CPU)
    kernel = measure.kernel_for(x, y, 5)
    value = built(method, kernel)(x, y)
    expected = by_loops(x, y, kernel, method.equals)
    torch.testing.assert_close(value.double(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        torch.autograd.grad(value, (x, y)), torch.autograd.grad(expected, (x, y)), rtol=1e-4, atol=1e-6
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_skada_has_the_laplace_kernel_that_its_row_says() -> None:
    x, y = measure.samples(8, 3, device=CPU)
    kernel = measure.kernel_for(x, y, 5)
    value = built(METHODS["skada"], kernel)(x, y) / 5
    torch.testing.assert_close(value.double(), by_loops(x, y, kernel, "biased", laplace=True), rtol=0, atol=1e-5)
    assert abs(float(value) - float(by_loops(x, y, kernel, "biased"))) > 1e-2
    assert METHODS["skada"].equals is None and METHODS["skada"].kind == "other kernel"


def test_a_library_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "geomloss", None)
    lines = list(scout(task("geomloss", (8, 16))))
    assert [line["n"] for line in lines] == [8, 16]
    assert all(line["reason"].startswith("not installed (") for line in lines)


@pytest.mark.parametrize(
    ("n", "m", "features", "tile"), [(8, 8, 3, 1024), (32, 16, 5, 8), (26, 6, 2, 12), (64, 64, 1, 32)]
)
def test_the_floor_multiplies_as_much_as_its_formula_says(n: int, m: int, features: int, tile: int) -> None:
    counted = 0.0

    def mm(a: Tensor, b: Tensor, *, out: Tensor) -> Tensor:
        nonlocal counted
        counted += a.shape[0] * a.shape[1] * b.shape[1]
        return torch.matmul(a, b, out=out)

    step = floor.products(torch.randn(n, features), torch.randn(m, features), tile=tile)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(floor, "torch", SimpleNamespace(mm=mm))
        step()
    assert counted == floor.multiply_adds(n, m, features) == 3 * features * (n * n / 2 + m * m / 2 + n * m)


def test_the_floor_visits_every_pair_at_least_once() -> None:
    """Off the diagonal each unordered pair of tiles once, whole; on it half the rows of each tile."""
    seen = torch.zeros(22, 22)
    for rows, columns in floor.tile_pairs(22, 6):
        seen[rows, columns] += 1
    tile = torch.arange(22) // 6
    above = tile[:, None] < tile[None]
    assert (seen[above] == 1).all() and (seen[above.T] == 0).all()
    assert seen[tile[:, None] == tile[None]].sum() == (3 * 36 + 16) / 2


def test_turns_are_fair_and_counted() -> None:
    calls: list[str] = []
    steps = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    taken = measure.in_turn(steps, {"a": 10, "b": 5, "c": 2}, CPU)
    assert {name: len(times) for name, times in taken.items()} == {"a": 10, "b": 5, "c": 2}
    assert [calls.count(name) for name in "abc"] == [10, 5, 2]
    # The rare one is spread over the whole, and nobody always comes first.
    places = [i / len(calls) for i, name in enumerate(calls) if name == "c"]
    assert places[0] < 0.5 <= places[1]
    assert calls[:2] == ["a", "b"] or calls[:3] == ["a", "b", "c"]
    assert measure.in_turn({}, {}, CPU) == {}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak cannot begin anew within a process")
def test_peak_memory_is_what_was_held_and_let_go() -> None:
    peak = measure.PeakMemory(CPU)
    torch.ones(30_000_000).sum()  # 120 MB that must not be counted
    peak.start()
    held = torch.ones(10_000_000)  # 40 MB
    (held * 2).sum()  # and 40 more for a moment
    assert peak.stop() == pytest.approx(80e6, rel=0.05)


@pytest.mark.parametrize(
    ("n", "power", "expected"),
    [
        (20, 2, None),  # 4 s, 400 MB
        (40, 2, "not run (would need 16 s)"),
        (40, 1, None),  # 4 s
        (100, 2, "not run (would need 10 GB)"),
    ],
)
def test_what_is_beyond_reach_is_foreseen(n: int, power: int, expected: str | None) -> None:
    assert too_much(n, (10, 1.0, 1e8), power=power, limit=5.0, free=10e9) == expected
    assert too_much(n, None, power=power, limit=5.0, free=10e9) is None


def task(method: str, sizes: tuple[int, ...], *, limit: float = 60.0) -> Task:
    return Task(method=method, features=3, kernels=2, sizes=sizes, device="cpu", threads=1, limit=limit)


@pytest.mark.long
def test_a_scout_in_its_own_process() -> None:
    lines = send_out(replace(task("ours dense", (16, 512)), known=None))
    assert [line["n"] for line in lines] == [16, 512]
    assert all(line["seconds"] > 0 for line in lines)
    assert 4e6 < lines[1]["peak_bytes"] < 1e8  # one (1024, 1024) matrix of float32 is 4.2 MB
    foreseen = send_out(replace(task("ours dense", (10_000,)), known=(512, 50.0, 1e7)))
    assert foreseen[0]["reason"].startswith("not run (would need 1.91e+04 s")


def test_a_scout_that_is_killed_leaves_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], -9, stdout='\n{"n": 8, "seconds": 1.0, "peak_bytes": 5}\n', stderr="")

    monkeypatch.setattr(subprocess, "run", killed)
    lines = send_out(task("ours dense", (8, 16)))
    assert lines[0] == {"n": 8, "seconds": 1.0, "peak_bytes": 5}
    assert lines[1]["n"] == 16 and "ended with -9" in lines[1]["reason"]


SMALL = mmd.Benchmark(features=(3,), sizes=(8, 16), methods=("ours dense", "ours linear", "floor"), budget=0.01)


@pytest.mark.long
def test_a_finished_cell_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Task] = []

    def watched(order: Task) -> list[dict[str, object]]:  # in this process: that it can be another one is shown above
        sent.append(order)
        return list(scout(order))

    monkeypatch.setattr("experiments.benchmarks.scout.send_out", watched)
    threads = torch.get_num_threads()
    config = replace(SMALL, out=tmp_path, threads=threads)
    mmd.run_benchmark(config)
    assert len(sent) == len(SMALL.methods)
    sent.clear()
    before = read(tmp_path / "records.jsonl")
    assert {(r["method"], r["n"]) for r in before} == {(name, n) for name in SMALL.methods for n in (8, 16)}
    assert all(r["seconds_best"] <= r["seconds_median"] and r["repetitions"] >= 3 for r in before)
    assert all(r["off_by"] < 1e-6 for r in before if r["method"] != "floor")

    mmd.run_benchmark(config)
    assert sent == [] and read(tmp_path / "records.jsonl") == before

    # One cell lost, one that was not run before: these two are measured, and nothing else.
    kept = [r for r in before if (r["method"], r["n"]) != ("floor", 16)]
    not_run = {k: v for k, v in kept[0].items() if not k.startswith(("seconds", "peak"))} | {"reason": "not run (x)"}
    (tmp_path / "records.jsonl").write_text(to_lines([not_run, *kept[1:]]))
    mmd.run_benchmark(config)
    assert {(order.method, order.sizes) for order in sent} == {("floor", (16,)), (kept[0]["method"], (kept[0]["n"],))}
    after = read(tmp_path / "records.jsonl")
    assert after[: len(kept)] == [not_run, *kept[1:]] and len(after) == len(kept) + 2
    known = next(order.known for order in sent if order.method == "floor")
    assert known is not None and known[0] == 8


def fabricated() -> list[Record]:
    facts = {
        "features": 64,
        "kernels": 5,
        "dtype": "float32",
        "device": "cpu",
        "device_name": "a CPU",
        "threads": 2,
        "torch": "2.4",
        "commit": "abc",
    }

    def record(method: str, n: int, seconds: float, **more: object) -> Record:
        numbers = {"seconds_median": seconds, "seconds_best": seconds, "peak_bytes": 3_000_000, "repetitions": 3}
        return {"method": method, "kind": METHODS[method].kind, "n": n, "m": n, **facts, **numbers, **more}

    missing = {"method": "geomloss", "kind": "exact", "n": 4096, "m": 4096, **facts}
    return [
        record("ours tiled", 64, 0.0005, off_by=2e-8, rate_fraction=0.25),
        record("ours tiled", 4096, 0.8),
        record("ours auto", 64, 0.0004, backend="dense"),
        record("pytorch-adapt", 64, 0.001, off_by=3e-4),
        record("skada", 64, 0.00025),
        record("floor", 64, 0.0001),
        {**missing, "reason": "not run (would need 26 s)"},
        {**missing, "n": 64, "reason": "not installed (No module named 'geomloss')"},
    ]


def test_report_from_fabricated_records(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text(to_lines(fabricated()))
    path = mmd.report(tmp_path)
    text = path.read_text(encoding="utf-8")
    tables = sections(text)
    assert tables["Time, median"]["ours tiled"] == ["500 µs", "800 ms"]
    assert tables["Time, median"]["geomloss"] == ["not installed", "not run (would need 26 s)"]
    assert tables["Time / the fastest exact peer's"]["ours tiled"] == ["0.50", "–"]
    assert tables["Time / the fastest exact peer's"]["skada"] == ["0.25", "–"]
    other = "Time / the fastest other way's over all pairs (exact, plain or of another kernel)"
    assert tables[other]["ours tiled"] == ["2.00", "–"]
    assert tables["Time / the bare products' (floor)"]["ours tiled"] == ["5.00", "–"]
    assert tables["Share of the device's matrix rate"]["ours tiled"] == ["25 %", "–"]
    assert tables["Peak memory beyond the inputs"]["ours tiled"] == ["3.00 MB", "3.00 MB"]
    assert "floor" not in tables["Peak memory beyond the inputs"]
    assert "It agrees with our unbiased estimate in float64 (off by 2e-08 at most)." in text
    assert "It DIFFERS FROM our unbiased estimate in float64 (off by 0.0003 at most)." in text
    assert "Not installed (No module named 'geomloss')." in text
    assert "Took dense at n = 64 (F = 64)." in text
    assert "a CPU (cpu, 2 threads), torch 2.4, float32, commit abc" in text
    assert (tmp_path / "time.png").stat().st_size > 10_000


def sections(text: str) -> dict[str, dict[str, list[str]]]:
    """Title -> row -> cells of every table."""
    result: dict[str, dict[str, list[str]]] = {}
    title = ""
    for line in text.splitlines():
        if line.endswith(":"):
            title = line[:-1]
        elif line.startswith("| ") and not line.startswith("| method"):
            name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
            result.setdefault(title, {})[name] = cells
    return result


def test_a_measured_cell_outlives_a_later_refusal_and_machines_do_not_mix() -> None:
    first = fabricated()[0]
    refused = {k: v for k, v in first.items() if not k.startswith("seconds")} | {"reason": "not run (x)"}
    (cells,) = mmd_report.by_setting([first, refused]).values()
    assert cells["ours tiled", 64] is first
    (cells,) = mmd_report.by_setting([refused, first]).values()
    assert cells["ours tiled", 64] is first
    elsewhere = first | {"device_name": "another CPU", "seconds_median": 9.0}
    assert len(mmd_report.by_setting([first, elsewhere])) == 2
    assert "## F = 64, K = 5, another CPU, 2 threads" in mmd_report.markdown([first, elsewhere])


def test_nothing_measured_is_no_picture() -> None:
    assert mmd_report.plot(fabricated()[-2:]) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(5e-6, "5.00 µs"), (0.0123, "12.3 ms"), (0.9999, "1000 ms"), (74.051, "74.1 s"), (123.4, "123 s")],
)
def test_seconds_have_three_digits(value: float, text: str) -> None:
    assert mmd_report.seconds(value) == text


def test_sizes_have_three_digits() -> None:
    assert [mmd_report.size(v) for v in (512, 45_000_000, 1.9e9)] == ["0.51 kB", "45.0 MB", "1.90 GB"]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"methods": ("our dense",)}, r'unknown method "our dense".*"ours dense"'),
        ({"sizes": (7,)}, "even numbers"),
        ({"features": (0,)}, "1 or more"),
        ({"limit": 0.0}, "must be positive"),
        ({"device": "cpuu"}, r'--device: "cpuu".*"cpu"'),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, changes: Mapping[str, object], line: str) -> None:
    with pytest.raises(UserError, match=line):
        mmd.run_benchmark(replace(SMALL, out=tmp_path, **changes))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_no_gpu_is_one_line_and_its_records_can_still_be_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no CUDA device"):
        mmd.run_benchmark(replace(SMALL, device="cuda", out=tmp_path))
    with pytest.raises(UserError, match="no CUDA device"):
        dan_step.run_dan_step(dan_step.DanStep(device="cuda", out=tmp_path))
    with pytest.raises(UserError, match='"gpu" is not one of cpu, cuda'):
        crossovers.run_crossovers(crossovers.Crossovers(device="gpu", out=tmp_path / "table.json"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "records.jsonl").write_text(to_lines(fabricated()))
    mmd.run_benchmark(replace(SMALL, device="cuda", out=tmp_path, report=True))
    assert (tmp_path / "table.md").is_file()


def test_quick_leaves_what_was_named() -> None:
    quick, folder = mmd._settled(mmd.Benchmark(quick=True))
    assert (quick.features, quick.sizes, quick.limit) == ((64,), (32, 256, 1024), 5.0)
    assert folder == Path("runs") / "benchmark_mmd_quick"
    named, _ = mmd._settled(mmd.Benchmark(quick=True, features=(3,), sizes=(16, 8)))
    assert (named.features, named.sizes) == ((3,), (8, 16))


def test_repetitions_follow_the_budget() -> None:
    assert [mmd.repetitions(s, 1.0) for s in (0.001, 0.05, 2.0, 11.0)] == [100, 20, 3, 2]


def curve(**exponents: tuple[float, float]) -> crossovers.Times:
    """Times a + b n^2 of each backend."""

    def times(backends: Sequence[str], n: int) -> dict[str, float]:
        return {name: exponents[name][0] + exponents[name][1] * n**2 for name in backends}

    return times


def test_crossovers_of_known_curves() -> None:
    times = curve(dense=(0.0, 4e-8), tiled=(1e-3, 1e-8), keops=(1e-2, 2e-9))
    # 3e-8 n^2 = 1e-3 at n = 183; 8e-9 n^2 = 9e-3 at n = 1061: the next sizes of the grid.
    assert crossovers.take_over("tiled", ["dense"], times, 1.0)[0] == 192
    assert crossovers.take_over("keops", ["dense", "tiled"], times, 1.0)[0] == 1536
    # At a limit of 5 ms dense is stopped at 384, long before that.
    never, last, ratio = crossovers.take_over("keops", ["dense", "tiled"], times, 5e-3)
    assert never is None and last == crossovers.SIZES[0] and ratio > 10
    # A single lucky win is none.
    lucky = lambda names, n: {name: 2.0 if (name == "tiled") == (n != 64) else 1.0 for name in names}  # noqa: E731
    assert crossovers.take_over("tiled", ["dense"], lucky, 10.0)[0] is None
    # What does not fit loses.
    full = lambda names, n: {"dense": math.inf if n > 1024 else 1e-6, "tiled": 1e-3}  # noqa: E731
    assert crossovers.take_over("tiled", ["dense"], full, 10.0)[0] == 1536


def test_crossovers_keep_other_devices_and_do_without_keops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dan.mmd.keops.why_not", lambda device: "no compiler")
    out = tmp_path / "crossovers.json"
    other = {"dtype": "float32", "features": 2, "kernels": 5, "tiled_from": 512, "keops_from": 4096}
    out.write_text(json.dumps({"cuda": [other], "cpu": [other]}))
    crossovers.run_crossovers(crossovers.Crossovers(features=(256,), num_kernels=(1,), limit=1e-3, threads=1, out=out))
    table = json.loads(out.read_text())
    assert table["cuda"] == [other]
    cases = [(entry["dtype"], entry["features"], entry["kernels"]) for entry in table["cpu"]]
    assert cases == [("float32", 256, 1), ("float64", 256, 1)]
    assert all(entry["tiled_from"] in crossovers.SIZES and entry["keops_from"] is None for entry in table["cpu"])
    with pytest.raises(UserError, match="1 or more"):
        crossovers.run_crossovers(crossovers.Crossovers(features=(), out=out))


def test_a_dan_step_with_and_without_mmd(tmp_path: Path) -> None:
    """Small images; the records and the table are those of the full size."""
    dan_step.run_dan_step(dan_step.DanStep(repetitions=1, pixels=32, out=tmp_path, threads=1))
    records = read(tmp_path / "records.jsonl")
    assert [(r["backbone"], r["method"]) for r in records] == [
        (backbone, method) for backbone in dan_step.PLACES for method in ("without MMD", "with MMD")
    ]
    table = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert all(what in table for what in dan_step.PLACES.values()) and f"{records[1]['ratio']:.3f}" in table


def test_only_the_terms_differ_between_the_steps() -> None:
    """Same start: at trade-off 0 the target does not matter, at 1 it does; both see the source's labels."""
    torch.manual_seed(0)
    start = dan_step.network("cached features")
    inputs, labels = torch.randn(8, dan_step.WIDTH), torch.tensor([0, 1, 2, 3])
    moved = torch.cat([inputs[:4], inputs[4:] + 3])

    def after(batch: Tensor, trade_off: float) -> Tensor:
        model = dan_step.network("cached features")
        model.load_state_dict(start.state_dict())
        dan_step.training_step(model, batch, labels, trade_off=trade_off)()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(after(inputs, 0.0), after(moved, 0.0))
    assert not torch.allclose(after(inputs, 1.0), after(moved, 1.0), atol=1e-6)
    assert not torch.allclose(after(inputs, 0.0), after(inputs, 1.0), atol=1e-6)


def test_whole_training_steps_and_workers(tmp_path: Path) -> None:
    small: dict[str, Any] = {
        "features": (8,),
        "batches": (4,),
        "kernels": (5,),
        "threads": (1,),
        "repetitions": 2,
        "images": 6,
    }
    training_step.run_training_step(training_step.TrainingStep(**small, out=tmp_path))
    records = read(tmp_path / "records.jsonl")
    methods = [record["method"] for record in records if record["part"] == "cached"]
    assert methods[:3] == ["bare source-only", "source-only", "DAN"] and "bare + plain cdist" in methods
    assert [record["workers"] for record in records if record["part"] == "images"] == [0, 1, 2]
    table = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert table.count("\n| ") == 1 + 4 and f"{records[2]['ratio']:.2f}" in table
