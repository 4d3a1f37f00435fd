"""Which samples labels were requested for, and when: append-only, so that every answer is known again and no label
is requested twice.

asked.jsonl, one JSON line a task; nothing is ever changed or removed:

    {"event": "asked", "batch", "order", "sample", "path", "file", "place", "guess", "confidence", "strategy",
     "network", "out", "when"}

`sample` is the sha256 of the image's bytes, or of a row of features as float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from active.annotation.label_log import append_records
from dan.errors import UserError
from dan.run_dir import read_records


@dataclass(frozen=True, kw_only=True)
class Request:
    """One task that went out. path: as the annotator saw it. file: the same, absolute. place: the folder, CSV or file
    of features that it was chosen from. network: the folder of the network that guessed. out: the file of tasks."""

    order: int
    sample: str
    path: str
    file: str
    place: str
    guess: str
    confidence: float
    strategy: str
    network: str
    out: str
    when: str


class RequestLog:
    """The log at `path`, read whole; `append` adds a batch, on the disk when it returns.

    Raises UserError for a file whose lines are not this log's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tasks: list[Request] = []
        self.batches = 0
        for number, record in enumerate(read_records(path), start=1):
            try:
                self.batches = max(self.batches, int(record["batch"]))
                self.tasks.append(Request(**{name: record[name] for name in Request.__dataclass_fields__}))
            except (KeyError, TypeError, ValueError, OverflowError):
                raise UserError(f"{path}, line {number} is no line of a log of tasks: restore the file") from None

    @property
    def known(self) -> dict[str, str]:
        """sample -> its path, as it was shown last."""
        return {task.sample: task.path for task in self.tasks}

    def append(self, tasks: Sequence[Request]) -> int:
        """Add a batch; its number, from 1."""
        append_records(self.path, ({"event": "asked", "batch": self.batches + 1, **asdict(task)} for task in tasks))
        self.batches += 1
        self.tasks += tasks
        return self.batches
