"""The options of experiments, their --quick and --full forms, and the command that makes records again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from dan.errors import UserError, nearest
from experiments.framework.records import Record

# Options that change nothing of what is recorded, or say where this machine keeps its files.
UNTOLD = ("out", "data", "quick", "full", "workers", "cluster", "image_cache", "quiet")


@dataclass(frozen=True)
class Options:
    """The options of all experiments; an experiment's own are fields of a subclass.

    NAME: of the experiment. QUICK, FULL: what --quick and --full stand for. UNTOLD: options that are left out of the
    commands in records.
    """

    NAME: ClassVar[str] = ""
    QUICK: ClassVar[Mapping[str, Any]] = {}
    FULL: ClassVar[Mapping[str, Any]] = {}
    UNTOLD: ClassVar[tuple[str, ...]] = (*UNTOLD, "search")  # what a search chose is told, not where it is from

    out: Path | None = None
    """folder of the trials, records and report (default: runs/NAME, with --quick runs/NAME_quick)"""
    data: Path | None = None
    """folder of data sets (also: ACTIVE_DAN_DATA)"""
    image_cache: Path | None = None
    """folder for decoded images; outputs of frozen backbones are kept beside it (default: the user's cache folder)"""
    quick: bool = False
    """a small form that shows whether everything works"""
    workers: int = 2
    """trials at a time, one thread each"""
    cluster: str | None = None
    """run the trials on a cluster's workers: dask://HOST:PORT"""
    quiet: bool = False
    """no progress bar"""

    def check(self) -> None:
        """Raise UserError for a mistake that would otherwise show only after some training."""

    def resolve(self: Config) -> tuple[Config, Record]:
        """(these options with what they leave open filled in, what every record says of that)."""
        return self, {}

    def extra_records(self) -> Sequence[Record]:
        """Records that are no trial's of a cell: those of a search."""
        return ()

    @property
    def folder(self) -> Path:
        """Where trials, records and the report are kept."""
        form = "_quick" if self.quick else "_full" if getattr(self, "full", False) else ""
        return self.out or Path("runs") / f"{self.NAME}{form}"


Config = TypeVar("Config", bound=Options)


def reduced(config: Config) -> Config:
    """The options with the values of --quick or --full wherever the defaults were left.

    Raises UserError if both are given.
    """
    full = bool(getattr(config, "full", False))
    if full and config.quick:
        raise UserError("--quick and --full are two forms: name one of them")
    if not full and not config.quick:
        return config
    form = config.QUICK if config.quick else config.FULL
    defaults = type(config)()
    return replace(config, **{k: v for k, v in form.items() if getattr(config, k) == getattr(defaults, k)})


def command_of(config: Options, **only: Any) -> str:
    """The command that makes these records again, or with `only` (option = value or values) one cell of them."""
    return one_line(words_of(config, untold=config.UNTOLD, **only))


def words_of(config: Any, *, untold: Sequence[str] = UNTOLD, **only: Any) -> list[str]:
    """The words of `command_of`, as a program is given them: all options but those `untold` that are not as usual."""
    forms = {name: True for name in ("quick", "full") if getattr(config, name, False)}
    words = ["python", "-m", "experiments", "run", config.NAME, *(f"--{name}" for name in forms)]
    like = reduced(replace(type(config)(), **forms))
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    changed = {k: v for k, v in values.items() if k not in (*untold, *only) and v != getattr(like, k)}
    for name, value in {**changed, **only}.items():
        words += ["--" + name.replace("_", "-"), *map(str, value if isinstance(value, tuple) else [value])]
    return words


def one_line(words: Sequence[str]) -> str:
    """The words as a shell reads them: a space, or the parentheses of a code, would mean something to it."""
    return " ".join(f'"{word}"' if " " in word else shlex.quote(word) for word in words)


# --- checks of options ------------------------------------------------------------------------------------------------


def check_names(flag: str, given: Sequence[str], known: Sequence[str], *, some: bool = False) -> None:
    """Raises UserError for a name that is not known, or named twice; some: for none at all, too."""
    for name in given:
        if name not in known:
            raise UserError(f'--{flag}: there is no "{name}"{nearest(name, known)}; there are: {", ".join(known)}')
    if len(set(given)) < len(given):
        raise UserError(f"--{flag} names something twice: {' '.join(given)}")
    if some and not given:
        raise UserError(f"--{flag} needs at least one of: {', '.join(known)}")


def check_least(config: Any, *names: str, least: int = 1) -> None:
    """Raises UserError for a number among the settings `names` that is below `least`."""
    for name in names:
        if getattr(config, name) < least:
            raise UserError(f"--{name.replace('_', '-')} must be {least} or more, not {getattr(config, name)}")


def check_samples(config: Any, *names: str, least: int = 100) -> None:
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
