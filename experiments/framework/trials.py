"""Trials in parallel processes, each done once: a function and its JSON arguments, its result a file.

    folder/<name>/trial.json    {"function", "arguments"}, and once it is done {"result", "seconds"}
    folder/<name>/error.txt     the traceback, if it failed

A trial does not depend on what ran before it in its worker, so its arguments (with their seed) alone reproduce it.
"""

from __future__ import annotations

import json
import re
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dan.errors import UserError
from dan.locks import lock_dir
from dan.progress import Progress
from experiments.framework.executors import place_of, single_threaded
from experiments.framework.records import write_text


@dataclass(frozen=True)
class Trial:
    """`function`, of a module's top level, is called as function(folder / name, **arguments) and gives JSON-able data.

    after: the trials whose results it starts from; it is not started if one of them fails.
    """

    name: str
    function: Callable[..., Any]
    arguments: dict[str, Any]
    after: tuple[Trial, ...] = ()

    def made_by(self) -> dict[str, Any]:
        """What has to be the same for a stored result to be this trial's; tuples are lists, as in the stored JSON."""
        function = f"{self.function.__module__}:{self.function.__qualname__}"
        made: dict[str, Any] = json.loads(json.dumps({"function": function, "arguments": self.arguments}))
        return made


def slug(row: str) -> str:
    """A table's row as part of a trial's name: small letters and digits, `_` in place of the rest."""
    return re.sub(r"[^a-z0-9]+", "_", row.lower())


def dotted(strategy: str) -> str:
    """A strategy, which may be a code, as part of a trial's name: a dot in place of what has no place in a folder's."""
    return re.sub(r"[^A-Za-z0-9_.]+", ".", strategy)


@dataclass
class Outcome:
    """results: name -> result of every finished trial. failed: name -> one line for each that is not."""

    results: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def with_prerequisites(trials: Sequence[Trial]) -> list[Trial]:
    """The trials, each after those that it starts from, once each. UserError for two different ones of a name."""
    found: dict[str, Trial] = {}

    def visit(listed: Sequence[Trial]) -> Iterator[Trial]:
        for trial in listed:
            yield from visit(trial.after)
            yield trial

    for trial in visit(trials):
        if found.setdefault(trial.name, trial).made_by() != trial.made_by():
            raise UserError(f"two trials have the name {trial.name!r}: give each its own")
    return list(found.values())


def run_trials(
    trials: Sequence[Trial], *, folder: Path, workers: int = 2, cluster: str | None = None, quiet: bool = False
) -> Outcome:
    """Run what is not finished in `workers` single-threaded processes; read the rest. Every trial is heard out.

    cluster: run it on the workers of a cluster instead, as "dask://HOST:PORT": see executors.py.

    What trials start from is run too. UserError if a name is used twice, `workers` < 1, a folder holds the same trial
    made with other arguments, or another process runs trials there. A failing trial is one line in `failed`; the
    others go on. On Ctrl-C the children are ended; what they saved stays, for the next run.
    """
    trials = with_prerequisites(trials)
    waiting = {trial.name: trial for trial in trials}
    if workers < 1:
        raise UserError(f"workers is {workers}: at least one process has to do the work")

    stored = {trial.name: _read(trial, folder) for trial in trials}
    outcome = Outcome({name: made["result"] for name, made in stored.items() if "result" in made})
    for name in outcome.results:
        del waiting[name]
    if waiting:
        most = min(workers, len(waiting))
        with lock_dir(folder):
            _run(waiting, outcome, folder=folder.absolute(), workers=most, cluster=cluster, quiet=quiet)
        outcome.results = {trial.name: outcome.results[trial.name] for trial in trials if trial.name in outcome.results}
    return outcome


def _run(
    waiting: dict[str, Trial], outcome: Outcome, *, folder: Path, workers: int, cluster: str | None, quiet: bool
) -> None:
    """Start each trial once those it follows are done, and move it from `waiting` to `outcome`."""
    running: dict[Future[Any], str] = {}
    with place_of(cluster, workers) as place, Progress("trials", len(waiting), quiet=quiet) as progress:
        try:
            while waiting or running:
                for name, trial in list(waiting.items()):
                    if lost := [other.name for other in trial.after if other.name in outcome.failed]:
                        outcome.failed[name] = f"{name}: not started, for {lost[0]} failed"
                        del waiting[name]
                        progress.advance()
                    # No more than the workers can take: a longer queue would only be in the way of Ctrl-C.
                    elif len(running) < place.at_once and all(o.name in outcome.results for o in trial.after):
                        running[place.executor.submit(_work, replace(waiting.pop(name), after=()), folder)] = name
                done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                progress.advance(", ".join(running.values()), steps=0)  # the clock goes on while trials work
                for future in done:
                    name = running.pop(future)
                    finished, result = _heard(future, name)
                    (outcome.results if finished else outcome.failed)[name] = result
                    progress.advance()
        except BrokenProcessPool:
            raise UserError(
                "a trial's process ended without a word (out of memory?): try fewer --workers; finished trials are kept"
            ) from None
        except KeyboardInterrupt:
            place.stop()
            raise


def _heard(future: Future[Any], name: str) -> tuple[bool, Any]:
    """What the trial returned, or one line if a worker of a cluster was lost with it."""
    try:
        finished, result = future.result()
        return finished, result
    except BrokenProcessPool:
        raise
    except Exception as error:  # noqa: BLE001  # lost workers, and whatever else a cluster reports in a trial's place
        return False, f"{name}: its worker was lost ({type(error).__name__})"


def _work(trial: Trial, folder: Path) -> tuple[bool, Any]:
    """In a worker: (True, result), or (False, one line) with the traceback in error.txt."""
    place = folder / trial.name
    place.mkdir(parents=True, exist_ok=True)
    error_file = place / "error.txt"
    error_file.unlink(missing_ok=True)
    started = time.perf_counter()
    single_threaded()
    try:
        # Before the work: a trial that was stopped halfway must not be taken up with other arguments.
        write_text(place / "trial.json", json.dumps(trial.made_by(), indent=1) + "\n")
        result = trial.function(place, **trial.arguments)
        made = {**trial.made_by(), "result": result, "seconds": time.perf_counter() - started}
        write_text(place / "trial.json", json.dumps(made, indent=1) + "\n")
        return True, json.loads(json.dumps(result))  # the same whether it is read back or comes from here
    except Exception as error:  # noqa: BLE001  # whatever it is, the other trials go on, and it is told
        error_file.write_text(traceback.format_exc(), encoding="utf-8")
        reason = str(error).strip().splitlines() or [""]
        return False, f"{trial.name}: {type(error).__name__}: {reason[0]} (traceback in {error_file})"


def _read(trial: Trial, folder: Path) -> dict[str, Any]:
    """What is stored of a trial, {} if nothing; UserError if it was made otherwise."""
    path = folder / trial.name / "trial.json"
    if not path.is_file():
        return {}
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        raise UserError(f"{path} is not JSON: delete the folder {path.parent} and run again") from None
    wanted = trial.made_by()
    # The function by its own name: a module that is moved changes no result.
    names = [str(made.get("function")).rpartition(":")[2] for made in (stored, wanted)]
    if names[0] != names[1] or stored.get("arguments") != wanted["arguments"]:
        before, now = stored.get("arguments", {}), wanted["arguments"]
        other = [
            f"{k} was {before.get(k)!r}, is {now.get(k)!r}" for k in {**now, **before} if before.get(k) != now.get(k)
        ]
        why = "; ".join(other) or f"function was {stored.get('function')}, is {wanted['function']}"
        raise UserError(
            f"{path.parent} holds this trial made otherwise ({why}): choose another folder or delete this one"
        )
    return stored
