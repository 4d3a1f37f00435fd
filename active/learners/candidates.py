"""Rounds on candidates with a DAN: what is asked for and labelled are candidates, what the network sees are patches.

    after each purchase: CE(labelled candidates' patches) [+ CE(source) + lambda * alignment of the pool's patches]

With a source the patches' features are aligned with it, as images' are. What is learned, and from which network on,
says a training code of `active.aift_training`.

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
from active.loop import rounds as each_round
from active.pool import Pool
from active.strategies import get_strategy
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


def candidate_rounds(
    candidates: Candidates,
    strategy: str,
    training: str,
    *,
    start: DAN,
    budget: int,
    num_rounds: int,
    steps_per_round: int,
    seed: int,
    config: TrainConfig | None = None,
    source: Dataset[Any] | None = None,
    trade_off: float = 0.0,
    evaluate: Callable[[DAN], Mapping[str, float]] | None = None,
    run: Path | None = None,
    quiet: bool = True,
) -> Iterator[Record]:
    """Active rounds on candidates from the network `start`, M_0, which stays as it is: yields `rounds + 1` records.

    strategy: a name that `get_strategy` knows, such as "aift:E+M+R", of those that need no more than probs, features
    and patch_probs. training: one of TRAINING_CODES. steps_per_round: training steps after each purchase of `budget`
    candidates, the same for every code. source: labelled samples that are learned beside, and aligned with the patches
    of the whole pool by `trade_off`. evaluate: more figures for the records. run: a folder; the same call on it goes on
    where it was killed; None keeps everything in memory.
    The records are those of `active.loop.rounds`, counted in candidates.
    Raises UserError for an unknown strategy or code, candidates without labels, and a trade-off without a source.
    """
    code, ask = training_code(training, strategy), get_strategy(strategy)
    if bool((candidates.targets < 0).any()):
        raise UserError("some candidates have no label, so nobody can answer: simulated rounds need them all")
    if trade_off and source is None:
        raise UserError("a trade-off aligns the patches with a source: give one, or a trade-off of 0")
    if steps_per_round < 1:
        raise UserError(f"steps_per_round must be 1 or more, not {steps_per_round}")
    how = replace(config or TrainConfig(), schedule="constant", feature_map=False, evaluate_every=steps_per_round)
    every = torch.arange(len(candidates))
    pool = Pool(every, candidates.targets)
    kept: dict[int, DAN] = {}  # the last network, where there is no folder to keep it in

    def place_of(number: int) -> Path | None:
        return None if run is None else run / f"round_{number:02d}"

    def before(number: int) -> DAN:
        place = place_of(number)
        if number == 0:
            return copy.deepcopy(start)
        return copy.deepcopy(kept[number]) if place is None else load_model(place)

    def train(model: DAN, ids: Tensor, labels: Tensor, number: int) -> DAN:
        bought = candidates.data(ids, labels)
        fit(
            model,
            bought if source is None else source,
            candidates.data(every),
            labelled_target=None if source is None else bought,
            trade_off=trade_off,
            steps=steps_per_round,
            seed=derived_seed(seed, number),
            config=how,
            run=place_of(number),
            metadata={"training": training, "learned": ids.tolist()},
            verbose=not quiet,
        )
        kept.clear()
        kept[number] = model
        return model

    def classes(model: DAN, ids: Tensor) -> Tensor:
        return candidate_query_fields(model, candidates, ids)["probs"].argmax(1)

    def seen(model: DAN, ids: Tensor) -> dict[str, Tensor]:
        return candidate_query_fields(model, candidates, ids)

    yield from each_round(
        pool,
        ask,
        fit=continual(code, before=before, train=train, predict=classes),
        predict=seen,
        evaluate=evaluate,
        budget=budget,
        num_rounds=num_rounds,
        seed=seed,
        run=run,
        metadata={
            "strategy": strategy,
            "training": training,
            "steps_per_round": steps_per_round,
            "trade_off": trade_off,
            "candidates": len(candidates),
            "recipe": asdict(how),
        },
    )
