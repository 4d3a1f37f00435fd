"""What one trial of clue_digits does, each a function of its JSON arguments alone: the source model, and its rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.digits.trial import DigitsData, network
from experiments.tasks import machine

BATCH = 128  # images a step: of the source, of the labelled target, and where something is aligned of the target


def load_train_config(steps: int, method: str) -> Any:
    """The published settings: Adam at 2e-4, constant, one rate for all layers, weight decay 1e-5."""
    from dan.training.config import TrainConfig

    return TrainConfig(
        method=method,
        optimizer="adam",
        lr=2e-4,
        weight_decay=1e-5,
        head_lr_mult=1.0,
        lr_gamma=0.0,
        schedule="constant",
        batch_size=BATCH,
        evaluate_every=steps,
        feature_map=False,
    )


def start(folder: Path, *, place: dict[str, Any], task: str, steps: int, seed: int) -> dict[str, Any]:
    """A trial: train on the source alone, the network that the rounds of this seed start from."""
    from dan.training.trainer import fit

    data = DigitsData(**place).task(task)
    records = fit(
        network(data, seed),
        data.source,
        data.target,
        trade_off=0.0,
        steps=steps,
        seed=seed,
        tests=data.splits,
        config=load_train_config(steps, "dan"),
        run=folder,
        metadata={"task": data.name},
    )
    return {"evaluation": records[-1], "measured_on": machine()}


def ask(
    folder: Path,
    *,
    place: dict[str, Any],
    task: str,
    start: str,
    strategy: str,
    method: str,
    trade_off: float,
    budget: str,
    rounds: int,
    steps_per_round: int,
    epochs: int,
    seed: int,
) -> dict[str, Any]:
    """A trial: the rounds of one strategy, from the network of the trial `start` beside this one.

    epochs: passes over the target after each purchase, in place of steps_per_round; 0: steps_per_round.
    """
    from active.learners.dan import run_rounds
    from active.learners.rounds_config import RoundsConfig
    from dan.data.batches import num_samples

    data = DigitsData(**place).task(task)
    steps = epochs * -(-num_samples(data.target) // BATCH) if epochs else steps_per_round
    records = run_rounds(
        data,
        strategy,
        RoundsConfig(budget=budget, num_rounds=rounds, steps_per_round=steps, trade_off=trade_off),
        start=folder.parent / start,
        seed=seed,
        run=folder,
        config=load_train_config(steps, method),
    )
    return {
        "evaluations": list(records),
        "steps_per_round": steps,
        "pool": num_samples(data.target),
        "measured_on": machine(),
    }
