"""How time and memory are measured: forward and backward in both arguments, methods in turn, on the CPU or on a GPU.

One repetition after the other goes round the methods, so that what else the machine does hits all of them alike.

Shapes: N, M samples; F features.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dan.errors import UserError, nearest
from dan.mmd import MultiKernel, median_bandwidth
from experiments.benchmarks import floor
from experiments.benchmarks.methods import Method

Step = Callable[[], Any]
DEVICES = ("cpu", "cuda")
HERE = Path(__file__).resolve().parent


def device_named(name: str) -> torch.device:
    """cpu or cuda: what can be measured. Raises UserError for another one, or one that this machine does not have."""
    if name not in DEVICES:
        raise UserError(f'--device: "{name}" is not one of {", ".join(DEVICES)}{nearest(name, DEVICES)}')
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("this machine has no CUDA device that PyTorch can use: run it where there is one")
    return torch.device(name)


def samples(n: int, features: int, *, device: torch.device, seed: int = 0) -> tuple[Tensor, Tensor]:
    """x and y (N, F) in float32, N(0, I) and the same a quarter of a standard deviation apart; the same everywhere."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, features, generator=generator)
    y = torch.randn(n, features, generator=generator) + 0.25
    return x.to(device).requires_grad_(), y.to(device).requires_grad_()


def kernel_for(x: Tensor, y: Tensor, count: int) -> MultiKernel:
    """The ladder of `count` bandwidths around the median heuristic. Made once: no method's time contains it."""
    return MultiKernel.ladder(median_bandwidth(x, y), count=count)


def step_of(method: Method, x: Tensor, y: Tensor, kernel: MultiKernel) -> Step:
    """What is timed: the loss and its gradient in x and y; returns the loss. Raises Unavailable."""
    if method.build is None:
        return floor.products(x, y)
    loss = method.build(kernel)

    def step() -> Tensor:
        value = loss(x, y)
        torch.autograd.grad(value, (x, y))
        return value.detach()

    return step


def seconds_of(step: Step, device: torch.device) -> float:
    """Seconds that one call takes; on a GPU by its own clock, from the call to the end of its last kernel."""
    if device.type != "cuda":
        start = time.perf_counter()
        step()
        return time.perf_counter() - start
    began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    began.record()
    step()
    ended.record()
    torch.cuda.synchronize(device)
    return float(began.elapsed_time(ended)) / 1000


def in_turn(steps: Mapping[str, Step], repetitions: Mapping[str, int], device: torch.device) -> dict[str, list[float]]:
    """Seconds of every repetition of every step, one repetition of each after the other.

    A step with fewer repetitions than the others has them spread evenly over the rounds. Each round begins one step
    further, so that no step always follows the same one (and finds the caches as that one leaves them).
    """
    taken: dict[str, list[float]] = {name: [] for name in steps}
    rounds = max(repetitions[name] for name in steps) if steps else 0
    names = list(steps)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()  # a collection would be charged to whoever runs when it comes
    try:
        for turn in range(rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                if turn * repetitions[name] % rounds < repetitions[name]:
                    taken[name].append(seconds_of(steps[name], device))
    finally:
        if collecting:
            gc.enable()
    return taken


def matmul_rate(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Multiply-adds a second of one large matrix product, the best of five: what the device can do."""
    size = 8192 if device.type == "cuda" else 2048
    a = torch.ones(size, size, device=device, dtype=dtype)
    out = torch.empty_like(a)
    torch.mm(a, a, out=out)
    return float(size**3 / min(seconds_of(lambda: torch.mm(a, a, out=out), device) for _ in range(5)))


class PeakMemory:
    """Bytes in use at the worst moment between `start` and `stop`, beyond those in use at the start.

    On a GPU what PyTorch's allocator gave out; memory that others take there by themselves is not seen. On the CPU the
    resident memory of this process; heap that was freed before is first handed back to the system, lest it be used
    again unseen. Where the system does not begin the count anew (it is not Linux), the peak of the process's whole life
    is taken, and is too small if anything before was larger.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def start(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before = torch.cuda.memory_allocated(self.device)
            return
        if sys.platform == "linux":
            trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
            if trim is not None:
                trim(0)
            with contextlib.suppress(OSError):  # a sandbox may forbid it
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM begins anew
        self.before = _peak_resident()

    def stop(self) -> int:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return torch.cuda.max_memory_allocated(self.device) - self.before
        return _peak_resident() - self.before


def _peak_resident() -> int:
    """Bytes: VmHWM on Linux (getrusage's peak there starts at that of the parent process), else getrusage's."""
    if sys.platform == "linux":
        return _kilobytes(Path("/proc/self/status"), "VmHWM") * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def free_memory(device: torch.device) -> float:
    """Bytes that can still be had on the device; infinite where the system does not tell."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    free = float("inf")
    if sys.platform == "linux":
        free = _kilobytes(Path("/proc/meminfo"), "MemAvailable") * 1024
        group = Path("/sys/fs/cgroup")  # a container may be given less than the machine has
        limit, used = group / "memory.max", group / "memory.current"
        if limit.is_file() and used.is_file() and (text := limit.read_text(encoding="ascii").strip()).isdigit():
            free = min(free, float(int(text) - int(used.read_text(encoding="ascii"))))
    return free


def _kilobytes(path: Path, name: str) -> int:
    line = next(line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])


def machine(device: torch.device) -> dict[str, Any]:
    """What a time is worthless without: device, its name, threads, torch, the state of the code."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = platform.processor() or platform.machine()
        cpuinfo = Path("/proc/cpuinfo")
        if cpuinfo.is_file():
            named = [s for s in cpuinfo.read_text(encoding="utf-8").splitlines() if s.startswith("model name")]
            name = named[0].partition(":")[2].strip() if named else name
    return {
        "device": device.type,
        "device_name": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": commit(),
    }


def commit() -> str:
    """The commit that is measured, with a + if the code differs from it; "unknown" outside a checkout."""
    try:
        head = _git("rev-parse", "--short=10", "HEAD")
        changed = _git("status", "--porcelain", "--", "dan", "experiments/benchmarks")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changed else "")


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=HERE.parents[1], capture_output=True, text=True, check=True)
    return done.stdout.strip()
