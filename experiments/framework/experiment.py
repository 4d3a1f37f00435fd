"""An experiment as a declaration: its options, the cells of its table, how a trial's result is recorded, its report.

    EXPERIMENT = Experiment(options=MyOptions, summary="...", cells=cells, report=report)

From it come the command line (`python -m experiments run NAME`), --quick, the command of each cell, resuming, the
records and the report. A module of `experiments` with such an EXPERIMENT is an experiment; nothing else is registered.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Generic

from dan.cli.command_line import Command
from dan.locks import lock_dir
from experiments.framework.options import Config, Options, command_of, reduced
from experiments.framework.records import Record, read, write
from experiments.framework.report import Report, write_report
from experiments.framework.trials import Trial, run_trials

Results = Mapping[str, Any]  # name of a finished trial -> what it returned


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A row of the table on one task: what all of its records say, the options that select it alone, its trials.

    part: cells of a part are run before those of the next one; within a part, all cells of a seed before the next seed.
    """

    about: Record
    only: Mapping[str, Any]
    trials: Sequence[Trial]
    part: str = ""


def grid(config: Options, *axes: str) -> Iterator[tuple[dict[str, Any], tuple[Any, ...]]]:
    """The product of the options `axes`, the first varying slowest: ({axis: value as the command has it}, values)."""
    for values in product(*(getattr(config, axis) for axis in axes)):
        only = {a: f"{v:g}" if isinstance(v, float) else v for a, v in zip(axes, values, strict=True)}
        yield only, values


def evaluation_records(cell: Cell, trial: Trial, results: Results) -> list[Record]:
    """A record for each evaluation in the trial's result; the last one's selection is "last".

    A result is {"evaluations": [{"accuracy/target": ..., ...}, ...], "measured_on": machine()} and whatever else all of
    the records shall say.
    """
    result = dict(results[trial.name])
    evaluations, machine = result.pop("evaluations"), result.pop("measured_on")
    shared = {"selection": "", **cell.about, "seed": trial.arguments.get("seed", 0), **result, **machine}
    made = [{**shared, **{k: v for k, v in each.items() if k != "event"}} for each in evaluations]
    made[-1]["selection"] = "last"
    return made


def round_records(cell: Cell, trial: Trial, results: Results) -> list[Record]:
    """A record for each round in the trial's result, "last" the model of the round; `labels` are those of the round."""
    made = evaluation_records(cell, trial, results)
    for record in made:
        record |= {"labels": record.pop("labelled"), "selection": "last"}
    return made


@dataclass(frozen=True, kw_only=True)
class Experiment(Generic[Config]):
    """What an experiment is.

    options: a subclass of `Options`, whose NAME is the experiment's. summary: its line in the list. cells: what is
    measured with these options, in the order of the records. report: the report of records alone. records: what a
    finished trial of a cell records, from the results of all finished trials.

    """

    options: type[Config]
    summary: str
    cells: Callable[[Config], Sequence[Cell]]
    report: Callable[[Sequence[Record]], Report]
    records: Callable[[Cell, Trial, Results], list[Record]] = field(default=evaluation_records)

    @property
    def name(self) -> str:
        """As the command line has it."""
        return self.options.NAME

    @property
    def command(self) -> Command:
        """`run NAME`, with the experiment's options."""
        return Command(self.options, self.run, self.summary)

    def settled(self, given: Config) -> tuple[Config, Record]:
        """The checked options with their form's values and what a search chose filled in; what records say of that."""
        config = reduced(given)
        config.check()
        return config.resolve()

    def run(self, given: Config) -> int:
        """Run what is missing, write the records and the report after each part; exit code 1 if a trial failed."""
        config, said = self.settled(given)
        cells, began = self.cells(config), time.perf_counter()
        results: dict[str, Any] = {}
        failed: dict[str, str] = {}
        page = None
        with lock_dir(config.folder):
            for trials in parts_of(cells, getattr(config, "seeds", ())):
                kept: dict[str, Any] = {"workers": config.workers, "cluster": config.cluster, "quiet": config.quiet}
                outcome = run_trials(trials, folder=config.folder, **kept)
                results |= outcome.results
                failed |= outcome.failed
                if records := self.records_of(config, cells, results, said):
                    write(config.folder, records)
                    page = self.write_report(config.folder)
        for line in failed.values():
            print(f"failed: {line}", file=sys.stderr)
        if page is not None:
            print((config.folder / "table.md").read_text(encoding="utf-8"))
            print(f"took: {time.perf_counter() - began:.0f} s\nreport: {page}")
        return 1 if failed else 0

    def records_of(self, config: Config, cells: Sequence[Cell], results: Results, said: Record) -> list[Record]:
        """The records of all finished trials, cell by cell, then those of a search."""
        made: list[Record] = []
        for cell in cells:
            commands = {"command": command_of(config, **cell.only), "command_of_all": command_of(config)}
            shared = {"experiment": self.name, "paper": None, "provenance": "", **commands, **said}
            for trial in cell.trials:
                if trial.name in results:
                    made += [{**shared, **record} for record in self.records(cell, trial, results)]
        return [*made, *config.extra_records()] if made else []

    def write_report(self, folder: Path) -> Path:
        """Make the tables, figures and page of a folder again from its records; the path of the page."""
        records = read(folder)
        return write_report(folder, records, self.report(records))


def parts_of(cells: Sequence[Cell], seeds: Sequence[int]) -> list[list[Trial]]:
    """The trials in the order in which they are run: part by part, and in each the seeds one after the other.

    If time runs out, the seeds that are done have all their cells. A trial without a seed is of the first one's part.
    """
    order = {part: place for place, part in enumerate(dict.fromkeys(cell.part for cell in cells))}
    places = {seed: place for place, seed in enumerate(seeds)}
    parts: dict[tuple[int, int], list[Trial]] = {}
    for cell in cells:
        for trial in cell.trials:
            key = (order[cell.part], places.get(trial.arguments.get("seed"), 0))  # type: ignore[arg-type]
            parts.setdefault(key, []).append(trial)
    return [parts[key] for key in sorted(parts)]
