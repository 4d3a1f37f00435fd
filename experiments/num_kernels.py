"""How many kernels does MK-MMD need? DAN on rendered -> scanned digits with 1, 3, 5 and 9 Gaussian kernels.

gamma_u = gamma * 2^(u - (K - 1) / 2),  u = 0 .. K - 1,   gamma: the median squared distance of the batch
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from experiments.demo import NETWORK, TASK, load
from experiments.framework.experiment import Cell, Experiment, grid
from experiments.framework.measurements import measurements
from experiments.framework.options import Options, check_names, check_runs
from experiments.framework.records import Record
from experiments.framework.report import Drawn, Report
from experiments.framework.reporting import plots
from experiments.framework.reporting.summary import LEGEND, summary
from experiments.framework.trials import Trial
from experiments.tasks import machine

COUNTS = (1, 3, 5, 9)


@dataclass(frozen=True)
class NumKernels(Options):
    """What is trained."""

    NAME: ClassVar[str] = "num_kernels"
    QUICK: ClassVar[dict[str, Any]] = {"counts": (1, 5), "seeds": (0,), "steps": 10}

    counts: tuple[int, ...] = COUNTS
    """numbers of kernels"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """one run of everything for each"""
    steps: int = 800
    """training steps of every run"""
    trade_off: float = 3.0
    """lambda of DAN"""

    def check(self) -> None:
        check_names("counts", [str(count) for count in self.counts], [str(count) for count in COUNTS], some=True)
        check_runs(self.seeds, self.steps)


def adapt(_folder: Path, *, num_kernels: int, trade_off: float, steps: int, seed: int) -> dict[str, Any]:
    """A trial: train a fresh network with so many kernels; the model after the last step."""
    import torch

    from dan.models.dan import DAN
    from dan.training.config import TrainConfig
    from dan.training.trainer import fit

    pair = load(TASK)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DAN(pair.backbone, len(pair.classes))
    config = TrainConfig(num_kernels=num_kernels, evaluate_every=steps, feature_map=False)
    settings: dict[str, Any] = {"trade_off": trade_off, "steps": steps, "seed": seed, "config": config}
    evaluations = fit(model, pair.source, pair.target, tests=pair.splits, **settings)
    return {"evaluations": evaluations, "measured_on": machine()}


def cells(config: NumKernels) -> list[Cell]:
    """One cell a number of kernels, one trial a seed."""
    made = []
    for only, (count,) in grid(config, "counts"):
        settings = {"num_kernels": count, "trade_off": config.trade_off, "steps": config.steps}
        trials = [Trial(f"kernels{count}-seed{seed}", adapt, settings | {"seed": seed}) for seed in config.seeds]
        about = {"task": TASK, "network": NETWORK, "method": f"{count} kernels", "labels": 0, **settings}
        made.append(Cell(about=about, only=only, trials=trials))
    return made


def report(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    measured = measurements(records)
    means = {method: fmean(by_seed.values()) for method, by_seed in plots.final_values(measured, "test").items()}
    best, worst = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    caption = "Accuracy on all of the target: mean, standard deviation, one dot a seed."
    return Report(
        title="Kernels of MK-MMD on rendered -> scanned digits",
        findings=[
            f"Target test accuracy: {best} {means[best]:.1f} % (highest), {worst} {means[worst]:.1f} % (lowest)."
        ],
        tables=[("After the last step", summary(records))],
        figures=[Drawn("accuracy.png", plots.bars(measured), caption)],
        captions=[LEGEND, "LeNet and one hidden layer; all runs of a seed start from the same weights."],
    )


EXPERIMENT = Experiment(
    options=NumKernels,
    summary="rendered -> scanned digits: DAN with 1 to 9 Gaussian kernels",
    cells=cells,
    report=report,
)
