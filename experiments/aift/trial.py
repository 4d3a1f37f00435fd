"""A trial of aift: M_0 by a source, or one learning curve on nuclei of colon tissue, a point after each query."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.transfers import machine, weights_label

if TYPE_CHECKING:
    from dan.data.candidates import Candidates
    from dan.models.dan import DAN

RANDOM, RFT = "random", "RFT"
HIDDEN = 64  # units of the layer between the backbone and the logits
BATCH = 64  # patches a step
TEST_SHARE = 0.35  # of the nuclei, in whole patients, from which the test candidates are drawn
# SqueezeNet's stages up to here keep ImageNet's weights, and are computed once; patches are enlarged for it.
FROZEN_UP_TO, ENLARGED = "fire5", 64


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What all trials of a seed share.

    setting: "scratch": the first part's patients; "transfer": these are the source, the second part's the target.
    pool, test: numbers of candidates; views: patches of each. data, images: folders of data sets and of decoded images;
    outputs: that of the frozen stages' outputs. weights: of SqueezeNet, a name or a file.
    """

    setting: str
    backbone: str
    seed: int
    pool: int
    test: int
    views: int
    data: str
    images: str
    weights: str = ""
    outputs: str = ""

    def nuclei(self, part: str) -> Any:
        """The labelled images of a part's patients."""
        from dan.data.colon import SIZE, nuclei

        size = SIZE if self.backbone == "lenet" else ENLARGED
        return nuclei(part, Path(self.data), size=size, cache=Path(self.images))

    def network(self) -> DAN:
        """A network with fresh task-specific layers, the same for the same seed. lenet: all of it from scratch."""
        import torch

        from dan.models.dan import DAN

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            if self.backbone == "lenet":
                model = DAN("lenet:3", 2, layers=(HIDDEN,))
                # The same sums in another order of memory, somewhat faster on a CPU.
                return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            model = DAN(self.backbone, 2, layers=(HIDDEN,), pretrained=self.weights)
            model.freeze(up_to=FROZEN_UP_TO)
            return model


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
        return TrainConfig(
            batch_size=min(BATCH, *sizes, BATCH), head_lr_mult=1.0, schedule="constant", feature_map=False
        )


def shared_by(
    folder: Path, *, place: dict[str, str], sizes: dict[str, int], setting: str, backbone: str, seed: int
) -> tuple[Setup, PatchData]:
    """The setup and the data of a trial in `folder`, from its arguments."""
    outputs = str(folder.parent / "outputs")
    setup = Setup(setting=setting, backbone=backbone, seed=seed, outputs=outputs, **sizes, **place)  # type: ignore[arg-type]
    return setup, patch_data(setup)


@lru_cache(maxsize=1)
def patch_data(setup: Setup) -> PatchData:
    """The data of a seed: which patients are tested, which nuclei are drawn, and the views."""
    import numpy as np

    from dan.data.candidates import Candidates, turned_views, viewed
    from dan.data.colon import by_patient
    from dan.feature_cache import cached

    sides = by_patient(setup.nuclei("first" if setup.setting == "scratch" else "second"), TEST_SHARE, seed=setup.seed)
    rng = np.random.default_rng(setup.seed)
    views = turned_views(setup.views, seed=setup.seed)
    candidates = []
    for side, count in zip(sides, (setup.pool, setup.test), strict=True):
        drawn = side.subset(np.sort(rng.permutation(len(side))[:count]))
        candidates.append(viewed(drawn, views, drawn.classes))
    source: Any = None if setup.setting == "scratch" else setup.nuclei("first")
    if setup.backbone == "lenet":
        pool, test = (each.in_memory() for each in candidates)
        return PatchData(pool, test, source)
    model = setup.network()
    pool, test = (
        Candidates(cached(each.patches, model, folder=setup.outputs), each.owners, each.targets, each.classes)
        for each in candidates
    )
    return PatchData(pool, test, None if source is None else cached(source, model, folder=setup.outputs))


def begin(folder: Path, *, trade_off: float, steps: int, **shared: Any) -> dict[str, float]:
    """A trial: M_0 of a transfer, trained on the source and aligned with the pool's patches, in folder/model.pt."""
    import torch

    from dan.training.trainer import fit

    setup, data = shared_by(folder, setting="transfer", **shared)
    model = setup.network()
    target, config = data.pool.data(torch.arange(len(data.pool))), replace(data.train_config(), evaluate_every=steps)
    fit(model, data.source, target, trade_off=trade_off, steps=steps, seed=setup.seed, config=config, run=folder)
    return evaluate(model, data.test)


def curve(
    folder: Path,
    *,
    selection: str,
    training: str,
    budget: int,
    rounds: int,
    steps: int,
    start: str | None = None,
    trade_off: float = 0.0,
    **shared: Any,
) -> dict[str, Any]:
    """A trial: one learning curve, a point before the first label and one after each query.

    selection: "random", or a code of AIFT. start: the trial whose network is M_0; None: a new network.
    """
    from active.learners.candidates import CandidateLearner, candidate_rounds
    from dan.models.model_file import load_model

    setup, data = shared_by(folder, **shared)
    model = setup.network() if start is None else load_model(folder.parent / start)
    options: dict[str, Any] = {"steps_per_round": steps, "seed": setup.seed, "config": data.train_config()}
    options |= {"source": data.source, "trade_off": trade_off}
    learner = CandidateLearner(
        data.pool, training, start=model, evaluate=lambda trained: evaluate(trained, data.test), **options
    )
    strategy = selection if selection == RANDOM else f"aift:{selection}"
    records = candidate_rounds(learner, strategy, budget=budget, num_rounds=rounds)
    evaluations = [{k: v for k, v in each.items() if k not in ("event", "round", "queried")} for each in records]
    weights = weights_label(setup.weights) if setup.weights else "none"
    return {"evaluations": evaluations, "weights": weights, "measured_on": machine()}


def evaluate(model: DAN, test: Candidates) -> dict[str, float]:
    """AUC and accuracy on the test patients' candidates, each predicted by the mean over its patches."""
    from sklearn.metrics import roc_auc_score

    from active.learners.candidates import candidate_query_fields

    probs = candidate_query_fields(model, test)["probs"]
    auc = roc_auc_score((test.targets == 1).numpy(), probs[:, 1].numpy())
    right = (probs.argmax(1) == test.targets).double().mean()
    return {"roc_auc/target_test": float(auc), "accuracy/target_test": float(right)}
