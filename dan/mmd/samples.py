"""What every function of `dan.mmd` takes as a sample: a tensor or an array (N, F) of floating-point features.

Shapes: N, M samples; F features.
"""

import warnings

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

Sample = Tensor | ArrayLike


def as_samples(x: Sample, y: Sample) -> tuple[Tensor, Tensor]:
    """x (N, F) and y (M, F) as tensors on one device; an array shares its memory where it can, and has no gradient.

    Arrays of integers become float64, as in scikit-learn; an array goes to the device of the other sample.
    Raises ValueError for other shapes, tensors that are not floating-point, arrays that hold no numbers or masked
    entries, and tensors on two devices.
    """
    device = next((z.device for z in (x, y) if isinstance(z, Tensor)), None)
    x, y = to_tensor("x", x, device), to_tensor("y", y, device)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        hint = ": a single feature is a column, x[:, None]" if 1 in (x.ndim, y.ndim) else ""
        raise ValueError(f"x and y must be (N, F) and (M, F), not {tuple(x.shape)} and {tuple(y.shape)}{hint}")
    if not (x.is_floating_point() and y.is_floating_point()):
        raise ValueError(f"x and y must hold floating-point features, not {x.dtype} and {y.dtype}: call x.float()")
    if x.device != y.device:
        raise ValueError(f"x is on {x.device} and y on {y.device}: move one of them, x.to(y.device)")
    return x, y


def largest_entry(x: Tensor, y: Tensor) -> str:
    """Where the largest entry of two samples is, for a message: "row 3 of x holds 1e+20". NaN counts as largest."""
    found = []
    for name, sample in (("x", x), ("y", y)):
        if sample.numel():
            sizes = sample.detach().abs().nan_to_num(torch.inf, torch.inf)
            row, column = divmod(int(sizes.argmax()), sample.shape[1])
            found.append((float(sizes[row, column]), f"row {row} of {name} holds {float(sample[row, column]):g}"))
    return max(found)[1]


def to_tensor(name: str, values: Sample, device: torch.device | None) -> Tensor:
    """An array as a tensor on that device; a tensor as it is. `name` is what messages call it."""
    if isinstance(values, Tensor):
        if values.layout != torch.strided:
            raise ValueError(f"{name} must be dense, not {values.layout}: call {name}.to_dense()")
        return values
    if np.ma.is_masked(values):
        row = int(np.argwhere(np.ma.getmaskarray(np.ma.asarray(values)))[0, 0])
        raise ValueError(f"row {row} of {name} has masked entries: fill them with real values, or leave the row out")
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold numbers, not {array.dtype}")
    if array.dtype.kind != "f" or array.itemsize > 8:
        array = array.astype(np.float64)
    elif not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(stride < 0 or stride % array.itemsize for stride in array.strides):
        array = array.copy()  # torch cannot view it
    with warnings.catch_warnings():
        # Read-only, as a file mapped into memory may be: nothing here writes into a sample.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array).to(device)
