"""What experiments of one command share: their --quick form, the command that makes records again, checks of settings,
running what is missing."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from dan.errors import UserError, nearest
from dan.locks import lock_dir
from experiments.records import Record, to_lines, write_text
from experiments.trials import Outcome, Trial, run_trials

# Flags that change nothing of what is recorded, or would say where this machine keeps its files.
UNTOLD = ("out", "data", "quick", "workers", "cluster", "image_cache", "quiet")


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
    return one_line(words_of(config, untold=(*UNTOLD, "search"), **only))


def words_of(config: Settings, *, untold: Sequence[str] = UNTOLD, **only: Any) -> list[str]:
    """The words of `command_of`, as a program is given them: all flags but those `untold` that are not as usual."""
    words = ["python", "-m", "experiments", "run", config.NAME, *(["--quick"] if config.quick else [])]
    like = reduced(replace(type(config)(), quick=config.quick))
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    changed = {k: v for k, v in values.items() if k not in (*untold, *only) and v != getattr(like, k)}
    for name, value in {**changed, **only}.items():
        words += ["--" + name.replace("_", "-"), *map(str, value if isinstance(value, tuple) else [value])]
    return words


def one_line(words: Sequence[str]) -> str:
    """The words as a shell reads them: a space, or the parentheses of a code, would mean something to it."""
    return " ".join(f'"{word}"' if " " in word else shlex.quote(word) for word in words)


# --- checks of settings -----------------------------------------------------------------------------------------------


def check_names(flag: str, given: Sequence[str], known: Sequence[str], *, some: bool = False) -> None:
    """Raises UserError for a name that is not known, or named twice; some: for none at all, too."""
    for name in given:
        if name not in known:
            raise UserError(f'--{flag}: there is no "{name}"{nearest(name, known)}; there are: {", ".join(known)}')
    if len(set(given)) < len(given):
        raise UserError(f"--{flag} names something twice: {' '.join(given)}")
    if some and not given:
        raise UserError(f"--{flag} needs at least one of: {', '.join(known)}")


def check_least(config: Settings, *names: str, least: int = 1) -> None:
    """Raises UserError for a number among the settings `names` that is below `least`."""
    for name in names:
        if getattr(config, name) < least:
            raise UserError(f"--{name.replace('_', '-')} must be {least} or more, not {getattr(config, name)}")


def check_samples(config: Settings, *names: str, least: int = 100) -> None:
    """Raises UserError for a largest count of images among the settings `names` that is below `least`, and not 0."""
    for name in names:
        if 0 != getattr(config, name) < least:
            raise UserError(f"--{name} must be {least} or more, or 0 for all, not {getattr(config, name)}")


def check_strategies(tasks: Sequence[str], strategies: Sequence[str]) -> None:
    """Raises UserError for no task, for no strategy, one that there is not, and one named twice."""
    from active.strategies import get_strategy

    for strategy in strategies:
        get_strategy(strategy)
    if not tasks or not strategies or len(set(strategies)) < len(strategies):
        raise UserError("--tasks and --strategies need one or more different names each")


def check_runs(seeds: Sequence[int], steps: int) -> None:
    """Raises UserError for no seed, one named twice, and less than one step."""
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds needs one or more different numbers, not {list(seeds)}")
    if steps < 1:
        raise UserError(f"--steps must be 1 or more, not {steps}")


# --- running ----------------------------------------------------------------------------------------------------------


def run_part(config: Settings, trials: Sequence[Trial], title: str = "") -> Outcome:
    """Run what is missing of these trials; with a title, say how many are done and how long it took."""
    began = time.perf_counter()
    outcome = run_trials(trials, folder=config.out, workers=config.workers, cluster=config.cluster, quiet=config.quiet)
    if title and not config.quiet:
        took = time.perf_counter() - began
        print(f"{title}: {len(outcome.results)} of {len(trials)} trials done, {took:.0f} s", file=sys.stderr)
    return outcome


def run_experiment(
    config: Settings,
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
    with lock_dir(config.out):  # over all parts: nobody comes in between
        for title, trials in titled:
            outcome = run_part(config, trials, title)
            results |= outcome.results
            failed |= outcome.failed
            if records := records_of(results):
                write_text(config.out / "records.jsonl", to_lines(records))
                if any(record["selection"] for record in records):
                    page = report(config.out)
    for line in failed.values():
        print(f"failed: {line}", file=sys.stderr)
    if page is not None:
        print((config.out / "table.md").read_text(encoding="utf-8"))
        print(f"took: {time.perf_counter() - began:.0f} s\nreport: {page}")
    return 1 if failed else 0
