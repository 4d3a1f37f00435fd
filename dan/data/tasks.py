"""Transfers by name: `<set>_<source>2<target>` -> a labelled source and a target, each as torch data sets of (x, y).

A new benchmark of images in folders is a row in `dan.data.benchmarks`; any other set brings a module of its own, and
a line for its transfers in TASKS. Nothing is read or drawn before `load_pair` calls a task's loader.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import TensorDataset

from dan.data import digits, folders, rendered
from dan.data.benchmarks import BENCHMARKS, domain_of
from dan.data.colon import PARTS, colon_transfer
from dan.data.digit_sets import COUNTS, DIGITS, SIZE, digit_set
from dan.data.domain_pair import DomainPair, Options, checked, source_split
from dan.data.paths import default_data
from dan.data.surf import CLASSES, FILES, surf
from dan.data.target_split import with_target_test
from dan.errors import UserError, nearest

__all__ = ["TASKS", "Options", "Task", "DomainPair", "load_pair"]


@dataclass(frozen=True)
class Task:
    """load(name, folder of data sets, options) -> the transfer; `takes`: the options that it has a use for."""

    load: Callable[[str, Path, Options], DomainPair]
    takes: frozenset[str] = frozenset()


def load_pair(name: str, data: str | Path | None = None, **options: Any) -> DomainPair:
    """The transfer called `name`, one of TASKS.

    data: the folder of data sets; None is the user's cache folder (`dan.data.paths`; doors ask `data_folder` there,
    which looks at ACTIVE_DAN_DATA too). options: see `dan.data.domain_pair.Options`; None stands for the default.

    Raises UserError where no task has that name, with the nearest name and the list; for an option that the task does
    not take; and for whatever is wrong with the data, before any of it is trained on.
    """
    if name == "cifar10":
        raise UserError(
            "cifar10 is one set and no transfer, so there is nothing to adapt to: dan.data.cifar10.cifar10(data) "
            "gives its training, validation and test parts"
        )
    if name not in TASKS:
        hint = nearest(name, list(TASKS))
        raise UserError(f'unknown task "{name}"{hint}; the tasks are: {", ".join(_families())}')
    task = TASKS[name]
    return task.load(name, default_data() if data is None else Path(data), checked(options, task.takes, name))


def _families() -> list[str]:
    """The names of the tasks, shortened: office31_<a|d|w>2<a|d|w> for six of them."""
    families: dict[str, tuple[list[str], list[str]]] = {}
    for name in TASKS:
        match = re.fullmatch(r"(.+)_([a-z]+)2([a-z]+)", name)
        family, sides = (name, ()) if match is None else (f"{match[1]}_", match.groups()[1:])
        for names, side in zip(families.setdefault(family, ([], [])), sides, strict=False):
            if side not in names:
                names.append(side)
    shown = []
    for family, (sources, targets) in families.items():
        left, right = ("|".join(sorted(names)) for names in (sources, targets))
        several = len(sources) > 1
        shown.append(f"{family}<{left}>2<{right}>" if several else f"{family}{left}2{right}" if left else family)
    return sorted(shown)


SOURCE_COUNT, SOURCE_SEED = 3000, 0
SOURCE_TEST_COUNT, SOURCE_TEST_SEED = 500, 1


def _rendered2digits(name: str, _data: Path, _options: Options) -> DomainPair:
    """Rendered fonts -> handwritten scans, (1, 16, 16): embedded, so the folder of data sets is not looked at."""
    scans, labels = digits.scans()
    train, test = digits.split()
    return DomainPair(
        name=name,
        classes=DIGITS,
        source=_normalised(*rendered.render(SOURCE_COUNT, SOURCE_SEED)),
        source_test=_normalised(*rendered.render(SOURCE_TEST_COUNT, SOURCE_TEST_SEED)),
        target=_normalised(scans[train], labels[train]),
        target_test=_normalised(scans[test], labels[test]),
        image_size=rendered.SIZE,
        normalisation="half",
    )


def _normalised(images: NDArray[np.float32], labels: NDArray[np.int64]) -> TensorDataset:
    """Grey images (N, H, W) in [0, 1] -> x = (image - 0.5) / 0.5 as (N, 1, H, W), with y: constants, no statistics."""
    return TensorDataset((torch.tensor(images)[:, None] - 0.5) / 0.5, torch.tensor(labels))


def _digits(source: str, target: str, name: str, data: Path, options: Options) -> DomainPair:
    """Two sets of digits, (1, 28, 28), in their publishers' splits for training and test."""
    read = functools.partial(digit_set, data=data, cache=options.cache, download=options.download, quiet=options.quiet)
    return DomainPair(
        name=name,
        classes=DIGITS,
        source=read(source, "train"),
        source_test=read(source, "test"),
        target=read(target, "train"),
        target_test=read(target, "test"),
        image_size=SIZE,
        normalisation="half",
    )


def _benchmark(family: str, source: str, target: str, name: str, data: Path, options: Options) -> DomainPair:
    benchmark = BENCHMARKS[family]
    sides = domain_of(benchmark, source, data), domain_of(benchmark, target, data)
    pair = folders.image_transfer(name, *sides, options, backbone=folders.PICTURES)
    return with_target_test(pair, options)


def _surf(source: str, target: str, name: str, data: Path, options: Options) -> DomainPair:
    train, held = source_split(surf(source, data), options.source_holdout)
    pair = DomainPair(
        name=name,
        classes=CLASSES,
        source=train,
        source_test=held,
        target=surf(target, data),
        backbone=folders.VECTORS,
        kind="vector",
        options=options.chosen,
    )
    return with_target_test(pair, options)


def _folders(name: str, _data: Path, options: Options) -> DomainPair:
    return with_target_test(folders.own_transfer(name, options), options)


_HOLDOUTS = frozenset({"source_holdout", "target_holdout"})
_PICTURES = _HOLDOUTS | {"image_size", "augment", "classes"}


def _all_tasks() -> dict[str, Task]:
    tasks = {"rendered2digits": Task(_rendered2digits)}
    for source in COUNTS:
        for target in COUNTS:
            if source != target:
                load = functools.partial(_digits, source, target)
                tasks[f"digits_{source}2{target}"] = Task(load, frozenset({"download"}))
    for family, benchmark in BENCHMARKS.items():
        # The lists of DomainNet split both domains already.
        split = any(domain.lists for domain in benchmark.domains.values())
        takes = _PICTURES - _HOLDOUTS if split else _PICTURES
        for source, target in benchmark.transfers:
            tasks[f"{family}_{source}2{target}"] = Task(functools.partial(_benchmark, family, source, target), takes)
    for source in FILES:
        for target in FILES:
            if source != target:
                load = functools.partial(_surf, source, target)
                tasks[f"office_caltech10_surf_{source}2{target}"] = Task(load, _HOLDOUTS)
    for source in PARTS:
        for target in PARTS:
            if source != target:
                load = functools.partial(colon_transfer, source, target)
                tasks[f"colon_{source}2{target}"] = Task(load, frozenset({"source_holdout"}))
    tasks["folders"] = Task(_folders, _PICTURES | {"source", "target", "target_test"})
    return tasks


# Each name -> its loader and the options that it takes.
TASKS: dict[str, Task] = _all_tasks()
