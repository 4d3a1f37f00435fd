"""The four uncertainty scores over all distributions of three labels, as heat maps on a triangle.

A corner is certainty of one label, the middle of an edge a tie of two, the centre of the triangle a tie of all three.
Contours join distributions of equal score. After figure 3.2 of R. Munro, Human-in-the-Loop Machine Learning, 2021.

Shapes: N distributions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dan.errors import UserError
from experiments.framework.experiment import Cell, Experiment, Results
from experiments.framework.measurements import row_of
from experiments.framework.options import Options
from experiments.framework.records import Record
from experiments.framework.report import Drawn, Report
from experiments.framework.trials import Trial
from experiments.tasks import machine

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

POINTS = {
    "certain": (1.0, 0.0, 0.0),
    "one ahead": (0.6, 0.2, 0.2),
    "two ahead": (0.45, 0.45, 0.1),
    "a tie of two": (0.5, 0.5, 0.0),
    "nearly a tie of all": (0.4, 0.3, 0.3),
    "a tie of all": (1 / 3, 1 / 3, 1 / 3),
}
# Where label 1, 2 and 3 are certain: the corners of a triangle with sides of length 1.
CORNERS = ((0.0, 0.0), (1.0, 0.0), (0.5, math.sqrt(3) / 2))


@dataclass(frozen=True)
class UncertaintyMaps(Options):
    """Draws formulas: no data, no training, no randomness."""

    NAME: ClassVar[str] = "uncertainty_maps"
    QUICK: ClassVar[dict[str, Any]] = {"resolution": 12}

    resolution: int = 120
    """distributions along a side of the triangle"""
    temperatures: tuple[float, ...] = (1.0, 3.0)
    """one row of maps for each: what the scores say of the same logits at that temperature"""

    def check(self) -> None:
        if self.resolution < 3:
            raise UserError(f"--resolution must be at least 3, not {self.resolution}")
        if not self.temperatures or not all(0 < value < math.inf for value in self.temperatures):
            raise UserError("--temperatures must be positive, and at least one: 1 is the scores as they are")


def scores(probs: Tensor, temperature: float = 1.0) -> dict[str, Tensor]:
    """name -> the score (N,) of the distributions (N, 3) at a temperature."""
    from active.strategies import uncertainty

    warm = uncertainty.at_temperature(probs, temperature)
    return {
        "least_confidence": uncertainty.least_confidence(warm),
        "margin": uncertainty.margin_of_confidence(warm),
        "ratio": uncertainty.ratio_of_confidence(warm),
        "entropy": uncertainty.entropy(warm),
    }


def distributions(resolution: int) -> Tensor:
    """All (i, j, k) / resolution with i + j + k = resolution: ((resolution + 1)(resolution + 2) / 2, 3), float64."""
    import torch

    i, j = torch.meshgrid(torch.arange(resolution + 1), torch.arange(resolution + 1), indexing="ij")
    inside = i + j <= resolution
    first, second = i[inside], j[inside]
    return torch.stack([first, second, resolution - first - second], dim=1).double() / resolution


def score_points(_folder: Path, *, temperatures: list[float]) -> dict[str, Any]:
    """A trial: every score of POINTS at each temperature."""
    import torch

    points, found = torch.tensor(list(POINTS.values()), dtype=torch.float64), []
    for temperature in temperatures:
        for name, score in scores(points, temperature).items():
            about = {"method": name, "temperature": temperature}
            values = zip(POINTS.items(), score.tolist(), strict=True)
            found += [{**about, "at": at, "probs": list(point), "score": value} for (at, point), value in values]
    return {"scores": found, "measured_on": machine()}


def cells(config: UncertaintyMaps) -> list[Cell]:
    """All of it is one cell."""
    trial = Trial("scores", score_points, {"temperatures": list(config.temperatures)})
    about = {"task": "three labels", "network": "", "labels": 0, "resolution": config.resolution}
    return [Cell(about=about, only={}, trials=[trial])]


def records_of(cell: Cell, trial: Trial, results: Results) -> list[Record]:
    """A record a score, temperature and distribution of POINTS: formulas, and no model that was selected."""
    result = results[trial.name]
    return [{**cell.about, "seed": 0, "selection": "", **result["measured_on"], **each} for each in result["scores"]]


# --- the report -------------------------------------------------------------------------------------------------------


def maps(resolution: int, temperatures: Sequence[float]) -> Figure:
    """A row of four maps for each temperature, on one scale from 0 (certain) to 1 (queried first)."""
    from matplotlib.figure import Figure

    probs = distributions(resolution)  # (N, 3)
    x, y = (probs @ probs.new_tensor(CORNERS)).T
    figure = Figure(figsize=(13, 3.3 * len(temperatures) + 0.3), layout="constrained")
    grid = figure.subplots(len(temperatures), 4, squeeze=False)
    drawn: Any = None
    for row, temperature in zip(grid, temperatures, strict=True):
        for axes, (name, score) in zip(row, scores(probs, temperature).items(), strict=True):
            value = score.numpy()
            drawn = axes.tripcolor(x, y, value, shading="gouraud", cmap="viridis", vmin=0, vmax=1)
            axes.tricontour(x, y, value, levels=[0.2, 0.4, 0.6, 0.8], colors="white", linewidths=0.7)
            axes.set_title(titled(name, temperature), fontsize=11)
            for label, (at_x, at_y) in enumerate(CORNERS, start=1):
                axes.text(at_x, at_y + (0.05 if label == 3 else -0.05), f"label {label}", ha="center", va="center")
            axes.set(aspect="equal", xlim=(-0.12, 1.12), ylim=(-0.1, 0.98))
            axes.axis("off")
    figure.colorbar(drawn, ax=grid, label="score", shrink=0.8, pad=0.01)
    return figure


def titled(name: str, temperature: float) -> str:
    """How a score at a temperature is called."""
    return name if temperature == 1 else f"{name}, temperature {temperature:g}"


def discordant(first: Tensor, second: Tensor) -> float:
    """The share of pairs of distributions that two scores (N,) order otherwise; a tie in one alone is a half."""
    signs = [(value[:, None] - value).sign() * ((value[:, None] - value).abs() > 1e-9) for value in (first, second)]
    return float((signs[0] - signs[1]).abs().sum() / 2 / (len(first) * (len(first) - 1)))


def findings(temperatures: Sequence[float]) -> Iterator[str]:
    """What the formulas decide, on all distributions of a coarser grid."""
    probs = distributions(30)
    plain = scores(probs)
    shares = {(a, b): discordant(plain[a], plain[b]) for a, b in combinations(plain, 2)}
    ends = [f"{share:.0%} ({a}, {b})" for (a, b), share in sorted(shares.items(), key=lambda item: item[1])]
    yield f"Share of pairs of distributions that two scores order differently: {ends[0]} to {ends[-1]}."
    for temperature in temperatures:
        if temperature != 1:
            warm = scores(probs, temperature)
            moved = ", ".join(f"{name} {discordant(score, warm[name]):.0%}" for name, score in plain.items())
            yield f"Pairs that temperature {temperature:g} orders differently from temperature 1: {moved}."


def report_of(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    temperatures = list(dict.fromkeys(record["temperature"] for record in records))
    lines: dict[str, list[str]] = {}
    rows = []
    for r in records:
        name = titled(r["method"], r["temperature"])
        lines.setdefault(name, [name]).append(f"{r['score']:.3f}")
        about = {"task": " ".join(f"{p:.4g}" for p in r["probs"]), "network": f"temperature {r['temperature']:g}"}
        rows.append(row_of({**r, **about}, [r["score"]], split="", metric="score"))
    headers = ["score", *(f"{name} ({', '.join(f'{p:.3g}' for p in probs)})" for name, probs in POINTS.items())]
    caption = (
        "A corner is certainty of one label, the middle of an edge a tie of two, the centre a tie of all three. White: "
        "equal scores."
    )
    return Report(
        title="Four uncertainty scores over three labels",
        findings=list(findings(temperatures)),
        tables=[("The scores of some distributions", (headers, list(lines.values())))],
        figures=[Drawn("maps.png", maps(records[0]["resolution"], temperatures), caption)],
        captions=[
            "Formulas: no data, no training, no seed. 0: certain, 1: queried first. Orders are compared over all pairs "
            "of the 496 distributions (i, j, k) / 30; a tie under one score alone is a half."
        ],
        rows=rows,
        compared=[],
    )


EXPERIMENT = Experiment(
    options=UncertaintyMaps,
    summary="heat maps of the four uncertainty scores over three labels",
    cells=cells,
    report=report_of,
    records=records_of,
)
