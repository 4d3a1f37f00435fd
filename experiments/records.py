"""Evaluations in, a long-form table out: one JSON line an evaluation, one row the mean and spread over n seeds.

    mean = sum_i v_i / n        spread = sqrt(sum_i (v_i - mean)^2 / (n - 1))
    alc  = area under accuracy(labels) by trapezoids / (last labels - first labels)

A record says what was measured (experiment, task, network, method, labels, seed, selection, command) and the measured
values as fractions ("accuracy/target": 0.93). A record without a `selection` is a point on the way to the selected
model: it is kept, and enters no table.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from dan.errors import UserError

Record = dict[str, Any]

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


def write_text(path: Path, text: str) -> None:
    """Write `text` so that a reader sees the old file or the new one, never a half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def to_lines(records: Iterable[Mapping[str, Any]]) -> str:
    """Records as JSON lines; a number that is not finite becomes null, for JSON has no word for it."""

    def plain(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return "".join(json.dumps({k: plain(v) for k, v in r.items()}, allow_nan=False) + "\n" for r in records)


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add one evaluation to a records file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(to_lines([record]))


# Fields of records that were published under other names.
RENAMED: dict[str, str] = {"asked": "queried", "rate": "lr", "round_steps": "steps_per_round"}


def read(path: Path) -> list[Record]:
    """All records of a file, oldest first. UserError if it is absent or a line is not a JSON object."""
    if not path.is_file():
        raise UserError(f"no records at {path}: run the experiment first (python -m experiments list)")
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}: not a JSON line ({error.msg}); delete it and run again") from None
        if not isinstance(record, dict):
            raise UserError(f"{path}, line {number}: expected a JSON object; delete it and run again")
        records.append(renamed(record))
    return records


def renamed(value: Any) -> Any:
    """A record, or a value of one, with today's names of its fields, at any depth."""
    if isinstance(value, dict):
        return {RENAMED.get(str(name), str(name)): renamed(each) for name, each in value.items()}
    return value


def alc(labels: Sequence[float], accuracies: Sequence[float]) -> float:
    """Area under the accuracy-labels curve over its label range, in the unit of `accuracies`.

    A constant curve gives that constant; a straight one the mean of its ends. ValueError unless `labels` increase.
    """
    if len(labels) != len(accuracies) or len(labels) < 2 or any(b <= a for a, b in pairwise(labels)):
        raise ValueError("alc needs two or more accuracies at increasing numbers of labels")
    area = sum((labels[i + 1] - labels[i]) * (accuracies[i] + accuracies[i + 1]) / 2 for i in range(len(labels) - 1))
    return area / (labels[-1] - labels[0])


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


def to_csv(rows: Iterable[Row]) -> str:
    """Rows as CSV with a header; an absent spread or paper number is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = asdict(row) | {"mean": f"{row.mean:.4f}", "spread": "" if row.spread is None else f"{row.spread:.4f}"}
        writer.writerow(cells)
    return text.getvalue()
