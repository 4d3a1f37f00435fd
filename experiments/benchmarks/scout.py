"""A process of its own for one method: its peak memory at growing sizes, and which sizes are beyond reach.

    python -m experiments.benchmarks.scout '{"method": ..., "features": F, "sizes": [n, ...], ...}'

prints one JSON line a size: {"n", "seconds", "peak_bytes"}, or {"n", "reason"}. Libraries are imported, and formulas
compiled, by a call at n = 8 before anything is measured. A size is not run when its predecessor's time or memory, grown
as the method grows, exceed the limit or what is free. It is a process, because a method that is killed for its memory
must not take the benchmark with it, and because peaks are told apart best where nothing else happens.

Shapes: N samples of each side.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOM = 0.8  # the share of the free memory that a method may take


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one scout looks at. known: the largest size measured before, (n, seconds, bytes), None if there is none."""

    method: str
    features: int
    kernels: int
    sizes: tuple[int, ...]
    device: str
    threads: int
    limit: float
    known: tuple[int, float, float] | None = None


def too_much(n: int, known: tuple[int, float, float] | None, *, power: int, limit: float, free: float) -> str | None:
    """Why size n is not run, None if it is: the known (n0, seconds, bytes) grow by (n / n0) ** power."""
    if known is None:
        return None
    growth = (n / known[0]) ** power
    seconds, size = known[1] * growth, known[2] * growth
    if size > ROOM * free:
        return f"not run (would need {size / 1e9:.3g} GB)"
    return f"not run (would need {seconds:.3g} s)" if seconds > limit else None


def scout(task: Task) -> Iterator[dict[str, Any]]:
    """One line a size, see above. A method that fails, or is not there, says so at every size from there on."""
    import torch

    from experiments.benchmarks.measure import PeakMemory, free_memory, kernel_for, samples, seconds_of, step_of
    from experiments.benchmarks.methods import METHODS, Unavailable

    torch.set_num_threads(task.threads)
    device, method = torch.device(task.device), METHODS[task.method]
    known, broken = task.known, None
    try:
        x, y = samples(8, task.features, device=device)
        step_of(method, x, y, kernel_for(x, y, task.kernels))()
    except Unavailable as error:
        broken = str(error)
    except Exception as error:  # noqa: BLE001  # whatever a library throws, its row says it and the others go on
        broken = failure(error)
    for n in task.sizes:
        power = method.power
        reason = broken or too_much(n, known, power=power, limit=task.limit, free=free_memory(device))
        if reason is None:
            try:
                x, y = samples(n, task.features, device=device)
                step = step_of(method, x, y, kernel_for(x, y, task.kernels))
                peak = PeakMemory(device)
                peak.start()
                seconds = seconds_of(step, device)
                known = (n, seconds, float(peak.stop()))
                yield {"n": n, "seconds": seconds, "peak_bytes": int(known[2])}
                continue
            except Exception as error:  # noqa: BLE001  # as above; what is too large for a GPU arrives here too
                reason = broken = failure(error)
        yield {"n": n, "reason": reason}


def failure(error: Exception) -> str:
    """One line on what a method threw."""
    lines = str(error).strip().splitlines() or [""]
    return f"failed ({type(error).__name__}: {lines[0][:120]})"


def send_out(task: Task) -> list[dict[str, Any]]:
    """Run `scout` in a fresh process; its lines. Where the process was killed, the sizes it owes say so."""
    words = [sys.executable, "-m", "experiments.benchmarks.scout", json.dumps(asdict(task))]
    # KeOps has threads of its own, which only this tells their number. The root is on the path wherever we were called.
    root = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "OMP_NUM_THREADS": str(task.threads), "PYTHONPATH": paths}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"n": ')]
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ["out of memory?"]
        reason = f"failed (its process ended with {done.returncode}: {said[0][:120]})"
        lines += [{"n": n, "reason": reason} for n in task.sizes[len(lines) :]]
    return lines


def main(argv: Sequence[str]) -> None:
    """The process: a task as JSON in, lines out, each as soon as it is known."""
    words = json.loads(argv[0])
    words |= {"sizes": tuple(words["sizes"]), "known": words["known"] and tuple(words["known"])}
    for line in scout(Task(**words)):
        print("\n" + json.dumps(line), flush=True)  # a library may have left a line of its own unfinished


if __name__ == "__main__":
    main(sys.argv[1:])
