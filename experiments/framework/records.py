"""Records of evaluations: what was measured, how, and the numbers; kept compressed, a trial's settings once.

    records.jsonl.xz    {"trial": {settings that the following evaluations share}}
                        {evaluation}        one line each, until the next trial
    records.jsonl       the plain form of earlier runs: one line an evaluation, everything in it

A record says what was measured (experiment, task, network, method, labels, seed, selection, command) and the measured
values as fractions ("accuracy/target": 0.93). A record without a `selection` is a point on the way to the selected
model: it is kept, and enters no table.
"""

from __future__ import annotations

import json
import lzma
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from dan.errors import UserError

Record = dict[str, Any]

NAMES = ("records.jsonl.xz", "records.jsonl")  # of a folder's records; the first is the one that is written
TRIAL = "trial"
# What tells one trial's records from the next one's.
TRIAL_KEYS = ("phase", "task", "network", "method", "seed", "command")
# Fields of records that were published under other names.
RENAMED: dict[str, str] = {"asked": "queried", "rate": "lr", "round_steps": "steps_per_round"}


def write_text(path: Path, text: str) -> None:
    """Write `text` so that a reader sees the old file or the new one, never a half."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """As `write_text`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def to_lines(records: Iterable[Mapping[str, Any]]) -> str:
    """Records as JSON lines; a number that is not finite becomes null, which JSON has no word for."""

    def plain(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return "".join(json.dumps({k: plain(v) for k, v in r.items()}, allow_nan=False) + "\n" for r in records)


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add one evaluation to a plain records file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(to_lines([record]))


def write(folder: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    """Write the records of a folder, compressed; the path. The same records give the same bytes."""
    path = folder / NAMES[0]
    write_bytes(path, packed(records))
    (folder / NAMES[1]).unlink(missing_ok=True)
    return path


def packed(records: Sequence[Mapping[str, Any]]) -> bytes:
    """The content of records.jsonl.xz."""
    return lzma.compress(to_lines(shared_once(records)).encode("utf-8"), preset=9 | lzma.PRESET_EXTREME)


def shared_once(records: Iterable[Mapping[str, Any]]) -> list[Record]:
    """The lines of records.jsonl.xz: before the evaluations of a trial, what they all say alike."""
    lines: list[Record] = []
    for _, group in groupby(records, key=lambda record: [record.get(key) for key in TRIAL_KEYS]):
        own = list(group)
        common = {k: v for k, v in own[0].items() if all(k in record and _same(record[k], v) for record in own)}
        lines.append({TRIAL: common})
        lines += [{k: v for k, v in record.items() if k not in common} for record in own]
    return lines


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other


def located(place: Path) -> Path:
    """The records file of a folder, or the file itself. Raises UserError where there is none."""
    for path in [place / name for name in NAMES] if place.is_dir() else [place, place.with_name(f"{place.name}.xz")]:
        if path.is_file():
            return path
    raise UserError(f"no records at {place}: run the experiment first (python -m experiments list)")


def read(place: Path) -> list[Record]:
    """All records of a folder, or of a file of either form, oldest first.

    Raises UserError if there are none or a line is not a JSON object.
    """
    path, shared = located(place), {}
    records = []
    for number, line in enumerate(text_of(path).splitlines(), start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}: not a JSON line ({error.msg}); delete it and run again") from None
        if not isinstance(record, dict):
            raise UserError(f"{path}, line {number}: expected a JSON object; delete it and run again")
        if set(record) == {TRIAL}:
            shared = record[TRIAL]
        else:
            records.append(renamed({**shared, **record}))
    return records


def text_of(path: Path) -> str:
    """The lines of a records file of either form. Raises UserError for a damaged file."""
    if path.suffix != ".xz":
        return path.read_text(encoding="utf-8")
    try:
        return lzma.decompress(path.read_bytes()).decode("utf-8")
    except lzma.LZMAError:
        raise UserError(f"{path} is damaged: delete it and run again, finished trials are kept") from None


def renamed(value: Any) -> Any:
    """A record, or a value of one, with today's names of its fields, at any depth."""
    if isinstance(value, dict):
        return {RENAMED.get(str(name), str(name)): renamed(each) for name, each in value.items()}
    return value
