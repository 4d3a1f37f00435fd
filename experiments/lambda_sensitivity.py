"""The DAN paper's Figure 3b on the 10-class set: accuracy against the trade-off lambda, C->W and A->W, frozen backbone.

L = CE(source) + lambda * sum over the bottleneck and the class probabilities of MK-MMD^2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from dan.errors import UserError
from experiments import office_caltech10 as office
from experiments.framework.experiment import Cell, Experiment, grid
from experiments.framework.records import Record
from experiments.framework.report import Drawn, Report
from experiments.framework.reporting.panels import line_panels
from experiments.framework.reporting.tables import mean_of, told
from experiments.method_tables import COLOURS, DAN, SOURCE_ONLY, column_of
from experiments.office_caltech10.trial import adapt

TRADE_OFFS = (0.1, 0.4, 0.7, 1.0, 1.4, 1.7, 2.0)  # the paper's


@dataclass(frozen=True)
class LambdaSensitivity(office.TenClass):
    """What is trained; a folder keeps one choice of these, and a finished trial is never run again."""

    NAME: ClassVar[str] = "lambda_sensitivity"
    QUICK: ClassVar[dict[str, Any]] = {**office.TenClass.QUICK, "trade_offs": (0.0, 1.0, 2.0)}

    trade_offs: tuple[float, ...] = (0.0, *TRADE_OFFS)
    """values of lambda; 0 is source-only"""

    def check(self) -> None:
        super().check()
        if not self.trade_offs or len(set(self.trade_offs)) < len(self.trade_offs) or min(self.trade_offs) < 0:
            raise UserError(f"--trade-offs needs one or more different numbers of 0 or more, not {self.trade_offs}")


def method_of(trade_off: float) -> str:
    """A row's name: source-only, or DAN with its lambda."""
    return f"{DAN}, lambda {trade_off:g}" if trade_off else SOURCE_ONLY


def cells(config: LambdaSensitivity) -> list[Cell]:
    """All lambdas, 0 too, differ in the trade-off alone."""
    made = []
    for only, (transfer, value) in grid(config, "transfers", "trade_offs"):
        trials = office.training(f"lambda{value:g}", adapt, transfer, DAN, config, trade_off=value)
        made.append(office.cell_of(only, transfer, method_of(value), trials))
    return made


# --- the report -------------------------------------------------------------------------------------------------------


def by_trade_off(records: Sequence[Record]) -> dict[str, dict[float, dict[int, float]]]:
    """transfer -> lambda -> {seed: accuracy on the target in percent}, lambdas from small to large."""
    lambdas = {record["method"]: float(record["trade_off"]) for record in records}
    values: dict[str, dict[float, dict[int, float]]] = {transfer: {} for transfer in office.transfers_in(records)}
    for (_, method, transfer), by_seed in office.measured(records, "accuracy/target", 100).items():
        values[transfer][lambdas[method]] = by_seed
    return {transfer: dict(sorted(found.items())) for transfer, found in values.items()}


def findings(records: Sequence[Record]) -> list[str]:
    """For each transfer: where the mean is highest, and whether it falls again within the range."""
    said = []
    for transfer, by_value in by_trade_off(records).items():
        means = {value: mean for value, by_seed in by_value.items() if value and (mean := mean_of(by_seed)) is not None}
        if len(means) < 2:
            continue
        best, last = max(means, key=means.__getitem__), max(means)
        base = "" if not by_value.get(0.0) else f" (source-only {mean_of(by_value[0.0]):.1f})"
        end = "the end of the range" if best == last else f"{means[last]:.1f} at {last:g}"
        lowest = min(means.values())
        title = f"{office.title_of(transfer)}: highest {means[best]:.1f} at lambda {best:g}{base}"
        said.append(f"{title}, {end}; lowest {lowest:.1f}.")
    return said


def report(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    found = by_trade_off(records)
    lambdas = sorted({value for by_value in found.values() for value in by_value})
    panels = {}
    for transfer, by_value in found.items():
        curve = {value: list(seeds.values()) for value, seeds in by_value.items() if value}
        base = list(by_value.get(0.0, {}).values())
        panels[office.title_of(transfer)] = {DAN: curve, SOURCE_ONLY: dict.fromkeys(curve, base)}
    styles = {DAN: {"color": COLOURS[DAN], "marker": "o"}, SOURCE_ONLY: {"color": COLOURS[SOURCE_ONLY], "ls": "--"}}
    figure = line_panels(panels, styles, x="trade-off lambda", y="accuracy on the target, %")
    caption = "Accuracy on all target images against lambda, 10-class: mean and range over seeds."
    rows = [[method_of(value), *(told(by_value.get(value)) for by_value in found.values())] for value in lambdas]
    return Report(
        title="Office-10 + Caltech-10: how much the trade-off lambda matters",
        findings=findings(records),
        tables=[("Accuracy on all target images, 10-class", (["", *map(column_of, found)], rows))],
        figures=[Drawn("lambda.png", figure, caption)],
        captions=[
            "Accuracy in percent, mean ± standard deviation over seeds. The layout of Figure 3b of Long et al., ICML "
            "2015: there AlexNet, fine-tuned, with 31 classes on A->W. Our lambda grows from 0 to its value over the "
            "training and weighs other layers, so it is no number to compare with the paper's.",
            *office.shared_captions(records),
        ],
    )


EXPERIMENT = Experiment(
    options=LambdaSensitivity,
    summary="Figure 3b, 10-class: accuracy against lambda",
    cells=cells,
    report=report,
)
