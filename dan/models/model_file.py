"""model.pt: a trained network, with what it takes to build it again; read without executing anything.

A network on a frozen backbone may be kept without it, where its weights are somebody else's: then model.pt names their
file and its sha256, and whoever loads it brings that file.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dan.archive_limits import real_size
from dan.errors import UserError
from dan.models.adapters import is_adapter
from dan.models.dan import DAN
from dan.models.pretrained import current_names
from dan.run_dir import read_tensors, save_tensors

_COUNTER = "num_batches_tracked"


def save_model(
    path: Path, model: DAN, kernels: Mapping[str, Tensor] | None = None, *, backbone_file: Path | None = None
) -> None:
    """Write the network's weights and what it takes to build it again. Only a backbone known by name can be.

    kernels: of each layer that was aligned by MK-MMD, its bandwidths over the median's and its weights, (2, K).
    backbone_file: the state-dict file that the frozen stages have their weights from: these are left out, and the file
    is named in their place. Adapters and what was trained are kept.
    Raises UserError where no stage is frozen, or one has other weights than the file's, and where `path` cannot be
    written.
    """
    saved: dict[str, Any] = {
        "network": model.settings,
        "weights": model.state_dict(),
        "kernels": {name: kernel.clone() for name, kernel in (kernels or {}).items()},
    }
    if backbone_file is not None:
        left_out = _frozen_weights(model)
        if not left_out:
            raise UserError(
                f"no stage of the backbone is frozen, so nothing of it is as in {backbone_file}: keep all of it"
            )
        settings = {name: value for name, value in model.settings.items() if name not in ("backbone", "num_classes")}
        original = DAN(
            model.settings["backbone"], model.settings["num_classes"], **settings, pretrained=backbone_file
        ).state_dict()
        for name in left_out:
            if not name.endswith(_COUNTER) and not torch.equal(saved["weights"][name].cpu(), original[name]):
                raise UserError(
                    f"the network's frozen {name} is not as in {backbone_file}: name the file it was trained on"
                )
        saved["weights"] = {name: value for name, value in saved["weights"].items() if name not in left_out}
        saved["backbone_file"] = {"name": backbone_file.name, "sha256": sha256_of(backbone_file)}
    try:
        save_tensors(path, saved)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}): make room, and try again") from None


def load_kernels(path: Path) -> dict[str, Tensor]:
    """What `save_model` was given as kernels: of each layer (2, K); {} if that was nothing. path: as in `load_model`.

    Raises UserError for a file that is none, or whose kernels are no tensors.
    """
    path = path / "model.pt" if path.is_dir() else path
    kernels = read_tensors(path, "cpu").get("kernels", {})
    if not isinstance(kernels, Mapping) or not all(isinstance(kernel, Tensor) for kernel in kernels.values()):
        raise UserError(f"{path} holds kernels that are no tensors: restore it, or train it again")
    return dict(kernels)


def load_model(path: Path, device: torch.device | str = "cpu", *, weights: Path | None = None) -> DAN:
    """The network that `save_model` wrote, in evaluation mode. `path`: the file, or the run's folder that holds it.

    weights: the file of the frozen backbone's weights, for a network that was kept without them.
    Raises UserError if there is none, if that file is needed and missing, another, or not needed, and if the backbone
    was a module of one's own (build it, then load its "weights").
    """
    path = path / "model.pt" if path.is_dir() else path
    if not path.exists():
        raise UserError(f"{path} does not exist: train first, or name the folder of a finished run")
    saved = current_names(read_tensors(path, device))
    _check_content(path, saved)
    settings = dict(saved["network"])
    backbone, num_classes = settings.pop("backbone"), settings.pop("num_classes")
    if backbone is None:
        raise UserError(f"{path} was trained on a backbone that has no name: build the same DAN and load its weights")
    _check_backbone_file(path, saved.get("backbone_file"), weights)
    try:
        model = DAN(backbone, num_classes, **settings, pretrained=weights)
        unmatched = model.load_state_dict(saved["weights"], strict=weights is None)
        _lay_out(model, saved["weights"])
    except UserError:
        raise
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} does not fit this version's networks ({first}): train it again") from None
    if weights is not None and not _complete(unmatched.missing_keys, unmatched.unexpected_keys, _frozen_weights(model)):
        raise UserError(f"{path} does not hold what {weights} leaves to it: get an undamaged file, or train it again")
    return model.to(device).eval()


def _lay_out(model: DAN, weights: Mapping[str, Tensor]) -> None:
    """Put the convolutions in the order of memory that they were trained in: the other is as right, but may be slower,
    and rounds the last bits otherwise on some processors, so that a training that goes on would not be the same."""
    if any(value.ndim == 4 and not value.is_contiguous() for value in weights.values()):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _check_content(path: Path, saved: Mapping[str, Any]) -> None:
    """Raises UserError for what `save_model` cannot have written: other types, or a head that no weights are of.

    The last so that a small file does not make a network of any size.
    """
    network, weights, backbone = saved.get("network"), saved.get("weights"), saved.get("backbone_file")
    problem = ""
    if not isinstance(network, Mapping) or not {"backbone", "num_classes", "frozen"} <= set(network):
        problem = "nothing says of what network its weights are"
    elif not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        problem = "its weights are no tensors"
    elif backbone is not None and not (isinstance(backbone, Mapping) and {"name", "sha256"} <= set(backbone)):
        problem = "it does not say which file its backbone is in"
    else:
        layers = network.get("layers", ())
        widths = [*layers, network["num_classes"]] if isinstance(layers, list | tuple) else [None]
        lengths = {value.shape[0] for value in weights.values() if value.ndim and real_size(value)}
        absent = [width for width in widths if not isinstance(width, int) or width not in lengths]
        if absent:
            problem = f"no weights of it are of a layer as wide as {absent[0]}"
    if problem:
        raise UserError(f"{path} is no trained network ({problem}): restore it, or train it again")


def _frozen_weights(model: DAN) -> set[str]:
    """The names, in its state dict, of what the frozen stages had before they were adapted."""
    stages = tuple(f"backbone.{name}." for name in model.settings["frozen"])
    return {name for name in model.state_dict() if name.startswith(stages) and not is_adapter(name)}


def _complete(missing: Iterable[str], unexpected: Iterable[str], frozen: Iterable[str]) -> bool:
    """Whether a state dict lacks what is frozen and nothing else; counters of batches, which compute nothing, apart."""
    lacking, left_out = ({name for name in names if not name.endswith(_COUNTER)} for names in (missing, frozen))
    return not list(unexpected) and lacking == left_out


def _check_backbone_file(path: Path, wanted: Mapping[str, str] | None, weights: Path | None) -> None:
    if wanted is None:
        if weights is not None:
            raise UserError(f"{path} holds all of its weights: leave out --weights")
        return
    named = f"{wanted['name']} (sha256 {wanted['sha256']})"
    if weights is None:
        raise UserError(f"{path} holds the trained parts only: fetch {named}, and name that file with --weights")
    if not weights.is_file():
        raise UserError(f"there is no file {weights}: fetch {named}, and name it with --weights")
    if sha256_of(weights) != wanted["sha256"]:
        raise UserError(f"{weights} is not the file that {path} was trained on: that is {named}")
