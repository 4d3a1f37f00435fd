"""The table that every experiment can have: one row a method, at the most labels that it was given."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from experiments.framework.measurements import aggregate, measurements
from experiments.framework.records import Record
from experiments.framework.reporting import plots
from experiments.framework.reporting.tables import Table

LEGEND = (
    "Accuracy in percent, mean ± standard deviation over seeds. labels: queried target labels; target: all target "
    "images, those that were labelled included; worst: the same of the worst seed; unqueried: target images that were "
    "never queried; test: the target's own test split; ALC: area under the accuracy-labels curve on all target "
    "images, over its label range; n: seeds."
)


def summary(records: Sequence[Record]) -> Table:
    """Headers and one row a method at its most labels: mean and spread over seeds, and the worst seed beside them."""
    measured = measurements(records)
    spread = {(row.method, row.labels, row.split, row.metric): row.spread for row in aggregate(records)}
    headers = ["method", "labels", "target", "worst", "unqueried", "test", "ALC", "n"]
    rows = []
    on_target = plots.final(measured, "target")
    others = [plots.final(measured, "unqueried"), plots.final(measured, "test"), plots.final(measured, "target", "alc")]
    for method, (key, values) in on_target.items():
        cells = []
        for column in [on_target, *others]:
            if method not in column:
                cells.append("–")
                continue
            where, numbers = column[method]
            deviation = spread[method, where.labels, where.split, where.metric]
            cells.append(
                f"{statistics.fmean(numbers.values()):.1f}" + ("" if deviation is None else f" ± {deviation:.1f}")
            )
        cells.insert(1, f"{min(values.values()):.1f}")
        rows.append([method, str(key.labels), *cells, str(len(values))])
    return headers, rows
