"""Where to compute: `auto` takes CUDA, then Apple's MPS, then the CPU."""

import torch

from dan.errors import UserError, nearest

DEVICES = ("auto", "cpu", "cuda", "mps")


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name. Raises UserError for an unknown one, or one that this machine does not have."""
    if name not in DEVICES:
        raise UserError(f'unknown device "{name}"{nearest(name, DEVICES)}: one of {", ".join(DEVICES)}')
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device("cuda" if present["cuda"] else "mps" if present["mps"] else "cpu")
    if not present[name]:
        raise UserError(f"this machine has no {name} device that PyTorch can use: try --device auto")
    return torch.device(name)
