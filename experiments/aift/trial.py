"""A trial of aift: M_0 by a source, or one learning curve on nuclei of colon tissue, a point after each query."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.tasks import machine

if TYPE_CHECKING:
    from dan.data.candidates import Candidates
    from dan.models.dan import DAN

RANDOM, RFT = "random", "RFT"
# The selection codes and the training codes; RFT is random with AFT(LQ).
CODES = tuple(part + extra for part in ("D", "E", "D+E") for extra in ("", "+M", "+R", "+M+R"))
TRAININGS = ("AFT(LQ)", "ACFT(Q)", "ACFT(LQ)", "ACFT(HQ)")
HIDDEN = 64  # units of the layer between the backbone and the logits
BATCH = 64  # patches a step
TEST_SHARE = 0.35  # of the nuclei, in whole patients, from which the test candidates are drawn


@dataclass(frozen=True)
class PatchData:
    """Candidates of the pool and of the test patients; the source's labelled images, or None."""

    pool: Candidates
    test: Candidates
    source: Any

    def train_config(self) -> Any:
        """The defaults for a network from scratch, at one rate for all layers; nothing is searched for."""
        from dan.data.batches import num_samples
        from dan.training.config import TrainConfig

        # A batch is not larger than a domain that is aligned: a quick run has few patches.
        sizes = [] if self.source is None else [num_samples(self.pool.patches), num_samples(self.source)]
        batch = min(BATCH, *sizes, BATCH)
        return TrainConfig(batch_size=batch, head_lr_mult=1.0, schedule="constant", feature_map=False)


@lru_cache(maxsize=1)
def patch_data(*, data: str, images: str, setting: str, pool: int, test: int, views: int, seed: int) -> PatchData:
    """What all trials of a seed share: the patients that are tested, the nuclei that are drawn, and their views.

    setting: "scratch": the first part's patients; "transfer": these are the source, the second part's the target.
    pool, test: numbers of nuclei; views: patches of each. data, images: folders of data sets and of decoded images.
    """
    import numpy as np

    from dan.data.candidates import turned_views, viewed
    from dan.data.colon import by_patient, nuclei

    folders: dict[str, Any] = {"data": Path(data), "cache": Path(images)}
    sides = by_patient(nuclei("first" if setting == "scratch" else "second", **folders), TEST_SHARE, seed=seed)
    rng = np.random.default_rng(seed)
    turned = turned_views(views, seed=seed)
    made = []
    for side, count in zip(sides, (pool, test), strict=True):
        drawn = side.subset(np.sort(rng.permutation(len(side))[:count]))
        made.append(viewed(drawn, turned, drawn.classes).in_memory())
    return PatchData(made[0], made[1], None if setting == "scratch" else nuclei("first", **folders))


def network(seed: int) -> DAN:
    """LeNet from scratch, the same for the same seed."""
    import torch

    from dan.models.dan import DAN

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DAN("lenet:3", 2, layers=(HIDDEN,))
    # The same sums in another order of memory, somewhat faster on a CPU.
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def begin(
    folder: Path, *, place: dict[str, str], sizes: dict[str, Any], trade_off: float, steps: int, seed: int
) -> dict[str, float]:
    """A trial: M_0 of a transfer, trained on the source and aligned with the pool's patches, in folder/model.pt."""
    import torch

    from dan.training.trainer import fit

    data, model = patch_data(**place, **sizes, setting="transfer", seed=seed), network(seed)
    target, config = data.pool.data(torch.arange(len(data.pool))), replace(data.train_config(), evaluate_every=steps)
    fit(model, data.source, target, trade_off=trade_off, steps=steps, seed=seed, config=config, run=folder)
    return evaluate(model, data.test)


def curve(
    folder: Path,
    *,
    place: dict[str, str],
    sizes: dict[str, Any],
    setting: str,
    seed: int,
    selection: str,
    training: str,
    start: str | None = None,
    trade_off: float = 0.0,
    **plan: int,
) -> dict[str, Any]:
    """A trial: one learning curve, a point before the first label and one after each query.

    selection: "random", or a code of AIFT. start: the trial whose network is M_0; None: a new network. plan: budget,
    rounds, and the steps after each query.
    """
    from active.learners.candidates import CandidateLearner, candidate_rounds
    from dan.models.model_file import load_model

    data = patch_data(**place, **sizes, setting=setting, seed=seed)
    model = network(seed) if start is None else load_model(folder.parent / start)
    options: dict[str, Any] = {"steps_per_round": plan["steps"], "seed": seed, "config": data.train_config()}
    options |= {"source": data.source, "trade_off": trade_off, "evaluate": lambda made: evaluate(made, data.test)}
    learner = CandidateLearner(data.pool, training, start=model, **options)
    strategy = selection if selection == RANDOM else f"aift:{selection}"
    records = candidate_rounds(learner, strategy, budget=plan["budget"], num_rounds=plan["rounds"])
    evaluations = [{k: v for k, v in each.items() if k not in ("event", "round", "queried")} for each in records]
    return {"evaluations": evaluations, "measured_on": machine()}


def evaluate(model: DAN, test: Candidates) -> dict[str, float]:
    """AUC and accuracy on the test patients' candidates, each predicted by the mean over its patches."""
    from sklearn.metrics import roc_auc_score

    from active.learners.candidates import candidate_query_fields

    probs = candidate_query_fields(model, test)["probs"]
    auc = roc_auc_score((test.targets == 1).numpy(), probs[:, 1].numpy())
    right = (probs.argmax(1) == test.targets).double().mean()
    return {"roc_auc/target_test": float(auc), "accuracy/target_test": float(right)}
