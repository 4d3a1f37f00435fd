"""What asking costs: strategies on large pools beside what a user would pick instead, in seconds, memory and radius.

    python -m experiments.benchmarks.selection [--quick] [--report]

Each measurement is a process of its own: it makes its inputs, calls once on small ones (libraries are imported then),
and then measures: the first call's peak memory, the median time of some. One JSON line a measurement goes to
records.jsonl, a finished one is not made again, and table.md is made from the records alone (selection_report.py).

Shapes: N samples of the pool, L labelled (of mmd_reduction: S source) samples, C classes, F features, b budget.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from dan.cli.command_line import Command, run
from dan.errors import UserError, nearest
from experiments.benchmarks.selection_report import write
from experiments.benchmarks.selection_tasks import TASKS, Case, Unavailable, key_of
from experiments.framework.records import Record, append, read

if TYPE_CHECKING:
    from torch import Tensor

RESULTS = Path(__file__).resolve().parents[1] / "results"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What is measured. The defaults are the published table."""

    tasks: tuple[str, ...] = ()
    """tables by name; none named: all"""
    methods: tuple[str, ...] = ()
    """rows by name; none named: all"""
    repetitions: int = 5
    """calls a measurement; 1 where a call takes over 10 s"""
    limit: float = 1800.0
    """seconds a measurement may take, with its inputs; beyond that it is stopped and its row says so"""
    threads: int = 1
    """CPU threads"""
    out: Path | None = None
    """folder of the records (default: experiments/results/benchmark_selection)"""
    quick: bool = False
    """small sizes, into runs/benchmark_selection_quick: does it work at all?"""
    report: bool = False
    """measure nothing, make table.md again from the records"""


def run_selection(config: Selection) -> None:
    """Measure what is missing, then report."""
    config, out = _settled(config)
    if not config.report:
        measure(config, out)
    print(f"report: {report(out)}")


def report(folder: Path) -> Path:
    """Make table.md again from the folder's records; its path."""
    return write(folder)


def cases(config: Selection) -> list[Case]:
    """All measurements, in the order of the tables."""
    result = []
    for name, task in TASKS.items():
        for n, *rest in task.quick if config.quick else task.sizes:
            for method, how in task.methods.items():
                if name in (config.tasks or TASKS) and method in (config.methods or task.methods):
                    numbers = dict(zip(("labelled", "classes", "features", "budget"), rest, strict=True))
                    result.append(Case(task=name, method=method, n=n // how.scale, **numbers))
    return result


def measure(config: Selection, out: Path) -> None:
    """Make every measurement that has no record, each in a fresh process, and append it."""
    import torch

    from experiments.benchmarks.measure import machine

    facts = {**machine(torch.device("cpu")), "threads": config.threads}
    path = out / "records.jsonl"
    done = {key_of(r) for r in (read(path) if path.is_file() else []) if "seconds_median" in r}
    for case in cases(config):
        record: Record = {**asdict(case), **facts}
        if key_of(record) in done:
            continue
        record |= send_out(case, config)
        append(path, record)
        took = f"{record['seconds_median']:.3g} s" if "seconds_median" in record else record["reason"]
        print(f"{case.task}, {case.method}, N = {case.n}: {took}", flush=True)


def send_out(case: Case, config: Selection) -> Record:
    """`measured` in a fresh process: what it found, or the reason why there is nothing."""
    words = [sys.executable, "-m", "experiments.benchmarks.selection", "--measure"]
    words.append(json.dumps({"case": asdict(case), "repetitions": config.repetitions, "threads": config.threads}))
    root = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "OMP_NUM_THREADS": str(config.threads), "PYTHONPATH": paths}
    try:
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=config.limit)
    except subprocess.TimeoutExpired:
        return {"reason": f"stopped after {config.limit:.3g} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"found": ')]
    if lines:
        return dict(json.loads(lines[-1])["found"])
    said = done.stderr.strip().splitlines()[-1:] or ["out of memory?"]
    return {"reason": f"failed (its process ended with {done.returncode}: {said[0][:120]})"}


def measured(case: Case, repetitions: int) -> Record:
    """Seconds, peak memory, and of k-center the radius: what the process is for. A reason where a peer is not there."""
    import torch

    from experiments.benchmarks.measure import PeakMemory, seconds_of

    device, task = torch.device("cpu"), TASKS[case.task]
    method = task.methods[case.method]
    small = dict(zip(("n", "labelled", "classes", "features", "budget"), task.quick[0], strict=True))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        try:
            warm = Case(task=case.task, method=case.method, **small)
            method.build(warm, task.inputs(warm, Path(folder)))()
            inputs = task.inputs(case, Path(folder))
            step = method.build(case, inputs)
        except Unavailable as error:
            return {"reason": str(error)}
        answers: list[Any] = []
        peak = PeakMemory(device)
        peak.start()
        taken = [seconds_of(lambda: answers.append(step()), device)]
        found: Record = {"peak_bytes": peak.stop()}
        if taken[0] <= 10:
            taken += [seconds_of(step, device) for _ in range(repetitions - 1)]
        found |= {"seconds_median": median(taken), "seconds_best": min(taken), "repetitions": len(taken)}
        if "centres" in inputs:
            found["radius"] = radius(inputs["pool"], torch.cat((inputs["centres"], inputs["pool"][answers[0]])))
        return found


def radius(pool: Tensor, centres: Tensor) -> float:
    """The largest distance of a row of pool (N, F) to its nearest of centres (M, F), by products in float64."""
    import torch

    c = centres.double()
    c_sq, largest = c.square().sum(dim=1), 0.0
    for block in pool.split(4096):
        x = block.double()
        d2 = torch.addmm(c_sq, x, c.T, alpha=-2).amin(dim=1) + x.square().sum(dim=1)
        largest = max(largest, float(d2.max()))
    return largest**0.5


def _settled(config: Selection) -> tuple[Selection, Path]:
    """The settings, checked, and the folder."""
    every = list(dict.fromkeys(name for task in TASKS.values() for name in task.methods))
    for kind, names, known in (("task", config.tasks, list(TASKS)), ("method", config.methods, every)):
        for name in names:
            if name not in known:
                raise UserError(f'unknown {kind} "{name}"{nearest(name, known)}: one of {", ".join(known)}')
    if config.repetitions < 1 or config.threads < 1 or config.limit <= 0:
        raise UserError("--repetitions and --threads must be 1 or more, --limit positive")
    folder = Path("runs") / "benchmark_selection_quick" if config.quick else RESULTS / "benchmark_selection"
    return config, config.out or folder


def main(argv: Sequence[str]) -> int:
    """The command, or, as `--measure JSON`, the process of one measurement."""
    if list(argv[:1]) == ["--measure"]:
        import torch

        task = json.loads(argv[1])
        torch.set_num_threads(task["threads"])
        found = measured(Case(**task["case"]), task["repetitions"])
        print("\n" + json.dumps({"found": found}), flush=True)  # a library may have left a line unfinished
        return 0
    return run("python -m experiments.benchmarks", "Benchmarks.", {"selection": COMMAND}, ["selection", *argv])


COMMAND = Command(Selection, run_selection, "what asking costs: k-center, MMD reduction and BADGE on large pools")

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
