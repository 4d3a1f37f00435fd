"""MMD^2 of the bottleneck and of the class probabilities against steps, source-only and DAN, on the 10-class set.

    MMD^2 = mean k(s, s') + mean k(t, t') - 2 mean k(s, t)    unbiased, five kernels of equal weight

on a fixed sample of both domains, beside what relabelling that sample gives: the 95 % band of "one domain".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dan.errors import UserError
from experiments import office_caltech10 as office
from experiments.framework.experiment import Cell, Experiment, grid
from experiments.framework.measurements import aggregate
from experiments.framework.options import check_names
from experiments.framework.records import Record
from experiments.framework.report import Drawn, Report
from experiments.framework.reporting.panels import line_panels
from experiments.framework.reporting.tables import Table, mean_of, told
from experiments.framework.trials import slug
from experiments.method_tables import COLOURS, DAN, SOURCE_ONLY
from experiments.office_caltech10 import NETWORK, TenClass
from experiments.office_caltech10.trial import SET, Setup, load_train_config
from experiments.tasks import weights_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = (SOURCE_ONLY, DAN)
LAYERS = {"hidden1": "bottleneck", "output": "class probabilities"}
# What a curve is called in records: under the bandwidth of each evaluation, and under that of the first one.
CURRENT, FROZEN = "mmd2_current", "mmd2"


@dataclass(frozen=True)
class MmdDuringTraining(TenClass):
    """What is trained; a folder keeps one choice of these, and a finished trial is never run again."""

    NAME: ClassVar[str] = "mmd_during_training"
    QUICK: ClassVar[dict[str, Any]] = {**TenClass.QUICK, "every": 5}

    methods: tuple[str, ...] = METHODS
    """these rows only"""
    every: int = 10
    """steps between two evaluations"""
    trade_off: float | None = None
    """lambda of DAN (default: what the search chose)"""

    def check(self) -> None:
        super().check()
        check_names("methods", self.methods, METHODS, some=True)
        if not 1 <= self.every <= self.steps:
            raise UserError(f"--every must be from 1 to the {self.steps} steps, not {self.every}")


def watched(
    folder: Path, *, place: dict[str, Any], transfer: str, how: dict[str, Any], steps: int, seed: int, trade_off: float
) -> dict[str, Any]:
    """A trial: train, and measure MMD^2 of the aligned layers every how["evaluate_every"] steps.

    `fit` records MMD^2 under the bandwidth of the first evaluation; what it draws for TensorBoard besides, under that
    of each evaluation, is read back from there.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    setup = Setup(**place)
    task = setup.task(transfer)
    settings: dict[str, Any] = {"trade_off": trade_off, "steps": steps, "seed": seed, "run": folder}
    settings |= {"metadata": {"task": task.name, "weights": weights_label(setup.weights)}, "tests": task.splits}
    config = load_train_config(how, steps)
    evaluations = setup.fit(setup.network(task, seed), task.source, task.target, config=config, **settings)
    by_step = {evaluation["step"]: dict(evaluation) for evaluation in evaluations}
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    for name in events.Tags()["scalars"]:
        if name.startswith(("mmd2_current", "p_value_current", "gamma_ratio")):
            for event in events.Scalars(name):
                by_step[event.step][name] = event.value
    return {"evaluations": list(by_step.values()), **setup.provenance()}


def cells(config: MmdDuringTraining) -> list[Cell]:
    """One trial a seed, which measures MMD^2 every few steps."""
    made = []
    for only, (transfer, method) in grid(config, "transfers", "methods"):
        how = office.how_of(method, config) | {"evaluate_every": config.every}
        trials = office.training(slug(method), watched, transfer, method, config, how=how)
        made.append(office.cell_of(only, transfer, method, trials))
    return made


# --- the report -------------------------------------------------------------------------------------------------------


def curve(records: Sequence[Record], transfer: str, method: str, name: str) -> dict[float, list[float]]:
    """step -> the value `name` of each seed."""
    found: dict[float, list[float]] = {}
    for record in records:
        if (record["task"], record["method"]) == (SET + transfer, method) and record.get(name) is not None:
            found.setdefault(record["step"], []).append(record[name])
    return found


def last_table(records: Sequence[Record]) -> Table:
    """After the last step: MMD^2, its test and the bandwidth's change for each layer, and the accuracy."""
    accuracy, rows = office.measured(records, "accuracy/target", 100), []
    for transfer, (layer, title), method in product(office.transfers_in(records), LAYERS.items(), METHODS):
        key = (NETWORK, method, transfer)
        names = (CURRENT, f"{CURRENT}_null_high", "p_value_current", FROZEN, "gamma_ratio")
        value, high, p_value, first, ratio = (
            office.measured(records, f"{name}/{layer}").get(key, {}) for name in names
        )
        if value:
            cells = [told(value, 3), told(high, 3), f"{max(p_value.values()):.3f}", told(first, 3), told(ratio, 2)]
            rows.append([f"{office.title_of(transfer)}, {title}, {method}", *cells, told(accuracy.get(key))])
    headers = ["", "MMD^2", "97.5 % of the null", "largest p", "MMD^2, first bandwidth", "bandwidth, now / first"]
    return [*headers, "accuracy, %"], rows


def findings(records: Sequence[Record]) -> list[str]:
    """For each transfer and layer: MMD^2 of both methods after the last step."""
    said = []
    for transfer, (layer, title) in product(office.transfers_in(records), LAYERS.items()):
        value = office.measured(records, f"{CURRENT}/{layer}")
        ends = [mean_of(value.get((NETWORK, method, transfer))) for method in METHODS]
        if None not in ends:
            both = ", ".join(f"{method} {end:.3f}" for method, end in zip(METHODS, ends, strict=True))
            said.append(f"{office.title_of(transfer)}, {title}, MMD^2 after the last step: {both}.")
    return said


def figure_of(records: Sequence[Record], name: str) -> Figure:
    """MMD^2 (`name`) against steps: a panel a transfer and layer; dotted the 97.5 % quantile of the null."""
    lines = dict.fromkeys(METHODS, name) | {f"{method}, null": f"{name}_null_high" for method in METHODS}
    panels = {
        f"{office.title_of(transfer)}: {title}": {
            label: curve(records, transfer, label.removesuffix(", null"), f"{field}/{layer}")
            for label, field in lines.items()
        }
        for transfer, (layer, title) in product(office.transfers_in(records), LAYERS.items())
    }
    styles = {
        label: {"color": COLOURS[label.removesuffix(", null")], "ls": ":" if "null" in label else "-"}
        for label in lines
    }
    return line_panels(panels, styles, x="step", y="MMD$^2$")


def report(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    shown = "Mean and range over seeds; dotted: 97.5 % quantile of the same under relabellings."
    caption = f"MMD^2 against steps, 10-class, kernels around the median heuristic of each evaluation. {shown}"
    first = f"The same, 10-class, with the bandwidths of each run's first evaluation. {shown}"
    names = {f"{kind}/{layer}": f"{kind}_{layer}" for kind in (FROZEN, CURRENT) for layer in LAYERS}
    return Report(
        title="Office-10 + Caltech-10: MMD^2 during training",
        findings=findings(records),
        tables=[("After the last step, 10-class", last_table(records))],
        figures=[
            Drawn("mmd2.png", figure_of(records, CURRENT), caption),
            Drawn("mmd2_first_bandwidth.png", figure_of(records, FROZEN), first),
        ],
        captions=[
            "Unbiased MMD^2 between up to 256 images of each domain, the same at each evaluation, dropout off; both "
            "networks train on these images too, without the target's labels. Five kernels of equal weight around the "
            "median squared distance. Mean ± standard deviation over seeds; largest p: of 200 relabellings.",
            "A bandwidth that follows the features compares shapes, not sizes: features that all shrink alike keep "
            "their MMD^2. A kept one sees sizes, and goes blind where features outgrow it: bandwidth, now / first.",
            *office.shared_captions(records),
        ],
        rows=aggregate(records)
        + [row for name, metric in names.items() for row in office.metric_rows(records, name, metric)],
    )


EXPERIMENT = Experiment(
    options=MmdDuringTraining,
    summary="10-class: MMD^2 of each layer against steps",
    cells=cells,
    report=report,
)
