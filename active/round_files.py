"""RUN/rounds/round_03.json: one small file a round, with all it takes to go on after it or to replay its query.

    settings    those of the run, as in the first line of records.jsonl
    record      the round's record: its number, the metrics, and the ids of its query, in pick order
    answers     the labels that these ids got, in that order
    labelled    [id, label, round in which it was labelled] of every sample whose label the round's model had learned
    generator   the state of the strategy's generator before the query and after, base64; null where there was none

A file is written at once or not at all, and before its line of records.jsonl: the files are the truth about a run, and
records.jsonl, which tables are made from, is made to agree with them whenever the run is resumed.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from active.pool import Pool
from dan.errors import UserError
from dan.run_dir import Record, read_records, write_atomically

FOLDER = "rounds"


@dataclass(frozen=True, kw_only=True)
class RoundFile:
    """What a file holds. labelled: (id, label, round) each. before, after: states of the generator, or None."""

    settings: Record
    record: Record
    answers: tuple[int, ...]
    labelled: tuple[tuple[int, int, int], ...]
    before: str | None
    after: str | None

    @property
    def number(self) -> int:
        """Which round, from 0."""
        return int(self.record["round"])

    def generator(self) -> torch.Generator:
        """The generator as the strategy got it. Raises UserError for a round that has no query."""
        if self.before is None:
            raise UserError(f"round {self.number} has no query, and drew nothing at random")
        generator = torch.Generator()
        generator.set_state(torch.frombuffer(bytearray(base64.b64decode(self.before)), dtype=torch.uint8))
        return generator


def state_of(generator: torch.Generator) -> str:
    """The generator's state as text."""
    return base64.b64encode(generator.get_state().numpy().tobytes()).decode()


def labelled_in(pool: Pool) -> tuple[tuple[int, int, int], ...]:
    """(id, label, round) of every labelled sample, in the order in which they were labelled."""
    ids = pool.labelled_ids.tolist()
    return tuple((i, label, pool.round_of(i)) for i, label in zip(ids, pool.labels.tolist(), strict=True))


def path_of(run: Path | str, number: int) -> Path:
    """The path of that round's file."""
    return Path(run) / FOLDER / f"round_{number:02d}.json"


def write_round(run: Path, file: RoundFile) -> None:
    """The file on the disk when this returns: all of it, or what was there before."""
    content = {
        "settings": file.settings,
        "record": file.record,
        "answers": list(file.answers),
        "labelled": [list(entry) for entry in file.labelled],
        "generator": None if file.before is None else {"before": file.before, "after": file.after},
    }
    text = json.dumps(content, indent=1) + "\n"
    write_atomically(path_of(run, file.number), lambda opened: opened.write(text.encode()))


def read_round(run: Path | str, number: int) -> RoundFile:
    """The file of one round. Raises UserError where there is none, and for one that is damaged."""
    path = path_of(run, number)
    if not path.is_file():
        raise UserError(f"{path} does not exist: the run did not get as far as round {number}")
    try:
        content = json.loads(path.read_bytes())
        generator = content["generator"] or {"before": None, "after": None}
        file = RoundFile(
            settings=dict(content["settings"]),
            record=dict(content["record"]),
            answers=tuple(map(int, content["answers"])),
            labelled=tuple((int(i), int(label), int(when)) for i, label, when in content["labelled"]),
            before=generator["before"],
            after=generator["after"],
        )
        whole = file.number == number and len(file.answers) == len(file.record["queried"])
        for state in (file.before, file.after):
            base64.b64decode(state or "", validate=True)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, binascii.Error):
        whole = False
    if not whole:
        raise UserError(f"{path} is not the file of round {number}: restore it, or remove it and those after it")
    return file


def read_rounds(run: Path | str) -> list[RoundFile]:
    """All rounds of a run, from the first on; [] where there is none.

    Raises UserError for a damaged file, and for one that is missing before others.
    """
    numbers = sorted(int(path.stem.partition("_")[2]) for path in (Path(run) / FOLDER).glob("round_[0-9]*.json"))
    if numbers != list(range(len(numbers))):
        missing = next(number for number in range(len(numbers)) if number not in numbers)
        raise UserError(f"{path_of(run, missing)} is missing, and later ones are there: restore it, or remove those")
    return [read_round(run, number) for number in numbers]


def pool_at(pool: Pool, run: Path | str, number: int) -> Pool:
    """This pool, given the labels that the model of round `number` had learned: as it was when that round asked.

    pool: of the run's ids, without labels of its own; it is changed, and returned. Raises UserError where the run did
    not get so far, or is of another pool.
    """
    _take(pool, read_round(run, number).labelled, run)
    return pool


def restore(pool: Pool, files: Sequence[RoundFile], run: Path) -> None:
    """Give the pool the labels of these rounds. Raises UserError where they are of another pool."""
    for file in files:
        if file.labelled != labelled_in(pool):
            raise UserError(
                f"{path_of(run, file.number)} has other labels than this pool after the rounds before it: "
                "the data are not those of the run"
            )
        bought = zip(file.record["queried"], file.answers, strict=True)
        _take(pool, [(i, label, file.number + 1) for i, label in bought], run)


def _take(pool: Pool, entries: Sequence[tuple[int, int, int]], run: Path | str) -> None:
    for sample, label, when in entries:
        try:
            pool.label([sample], [label], round=when)
        except ValueError as error:
            raise UserError(f"{run} is a run on another pool ({error}): name another --run") from None


def agree(run: Path, settings: Mapping[str, Any], files: Sequence[RoundFile]) -> None:
    """Make records.jsonl say what the files say. Raises UserError for files of a run with other settings."""
    for file in files:
        if file.settings != settings:
            raise UserError(f"{path_of(run, file.number)} is of a run with other settings: name another --run")
    wanted = [dict(settings), *(file.record for file in files)]
    path = run / "records.jsonl"
    if read_records(path) != wanted:
        lines = b"".join(json.dumps(record).encode() + b"\n" for record in wanted)
        write_atomically(path, lambda opened: opened.write(lines))
