"""What asking would cost in a pool of 10^9 images: constants measured on one core, times how often each is paid.

    python -m experiments.benchmarks.large_pool [--report]

    look at it    N (t_decode + t_network) / W                  write it      4 N F bytes
    how far       2 N D t_wave / W          (random features)   all pairs     (N^2 / 2 + N S) t_pair / W
    k-center      N / W t_row b / b_0 + b t_message(W)

k-center's t_row is a whole selection of b_0 picks over its rows, and more picks are taken to cost in proportion: from
above, since most of it is the first pass. Nothing of 10^9 was run: an estimate from a paper and a pencil.

Shapes: N samples of the pool, S of the source, F features, D random features, W processes, b picks.
"""

from __future__ import annotations

import io
import multiprocessing
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dan.cli.command_line import Command, run
from experiments.framework.records import Record, append, read, write_text

RESULTS = Path(__file__).resolve().parents[1] / "results"
NAME = "benchmark_large_pool"
N, S, F, D, B = 10**9, 10**6, 256, 4096, 10_000
PROCESSES = (1, 64, 1024)
REPETITIONS = 5
WHAT = {
    "decode": "decode a photograph (JPEG, 500 x 375) and bring it to 224 x 224",
    "network": "SqueezeNet 1.1 on an image of 224 x 224, forward, batches of 32",
    "wave": "a random feature of a sample, F = 256 (`random_feature_mmd2`)",
    "pair": "a pair of samples, F = 256, 5 kernels (`kernel_sums`)",
    "row": "a row of a k-center of 500 picks around 500 centres, F = 256, from a file",
    "message": "a message of k-center between two processes, as long as of {w} processes together",
}


@dataclass(frozen=True, kw_only=True)
class LargePool:
    """Measure the constants, and say what 10^9 images cost by them."""

    report: bool = False
    """measure nothing, make table.md again from the records"""
    out: Path | None = None
    """folder of the records (default: experiments/results/benchmark_large_pool)"""


def run_large_pool(config: LargePool) -> None:
    """Measure what is missing, one thread; then report."""
    import torch

    from experiments.benchmarks.measure import machine

    out = config.out or RESULTS / NAME
    path = out / "records.jsonl"
    if not config.report:
        torch.set_num_threads(1)
        facts = machine(torch.device("cpu"))
        done = {(r["constant"], r["processes"]) for r in (read(path) if path.is_file() else [])}
        for constant, processes, measured in CONSTANTS:
            if (constant, processes) not in done:
                record = {"constant": constant, "processes": processes, "seconds": measured(), **facts}
                append(path, record)
                print(f"{constant}: {record['seconds']:.3g} s", flush=True)
    text = markdown(read(path), read(RESULTS / "benchmark_selection" / "records.jsonl"))
    write_text(out / "table.md", text)
    if out.resolve() == (RESULTS / NAME).resolve():
        from experiments.framework.publish import renewed

        for page, new in renewed(NAME, text).items():
            write_text(page, new)
    print(f"report: {out / 'table.md'}")


# --- constants --------------------------------------------------------------------------------------------------------


def best_of(
    step: Callable[[], Any], repetitions: int = REPETITIONS, clock: Callable[[], float] = time.process_time
) -> float:
    """Seconds of the core, whatever else the machine does, of the fastest of some calls; one before is not counted."""
    step()
    times = []
    for _ in range(repetitions):
        begin = clock()
        step()
        times.append(clock() - begin)
    return min(times)


def decode() -> float:
    """Seconds an image."""
    import numpy as np
    from PIL import Image

    # Smooth noise: as many bytes as a photograph has, some 50 kB.
    coarse = np.random.default_rng(0).integers(0, 256, (94, 125, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)

    def step() -> None:
        for _ in range(20):
            image = Image.open(io.BytesIO(file.getvalue())).convert("RGB")
            image.resize((224, 224), Image.Resampling.BILINEAR)

    return best_of(step) / 20


def network() -> float:
    """Seconds an image."""
    import torch

    from dan import DAN

    model = DAN("squeezenet1_1", 10, layers=(F,)).eval()
    x = torch.randn(32, 3, 224, 224, generator=torch.Generator().manual_seed(0))

    def step() -> None:
        with torch.no_grad():
            model(x)

    return best_of(step) / len(x)


def wave() -> float:
    """Seconds a sample and random feature."""
    import torch

    from dan.mmd import random_feature_mmd2

    x, y, kernel = _domains(10_000)
    features = 1024
    generator = torch.Generator().manual_seed(0)
    return best_of(lambda: random_feature_mmd2(x, y, kernel, features=features, generator=generator)) / (
        20_000 * features
    )


def pair() -> float:
    """Seconds a pair, each taken once."""
    from active.strategies.mmd_reduction import kernel_sums

    x, y, kernel = _domains(4000)
    return best_of(lambda: kernel_sums(x, y, kernel)) / (len(x) ** 2 / 2 + len(x) * len(y))


def _domains(count: int) -> tuple[Any, Any, Any]:
    from dan.mmd import MultiKernel, median_bandwidth
    from experiments.benchmarks.selection_tasks import clustered

    x, y = clustered(count, F, seed=0), clustered(count, F, seed=1)
    return x, y, MultiKernel.ladder(median_bandwidth(x[:1000], y[:1000]))


def message(processes: int) -> float:
    """Seconds of one all_gather of what so many processes say in a pick, F + 2 numbers each, between two of them."""
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [context.Process(target=_speak, args=(rank, port, processes, answers)) for rank in (0, 1)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    return float(answers.get())


def _speak(rank: int, port: int, processes: int, answers: Any) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    words = torch.zeros(processes // 2, F + 2, dtype=torch.float64)
    heard = [torch.empty_like(words) for _ in range(2)]

    def step() -> None:
        for _ in range(10):
            dist.all_gather(heard, words)

    seconds = best_of(step, 100, time.perf_counter) / 10  # waiting is what a message costs
    if rank == 0:
        answers.put(seconds)
    dist.destroy_process_group()


CONSTANTS: Sequence[tuple[str, int, Callable[[], float]]] = (
    ("decode", 1, decode),
    ("network", 1, network),
    ("wave", 1, wave),
    ("pair", 1, pair),
    *(("message", w, lambda w=w: message(w)) for w in PROCESSES if w > 1),
)


# --- the page ---------------------------------------------------------------------------------------------------------


def markdown(records: Sequence[Record], of_selection: Sequence[Record]) -> str:
    """The estimate and the constants that it is of."""
    t, messages = constants(records, of_selection)
    lines = [
        f"| of N = 10^9 images, F = {F} | {' | '.join(_processes(w) for w in PROCESSES)} |",
        f"|---|{'---:|' * len(PROCESSES)}",
    ]
    for what, cost in costs(t, messages).items():
        lines.append(f"| {what} | {' | '.join(duration(cost(w)) for w in PROCESSES)} |")
    for what, count in (
        ("features on the disk, of each process", lambda w: 4 * N * F / w),
        ("memory of k-center beside them, of each process", lambda w: 36 * N / w + 8 * F * B),
    ):
        lines.append(f"| {what} | {' | '.join(volume(count(w)) for w in PROCESSES)} |")
    lines += ["", "| constant, of one core | seconds |", "|---|---:|"]
    lines += [f"| {WHAT[name]} | {value:.2g} |" for name, value in t.items()]
    lines += [f"| {WHAT['message'].format(w=w)} | {value:.2g} |" for w, value in messages.items()]
    machines = dict.fromkeys(f"{r['device_name']}, torch {r['torch']}, commit {r['commit']}" for r in records)
    lines += [
        "",
        "One thread, its own time of the fastest of some calls; of messages the time on the clock. "
        + "; ".join(machines)
        + ".",
        "",
    ]
    lines.append(
        "Made by `python -m experiments.benchmarks.large_pool`; the row of k-center is of `benchmark_selection`."
    )
    return "\n".join(lines) + "\n"


def constants(records: Sequence[Record], of_selection: Sequence[Record]) -> tuple[dict[str, float], dict[int, float]]:
    """Seconds by name, and of a message by the number of processes."""
    t = {r["constant"]: float(r["seconds"]) for r in records if r["constant"] != "message"}
    for record in of_selection:
        if record["task"] == "k_center from disk" and record["method"] == "ours" and "seconds_median" in record:
            t["row"] = record["seconds_median"] / record["n"]
    return t, {r["processes"]: float(r["seconds"]) for r in records if r["constant"] == "message"}


def costs(t: Mapping[str, float], messages: Mapping[int, float]) -> dict[str, Callable[[int], float]]:
    """Seconds of each way, as functions of the number of processes."""
    return {
        "decode, and run the network once": lambda w: N * (t["decode"] + t["network"]) / w,
        f"MMD^2 to another 10^9 by {D} random features": lambda w: 2 * N * D * t["wave"] / w,
        "MMD^2's sums over all pairs, source of 10^6": lambda w: (N**2 / 2 + N * S) * t["pair"] / w,
        "k-center, 500 picks": lambda w: N / w * t["row"] + 500 * messages.get(w, 0.0),
        f"k-center, {B:,} picks (at most)": lambda w: N / w * t["row"] * B / 500 + B * messages.get(w, 0.0),
    }


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count:,} processes"


def duration(seconds: float) -> str:
    """Two digits in the unit that suits them."""
    for unit, of in (("years", 365.25 * 86400), ("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * of:
            value = seconds / of
            return f"{float(f'{value:.2g}'):,.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"
    return f"{float(f'{seconds:.2g}'):g} seconds"


def volume(count: float) -> str:
    """Bytes with two digits and the unit that suits them."""
    for unit, of in (("TB", 1e12), ("GB", 1e9)):
        if count >= of:
            return f"{count / of:.2g} {unit}"
    return f"{count / 1e6:.0f} MB"


def main() -> int:
    """The exit code of the command line."""
    command = Command(LargePool, run_large_pool, "What asking costs in a pool of 10^9 images, on paper.")
    return run(
        "python -m experiments.benchmarks", "Benchmarks.", {"large_pool": command}, ["large_pool", *sys.argv[1:]]
    )


if __name__ == "__main__":
    sys.exit(main())
