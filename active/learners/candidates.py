"""Rounds on candidates with a DAN: candidates are queried and labelled, the network is trained on their patches.

    after each query: CE(labelled candidates' patches) [+ CE(source) + lambda * alignment of the pool's patches]

With a source the patches' features are aligned with it, as images' are. A training code of `active.aift_training` says
what is learned, and from which network on.

Shapes: N candidates; P patches of each; C classes; F features.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from active.aift_training import continual, training_code
from active.loop import run_loop
from active.pool import Pool
from active.strategies import resolve_strategy
from dan.data.batches import derived_seed
from dan.data.candidates import Candidates
from dan.errors import UserError
from dan.evaluation.metrics import predict
from dan.models.dan import DAN
from dan.models.model_file import load_model
from dan.run_dir import Record
from dan.training.config import TrainConfig
from dan.training.trainer import fit


def candidate_query_fields(
    model: DAN, candidates: Candidates, ids: Tensor | None = None, *, patches: int | None = None
) -> dict[str, Tensor]:
    """Fields of a `Query` for these candidates (default: all), in their order.

    probs (n, C), float64, and features (n, F) are means over a candidate's patches; patch_probs (n, P, C), float64, are
    those of the P patches that it is scored by (`Candidates.scored`).
    """
    ids = torch.arange(len(candidates)) if ids is None else ids
    data = candidates.data(ids)
    output = predict(model, data, start=data.after_stages)[0]
    probs = output.logits.double().softmax(1)
    return {
        "probs": candidates.mean(probs, ids),
        "features": candidates.mean(output.features, ids),
        "patch_probs": candidates.scored(probs, ids, patches),
    }


class CandidateLearner:
    """A DAN that learns the patches of labelled candidates, from M_0 = `start`, which stays as it is.

    See `active.learner.Learner`; the ids are positions in `candidates`.
    training: one of `active.aift_training.TRAINING_CODES`. steps_per_round: training steps after each query, the same
    for every code. source: labelled samples that are learned too, and aligned with the patches of the whole pool by
    `trade_off`. evaluate: more figures for the records. run: a folder for the trainings, RUN/round_NN, which are
    resumed there; None keeps the networks in memory.
    Raises UserError for an unknown code, steps below 1, and a trade-off without a source.
    """

    def __init__(
        self,
        candidates: Candidates,
        training: str,
        *,
        start: DAN,
        steps_per_round: int,
        seed: int,
        config: TrainConfig | None = None,
        source: Dataset[Any] | None = None,
        trade_off: float = 0.0,
        evaluate: Callable[[DAN], Mapping[str, float]] | None = None,
        run: Path | str | None = None,
    ) -> None:
        if trade_off and source is None:
            raise UserError("a trade-off aligns the patches with a source: give one, or a trade-off of 0")
        if steps_per_round < 1:
            raise UserError(f"steps_per_round must be 1 or more, not {steps_per_round}")
        code = training_code(training)
        self.candidates, self.training, self.start, self.seed = candidates, training, start, seed
        self.steps_per_round, self.source, self.trade_off = steps_per_round, source, trade_off
        self.config = replace(
            config or TrainConfig(), schedule="constant", feature_map=False, evaluate_every=steps_per_round
        )
        self.run = None if run is None else Path(run)
        self.model: DAN | None = None
        self._evaluate = evaluate
        self._fit = continual(code, before=self._before, train=self._train, predict=self._classes)

    @property
    def metadata(self) -> dict[str, Any]:
        """What a run keeps of the learner, as plain values."""
        return {
            "training": self.training,
            "steps_per_round": self.steps_per_round,
            "trade_off": self.trade_off,
            "candidates": len(self.candidates),
            "recipe": asdict(self.config),
        }

    def fit(self, pool: Pool, round: int) -> None:
        """Train on the patches of the candidates that the training code names."""
        self.model = self._fit(pool, round)

    def query_fields(self, ids: Tensor, needs: frozenset[str]) -> dict[str, Tensor]:
        """See `candidate_query_fields`."""
        assert self.model is not None
        return candidate_query_fields(self.model, self.candidates, ids)

    def evaluate(self) -> Mapping[str, float]:
        """What the function `evaluate` returns, if there is one."""
        assert self.model is not None
        return {} if self._evaluate is None else self._evaluate(self.model)

    def folder(self, round: int) -> Path | None:
        """The run folder of this round's training, if there is one."""
        return None if self.run is None else self.run / f"round_{round:02d}"

    def _before(self, round: int) -> DAN:
        """A copy of M_round, to be trained on."""
        folder = self.folder(round)
        if round == 0:
            return copy.deepcopy(self.start)
        if folder is not None:
            return load_model(folder)
        if self.model is None:
            raise UserError(f"the network of round {round} is not in memory: give the learner a run folder")
        return copy.deepcopy(self.model)

    def _train(self, model: DAN, ids: Tensor, labels: Tensor, round: int) -> DAN:
        labelled = self.candidates.data(ids, labels)
        fit(
            model,
            labelled if self.source is None else self.source,
            self.candidates.data(torch.arange(len(self.candidates))),
            labelled_target=None if self.source is None else labelled,
            trade_off=self.trade_off,
            steps=self.steps_per_round,
            seed=derived_seed(self.seed, round),
            config=self.config,
            run=self.folder(round),
            metadata={"training": self.training, "learned": ids.tolist()},
        )
        return model

    def _classes(self, model: DAN, ids: Tensor) -> Tensor:
        return candidate_query_fields(model, self.candidates, ids)["probs"].argmax(1)


def candidate_rounds(
    learner: CandidateLearner, strategy: str, *, budget: int | str, num_rounds: int
) -> Iterator[Record]:
    """Active rounds on candidates: yields num_rounds + 1 records, those of `active.loop.rounds`, counted in candidates.

    strategy: a name that `get_strategy` knows, such as "aift:E+M+R", of those that need no more than probs, features
    and patch_probs. budget: candidates of each query. With the learner's run folder a killed run goes on there.
    Raises UserError for an unknown strategy, one that does not fit the training code, and candidates without labels.
    """
    training_code(learner.training, strategy)
    resolve_strategy(strategy)
    candidates = learner.candidates
    if bool((candidates.targets < 0).any()):
        raise UserError("some candidates have no label, so nobody can answer: simulated rounds need them all")
    pool = Pool(torch.arange(len(candidates)), candidates.targets)
    metadata = {"strategy": strategy, **learner.metadata}
    options: dict[str, Any] = {"budget": budget, "num_rounds": num_rounds, "seed": learner.seed, "run": learner.run}
    yield from run_loop(pool, strategy, learner, metadata=metadata, **options)
