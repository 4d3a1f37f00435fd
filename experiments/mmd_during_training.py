"""MMD^2 of the bottleneck and of the class probabilities against steps, source-only and DAN, on the 10-class set.

    MMD^2 = mean k(s, s') + mean k(t, t') - 2 mean k(s, t)    unbiased, five kernels of equal weight

on a fixed sample of both domains, beside what relabelling that sample gives: the 95 % band of "one domain".
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dan.errors import UserError
from experiments.dan_table2 import DAN, SOURCE_ONLY
from experiments.framework.experiment import Cell, Experiment, grid
from experiments.framework.measurements import aggregate
from experiments.framework.options import check_names
from experiments.framework.records import Record
from experiments.framework.report import Drawn, Report
from experiments.framework.reporting.tables import Table, legend_above, tidy, told
from experiments.framework.trials import slug
from experiments.jobs.dan_table2 import SET, Place, load_train_config
from experiments.office_caltech10 import (
    NETWORK,
    TenClass,
    about,
    how_of,
    measured,
    metric_rows,
    provenance_of,
    shared_captions,
    title_of,
    training,
)
from experiments.transfers import weights_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = {SOURCE_ONLY: "#888888", DAN: "#222222"}
LAYERS = {"hidden1": "bottleneck", "output": "class probabilities"}
# What a curve is called in records: under the bandwidth of each look, and under that of the first one.
CURRENT, FROZEN = "mmd2_current", "mmd2"


@dataclass(frozen=True)
class MmdDuringTraining(TenClass):
    """What is trained; a folder keeps one choice of these, and a finished trial is never run again."""

    NAME: ClassVar[str] = "mmd_during_training"
    QUICK: ClassVar[dict[str, Any]] = {**TenClass.QUICK, "every": 5}

    methods: tuple[str, ...] = tuple(METHODS)
    """these rows only"""
    every: int = 10
    """steps between two looks"""
    trade_off: float | None = None
    """lambda of DAN (default: what the search chose)"""

    def check(self) -> None:
        super().check()
        check_names("methods", self.methods, list(METHODS), some=True)
        if not 1 <= self.every <= self.steps:
            raise UserError(f"--every must be from 1 to the {self.steps} steps, not {self.every}")


def watched(
    folder: Path, *, place: dict[str, Any], transfer: str, how: dict[str, Any], trade_off: float, steps: int, seed: int
) -> dict[str, Any]:
    """A trial: train, and look at MMD^2 of the aligned layers every how["evaluate_every"] steps.

    `fit` records MMD^2 under the bandwidth of the first look; what it draws for TensorBoard besides, under that of each
    look, is read back from there and put beside it.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from dan.training.trainer import fit

    where = Place(**place)
    task = where.task(transfer)
    model = where.network(task, seed)
    evaluations = fit(
        model,
        task.source,
        task.target,
        trade_off=trade_off,
        steps=steps,
        seed=seed,
        tests=task.splits,
        config=load_train_config(how, steps),
        run=folder,
        metadata={"task": task.name, "weights": weights_label(where.weights)},
        cache=where.backbones,
    )
    by_step = {evaluation["step"]: dict(evaluation) for evaluation in evaluations}
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    for name in events.Tags()["scalars"]:
        if name.startswith(("mmd2_current", "p_value_current", "gamma_ratio")):
            for event in events.Scalars(name):
                by_step[event.step][name] = event.value
    return {"evaluations": list(by_step.values()), **provenance_of(where)}


def cells(config: MmdDuringTraining) -> list[Cell]:
    """One trial a seed, which looks at MMD^2 every few steps."""
    made = []
    for only, (transfer, method) in grid(config, "transfers", "methods"):
        how = how_of(method, config) | {"evaluate_every": config.every}
        trials = [training(slug(method), watched, transfer, method, config, seed, how=how) for seed in config.seeds]
        trade_off = trials[0].arguments["trade_off"]
        made.append(Cell(about=about(transfer, method, trade_off=trade_off), only=only, trials=trials))
    return made


# --- the report -------------------------------------------------------------------------------------------------------

Curve = dict[int, list[float]]  # step -> one value a seed


def curves(records: Sequence[Record], name: str) -> dict[tuple[str, str], Curve]:
    """(transfer, method) -> the curve of `name`, from every look."""
    found: dict[tuple[str, str], Curve] = {}
    for record in records:
        if record.get(name) is not None:
            curve = found.setdefault((record["task"].removeprefix(SET), record["method"]), {})
            curve.setdefault(record["step"], []).append(record[name])
    return {key: dict(sorted(curve.items())) for key, curve in found.items()}


def last_table(records: Sequence[Record]) -> Table:
    """After the last step: MMD^2, its test and the bandwidth's change for each layer, and the accuracy."""
    accuracy = measured(records, "accuracy/target", 100)
    rows = []
    for layer, title in LAYERS.items():
        value, high, ratio = (
            measured(records, f"{name}/{layer}") for name in (CURRENT, f"{CURRENT}_null_high", "gamma_ratio")
        )
        frozen, p_value = measured(records, f"{FROZEN}/{layer}"), measured(records, f"p_value_current/{layer}")
        for key, by_seed in value.items():
            _, method, transfer = key
            cells = [told(by_seed, 3), told(high.get(key), 3), f"{max(p_value[key].values()):.3f}"]
            cells += [told(frozen.get(key), 3), told(ratio.get(key), 2), told(accuracy.get(key))]
            rows.append([f"{title_of(transfer)}, {title}, {method}", *cells])
    headers = ["", "MMD^2", "97.5 % of the null", "largest p", "MMD^2, first bandwidth", "bandwidth, now / first"]
    return [*headers, "accuracy, %"], sorted(rows, key=lambda row: row[0].split(",")[0])


def findings(records: Sequence[Record]) -> list[str]:
    """For each transfer and layer: MMD^2 of both methods after the last step."""
    said = []
    for layer, title in LAYERS.items():
        value = measured(records, f"{CURRENT}/{layer}")
        for transfer in dict.fromkeys(transfer for _, _, transfer in value):
            both = [value.get((NETWORK, method, transfer)) for method in (SOURCE_ONLY, DAN)]
            if both[0] and both[1]:
                base, dan = (statistics.fmean(by_seed.values()) for by_seed in both if by_seed)
                how = "below" if dan < base else "NOT below"
                said.append(
                    f"{title_of(transfer)}, {title}: MMD^2 ends at {base:.3f} for source-only and at {dan:.3f} for "
                    f"DAN, {how} source-only's."
                )
    return said


def figure_of(records: Sequence[Record], name: str) -> Figure:
    """MMD^2 (`name`) against steps: a row of panels a transfer, a panel a layer; mean and range over seeds, and dotted
    the 97.5 % quantile of the null."""
    from matplotlib.figure import Figure

    transfers = list(dict.fromkeys(record["task"].removeprefix(SET) for record in records))
    figure = Figure(figsize=(8.6, 0.6 + 2.7 * len(transfers)), layout="constrained")
    panels = figure.subplots(len(transfers), len(LAYERS), squeeze=False, sharex=True)
    for column, (layer, title) in enumerate(LAYERS.items()):
        of_layer = curves(records, f"{name}/{layer}"), curves(records, f"{name}_null_high/{layer}")
        for row, transfer in enumerate(transfers):
            axes = panels[row][column]
            for method, colour in METHODS.items():
                curve, null = (found.get((transfer, method), {}) for found in of_layer)
                steps = list(curve)
                axes.plot(steps, [statistics.fmean(v) for v in curve.values()], color=colour, label=method)
                lows, highs = [min(v) for v in curve.values()], [max(v) for v in curve.values()]
                axes.fill_between(steps, lows, highs, color=colour, alpha=0.18, linewidth=0)
                style = {"color": colour, "linestyle": ":", "linewidth": 1.2}
                axes.plot(list(null), [statistics.fmean(v) for v in null.values()], label=f"{method}, null", **style)
            axes.set_title(f"{title_of(transfer)}: {title}", fontsize=10)
            axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
            tidy(axes)
    for axes in panels[-1]:
        axes.set_xlabel("step")
    for line in panels:
        line[0].set_ylabel("MMD$^2$")
    legend_above(figure, panels[0][0], 4)
    return figure


def report_of(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    dotted = "Mean and range over seeds; dotted: 97.5 % quantile of the same under relabellings."
    shown = [
        Drawn(
            "mmd2.png",
            figure_of(records, CURRENT),
            f"MMD^2 against steps, 10-class, kernels around the median heuristic of each look. {dotted}",
        ),
        Drawn(
            "mmd2_first_bandwidth.png",
            figure_of(records, FROZEN),
            f"The same, 10-class, with the bandwidths of each run's first look. {dotted}",
        ),
    ]
    names = {f"{FROZEN}/{layer}": f"mmd2_{layer}" for layer in LAYERS}
    names |= {f"{CURRENT}/{layer}": f"mmd2_current_{layer}" for layer in LAYERS}
    return Report(
        title="Office-10 + Caltech-10: MMD^2 during training",
        findings=findings(records),
        tables=[("After the last step, 10-class", last_table(records))],
        figures=shown,
        captions=[
            "Unbiased MMD^2 between up to 256 images of each domain, evenly spread over it and the same at each look, "
            "dropout off; both networks train on these images too, without the target's labels. Five kernels of equal "
            "weight around the median squared distance of the look (first bandwidth: of the run's first look). "
            "Mean ± standard deviation over seeds; largest p: the largest of the seeds' p-values, of 200 relabellings.",
            "A bandwidth that follows the features compares shapes, not sizes: features that all shrink alike keep "
            "their MMD^2. A kept one sees sizes, and goes blind where features outgrow it: bandwidth, now / first, "
            "says by how much they did.",
            *shared_captions(records),
        ],
        rows=aggregate(records) + [row for name, metric in names.items() for row in metric_rows(records, name, metric)],
    )


EXPERIMENT = Experiment(
    options=MmdDuringTraining,
    summary="10-class: MMD^2 of each layer against steps",
    cells=cells,
    report=report_of,
)
