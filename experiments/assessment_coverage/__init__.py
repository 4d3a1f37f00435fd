"""Do the intervals of `active.assessment` hold what they promise? Simulated audits of real networks' outputs.

looks     one network; a strategy has labelled a tenth of the pool; n audits are drawn from the rest, many times
rounds    a head is refitted after every batch, in modes train and hold; each round's network is assessed
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from dan.errors import UserError
from experiments.demo import TASK
from experiments.framework.experiment import Cell, Experiment, Results
from experiments.framework.measurements import row_of
from experiments.framework.options import Options, check_least, check_strategies
from experiments.framework.records import Record
from experiments.framework.report import Report
from experiments.framework.reporting.tables import each
from experiments.framework.trials import Trial, dotted


@dataclass(frozen=True)
class AssessmentCoverage(Options):
    """What is simulated."""

    NAME: ClassVar[str] = "assessment_coverage"
    QUICK: ClassVar[dict[str, Any]] = {"strategies": ("random",), "audits": (20,), "runs": 2, "steps": 10}

    outputs: tuple[Path, ...] = ()
    """files of outputs (default: those of a source-only network on scanned digits, which is trained first)"""
    strategies: tuple[str, ...] = ("random", "margin", "hybrid")
    """acquisition strategies of the labelled samples"""
    audits: tuple[int, ...] = (20, 100, 500)
    """of looks: audits of a run"""
    runs: int = 1000
    """simulated runs of each setting"""
    steps: int = 300
    """training steps of the network on scanned digits"""

    def check(self) -> None:
        check_strategies(["outputs"], self.strategies)
        check_least(self, "runs", "steps")
        if missing := [path for path in self.outputs if not path.is_file()]:
            raise UserError(f"there is no file {missing[0]}: --outputs names files of logits, features and y")
        if min(self.audits, default=0) < 1:
            raise UserError("--audits must be 1 or more")


def cells(config: AssessmentCoverage) -> list[Cell]:
    """One cell a file of outputs and strategy."""
    from experiments.assessment_coverage.simulation import OUTPUTS, simulate, train_on_digits

    digits = Trial("source-only", train_on_digits, {"steps": config.steps})
    files = {path.stem: str(path.absolute()) for path in config.outputs} or {TASK: f"{digits.name}/{OUTPUTS}"}
    shared = {"audits": list(config.audits), "runs": config.runs}
    made = []
    for (task, file), strategy in product(files.items(), config.strategies):
        arguments = {"outputs": file, "strategy": strategy, **shared}
        trial = Trial(f"{task}-{dotted(strategy)}", simulate, arguments, () if config.outputs else (digits,))
        only = {"strategies": strategy} | ({"outputs": file} if config.outputs else {})
        made.append(Cell(about={"task": task, "method": strategy, "runs": config.runs}, only=only, trials=[trial]))
    return made


def records_of(cell: Cell, trial: Trial, results: Results) -> list[Record]:
    """One record a setting and interval; no model is selected."""
    result = results[trial.name]
    return [{**cell.about, "seed": 0, "selection": "", **result["measured_on"], **each} for each in result["found"]]


# --- the report -------------------------------------------------------------------------------------------------------


def report_of(records: Sequence[Record]) -> Report:
    """The report, from records alone."""
    groups: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        groups.setdefault((record["interval"], record["labels"]), []).append(record)
    lines = []
    for (interval, labels), own in groups.items():
        held, width = ([100 * record[name] for record in own] for name in ("coverage", "width"))
        lines.append(
            [interval, str(labels), f"{min(held):.1f}", f"{fmean(held):.1f}", f"{fmean(width):.1f}", str(len(own))]
        )
    worst = min(records, key=lambda record: record["coverage"])
    where = ", ".join(str(worst[name]) for name in ("interval", "task", "method", "network", "labels"))
    runs = each(records, "runs")
    return Report(
        title="Coverage of the intervals of an assessment",
        findings=[f"Lowest coverage of {len(records)} settings, {runs} runs each: {worst['coverage']:.1%} ({where})."],
        tables=[("Level 95 %", (["interval", "audits", "lowest coverage", "mean", "width", "n"], lines))],
        captions=[
            "Coverage in percent of runs, mean width in points, n settings. all looks: holds at every look; class 0, "
            "balanced: at one look; clopper-pearson: of the unlabelled samples, from the same audits; test set: that "
            "interval for as many samples drawn from the whole pool. accuracy, unlabelled, and "
            "the second balanced: of rounds, where a run counts if the intervals of all rounds hold."
        ],
        rows=[
            row_of(record, [100 * record[name]], split=record["interval"], metric=name)
            for record in records
            for name in ("coverage", "width")
        ],
        compared=[],
    )


EXPERIMENT = Experiment(
    options=AssessmentCoverage,
    summary="do the intervals of an assessment cover the accuracy? simulated audits",
    cells=cells,
    report=report_of,
    records=records_of,
)
