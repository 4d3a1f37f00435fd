"""The search for hyper-parameters without a target label: one set for all transfers, on a seed that is not reported.

rate         the lowest mean over transfers of source-only's cross-entropy on held-out source: everybody's
trade-off    of each row the lowest mean over transfers of   err_source + max(0, 1 - 2 err_two_sample)
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dan.errors import UserError
from experiments.framework.options import Options
from experiments.framework.records import Record, read
from experiments.framework.runner import run_part
from experiments.framework.trials import Trial

if TYPE_CHECKING:
    from torch import Tensor

TRADE_OFFS = (0.3, 1.0, 3.0, 10.0)
# Terms of another scale than MMD^2's: covariances are divided by 4 F^2, and a discriminator climbs as it descends.
OWN_TRADE_OFFS = {
    "deep_coral": (1.0, 10.0, 100.0, 1000.0),
    "dann": (0.1, 0.3, 1.0, 3.0),
    "cdan": (0.1, 0.3, 1.0, 3.0),
    "cdan_e": (0.1, 0.3, 1.0, 3.0),
}
SEARCH_SEED = 100

Searched = tuple[str, str]  # network, row
Point = tuple[float, float]  # trade-off, which is 0 for source-only alone, and rate


def check_reported(seeds: Sequence[int]) -> None:
    """Raises UserError where the seed of the search is among those that are reported."""
    if SEARCH_SEED in seeds:
        raise UserError(f"seed {SEARCH_SEED} is the one that hyper-parameters are chosen on: report others")


def search(
    rows: Mapping[str, Sequence[str]],
    rates: Sequence[float],
    tried: Callable[[Mapping[Searched, Sequence[Point]]], list[Record]],
    *,
    quick: bool,
) -> list[Record]:
    """The records of the whole search: source-only at each rate, then the others' trade-offs at the best one.

    rows: of each network, source-only first. tried: the records of (network, row) at its points. quick: two trade-offs.
    """
    records = tried({(network, listed[0]): [(0.0, rate) for rate in rates] for network, listed in rows.items()})
    choice = choose(records)
    then: dict[Searched, list[Point]] = {}
    for network, (source_only, *others) in rows.items():
        rate = choice[network][source_only]["lr"]
        for row in others:
            trade_offs = OWN_TRADE_OFFS.get(row, TRADE_OFFS)
            then[network, row] = [(value, rate) for value in (trade_offs[1:3] if quick else trade_offs)]
    return records + tried(then)


def records_of(
    config: Options,
    trials: Mapping[tuple[Searched, Point, str], Trial],
    *,
    prepared: Sequence[Trial] = (),
    command: str,
    **about: Any,
) -> list[Record]:
    """Run the trials of (network, row) at a point on a task, after those that prepare them; one record each.

    judged_by: the score; of source-only, which does not try to mix the domains, the cross-entropy on the held-out
    source, since its error there moves in steps of one image, and rates differ by one or two. Raises UserError if a
    trial fails.
    """
    outcome = run_part(config, [*prepared, *trials.values()] if trials else [], "search")
    if outcome.failed:
        raise UserError(f"the search for hyper-parameters failed: {next(iter(outcome.failed.values()))}")
    records = []
    for ((network, row), (trade_off, rate), task), trial in trials.items():
        result = outcome.results[trial.name]
        record: Record = {"experiment": config.NAME, "phase": "search", "task": task, "network": network, "method": row}
        record |= {"labels": 0, "seed": SEARCH_SEED, "selection": "", "trade_off": trade_off, "lr": rate}
        record |= {**about, "command": command, "command_of_all": command, **result}
        records.append(record | {"judged_by": result["score" if trade_off else "source_loss"]})
    return records


def judged(logits: Tensor, y: Tensor, source: Tensor, target: Tensor) -> dict[str, float]:
    """What a trial of the search says of its network: errors in [0, 1], and the score that joins them.

    Args:
        logits: (N, C) of held-out source, whose classes are y (N,).
        source: (N', F) features of held-out source.
        target: (M, F) the same of the target, without labels.
    """
    from torch.nn.functional import cross_entropy

    from dan.evaluation.validators import label_free_score, two_sample_error

    source_error = float((logits.argmax(1) != y).double().mean())
    domains_error = two_sample_error(source, target)
    return {
        "source_error": source_error,
        "source_loss": float(cross_entropy(logits, y)),
        "two_sample_error": domains_error,
        "score": label_free_score(source_error, domains_error),
    }


def earlier(path: Path, needed: Sequence[Searched]) -> list[Record]:
    """The records of the search in an earlier run, as far as they are needed. Raises UserError for one that lacks a
    row."""
    found = [record for record in read(path) if record.get("phase") == "search"]
    there = {(record["network"], record["method"]) for record in found}
    if missing := [row for network, row in needed if (network, row) not in there]:
        raise UserError(f"{path} has no search for {', '.join(missing)}: leave out --search to make one")
    return [record for record in found if (record["network"], record["method"]) in needed]


def choose(records: Sequence[Record]) -> dict[str, dict[str, dict[str, Any]]]:
    """network -> row -> {"trade_off", "lr", "score", "tried"}: the lowest mean of `judged_by` over transfers."""
    judgements: dict[Searched, dict[Point, list[float]]] = {}
    for record in records:
        if record.get("phase") == "search":
            by_point = judgements.setdefault((record["network"], record["method"]), {})
            by_point.setdefault((record["trade_off"], record["lr"]), []).append(record["judged_by"])
    choice: dict[str, dict[str, dict[str, Any]]] = {}
    for (network, row), by_point in judgements.items():
        means = {point: statistics.fmean(values) for point, values in by_point.items()}
        (trade_off, rate), lowest = min(means.items(), key=lambda item: item[1])
        found = {"trade_off": trade_off, "lr": rate, "score": lowest, "tried": len(means)}
        choice.setdefault(network, {})[row] = found
    return choice
