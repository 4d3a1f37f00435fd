"""What one trial of aift does, each a function of its JSON arguments alone: M_0 by a source, and one learning curve.

AUC = P(score of a cancerous nucleus > score of another) + P(equal) / 2, over the test patients' candidates
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.tasks import machine, weights_label

if TYPE_CHECKING:
    from torch import Tensor

    from dan.data.candidates import Candidates
    from dan.models.dan import DAN

HIDDEN = 64  # units of the layer between the trunk and the logits
BATCH = 64  # patches a step
TEST_SHARE = 0.35  # of the nuclei, in whole patients, from which the test candidates are drawn
# SqueezeNet's stages up to here stay as ImageNet left them, and are computed once; patches are enlarged for it.
FROZEN_UP_TO, ENLARGED = "fire5", 64


@dataclass(frozen=True)
class Place:
    """data: the folder of data sets; images: that of decoded ones; weights: of SqueezeNet, a name or a file."""

    data: str
    images: str
    weights: str = ""


@dataclass(frozen=True)
class Sizes:
    """Candidates of the pool and of the test patients, and views of each."""

    pool: int
    test: int
    views: int


@dataclass(frozen=True)
class Made:
    """What all trials of a seed share."""

    pool: Candidates
    test: Candidates
    source: Any  # labelled images of the other patients, or None


def network(name: str, weights: str, seed: int) -> DAN:
    """A network with fresh task-specific layers, the same for the same seed. lenet: all of it from scratch."""
    import torch

    from dan.models.dan import DAN

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "lenet":
            model = DAN("lenet:3", 2, layers=(HIDDEN,))
            # The same sums in another order of memory, somewhat faster on a CPU.
            return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        model = DAN(name, 2, layers=(HIDDEN,), pretrained=weights)
        model.freeze(up_to=FROZEN_UP_TO)
        return model


@lru_cache(maxsize=1)
def made(place: Place, setting: str, backbone: str, sizes: Sizes, seed: int, outputs: str = "") -> Made:
    """Pool, test candidates and source of a seed: which patients are tested, which nuclei are drawn, and the views.

    setting: "scratch": all of the first part's patients, no source; "transfer": the first part's patients are the
    source, the second's the target. outputs: a folder for the frozen stages' outputs.
    """
    import numpy as np

    from dan.data.candidates import turned_views, viewed
    from dan.data.colon import SIZE, by_patient, nuclei

    size = SIZE if backbone == "lenet" else ENLARGED
    part = "first" if setting == "scratch" else "second"
    sides = by_patient(nuclei(part, Path(place.data), size=size, cache=Path(place.images)), TEST_SHARE, seed=seed)
    rng = np.random.default_rng(seed)
    views = turned_views(sizes.views, seed=seed)
    candidates = []
    for side, count in zip(sides, (sizes.pool, sizes.test), strict=True):
        drawn = side.subset(np.sort(rng.permutation(len(side))[:count]))
        candidates.append(viewed(drawn, views, drawn.classes))
    source: Any = None
    if setting == "transfer":
        source = nuclei("first", Path(place.data), size=size, cache=Path(place.images))
    if backbone == "lenet":
        pool, test = (each.in_memory() for each in candidates)
        return Made(pool, test, source)
    from dan.data.candidates import Candidates
    from dan.feature_cache import cached

    model = network(backbone, place.weights, seed)

    def after(data: Any) -> Any:
        return cached(data, model, folder=outputs)

    pool, test = (Candidates(after(each.patches), each.owners, each.targets, each.classes) for each in candidates)
    return Made(pool, test, None if source is None else after(source))


def load_train_config(data: Made) -> Any:
    """The defaults for a network from scratch, at one rate for all layers: nothing is searched for.

    A batch is not larger than a domain that is aligned: a quick run has few patches.
    """
    from dan.data.batches import num_samples
    from dan.training.config import TrainConfig

    patches = [] if data.source is None else [num_samples(data.pool.patches), num_samples(data.source)]
    return TrainConfig(batch_size=min(BATCH, *patches, BATCH), head_lr_mult=1.0, schedule="constant", feature_map=False)


def start(
    folder: Path,
    *,
    place: dict[str, Any],
    backbone: str,
    sizes: dict[str, int],
    trade_off: float,
    steps: int,
    seed: int,
) -> dict[str, Any]:
    """A trial: M_0 of a transfer, trained on the source and aligned with the pool's patches, in folder/model.pt."""
    from dataclasses import replace

    import torch

    from dan.training.trainer import fit

    where = Place(**place)
    data = made(where, "transfer", backbone, Sizes(**sizes), seed, str(folder.parent / "outputs"))
    model = network(backbone, where.weights, seed)
    every = data.pool.data(torch.arange(len(data.pool)))
    recipe = replace(load_train_config(data), evaluate_every=steps)
    fit(model, data.source, every, trade_off=trade_off, steps=steps, seed=seed, config=recipe, run=folder)
    return judged(model, data.test)


def curve(
    folder: Path,
    *,
    place: dict[str, Any],
    setting: str,
    backbone: str,
    sizes: dict[str, int],
    selection: str,
    training: str,
    budget: int,
    rounds: int,
    steps: int,
    seed: int,
    start: str | None = None,
    trade_off: float = 0.0,
) -> dict[str, Any]:
    """A trial: one learning curve, a point before the first label and one after each purchase.

    selection: "random", or a code of AIFT. start: the name of the trial beside this one whose network is M_0; None:
    `network` as it is built.
    """
    from active.learners.candidates import CandidateLearner, candidate_rounds
    from dan.models.model_file import load_model

    where = Place(**place)
    data = made(where, setting, backbone, Sizes(**sizes), seed, str(folder.parent / "outputs"))
    model = network(backbone, where.weights, seed) if start is None else load_model(folder.parent / start)
    learner = CandidateLearner(
        data.pool,
        training,
        start=model,
        steps_per_round=steps,
        seed=seed,
        config=load_train_config(data),
        source=data.source,
        trade_off=trade_off,
        evaluate=lambda trained: judged(trained, data.test),
    )
    strategy = selection if selection == "random" else f"aift:{selection}"
    records = candidate_rounds(learner, strategy, budget=budget, num_rounds=rounds)
    points = [{name: value for name, value in record.items() if name not in ("event", "round")} for record in records]
    weights = weights_label(where.weights) if where.weights else "none"
    return {"points": points, "weights": weights, "measured_on": machine()}


def judged(model: DAN, test: Candidates) -> dict[str, float]:
    """AUC and accuracy on the test patients' candidates, each predicted by the mean over its patches."""
    from active.learners.candidates import candidate_query_fields

    probs = candidate_query_fields(model, test)["probs"]
    right = (probs.argmax(1) == test.targets).double().mean()
    return {"roc_auc/target_test": roc_auc(probs[:, 1], test.targets == 1), "accuracy/target_test": float(right)}


def roc_auc(scores: Tensor, positive: Tensor) -> float:
    """The chance that a positive has a higher score than a negative, ties half: scores (N,), positive (N,) bool.

    By the sum of the positives' ranks, equal scores sharing their mean rank (Mann & Whitney, 1947); O(N log N).
    Raises ValueError unless there is a positive and a negative.
    """
    ones = int(positive.sum())
    zeros = len(positive) - ones
    if not ones or not zeros:
        raise ValueError("an AUC needs at least one positive and one negative")
    _, group, counts = scores.double().unique(return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0).double() - (counts - 1) / 2)[group]  # (N,), from 1
    return float((ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))
