"""Runs what is missing of an experiment's trials, part by part, and writes its records."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dan.locks import lock_dir
from experiments.framework.options import Options
from experiments.framework.records import Record, write
from experiments.framework.trials import Outcome, Trial, run_trials


def run_part(config: Options, trials: Sequence[Trial], title: str = "") -> Outcome:
    """Run what is missing of these trials; with a title, say how many are done and how long it took."""
    began = time.perf_counter()
    outcome = run_trials(
        trials, folder=config.folder, workers=config.workers, cluster=config.cluster, quiet=config.quiet
    )
    if title and not config.quiet:
        took = time.perf_counter() - began
        print(f"{title}: {len(outcome.results)} of {len(trials)} trials done, {took:.0f} s", file=sys.stderr)
    return outcome


def run_experiment(
    config: Options,
    parts: Sequence[Sequence[Trial]] | Mapping[str, Sequence[Trial]],
    records_of: Callable[[Mapping[str, Any]], list[Record]],
    report: Callable[[Path], Path],
) -> int:
    """Run what is missing, write the records and make the report after each part; exit code 1 if a trial failed.

    A trial waits for trials of its own part only. A part may hold trials of an earlier one: they are read. Parts that
    have titles are told as they are done.
    """
    titled = parts.items() if isinstance(parts, Mapping) else [("", trials) for trials in parts]
    began, page = time.perf_counter(), None
    results: dict[str, Any] = {}
    failed: dict[str, str] = {}
    with lock_dir(config.folder):  # over all parts: nobody comes in between
        for title, trials in titled:
            outcome = run_part(config, trials, title)
            results |= outcome.results
            failed |= outcome.failed
            if records := records_of(results):
                write(config.folder, records)
                if any(record["selection"] for record in records):
                    page = report(config.folder)
    for line in failed.values():
        print(f"failed: {line}", file=sys.stderr)
    if page is not None:
        print((config.folder / "table.md").read_text(encoding="utf-8"))
        print(f"took: {time.perf_counter() - began:.0f} s\nreport: {page}")
    return 1 if failed else 0
