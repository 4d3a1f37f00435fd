"""What strategies query, on a two-dimensional example: python -m experiments.toy_2d --out docs/toy_2d.png

Three classes. The source has one group of each. In the target they have moved; a part of class 1 lies where the source
has nothing, and the classifier, a linear one that learned the source, is sure there and wrong; and a few samples lie
far from everything. Each panel shows the first picks of one strategy over the classifier's margin.

Shapes: S, N samples of source and target; G x G points of a grid.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dan.cli.command_line import Command, run
from dan.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STRATEGIES = ("random", "margin", "k_center", "mmd_reduction", "badge", "hybrid")
CENTRES = ((-2.0, 0.0), (2.0, 0.0), (0.0, 2.8))  # of the classes, in the source
SHIFT = (0.7, -0.8)  # of the target
SECOND, SHARE = (-1.2, -4.0), 0.4  # class 1's other group, and how much of the class is in it
OUTLIERS = ((-6.0, 4.6), (-6.2, -4.4), (6.6, 4.4))
SPREAD, OF_CLASS = 0.62, 60
LIMITS = (-7.0, 7.4, -5.6, 5.6)
COLOURS = ("#0072b2", "#d55e00", "#009e73")
GRID = 160


@dataclass(frozen=True)
class Plane:
    """source (S, 2), its classes (S,), target (N, 2), its classes (N,), and the classifier's weights and biases."""

    source: Tensor
    source_classes: Tensor
    target: Tensor
    target_classes: Tensor
    weight: Tensor
    bias: Tensor

    def logits(self, points: Tensor) -> Tensor:
        """(..., 2) -> (..., 3)."""
        return points @ self.weight.T + self.bias

    def picks(self, strategy: str, budget: int, seed: int = 0) -> Tensor:
        """Positions of the target samples that the strategy queries, (budget,), in pick order; nothing is labelled."""
        from active.pool import Query
        from active.strategies import get_strategy

        logits, ids = self.logits(self.target), torch.arange(len(self.target))
        domains: dict[str, Any] = {"features": self.target, "source_features": self.source}
        query = Query(ids=ids, probs=logits.softmax(1), logits=logits, **domains)
        return get_strategy(strategy)(query, budget, generator=torch.Generator().manual_seed(seed))


def plane(seed: int = 0) -> Plane:
    """The two domains, and a classifier of the source."""
    from sklearn.linear_model import LogisticRegression

    generator = torch.Generator().manual_seed(seed)

    def group(centre: Sequence[float], count: int) -> Tensor:
        return torch.tensor(centre).double() + SPREAD * torch.randn(count, 2, generator=generator, dtype=torch.float64)

    classes = torch.arange(3).repeat_interleave(OF_CLASS)
    source = torch.cat([group(centre, OF_CLASS) for centre in CENTRES])
    moved = [(x + SHIFT[0], y + SHIFT[1]) for x, y in CENTRES]
    second = round(SHARE * OF_CLASS)
    groups = [group(moved[0], OF_CLASS), group(moved[1], OF_CLASS - second), group(SECOND, second)]
    target = torch.cat([*groups, group(moved[2], OF_CLASS), torch.tensor(OUTLIERS).double()])
    learned = LogisticRegression(C=1.0).fit(source.numpy(), classes.numpy())
    weights = torch.from_numpy(learned.coef_), torch.from_numpy(learned.intercept_)
    return Plane(source, classes, target, torch.cat((classes, torch.tensor([0, 0, 1]))), *weights)


def figure_of(domains: Plane, strategies: Sequence[str], budget: int, seed: int = 0) -> Figure:
    """One panel a strategy: margin as the shade, source as crosses, target as dots, picks numbered."""
    from matplotlib.figure import Figure

    from active.strategies.uncertainty import margin_of_confidence

    xs, ys = (torch.linspace(*ends, GRID, dtype=torch.float64) for ends in (LIMITS[:2], LIMITS[2:]))
    points = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1)  # (G, G, 2)
    shade = margin_of_confidence(domains.logits(points).softmax(-1).flatten(0, 1)).reshape(GRID, GRID)
    columns = min(3, len(strategies))
    rows = -(-len(strategies) // columns)
    figure = Figure(figsize=(4.0 * columns, 3.3 * rows), layout="constrained")
    for place, strategy in enumerate(strategies, start=1):
        axes = figure.add_subplot(rows, columns, place, xticks=[], yticks=[])
        axes.imshow(shade.numpy(), extent=LIMITS, origin="lower", cmap="Greys", alpha=0.45, vmin=0, vmax=1)
        axes.scatter(domains.source[:, 0], domains.source[:, 1], s=9, marker="x", color="#777777", linewidths=0.6)
        colours = [COLOURS[label] for label in domains.target_classes.tolist()]
        axes.scatter(domains.target[:, 0], domains.target[:, 1], s=10, c=colours, linewidths=0)
        picked = domains.target[domains.picks(strategy, budget, seed)]
        axes.scatter(picked[:, 0], picked[:, 1], s=120, facecolors="white", edgecolors="#111111", linewidths=1.1)
        for number, (x, y) in enumerate(picked.tolist(), start=1):
            axes.text(x, y, str(number), fontsize=7, ha="center", va="center_baseline")
        axes.set_title(strategy.rpartition(".")[2], fontsize=10)  # my_project.ideas:mine is ideas:mine
    return figure


@dataclass(frozen=True)
class Toy2d:
    """What is drawn."""

    out: Path = Path("toy_2d.png")
    """the picture: .png, .pdf or .svg"""
    strategies: tuple[str, ...] = STRATEGIES
    """acquisition strategies (python -m active strategies), your own as module:function too"""
    budget: int = 12
    """picks of each"""
    seed: int = 0
    """decides the samples, and what strategies draw at random"""


def draw(config: Toy2d) -> None:
    """Write the picture."""
    if config.out.suffix not in (".png", ".pdf", ".svg"):
        raise UserError(f"--out must end in .png, .pdf or .svg, not {config.out}")
    domains = plane(config.seed)
    if not 1 <= config.budget <= len(domains.target) or not config.strategies:
        raise UserError(f"--budget must be 1 to {len(domains.target)}, and --strategies at least one")
    figure = figure_of(domains, config.strategies, config.budget, config.seed)
    figure.savefig(config.out, dpi=130, bbox_inches="tight")
    print(f"picture: {config.out}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    command = Command(Toy2d, draw, "What strategies query, on a two-dimensional example.")
    words = sys.argv[1:] if argv is None else argv
    return run("python -m", "", {"experiments.toy_2d": command}, ["experiments.toy_2d", *words])


if __name__ == "__main__":
    sys.exit(main())
