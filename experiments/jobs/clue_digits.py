"""What one trial of clue_digits does, each a function of its JSON arguments alone: the source model, and its rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.jobs.digits import Place, network
from experiments.transfers import machine

BATCH = 128  # images a step: of the source, of the labelled target, and where something is aligned of the target


def recipe_of(steps: int, method: str) -> Any:
    """The published settings: Adam at 2e-4, constant, one rate for all layers, weight decay 1e-5."""
    from dan.recipes import Recipe

    return Recipe(
        method=method,
        optimizer="adam",
        rate=2e-4,
        weight_decay=1e-5,
        new_rate_factor=1.0,
        decay_gamma=0.0,
        schedule="constant",
        batch_size=BATCH,
        evaluate_every=steps,
        feature_map=False,
    )


def start(folder: Path, *, place: dict[str, Any], task: str, steps: int, seed: int) -> dict[str, Any]:
    """A trial: train on the source alone, the network that the rounds of this seed start from."""
    from dan.training import fit

    data = Place(**place).task(task)
    records = fit(
        network(data, seed),
        data.source,
        data.target,
        trade_off=0.0,
        steps=steps,
        seed=seed,
        tests=data.splits,
        recipe=recipe_of(steps, "dan"),
        run=folder,
        about={"task": data.name},
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
    round_steps: int,
    epochs: int,
    seed: int,
) -> dict[str, Any]:
    """A trial: the rounds of one strategy, from the network of the trial `start` beside this one.

    epochs: passes over the target after each purchase, in place of round_steps; 0: round_steps.
    """
    from active.with_dan import run_rounds
    from dan.batches import size

    data = Place(**place).task(task)
    steps = epochs * -(-size(data.target) // BATCH) if epochs else round_steps
    records = run_rounds(
        data,
        strategy,
        start=folder.parent / start,
        budget=budget,
        rounds=rounds,
        round_steps=steps,
        trade_off=trade_off,
        seed=seed,
        run=folder,
        recipe=recipe_of(steps, method),
    )
    return {"evaluations": list(records), "round_steps": steps, "pool": size(data.target), "measured_on": machine()}
