"""Features that somebody else has computed: a file of x (N, F), with labels y (N,) where there are some.

Shapes: N samples; F features.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dan.archive_limits import real_size, refuse_bomb
from dan.data.mat_file import read_mat
from dan.errors import UserError, nearest, print_warnings
from dan.run_dir import load_tensors

_BLOCK = 65536  # rows that are looked at together
_KEPT = (torch.float16, torch.float32, torch.float64)  # NumPy has no bfloat16 and float8, in which little is computed
SUFFIXES = (".npy", ".npz", ".pt", ".pth", ".mat")


@dataclass(frozen=True, eq=False, kw_only=True)
class Features:
    """x (N, F), floating point; y (N,) int64 as the file numbers them (MATLAB's often begin at 1), or None."""

    x: Tensor
    y: Tensor | None


def read_features(path: str | Path) -> Features:
    """Read a file of features; nothing in it is executed.

    .npy    x; y from NAME_labels.npy beside NAME.npy, if it is there. Stays on disk (memory-mapped), so it may be
            larger than the memory; what is written into the tensor does not reach the file
    .npz    arrays x and, if given, y
    .pt     a tensor x, or a dict of tensors x and, if given, y
    .mat    MATLAB's level 5, v5 to v7.2: fts and labels (as Office-Caltech's SURF features are published), or x and y

    x of half, single and double precision keeps it; bfloat16, float8 and whole numbers become float32. NaN is not
    looked for: that would read it all.
    Raises UserError for anything else: other suffixes, shapes, types, no rows, a file that is none of its kind.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f'{path}: features come in {", ".join(SUFFIXES)}, not "{suffix}"{nearest(suffix, SUFFIXES)}')
    if not path.is_file():
        raise UserError(f"{path} is not a file: name a file of features")
    if suffix == ".npy":
        return _from_npy(path)
    arrays = _npz(path) if suffix == ".npz" else _mat(path) if suffix == ".mat" else _pt(path)
    names = ("fts", "labels") if suffix == ".mat" and "fts" in arrays else ("x", "y")
    if names[0] not in arrays:
        expected = "fts (and labels) or x (and y)" if suffix == ".mat" else "x (and y)"
        found = ", ".join(str(name) for name in arrays if not str(name).startswith("__")) or "nothing"
        raise UserError(f"{path} holds {found}: expected {expected}")
    others = [str(name) for name in arrays if name not in names and not str(name).startswith("__")]
    if others and names[1] not in arrays:
        print_warnings(
            [f"{path}: {', '.join(others)[:200]} passed over: labels are what is called {names[1]}, and there are none"]
        )
    return _features(path, arrays[names[0]], path, arrays.get(names[1]))


LARGEST = 1e15  # beyond it squared distances lose their differences in float32: no measured feature, but a fill value


def refuse_unusable_rows(path: Path, x: Tensor) -> None:
    """Raises UserError, with the first row, for features that are NaN, infinite, or larger than LARGEST: what stands
    for a missing value (1e20, 9.97e36, 3.4e38) would decide every distance."""
    for begin in range(0, len(x), _BLOCK):  # the file may be larger than the memory
        block = x[begin : begin + _BLOCK]
        usable = block.abs() <= LARGEST  # false for NaN
        if bool(usable.all()):
            continue
        rows = begin + (~usable.all(1)).nonzero()[:, 0]
        count = int(sum((~(part.abs() <= LARGEST).all(1)).sum() for part in x.split(_BLOCK)))
        value = float(x[rows[0]][~(x[rows[0]].abs() <= LARGEST)][0])
        kind = "a fill value for what is missing, or damaged" if math.isfinite(value) else "missing, or damaged"
        words = "values beyond 1e15" if math.isfinite(value) else "NaN or infinite features"
        raise UserError(
            f"{path}: {count} of {len(x)} samples hold {words} (first: row {int(rows[0])}, {value:g}): {kind}; remove "
            "them, or fill in numbers of the features' own scale"
        )


def _from_npy(path: Path) -> Features:
    beside = path.with_name(f"{path.stem}_labels.npy")
    labels = _npy(beside) if beside.is_file() else None
    return _features(path, _npy(path), beside, labels)


def _npy(path: Path) -> NDArray[Any]:
    try:
        # "c", copy on write: torch warns of arrays that it may not write to. It never unpickles.
        return np.lib.format.open_memmap(path, mode="c")
    except Exception as error:  # noqa: BLE001  (a damaged header raises anything from ValueError to TokenError)
        raise _unreadable(path, "a NumPy array of numbers", error) from None


def _npz(path: Path) -> Mapping[str, Any]:
    refuse_bomb(path)
    try:
        with zipfile.ZipFile(path) as members:  # np.load would take what is no archive for a pickle, and say so
            for member in members.infolist():
                if member.filename in ("x.npy", "y.npy"):
                    with members.open(member) as file:
                        _check_claim(file, member.file_size)
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] if name in ("x", "y") else None for name in archive.files}
    except Exception as error:  # noqa: BLE001  (a damaged file raises anything from BadZipFile to TokenError)
        raise _unreadable(path, "an archive of NumPy arrays of numbers", error) from None


def _check_claim(file: IO[bytes], size: int) -> None:
    """Raises ValueError for an array whose header promises more than its member of an archive holds: memory for all
    that is promised would be asked for before anything is read."""
    version = np.lib.format.read_magic(file)
    shape, _, kind = (
        np.lib.format.read_array_header_1_0(file) if version == (1, 0) else np.lib.format.read_array_header_2_0(file)
    )
    if not kind.hasobject and math.prod(shape) * kind.itemsize > size:
        raise ValueError(f"its header promises an array of shape {shape}, and {size} bytes are there")


def _pt(path: Path) -> Mapping[str, Any]:
    try:
        loaded = load_tensors(path, "cpu")
    except UserError:
        raise
    except Exception:  # noqa: BLE001  (a damaged file raises anything from EOFError to UnpicklingError)
        # torch's own words advise to load it unsafely.
        raise UserError(
            f"{path} cannot be read as a tensor or a dict of tensors: it holds other objects, or is no torch.save file"
        ) from None
    if isinstance(loaded, Tensor):
        return {"x": loaded}
    if not isinstance(loaded, dict):
        raise UserError(f"{path} holds a {type(loaded).__name__}: expected a tensor x, or a dict of tensors x (and y)")
    return loaded


def _mat(path: Path) -> Mapping[str, Any]:
    try:
        return read_mat(path, ("fts", "labels", "x", "y"))
    except NotImplementedError:
        raise UserError(f"{path} is a MATLAB v7.3 file, which is not read: save it again with -v7") from None
    except Exception as error:  # noqa: BLE001  (a damaged file raises anything from ValueError to zlib.error)
        raise _unreadable(path, "a MATLAB file", error) from None


def _features(path: Path, x: Any, labels_path: Path, y: Any) -> Features:
    """Check and convert what a file held under the names of x and y."""
    features = _tensor(path, "x", x)
    if features.ndim != 2:
        shape = tuple(features.shape)
        raise UserError(f"{path}: x must be a matrix of samples times features, not of shape {shape}: flatten it first")
    if not features.numel():
        raise UserError(f"{path}: x is empty, of shape {tuple(features.shape)}")
    if not features.is_floating_point() or features.dtype not in _KEPT:
        features = features.float()
    if y is None:
        return Features(x=features, y=None)
    labels = _tensor(labels_path, "y", y)
    if labels.ndim == 2 and 1 in labels.shape:
        labels = labels.reshape(-1)  # MATLAB knows no vectors
    if labels.shape != (len(features),):
        shape = tuple(labels.shape)
        raise UserError(f"{labels_path}: y must be one label for each of {len(features)} samples, not of shape {shape}")
    limit = 2 / torch.finfo(labels.dtype).eps if labels.is_floating_point() else math.inf  # from there on it rounds
    kind, labels = labels.dtype, labels.double() if labels.is_floating_point() else labels
    whole = labels.to(torch.int64)
    if labels.is_floating_point() and not bool((labels.isfinite() & (labels == whole)).all()):
        raise UserError(f"{labels_path}: y must hold whole numbers, the classes of the samples")
    if bool((whole.abs() > limit).any()):
        raise UserError(
            f"{labels_path}: y holds {int(whole.abs().max())} in {str(kind).removeprefix('torch.')}, which "
            "rounds such numbers: save the labels as integers"
        )
    return Features(x=features, y=whole)


def _tensor(path: Path, name: str, value: Any) -> Tensor:
    """A dense tensor of real numbers; arrays keep their memory, mapped or not, where torch can use it as it is."""
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_complex() or value.is_quantized:
            raise UserError(f"{path}: {name} must be a dense tensor of real numbers")
        if not real_size(value):
            shape = tuple(value.shape)
            raise UserError(f"{path}: {name} of shape {shape} repeats the few numbers that are there: save it whole")
        return value.detach()
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise UserError(f"{path}: {name} must be an array of real numbers, not of {kind}")
    if value.dtype.kind == "f" and value.dtype.itemsize > 8:
        raise UserError(f"{path}: {name} is in {value.dtype}, which PyTorch does not have: save it as float64")
    if not value.dtype.isnative or (value.dtype.kind == "u" and value.dtype.itemsize > 1):
        # torch has no other byte order, and computes little with large unsigned integers.
        if value.dtype.kind == "u" and value.size and int(value.max()) > np.iinfo(np.int64).max:
            raise UserError(f"{path}: {name} holds {value.max()}, which is beyond 64 bits with a sign")
        value = value.astype(np.int64 if value.dtype.kind == "u" else value.dtype.newbyteorder("="))
    return torch.from_numpy(value if value.flags.writeable and min(value.strides, default=0) >= 0 else value.copy())


def _unreadable(path: Path, kind: str, error: Exception) -> UserError:
    reason = str(error).strip().splitlines()
    return UserError(f"{path} cannot be read as {kind}: {reason[0] if reason else type(error).__name__}")
