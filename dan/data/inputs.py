"""What a user gives as a domain, as a data set that training and evaluation read: `as_labelled`, `as_unlabelled`.

    (X, y)   X   {"x": X, "y": y}   TensorDataset   any map-style data set   ->   a data set of (x, y), y = -1: unknown

Arrays become a TensorDataset of the network's floating-point type and int64. A data set that gives that already is
returned as it is. Any other is wrapped: its items are converted and checked batch by batch, so that nothing is decoded
in advance; only labels that lie in memory are checked at once.

Shapes: N samples; C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from dan.data.batched import BatchedDataset
from dan.data.batches import fetch, gives_batches, is_plain
from dan.data.items import UNKNOWN, as_class_numbers, as_features, as_tensor, split_item
from dan.errors import UserError

Input = Any  # (X, y), X, a mapping of both, or a map-style data set: what `as_labelled` and `as_unlabelled` take


@dataclass(frozen=True)
class Rule:
    """What a data set must hold: x of `dtype`; where `labelled`, every y in 0, ..., C - 1. name: for messages."""

    name: str
    labelled: bool
    num_classes: int | None
    dtype: torch.dtype

    def labels(self, y: Any, indices: Tensor | None = None) -> Tensor:
        """y as (N,) int64; of an unlabelled set, -1 is a label too. indices: positions, for messages."""
        return as_class_numbers(y, self.name, num_classes=self.num_classes, unknown=not self.labelled, indices=indices)

    def features(self, x: Tensor) -> Tensor:
        """x (N, ...) as `dtype`."""
        return as_features(x, self.name, self.dtype)


class CheckedDataset(BatchedDataset, Dataset[tuple[Tensor, int]]):
    """A map-style data set whose batches are converted and checked by a rule.

    Of an unlabelled set, labels that are integers pass as they are: training never reads them.
    after_stages, fingerprint: those of the data set, if it has any (see `dan.feature_cache`).
    """

    def __init__(self, data: Any, rule: Rule) -> None:
        self.data, self.rule = data, rule
        self.after_stages: int = getattr(data, "after_stages", 0)
        self.fingerprint: str | None = getattr(data, "fingerprint", None)

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, indices: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """The samples at those positions: x (B, ...) and y (B,). Raises UserError that names the data set and item."""
        x, y = fetch(self.data, indices, generator, name=self.rule.name)
        if self.rule.labelled or y.is_floating_point():
            y = self.rule.labels(y, indices)
        return self.rule.features(x), y.to(torch.int64)


def as_labelled(
    data: Input, *, name: str, num_classes: int | None = None, dtype: torch.dtype = torch.float32
) -> Dataset[Any]:
    """A data set of (x, y), y in 0, ..., C - 1, of what a user gives: see the module.

    name: what messages call it, such as "source". num_classes: C, None where it is not known. dtype: of x.
    Raises UserError for what cannot be read at positions, for an empty set, and for labels that are missing, text,
    one-hot, NaN or out of range: where labels lie in memory at once, otherwise when the batch is read.
    """
    return _as_dataset(data, Rule(name, True, num_classes, dtype))


def as_unlabelled(data: Input, *, name: str, dtype: torch.dtype = torch.float32) -> Dataset[Any]:
    """A data set of (x, y) whose labels need not be known: y is -1 where there is none.

    Labels that are there are kept, for evaluation. The arguments and errors are those of `as_labelled`; of labels that
    lie in memory, those below -1 are refused (-100, which PyTorch's losses leave out).
    """
    return _as_dataset(data, Rule(name, False, None, dtype))


def prepare_inputs(
    model: nn.Module,
    source: Input,
    target: Input,
    labelled_target: Input | None = None,
    tests: Mapping[str, Input] | None = None,
) -> tuple[Dataset[Any], Dataset[Any], Dataset[Any] | None, dict[str, Dataset[Any]]]:
    """What a training reads, as data sets: (source, target, labelled_target, tests), for this network's classes.

    Raises UserError, which names the argument: see `as_labelled`, `as_unlabelled`.
    """
    classes, dtype = classes_of(model), dtype_of(model)
    return (
        as_labelled(source, name="source", num_classes=classes, dtype=dtype),
        as_unlabelled(target, name="target", dtype=dtype),
        None
        if labelled_target is None
        else as_labelled(labelled_target, name="labelled_target", num_classes=classes, dtype=dtype),
        {
            key: as_labelled(data, name=f'tests["{key}"]', num_classes=classes, dtype=dtype)
            for key, data in (tests or {}).items()
        },
    )


def classes_of(model: nn.Module) -> int | None:
    """C of a `DAN`; None for another network."""
    settings = getattr(model, "settings", None)
    return settings.get("num_classes") if isinstance(settings, Mapping) else None


def dtype_of(model: nn.Module) -> torch.dtype:
    """The type of the network's first floating-point parameter."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())


def _as_dataset(data: Input, rule: Rule) -> Dataset[Any]:
    if isinstance(data, CheckedDataset):
        if data.rule.dtype == rule.dtype and not rule.labelled:
            return data
        data = data.data  # checked by another rule: start again
    arrays = _arrays(data, rule.name)
    if arrays is not None:
        return _of_arrays(*arrays, rule)
    _refuse_unreadable(data, rule.name)
    labels = _labels_at_hand(data, rule.name)
    if labels is not None:
        rule.labels(labels)
    if _is_ready(data, rule.dtype) and (labels is not None or not rule.labelled):
        return data
    return CheckedDataset(data, rule)


def _arrays(data: Input, name: str) -> tuple[Any, Any] | None:
    """(X, y) of data that lie in arrays, y None where there is none; None for a data set."""
    if hasattr(data, "toarray"):
        raise UserError(f"{name} is a sparse matrix: give X.toarray()")
    if data is None or isinstance(data, (str, bytes)):
        raise UserError(f"{name} is {data!r}: give (X, y), X, or a data set")
    if type(data) is TensorDataset:
        data = data.tensors
    if isinstance(data, tuple) and (not data or not _is_array(data[0])):
        raise UserError(f"{name} is a tuple that does not start with an array: give arrays (X, y), or one data set")
    if isinstance(data, (Mapping, tuple)):
        return split_item(data, name)
    return (data, None) if _is_array(data) else None


def _is_array(data: Any) -> bool:
    if isinstance(data, list):  # of numbers, or of lists of them; a list of (x, y), of dicts or of arrays is a data set
        return bool(data) and isinstance(data[0], (int, float, str, list, np.generic))
    return isinstance(data, Tensor) or hasattr(data, "__array__")


def _of_arrays(x: Any, y: Any, rule: Rule) -> TensorDataset:
    name = rule.name
    try:
        x = as_tensor(x)
    except (TypeError, ValueError):
        raise UserError(f"{name} has features that are not numbers: give an array (N, F) of numbers") from None
    if x.ndim == 0 or len(x) == 0:
        raise UserError(f"{name} is empty: give at least one sample")
    if x.ndim == 1:
        raise UserError(f"{name} has X of shape {tuple(x.shape)}: give (N, F), such as X.reshape(-1, 1)")
    if y is None and rule.labelled:
        raise UserError(f"{name} has no labels: give (X, y)")
    labels = torch.full((len(x),), UNKNOWN) if y is None else rule.labels(y)
    if len(labels) != len(x):
        raise UserError(f"{name} has {len(x)} samples and {len(labels)} labels: give one label a sample")
    return TensorDataset(rule.features(x), labels)


def _refuse_unreadable(data: Any, name: str) -> None:
    if isinstance(data, DataLoader):
        raise UserError(f"{name} is a DataLoader: give its data set, loader.dataset; batches are drawn from that")
    if isinstance(data, IterableDataset):
        raise UserError(f"{name} is an IterableDataset: give a map-style data set, with __len__ and __getitem__")
    if not hasattr(type(data), "__getitem__") or not hasattr(type(data), "__len__"):
        raise UserError(
            f"{name} is a {type(data).__name__}: give (X, y), X, or a map-style data set, with __len__ and __getitem__"
        )
    if len(data) == 0:
        raise UserError(f"{name} is empty: give at least one sample")


def _is_ready(data: Any, dtype: torch.dtype) -> bool:
    """Whether batches of this data set need no conversion."""
    if is_plain(data, Subset):
        return _is_ready(data.dataset, dtype)
    if is_plain(data, TensorDataset):
        return len(data.tensors) > 1 and data.tensors[0].dtype == dtype and data.tensors[1].dtype == torch.int64
    return gives_batches(data)


def _labels_at_hand(data: Any, name: str) -> Tensor | NDArray[Any] | None:
    """All labels (N, ...) where they lie in memory and are known to be those of the items; None elsewhere."""
    if is_plain(data, Subset):
        whole = _labels_at_hand(data.dataset, name)
        return None if whole is None else whole[list(data.indices)]
    if is_plain(data, TensorDataset):
        return data.tensors[1] if len(data.tensors) > 1 else None
    labels = getattr(data, "targets", None)
    if isinstance(labels, Tensor) and gives_batches(data):
        return labels
    if not isinstance(labels, Tensor):
        labels = np.asarray(labels) if isinstance(labels, (list, tuple)) or hasattr(labels, "__array__") else None
    if labels is None or labels.ndim == 0 or len(labels) != len(data):
        return None
    # Where a data set transforms its labels, `targets` may hold them as they were before: the first item shows it.
    _, first = split_item(data[0], name, 0)
    return labels if first is not None and bool(np.all(np.asarray(first) == np.asarray(labels[0]))) else None
