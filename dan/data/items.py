"""What users' data sets hold, as tensors: an item is x, (x, y, ...) or a dict; x and y are converted or refused.

    x   floating point of the network's type; integers are converted, but for images of uint8, whose scale is not known
    y   int64 class numbers 0, ..., C - 1; -1 where the class is unknown

Every refusal is one line that names the data set, the item and the remedy.

Shapes: N, B samples; C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dan.errors import UserError

UNKNOWN = -1  # the label of a sample whose class is not known
X_KEYS = ("x", "image", "images", "img", "pixel_values", "features", "input", "inputs", "data")
Y_KEYS = ("y", "label", "labels", "target", "targets", "class")
ENCODE = "give class numbers 0, ..., C - 1 (dan.DANClassifier encodes text labels itself)"


def split_item(item: Any, name: str, index: int | None = None) -> tuple[Any, Any | None]:
    """(x, y) of one item: y is None for x alone; of a longer tuple the first two fields count.

    Raises UserError for a dict without a key of X_KEYS, and for an empty tuple.
    """
    if isinstance(item, Mapping):
        found = next((key for key in X_KEYS if key in item), None)
        if found is None:
            raise UserError(
                f"{_item(name, index)} has the keys {', '.join(map(str, item))}: call the features one of "
                + ", ".join(X_KEYS)
            )
        return item[found], next((item[key] for key in Y_KEYS if key in item), None)
    if isinstance(item, (tuple, list)):
        if not item:
            raise UserError(f"{_item(name, index)} is empty: an item is x or (x, y)")
        return item[0], item[1] if len(item) > 1 else None
    return item, None


def stack_items(items: Sequence[Any], indices: Sequence[int], name: str) -> tuple[Tensor, Tensor]:
    """Items at those positions as one batch: x (B, ...) as they are, y (B, ...), -1 for items without one.

    Raises UserError for images that are not tensors, for x of different shapes, and for text labels.
    """
    pairs = [split_item(item, name, index) for item, index in zip(items, indices, strict=True)]
    xs = [_one_x(x, name, index) for (x, _), index in zip(pairs, indices, strict=True)]
    for x, index in zip(xs, indices, strict=True):
        if x.shape != xs[0].shape:
            raise UserError(
                f"{_item(name, index)} has the shape {tuple(x.shape)}, and item {indices[0]} {tuple(xs[0].shape)}: "
                "bring all to one shape in the data set's transform"
            )
    ys = [UNKNOWN if y is None else _one_y(y, name, index) for (_, y), index in zip(pairs, indices, strict=True)]
    return torch.stack(xs), torch.tensor(ys)


def as_tensor(values: Any) -> Tensor:
    """An array, a tensor or numbers as a tensor; memory is shared where that is safe, and read-only arrays copied."""
    if isinstance(values, Tensor):
        return values.detach()
    array = np.asarray(values)
    unusual = not array.flags.writeable or not array.dtype.isnative or any(step < 0 for step in array.strides)
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C") if unusual else array)


def as_features(x: Tensor, name: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """x (N, ...) in the network's floating-point type. Raises UserError for uint8 images, complex numbers and (N,)."""
    if x.dtype == dtype:
        return x
    if x.is_complex():
        raise UserError(f"{name} has complex features: give real ones, such as their absolute values")
    if x.dtype == torch.uint8 and x.ndim > 2:
        raise UserError(f"{name} has images of uint8 pixels: scale them first, such as x.float() / 255")
    return x.to(dtype)


def as_class_numbers(
    y: Any, name: str, *, num_classes: int | None = None, unknown: bool = False, indices: Tensor | None = None
) -> Tensor:
    """Labels (N,) as int64: from integers of any width, bool, whole floating-point numbers, and (N, 1).

    num_classes: C, the upper bound; None checks none. unknown: -1 is allowed. indices: (N,) the items' positions in
    the data set, for messages. Raises UserError for text, one-hot and fractional labels, NaN, and what is out of range.
    """
    values = y.detach() if isinstance(y, Tensor) else np.asarray(y)
    if not isinstance(values, Tensor):
        if values.dtype.kind not in "biuf":
            shown = f" ({values.reshape(-1)[0]!s})" if values.size else ""
            raise UserError(f"{name} has labels that are not numbers{shown}: {ENCODE}")
        values = as_tensor(values.astype(np.int64) if values.dtype.kind == "u" else values)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 2:
        raise UserError(f"{name} has labels of shape {tuple(values.shape)}, as one-hot ones have: give y.argmax(1)")
    if values.ndim != 1:
        raise UserError(f"{name} has labels of shape {tuple(values.shape)}: give one class number a sample, (N,)")
    if values.is_floating_point() or values.is_complex():
        _refuse_first(values != values, values, name, indices, "remove the sample, or in a target give -1: unknown")
        _refuse_first(values != values.round(), values, name, indices, "classes are whole numbers: this is regression")
    values = values.to(torch.int64)
    lowest = UNKNOWN if unknown else 0
    remedy = "in a target give -1 for an unknown class" if unknown else "every sample here needs its class, from 0 on"
    _refuse_first(values < lowest, values, name, indices, remedy)
    if num_classes is not None:
        remedy = f"the classes are 0, ..., {num_classes - 1}; build the network with more, or renumber the labels"
        _refuse_first(values >= num_classes, values, name, indices, remedy)
    return values


def _refuse_first(bad: Tensor, values: Tensor, name: str, indices: Tensor | None, remedy: str) -> None:
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        index = row if indices is None else int(indices[row])
        raise UserError(f"{_item(name, index)} has the label {values[row].item()}: {remedy}")


def _item(name: str, index: int | None) -> str:
    return name if index is None else f"item {index} of {name}"


def _one_x(x: Any, name: str, index: int) -> Tensor:
    if isinstance(x, Tensor) or hasattr(x, "__array_interface__") and not hasattr(x, "getbands"):
        return as_tensor(x)
    if hasattr(x, "getbands"):  # a PIL image
        raise UserError(
            f"{_item(name, index)} is a PIL image: give the data set a transform to tensors, such as "
            "torchvision.transforms.ToTensor()"
        )
    try:
        return as_tensor(np.asarray(x, dtype=np.float64 if np.asarray(x).dtype.kind == "f" else None))
    except (TypeError, ValueError):
        raise UserError(
            f"{_item(name, index)} has features of the type {type(x).__name__}: give tensors or arrays"
        ) from None


def _one_y(y: Any, name: str, index: int) -> Any:
    """One label as a Python number. Raises UserError for text and vectors."""
    if isinstance(y, str):
        raise UserError(f'{_item(name, index)} has the label "{y}": {ENCODE}')
    values = np.asarray(y.detach().cpu() if isinstance(y, Tensor) else y)
    if values.dtype.kind not in "biuf":
        raise UserError(f"{_item(name, index)} has a label of the type {type(y).__name__}: {ENCODE}")
    if values.size != 1:
        raise UserError(
            f"{_item(name, index)} has a label of shape {values.shape}, as one-hot ones have: give y.argmax()"
        )
    return values.reshape(-1)[0].item()
