"""The DAN paper's Figure 3b on the 10-class set: accuracy against the trade-off lambda, C->W and A->W, frozen trunk.

L = CE(source) + lambda * sum over the bottleneck and the class probabilities of MK-MMD^2
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if __package__ in (None, ""):  # python experiments/lambda_sensitivity.py puts this folder on the path, not its parent
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from dan.cli.command_line import Command, run
from dan.errors import UserError
from experiments.dan_table2 import DAN, SOURCE_ONLY, column_of
from experiments.records import Record, read
from experiments.reporting.tables import Drawn, Table, legend_above, mean_of, tidy, told, write_report
from experiments.running import reduced
from experiments.ten_class import (
    TenClass,
    check,
    measured,
    record_of,
    resolved,
    run_cells,
    shared_captions,
    title_of,
    training,
)
from experiments.trials import Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "lambda_sensitivity"
TRADE_OFFS = (0.1, 0.4, 0.7, 1.0, 1.4, 1.7, 2.0)  # the paper's


@dataclass(frozen=True)
class LambdaSensitivity(TenClass):
    """What is trained; a folder keeps one choice of these, and a finished trial is never run again."""

    NAME: ClassVar[str] = NAME
    QUICK: ClassVar[dict[str, Any]] = {**TenClass.QUICK, "trade_offs": (0.0, 1.0, 2.0)}

    out: Path = Path(f"runs/{NAME}")
    """folder of the trials, records and report"""
    trade_offs: tuple[float, ...] = (0.0, *TRADE_OFFS)
    """values of lambda; 0 is source-only"""


def method_of(trade_off: float) -> str:
    """A row's name: source-only, or DAN with its lambda."""
    return f"{DAN}, lambda {trade_off:g}" if trade_off else SOURCE_ONLY


def cell(transfer: str, trade_off: float, config: LambdaSensitivity) -> list[Trial]:
    """One trial a seed. All lambdas, 0 too, differ in the trade-off alone."""
    name = f"lambda{trade_off:g}"
    return [training(name, "adapt", transfer, DAN, config, seed, trade_off=trade_off) for seed in config.seeds]


def run_lambdas(config: LambdaSensitivity) -> int:
    """Train what is missing and make the report; exit code 1 if a trial failed."""
    config, chosen_by = resolved(reduced(config))
    check(config)
    if not config.trade_offs or len(set(config.trade_offs)) < len(config.trade_offs) or min(config.trade_offs) < 0:
        raise UserError(f"--trade-offs needs one or more different numbers of 0 or more, not {list(config.trade_offs)}")
    cells = [
        (
            record_of(config, transfer, method_of(value), chosen_by, trade_offs=f"{value:g}"),
            cell(transfer, value, config),
        )
        for transfer in config.transfers
        for value in config.trade_offs
    ]
    return run_cells(config, cells, report)


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


def report(folder: Path) -> Path:
    """Make the table, the figure and the page again from the folder's records; the path of the page."""
    records = read(folder / "records.jsonl")
    caption = (
        "Accuracy on all target images against lambda, 10-class: mean and one dot a seed; grey: source-only, mean and "
        "range over seeds."
    )
    return write_report(
        folder,
        records,
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


COMMAND = Command(LambdaSensitivity, run_lambdas, "Figure 3b, 10-class: accuracy against lambda, C->W and A->W")

if __name__ == "__main__":
    # By its own name, so that the module that reports and the one that trains are the same.
    from experiments.lambda_sensitivity import COMMAND as ITSELF

    sys.exit(run(f"experiments/{NAME}.py", "DAN's Figure 3b.", {NAME: ITSELF}, [NAME, *sys.argv[1:]]))
