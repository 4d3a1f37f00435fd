"""The four uncertainty scores over all distributions of three labels, as heat maps on a triangle.

A corner is certainty of one label, the middle of an edge a tie of two, the centre of the triangle a tie of all three.
Contours join the distributions between which a strategy does not choose. After figure 3.2 of R. Munro,
Human-in-the-Loop Machine Learning, 2021.

Shapes: N distributions.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # python experiments/uncertainty_maps.py puts this folder on the path, not its parent
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from matplotlib.figure import Figure
from torch import Tensor

from active.strategies.uncertainty import (
    at_temperature,
    entropy,
    least_confidence,
    margin_of_confidence,
    ratio_of_confidence,
)
from dan.cli import Command, run
from dan.errors import UserError

NAME = "uncertainty_maps"
SCORES = {
    "least_confidence": ("least confidence", least_confidence),
    "margin": ("margin of confidence", margin_of_confidence),
    "ratio": ("ratio of confidence", ratio_of_confidence),
    "entropy": ("entropy", entropy),
}
# Where label 1, 2 and 3 are certain: the corners of a triangle with sides of length 1.
CORNERS = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]], dtype=torch.float64)


@dataclass(frozen=True)
class UncertaintyMaps:
    """Draws formulas: no data, no training, no randomness."""

    out: Path = Path("runs/uncertainty_maps")
    """folder that the figure goes to, as figures/maps.png"""
    resolution: int = 120
    """distributions along a side of the triangle"""
    temperatures: tuple[float, ...] = (1.0, 3.0)
    """one row of maps for each: what the scores say of the same logits at that temperature"""
    quiet: bool = False
    """print nothing"""


def distributions(resolution: int) -> Tensor:
    """All (i, j, k) / resolution with i + j + k = resolution: ((resolution + 1)(resolution + 2) / 2, 3), float64."""
    i, j = torch.meshgrid(torch.arange(resolution + 1), torch.arange(resolution + 1), indexing="ij")
    inside = i + j <= resolution
    first, second = i[inside], j[inside]
    return torch.stack([first, second, resolution - first - second], dim=1).double() / resolution


def maps(resolution: int, temperatures: Sequence[float]) -> Figure:
    """A row of four maps for each temperature, on one scale from 0 (certain) to 1 (ask)."""
    probs = distributions(resolution)  # (N, 3)
    x, y = (probs @ CORNERS).T
    figure = Figure(figsize=(13, 3.3 * len(temperatures) + 0.3), layout="constrained")
    grid = figure.subplots(len(temperatures), len(SCORES), squeeze=False)
    drawn: Any = None
    for row, temperature in zip(grid, temperatures, strict=True):
        for axes, (title, score) in zip(row, SCORES.values(), strict=True):
            value = score(at_temperature(probs, temperature)).numpy()
            drawn = axes.tripcolor(x, y, value, shading="gouraud", cmap="viridis", vmin=0, vmax=1)
            axes.tricontour(x, y, value, levels=[0.2, 0.4, 0.6, 0.8], colors="white", linewidths=0.7)
            axes.set_title(title if temperature == 1 else f"{title}, temperature {temperature:g}", fontsize=11)
            for label, (at_x, at_y) in enumerate(CORNERS.tolist(), start=1):
                above = label == 3
                axes.annotate(
                    f"label {label}",
                    (at_x, at_y),
                    xytext=(0, 4 if above else -4),
                    textcoords="offset points",
                    ha="center",
                    va="bottom" if above else "top",
                    fontsize=9,
                )
            axes.set_aspect("equal")
            axes.set_xlim(-0.12, 1.12)
            axes.set_ylim(-0.1, 0.98)
            axes.axis("off")
    figure.colorbar(drawn, ax=grid, label="score (1: ask)", shrink=0.8, pad=0.01)
    return figure


def report(folder: Path) -> Path:
    """Draw the maps with the defaults into folder/figures; the picture's path."""
    return draw(UncertaintyMaps(out=folder, quiet=True))


def draw(config: UncertaintyMaps) -> Path:
    """Write the figure; its path. Raises UserError for fewer than 3 distributions a side, or a temperature <= 0."""
    if config.resolution < 3:
        raise UserError(f"a map needs a resolution of at least 3, not {config.resolution}")
    if not config.temperatures or min(config.temperatures) <= 0:
        raise UserError("temperatures must be positive, and at least one: 1 is the scores as they are")
    path = config.out / "figures" / "maps.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    maps(config.resolution, config.temperatures).savefig(path, dpi=80)
    if not config.quiet:
        print(f"figure: {path}")
    return path


def start(config: UncertaintyMaps) -> None:
    """Run the experiment."""
    draw(config)


COMMAND = Command(UncertaintyMaps, start, "Heat maps of the four uncertainty scores over three labels.")


if __name__ == "__main__":
    sys.exit(run(f"experiments/{NAME}.py", "Uncertainty maps.", {NAME: COMMAND}, [NAME, *sys.argv[1:]]))
