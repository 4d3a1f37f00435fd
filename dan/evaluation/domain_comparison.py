"""Are these two samples from one domain, and how far apart are they? What `python -m dan compare A B` says.

    MMD^2 under each kernel and all together, its permutation null and p-value, kernel weights, A-distance, a picture

Two p-values, both valid. One is of equal kernel weights, on all samples: its ladder stands around the median of the
pooled sample, which does not know which row is whose. The other is of the weights by quadratic program, which do: they
are learned on about half of the samples, and tested on the rest.

Shapes: N, M samples; F features; K kernels; P permutations.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dan.data.batches import derived_seed
from dan.data.image_tree import images_below, print_passed_over
from dan.data.listing import UNLABELLED, Listing
from dan.data.manifests import is_manifest, read_manifest
from dan.devices import choose_device
from dan.errors import UserError
from dan.mmd import (
    MultiKernel,
    TwoSampleTest,
    a_distance,
    median_bandwidth,
    mmd2_per_kernel,
    mmd2_variance,
    mmd2_variance_per_kernel,
    optimal_weights,
    permutation_test,
)
from dan.models.backbone import Backbone
from dan.progress import Progress

FEWEST = 8  # samples a side: weights are learned on 4 of them, and tested on 4
MOST = 2000  # samples a side: all pairs of them, 500 times relabelled, take seconds
PIXELS = 16  # pixels a side of a picture that is compared as such


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison:
    """What `compare` found. Deviations are standard deviations over samples of this size; floats throughout.

    n, m: samples compared of each side. features: F. bandwidths, mmd2_per_kernel, deviations: (K,), by kernel.
    mmd2, deviation: with all kernels weighing the same. test: its permutation test. a_distance: in [-2, 2].
    weights: the quadratic program's beta (K,), learned on `learned_on` samples of each side. weighted_test: the test
    under those weights, on the samples that they were not learned on.
    """

    n: int
    m: int
    features: int
    bandwidths: tuple[float, ...]
    mmd2_per_kernel: tuple[float, ...]
    deviations: tuple[float, ...]
    mmd2: float
    deviation: float
    test: TwoSampleTest
    weights: tuple[float, ...]
    learned_on: int
    weighted_test: TwoSampleTest
    a_distance: float

    @property
    def p_value(self) -> float:
        """Of equal kernel weights, on all samples."""
        return self.test.p_value

    @property
    def accuracy(self) -> float:
        """How often a linear classifier names the domain of a held-out sample, both domains counting the same."""
        return 0.5 + self.a_distance / 4


@torch.no_grad()
def compare(
    x: Tensor,
    y: Tensor,
    *,
    kernel: MultiKernel | None = None,
    permutations: int = 500,
    seed: int = 0,
    most: int = MOST,
) -> Comparison:
    """Compare the samples x (N, F) and y (M, F).

    kernel: default a ladder of five around the median heuristic of the pooled sample; its weights are not looked at.
    most: of a sample with more rows, so many are drawn (without replacement, by the seed) and the rest is left out:
    the cost grows as most^2. seed: decides the draw, the halves, the relabellings and the folds.

    The quadratic program needs as many samples of one side as of the other, and an even number: c = 2 floor(min(N, M) /
    4) shuffled rows of each side teach it, about half of the smaller one, and all other rows are its test.

    Raises ValueError for other shapes, fewer than 8 samples on a side, values that are not finite, and most < 8.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y must be (N, F) and (M, F), not {tuple(x.shape)} and {tuple(y.shape)}")
    if min(len(x), len(y), most) < FEWEST:
        raise ValueError(
            f"a comparison needs at least {FEWEST} samples on each side, not {min(len(x), most)} and "
            f"{min(len(y), most)}"
        )
    # Shuffled, each side by itself: the first rows are any rows.
    x, y = (z[_shuffled(len(z), most, derived_seed(seed, side)).to(z.device)] for side, z in enumerate((x.detach(), y)))
    if kernel is None:
        kernel = MultiKernel.ladder(median_bandwidth(x, y, max_points=MOST))
    kernel = MultiKernel.of(kernel.bandwidths)

    learned_on = 2 * (min(len(x), len(y)) // 4)
    weights = optimal_weights(x[:learned_on], y[:learned_on], kernel)
    weighted = MultiKernel(kernel.bandwidths, weights)
    generator = torch.Generator().manual_seed(derived_seed(seed, 2))
    test = permutation_test(x, y, kernel, permutations=permutations, generator=generator)
    return Comparison(
        n=len(x),
        m=len(y),
        features=x.shape[1],
        bandwidths=tuple(kernel.bandwidths.tolist()),
        mmd2_per_kernel=tuple(mmd2_per_kernel(x, y, kernel).tolist()),
        deviations=tuple(map(_root, mmd2_variance_per_kernel(x, y, kernel).tolist())),
        mmd2=test.statistic,
        deviation=_root(float(mmd2_variance(x, y, kernel))),
        test=test,
        weights=tuple(weights.tolist()),
        learned_on=learned_on,
        weighted_test=permutation_test(
            x[learned_on:], y[learned_on:], weighted, permutations=permutations, generator=generator
        ),
        a_distance=a_distance(x, y, seed=seed % 2**32),
    )


def _shuffled(count: int, most: int, seed: int) -> Tensor:
    """At most `most` of `count` rows, in random order."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:most]


def _root(variance: float) -> float:
    """The variance is estimated without bias, and so may be a little below 0 where it is small."""
    return math.sqrt(max(0.0, variance))


def features_of(
    path: Path,
    *,
    backbone: str | Backbone = "pixels",
    weights: str | None = None,
    image_size: int | None = None,
    batch_size: int = 64,
    device: str = "cpu",
    quiet: bool = True,
    most: int | None = None,
    seed: int = 0,
) -> tuple[Tensor, int]:
    """Features (n, F) of what lies at `path`, on the CPU, and how many samples N it holds in all.

    path: a folder, all of whose images count, however deep they lie and whatever their classes; a CSV manifest; or a
    file of features (see `read_features`). backbone: what turns an image into features: "pixels" for the grey values,
    in [0, 1], of the image made small, or a backbone, or the name and weights of one (see `network`). image_size:
    pixels a
    side; default 16 for "pixels", and the network's own. most: if there are more samples, so many are drawn by the
    seed, and only those are read (n = most). They stay in order.

    Raises UserError for whatever cannot be read, for fewer than 8 samples, and for features that are not finite.
    """
    from dan.data.feature_files import read_features

    if holds_features(path):
        x = read_features(path).x
        rows = _drawn(path, len(x), most, seed)
        return _finite(path, x[rows], [f"row {row}, counted from 0," for row in rows.tolist()]), len(x)
    listing = _images_below(path)
    rows = _drawn(path, len(listing.names), most, seed)
    names = tuple(listing.names[row] for row in rows.tolist())
    chosen = replace(listing, names=names, targets=(UNLABELLED,) * len(names), classes=(), groups=None)
    if backbone == "pixels":
        from dan.data.image_cache import pixels_of

        pixels, _ = pixels_of(chosen, image_size or PIXELS, channels=1, quiet=quiet)
        return torch.from_numpy(pixels.reshape(len(pixels), -1).astype(np.float32)) / 255, len(listing.names)
    backbone = network(backbone, weights, seed=seed) if isinstance(backbone, str) else backbone
    return _finite(path, _seen(backbone, chosen, image_size, batch_size, device, quiet), names), len(listing.names)


def network(name: str, weights: str | None = None, *, seed: int = 0) -> Backbone:
    """The backbone of that name with these weights, those that its publisher gives by default for None.

    weights "none" leaves it as it is initialised, by the seed. Raises UserError as `build_backbone`, and for a backbone
    that takes no images.
    """
    from dan.models.registry import build_backbone

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = build_backbone(name, "DEFAULT" if weights is None else weights)
    if backbone.input_shape is None or len(backbone.input_shape) != 3:
        raise UserError(f'the backbone "{name}" takes no images: name another, or pixels')
    return backbone


@torch.no_grad()
def _seen(
    backbone: Backbone, listing: Listing, image_size: int | None, batch_size: int, device: str, quiet: bool
) -> Tensor:
    """The backbone's outputs on the listing's images, (N, F), flattened."""
    from dan.data.folders import images_of

    images = images_of(
        listing,
        image_size=image_size or backbone.input_size or 224,
        channels=1 if backbone.channels == 1 else 3,
        normalisation=backbone.normalisation or "half",
        quiet=quiet,
    )
    place = choose_device(device)
    backbone.to(place).eval()
    parts = []
    with Progress("features", len(images), quiet=quiet) as progress:
        for rows in torch.arange(len(images)).split(batch_size):
            parts.append(backbone(images.batch(rows)[0].to(place)).flatten(1).cpu())
            progress.advance(steps=len(rows))
    return torch.cat(parts)


def holds_features(path: Path) -> bool:
    """Whether the path names a file of features, and no images."""
    from dan.data.feature_files import SUFFIXES

    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def _images_below(path: Path) -> Listing:
    if is_manifest(path):
        return read_manifest(path)
    if not path.is_dir():
        what = "is no folder of images, CSV manifest or file of features" if path.exists() else "does not exist"
        raise UserError(f"{path} {what}: name a folder of images, or features in .npy, .npz, .pt or .mat")
    names, others = images_below(path)
    print_passed_over(others)
    return Listing(place=path, root=path, names=tuple(names), targets=(UNLABELLED,) * len(names), classes=())


def _drawn(path: Path, count: int, most: int | None, seed: int) -> Tensor:
    """The rows to read: all, or `most` of them by the seed, in order."""
    if count < FEWEST:
        raise UserError(f"{path} holds {count} samples: a comparison needs at least {FEWEST} on each side")
    if most is None or count <= most:
        return torch.arange(count)
    return _shuffled(count, most, derived_seed(seed, 3)).sort().values


def _finite(path: Path, features: Tensor, names: Sequence[str]) -> Tensor:
    bad = (~features.isfinite().all(1)).nonzero()[:, 0].tolist()
    if bad:
        raise UserError(
            f"{path}: {len(bad)} of {len(features)} samples hold NaN or infinite features (first: {names[bad[0]]}): "
            "remove them"
        )
    return features


def table(result: Comparison) -> str:
    """The comparison as text: a line a kernel, the tests, the A-distance, and what it means."""
    lines = ["kernel  bandwidth gamma     MMD^2 +- s.d.        weight"]
    rows = zip(result.bandwidths, result.mmd2_per_kernel, result.deviations, result.weights, strict=True)
    for u, (gamma, value, deviation, weight) in enumerate(rows):
        lines.append(f"{u:>6}  {gamma:>15.5g}  {value:>10.6f} +- {deviation:.6f}  {weight:>6.3f}")
    low, high = result.test.band
    weighted = result.weighted_test
    rest = f"{result.n - result.learned_on} and {result.m - result.learned_on}"
    return "\n".join(
        [
            *lines,
            "",
            f"equal weights    MMD^2 = {result.mmd2:.6f} +- {result.deviation:.6f}   p = {result.p_value:.3g}",
            f"                 of one domain, 95 % would lie in [{low:.6f}, {high:.6f}]",
            f"weights above    MMD^2 = {weighted.statistic:.6f}   p = {weighted.p_value:.3g}",
            f"                 learned on {result.learned_on} samples of each side, tested on the other {rest}",
            f"A-distance       {result.a_distance:.3f}   (0: not told apart, 2: without error)",
            "",
            verdict(result),
        ]
    )


def verdict(result: Comparison) -> str:
    """What the comparison means, in one sentence; at the level of 5 %, by the test of equal weights."""
    told = f"a linear classifier names the domain of a held-out sample rightly in {result.accuracy:.0%} of cases"
    count = len(result.test.null)
    if result.p_value <= 0.05:
        as_far = round(result.p_value * (count + 1)) - 1
        chance = f"{as_far or 'none'} of {count} random relabellings"
        return f"The two differ: {chance} gave an MMD^2 as large, and {told}."
    return f"No difference is shown (p = {result.p_value:.2g}), which does not prove that there is none; {told}."
