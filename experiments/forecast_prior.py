"""The prior of `active.forecast`, learned from published records, and how well it forecasts: by replay.

    python -m experiments.forecast_prior          learn active/forecast_prior.json again
    python -m experiments.forecast_prior replay   forecast in the middle of published runs, and print what came of it

Replay: at every round r >= 1 of a run that has not reached the goal, forecast the labels for it from the points so far,
with a prior of the runs whose target domain is another. Goals: the run's own final accuracy minus 1, 2 and 5 points,
and, to see whether "not reachable" is right, the accuracy with all labels plus 1, 2 and 5 points.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from active.forecast import FILE, Forecast, Measure, fit_curve
from active.learning_curves import Points, Prior, fit_prior
from experiments.framework.measurements import labels_to
from experiments.framework.records import Record, read

RESULTS = Path(__file__).parent / "results"
KEYS: dict[Measure, str] = {"pool": "accuracy/target", "held_out": "accuracy/target_test"}
EXPERIMENTS = ("arena", "active_adaptation")
PARTS = 400  # runs that a prior is learned from, evenly spaced among all
BELOW, ABOVE = (0.01, 0.02, 0.05), (0.01, 0.02, 0.05)


@dataclass(frozen=True)
class Run:
    """One curve. labels and accuracies, round by round; every: the accuracy with all labels, if that was measured;
    samples: of the held-out split, 0 for the pool itself."""

    experiment: str
    task: str
    method: str
    seed: int
    pool: int
    samples: int
    labels: tuple[int, ...]
    accuracies: tuple[float, ...]
    every: float | None

    @property
    def target(self) -> str:
        """The target domain's name."""
        return self.task.rpartition("2")[2]

    def points(self, count: int | None = None, *, every: bool = False) -> Points:
        """The first `count` points; every: with the one of all labels."""
        labels, accuracies = list(self.labels[:count]), list(self.accuracies[:count])
        if every and self.every is not None:
            labels, accuracies = [*labels, self.pool], [*accuracies, self.every]
        return Points.of(labels, accuracies, self.pool, [self.deviation(value) for value in accuracies])

    def deviation(self, accuracy: float) -> float:
        """The standard deviation of an accuracy as a measurement: binomial on a held-out split, 0 on the pool."""
        return (max(accuracy * (1 - accuracy), 1 / self.samples) / self.samples) ** 0.5 if self.samples else 0.0


class Case(NamedTuple):
    """One forecast in replay. truth: labels at which the run first reached the goal (linear between its points), None
    if never. reachable: whether it did, or all labels did. pool: the pool's size."""

    truth: float | None
    reachable: bool
    forecast: Forecast
    pool: int

    @property
    def covered(self) -> bool:
        """Whether the interval holds the truth."""
        return self.truth is not None and self.forecast.low <= self.truth <= self.forecast.high

    @property
    def error(self) -> float:
        """|median - truth| / truth, the median at most the pool."""
        return abs(min(self.forecast.labels, self.pool) - (self.truth or 0)) / (self.truth or 1)


# --- records ----------------------------------------------------------------------------------------------------------


def read_runs(measure: Measure, results: Path = RESULTS) -> list[Run]:
    """The curves of arena, and of active_adaptation in rounds, that have this measure, in a fixed order."""
    return [run for experiment in EXPERIMENTS for run in runs_of(experiment, read(results / experiment), measure)]


def runs_of(experiment: str, records: Sequence[Record], measure: Measure) -> Iterator[Run]:
    """The curves of one experiment."""
    key, curves, every = KEYS[measure], defaultdict(list), {}
    for record in records:
        if key in record and record.get("selection") == "last":
            if record["method"] == "all labels":
                every[record["task"], record["seed"]] = record
            elif "round" in record:
                curves[record["task"], record["method"], record["seed"]].append(record)
    sizes = {record["task"]: record["sizes"]["target_test"] for record in records if "sizes" in record}
    for (task, method, seed), points in sorted(curves.items()):
        if measure == "held_out" and task not in sizes:
            continue  # how many samples it was measured on is not recorded
        points.sort(key=lambda record: int(record["labels"]))
        labels, accuracies = zip(*((record["labels"], record[key]) for record in points), strict=True)
        last = every.get((task, seed))
        pool, whole = (points[0]["pool"], None) if last is None else (last["labels"], last[key])
        samples = 0 if measure == "pool" else sizes[task]
        yield Run(experiment, task, method, seed, pool, samples, labels, accuracies, whole)


# --- prior ------------------------------------------------------------------------------------------------------------


def learn(runs: Sequence[Run], parts: int = PARTS) -> Prior:
    """The prior of these runs, from at most `parts` of them, evenly spaced."""
    chosen = [runs[i * len(runs) // parts] for i in range(parts)] if len(runs) > parts else runs
    return fit_prior([run.points(every=True) for run in chosen])


def write_prior(path: Path = FILE) -> None:
    """Learn the published prior, of both measures."""
    content = {measure: asdict(learn(read_runs(measure))) for measure in KEYS}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


# --- replay -----------------------------------------------------------------------------------------------------------


def replay(measure: Measure, tested: Sequence[Run], learned_from: Sequence[Run], parts: int = PARTS) -> list[Case]:
    """The forecasts of these runs, each with the prior of the runs in `learned_from` of other target domains."""

    @cache
    def prior_without(target: str) -> Prior:
        return learn([run for run in learned_from if run.target != target], parts)

    cases = []
    for run in tested:
        goals = [run.accuracies[-1] - step for step in BELOW]
        goals += [] if run.every is None else [run.every + step for step in ABOVE if run.every + step <= 1]
        for seen in range(2, len(run.labels)):
            open_goals = [goal for goal in goals if max(run.accuracies[:seen]) < goal]
            if not open_goals:
                continue
            options: dict[str, Any] = {"measure": measure, "prior": prior_without(run.target)}
            options["deviations"] = run.points(seen).deviations.tolist()
            curve = fit_curve(run.labels[:seen], run.accuracies[:seen], run.pool, **options)
            for goal in open_goals:
                truth = labels_to(run.labels, run.accuracies, goal)
                reached = truth is not None or (run.every is not None and run.every >= goal)
                cases.append(Case(truth, reached, curve.labels_for(goal), run.pool))
    return cases


def summary(cases: Sequence[Case]) -> dict[str, float]:
    """covered: share of the goals that the run reached whose interval holds the truth; error: the median relative error
    of them; given_up: forecasts of "not reachable"; given_up_right: share of these where the goal was not reached."""
    reached = [case for case in cases if case.truth is not None]
    given_up = [case for case in cases if not case.forecast.reachable]
    return {
        "cases": len(reached),
        "covered": sum(case.covered for case in reached) / max(len(reached), 1),
        "error": median(case.error for case in reached) if reached else float("nan"),
        "given_up": len(given_up),
        "given_up_right": sum(not case.reachable for case in given_up) / max(len(given_up), 1),
    }


def main(arguments: Sequence[str]) -> None:
    """See the module's first lines."""
    if list(arguments) not in ([], ["replay"]):
        raise SystemExit("python -m experiments.forecast_prior [replay]")
    if not arguments:
        write_prior()
        return
    for measure in KEYS:
        runs = read_runs(measure)
        for experiment in EXPERIMENTS:
            if tested := [run for run in runs if run.experiment == experiment]:
                figures = summary(replay(measure, tested, runs))
                print(measure, experiment, {name: round(value, 3) for name, value in figures.items()})


if __name__ == "__main__":
    main(sys.argv[1:])
