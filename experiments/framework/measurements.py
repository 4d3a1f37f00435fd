"""Evaluations in, rows of a long-form table out: one row is the mean and spread of one measurement over n seeds.

mean = sum_i v_i / n        spread = sqrt(sum_i (v_i - mean)^2 / (n - 1))
alc  = area under accuracy(labels) by trapezoids / (last labels - first labels)
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any, NamedTuple

from dan.errors import UserError

# Where a record keeps the accuracy of each split of the table.
SPLITS = {"target": "accuracy/target", "unqueried": "accuracy/unqueried", "test": "accuracy/target_test"}


class Key(NamedTuple):
    """What one number of the table is a measurement of."""

    experiment: str
    task: str
    network: str
    method: str
    labels: int
    split: str
    metric: str
    selection: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of table.csv. Accuracies and areas in percent; `spread` is None for a single seed."""

    experiment: str
    task: str
    network: str
    method: str
    labels: int
    split: str
    metric: str
    mean: float
    spread: float | None
    n: int
    selection: str
    paper: float | None
    provenance: str
    command: str


COLUMNS = tuple(field.name for field in fields(Row))


def alc(labels: Sequence[float], accuracies: Sequence[float]) -> float:
    """Area under the accuracy-labels curve over its label range, in the unit of `accuracies`.

    A constant curve gives that constant; a straight one the mean of its ends. ValueError unless `labels` increase.
    """
    if len(labels) != len(accuracies) or len(labels) < 2 or any(b <= a for a, b in pairwise(labels)):
        raise ValueError("alc needs two or more accuracies at increasing numbers of labels")
    area = sum((labels[i + 1] - labels[i]) * (accuracies[i] + accuracies[i + 1]) / 2 for i in range(len(labels) - 1))
    return area / (labels[-1] - labels[0])


def labels_to(labels: Sequence[float], accuracies: Sequence[float], goal: float) -> float | None:
    """The number of labels at which the curve first reaches the goal, linear between its points; None if it never does.

    A curve that starts there needs labels[0]. ValueError unless `labels` increase.
    """
    if not labels or len(labels) != len(accuracies) or any(b <= a for a, b in pairwise(labels)):
        raise ValueError("labels_to needs accuracies at increasing numbers of labels")
    if accuracies[0] >= goal:
        return float(labels[0])
    for (n, low), (more, high) in pairwise(zip(labels, accuracies, strict=True)):
        if high >= goal:
            return n + (more - n) * (goal - low) / (high - low)
    return None


def measurements(records: Iterable[Mapping[str, Any]]) -> dict[Key, dict[int, float]]:
    """Every measured number as key -> {seed: value}, keys in the order of the records; accuracies in percent.

    Areas (`alc`) follow the accuracies, one for each method and split with two or more label counts.
    UserError if a seed was measured twice for the same key: it would count double in the mean.
    """
    table: dict[Key, dict[int, float]] = {}
    curves: dict[tuple[Key, int], dict[int, float]] = {}
    for record in records:
        if not record.get("selection"):
            continue
        seed = int(record["seed"])
        measured = [(split, "accuracy", name, 100.0) for split, name in SPLITS.items()] + [
            ("", "seconds", "seconds", 1.0)
        ]
        for split, metric, name, scale in measured:
            if record.get(name) is None:
                continue
            where = {part: record[part] for part in Key._fields if part in record}
            key = Key(**where, split=split, metric=metric)
            if seed in table.setdefault(key, {}):
                raise UserError(f"{key.method} at {key.labels} labels, seed {seed} is recorded twice: keep one record")
            table[key][seed] = scale * float(record[name])
            if metric == "accuracy":
                curves.setdefault((key._replace(labels=0), seed), {})[key.labels] = table[key][seed]
    for (key, seed), curve in curves.items():
        if len(curve) > 1:
            grid = sorted(curve)
            area = key._replace(labels=grid[-1], metric="alc")
            table.setdefault(area, {})[seed] = alc(grid, [curve[count] for count in grid])
    return table


def aggregate(records: Iterable[Mapping[str, Any]]) -> list[Row]:
    """The rows of table.csv: mean and sample standard deviation over seeds of every measurement."""
    records = list(records)
    origin: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for record in records:
        origin.setdefault(tuple(record[part] for part in Key._fields[:5]), record)
    rows = []
    for key, values in measurements(records).items():
        first = origin[key[:5]]
        rows.append(
            Row(
                **key._asdict(),
                mean=statistics.fmean(values.values()),
                spread=statistics.stdev(values.values()) if len(values) > 1 else None,
                n=len(values),
                # A published number is the accuracy on all of the target, as the record at those labels says.
                paper=first.get("paper") if key.metric == "accuracy" and key.split == "target" else None,
                provenance=str(first.get("provenance") or ""),
                command=str(first.get("command") or ""),
            )
        )
    return rows


def row_of(
    record: Mapping[str, Any], values: Iterable[float], *, split: str, metric: str, labels: int | None = None
) -> Row:
    """The row of a measurement that is no accuracy: mean and spread of one value a seed, as they are.

    record: one of those measured, which says what it is of. labels: None: the record's.
    """
    key = Key(**{part: record[part] for part in Key._fields if part in record}, split=split, metric=metric)
    listed = list(values)
    return Row(
        **key._replace(labels=key.labels if labels is None else labels)._asdict(),
        mean=statistics.fmean(listed),
        spread=statistics.stdev(listed) if len(listed) > 1 else None,
        n=len(listed),
        paper=None,
        provenance="",
        command=str(record["command"]),
    )


def to_csv(rows: Iterable[Row]) -> str:
    """Rows as CSV with a header; an absent spread or paper number is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = asdict(row) | {"mean": f"{row.mean:.4f}", "spread": "" if row.spread is None else f"{row.spread:.4f}"}
        writer.writerow(cells)
    return text.getvalue()


def by_seed(
    records: Iterable[Mapping[str, Any]],
    name: str,
    scale: float = 1.0,
    *,
    of: Sequence[str] = ("network", "method", "task"),
) -> dict[tuple[Any, ...], dict[int, float]]:
    """{(the record's values of the fields `of`): {seed: scale * value}} of the selected records that hold `name`.

    Keys are in the order of the records.
    """
    found: dict[tuple[Any, ...], dict[int, float]] = {}
    for record in records:
        if record.get("selection") and record.get(name) is not None:
            found.setdefault(tuple(record[part] for part in of), {})[record["seed"]] = scale * record[name]
    return found
