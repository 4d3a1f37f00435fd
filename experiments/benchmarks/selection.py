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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from dan.cli.command_line import Command, run
from dan.errors import UserError, nearest
from experiments.framework.records import Record, append, read

if TYPE_CHECKING:
    from torch import Tensor

RESULTS = Path(__file__).resolve().parents[1] / "results"
CLUSTERS = 100


@dataclass(frozen=True, kw_only=True)
class Case:
    """One measurement."""

    task: str
    method: str
    n: int
    labelled: int
    classes: int
    features: int
    budget: int


Inputs = Mapping[str, Any]
Step = Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row: what is called (a line for the reader), and how: inputs of a case -> what is timed."""

    what: str
    build: Callable[[Case, Inputs], Step]
    scale: int = 1  # it is run on so many times fewer samples, and its table entry says what it would need for all


@dataclass(frozen=True, kw_only=True)
class Task:
    """One table: what is asked for, at which sizes, in which ways."""

    what: str
    inputs: Callable[[Case, Path], Inputs]
    sizes: tuple[tuple[int, int, int, int, int], ...]  # N, L, C, F, b
    quick: tuple[tuple[int, int, int, int, int], ...]
    methods: Mapping[str, Method]


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


class Unavailable(Exception):
    """The method cannot run here; the message says why."""


def clustered(n: int, features: int, *, seed: int) -> Tensor:
    """What a ReLU layer of a trained network looks like: (N, F) float32, of 100 clusters, not negative.

    relu(m + e), m one of 100 points of N(0, 9 I) and e of N(0, I); made in blocks, the same for the same seed.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    middles = 3 * torch.randn(CLUSTERS, features, generator=generator)
    x = torch.empty(n, features)
    for block in x.split(4096):
        which = torch.randint(CLUSTERS, (len(block),), generator=generator)
        block.copy_(torch.relu(middles[which] + torch.randn(block.shape, generator=generator)))
    return x


def _pool(case: Case, folder: Path) -> Inputs:
    x = clustered(case.n + case.labelled, case.features, seed=0)
    return {"pool": x[case.labelled :], "centres": x[: case.labelled]}


def _pool_on_disk(case: Case, folder: Path) -> Inputs:
    import numpy as np
    import torch

    path = folder / "features.bin"
    x = clustered(case.n + case.labelled, case.features, seed=0)
    centres = x[: case.labelled].clone()
    x[case.labelled :].numpy().tofile(path)
    del x
    mapped = np.memmap(path, dtype=np.float32, mode="r+", shape=(case.n, case.features))
    return {"pool": torch.from_numpy(mapped), "centres": centres}


def _two_domains(case: Case, folder: Path) -> Inputs:
    from dan.mmd import MultiKernel, median_bandwidth

    source, target = clustered(case.labelled, case.features, seed=0), clustered(case.n, case.features, seed=1)
    kernel = MultiKernel.ladder(median_bandwidth(source[:1000], target[:1000]), count=5)
    return {"target": target, "source": source, "kernel": kernel}


def _predictions(case: Case, folder: Path) -> Inputs:
    """Features, and the probabilities of a linear classifier whose weights are the clusters' middles and some noise."""
    import torch

    features = clustered(case.n, case.features, seed=0)
    generator = torch.Generator().manual_seed(1)
    weights = features[: case.classes] + torch.randn(case.classes, case.features, generator=generator)
    logits = features @ weights.T / case.features**0.5
    return {"features": features, "probs": (logits - logits.mean(dim=1, keepdim=True)).softmax(dim=1)}


def _peer(module: str, name: str) -> Any:
    """A name of another library's module; Unavailable if the library is not there."""
    import warnings
    from importlib import import_module

    try:
        with warnings.catch_warnings():  # what their imports have to say of their own dependencies
            warnings.simplefilter("ignore")
            return getattr(import_module(module), name)
    except ImportError as error:
        raise Unavailable(f"not installed ({error})") from None


def _k_center(case: Case, inputs: Inputs) -> Step:
    from active.strategies.coreset import k_center_greedy

    return lambda: k_center_greedy(inputs["pool"], inputs["centres"], case.budget)


def _loop(case: Case, inputs: Inputs) -> Step:
    import torch

    def step() -> Tensor:
        pool, centres = inputs["pool"], inputs["centres"]
        x_sq = pool.square().sum(dim=1)
        nearest = torch.full_like(x_sq, torch.inf)
        for block in centres.split(1024):
            d2 = torch.addmm(block.square().sum(dim=1), pool, block.T, alpha=-2).amin(dim=1) + x_sq
            nearest = torch.minimum(nearest, d2)
        picks = []
        for _ in range(case.budget):
            pick = int(nearest.argmax())
            picks.append(pick)
            nearest = torch.minimum(nearest, x_sq + x_sq[pick] - 2 * (pool @ pool[pick]))
            nearest[pick] = -torch.inf
        return torch.tensor(picks)

    return step


def _scikit_activeml(case: Case, inputs: Inputs) -> Step:
    import numpy as np
    import torch

    strategy = _peer("skactiveml.pool", "CoreSet")(random_state=0)
    x = torch.cat((inputs["centres"], inputs["pool"])).numpy()
    y = np.full(len(x), np.nan)
    y[: case.labelled] = 0

    def step() -> Tensor:
        return torch.from_numpy(np.asarray(strategy.query(x, y, batch_size=case.budget))) - case.labelled

    return step


def _apricot(case: Case, inputs: Inputs) -> Step:
    import numpy as np
    import torch

    from experiments.benchmarks.measure import free_memory

    location = _peer("apricot", "FacilityLocationSelection")
    needed = 8.0 * (case.n + case.labelled) ** 2
    if needed > 0.4 * free_memory(torch.device("cpu")):  # it holds the similarities, and makes them of distances
        raise Unavailable(f"not run (all pairs would need {2 * needed / 1e9:.3g} GB)")
    x = torch.cat((inputs["centres"], inputs["pool"])).numpy()

    def step() -> Tensor:
        selector = location(
            case.budget, metric="euclidean", initial_subset=np.arange(case.labelled) if case.labelled else None
        )
        return torch.from_numpy(np.asarray(selector.fit(x).ranking)[-case.budget :].astype(np.int64)) - case.labelled

    return step


def _mmd_reduction(case: Case, inputs: Inputs) -> Step:
    from active.strategies.mmd_reduction import greedy_mmd_reduction

    return lambda: greedy_mmd_reduction(
        inputs["target"], inputs["source"], case.budget, inputs["kernel"], joins_source=True
    )


def _mmd2(case: Case, inputs: Inputs) -> Step:
    from dan.mmd import mmd2

    return lambda: mmd2(inputs["source"], inputs["target"], inputs["kernel"], estimator="biased")


def _badge(case: Case, inputs: Inputs) -> Step:
    import torch

    from active.strategies.badge import badge

    return lambda: badge(inputs["probs"], inputs["features"], case.budget, torch.Generator().manual_seed(0))


def _materialised(case: Case, inputs: Inputs) -> Step:
    """k-means++ on the (N, C F) embedding, which is made in the time that is measured, as its memory is."""
    import torch

    def step() -> Tensor:
        probs, features = inputs["probs"], inputs["features"]
        a = probs.clone()
        a[torch.arange(len(a)), probs.argmax(dim=1)] -= 1
        g = (a[:, :, None] * features[:, None]).flatten(1)  # (N, C F)
        g_sq = torch.linalg.vector_norm(g, dim=1).square()
        generator = torch.Generator().manual_seed(0)
        picks = [int(g_sq.argmax())]
        nearest = torch.full((len(g),), torch.inf, dtype=torch.float64)
        while len(picks) < case.budget:
            d2 = g_sq + g_sq[picks[-1]] - 2 * (g @ g[picks[-1]])
            nearest = torch.minimum(nearest, d2.clamp(min=0).double())
            nearest[picks] = 0
            picks.append(int(torch.multinomial(nearest, 1, generator=generator)))
        return torch.tensor(picks)

    return step


TASKS: dict[str, Task] = {
    "k_center": Task(
        what="greedy k-center around labelled samples, features in memory",
        inputs=_pool,
        sizes=((10_000, 500, 0, 512, 500), (50_000, 500, 0, 512, 500)),
        quick=((600, 20, 0, 16, 20),),
        methods={
            "ours": Method(what="k_center_greedy(pool, centres, budget)", build=_k_center),
            "scikit-activeml": Method(what="CoreSet().query(X, y, batch_size=budget)", build=_scikit_activeml),
            "plain loop": Method(
                what="PyTorch, float32: one product with the pool a pick, and the running minimum", build=_loop
            ),
            "apricot": Method(
                what='FacilityLocationSelection(budget, metric="euclidean"): another objective, the mean similarity to '
                "the nearest pick; holds all pairs",
                build=_apricot,
            ),
        },
    ),
    "k_center from disk": Task(
        what="the same from a memory-mapped file (in the system's cache); the peak counts the file's pages in use",
        inputs=_pool_on_disk,
        sizes=((1_000_000, 500, 0, 256, 500),),
        quick=((2_000, 20, 0, 16, 20),),
        methods={"ours": Method(what="k_center_greedy(torch.from_numpy(numpy.memmap(...)), ...)", build=_k_center)},
    ),
    "mmd_reduction": Task(
        what="the target samples whose move to the source brings the two closest, beside one evaluation of MMD",
        inputs=_two_domains,
        sizes=((20_000, 20_000, 0, 256, 1000),),
        quick=((300, 200, 0, 16, 20),),
        methods={
            "ours": Method(
                what="greedy_mmd_reduction(target, source, budget, kernel, joins_source=True)", build=_mmd_reduction
            ),
            "one mmd2": Method(
                what='mmd2(source, target, kernel, estimator="biased"), float32, no gradient: not a selection',
                build=_mmd2,
            ),
        },
    ),
    "badge": Task(
        what="k-means++ on gradient embeddings",
        inputs=_predictions,
        sizes=((50_000, 0, 100, 512, 500),),
        quick=((600, 0, 10, 16, 20),),
        methods={
            "ours": Method(what="badge(probs, features, budget, generator)", build=_badge),
            "materialised": Method(
                what="PyTorch, float32: k-means++ on the (N, C F) embedding; run on a tenth of the samples, and time "
                "and memory, which both grow as N, taken ten times",
                build=_materialised,
                scale=10,
            ),
        },
    ),
}


def run_selection(config: Selection) -> None:
    """Measure what is missing, then report."""
    config, out = _settled(config)
    if not config.report:
        measure(config, out)
    print(f"report: {report(out)}")


def report(folder: Path) -> Path:
    """Make table.md again from the folder's records; its path."""
    from experiments.benchmarks.selection_report import write

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


def key_of(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a record is a measurement of."""
    return tuple(record[field.name] for field in fields(Case)) + (record["device_name"], record["threads"])


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
