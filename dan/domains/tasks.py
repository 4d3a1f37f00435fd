"""Transfers by name: `<set>_<source>2<target>` -> a labelled source and a target, each as torch data sets of (x, y).

A new set brings a module of its own, and one line for each of its transfers in TASKS. Nothing is read or drawn before
`load_task` calls a task's loader.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, TensorDataset

from dan.domains import digits, rendered
from dan.errors import UserError, nearest


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """A source and a target domain over the same classes.

    Every item of the four data sets is (x, y): x a float32 tensor (channels, height, width), already normalised, and y
    the index of a class. The target's labels are for the simulated oracle of active learning and for evaluation only.
    """

    name: str
    classes: tuple[str, ...]
    source: Dataset[Any]
    source_test: Dataset[Any]
    target: Dataset[Any]
    target_test: Dataset[Any]
    backbone: str = "lenet"  # the network that suits the size of the images


def load_task(name: str, data: str | Path | None = None) -> Transfer:
    """The transfer called `name`, one of TASKS; `data` is the folder of data sets (None: the default one).

    Raises UserError where no task has that name, with the nearest name and the list.
    """
    if name not in TASKS:
        raise UserError(f'unknown task "{name}"{nearest(name, list(TASKS))}; the tasks are: {", ".join(sorted(TASKS))}')
    return TASKS[name](None if data is None else Path(data))


SOURCE_COUNT, SOURCE_SEED = 3000, 0
SOURCE_TEST_COUNT, SOURCE_TEST_SEED = 500, 1


def _rendered2digits(_data: Path | None) -> Transfer:
    """Rendered fonts -> handwritten scans, (1, 16, 16): embedded, so the folder of data sets is not looked at."""
    scans, labels = digits.scans()
    train, test = digits.split()
    return Transfer(
        name="rendered2digits",
        classes=tuple("0123456789"),
        source=_normalised(*rendered.render(SOURCE_COUNT, SOURCE_SEED)),
        source_test=_normalised(*rendered.render(SOURCE_TEST_COUNT, SOURCE_TEST_SEED)),
        target=_normalised(scans[train], labels[train]),
        target_test=_normalised(scans[test], labels[test]),
    )


def _normalised(images: NDArray[np.float32], labels: NDArray[np.int64]) -> TensorDataset:
    """Grey images (N, H, W) in [0, 1] -> x = (image - 0.5) / 0.5 as (N, 1, H, W), with y: constants, no statistics."""
    return TensorDataset((torch.tensor(images)[:, None] - 0.5) / 0.5, torch.tensor(labels))


# Each name -> its loader, which gets the folder of data sets (None: the default one).
TASKS: dict[str, Callable[[Path | None], Transfer]] = {
    "rendered2digits": _rendered2digits,
}
