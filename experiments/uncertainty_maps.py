"""The four uncertainty scores over all distributions of three labels, as heat maps on a triangle.

A corner is certainty of one label, the middle of an edge a tie of two, the centre of the triangle a tie of all three.
Contours join the distributions between which a strategy does not choose. After figure 3.2 of R. Munro,
Human-in-the-Loop Machine Learning, 2021.

Shapes: N distributions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

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
from dan.errors import UserError
from experiments.framework.experiment import Cell, Experiment, Results
from experiments.framework.measurements import Row
from experiments.framework.options import Options
from experiments.framework.records import Record
from experiments.framework.report import Drawn, Report
from experiments.framework.trials import Trial
from experiments.tasks import machine

SCORES = {
    "least_confidence": ("least confidence", least_confidence),
    "margin": ("margin of confidence", margin_of_confidence),
    "ratio": ("ratio of confidence", ratio_of_confidence),
    "entropy": ("entropy", entropy),
}
POINTS = {
    "certain": (1.0, 0.0, 0.0),
    "one ahead": (0.6, 0.2, 0.2),
    "two ahead": (0.45, 0.45, 0.1),
    "a tie of two": (0.5, 0.5, 0.0),
    "nearly a tie of all": (0.4, 0.3, 0.3),
    "a tie of all": (1 / 3, 1 / 3, 1 / 3),
}
MAP = (
    "A corner is certainty of one label, the middle of an edge a tie of two, the centre a tie of all three. White: "
    "contours, between whose distributions a strategy does not choose."
)
# Where label 1, 2 and 3 are certain: the corners of a triangle with sides of length 1.
CORNERS = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]], dtype=torch.float64)


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


def score_points(_folder: Path, *, temperatures: list[float]) -> dict[str, Any]:
    """A trial: every score of POINTS at each temperature."""
    found = []
    for temperature in temperatures:
        probs = at_temperature(torch.tensor(list(POINTS.values()), dtype=torch.float64), temperature)  # (P, 3)
        for name, (_, score) in SCORES.items():
            for point, value in zip(POINTS, score(probs).tolist(), strict=True):
                about = {"method": name, "temperature": temperature, "at": point, "probs": list(POINTS[point])}
                found.append(about | {"score": value})
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


def discordant(first: Tensor, second: Tensor) -> float:
    """The share of pairs of distributions that two scores (N,) order otherwise; a tie in one alone is a half."""
    signs = [(value[:, None] - value).sign() * ((value[:, None] - value).abs() > 1e-9) for value in (first, second)]
    return float((signs[0] - signs[1]).abs().sum() / 2 / (len(first) * (len(first) - 1)))


def findings(temperatures: Sequence[float]) -> list[str]:
    """Sentences that the formulas decide, on all distributions of a coarser grid."""
    probs = distributions(30)
    plain = {name: score(probs) for name, (_, score) in SCORES.items()}
    pairs = [(a, b) for i, a in enumerate(SCORES) for b in list(SCORES)[i + 1 :]]
    shares = {pair: discordant(plain[pair[0]], plain[pair[1]]) for pair in pairs}
    told = "; ".join(f"{a} and {b} {100 * share:.0f} %" for (a, b), share in shares.items())
    said = [f"Of all pairs of distributions, two scores put in another order: {told}."]
    for temperature in temperatures:
        if temperature != 1:
            warm = {name: score(at_temperature(probs, temperature)) for name, (_, score) in SCORES.items()}
            told = "; ".join(f"{name} {100 * discordant(plain[name], warm[name]):.0f} %" for name in SCORES)
            said.append(f"Temperature {temperature:g} puts in another order than temperature 1: {told}.")
    return said


def report_of(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    temperatures = list(dict.fromkeys(record["temperature"] for record in records))
    found = {(r["method"], r["temperature"], r["at"]): r["score"] for r in records}
    lines = [
        [name if t == 1 else f"{name}, temperature {t:g}", *(f"{found[name, t, point]:.3f}" for point in POINTS)]
        for t in temperatures
        for name in SCORES
    ]
    headers = ["score", *(f"{name} ({', '.join(f'{p:.3g}' for p in probs)})" for name, probs in POINTS.items())]
    return Report(
        title="Four uncertainty scores over three labels",
        findings=findings(temperatures),
        tables=[("The scores of some distributions", (headers, lines))],
        figures=[Drawn("maps.png", maps(int(records[0]["resolution"]), temperatures), MAP)],
        captions=[
            "Formulas, and nothing measured: no data, no training, no seed. 0: certain, 1: ask first. Orders are "
            "compared over all pairs of the 496 distributions (i, j, k) / 30; a tie under one score alone is a half."
        ],
        rows=[row_of(record) for record in records],
        compared=[],
    )


def row_of(record: Record) -> Row:
    """The line of table.csv."""
    kept = ("experiment", "method", "labels", "selection", "paper", "provenance", "command")
    return Row(
        **{name: record[name] for name in kept},
        task=" ".join(f"{p:.4g}" for p in record["probs"]),
        network=f"temperature {record['temperature']:g}",
        split="",
        metric="score",
        mean=record["score"],
        spread=None,
        n=1,
    )


EXPERIMENT = Experiment(
    options=UncertaintyMaps,
    summary="heat maps of the four uncertainty scores over three labels",
    cells=cells,
    report=report_of,
    records=records_of,
)
