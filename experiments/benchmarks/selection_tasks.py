"""What the selection benchmark measures: its tasks, their sizes, and the ways to do them, ours and a user's others.

Shapes: N samples of the pool, L labelled (of mmd_reduction: S source) samples, C classes, F features, b budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

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


def key_of(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a record is a measurement of."""
    return tuple(record[field.name] for field in fields(Case)) + (record["device_name"], record["threads"])


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
