"""MMD^2 of the bottleneck and of the class probabilities against steps, source-only and DAN, on the 10-class set.

    MMD^2 = mean k(s, s') + mean k(t, t') - 2 mean k(s, t)    unbiased, five kernels of equal weight

on a fixed sample of both domains, beside what relabelling that sample gives: the 95 % band of "one domain".
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if __package__ in (None, ""):  # python experiments/mmd_during_training.py puts this folder on the path, not its parent
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from dan.cli.command_line import Command, run
from dan.errors import UserError
from experiments.dan_table2 import DAN, SOURCE_ONLY
from experiments.jobs.dan_table2 import SET
from experiments.records import Record, aggregate, read
from experiments.reporting.tables import Drawn, Table, legend_above, tidy, told, write_report
from experiments.running import check_names, reduced
from experiments.ten_class import (
    NETWORK,
    TenClass,
    check,
    how_of,
    measured,
    metric_rows,
    record_of,
    resolved,
    run_cells,
    shared_captions,
    title_of,
    training,
)
from experiments.trials import Trial, slug

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "mmd_during_training"
METHODS = {SOURCE_ONLY: "#888888", DAN: "#222222"}
LAYERS = {"hidden1": "bottleneck", "output": "class probabilities"}
# What a curve is called in records: under the bandwidth of each look, and under that of the first one.
CURRENT, FROZEN = "mmd2_current", "mmd2"


@dataclass(frozen=True)
class MmdDuringTraining(TenClass):
    """What is trained; a folder keeps one choice of these, and a finished trial is never run again."""

    NAME: ClassVar[str] = NAME
    QUICK: ClassVar[dict[str, Any]] = {**TenClass.QUICK, "every": 5}

    out: Path = Path(f"runs/{NAME}")
    """folder of the trials, records and report"""
    methods: tuple[str, ...] = tuple(METHODS)
    """these rows only"""
    every: int = 10
    """steps between two looks"""
    trade_off: float | None = None
    """lambda of DAN (default: what the search chose)"""


def cell(transfer: str, method: str, config: MmdDuringTraining) -> list[Trial]:
    """One trial a seed."""
    how = how_of(method, config) | {"evaluate_every": config.every}
    return [training(slug(method), "watched", transfer, method, config, seed, how=how) for seed in config.seeds]


def run_watched(config: MmdDuringTraining) -> int:
    """Train what is missing and make the report; exit code 1 if a trial failed."""
    config, chosen_by = resolved(reduced(config))
    check(config)
    check_names("methods", config.methods, list(METHODS), some=True)
    if not 1 <= config.every <= config.steps:
        raise UserError(f"--every must be from 1 to the {config.steps} steps, not {config.every}")
    cells = [
        (record_of(config, transfer, method, chosen_by, methods=method), cell(transfer, method, config))
        for transfer in config.transfers
        for method in config.methods
    ]
    return run_cells(config, cells, report)


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


def report(folder: Path) -> Path:
    """Make the table, the figures and the page again from the folder's records; the path of the page."""
    records = read(folder / "records.jsonl")
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
    return write_report(
        folder,
        records,
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


COMMAND = Command(MmdDuringTraining, run_watched, "10-class: MMD^2 of each layer against steps, source-only and DAN")

if __name__ == "__main__":
    # By its own name, so that the module that reports and the one that trains are the same.
    from experiments.mmd_during_training import COMMAND as ITSELF

    sys.exit(run(f"experiments/{NAME}.py", "MMD^2 against steps.", {NAME: ITSELF}, [NAME, *sys.argv[1:]]))
