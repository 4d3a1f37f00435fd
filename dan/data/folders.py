"""A user's own two domains: each a tree of folders, a CSV manifest, or a file of feature vectors.

Images of either domain may come as a tree or as a manifest; features go with features. Only the target may be without
labels: then there is nothing to measure on it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from dan.data.domain_pair import DomainPair, Options, source_split
from dan.data.feature_files import SUFFIXES, Features, read_features, refuse_unusable_rows
from dan.data.image_cache import pixels_of
from dan.data.manifests import (
    UNLABELLED,
    Listing,
    agreed_classes,
    is_manifest,
    read_manifest,
    read_tree,
    restricted,
)
from dan.data.tensor_datasets import Images, Vectors
from dan.errors import UserError, print_warnings

PICTURES = "resnet18"  # the backbone that suits photographs and runs on a laptop
VECTORS = "features"  # features are features already


def own_transfer(name: str, options: Options) -> DomainPair:
    """The transfer between options.source and options.target.

    Raises UserError for whatever is wrong with either; see `read_tree`, `read_manifest`, `read_features` and
    `agreed_classes`.
    """
    if options.source is None or options.target is None:
        raise UserError(
            f"the task {name} needs --source and --target: a folder <class>/<image>, a .csv or features each"
        )
    if options.source.resolve() == options.target.resolve():
        raise UserError(f"--source and --target are both {options.source}: a transfer is between two domains")
    kinds = {"features" if _holds_features(path) else "images" for path in (options.source, options.target)}
    if kinds == {"features"}:
        return _of_features(name, options, options.source, options.target)
    if len(kinds) == 2:
        raise UserError(f"{options.source} and {options.target} are images and features: both must be of one kind")
    source, target = read_images(options.source, unlabelled=False), read_images(options.target)
    return image_transfer(name, (source, None), (target, None), options, backbone=PICTURES)


def read_images(path: Path, *, unlabelled: bool = True) -> Listing:
    """The images of a tree, a flat folder (unlabelled) or a CSV manifest. Raises UserError for anything else."""
    if is_manifest(path):
        listing = read_manifest(path)
    elif path.is_file():
        raise UserError(
            f"{path} is a file: a domain is a folder <class>/<image>, a manifest (.csv), or a file of features "
            f"({', '.join(SUFFIXES)})"
        )
    else:
        listing = read_tree(path, unlabelled=unlabelled)
    if not listing.labelled and not unlabelled:
        raise UserError(f"{path} has no labels: the source needs a class for every image")
    return listing


def images_of(
    listing: Listing,
    *,
    image_size: int,
    channels: Literal[1, 3] = 3,
    normalisation: str = "imagenet",
    augment: bool = False,
    classes: tuple[str, ...] = (),
    cache: Path | None = None,
    quiet: bool = True,
) -> Images:
    """A listing's images as a data set: (channels, S, S). The defaults are what pre-trained networks expect.

    classes: names of the classes where the listing is unlabelled and has none. The rest: see `Images`, `pixels_of`.
    """
    pixels, digest = pixels_of(listing, image_size, channels=channels, cache=cache, quiet=quiet)
    return Images(
        pixels,
        listing.targets,
        listing.classes or classes,
        normalisation=normalisation,
        digest=digest,
        paths=[str(listing.root / name) for name in listing.names],
        groups=listing.groups,
        augment=augment,
    )


def image_transfer(
    name: str,
    source: tuple[Listing, Listing | None],
    target: tuple[Listing, Listing | None],
    options: Options,
    *,
    backbone: str,
) -> DomainPair:
    """A transfer from (training, test) listings of two domains: classes are made to agree, and then images decoded.

    A test part may be None. options.source_holdout is for a source without one.
    """
    classes = agreed_classes(
        (source[0].place, source[0].classes), (target[0].place, target[0].classes), options.classes
    )

    def decoded(listing: Listing) -> Images:
        return images_of(
            restricted(listing, classes),
            image_size=options.image_size,
            augment=options.augment,
            classes=classes,
            cache=options.cache,
            quiet=options.quiet,
        )

    train, held = source_split(decoded(source[0]), options.source_holdout)
    if source[1] is not None:
        held = decoded(source[1])
    return DomainPair(
        name=name,
        classes=classes,
        source=train,
        source_test=held,
        target=decoded(target[0]),
        target_test=None if target[1] is None else decoded(target[1]),
        backbone=backbone,
        image_size=options.image_size,
        normalisation="imagenet",
        target_labelled=target[0].labelled,
        options=options.chosen,
    )


def _holds_features(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def class_numbers(features: Features) -> tuple[str, ...]:
    """The classes of the samples, as texts in rising order; () where there are no labels."""
    return () if features.y is None else tuple(str(label) for label in features.y.unique().tolist())


def with_known_labels(path: Path, target: Features, classes: Sequence[str]) -> Features:
    """The target's features, without labels where some are UNLABELLED, which is none of the source's `classes`.

    Labels of some samples only would measure nothing on the target: they are left out, with a line on stderr.
    """
    if target.y is None or str(UNLABELLED) in classes:  # a class of its own, as in labels of -1 and 1
        return target
    unknown = int((target.y == UNLABELLED).sum())
    if not unknown:
        return target
    if unknown < len(target.y):
        print_warnings(
            [
                f"{path}: {unknown} of {len(target.y)} samples have the label {UNLABELLED}, unknown: the target "
                "counts as unlabelled, and no accuracy is told on it"
            ]
        )
    return Features(x=target.x, y=None)


def _of_features(name: str, options: Options, source: Path, target: Path) -> DomainPair:
    for unused in ("augment", "image_size"):
        if unused in options.chosen:
            raise UserError(f"features are not images: leave out {unused}")
    sides = {path: read_features(path) for path in (source, target)}
    widths = {path: features.x.shape[1] for path, features in sides.items()}
    if widths[source] != widths[target]:
        raise UserError(
            f"{source} has {widths[source]} features a sample, and {target} has {widths[target]}: "
            "compute both with one network"
        )
    for path, features in sides.items():
        refuse_unusable_rows(path, features.x)
    if sides[source].y is None:
        raise UserError(f"{source} has no labels: the source needs a class for every sample")
    of_source = class_numbers(sides[source])
    sides[target] = with_known_labels(target, sides[target], of_source)
    classes = agreed_classes((source, of_source), (target, class_numbers(sides[target])), options.classes)
    position = {int(label): index for index, label in enumerate(classes)}

    def vectors(path: Path) -> Vectors:
        features = sides[path]
        if features.y is None:
            return Vectors(features.x, torch.full((len(features.x),), UNLABELLED), classes)
        targets = torch.tensor([position.get(label, UNLABELLED) for label in features.y.tolist()])
        rows = targets != UNLABELLED
        return Vectors(features.x[rows] if not bool(rows.all()) else features.x, targets[rows], classes)

    train, held = source_split(vectors(source), options.source_holdout)
    return DomainPair(
        name=name,
        classes=classes,
        source=train,
        source_test=held,
        target=vectors(target),
        target_test=None,
        backbone=VECTORS,
        kind="vector",
        target_labelled=sides[target].y is not None,
        options=options.chosen,
    )
