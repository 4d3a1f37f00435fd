"""What a network keeps of its source, so that it can be adapted to a new target without the source's samples.

    core-set     S of the N source samples, as outputs z of the backbone's first k stages, with their labels: of each
    class
                 c, by kernel herding, those whose mean embedding is nearest the class's own
    means        (1 / n_c) sum of f over class c
    embedding    sum over the source of (cos w'f, sin w'f): the mean embedding under the kernel, by random frequencies w

f is the layer before the logits, k(f, f') = E_w cos(w'(f - f')) the kernel. Training then runs on the core-set as on
any source: `fit(model, kept.source, target, ...)`, with the first k stages frozen, since z is what they made.

Shapes: N source samples; S of the core-set; M target samples; C classes; F features; K kernels; D frequencies.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from dan.data.batches import iter_batches, num_samples
from dan.errors import UserError
from dan.feature_cache import content_digest
from dan.instance_weights import source_subset
from dan.mmd import MultiKernel, median_bandwidth
from dan.mmd.random_features import draw_frequencies, fourier_waves
from dan.models.backbone import stage_index
from dan.models.dan import DAN
from dan.run_dir import read_tensors, write_atomically

FORMAT = 1
FREQUENCIES = 1024
_CHUNK = 2048  # rows whose waves are summed at once


class KeptOutputs(TensorDataset):
    """(z, y): samples as outputs of the backbone's first `after_stages` stages, which `fit` does not run again."""

    def __init__(self, z: Tensor, y: Tensor, *, after_stages: int) -> None:
        super().__init__(z, y)
        self.after_stages = after_stages


@dataclass(frozen=True, eq=False, kw_only=True)
class KeptSource:
    """What is kept of a source. All tensors are on the CPU; `save` and `read_kept` are its file."""

    z: Tensor  # (S, ...) float32: the core-set, after the backbone's first stages
    y: Tensor  # (S,) int64
    after_stages: int  # how many stages that is
    backbone: str  # sha256 of those stages' weights
    means: Tensor  # (C, F) of all N source samples' features, by class
    counts: Tensor  # (C,) int64, how many they were; they sum to N
    bandwidths: Tensor  # (K,) of the kernel
    weights: Tensor  # (K,)
    frequencies: Tensor  # (F, D) float64, drawn for that kernel
    centre: Tensor  # (F,): angles are w'(f - centre)
    embedding: Tensor  # (2, D) float64: sums over the source of the cosines, and of the sines

    @property
    def source(self) -> KeptOutputs:
        """The core-set as a data set that `fit` takes for its source."""
        return KeptOutputs(self.z, self.y, after_stages=self.after_stages)

    def under(self, model: DAN) -> "KeptSource":
        """The same core-set, with means, kernel and embedding by the network as it is now: of the core-set alone, since
        no other sample is there. For a network that was trained on from this one."""
        f, _ = self.features(model)
        width, frequencies = len(self.counts), self.frequencies.shape[1]
        sums: dict[str, Any] = dict(_sums(f.float(), self.y, width, frequencies, seed=0))
        return replace(self, **sums)

    @property
    def kernel(self) -> MultiKernel:
        """The kernel of the embedding: the common ladder at the median of the source's features."""
        return MultiKernel(self.bandwidths, self.weights)

    def features(self, model: DAN) -> tuple[Tensor, Tensor]:
        """What the network, as it is now, says of the core-set: its layer before the logits (S, F); the labels (S,).

        These stand for the source where a strategy asks for source_features and source_targets (`active.Query`).
        Raises UserError for a network whose first stages have other weights.
        """
        from dan.evaluation.metrics import predict

        self.check(model)
        output, y = predict(model, self.source, start=self.after_stages)
        return output.features, y

    def mmd2(self, features: Tensor, *, estimator: Literal["unbiased", "biased"] = "unbiased") -> tuple[float, float]:
        """MMD^2 between the whole kept source and features (M, F), without a source sample; its standard error.

        features: the layer before the logits, by the network that the source was kept with: training moves features,
        and the embedding stays. The biased one, the squared distance of two mean embeddings, is for samples that were
        chosen to be near, such as a core-set. The standard error is that of D random frequencies, as in
        `dan.mmd.random_feature_mmd2`.
        Raises ValueError for other shapes, fewer than 2 samples, NaN, or another estimator.
        """
        n, m, width = int(self.counts.sum()), len(features), len(self.centre)
        if features.ndim != 2 or features.shape[1] != width or m < 2:
            raise ValueError(f"features must be (M, {width}) with M >= 2, not {tuple(features.shape)}")
        if not bool(features.isfinite().all()):
            raise ValueError("the features hold NaN or infinite values: MMD^2 needs finite ones")
        if estimator not in ("unbiased", "biased"):
            raise ValueError(f'the estimator is "unbiased" or "biased", not "{estimator}"')
        cos_x, sin_x = self.embedding
        cos_y, sin_y = fourier_waves(features.cpu(), self.centre, self.frequencies, _CHUNK)
        own = 1 if estimator == "unbiased" else 0  # whether a sample's kernel with itself is left out
        h = (
            (cos_x**2 + sin_x**2 - own * n) / (n * (n - own))
            + (cos_y**2 + sin_y**2 - own * m) / (m * (m - own))
            - (cos_x * cos_y + sin_x * sin_y) * (2 / (n * m))
        )
        return float(h.mean()), float(h.std()) / math.sqrt(len(h))

    def check(self, model: DAN) -> None:
        """Raises UserError for a network whose first stages are not those that the core-set went through."""
        if self.after_stages > len(model.stages) or _backbone_digest(model, self.after_stages) != self.backbone:
            raise UserError(
                "what is kept of the source went through other weights than this network's first "
                f"{self.after_stages} stages: keep it again, from this network"
            )

    def save(self, path: Path) -> None:
        """Write the file, at once or not at all: tensors and plain values only."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        plain = {name: value.contiguous() if isinstance(value, Tensor) else value for name, value in values.items()}
        content = {"format": FORMAT, **plain}
        write_atomically(path, lambda file: torch.save(content, file))


@torch.no_grad()
def keep_source(
    model: DAN, source: Dataset, count: int, *, stage: str | None = None, seed: int = 0, frequencies: int = FREQUENCIES
) -> KeptSource:
    """What is to be kept of `source` under a trained network: a core-set of `count` samples, and sums over all of it.

    stage: the stage of the backbone whose outputs are kept, and up to which the backbone is frozen later; None: the
    last one
    that the network can be entered after (see `DAN.forward`). seed: of the random frequencies. The core-set has the
    classes in the source's shares, at least one of each class that is there. The features of all N samples are held in
    memory, and, for one class at a time, herding's O(n_c^2) kernel values are streamed.

    Raises UserError for fewer samples than classes or more than there are, an unknown stage, one after which the
    network can't be entered, and stages that have adapters.
    """
    total = num_samples(source)
    stop = _last_stage(model, stage)
    was_training = model.training
    place = next(model.parameters()).device
    model.eval()
    try:
        outputs, features, labels = [], [], []
        for x, y in iter_batches(source, 500):
            z = _through(model, x.to(place), stop)
            outputs.append(z.float().cpu())
            features.append(model(z, start=stop).features.float().cpu())
            labels.append(y)
    finally:
        model.train(was_training)
    f, y = torch.cat(features), torch.cat(labels).long()
    classes = int(model.settings["num_classes"])
    counts = torch.bincount(y, minlength=classes)
    sums = _sums(f, y, classes, frequencies, seed)
    rows = _core_set(f, y, _shares(counts, count, total), MultiKernel(sums["bandwidths"], sums["weights"]))
    return KeptSource(
        z=torch.cat(outputs)[rows], y=y[rows], after_stages=stop, backbone=_backbone_digest(model, stop), **sums
    )


def read_kept(path: Path | str) -> KeptSource:
    """The file that `KeptSource.save` wrote; a folder stands for the source.pt in it. Nothing in it is executed.

    Raises UserError where there is none, and for one whose content is of other types, shapes or values than it must be.
    """
    path = Path(path)
    path = path / "source.pt" if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"{path} does not exist: train with --coreset-size, or name the folder of a run that did")
    found: Any = read_tensors(path, "cpu")
    problem = _problem(found)
    if problem:
        raise UserError(f"{path} is no kept source ({problem}): make it again by --coreset-size")
    return KeptSource(**{name: value for name, value in found.items() if name != "format"})


def _problem(found: Any) -> str | None:
    """What is wrong with a file's content; None if nothing is."""
    names = {entry.name for entry in fields(KeptSource)}
    if not isinstance(found, Mapping) or set(found) != names | {"format"}:
        return "it holds other things"
    if type(found["format"]) is not int or found["format"] != FORMAT:
        return "it is of another version"
    integers, texts = {"y", "counts"}, {"backbone"}
    if not isinstance(found["backbone"], str) or type(found["after_stages"]) is not int or found["after_stages"] < 1:
        return "its backbone is not described"
    for name in names - texts - {"after_stages"}:
        value = found[name]
        # A tensor that isn't contiguous may claim more than the file holds; one on "meta" holds nothing.
        if type(value) is not Tensor or value.layout != torch.strided or value.is_quantized or value.requires_grad:
            return f"{name} is no plain tensor"
        if value.device.type != "cpu" or not value.is_contiguous():
            return f"{name} is no plain tensor"
        if value.dtype not in ((torch.int64,) if name in integers else (torch.float32, torch.float64)):
            return f"{name} is of {value.dtype}"
        if name not in integers and not bool(value.isfinite().all()):
            return f"{name} holds NaN or infinite values"
    z, y, means, counts = (found[name] for name in ("z", "y", "means", "counts"))
    if means.ndim != 2 or counts.ndim != 1 or found["frequencies"].ndim != 2 or found["bandwidths"].ndim != 1:
        return "its shapes are others"
    (c, f), d, k = means.shape, found["frequencies"].shape[1], len(found["bandwidths"])
    shapes: dict[str, tuple[int, ...]] = {
        "y": (len(z) if z.ndim else -1,),
        "counts": (c,),
        "weights": (k,),
        "centre": (f,),
    }
    shapes |= {"frequencies": (f, d), "embedding": (2, d)}
    if z.ndim < 2 or not z.numel() or c < 2 or d < 2 or k < 1:
        return "its shapes are others"
    for name, shape in shapes.items():
        if tuple(found[name].shape) != shape:
            return f"{name} is of shape {tuple(found[name].shape)}, not {shape}"
    if not 0 <= int(y.min()) <= int(y.max()) < c or int(counts.min()) < 0 or int(counts.sum()) < max(2, len(y)):
        return "its labels are no classes of its own"
    total = float(found["weights"].double().sum())
    if not bool((found["bandwidths"] > 0).all()) or not bool((found["weights"] >= 0).all()) or abs(total - 1) > 1e-4:
        return "its kernel is none"
    return None


def _sums(f: Tensor, y: Tensor, classes: int, frequencies: int, seed: int) -> dict[str, Tensor]:
    """What is told of all samples together: features f (N, F) of the classes y (N,)."""
    kernel = MultiKernel.ladder(median_bandwidth(f[::2], f[1::2]))
    centre = f.mean(0)
    w = draw_frequencies(kernel, f.shape[1], frequencies, torch.Generator().manual_seed(seed))  # (F, D)
    counts = torch.bincount(y, minlength=classes)
    means = torch.zeros(classes, f.shape[1], dtype=torch.float64).index_add_(0, y, f.double())
    return {
        "means": (means / counts.clamp_min(1)[:, None]).float(),
        "counts": counts,
        "bandwidths": kernel.bandwidths,
        "weights": kernel.weights,
        "frequencies": w,
        "centre": centre,
        "embedding": torch.stack(fourier_waves(f, centre, w, _CHUNK)),
    }


def _last_stage(model: DAN, stage: str | None) -> int:
    stages, capture = list(model.stages), model.settings["capture"]
    latest = stage_index(model.stages, capture[0]) + 1 if capture else len(stages)
    stop = latest if stage is None else stage_index(model.stages, stage) + 1
    if stop > latest:
        raise UserError(
            f"the source cannot be kept after the stage {stage}, for {capture[0]} before it is aligned: "
            f"name {stages[latest - 1]} or an earlier one"
        )
    adapted = (model.settings["adapters"] or {"stages": []})["stages"]
    if any(name in adapted for name in stages[:stop]):
        raise UserError(
            "the source cannot be kept as outputs of stages that have adapters: train without --adapters, or name an "
            "earlier stage"
        )
    return stop


def _through(model: DAN, x: Tensor, stop: int) -> Tensor:
    for stage in list(model.stages.values())[:stop]:
        x = stage(x)
    return x


def _shares(counts: Tensor, count: int, total: int) -> list[int]:
    """How many of each class: `count` in the shares of `counts` (C,), by largest remainders; at least 1, if any."""
    present = int((counts > 0).sum())
    fewest = max(2, present)
    if not fewest <= count <= total:
        raise UserError(
            f"a core-set of {total} source samples of {present} classes has {fewest} to {total} of them, not {count}"
        )
    wanted = counts.double() * count / total
    shares = torch.minimum(wanted.floor().long().clamp_min(1), counts)
    while (missing := count - int(shares.sum())) != 0:
        # What the minimum of 1 has added is taken where a share is most exceeded; what is left goes where most lacks.
        lacking = (wanted - shares) * (1 if missing > 0 else -1)
        free = shares < counts if missing > 0 else shares > 1
        shares[lacking.masked_fill(~free, -math.inf).argmax()] += 1 if missing > 0 else -1
    return shares.tolist()


def _core_set(f: Tensor, y: Tensor, shares: list[int], kernel: MultiKernel) -> Tensor:
    """Rows of f (N, F): of each class by herding towards the class's own mean embedding, in ascending order."""
    rows = []
    for number, count in enumerate(shares):
        own = (y == number).nonzero()[:, 0]
        if count:
            rows.append(own[source_subset(f[own], f[own], kernel, count)])
    return torch.cat(rows).sort().values


def _backbone_digest(model: DAN, stop: int) -> str:
    named = list(model.stages.items())[:stop]
    return content_digest(
        (f"{name}.{key}", value) for name, stage in named for key, value in stage.state_dict().items()
    )
