"""python -m dan compare A B: how far apart two folders of images, or two files of features, are: a table, a picture."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import Tensor

from dan.errors import UserError, nearest
from dan.evaluation.domain_comparison import FEWEST, MOST, compare, features_of, holds_features, network, table
from dan.models.backbone import Backbone

PICTURES = (".png", ".pdf", ".svg", ".jpg")


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Two folders of images, or two files of features (.npy, .npz, .pt, .mat): are they from one domain?"""

    a: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="A")]
    """Folder of images (all in it count), CSV manifest, or file of features."""
    b: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="B")]
    """What to compare it with."""
    backbone: str = "pixels"
    """What sees the images: "pixels" (small and grey, needs no weights), or a network, such as squeezenet1_1."""
    weights: str | None = None
    """The network's weights: a state-dict file, its publisher's name for them, or none. Default: its publisher's."""
    image_size: int | None = None
    """Pixels a side; default 16 for pixels, the network's own else."""
    out: Path = Path("compare.png")
    """The picture: .png, .pdf, .svg or .jpg."""
    most: int = MOST
    """Of a larger side, so many samples are drawn."""
    permutations: int = 500
    """Relabellings that make the null: the smallest p-value is 1 / (1 + so many)."""
    seed: int = 0
    """Decides everything random in this comparison."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute a network's features."""
    quiet: bool = False
    """No progress bar."""


def run_compare(config: Compare) -> None:
    """Compare, print a table, and save the picture. Raises UserError for what cannot be compared."""
    from dan.figures import comparison_figure
    from dan.run_dir import write_atomically

    _check(config)
    backbone: str | Backbone = config.backbone
    if backbone != "pixels":
        backbone = network(config.backbone, config.weights, seed=config.seed)
    samples: list[Tensor] = []
    for name, path in (("A", config.a), ("B", config.b)):
        features, count = features_of(
            path,
            backbone=backbone,
            image_size=config.image_size,
            device=config.device,
            quiet=config.quiet,
            most=config.most,
            seed=config.seed,
        )
        drawn = f" of {count}, drawn at random" if len(features) < count else ""
        print(f"{name}  {path}: {len(features)} samples{drawn}")
        samples.append(features)
    x, y = (z.to(torch.promote_types(samples[0].dtype, samples[1].dtype)) for z in samples)
    if x.shape[1] != y.shape[1]:
        raise UserError(
            f"{config.a} has {x.shape[1]} features a sample, and {config.b} has {y.shape[1]}: compare features of one "
            "kind"
        )
    result = compare(x, y, permutations=config.permutations, seed=config.seed, most=config.most)
    seen = "their own" if holds_features(config.a) and holds_features(config.b) else config.backbone
    print(f"features: {result.features} ({seen})\n")
    print(table(result))
    figure = comparison_figure(result, x, y, names=_short_names(config.a, config.b))
    write_atomically(config.out, lambda file: figure.savefig(file, format=config.out.suffix[1:].lower()))
    print(f"\npicture: {config.out}")


def _check(config: Compare) -> None:
    """All that can be told before anything is read."""
    from dan.run_dir import write_atomically

    if config.out.suffix.lower() not in PICTURES:
        raise UserError(
            f"--out {config.out}: a picture ends in {', '.join(PICTURES)}{nearest(config.out.suffix, PICTURES)}"
        )
    try:
        trial = config.out.with_name(f".{config.out.name}.trial")
        write_atomically(trial, lambda file: file.write(b""))
        trial.unlink()
    except OSError as error:
        raise UserError(f"--out {config.out} cannot be written ({error.strerror or error}): name another") from None
    if config.most < FEWEST:
        raise UserError(f"--most {config.most}: a comparison needs at least {FEWEST} samples on each side")
    if config.permutations < 19:
        raise UserError(f"--permutations {config.permutations}: with fewer than 19 no p-value can reach 5 %")
    if config.image_size is not None and config.image_size < 1:
        raise UserError(f"--image-size {config.image_size}: it must be at least 1")
    if config.a.resolve() == config.b.resolve():
        raise UserError(f"A and B are both {config.a}: name two that may differ")
    if config.backbone == "pixels" and config.weights is not None:
        raise UserError("--weights are a network's: name one with --backbone")
    if holds_features(config.a) and holds_features(config.b):
        for flag, given in (("--backbone", config.backbone != "pixels"), ("--image-size", config.image_size)):
            if given:
                raise UserError(f"{config.a} and {config.b} hold features already: leave out {flag}")


def _short_names(a: Path, b: Path) -> tuple[str, str]:
    """The last parts of both paths, as many as tell them apart."""
    parts = a.resolve().parts, b.resolve().parts
    for count in range(1, max(map(len, parts)) + 1):
        first, second = ("/".join(part[-count:]) for part in parts)
        if first != second:
            break
    return first, second
