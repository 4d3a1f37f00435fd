"""Who labelled what, when, and from which file: an append-only log of annotators' labels, and how they are combined.

labels.jsonl, one JSON line an event; nothing is ever changed or removed:

    {"event": "label", "sample", "path", "label", "annotator", "when", "batch", "origin"}
    {"event": "undo", "batch", "when"}                     what that batch said no longer counts

`sample` is the sha256 of the image's bytes (or of a row of features), so that a renamed file is the same sample and two
copies of one file are one. A person's latest label of a sample stands for that person; several people's are brought to
one by a rule.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dan.errors import UserError
from dan.locks import Lock, lock_dir
from dan.run_dir import read_records
from dan.run_networks import counted_batches

PATIENCE = 10.0  # seconds that one who adds to a log waits for another who does
RULES = ("majority", "last", "refuse")


@dataclass(frozen=True, kw_only=True)
class Label:
    """One person's answer about one sample. when: ISO 8601, UTC. origin: file and row that it came from."""

    sample: str
    path: str
    label: str
    annotator: str
    when: str
    origin: str


class LabelLog:
    """The log at `path`, read whole; `append` and `undo` add to it, on the disk when they return.

    A line that was being written when the process died is dropped, and cut off before the next is written.
    Raises UserError for a file whose lines are not this log's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read()

    def _read(self) -> None:
        self._events: list[tuple[int, Label] | int] = []  # (batch, label), or the batch that was undone
        for number, record in enumerate(read_records(self.path), start=1):
            try:
                if record["event"] == "undo":
                    self._events.append(int(record["batch"]))
                    continue
                named = {name: str(record[name]) for name in Label.__dataclass_fields__}
                self._events.append((int(record["batch"]), Label(**named)))
            except (KeyError, TypeError, ValueError, OverflowError):
                raise UserError(f"{self.path}, line {number} is no line of a label log: restore the file") from None

    @property
    def batches(self) -> list[int]:
        """The batches that count, in the order in which they came."""
        return counted_batches(("undo", e) if isinstance(e, int) else ("label", e[0]) for e in self._events)

    @property
    def labels(self) -> list[Label]:
        """The labels that count: of each person and sample the latest, in the order in which they came."""
        counted = set(self.batches)
        latest: dict[tuple[str, str], Label] = {}
        for event in self._events:
            if not isinstance(event, int) and event[0] in counted:
                key = (event[1].sample, event[1].annotator)
                latest.pop(key, None)  # to the end
                latest[key] = event[1]
        return list(latest.values())

    def append(self, labels: Sequence[Label]) -> int:
        """Add a batch of labels; its number, from 1. An empty batch is not written, and has the number 0."""
        if not labels:
            return 0
        with _open_for_adding(self.path):
            self._read()  # another process may have added a batch since, whose number is taken
            batch = 1 + max((e if isinstance(e, int) else e[0] for e in self._events), default=0)
            append_records(self.path, ({"event": "label", "batch": batch, **asdict(label)} for label in labels))
        self._events += [(batch, label) for label in labels]
        return batch

    def undo(self, *, when: str) -> tuple[int, list[Label]]:
        """Take the latest batch back: its number and labels. Raises UserError where nothing is left to undo."""
        with _open_for_adding(self.path):
            self._read()
            batches = self.batches
            if not batches:
                raise UserError(f"{self.path} holds no labels to take back")
            batch = batches[-1]
            append_records(self.path, [{"event": "undo", "batch": batch, "when": when}])
        labels = [e[1] for e in self._events if not isinstance(e, int) and e[0] == batch]
        self._events.append(batch)
        return batch, labels


def _open_for_adding(path: Path) -> Lock:
    """The folder of the log, for as long as one adds to it. Raises UserError where it cannot be written."""
    try:
        return lock_dir(path.parent, wait=PATIENCE)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}): nothing was taken") from None


def append_records(path: Path, records: Iterable[Mapping[str, object]]) -> None:
    """Add lines to a JSON-lines file, on the disk when this returns; a line torn by a kill is cut off before.

    Raises UserError where the file cannot be written.
    """
    lines = b"".join(json.dumps(dict(record)).encode() + b"\n" for record in records)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b") as file:
            file.seek(0)
            whole = file.read()
            if whole and not whole.endswith(b"\n"):
                file.truncate(whole.rfind(b"\n") + 1)
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}): nothing was taken") from None


def aggregate_labels(labels: Iterable[Label], rule: str = "majority") -> tuple[dict[str, str], dict[str, list[Label]]]:
    """(sample -> its label, sample -> the answers that contradict each other and were not settled).

    rule: "majority": the label that most people gave, and no label where two lead; "last": the latest answer;
    "refuse": only what all agree on. Samples are in the order of their first answer.
    Raises ValueError for another rule.
    """
    if rule not in RULES:
        raise ValueError(f'the rule is one of {", ".join(RULES)}, not "{rule}"')
    answers: dict[str, list[Label]] = {}
    for label in labels:
        answers.setdefault(label.sample, []).append(label)
    decided, open_ones = {}, {}
    for sample, given in answers.items():
        votes = Counter(label.label for label in given).most_common()
        if rule == "last":
            decided[sample] = given[-1].label
        elif len(votes) == 1 or (rule == "majority" and votes[0][1] > votes[1][1]):
            decided[sample] = votes[0][0]
        else:
            open_ones[sample] = given
    return decided, open_ones


def krippendorff_alpha(labels: Iterable[Label]) -> tuple[int, float]:
    """(samples that two people or more labelled, Krippendorff's alpha for nominal data over them).

        alpha = 1 - D_o / D_e,   D_o = (1/n) sum_s (1/(m_s - 1)) sum_{a != b} n_sa n_sb,
                                 D_e = (1/(n (n - 1))) sum_{a != b} n_a n_b

    n_sa: answers a about sample s, of m_s; n_a: answers a in all, of n. 1: all agree; 0: as if labels were drawn at
    random; NaN where nobody shares a sample. All people giving one label everywhere agree: 1.
    Source: Krippendorff, Content Analysis, 2004, ch. 11.
    """
    by_sample: dict[str, Counter[str]] = {}
    for label in labels:
        by_sample.setdefault(label.sample, Counter())[label.label] += 1
    shared = [votes for votes in by_sample.values() if votes.total() >= 2]
    if not shared:
        return 0, float("nan")
    total: Counter[str] = Counter()
    for votes in shared:
        total.update(votes)
    n = total.total()
    observed = sum((v.total() ** 2 - sum(c * c for c in v.values())) / (v.total() - 1) for v in shared) / n
    expected = (n * n - sum(c * c for c in total.values())) / (n * (n - 1))
    return len(shared), 1.0 if expected == 0 else 1 - observed / expected
