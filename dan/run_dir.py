"""One folder a run: resume.pt (to go on from), records.jsonl (one line an evaluation); `dan.models.model_file` adds
model.pt.

Every file is replaced at once or not at all, so a kill at any moment leaves the old file or the new one. records.jsonl
is appended to; a line torn by a kill is dropped when it is read, and a run that resumes cuts the file back to the
records that its checkpoint knew, so that no evaluation stands twice.
"""

import glob
import io
import json
import os
import platform
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from dan.archive_limits import refuse_bomb
from dan.errors import UserError
from dan.locks import lock_dir

Record = dict[str, Any]


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Call `write` on a temporary file beside `path`, flush it to the disk, then put it in the place of `path`.

    What a process of this machine that is no more was writing to the same file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    begins = f".{path.name}.{platform.node()}."
    _sweep(path.parent, begins)
    temporary = path.with_name(f"{begins}{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _sweep(folder: Path, begins: str) -> None:
    """Remove temporary files whose process was killed; those of processes that live are theirs."""
    if os.name != "posix":  # elsewhere there is no harmless way to ask after a process
        return
    for left in folder.glob(f"{glob.escape(begins)}*.tmp"):
        process = left.name[len(begins) : -len(".tmp")]
        if process.isdecimal() and not _lives(int(process)):
            left.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def read_records(path: Path) -> list[Record]:
    """The records of a JSON-lines file, [] if there is none. A torn last line is dropped; any other is a UserError.

    So is a file that cannot be read, and a line that is no JSON object.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None
    records = []
    # A whole line ends in a newline: what follows the last one was being written when the process died.
    for number, line in enumerate(lines[:-1], start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):  # the latter for thousands of brackets
            record = None
        if not isinstance(record, dict):
            raise UserError(f"{path}, line {number} is not JSON: restore the file, or remove the run's folder")
        records.append(record)
    return records


class Run:
    """A run's folder and its records. The first record holds the settings; the last one, once done, says so.

    Opening a folder that holds a run with other settings is a UserError that names the first difference: records of
    two runs must not mix. So is a folder that another process has open: the lock is held while this object lives.
    """

    def __init__(self, folder: Path | str, settings: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.path = self.folder / "records.jsonl"
        self._lock = lock_dir(self.folder)
        self.records = read_records(self.path)
        header: Record = {"event": "settings", **json.loads(json.dumps(dict(settings)))}
        if not self.records:
            self.records = [header]
            self._rewrite()
        elif self.path.read_bytes()[-1:] != b"\n":
            self._rewrite()  # without the torn line, lest the next record continue it
        if self.records[0] != header:
            raise UserError(
                f"{self.folder} holds another run ({_difference(self.records[0], header)}): name another --run"
            )

    @property
    def done(self) -> bool:
        """Whether the run has come to its end."""
        return self.records[-1].get("event") == "done"

    @property
    def evaluations(self) -> list[Record]:
        """The records of evaluations, in their order."""
        return [record for record in self.records if record.get("event") == "evaluation"]

    def append(self, record: Record) -> None:
        """Add one record, on the disk when this returns. Raises UserError where it cannot be written."""
        self.records.append(record)
        try:
            with open(self.path, "ab") as file:
                file.write(_line(record))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._full(error) from None

    def save(self, state: Mapping[str, Any]) -> None:
        """Write resume.pt: `state`, and how many records it goes with. Raises UserError where it cannot be written."""
        try:
            save_tensors(self.folder / "resume.pt", {**state, "records": len(self.records)})
        except OSError as error:
            raise self._full(error) from None

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The last saved state, or None. The records written after it are cut off: they will be made again.

        Raises UserError for a file that is no checkpoint, or that knows of more records than there are.
        """
        path = self.folder / "resume.pt"
        state: dict[str, Any] | None = read_tensors(path, device) if path.exists() else None
        known = state.get("records") if state else 1
        if not isinstance(known, int) or known < 1:
            raise UserError(f"{path} is no checkpoint of a run: remove it, and the run begins again")
        if len(self.records) < known:
            raise UserError(f"{self.path} has fewer records than its checkpoint knew: remove the run's folder")
        if len(self.records) > known:
            self.records = self.records[:known]
            self._rewrite()
        return state

    def _full(self, error: OSError) -> UserError:
        """What is told of a disk that takes no more: what it took before is whole, and the run can go on from it."""
        return UserError(
            f"{self.folder} cannot be written any more ({error.strerror or error}): make room, and run the same "
            "command again; it goes on from the last checkpoint"
        )

    def _rewrite(self) -> None:
        write_atomically(self.path, lambda file: file.write(b"".join(map(_line, self.records))))


def save_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """torch.save, at once or not at all. Raises OSError where it cannot be written.

    Into memory first: torch.save tells of a full disk by what is no OSError, and then once more from a destructor.
    """
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    write_atomically(path, lambda file: file.write(buffer.getbuffer()))


def load_tensors(path: Path, device: torch.device | str) -> Any:
    """torch.load of tensors and plain values, and of nothing that runs. Raises whatever a damaged file raises."""
    refuse_bomb(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of pickles of other versions: they are read, or told of
        return torch.load(path, map_location=device, weights_only=True)


def read_tensors(path: Path, device: torch.device | str) -> dict[str, Any]:
    """A dict in a file that torch.save wrote, tensors and plain values only: nothing in it is executed.

    Raises UserError for anything else, for a damaged file, and for one that unpacks to far more than it is.
    """
    try:
        found = load_tensors(path, device)
        if not isinstance(found, Mapping):
            raise TypeError(f"it holds a {type(found).__name__}")
        return dict(found)
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001  (a damaged file raises anything from EOFError to UnpicklingError)
        raise UserError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}): remove it, or restore it"
        ) from None


def _line(record: Record) -> bytes:
    return json.dumps(record).encode() + b"\n"


def _difference(old: Record, new: Record) -> str:
    key = next(key for key in [*new, *old] if old.get(key) != new.get(key))
    return f"its {key} is {old.get(key)}, not {new.get(key)}"
