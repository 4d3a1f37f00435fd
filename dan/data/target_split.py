"""Target samples that are held out for an honest accuracy: a share of the target, or a set of their own.

    target -> target (trained on, aligned with, queried)  +  target_test (evaluated only)

The share is stratified where the target has labels, drawn by a fixed seed, and whole groups stay together.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dan.data.domain_pair import DomainPair, Options, split_off
from dan.data.feature_files import SUFFIXES, read_features
from dan.data.folders import images_of, read_images
from dan.data.manifests import Listing, restricted, some
from dan.data.tensor_datasets import Images, Vectors
from dan.errors import UserError


def with_target_test(pair: DomainPair, options: Options) -> DomainPair:
    """The same pair with `target_test`, from options.target_test or options.target_holdout; as it is without either.

    Raises UserError for both at once, for a set that has no labels, other classes, or samples of the target, and where
    the share leaves a side empty.
    """
    if options.target_test is not None and options.target_holdout:
        raise UserError("target_test and target_holdout are two ways to hold out target samples: give one of them")
    if options.target_test is not None:
        return replace(pair, target_test=_test_set(pair, options.target_test, options), target_test_labelled=True)
    if not options.target_holdout:
        return pair
    if not isinstance(pair.target, (Images, Vectors)) or pair.target_test is not None:
        raise UserError(f"the target of {pair.name} has a test split of its own: leave out target_holdout")
    whole: Any = pair.target
    target, held = split_off(whole, options.target_holdout, "target_holdout")
    return replace(pair, target=target, target_test=held)


def _test_set(pair: DomainPair, path: Path, options: Options) -> Images | Vectors:
    if path.suffix.lower() in SUFFIXES and not path.is_dir():
        return _features(pair, path, chosen=bool(options.classes))
    if pair.kind != "image":
        raise UserError(f"{path} holds images, and the target features: give target_test as features, too")
    listing = read_images(path, unlabelled=False)
    _refuse_strangers(pair, path, listing.classes, chosen=bool(options.classes))
    _refuse_overlap(pair, listing)
    return images_of(
        restricted(listing, pair.classes),
        image_size=options.image_size,
        classes=pair.classes,
        cache=options.cache,
        quiet=options.quiet,
    )


def _features(pair: DomainPair, path: Path, *, chosen: bool) -> Vectors:
    if pair.kind != "vector":
        raise UserError(f"{path} holds features, and the target images: give target_test as images, too")
    features = read_features(path)
    width = pair.target[0][0].shape[0]
    if features.x.shape[1] != width:
        raise UserError(f"{path} has {features.x.shape[1]} features a sample, and the target {width}: make them equal")
    if features.y is None:
        raise UserError(f"{path} has no labels: target_test needs a class for every sample")
    bad = int((~features.x.isfinite()).any(1).sum())
    if bad:
        raise UserError(f"{path}: {bad} of {len(features.x)} samples hold NaN or infinite features: remove them")
    labels = [str(label) for label in features.y.tolist()]
    _refuse_strangers(pair, path, sorted(set(labels)), chosen=chosen)
    kept = [row for row, label in enumerate(labels) if label in pair.classes]
    targets = torch.tensor([pair.classes.index(labels[row]) for row in kept], dtype=torch.long)
    return Vectors(features.x[kept], targets, pair.classes)


def _refuse_strangers(pair: DomainPair, path: Path, classes: list[str] | tuple[str, ...], *, chosen: bool) -> None:
    """chosen: the user named the classes to take, so that further ones are left out."""
    shared = [name for name in classes if name in pair.classes]
    strangers = [name for name in classes if name not in pair.classes]
    if not shared or (strangers and not chosen):
        raise UserError(f"{path} has the class {some(strangers)}, and the training has {some(pair.classes)}")


def _refuse_overlap(pair: DomainPair, listing: Listing) -> None:
    of_target = {str(Path(path).resolve()) for path in getattr(pair.target, "paths", None) or ()}
    both = [name for name in listing.names if str((listing.root / name).resolve()) in of_target]
    if both:
        raise UserError(
            f"{len(both)} images of {listing.place} are in the target too ({some(both)}): keep them apart, or give "
            "target_holdout instead"
        )
