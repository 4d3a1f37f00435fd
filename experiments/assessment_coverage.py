"""Do the intervals of `active.assessment` hold what they promise? Simulated audits of real networks' outputs.

    looks     one network; a strategy has picked a tenth of the pool; n audits are drawn from the rest, many times
    rounds    a head is trained again after every batch, in modes train and hold; each round's network is assessed

    python -m experiments.assessment_coverage looks|rounds FILE RUNS OUTPUTS.pt ...

OUTPUTS.pt: torch.save of {"logits": (N, C), "features": (N, F), "y": (N,)}, a network's outputs on a labelled target.
Every setting is a line of JSON in FILE: in how many runs the intervals held the truth, and their mean widths.

Shapes: N samples; F features; C classes; n audits.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from active.assessment import HeldAudits, assess, audit_generator, betting, draw_audits
from active.assessment.classes import ClassCounts, balanced_bounds, class_bounds
from active.assessment.hypergeometric import lower_count, upper_count
from active.assessment.pool_accuracy import PREDICTIONS_DRAWS
from active.pool import Pool, Query
from active.strategies import STRATEGIES, Strategy

ALPHA = 0.05
PICKED = 0.1  # share of the pool that a strategy has picked before the audits
NAMES = ("random", "margin", "hybrid")
BUDGETS = (20, 100, 500)
SHARES = (0.01, 0.1, 0.5)  # of the first class in the pool
LARGEST = 4000  # samples of a pool
ROUNDS, BATCH = 4, 20  # of the rounds: so many, each of so many audits and as many picks
RIDGE = 1.0


@dataclass(frozen=True, eq=False)
class Outputs:
    """A network's outputs on a labelled target: logits (N, C), features (N, F), targets (N,)."""

    name: str
    logits: Tensor
    features: Tensor
    targets: Tensor

    @property
    def right(self) -> Tensor:
        """Whether the network is right (N,)."""
        return self.logits.argmax(1) == self.targets

    def rows(self, rows: Tensor) -> Outputs:
        """These samples only."""
        return Outputs(self.name, self.logits[rows], self.features[rows], self.targets[rows])


@dataclass
class Tally:
    """In how many of `runs` the interval held the truth, and the sum of the widths."""

    runs: int = 0
    held: int = 0
    width: float = 0.0

    def add(self, low: float, high: float, held: bool) -> None:
        """Count one run."""
        self.runs += 1
        self.held += held
        self.width += high - low

    def record(self) -> dict[str, float]:
        """runs, held, and the mean width."""
        return {"runs": self.runs, "held": self.held, "width": self.width / self.runs}


def read_outputs(path: Path) -> Outputs:
    """From a file; see the module's first lines."""
    content = torch.load(path, weights_only=True)
    return Outputs(path.stem, content["logits"].float(), content["features"].flatten(1).float(), content["y"].long())


def with_share(outputs: Outputs, share: float, size: int, generator: torch.Generator) -> Outputs:
    """A random subset in which class 0 has this share, as large as there are samples for it, up to `size`."""
    order = torch.randperm(len(outputs.targets), generator=generator)
    first, others = order[outputs.targets[order] == 0], order[outputs.targets[order] != 0]
    total = min(int(len(first) / share), int(len(others) / (1 - share)), size)
    count = max(round(share * total), 1)
    return outputs.rows(torch.cat([first[:count], others[: total - count]]).sort().values)


# --- one network ------------------------------------------------------------------------------------------------------


def simulate_looks(
    outputs: Outputs, strategy: Strategy, audits: int, runs: int, generator: torch.Generator
) -> dict[str, Tally]:
    """Intervals for one network over draws of the audits.

    exact: accuracy on the pool at one look. sequence: at all looks at once (the last interval is inside the earlier
    ones), with the network's confidences where `assess` uses them. class, balanced: of class 0, of all, at one look.
    clopper_pearson: of the same audits, blind to the size of the pool and to labelled hits. test_set: likewise, of as
    many samples drawn from the whole pool.
    """
    pool = Pool(range(len(outputs.targets)), outputs.targets)
    picks = _pick(pool, outputs.logits, outputs.features, strategy, round(PICKED * len(pool.ids)), generator)
    pool.label(picks, pool.oracle(picks), round=1)
    free, right = pool.unlabelled_ids, outputs.right
    confidence = outputs.logits.double().softmax(1).max(1).values.numpy()
    if audits < PREDICTIONS_DRAWS:
        confidence = np.zeros(len(confidence))
    hits, size = int(right[picks].sum()), len(free)
    by_class = [float(right[outputs.targets == c].double().mean()) for c in outputs.targets.unique().tolist()]
    truth = float(right.double().mean())
    truths = {"class": by_class[0], "balanced": float(np.mean(by_class))}
    truths["clopper_pearson"] = float(right[free].double().mean())
    tallies = {name: Tally() for name in ("exact", "sequence", "class", "balanced")}
    tallies |= {"clopper_pearson": Tally(), "test_set": Tally()}

    @cache
    def exact(count: int) -> list[float]:
        return [int(f(count, audits, size, ALPHA / 2)[0]) / size for f in (lower_count, upper_count)]

    for _ in range(runs):
        drawn = draw_audits(free, audits, generator)
        x = right[drawn].double().numpy()
        bounds = {"exact": exact(int(x.sum()))}
        guesses = betting.Guesses.of(confidence[free.numpy()], confidence[drawn.numpy()])
        bounds["sequence"] = [f(x, guesses, audits, ALPHA / 2) for f in (betting.lower_bound, betting.upper_bound)]
        found = {name: [(hits + size * v) / len(right) for v in pair] for name, pair in bounds.items()}
        found["class"] = _first_class(_counts(outputs.targets != 0, right, picks, drawn, size))
        found["balanced"] = list(balanced_bounds(_counts(outputs.targets, right, picks, drawn, size), ALPHA))
        found["clopper_pearson"] = clopper_pearson(int(x.sum()), audits, ALPHA)
        found["test_set"] = clopper_pearson(int(right[draw_audits(pool.ids, audits, generator)].sum()), audits, ALPHA)
        for name, tally in tallies.items():
            low, high = found[name]
            tally.add(low, high, holds(low, high, truths.get(name, truth)))
    return tallies


def holds(low: float, high: float, truth: float) -> bool:
    """Whether the interval holds the truth; one that is off by rounding is held."""
    return bool(low - 1e-9 <= truth <= high + 1e-9)


@cache
def clopper_pearson(right: int, drawn: int, alpha: float) -> list[float]:
    """The equal-tailed exact interval of a binomial proportion (Biometrika, 1934)."""
    from scipy.stats import beta

    low = beta.ppf(alpha / 2, right, drawn - right + 1) if right else 0.0
    high = beta.ppf(1 - alpha / 2, right + 1, drawn - right) if right < drawn else 1.0
    return [float(low), float(high)]


def _first_class(counts: ClassCounts) -> list[float]:
    """The bounds of class 0, which depend on its own counts only; runs repeat them."""
    key = tuple(int(v[0]) for v in (counts.audits, counts.right, counts.labelled, counts.labelled_right))
    return _first_of(key, counts.drawn, counts.unlabelled)


@cache
def _first_of(key: tuple[int, ...], drawn: int, unlabelled: int) -> list[float]:
    others = (drawn - key[0], 0, 0, 0)  # as one class
    audits, right, labelled, labelled_right = (np.array(pair) for pair in zip(key, others, strict=True))
    counts = ClassCounts(audits, right, labelled, labelled_right, 0, unlabelled)
    return [float(v[0]) for v in class_bounds(counts, ALPHA)]


def _counts(targets: Tensor, right: Tensor, labelled: Tensor, drawn: Tensor, size: int) -> ClassCounts:
    targets = targets.long()
    classes = 1 + int(targets.max())

    def of(ids: Tensor) -> NDArray[np.int64]:
        return np.bincount(targets[ids].numpy(), minlength=classes)

    return ClassCounts(of(drawn), of(drawn[right[drawn]]), of(labelled), of(labelled[right[labelled]]), 0, size)


# --- rounds -----------------------------------------------------------------------------------------------------------


def simulate_rounds(
    outputs: Outputs, strategy: Strategy, mode: str, runs: int, generator: torch.Generator
) -> dict[str, Tally]:
    """Intervals of each round's own network, with alpha_t = alpha / (t (t + 1)): held in all rounds of a run, or not.

    mode: "train" or "hold". accuracy, unlabelled, balanced: of the whole pool, of the samples that the audits were
    drawn from, and by class on the average. The widths are those of the last round.
    """
    tallies = {name: Tally() for name in ("accuracy", "unlabelled", "balanced")}
    for _ in range(runs):
        seed = int(torch.randint(2**31, (), generator=generator))
        rounds = list(_rounds(outputs, strategy, mode, seed))
        for name, tally in tallies.items():
            intervals = [found[name] for found in rounds]
            low, high, _ = intervals[-1]
            tally.add(low, high, all(holds(*interval) for interval in intervals))
    return tallies


def _rounds(
    outputs: Outputs, strategy: Strategy, mode: str, seed: int
) -> Iterator[dict[str, tuple[float, float, float]]]:
    """(low, high, truth) by name, round after round, of one run."""
    pool = Pool(range(len(outputs.targets)), outputs.targets)
    generator = torch.Generator().manual_seed(seed)
    held = HeldAudits.start(pool.ids, audit_generator(seed))
    for number in range(1, ROUNDS + 1):
        logits = refit(outputs, pool)
        if mode == "hold":
            held, _ = held.draw(BATCH, pool.labelled_ids)
            audits = held.held(pool.labelled_ids)
        else:
            audits = draw_audits(pool.unlabelled_ids, BATCH, audit_generator(seed, number))
        probs = logits.double().softmax(1)
        found = assess(pool, probs, audits, pool.oracle(audits).tolist(), level=1 - ALPHA, round=number)
        right = (logits.argmax(1) == outputs.targets).double()
        by_class = [float(right[outputs.targets == c].mean()) for c in outputs.targets.unique().tolist()]
        free = pool.unlabelled_ids
        yield {
            "accuracy": (found.low, found.high, float(right.mean())),
            "unlabelled": (found.unlabelled.low, found.unlabelled.high, float(right[free].mean())),
            "balanced": (found.balanced.low, found.balanced.high, float(np.mean(by_class))),
        }
        if mode == "train":
            pool.label(audits, pool.oracle(audits), round=number)
        picks = _pick(pool, logits, outputs.features, strategy, BATCH, generator)
        pool.label(picks, pool.oracle(picks), round=number)


def refit(outputs: Outputs, pool: Pool) -> Tensor:
    """Logits (N, C) of the network with a correction that is linear in the features: the ridge regression of the
    labelled samples' residuals onehot(y) - p, scaled to logits. The network's own where nothing is labelled."""
    ids = pool.labelled_ids
    if not len(ids):
        return outputs.logits
    features = torch.nn.functional.normalize(outputs.features.double())
    onehot = torch.nn.functional.one_hot(pool.labels, outputs.logits.shape[1]).double()
    residuals = onehot - outputs.logits[ids].double().softmax(1)
    x = features[ids]
    duals = torch.linalg.solve(x @ x.T + RIDGE * torch.eye(len(ids), dtype=torch.float64), residuals)
    return outputs.logits + (10 * features @ (x.T @ duals)).float()


def _pick(
    pool: Pool, logits: Tensor, features: Tensor, strategy: Strategy, budget: int, generator: torch.Generator
) -> Tensor:
    free, labelled = pool.unlabelled_ids, pool.labelled_ids
    query = Query(
        ids=free,
        probs=logits[free].double().softmax(1),
        features=features[free],
        labelled_ids=labelled,
        labelled_features=features[labelled],
        labelled_targets=pool.labels,
    )
    return strategy(query, budget, generator=generator)


# --- all settings -----------------------------------------------------------------------------------------------------


def settings_of(kind: str, outputs: Sequence[Outputs]) -> Iterator[dict[str, Any]]:
    """The settings of a kind of simulation, as the fields of their records."""
    if kind == "looks":
        for one, share, name, audits in product(outputs, SHARES, NAMES, BUDGETS):
            yield {"outputs": one, "share": share, "strategy": name, "audits": audits}
    else:
        for one, name, mode in product(outputs, NAMES, ("train", "hold")):
            yield {"outputs": one, "strategy": name, "mode": mode}


def run_setting(kind: str, setting: dict[str, Any], runs: int) -> dict[str, Any] | None:
    """The record of one setting, from a generator of its own; None where the pool is too small for the audits."""
    outputs: Outputs = setting["outputs"]
    named = {**setting, "outputs": outputs.name}
    generator = audit_generator(0, zlib.crc32(json.dumps(named).encode()))
    strategy = STRATEGIES[setting["strategy"]]
    if kind == "looks":
        pool = with_share(outputs, setting["share"], LARGEST, generator)
        if 2 * setting["audits"] > len(pool.targets):
            return None
        tallies = simulate_looks(pool, strategy, setting["audits"], runs, generator)
    else:
        pool = with_share(outputs, 0.1, LARGEST // 4, generator)
        tallies = simulate_rounds(pool, strategy, setting["mode"], runs, generator)
    accuracy = float(pool.right.double().mean())
    results = {name: tally.record() for name, tally in tallies.items()}
    return {"kind": kind, **named, "pool": len(pool.targets), "accuracy": accuracy, **results}


def main(arguments: Sequence[str]) -> None:
    """See the module's first lines."""
    if len(arguments) < 4 or arguments[0] not in ("looks", "rounds"):
        raise SystemExit("python -m experiments.assessment_coverage looks|rounds FILE RUNS OUTPUTS.pt ...")
    kind, file, runs, *paths = arguments
    outputs = [read_outputs(Path(path)) for path in paths]
    with open(file, "a", encoding="utf-8") as lines:
        for setting in settings_of(kind, outputs):
            record = run_setting(kind, setting, int(runs))
            if record is not None:
                lines.write(json.dumps(record) + "\n")
                lines.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
