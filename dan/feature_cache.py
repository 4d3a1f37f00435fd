"""What a frozen backbone says of a data set, computed once: training then runs on it, as it would on the data set
itself.

    x -> stage_k-1( ... stage_0(x)), in evaluation mode, float32, for each sample of the data set in its order

On the disk, one file of outputs stands for one key: sha256 of (the stages' structure and weights, the data's
fingerprint, and what the caller adds, such as a transform's description). Another weight or sample is another file.

Shapes: N samples; C channels; H, W height and width; F features.
"""

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset, TensorDataset

from dan.data.batches import is_plain, iter_batches, num_samples
from dan.data.domain_pair import DomainPair
from dan.errors import UserError
from dan.models.backbone import Backbone, stage_index
from dan.models.dan import DAN
from dan.progress import Progress
from dan.run_dir import write_atomically

FORMAT = 1  # in every key: files of another layout, or made by another rule, are not looked at


class CachedOutputs(TensorDataset):
    """(x, y) with x a backbone's output, (N, C, H, W) or (N, F) float32, memory-mapped if it is on the disk.

    fingerprint: the key: what the outputs are a function of; None where the data set has none. path: the file, or None.
    after_stages: how many stages they have been through: `fit` and `predict` go on from there.
    """

    def __init__(self, x: Tensor, y: Tensor, *, fingerprint: str | None, path: Path | None, after_stages: int) -> None:
        super().__init__(x, y)
        self.fingerprint, self.path, self.after_stages = fingerprint, path, after_stages

    def rows(self, rows: Tensor, y: Tensor) -> "CachedOutputs":
        """The outputs of these samples, in memory, with labels y of the caller's."""
        return CachedOutputs(self.tensors[0][rows], y, fingerprint=None, path=None, after_stages=self.after_stages)


def stages_run(data: Dataset | None) -> int:
    """How many of the backbone's stages the samples of a data set have been through; those of a Subset, its data
    set's."""
    while isinstance(data, Subset):
        data = data.dataset
    return int(getattr(data, "after_stages", 0))


def cached(
    data: Dataset,
    model: DAN | Backbone,
    stop_stage: int | str | None = None,
    folder: Path | str | None = None,
    *,
    key_parts: Sequence[str] = (),
    batch_size: int = 64,
    device: torch.device | str | None = None,
    quiet: bool = True,
) -> CachedOutputs:
    """The outputs of the first stages of a backbone on a data set of (x, y), y being classes.

    model: of a DAN the stages must be frozen; a Backbone is taken as it is. It is left in its mode.
    device: where the model is moved to and run; None: where it is.
    stop_stage: how many stages, or the last one's name; None: as many as the DAN allows (`DAN.cached_stages`).
    Go on with `model(x, start=k)`, k being that number.
    folder: where files are kept; None keeps them in memory. So does a data set without a fingerprint: see
    `fingerprint`. A file is replaced at once or not at all; one that is damaged is made again.
    key_parts: what else the outputs depend on (the description of a transform).

    With the same batches the outputs are, on the CPU, bit for bit what the network would compute; with others they are
    equal up to rounding. Raises UserError for an empty data set and for outputs that aren't finite, ValueError for
    stages that train and where there are none to run.
    """
    weight = next(iter(model.parameters()), torch.empty(0))
    place = weight.device if device is None else torch.device(device)
    model.to(place)
    backbone, stop = _prefix(model, stop_stage)
    known = fingerprint(data)
    key = None if known is None else _key(backbone, stop, known, [place.type, *key_parts])
    path = None if key is None or folder is None else Path(folder) / f"{key}.npy"
    if path is not None:
        found = _read(path)
        if found is not None:
            return CachedOutputs(*found, fingerprint=key, path=path, after_stages=stop)
    with Progress("running the frozen backbone", num_samples(data), quiet=quiet) as progress:
        batches = _outputs(data, backbone, stop, batch_size, place, progress)
        if path is None:
            xs, ys = zip(*batches, strict=True)
            return CachedOutputs(torch.cat(xs), torch.cat(ys), fingerprint=key, path=None, after_stages=stop)
        _write(path, num_samples(data), batches)
    written = _read(path)
    if written is None:
        raise UserError(f"{path} reads back otherwise than it was written: is the disk full, or failing?")
    return CachedOutputs(*written, fingerprint=key, path=path, after_stages=stop)


def cached_pair(
    task: DomainPair,
    model: DAN,
    folder: Path | str | None = None,
    *,
    device: torch.device | str | None = None,
    quiet: bool = True,
) -> DomainPair:
    """The same transfer as outputs of the network's frozen first stages: `cached` of each of its splits.

    Raises UserError where no first stage is frozen, and what `cached` raises.
    """
    if not model.cached_stages:
        raise UserError("there is nothing to cache: no first stage of this network is frozen")

    def outputs(data: Dataset[Any] | None) -> Dataset[Any] | None:
        return None if data is None else cached(data, model, model.cached_stages, folder, device=device, quiet=quiet)

    names = ("source", "source_test", "target", "target_test")
    new: dict[str, Any] = {name: outputs(getattr(task, name)) for name in names}
    return replace(task, **new)


def fingerprint(data: Any) -> str | None:
    """A text that is the same for the same samples only: the data set's own attribute `fingerprint`, if it has one; of
    a TensorDataset the sha256 of its tensors; of a Subset its data set's and the positions. None for any other, and for
    a subclass of these that changes how items are read."""
    own = getattr(data, "fingerprint", None)
    if own is not None:
        return str(own)
    if is_plain(data, TensorDataset):
        return content_digest((str(i), tensor) for i, tensor in enumerate(data.tensors))
    if is_plain(data, Subset):
        whole = fingerprint(data.dataset)
        return None if whole is None else content_digest([(whole, torch.as_tensor(data.indices))])
    return None


def _prefix(model: DAN | Backbone, stop_stage: int | str | None) -> tuple[Backbone, int]:
    backbone = model if isinstance(model, Backbone) else model.backbone
    if not isinstance(backbone, Backbone):
        backbone = Backbone({"backbone": backbone})
    if stop_stage is None:
        stop = model.cached_stages if isinstance(model, DAN) else len(backbone.stages)
    else:
        stop = stop_stage if isinstance(stop_stage, int) else stage_index(backbone.stages, stop_stage) + 1
    if not 1 <= stop <= len(backbone.stages):
        raise ValueError(
            f"the outputs of {stop} stages cannot be kept: 1 to {len(backbone.stages)}, and freeze them first"
        )
    if isinstance(model, DAN) and stop > model.cached_stages:
        raise ValueError(
            f"the outputs of {stop} stages cannot be kept, for only the first {model.cached_stages} stay the same: "
            "stages that train or have adapters, and those after a captured one, are to run at every step"
        )
    return backbone, stop


def _key(backbone: Backbone, stop: int, data: str, parts: Sequence[str]) -> str:
    about: list[tuple[str, Tensor | None]] = [(f"{FORMAT}", None), (data, None), *((part, None) for part in parts)]
    for name, stage in list(backbone.stages.items())[:stop]:
        about.append((f"{name}: {stage}", None))  # the structure: two activations have no weights, but differ
        about += list(stage.state_dict().items())
        about += [(key, value) for key, value in stage.named_buffers()]  # those that no state dict holds, too
    return content_digest(about)


def content_digest(about: Iterable[tuple[str, Tensor | None]]) -> str:
    """sha256 over texts and tensors (shape, type and bytes), each preceded by its length: no two lists run together."""
    digest = hashlib.sha256()
    for text, tensor in about:
        described = text if tensor is None else f"{text} {tuple(tensor.shape)} {tensor.dtype}"
        digest.update(f"{len(described.encode())}:".encode() + described.encode())
        if tensor is not None:
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@torch.no_grad()
def _outputs(
    data: Dataset, backbone: Backbone, stop: int, batch_size: int, device: torch.device, progress: Progress
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of (outputs, classes) on the CPU. Only the stages' modes are touched, and put back."""
    modes: list[tuple[nn.Module, bool]] = [(module, module.training) for module in backbone.modules()]
    backbone.eval()
    try:
        done = 0
        for x, y in iter_batches(data, batch_size):
            output = backbone.run(x.to(device), stop=stop).float().cpu().contiguous()
            finite = output.flatten(1).isfinite().all(1)
            if not bool(finite.all()):
                row = done + int(finite.logical_not().nonzero()[0])
                raise UserError(
                    f"the backbone's output for sample {row} is NaN or infinite: look at that sample's values"
                )
            if y.is_floating_point() or y.ndim != 1:
                raise ValueError(f"y must be one class number a sample, not {y.dtype} of shape {tuple(y.shape)}")
            done += len(x)
            progress.advance(steps=len(x))
            yield output, y.long()
    finally:
        for module, training in modes:
            module.training = training


def _write(path: Path, count: int, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
    """The outputs as .npy, batch by batch (they need not fit into memory); then, as .json, what proves them whole."""
    about: dict[str, Any] = {"crc32": 0, "classes": []}

    def write(file: BinaryIO) -> None:
        def put(content: Any) -> None:
            about["crc32"] = zlib.crc32(content, about["crc32"])
            file.write(content)

        for i, (x, y) in enumerate(batches):
            if i == 0:
                header = BytesIO()
                about_x = {"descr": "<f4", "fortran_order": False, "shape": (count, *x.shape[1:])}
                np.lib.format.write_array_header_1_0(header, about_x)
                put(header.getvalue())
            put(x.numpy().astype("<f4", copy=False).data)
            about["classes"] += y.tolist()

    try:
        write_atomically(path, write)
        write_atomically(path.with_suffix(".json"), lambda file: file.write(json.dumps(about).encode()))
    except OSError as error:
        raise UserError(
            f"the outputs of the frozen backbone cannot be kept in {path.parent} ({error.strerror or error}): "
            "make room, or name another folder"
        ) from None


def _read(path: Path) -> tuple[Tensor, Tensor] | None:
    """The outputs and classes in a file, or None if there is none, or if it isn't, byte for byte, what was written."""
    try:
        about = json.loads(path.with_suffix(".json").read_bytes())
        whole, classes = about["crc32"], torch.tensor(about["classes"], dtype=torch.long)
        with open(path, "rb") as file:
            crc = 0
            while content := file.read(1 << 22):
                crc = zlib.crc32(content, crc)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if crc != whole:
        return None
    # "c": pages are read when they are needed, and nothing that is done to them reaches the file.
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False)), classes
