"""Pictures of features and of images, as matplotlib Figures that any page, event file or notebook can show.

Pure functions: no pyplot, no global figure, no random numbers. `figure.savefig(...)` writes one, `pixels(figure)` is
its raster.

Shapes: N source samples, M target samples, F features, (C, H, W) an image.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from dan.evaluation.domain_comparison import Comparison

# Blue and orange are told apart by colour-blind eyes too, and the marks differ besides.
SOURCE_COLOUR, TARGET_COLOUR = "#3b6fb6", "#e07b1a"
UNLABELLED_COLOUR = "#b8b8b8"
LEGEND_CLASSES = 12  # a legend of more classes would hide the map
POINTS_PER_SIDE = 500  # of a comparison: more hide each other, and their principal components take long


def principal_components(points: NDArray[np.float64], count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The points (N, F) along their first principal components (N, count), and their shares of variance (count,).

    The sign of a component is arbitrary: here its largest loading is positive, so that maps of one run do not flip from
    step to step. Components that do not exist (count > F or N) are 0.
    """
    centred = points - points.mean(0, keepdims=True)
    u, s, vt = np.linalg.svd(centred, full_matrices=False)  # (N, R) (R,) (R, F)
    rank = min(count, len(s))
    largest = np.abs(vt[:rank]).argmax(1)
    signs = np.where(vt[np.arange(rank), largest] < 0, -1.0, 1.0)
    scores, shares = np.zeros((len(points), count)), np.zeros(count)
    scores[:, :rank] = u[:, :rank] * s[:rank] * signs
    total = float((s**2).sum())
    if total > 0:
        shares[:rank] = s[:rank] ** 2 / total
    return scores, shares


def feature_map_figure(
    source_features: Tensor,
    source_targets: Tensor,
    target_features: Tensor,
    target_targets: Tensor | None = None,
    *,
    classes: Sequence[str] = (),
    title: str = "",
) -> Figure:
    """Source (N, F) and target (M, F) features in the plane of their pooled principal components, twice.

    Left: coloured by domain; adapted features mix. Right: coloured by class; discriminative features stay apart.
    Target samples without `target_targets` (M,) are grey on the right. `classes` names the classes 0, 1, ...

    Raises ValueError when the features are not finite, or both domains are empty.
    """
    count = len(source_features)
    pooled = np.concatenate([_array(source_features), _array(target_features)]).astype(np.float64)
    if len(pooled) == 0 or not np.isfinite(pooled).all():
        raise ValueError("a feature map needs finite features of at least one sample")
    plane, shares = principal_components(pooled, 2)
    source, target = plane[:count], plane[count:]
    # Round marks for the source, crosses for the target, in both panels.
    dots: dict[str, Any] = {"marker": "o", "s": 14, "alpha": 0.65, "linewidths": 0}
    crosses: dict[str, Any] = {"marker": "x", "s": 16, "alpha": 0.75, "linewidths": 1.0}

    figure = Figure(figsize=(10, 4.6), dpi=100, layout="constrained")
    by_domain, by_class = figure.subplots(1, 2, sharex=True, sharey=True)
    by_domain.scatter(*source.T, color=SOURCE_COLOUR, label=f"source ({len(source)})", **dots)
    by_domain.scatter(*target.T, color=TARGET_COLOUR, label=f"target ({len(target)})", **crosses)
    by_domain.set_title("by domain", loc="left", fontsize=10)
    _legend(by_domain)

    source_classes = _array(source_targets).astype(int)
    target_classes = np.full(len(target), -1) if target_targets is None else _array(target_targets).astype(int)
    present = sorted(set(source_classes.tolist()) | set(target_classes.tolist()) - {-1})
    unlabelled = target[target_classes < 0]
    if len(unlabelled):
        by_class.scatter(*unlabelled.T, color=UNLABELLED_COLOUR, label="target, no label", **crosses)
    for label, colour in zip(present, class_colours(len(present)), strict=True):
        name = classes[label] if label < len(classes) else str(label)
        by_class.scatter(*source[source_classes == label].T, color=colour, label=name, **dots)
        by_class.scatter(*target[target_classes == label].T, color=colour, **crosses)
    by_class.set_title("by class  (dots: source, crosses: target)", loc="left", fontsize=10)
    if len(present) <= LEGEND_CLASSES:
        _legend(by_class, outside=True)
    else:
        by_class.set_xlabel(f"{len(present)} classes")

    for axes in (by_domain, by_class):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8, color="#999999", labelcolor="#555555")
    by_domain.set_xlabel(f"first component ({shares[0]:.0%} of the variance)", fontsize=9)
    by_domain.set_ylabel(f"second component ({shares[1]:.0%})", fontsize=9)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    return figure


def pictures_figure(
    images: Tensor, captions: Sequence[str], *, columns: int = 8, limit: int = 64, title: str = ""
) -> Figure:
    """A grid of images (N, C, H, W), each stretched from its least to its greatest value, under its caption.

    C = 1 is drawn grey, C = 3 in colour, any other C by its mean. At most `limit` images are drawn; the title says so.

    Raises ValueError without images, or when there is not one caption for each.
    """
    if images.ndim != 4 or len(images) == 0:
        raise ValueError(f"expected images (N, C, H, W), at least one, but got the shape {tuple(images.shape)}")
    if len(captions) != len(images):
        raise ValueError(f"{len(images)} images need as many captions, not {len(captions)}")
    shown = _array(images[:limit]).astype(np.float64)
    if len(images) > limit:
        title = f"{title} (first {limit} of {len(images)})".strip()
    columns = min(columns, len(shown))
    rows = math.ceil(len(shown) / columns)
    lines = max(caption.count("\n") + 1 for caption in captions[:limit])
    # Every place is computed, in inches: solving for a layout would take longer than the round's own training.
    cell, gap, head = 1.35, 0.1, 0.17 * lines + 0.05
    width = max(3.0, cell * columns)
    height = (cell + head) * rows + (0.4 if title else 0.0)
    figure = Figure(figsize=(width, height), dpi=100)
    for place, (image, caption) in enumerate(zip(shown, captions, strict=False)):
        row, column = divmod(place, columns)
        bottom = (cell + head) * (rows - 1 - row)
        side = cell - gap
        axes = figure.add_axes((cell * column / width, bottom / height, side / width, side / height))
        axes.axis("off")
        picture = _stretched(image)
        # Small images keep their square pixels; large ones are shrunk, and want smoothing.
        smooth = "antialiased" if min(picture.shape[:2]) > 64 else "nearest"
        axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation=smooth)
        axes.set_title("\n".join(map(_clipped, caption.split("\n"))), fontsize=8, pad=3)
    if title:
        figure.suptitle(title, x=0.01, y=1 - 0.1 / height, ha="left", va="top", fontsize=11)
    return figure


def comparison_figure(comparison: "Comparison", x: Tensor, y: Tensor, *, names: tuple[str, str]) -> Figure:
    """What `dan.evaluation.domain_comparison.compare` says of the samples x (N, F) and y (M, F), which are called
    `names`.

    Left: MMD^2 under each kernel with its standard deviation, and the kernels' weights as bars. Middle: the permutation
    null, its 95 % band, and the value observed. Right: the first 500 of each sample in the plane of their pooled
    principal components.
    """
    figure = Figure(figsize=(13, 4.2), dpi=100, layout="constrained")
    kernels, null, plane = figure.subplots(1, 3)
    weights = kernels.twinx()
    kernels.set_zorder(weights.get_zorder() + 1)  # the points over the bars, whose axis would else come last
    kernels.patch.set_visible(False)
    places = np.arange(len(comparison.bandwidths))
    weights.bar(places, comparison.weights, width=0.55, color="#e4e4e4", label="weight")
    weights.set_ylim(0, 1)
    weights.set_ylabel("weight by the quadratic program (bars)", fontsize=9, color="#777777")
    kernels.errorbar(
        places,
        comparison.mmd2_per_kernel,
        yerr=comparison.deviations,
        fmt="o",
        color=SOURCE_COLOUR,
        markersize=5,
        capsize=3,
        label="MMD^2 +- s.d.",
    )
    kernels.axhline(0, color="#999999", linewidth=0.8)
    lowest = min(np.subtract(comparison.mmd2_per_kernel, comparison.deviations))
    kernels.set_ylim(bottom=min(0.0, 1.1 * float(lowest)))
    step = max(1, len(places) // 8)  # labels of 33 kernels would run into each other
    kernels.set_xticks(places[::step], [f"{gamma:.3g}" for gamma in comparison.bandwidths[::step]])
    kernels.set_xlabel("bandwidth", fontsize=9)
    kernels.set_ylabel("unbiased MMD$^2$ (points)", fontsize=9)
    kernels.set_title("under each kernel", loc="left", fontsize=10)

    test = comparison.test
    low, high = test.band
    null.axvspan(low, high, color="#eeeeee", label="95 % of them")
    null.hist(test.null.cpu().numpy(), bins=30, color="#9a9a9a", label=f"{len(test.null)} relabellings")
    null.axvline(test.statistic, color=TARGET_COLOUR, linewidth=2, label=f"observed, p = {test.p_value:.3g}")
    null.set_xlabel("MMD$^2$, equal weights", fontsize=9)
    null.set_yticks([])
    null.set_title("if they were one domain", loc="left", fontsize=10)
    _legend(null)

    first, second = (_array(z[:POINTS_PER_SIDE]).astype(np.float64) for z in (x, y))
    scores, shares = principal_components(np.concatenate([first, second]), 2)
    plane.scatter(*scores[: len(first)].T, marker="o", s=12, alpha=0.6, linewidths=0, color=SOURCE_COLOUR)
    plane.scatter(*scores[len(first) :].T, marker="x", s=14, alpha=0.7, linewidths=1.0, color=TARGET_COLOUR)
    for name, colour, marker in zip(names, (SOURCE_COLOUR, TARGET_COLOUR), "ox", strict=True):
        plane.scatter([], [], marker=marker, color=colour, s=16, label=_clipped(name, 40))
    plane.set_xlabel(f"first component ({shares[0]:.0%} of the variance)", fontsize=9)
    plane.set_ylabel(f"second component ({shares[1]:.0%})", fontsize=9)
    plane.set_title(f"the samples; A-distance {comparison.a_distance:.2f}", loc="left", fontsize=10)
    _legend(plane)

    for axes in (kernels, null, plane, weights):
        axes.spines[["top"]].set_visible(False)
        axes.tick_params(labelsize=8, color="#999999", labelcolor="#555555")
    for axes in (null, plane):
        axes.spines[["right"]].set_visible(False)
    return figure


def confusion_figure(confusions: Tensor, classes: Sequence[str], *, title: str = "") -> Figure:
    """A confusion matrix (C, C): how often a sample of the class of the row was called by the class of the column.

    Shades are shares of the row, so that rare classes show as frequent ones do; numbers are counts, up to 20 classes.
    Raises ValueError where the matrix is not square, or there is not one name for each class.
    """
    count = len(classes)
    if confusions.shape != (count, count) or count == 0:
        raise ValueError(f"{count} classes need a matrix {count} x {count}, not {tuple(confusions.shape)}")
    counts = _array(confusions).astype(np.float64)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(16.0, max(4.0, 0.5 * count + 2.0))
    figure = Figure(figsize=(side, side), dpi=100, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    step = max(1, math.ceil(count / 60))  # more names than that run into each other
    places = range(0, count, step)
    names = [_clipped(classes[place]) for place in places]
    axes.set_xticks(places, names, rotation=90, fontsize=8 if count <= 40 else 6)
    axes.set_yticks(places, names, fontsize=8 if count <= 40 else 6)
    axes.set_xlabel("predicted", fontsize=9)
    axes.set_ylabel("true", fontsize=9)
    if count <= 20:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] > 0.6 else "#222222"
            axes.text(column, row, f"{counts[row, column]:.0f}", ha="center", va="center", fontsize=7, color=colour)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes, shrink=0.6, label="share of the true class")
    if title:
        axes.set_title(title, loc="left", fontsize=11)
    return figure


def class_colours(count: int) -> list[Any]:
    """As many colours as classes: ten or twenty of a qualitative scale, or evenly spaced hues beyond."""
    if count <= 10:
        colours = list(colormaps["tab10"].colors)  # type: ignore[attr-defined]
        colours[7] = "#222222"  # its grey stands for samples without a label
        return colours[:count]
    if count <= 20:
        return list(colormaps["tab20"].colors[:count])  # type: ignore[attr-defined]
    return [colormaps["turbo"](position) for position in np.linspace(0.02, 0.98, count)]


def pixels(figure: Figure) -> NDArray[np.uint8]:
    """The figure's raster (H, W, 3)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call, unused-ignore]
    raster = canvas.buffer_rgba()  # type: ignore[no-untyped-call, unused-ignore]
    return np.asarray(raster, dtype=np.uint8)[..., :3].copy()


def _array(tensor: Tensor) -> NDArray[Any]:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _stretched(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """(C, H, W) -> (H, W) or (H, W, 3) in [0, 1]; an even image is mid-grey."""
    picture = image.transpose(1, 2, 0) if len(image) == 3 else image.mean(0)
    least, greatest = picture.min(), picture.max()
    return (picture - least) / (greatest - least) if greatest > least else np.full_like(picture, 0.5)


def _clipped(line: str, length: int = 20) -> str:
    """A line that fits over its picture: neighbours' captions must not run into each other."""
    return line if len(line) <= length else f"{line[: length - 1]}…"


def _legend(axes: Axes, *, outside: bool = False) -> None:
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if outside else {"loc": "best"}
    axes.legend(**place, fontsize=8, frameon=False, handletextpad=0.2)
