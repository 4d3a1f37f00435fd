"""What experiments of one command share: their --quick form, the command that makes records again, running what is
missing."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from dan.errors import UserError, nearest
from dan.locks import hold
from experiments.records import Record, to_lines, write_text
from experiments.trials import Trial, run_trials


class Settings(Protocol):
    """A dataclass of settings. NAME: of the experiment. QUICK: what --quick stands for."""

    NAME: ClassVar[str]
    QUICK: ClassVar[dict[str, Any]]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def out(self) -> Path:
        """Folder of the trials, records and report."""

    @property
    def quick(self) -> bool:
        """See whether it works."""

    @property
    def workers(self) -> int:
        """Trials at a time."""

    @property
    def cluster(self) -> str | None:
        """The cluster that trials run on; None: this machine."""

    @property
    def quiet(self) -> bool:
        """No progress bar."""


Config = TypeVar("Config", bound=Settings)


def reduced(config: Config) -> Config:
    """What --quick stands for: its values wherever the defaults were left."""
    if not config.quick:
        return config
    defaults = type(config)()
    small = {**config.QUICK, "out": Path(f"runs/{config.NAME}_quick")}
    return replace(config, **{k: v for k, v in small.items() if getattr(config, k) == getattr(defaults, k)})


def command_of(config: Settings, **only: Any) -> str:
    """The command that makes these records again, or with `only` (flag = value or values) one cell of them."""
    words = [f"python -m experiments run {config.NAME}"] + (["--quick"] if config.quick else [])
    like = reduced(replace(type(config)(), quick=config.quick))
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    hidden = ("out", "data", "quick", "workers", "cluster", "image_cache", "quiet", "search")
    changed = {k: v for k, v in values.items() if k not in (*hidden, *only) and v != getattr(like, k)}
    for name, value in {**changed, **only}.items():
        listed = value if isinstance(value, tuple) else [value]
        flag = "--" + name.replace("_", "-")
        # A shell reads each as one word: a space, or the parentheses of a code, would mean something to it.
        words.append(
            " ".join([flag, *(f'"{part}"' if " " in str(part) else shlex.quote(str(part)) for part in listed)])
        )
    return " ".join(words)


def check_names(flag: str, given: Sequence[str], known: Sequence[str]) -> None:
    """Raises UserError for a name that is not known, or named twice."""
    for name in given:
        if name not in known:
            raise UserError(f'--{flag}: there is no "{name}"{nearest(name, known)}; there are: {", ".join(known)}')
    if len(set(given)) < len(given):
        raise UserError(f"--{flag} names something twice: {' '.join(given)}")


def check_runs(seeds: Sequence[int], steps: int) -> None:
    """Raises UserError for no seed, one named twice, and less than one step."""
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds needs one or more different numbers, not {list(seeds)}")
    if steps < 1:
        raise UserError(f"--steps must be 1 or more, not {steps}")


def run_experiment(
    config: Settings,
    parts: Sequence[Sequence[Trial]],
    records_of: Callable[[Mapping[str, Any]], list[Record]],
    report: Callable[[Path], Path],
) -> int:
    """Run what is missing, write the records and make the report after each part; exit code 1 if a trial failed.

    A trial waits for trials of its own part only. A part may hold trials of an earlier one: they are read.
    """
    began, page = time.perf_counter(), None
    results: dict[str, Any] = {}
    failed: dict[str, str] = {}
    with hold(config.out):  # over all parts: nobody comes in between
        for trials in parts:
            outcome = run_trials(
                trials, folder=config.out, workers=config.workers, cluster=config.cluster, quiet=config.quiet
            )
            results |= outcome.results
            failed |= outcome.failed
            if records := records_of(results):
                write_text(config.out / "records.jsonl", to_lines(records))
                page = report(config.out)
    for line in failed.values():
        print(f"failed: {line}", file=sys.stderr)
    if page is not None:
        print((config.out / "table.md").read_text(encoding="utf-8"))
        print(f"took: {time.perf_counter() - began:.0f} s\nreport: {page}")
    return 1 if failed else 0
