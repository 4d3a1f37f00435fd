"""A target by itself, with what a run kept of its source: for trainings without the source (`--source-free`)."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dan.errors import UserError
from dan.run_metadata import required

if TYPE_CHECKING:
    from dan.data.domain_pair import DomainPair
    from dan.source_free import KeptSource


def load_target(
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
    """The target of the task `name` with these options, and what RUN kept of its source in place of the source.

    settings: the first record of RUN. The task `folders` reads its target alone; any other task loads its source, too,
    which is dropped.
    Raises UserError where classes, shape or normalisation are not those that RUN was trained on.
    """
    import torch

    from dan.data.batches import fetch
    from dan.data.tasks import load_pair

    classes, shape = tuple(required(settings, "classes", run)), list(required(settings, "shape", run))
    if name == "folders":
        task = _load_own_target(options, run, classes, shape, kept, cache, quiet)
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


def _load_own_target(
    options: Mapping[str, Any],
    run: Path,
    classes: tuple[str, ...],
    shape: list[int],
    kept: "KeptSource",
    cache: Path | None,
    quiet: bool,
) -> "DomainPair":
    """The target of the task `folders`, with RUN's classes."""
    from dan.data.feature_files import SUFFIXES

    if options.get("target") is None:
        raise UserError("--source-free with the task folders needs --target: a folder, a .csv or a file of features")
    for option in ("source", "classes", "source_holdout", "target_test", "target_holdout", "augment"):
        if options.get(option):
            raise UserError(f"--{option.replace('_', '-')} has no use with --source-free: leave it out")
    target = Path(options["target"]).expanduser().absolute()
    if target.suffix.lower() in SUFFIXES and not target.is_dir():
        if len(shape) != 1:
            raise UserError(f"{target} holds features, and {run} was trained on images")
        return _feature_target(target, run, classes, kept)
    if len(shape) != 3:
        raise UserError(f"{target} holds images, and {run} was trained on features")
    return _image_target(target, run, classes, kept, options.get("image_size") or shape[-1], cache, quiet)


def _feature_target(target: Path, run: Path, classes: tuple[str, ...], kept: "KeptSource") -> "DomainPair":
    import torch

    from dan.data.domain_pair import DomainPair
    from dan.data.feature_files import read_features, refuse_unusable_rows
    from dan.data.folders import VECTORS, with_known_labels
    from dan.data.manifests import UNLABELLED, agreed_classes
    from dan.data.tensor_datasets import Vectors

    x, y = (features := with_known_labels(target, read_features(target), classes)).x, features.y
    refuse_unusable_rows(target, x)
    if y is None:
        labels = torch.full((len(x),), UNLABELLED)
    else:
        agreed_classes((run, classes), (target, tuple(map(str, y.unique().tolist()))))
        labels = torch.tensor([classes.index(str(label)) for label in y.tolist()])
    return DomainPair(
        name="folders",
        classes=classes,
        source=kept.source,
        source_test=None,
        target=Vectors(x, labels, classes),
        target_test=None,
        backbone=VECTORS,
        kind="vector",
        target_labelled=y is not None,
        options={"target": str(target)},
    )


def _image_target(
    target: Path, run: Path, classes: tuple[str, ...], kept: "KeptSource", size: int, cache: Path | None, quiet: bool
) -> "DomainPair":
    from dan.data.domain_pair import DomainPair
    from dan.data.folders import PICTURES, images_of, read_images
    from dan.data.manifests import agreed_classes, restricted

    listing = read_images(target)
    agreed_classes((run, classes), (target, listing.classes))
    images = images_of(restricted(listing, classes), image_size=size, classes=classes, cache=cache, quiet=quiet)
    return DomainPair(
        name="folders",
        classes=classes,
        source=kept.source,
        source_test=None,
        target=images,
        target_test=None,
        backbone=PICTURES,
        image_size=size,
        normalisation="imagenet",
        target_labelled=listing.labelled,
        options={"target": str(target)} if size == 224 else {"target": str(target), "image_size": size},
    )
