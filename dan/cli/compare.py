"""python -m dan compare A B: how far apart two folders of images, or two feature files, are: a table and a figure."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from dan.errors import UserError, nearest

if TYPE_CHECKING:
    from torch import Tensor

PICTURES = (".png", ".pdf", ".svg", ".jpg")


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Test whether two folders of images, or two feature files (.npy, .npz, .pt, .mat), are from one domain."""

    a: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="A")]
    """Folder of images (searched recursively), CSV manifest, or feature file."""
    b: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="B")]
    """The second one, in the same forms."""
    backbone: str = "pixels"
    """Features of images: "pixels" (small grey images, needs no weights), or a backbone, such as squeezenet1_1."""
    weights: str | None = None
    """Weights of the backbone: a state-dict file, its publisher's name for them (default: DEFAULT), or none."""
    image_size: int | None = None
    """Side of the square images in pixels. Default: 16 for pixels, else the backbone's own."""
    out: Path = Path("compare.png")
    """The figure: .png, .pdf, .svg or .jpg."""
    most: int = 2000
    """Largest number of samples of each side; of more, this many are drawn at random."""
    permutations: int = 500
    """Permutations of the two-sample test; the smallest possible p-value is 1 / (1 + permutations)."""
    seed: int = 0
    """Seed of everything random in this comparison."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to compute a backbone's features on."""
    quiet: bool = False
    """Print no progress bar."""


def run_compare(config: Compare) -> None:
    """Compare, print a table, and save the figure. Raises UserError for what cannot be compared."""
    import torch

    from dan.evaluation.domain_comparison import compare, holds_features, table
    from dan.figures import comparison_figure
    from dan.run_dir import write_atomically

    _check(config)
    samples = _read_samples(config)
    x, y = (z.to(torch.promote_types(samples[0].dtype, samples[1].dtype)) for z in samples)
    if x.shape[1] != y.shape[1]:
        raise UserError(
            f"{config.a} has {x.shape[1]} features a sample, and {config.b} has {y.shape[1]}: compare features of one "
            "kind"
        )
    result = compare(x, y, permutations=config.permutations, seed=config.seed, most=config.most)
    kind = "their own" if holds_features(config.a) and holds_features(config.b) else config.backbone
    print(f"features: {result.features} ({kind})\n")
    print(table(result))
    figure = comparison_figure(result, x, y, names=_short_names(config.a, config.b))
    write_atomically(config.out, lambda file: figure.savefig(file, format=config.out.suffix[1:].lower()))
    print(f"\nfigure: {config.out}")


def _read_samples(config: Compare) -> "list[Tensor]":
    """The features of A and of B, (N, F) each; prints how many samples there are."""
    from dan.evaluation.domain_comparison import features_of, network

    backbone = "pixels" if config.backbone == "pixels" else network(config.backbone, config.weights, seed=config.seed)
    samples = []
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
        print(f"{name}  {path}: {len(features)} samples{drawn}", flush=True)
        samples.append(features)
    return samples


def _check(config: Compare) -> None:
    """Raise UserError for what can be known before anything is read."""
    from dan.evaluation.domain_comparison import FEWEST, holds_features
    from dan.run_dir import write_atomically

    if config.out.suffix.lower() not in PICTURES:
        raise UserError(
            f"--out {config.out}: a figure ends in {', '.join(PICTURES)}{nearest(config.out.suffix, PICTURES)}"
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
