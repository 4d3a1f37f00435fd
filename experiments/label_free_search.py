"""The search for hyper-parameters without a target label: one set for all transfers, on a seed that is not reported.

rate         the lowest mean over transfers of source-only's cross-entropy on held-out source: everybody's
trade-off    of each row the lowest mean over transfers of   err_source + max(0, 1 - 2 err_two_sample)
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

import tyro

from dan.errors import UserError
from experiments.framework.options import UNTOLD, Options, check_runs, command_of
from experiments.framework.records import Record, read
from experiments.framework.reporting.tables import Table
from experiments.framework.trials import Trial, run_trials

if TYPE_CHECKING:
    from torch import Tensor

TRADE_OFFS: tuple[float, ...] = (0.3, 1.0, 3.0, 10.0)
# Terms of another scale than MMD^2's: covariances are divided by 4 F^2, and a discriminator climbs as it descends.
OWN_TRADE_OFFS: dict[str, tuple[float, ...]] = {
    "deep_coral": (1.0, 10.0, 100.0, 1000.0),
    "dann": (0.1, 0.3, 1.0, 3.0),
    "cdan": (0.1, 0.3, 1.0, 3.0),
    "cdan_e": (0.1, 0.3, 1.0, 3.0),
}
SEARCH_SEED = 100
SEARCH_CAPTION = (
    "Hyper-parameters: one set for all transfers of a network, chosen without a target label on seed 100. Rate: the "
    "lowest cross-entropy of source-only on held-out source. Trade-off: the lowest mean of the held-out source error + "
    "max(0, 1 - 2 err), err the held-out error of a classifier of domains."
)

Point = tuple[str, str, float, float]  # network, row, trade-off (0 for source-only alone), rate
Choice = dict[str, dict[str, dict[str, Any]]]  # network -> row -> {"trade_off", "lr", "score", "tried"}
Search = TypeVar("Search", bound="SearchOptions")


@dataclass(frozen=True)
class SearchOptions(Options):
    """Options of an experiment that searches before it trains; --search is told, for its choice decides the numbers.

    RATES: that are tried; the second and third with --quick. A subclass says what is searched.
    """

    UNTOLD: ClassVar[tuple[str, ...]] = (*UNTOLD, "searched")
    RATES: ClassVar[tuple[float, ...]] = ()

    methods: tuple[str, ...] = ()
    """these rows only (default: all)"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """one run of everything for each"""
    steps: int = 300
    """training steps of every row"""
    search: Path | None = None
    """folder of an earlier run, whose search is taken instead of making one"""
    searched: Annotated[tuple[Record, ...], tyro.conf.Suppress, tyro.conf.Fixed] = ()
    """the records of the search, once it is made"""

    def check(self) -> None:
        check_runs(self.seeds, self.steps)
        check_reported(self.seeds)

    def search_rows(self) -> dict[str, list[str]]:
        """network -> the rows that are searched for, source-only first: its rate is everybody's."""
        raise NotImplementedError

    def search_trials(self, point: Point) -> dict[str, Trial]:
        """task -> the trial of that point, which returns what `judged` does."""
        raise NotImplementedError

    def resolve(self: Search) -> tuple[Search, Record]:
        return replace(self, searched=tuple(search_records(self))), {}

    def extra_records(self) -> Sequence[Record]:
        return self.searched

    @property
    def search_of_cells(self) -> str:
        """--search in the command of one cell, which would choose otherwise if it searched by itself."""
        return str(self.search or (self.folder if self.quick else Path("experiments", "results", self.NAME)))

    @cached_property
    def chosen(self) -> Choice:
        """What the search chose."""
        return choose(self.searched)

    def trials(
        self, name: str, function: Any, arguments: dict[str, Any], how: dict[str, Any], chosen: dict[str, Any]
    ) -> list[Trial]:
        """A trial of `function` for each seed, at the rate and trade-off that were chosen."""
        settings = {**arguments, "how": how | {"lr": chosen["lr"]}, "trade_off": chosen["trade_off"]}
        settings["steps"] = self.steps
        return [Trial(f"{name}-seed{seed}", function, {**settings, "seed": seed}) for seed in self.seeds]


def check_reported(seeds: Sequence[int]) -> None:
    """Raises UserError where the seed of the search is among those that are reported."""
    if SEARCH_SEED in seeds:
        raise UserError(f"seed {SEARCH_SEED} is the one that hyper-parameters are chosen on: report others")


def search_records(config: SearchOptions) -> list[Record]:
    """The records of the search, one a trial: made now, or read from the earlier run that `search` names.

    Source-only at each rate, then the others' trade-offs at the best one. Raises UserError if a trial fails, or an
    earlier run lacks a row.
    """
    rows = config.search_rows()
    if config.search is not None:
        return earlier(config.search, rows)
    if not rows:
        return []
    some = slice(1, 3) if config.quick else slice(None)
    first = [(network, listed[0], 0.0, rate) for network, listed in rows.items() for rate in config.RATES[some]]
    records = tried(config, first)
    choice, then = choose(records), list[Point]()
    for network, listed in rows.items():
        rate, others = choice[network][listed[0]]["lr"], listed[1:]
        then += [(network, row, value, rate) for row in others for value in OWN_TRADE_OFFS.get(row, TRADE_OFFS)[some]]
    return records + tried(config, then)


def tried(config: SearchOptions, points: Sequence[Point]) -> list[Record]:
    """Run the trials of these points; one record each.

    judged_by: the score; of source-only, which does not try to mix the domains, the cross-entropy on the held-out
    source, since its error there moves in steps of one image, and rates differ by one or two.
    """
    trials = [(point, task, trial) for point in points for task, trial in config.search_trials(point).items()]
    made = [trial for _, _, trial in trials]
    where: dict[str, Any] = {"workers": config.workers, "cluster": config.cluster, "quiet": config.quiet}
    outcome = run_trials(made, folder=config.folder, **where)
    if outcome.failed:
        raise UserError(f"the search for hyper-parameters failed: {next(iter(outcome.failed.values()))}")
    records, command = [], command_of(config)
    for (network, row, trade_off, rate), task, trial in trials:
        result = outcome.results[trial.name]
        record: Record = {"experiment": config.NAME, "phase": "search", "task": task, "network": network, "method": row}
        record |= {"labels": 0, "seed": SEARCH_SEED, "selection": "", "trade_off": trade_off, "lr": rate}
        record |= {"steps": trial.arguments["steps"], "command": command, "command_of_all": command, **result}
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


def earlier(path: Path, rows: dict[str, list[str]]) -> list[Record]:
    """The records of the search in an earlier run, as far as they are needed."""
    needed = [(network, row) for network, listed in rows.items() for row in listed]
    found = [record for record in read(path) if record.get("phase") == "search"]
    there = {(record["network"], record["method"]) for record in found}
    if missing := [row for network, row in needed if (network, row) not in there]:
        raise UserError(f"{path} has no search for {', '.join(missing)}: leave out --search to make one")
    return [record for record in found if (record["network"], record["method"]) in needed]


def choose(records: Iterable[Record]) -> Choice:
    """The lowest mean of `judged_by` over transfers, for each row of each network."""
    judgements: dict[tuple[str, str], dict[tuple[float, float], list[float]]] = {}
    for record in records:
        if record.get("phase") == "search":
            by_point = judgements.setdefault((record["network"], record["method"]), {})
            by_point.setdefault((record["trade_off"], record["lr"]), []).append(record["judged_by"])
    choice: Choice = {}
    for (network, row), by_point in judgements.items():
        means = {point: statistics.fmean(values) for point, values in by_point.items()}
        (trade_off, rate), lowest = min(means.items(), key=lambda item: item[1])
        found = {"trade_off": trade_off, "lr": rate, "score": lowest, "tried": len(means)}
        choice.setdefault(network, {})[row] = found
    return choice


def search_table(records: Iterable[Record]) -> Table:
    """What the search chose for each row."""
    lines = [
        [network, row, f"{made['trade_off']:g}", f"{made['lr']:g}", f"{made['score']:.3f}", str(made["tried"])]
        for network, found in choose(records).items()
        for row, made in found.items()
    ]
    return ["network", "row", "trade-off", "rate", "judged by, mean", "points tried"], lines
