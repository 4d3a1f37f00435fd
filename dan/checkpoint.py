"""model.pt: a trained network, with what it takes to build it again; read without executing anything."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dan.errors import UserError
from dan.networks.dan import DAN
from dan.run_folder import read_tensors, write_atomically


def save_model(path: Path, model: DAN, kernels: Mapping[str, Tensor] | None = None) -> None:
    """Write the network's weights and what it takes to build it again. Only a backbone known by name can be.

    kernels: of each layer that was aligned by MK-MMD, its bandwidths over the median's and its weights, (2, K).
    """
    saved = {
        "network": model.settings,
        "weights": model.state_dict(),
        "kernels": {name: kernel.clone() for name, kernel in (kernels or {}).items()},
    }
    write_atomically(path, lambda file: torch.save(saved, file))


def load_kernels(path: Path) -> dict[str, Tensor]:
    """What `save_model` was given as kernels; {} if that was nothing."""
    return dict(read_tensors(path / "model.pt" if path.is_dir() else path, "cpu").get("kernels", {}))


def load_model(path: Path, device: torch.device | str = "cpu") -> DAN:
    """The network that `save_model` wrote, in evaluation mode. `path`: the file, or the run's folder that holds it.

    Raises UserError if there is none, or if its backbone was a module of one's own (build it, then load its "weights").
    """
    path = path / "model.pt" if path.is_dir() else path
    if not path.exists():
        raise UserError(f"{path} does not exist: train first, or name the folder of a finished run")
    saved = read_tensors(path, device)
    settings = dict(saved["network"])
    backbone = settings.pop("backbone")
    if backbone is None:
        raise UserError(f"{path} was trained on a backbone that has no name: build the same DAN and load its weights")
    try:
        model = DAN(backbone, settings.pop("num_classes"), **settings, weights=saved["weights"])
    except (RuntimeError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{path} does not fit this version's networks ({first}): train it again") from None
    return model.to(device).eval()
