"""train --source-free RUN: on with a run's network to a new target, with what the run kept of its source and no more.

The network is RUN's own, all of it: backbone, task-specific layers and classes. Its backbone is frozen up to where the
source was kept. `--coreset-size N` is what keeps it, beside model.pt.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dan.errors import UserError
from dan.run_metadata import required

if TYPE_CHECKING:
    from dan.data.domain_pair import DomainPair
    from dan.models.dan import DAN
    from dan.source_free import KeptSource


def adapted_network(
    run: Path, kept: "KeptSource", chosen: Mapping[str, Any], default: Mapping[str, Any], *, device: Any = "cpu"
) -> "DAN":
    """RUN's network, frozen up to where its source was kept. chosen, default: the flags of `Network`, as given and as
    they are if none is.

    Raises UserError for flags that ask for another network, and for a kept source that doesn't go with RUN.
    """
    from dan.models.model_file import load_model

    weights = chosen["weights"]
    other_file = None if weights in (None, default["weights"]) or _same(Path(weights), run) else Path(weights)
    model = load_model(run, device, weights=other_file)
    for name, value in chosen.items():
        if name != "weights" and value != default[name]:
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"--source-free goes on with the network of {run}: leave out {flag}")
    kept.check(model)
    model.freeze(up_to=list(model.stages)[kept.after_stages - 1])
    return model.train()


def target_alone(
    name: str,
    options: Mapping[str, Any],
    kept: "KeptSource",
    settings: Mapping[str, Any],
    run: Path,
    *,
    data: Path,
    cache: Path | None,
    quiet: bool,
) -> "DomainPair":
    """The transfer from what RUN kept of its source to the target of the task `name` with these options.

    settings: RUN's. The task `folders` takes its target by itself, and has no source. Of any other task the source is
    loaded, since its loader does so, and dropped.
    Raises UserError where classes, shape or normalisation aren't those that RUN was trained on.
    """
    import torch

    from dan.data.batches import fetch
    from dan.data.tasks import load_pair

    classes, shape = tuple(required(settings, "classes", run)), list(required(settings, "shape", run))
    if name == "folders":
        task = _own_target(options, run, classes, shape, kept, cache, quiet)
    else:
        task = load_pair(name, data, **options, cache=cache, quiet=quiet)
    if tuple(task.classes) != classes:
        raise UserError(
            f"the classes of {name} ({', '.join(task.classes)}) are not those of {run} ({', '.join(classes)})"
        )
    found = list(fetch(task.target, torch.tensor([0]))[0].shape[1:])
    if found != shape or task.normalisation != settings.get("normalisation"):
        raise UserError(
            f"{name} has samples of shape {found} (normalisation {task.normalisation}), and {run} was trained on "
            f"{shape} ({settings.get('normalisation')})"
        )
    return replace(task, source=kept.source, source_test=None)


def _own_target(
    options: Mapping[str, Any],
    run: Path,
    classes: tuple[str, ...],
    shape: list[int],
    kept: "KeptSource",
    cache: Path | None,
    quiet: bool,
) -> "DomainPair":
    """The target of the task `folders` by itself, with RUN's classes."""
    import torch

    from dan.data.domain_pair import DomainPair
    from dan.data.feature_files import SUFFIXES, read_features, refuse_unusable_rows
    from dan.data.folders import PICTURES, VECTORS, images_of, read_images, with_known_labels
    from dan.data.manifests import UNLABELLED, agreed_classes, restricted
    from dan.data.tensor_datasets import Vectors

    if options.get("target") is None:
        raise UserError("--source-free with the task folders needs --target: a folder, a .csv or a file of features")
    for option in ("source", "classes", "source_holdout", "augment"):
        if options.get(option):
            raise UserError(f"--{option.replace('_', '-')} has no use with --source-free: leave it out")
    target = Path(options["target"]).expanduser().absolute()
    said: dict[str, Any] = {"target": str(target)}
    common: dict[str, Any] = {"name": "folders", "classes": classes, "source": kept.source, "source_test": None}
    if target.suffix.lower() in SUFFIXES and not target.is_dir():
        if len(shape) != 1:
            raise UserError(f"{target} holds features, and {run} was trained on images")
        x, y = (features := with_known_labels(target, read_features(target), classes)).x, features.y
        refuse_unusable_rows(target, x)
        if y is None:
            targets = torch.full((len(x),), UNLABELLED)
        else:
            agreed_classes((run, classes), (target, tuple(map(str, y.unique().tolist()))))
            targets = torch.tensor([classes.index(str(label)) for label in y.tolist()])
        return DomainPair(
            **common,
            target=Vectors(x, targets, classes),
            target_test=None,
            backbone=VECTORS,
            kind="vector",
            target_labelled=y is not None,
            options=said,
        )
    if len(shape) != 3:
        raise UserError(f"{target} holds images, and {run} was trained on features")
    listing = read_images(target)
    agreed_classes((run, classes), (target, listing.classes))
    size = options.get("image_size") or shape[-1]
    images = images_of(restricted(listing, classes), image_size=size, classes=classes, cache=cache, quiet=quiet)
    return DomainPair(
        **common,
        target=images,
        target_test=None,
        backbone=PICTURES,
        image_size=size,
        normalisation="imagenet",
        target_labelled=listing.labelled,
        options=said if size == 224 else {**said, "image_size": size},
    )


def _same(one: Path, other: Path) -> bool:
    one = one.parent if one.name == "model.pt" else one
    return one.exists() and one.resolve() == other.resolve()
