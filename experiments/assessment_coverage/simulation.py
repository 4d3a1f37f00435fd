"""Simulated audits: how often the intervals of an assessment hold the truth, and how wide they are.

A file of outputs: torch.save of {"logits": (N, C), "features": (N, F), "y": (N,)}, a network's on a labelled target.

Shapes: N samples; F features; C classes; n audits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple
from zlib import crc32

import torch
from torch import Tensor

from active.assessment import HeldAudits, assess, audit_generator, draw_audits
from active.pool import Pool, Query
from active.strategies import get_strategy
from experiments.demo import TASK, load
from experiments.tasks import machine

ALPHA = 0.05
LABELLED = 0.1  # share of the pool that a strategy has labelled before the audits
LARGEST = 4000  # samples of a pool; of rounds a quarter
ROUNDS, BATCH = 4, 20  # of the rounds: so many, each of so many audits and as many queries
RIDGE = 1.0
OUTPUTS = "outputs.pt"
SHARES = (0.01, 0.1, 0.5)  # of the first class in the pool of looks
MODES = ("train", "hold")  # of rounds
Interval = tuple[float, float, float]  # low, high, truth
Run = Mapping[str, Sequence[Interval]]


class Outputs(NamedTuple):
    """A network's outputs on a labelled target: logits (N, C), features (N, F), targets (N,)."""

    logits: Tensor
    features: Tensor
    targets: Tensor

    @classmethod
    def read(cls, path: Path) -> Outputs:
        """From a file."""
        content = torch.load(path, weights_only=True)
        return cls(content["logits"].float(), content["features"].flatten(1).float(), content["y"].long())

    def with_share(self, share: float, size: int, generator: torch.Generator) -> Outputs:
        """A random subset in which class 0 has this share, as large as there are samples for it, up to `size`."""
        order = torch.randperm(len(self.targets), generator=generator)
        first, others = order[self.targets[order] == 0], order[self.targets[order] != 0]
        total = min(int(len(first) / share), int(len(others) / (1 - share)), size)
        count = max(round(share * total), 1)
        rows = torch.cat([first[:count], others[: total - count]]).sort().values
        return Outputs(*(tensor[rows] for tensor in self))

    def accuracies(self, logits: Tensor) -> tuple[Tensor, list[float]]:
        """(whether logits (N, C) are right, (N,); the accuracy of each class that there is)."""
        right = (logits.argmax(1) == self.targets).double()
        return right, [float(right[self.targets == c].mean()) for c in self.targets.unique().tolist()]


def simulate_looks(
    outputs: Outputs, strategy: str, audits: int, runs: int, generator: torch.Generator
) -> Iterator[Run]:
    """One network's intervals, run by run.

    one look: accuracy on the pool. all looks: the same, at all looks at once; the last interval is inside the earlier.
    class 0, balanced: at one look. clopper-pearson: of the unlabelled samples from the same audits, without the pool's
    size. test set: the same for as many samples drawn from the whole pool.
    """
    pool = Pool(range(len(outputs.targets)), outputs.targets)
    label_queries(pool, outputs.logits, outputs, strategy, round(LABELLED * len(pool.ids)), generator)
    probs, free = outputs.logits.double().softmax(1), pool.unlabelled_ids
    right, by_class = outputs.accuracies(outputs.logits)
    whole = float(right.mean())
    for _ in range(runs):
        drawn, test = draw_audits(free, audits, generator), draw_audits(pool.ids, audits, generator)
        answers = pool.oracle(drawn).tolist()
        once, often = (assess(pool, probs, drawn, answers, level=1 - ALPHA, look=look) for look in (None, 1))
        yield {
            "one look": [(once.low, once.high, whole)],
            "all looks": [(often.low, often.high, whole)],
            "class 0": [(once.by_class[0].low, once.by_class[0].high, by_class[0])],
            "balanced": [(once.balanced.low, once.balanced.high, fmean(by_class))],
            "clopper-pearson": [(*clopper_pearson(int(right[drawn].sum()), audits), float(right[free].mean()))],
            "test set": [(*clopper_pearson(int(right[test].sum()), audits), whole)],
        }


def simulate_rounds(outputs: Outputs, strategy: str, mode: str, runs: int, generator: torch.Generator) -> Iterator[Run]:
    """Intervals of each round's own network, run by run, with alpha_t = alpha / (t (t + 1)).

    accuracy, unlabelled, balanced: of the whole pool, of the unlabelled samples, and the mean over classes.
    """
    for _ in range(runs):
        found: dict[str, list[Interval]] = {"accuracy": [], "unlabelled": [], "balanced": []}
        seed = int(torch.randint(2**31, (), generator=generator))
        pool, queries = Pool(range(len(outputs.targets)), outputs.targets), torch.Generator().manual_seed(seed)
        held = HeldAudits.start(pool.ids, audit_generator(seed))
        for number in range(1, ROUNDS + 1):
            logits = refit(outputs, pool)
            if mode == "hold":
                held, _ = held.draw(BATCH, pool.labelled_ids)
                audits = held.held(pool.labelled_ids)
            else:
                audits = draw_audits(pool.unlabelled_ids, BATCH, audit_generator(seed, number))
            answers, probs = pool.oracle(audits), logits.double().softmax(1)
            made = assess(pool, probs, audits, answers.tolist(), level=1 - ALPHA, round=number)
            right, by_class = outputs.accuracies(logits)
            of_free = float(right[pool.unlabelled_ids].mean())
            found["accuracy"].append((made.low, made.high, float(right.mean())))
            found["unlabelled"].append((made.unlabelled.low, made.unlabelled.high, of_free))
            found["balanced"].append((made.balanced.low, made.balanced.high, fmean(by_class)))
            if mode == "train":
                pool.label(audits, answers, round=number)
            label_queries(pool, logits, outputs, strategy, BATCH, queries)
        yield found


def label_queries(
    pool: Pool, logits: Tensor, outputs: Outputs, strategy: str, budget: int, generator: torch.Generator
) -> None:
    """Label the samples that the strategy queries."""
    free, known = pool.unlabelled_ids, pool.labelled_ids
    fields: dict[str, Any] = {"labelled_features": outputs.features[known], "labelled_targets": pool.labels}
    probs = logits[free].double().softmax(1)
    query = Query(ids=free, probs=probs, features=outputs.features[free], labelled_ids=known, **fields)
    ids = get_strategy(strategy)(query, budget, generator=generator)
    pool.label(ids, pool.oracle(ids), round=1)


def refit(outputs: Outputs, pool: Pool) -> Tensor:
    """Logits (N, C) of the network with a correction that is linear in the features: the ridge regression of the
    labelled samples' residuals onehot(y) - p, scaled to logits. The network's own where nothing is labelled."""
    ids = pool.labelled_ids
    if not len(ids):
        return outputs.logits
    features = torch.nn.functional.normalize(outputs.features.double())
    onehot = torch.nn.functional.one_hot(pool.labels, outputs.logits.shape[1]).double()
    x, residuals = features[ids], onehot - outputs.logits[ids].double().softmax(1)
    duals = torch.linalg.solve(x @ x.T + RIDGE * torch.eye(len(ids), dtype=torch.float64), residuals)
    return outputs.logits + (10 * features @ (x.T @ duals)).float()


@cache
def clopper_pearson(right: int, drawn: int, alpha: float = ALPHA) -> tuple[float, float]:
    """The equal-tailed exact interval of a binomial proportion (Biometrika, 1934)."""
    from scipy.stats import binomtest

    found = binomtest(right, drawn).proportion_ci(1 - alpha, "exact")
    return float(found.low), float(found.high)


def coverage(runs: Iterable[Run]) -> dict[str, dict[str, float]]:
    """name -> the share of runs all of whose intervals hold the truth (up to rounding), the mean of the last widths."""
    by_name: dict[str, list[Sequence[Interval]]] = {}
    for run in runs:
        for name, intervals in run.items():
            by_name.setdefault(name, []).append(intervals)

    def holds(run: Sequence[Interval]) -> bool:
        return all(low - 1e-9 <= truth <= high + 1e-9 for low, high, truth in run)

    return {
        name: {"coverage": fmean(map(holds, listed)), "width": fmean(run[-1][1] - run[-1][0] for run in listed)}
        for name, listed in by_name.items()
    }


# --- trials -----------------------------------------------------------------------------------------------------------


def train_on_digits(folder: Path, *, steps: int) -> dict[str, Any]:
    """A trial: the outputs of a source-only network on scanned digits."""
    from dan import DAN, TrainConfig, fit
    from dan.evaluation.metrics import predict

    pair = load(TASK)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DAN(pair.backbone, len(pair.classes))
    config = TrainConfig(evaluate_every=steps, feature_map=False)
    fit(model, pair.source, pair.target, trade_off=0.0, steps=steps, seed=0, config=config)
    output, y = predict(model, pair.target)
    torch.save({"logits": output.logits, "features": output.features.flatten(1), "y": y}, folder / OUTPUTS)
    return {"samples": len(y)}


def simulate(folder: Path, *, outputs: str, strategy: str, audits: list[int], runs: int) -> dict[str, Any]:
    """A trial: the coverage in every setting of a strategy. outputs: a file, or one of another trial."""
    whole, found = Outputs.read(folder.parent / outputs), []
    generator = audit_generator(0, crc32(strategy.encode()))
    for share, count in product(SHARES, audits):
        pool = whole.with_share(share, LARGEST, generator)
        if 2 * count <= len(pool.targets):  # else it is too small for the audits
            measured = coverage(simulate_looks(pool, strategy, count, runs, generator))
            found += [{"network": f"share {share:g}", "labels": count, "interval": n, **v} for n, v in measured.items()]
    for mode in MODES:
        pool = whole.with_share(0.1, LARGEST // 4, generator)
        measured = coverage(simulate_rounds(pool, strategy, mode, runs, generator))
        setting = {"network": f"rounds, {mode}", "labels": ROUNDS * BATCH}
        found += [{**setting, "interval": n, **v} for n, v in measured.items()]
    return {"found": found, "measured_on": machine()}
