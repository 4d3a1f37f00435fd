"""MK-MMD beside what a user would pick instead: time of forward + backward in both arguments, and memory, against n.

    python -m experiments.benchmarks.mmd [--quick] [--device cuda] [--report]

For each number of features F a process of its own for each method first finds its peak memory and how far it can go
(scout.py); then all methods that can go to size n take turns on the same inputs in this process (measure.py). One JSON
line a cell (method, n, F) goes to records.jsonl, and a finished cell is not measured again; table.md and time.png are
made from the records alone (mmd_report.py).

Shapes: N samples of each side; F features; K kernels.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from dan.cli.command_line import Command, run
from dan.errors import UserError, nearest
from experiments.framework.records import Record, append, read

if TYPE_CHECKING:
    import torch

RESULTS = Path(__file__).resolve().parents[1] / "results"
SIZES = {
    "cpu": (32, 64, 128, 256, 512, 1024, 2048, 4096, 10_000, 30_000),
    "cuda": (32, 64, 128, 256, 512, 1024, 2048, 4096, 10_000, 30_000, 100_000, 200_000),
}


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What is measured. The defaults are the published table; a folder keeps one device's."""

    device: str = "cpu"
    """cpu or cuda"""
    features: tuple[int, ...] = (64, 256, 2048)
    """numbers of features F, a table for each"""
    sizes: tuple[int, ...] = ()
    """numbers of samples n = m; none named: 32 to 30000, to 200000 on a GPU"""
    methods: tuple[str, ...] = ()
    """rows of the table by name; none named: all"""
    num_kernels: int = 5
    """Gaussian kernels K in the ladder"""
    limit: float = 60.0
    """seconds a call: what would take longer is not run, and its cell says so"""
    budget: float = 1.0
    """seconds a cell: repetitions go on for so long (at least 3 and at most 100; 2 where a call takes over 10 s)"""
    threads: int = 0
    """CPU threads; 0: as many as PyTorch takes"""
    out: Path | None = None
    """folder of the records (default: experiments/results/benchmark_mmd, benchmark_mmd_cuda on a GPU)"""
    quick: bool = False
    """a few small cells in runs/benchmark_mmd_quick: does it work at all?"""
    report: bool = False
    """measure nothing, make table.md and time.png again from the records"""


Cell = tuple[Any, ...]  # (method, n, F, K, name of the device, threads)


def cell_of(record: Mapping[str, Any]) -> Cell:
    """What a record is a measurement of."""
    return tuple(record[part] for part in ("method", "n", "features", "kernels", "device_name", "threads"))


def finished(records: Sequence[Record]) -> dict[Cell, Record]:
    """The cells that were measured. One that was not run is tried again, for the limit or the libraries may differ."""
    return {cell_of(record): record for record in records if "seconds_median" in record}


def run_benchmark(config: Benchmark) -> None:
    """Measure what is missing, then report."""
    config, out = _settled(config)
    if not config.report:
        measure(config, out)
    print(f"report: {report(out)}")


def report(folder: Path) -> Path:
    """Make table.md and time.png again from the folder's records; the path of the table."""
    from experiments.benchmarks.mmd_report import write

    return write(folder)


def measure(config: Benchmark, out: Path) -> None:
    """Measure every cell that has no record, and append it."""
    import torch

    from experiments.benchmarks.measure import device_named, machine, matmul_rate

    device = device_named(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    facts = {"kernels": config.num_kernels, "dtype": "float32", **machine(device)}
    facts["matmul_rate"] = matmul_rate(device)
    path = out / "records.jsonl"
    done = finished(read(path)) if path.is_file() else {}
    for features in config.features:
        place = {"features": features, **facts}
        scouted = _scouted(config, place, done, path)
        for n in config.sizes:
            cells = {method: line for (method, size), line in scouted.items() if size == n}
            began = time.perf_counter()
            for record in _group(cells, n, place, config, device):
                append(path, record)
            if cells:
                print(f"F = {features}, n = {n}: {len(cells)} methods, {time.perf_counter() - began:.0f} s", flush=True)


def _scouted(
    config: Benchmark, place: Record, done: Mapping[Cell, Record], path: Path
) -> dict[tuple[str, int], dict[str, Any]]:
    """(method, n) -> the scout's line, for cells that can be measured; those that cannot are recorded with why."""
    from experiments.benchmarks.methods import METHODS
    from experiments.benchmarks.scout import Task, send_out

    within_reach = {}
    for name in config.methods:
        cells = {n: cell_of({"method": name, "n": n, **place}) for n in config.sizes}
        missing = tuple(n for n in config.sizes if cells[n] not in done)
        if not missing:
            continue
        before = [n for n in config.sizes if cells[n] in done and n < missing[0]]
        last = done[cells[before[-1]]] if before else None
        task = Task(
            method=name,
            features=place["features"],
            kernels=config.num_kernels,
            sizes=missing,
            device=place["device"],
            threads=place["threads"],
            limit=config.limit,
            known=None if last is None else (last["n"], last["seconds_median"], float(last["peak_bytes"])),
        )
        for line in send_out(task):
            if "reason" in line:
                append(path, {"method": name, "kind": METHODS[name].kind, "m": line["n"], **line, **place})
            else:
                within_reach[name, line["n"]] = line
        reached = [n for method, n in within_reach if method == name]
        far = f"up to n = {max(reached)}" if reached else "nowhere"
        print(f"F = {place['features']}, {name}: {far}", flush=True)
    return within_reach


def _group(
    scouted: Mapping[str, Mapping[str, Any]], n: int, place: Record, config: Benchmark, device: torch.device
) -> list[Record]:
    """The records of all methods at one (n, F), taking turns on the same inputs."""
    from experiments.benchmarks.floor import multiply_adds
    from experiments.benchmarks.measure import in_turn, kernel_for, samples, seconds_of, step_of
    from experiments.benchmarks.methods import METHODS
    from experiments.benchmarks.scout import failure

    if not scouted:
        return []
    x, y = samples(n, place["features"], device=device)
    kernel = kernel_for(x, y, config.num_kernels)
    steps = {name: step_of(METHODS[name], x, y, kernel) for name in scouted}
    values, failed = {}, {}
    for name, step in list(steps.items()):
        try:
            values[name] = step()  # the first call warms up
        except (MemoryError, RuntimeError) as error:  # what fits by itself need not fit beside what others keep
            failed[name] = failure(error)
            del steps[name]
    # The scout's time is a cold call's: it would grant small cells too few repetitions.
    once = {name: scouted[name]["seconds"] for name in steps}
    once |= {name: seconds_of(step, device) for name, step in steps.items() if once[name] < config.budget}
    taken = in_turn(steps, {name: repetitions(once[name], config.budget) for name in steps}, device)

    truth = _truth(x, y, kernel, {METHODS[name].equals for name in steps})
    records = [
        {"method": name, "kind": METHODS[name].kind, "n": n, "m": n, **place, "reason": reason}
        for name, reason in failed.items()
    ]
    for name in steps:
        method = METHODS[name]
        record: Record = {"method": name, "kind": method.kind, "n": n, "m": n, **place}
        record |= {"seconds_median": median(taken[name]), "seconds_best": min(taken[name])}
        record |= {"repetitions": len(taken[name]), "peak_bytes": scouted[name]["peak_bytes"]}
        if method.kind != "floor":
            record["value"] = float(values[name])
        if method.equals in truth:
            record["off_by"] = abs(float(values[name]) - truth[method.equals])
        if method.kind != "linear":
            needed = multiply_adds(n, n, place["features"])
            record["rate_fraction"] = needed / record["seconds_median"] / place["matmul_rate"]
        if name == "ours auto":
            record["backend"] = _chosen(x, y, config.num_kernels)
        records.append(record)
    return records


def repetitions(seconds: float, budget: float) -> int:
    """How often a call of so many seconds is repeated."""
    return 2 if seconds > 10 else min(100, max(3, int(budget / max(seconds, 1e-9))))


def _truth(x: torch.Tensor, y: torch.Tensor, kernel: Any, estimators: set[str | None]) -> dict[str | None, float]:
    """Our own value of each estimate in float64: what a method that computes the same must give."""
    import torch

    from dan.mmd import mmd2

    with torch.no_grad():
        a, b = x.detach().double(), y.detach().double()
        return {name: float(mmd2(a, b, kernel, estimator=name)) for name in estimators if name is not None}


def _chosen(x: torch.Tensor, y: torch.Tensor, kernels: int) -> str:
    from dan.mmd.pairwise import choose_backend

    return choose_backend("auto", x, y, kernels)


def _settled(config: Benchmark) -> tuple[Benchmark, Path]:
    """The settings with every default filled in, checked, and the folder."""
    from experiments.benchmarks.methods import METHODS

    if config.device not in SIZES:
        raise UserError(f'--device: "{config.device}" is not one of {", ".join(SIZES)}{nearest(config.device, SIZES)}')
    for name in config.methods:
        if name not in METHODS:
            raise UserError(f'unknown method "{name}"{nearest(name, METHODS)}: one of {", ".join(METHODS)}')
    if not config.features or min(*config.features, config.num_kernels, *config.sizes, 10**9) < 1:
        raise UserError("--features, --sizes and --num-kernels need numbers of 1 or more")
    if min(config.sizes, default=2) < 2 or any(n % 2 for n in config.sizes):
        raise UserError("--sizes needs even numbers of 2 or more: the linear-time estimates take samples in pairs")
    if config.limit <= 0 or config.budget <= 0 or config.threads < 0:
        raise UserError("--limit and --budget must be positive, --threads 0 or more")
    folder = RESULTS / ("benchmark_mmd" if config.device == "cpu" else f"benchmark_mmd_{config.device}")
    if config.quick:
        folder = Path("runs") / f"{folder.name}_quick"
        features = (64,) if config.features == Benchmark.features else config.features
        sizes = config.sizes or (32, 256, 1024)
        limit, budget = min(config.limit, 5.0), min(config.budget, 0.2)
        config = replace(config, features=features, sizes=sizes, limit=limit, budget=budget)
    sizes = tuple(sorted(set(config.sizes or SIZES[config.device])))
    methods = tuple(name for name in METHODS if name in (config.methods or METHODS))
    return replace(config, sizes=sizes, methods=methods), config.out or folder


COMMAND = Command(Benchmark, run_benchmark, "MK-MMD beside what a user would pick instead: time and memory against n")

if __name__ == "__main__":
    sys.exit(run("python -m experiments.benchmarks", "Benchmarks.", {"mmd": COMMAND}, ["mmd", *sys.argv[1:]]))
