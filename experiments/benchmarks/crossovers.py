"""The table that the backend "auto" goes by: from which size tiled beats dense, and KeOps both, on this device.

    python -m experiments.benchmarks.crossovers [--device cuda]

writes dan/mmd/crossovers.json, {device type: [{dtype, features, kernels, tiled_from, keops_from}]}; other devices'
entries stay. Sizes are n = m, forward and backward in both arguments. They are climbed from small to large; a backend
takes over at the first of two sizes in a row at which it is faster. Where dense no longer fits, or comes to the limit,
tiled takes over. keops_from is null if KeOps never is the fastest up to 30000, or up to the limit. Its work grows with
F in full, that of products hardly: where it ends HOPELESS times slower, larger F are not tried, and are null.

Shapes: N samples of each side; F features; K kernels.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from dan.cli.command_line import Command, run
from dan.errors import UserError
from experiments.framework.records import write_text

TABLE = Path(__file__).resolve().parents[2] / "dan" / "mmd" / "crossovers.json"
SIZES = (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192, 16384, 30_000)
HOPELESS = 2.0

Times = Callable[[Sequence[str], int], Mapping[str, float]]  # (backends, n) -> seconds, infinite where it cannot run


@dataclass(frozen=True, kw_only=True)
class Crossovers:
    """What is measured; the defaults are what `auto` needs."""

    device: str = "cpu"
    """cpu or cuda"""
    features: tuple[int, ...] = (2, 16, 64, 256, 2048)
    """numbers of features F"""
    num_kernels: tuple[int, ...] = (1, 5, 33)
    """numbers of kernels K"""
    keops_features: int | None = None
    """KeOps is measured up to this F; default: 2 on a CPU, where products win beyond, and every F on a GPU"""
    limit: float = 0.3
    """seconds a call: a backend that takes longer is not run at larger sizes"""
    threads: int = 0
    """CPU threads; 0: as many as PyTorch takes"""
    out: Path = TABLE
    """the table"""


def take_over(challenger: str, holders: Sequence[str], times: Times, limit: float) -> tuple[int | None, int, float]:
    """(the size from which the challenger is faster than all holders, the last size tried, its time over theirs there).

    Two wins in a row count; one, if it is at the last size. The size is None if one of them comes to the limit (seconds
    a call), or all to the last size, before that.
    """
    won: int | None = None
    ratio = float("inf")
    for n in SIZES:
        taken = times((challenger, *holders), n)
        best = min(taken[name] for name in holders)
        ratio = taken[challenger] / best if best < float("inf") else 0.0
        if taken[challenger] < best:
            if won is not None:
                return won, n, ratio
            won = n
        else:
            won = None
        if best > limit or taken[challenger] > limit:
            break
    return won, n, ratio


def measure(config: Crossovers) -> list[dict[str, Any]]:
    """The entries of one device, in the order of dtype, K, F."""
    import torch

    from dan.mmd.keops import why_not
    from experiments.benchmarks.measure import device_named

    device = device_named(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    reason = why_not(device.type)
    if reason:
        print(f"KeOps does not work here ({reason}): keops_from is null throughout")
    reach = config.keops_features if config.keops_features is not None else 2 if device.type == "cpu" else float("inf")
    entries = []
    for dtype in (torch.float32, torch.float64):
        for kernels in config.num_kernels:
            keops = reason is None
            for features in sorted(config.features):
                began = time.perf_counter()
                times = timed(features, kernels, dtype, device)
                tiled_from, last, _ = take_over("tiled", ["dense"], times, config.limit)
                if tiled_from is None:  # dense never lost, but its matrices only get larger
                    tiled_from = next((n for n in SIZES if n > last), None)
                keops_from = None
                if keops and features <= reach:
                    keops_from, _, ratio = take_over("keops", ["dense", "tiled"], times, config.limit)
                    keops = ratio < HOPELESS
                case = {"dtype": str(dtype).removeprefix("torch."), "features": features, "kernels": kernels}
                entries.append({**case, "tiled_from": tiled_from, "keops_from": keops_from})
                print(f"{entries[-1]}  {time.perf_counter() - began:.1f} s", flush=True)
    return entries


def timed(features: int, kernels: int, dtype: Any, device: Any) -> Times:
    """Median seconds of backends taking turns on the same samples; what was measured before is not measured again."""
    import torch

    from dan.mmd import mmd2
    from experiments.benchmarks.measure import in_turn, kernel_for, samples, seconds_of
    from experiments.benchmarks.mmd import repetitions

    known: dict[tuple[str, int], float] = {}

    def times(backends: Sequence[str], n: int) -> Mapping[str, float]:
        missing = [name for name in backends if (name, n) not in known]
        x, y = (z.detach().to(dtype).requires_grad_() for z in samples(n, features, device=device))
        kernel = kernel_for(x, y, kernels)

        def step_for(name: str) -> Callable[[], Any]:
            return lambda: torch.autograd.grad(mmd2(x, y, kernel, backend=name), (x, y))

        steps, once = {}, {}
        for name in missing:
            try:
                step_for(name)()  # warms up, and compiles
                once[name] = seconds_of(step_for(name), device)
                steps[name] = step_for(name)
            except (MemoryError, RuntimeError):  # torch's OutOfMemoryError is a RuntimeError
                known[name, n] = float("inf")
        taken = in_turn(steps, {name: min(20, repetitions(once[name], 0.1)) for name in steps}, device)
        known.update({(name, n): median(taken[name]) for name in steps})
        return {name: known[name, n] for name in backends}

    return times


def run_crossovers(config: Crossovers) -> None:
    """Measure this device and write its part of the table."""
    if (
        not config.features
        or not config.num_kernels
        or min(*config.features, *config.num_kernels) < 1
        or config.limit <= 0
    ):
        raise UserError("--features and --num-kernels need numbers of 1 or more, --limit a positive one")
    entries = measure(config)
    write_text(config.out, to_text(merged(config.out, config.device, entries)))
    print(f"table: {config.out}")


def merged(path: Path, device: str, entries: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The table at `path` with one device's entries replaced."""
    table = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {**table, device: entries}


def to_text(table: Mapping[str, list[dict[str, Any]]]) -> str:
    """JSON with one case a line, so that a change can be read."""
    devices = [
        f' "{device}": [\n' + ",\n".join(f"  {json.dumps(entry)}" for entry in entries) + "\n ]"
        for device, entries in table.items()
    ]
    return "{\n" + ",\n".join(devices) + "\n}\n"


COMMAND = Command(Crossovers, run_crossovers, "measure from which size each backend is the fastest, for auto")

if __name__ == "__main__":
    words = ["crossovers", *sys.argv[1:]]
    sys.exit(run("python -m experiments.benchmarks", "Benchmarks.", {"crossovers": COMMAND}, words))
