"""Weights for a backbone: by torchvision's name for them, or from a file; read without executing anything in it."""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dan.errors import UserError, nearest
from dan.models.backbone import Backbone
from dan.run_dir import read_tensors

State = dict[str, Tensor]


def published_weights(backbone: str, name: str) -> State:
    """torchvision's weights of that name ("DEFAULT", "IMAGENET1K_V1", ...) from torch hub's cache, or downloaded.

    Raises UserError for a name that torchvision doesn't have, and, where nothing can be downloaded, one that names
    the file to fetch and the folder to put it in.
    """
    from torchvision.models import get_model_weights

    known = get_model_weights(backbone)
    names = ["DEFAULT", *(member.name for member in known)]
    if name not in names:
        raise UserError(
            f'there is no file "{name}", and no weights of that name for {backbone}{nearest(name, names)}: '
            f"one of none, {', '.join(names)}, or the path of a state-dict file"
        )
    url = known[name].url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not path.exists():
        _download(url, path, f"{backbone}'s weights {name}")
    return read_state(path)


def _download(url: str, path: Path, what: str) -> None:
    digest = re.search(
        r"-([0-9a-f]{8,})\.pth$", path.name
    )  # torchvision's file names end in what their sha256 begins with
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), digest[1] if digest else None, progress=False)
    except (OSError, RuntimeError) as error:  # no connection, no room, or a file that isn't what it should be
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{what} are not on this machine and cannot be downloaded ({reason}): fetch {path.name} from {url} "
            f"and put it into {path.parent}"
        ) from None


def current_names(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a model.pt under today's names: the first released files call the backbone "trunk"."""
    content = {name.replace("trunk_file", "backbone_file"): value for name, value in saved.items()}
    if isinstance(content.get("weights"), Mapping):
        content["weights"] = {re.sub("^trunk\\.", "backbone.", str(key)): v for key, v in content["weights"].items()}
    return content


def read_state(path: Path) -> State:
    """A state dict from a file: one that torch.save wrote of `model.state_dict()`, or a trained network's model.pt, of
    which the backbone is taken. A folder stands for the model.pt in it. Raises UserError for anything else."""
    path = path / "model.pt" if path.is_dir() else path
    if not path.exists():
        raise UserError(f"there is no weights file {path}")
    try:
        found: Any = read_tensors(path, "cpu")
    except UserError:
        raise UserError(
            f"{path} cannot be read as weights: it must be what torch.save(model.state_dict(), path) wrote, undamaged"
        ) from None
    if isinstance(found, Mapping) and {"network", "weights"} <= set(found):
        weights = current_names(found)["weights"].items()
        found = {key.removeprefix("backbone."): value for key, value in weights if key.startswith("backbone.")}
    if not isinstance(found, Mapping) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise UserError(f"{path} is no state dict of tensors: write one by torch.save(model.state_dict(), path)")
    return dict(found)


def put_weights(
    backbone: Backbone,
    state: Mapping[str, Tensor],
    *,
    origin: str,
    others: Callable[[], Iterable[tuple[str, Backbone]]],
) -> None:
    """Copy a state dict into a backbone; its keys are the publisher's (the classifier's are left out) or the
    backbone's own.

    origin: what the error calls the weights. others: the other backbones by name, to say which one the weights are of;
    asked for on an error alone.
    Raises UserError where a weight is missing, unexpected or of another shape, or holds NaN or infinity.
    """
    named, unexpected = _translate(backbone, state)
    problems = _problems(backbone, named, unexpected)
    if problems:
        match = next((name for name, other in others() if not _problems(other, *_translate(other, state))), None)
        hint = f'; they are weights of "{match}"' if match else ""
        raise UserError(f"{origin} does not fit this backbone: {', '.join(problems)}{hint}")
    for key, value in named.items():
        if not bool(value.isfinite().all()):
            raise UserError(f"{origin} holds NaN or infinite weights ({key}): get an undamaged file")
    # Counters of batches, which older files lack, keep their value; `_problems` has seen to everything else.
    backbone.load_state_dict(named, strict=False)


def _translate(backbone: Backbone, state: Mapping[str, Tensor]) -> tuple[State, list[str]]:
    """The weights under the backbone's own names, and the keys that neither the publisher's model nor the backbone
    has."""
    own: dict[str, str | None] = {key: key for key in backbone.state_dict()}
    naming = max([backbone.published, own], key=lambda names: sum(key in names for key in state))
    named = {target: value for key, value in state.items() if (target := naming.get(key)) is not None}
    return named, [key for key in state if key not in naming]


def _problems(backbone: Backbone, named: State, unexpected: list[str]) -> list[str]:
    own = backbone.state_dict()
    missing = [key for key in own if key not in named and not key.endswith("num_batches_tracked")]
    shaped = [key for key, value in named.items() if value.shape != own[key].shape]
    problems = [f"{_first(missing)} missing"] if missing else []
    problems += [f"{_first(unexpected)} unexpected"] if unexpected else []
    if shaped:
        is_, wanted = tuple(named[shaped[0]].shape), tuple(own[shaped[0]].shape)
        problems.append(f"{_first(shaped)} of shape {is_} instead of {wanted}")
    return problems


def _first(keys: list[str]) -> str:
    return keys[0] + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")
