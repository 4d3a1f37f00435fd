"""The DAN paper's Figure 3b on the 10-class set: accuracy against the trade-off lambda, C->W and A->W, frozen trunk.

L = CE(source) + lambda * sum over the bottleneck and the class probabilities of MK-MMD^2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dan.errors import UserError
from experiments.dan_table2 import DAN, SOURCE_ONLY, column_of
from experiments.framework.experiment import Cell, Experiment, grid
from experiments.framework.records import Record
from experiments.framework.report import Drawn, Report
from experiments.framework.reporting.tables import Table, legend_above, mean_of, tidy, told
from experiments.office_caltech10 import TenClass, about, adapt, measured, shared_captions, title_of, training

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRADE_OFFS = (0.1, 0.4, 0.7, 1.0, 1.4, 1.7, 2.0)  # the paper's


@dataclass(frozen=True)
class LambdaSensitivity(TenClass):
    """What is trained; a folder keeps one choice of these, and a finished trial is never run again."""

    NAME: ClassVar[str] = "lambda_sensitivity"
    QUICK: ClassVar[dict[str, Any]] = {**TenClass.QUICK, "trade_offs": (0.0, 1.0, 2.0)}

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
        more = {"trade_off": value}
        trials = [training(f"lambda{value:g}", adapt, transfer, DAN, config, seed, **more) for seed in config.seeds]
        made.append(Cell(about=about(transfer, method_of(value), **more), only=only, trials=trials))
    return made


# --- the report -------------------------------------------------------------------------------------------------------


def by_trade_off(records: Sequence[Record]) -> dict[str, dict[float, dict[int, float]]]:
    """transfer -> lambda -> {seed: accuracy on the target in percent}, lambdas from small to large."""
    values: dict[str, dict[float, dict[int, float]]] = {}
    lambdas = {record["method"]: float(record["trade_off"]) for record in records}
    for (_, method, transfer), by_seed in measured(records, "accuracy/target", 100).items():
        values.setdefault(transfer, {})[lambdas[method]] = by_seed
    return {transfer: dict(sorted(found.items())) for transfer, found in values.items()}


def accuracy_table(records: Sequence[Record]) -> Table:
    """One row a lambda, one column a transfer."""
    found = by_trade_off(records)
    lambdas = sorted({value for by_value in found.values() for value in by_value})
    rows = [
        ["0 (source-only)" if value == 0 else f"{value:g}", *(told(found[t].get(value)) for t in found)]
        for value in lambdas
    ]
    return ["lambda", *map(column_of, found)], rows


def findings(records: Sequence[Record]) -> list[str]:
    """For each transfer: where the mean is highest, and whether it falls again within the range, as in a bell."""
    said = []
    for transfer, by_value in by_trade_off(records).items():
        means = {value: mean for value, by_seed in by_value.items() if value and (mean := mean_of(by_seed)) is not None}
        base = mean_of(by_value.get(0.0))
        if len(means) < 2:
            continue
        best, last = max(means, key=means.__getitem__), max(means)
        shape = (
            "at the end of the range: no bell is seen within it"
            if best == last
            else f"and {means[last]:.1f} at {last:g}, the end of the range"
        )
        against = "" if base is None else f" (source-only {base:.1f})"
        said.append(
            f"{title_of(transfer)}: the highest mean is {means[best]:.1f} at lambda {best:g}{against}, {shape}. "
            f"All lambdas lie between {min(means.values()):.1f} and {max(means.values()):.1f}."
        )
    return said


def figure_of(records: Sequence[Record]) -> Figure:
    """Accuracy against lambda, mean and one dot a seed, a panel a transfer; source-only is the grey line."""
    from matplotlib.figure import Figure

    found = by_trade_off(records)
    figure = Figure(figsize=(1.2 + 4.2 * len(found), 3.5), layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
    for axes, (transfer, by_value) in zip(panels, found.items(), strict=True):
        lambdas = [value for value in by_value if value]
        axes.plot(lambdas, [mean_of(by_value[value]) for value in lambdas], "o-", color="#222222", label=DAN)
        for value in lambdas:
            seeds = list(by_value[value].values())
            axes.scatter([value] * len(seeds), seeds, s=14, color="#222222", alpha=0.4, linewidths=0)
        if 0.0 in by_value:
            seeds = list(by_value[0.0].values())
            axes.axhspan(min(seeds), max(seeds), color="#888888", alpha=0.18, linewidth=0)
            axes.axhline(sum(seeds) / len(seeds), color="#888888", linestyle="--", label=SOURCE_ONLY)
        axes.set_title(title_of(transfer), fontsize=10)
        axes.set_xlabel("trade-off lambda")
        axes.set_xticks(lambdas, [f"{value:g}" for value in lambdas], fontsize=8)
        tidy(axes)
    panels[0].set_ylabel("accuracy on the target, %")
    legend_above(figure, panels[0], 2)
    return figure


def report_of(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    caption = (
        "Accuracy on all target images against lambda, 10-class: mean and one dot a seed; grey: source-only, mean and "
        "range over seeds."
    )
    return Report(
        title="Office-10 + Caltech-10: how much the trade-off lambda matters",
        findings=findings(records),
        tables=[("Accuracy on all target images, 10-class", accuracy_table(records))],
        figures=[Drawn("lambda.png", figure_of(records), caption)],
        captions=[
            "Accuracy in percent, mean ± standard deviation over seeds, of the model after the last step. "
            "The layout of Figure 3b of Long et al., ICML 2015: there AlexNet, fine-tuned, C->W with 10 classes and "
            "A->W with 31; here 10-class in both, and the trunk frozen. Our lambda grows from 0 to its value over the "
            "training and weighs other layers, so it is no number to compare with the paper's.",
            *shared_captions(records),
        ],
    )


EXPERIMENT = Experiment(
    options=LambdaSensitivity,
    summary="Figure 3b, 10-class: accuracy against lambda",
    cells=cells,
    report=report_of,
)
