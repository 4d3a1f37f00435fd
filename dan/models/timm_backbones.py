"""`timm:<name>`: any image network of the timm library as a backbone of one stage, through the extra "timm"."""

from typing import Any

import torch
from torch import Tensor, nn

from dan.errors import UserError, nearest
from dan.models.backbone import Backbone

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Renormalise(nn.Module):
    """Images with ImageNet's mean and deviation -> images with the network's own: x' = (x sd + m - m') / sd'."""

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: tuple[float, ...], deviation: tuple[float, ...]) -> None:
        super().__init__()
        (m, sd), (own_m, own_sd) = map(torch.tensor, IMAGENET), map(torch.tensor, (mean, deviation))
        self.register_buffer("scale", (sd / own_sd)[:, None, None], persistent=False)
        self.register_buffer("shift", ((m - own_m) / own_sd)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return images * self.scale + self.shift


def timm_backbone(name: str, weights: str | None = None) -> Backbone:
    """timm's network of that name without its classifier: (N, 3, H, W) -> (N, F), the stage being called "backbone".

    Images come with ImageNet's normalisation, as for every backbone here; a network that was trained with another one
    gets it from a first step of its own. weights: None, or "DEFAULT" for timm's own (downloaded, and kept by its hub).
    Raises UserError where timm is missing, has no such network, or cannot get the weights.
    """
    try:
        import timm
    except ImportError:
        raise UserError(f'the backbone "timm:{name}" needs timm: pip install "active-dan[timm]"') from None
    if not timm.is_model(name):
        raise UserError(f'timm has no network "{name}"{nearest(name, timm.list_models())}; timm.list_models() has all')
    try:
        model: Any = timm.create_model(name, pretrained=weights is not None, num_classes=0)
    except (OSError, RuntimeError) as error:  # no connection, or no published weights
        if weights is None:
            raise
        source = timm.get_pretrained_cfg(name).hf_hub_id or "its publisher"
        raise UserError(
            f"the weights of timm:{name} are not on this machine and cannot be downloaded "
            f"({type(error).__name__}): fetch model.safetensors or pytorch_model.bin from {source} on the Hugging Face "
            "hub where there is a connection, and name that folder's state-dict file, or copy the hub's cache folder"
        ) from None
    settings = model.pretrained_cfg
    normalisation = (tuple(settings["mean"]), tuple(settings["std"]))
    stage = model if normalisation == IMAGENET else nn.Sequential(Renormalise(*normalisation), model)
    prefix = "backbone." if stage is model else "backbone.1."
    return Backbone(
        {"backbone": stage},
        out_features=model.num_features if not hasattr(model, "head_hidden_size") else model.head_hidden_size,
        input_shape=tuple(settings["input_size"]),
        normalisation="imagenet",
        # The classifier's names are unknown here: `num_classes=0` has removed it. timm's files name it in the settings.
        published={key: prefix + key for key in model.state_dict()} | _classifier(settings),
    )


def _classifier(settings: Any) -> dict[str, None]:
    """The names of a timm classifier's weights, which a backbone leaves out."""
    named = settings.get("classifier") or ()
    return {f"{layer}.{kind}": None for layer in ([named] if isinstance(named, str) else named) for kind in _KINDS}


_KINDS = ("weight", "bias")
