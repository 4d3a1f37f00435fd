"""Which network of a run counts: the one that every command uses unless it is told to use another.

In RUN: model.pt, the run's own network; labelled_01, labelled_02, ...: a run folder each, trained on from the one
before with labels that came later; labels.jsonl: those labels, by batches, of which some may have been reverted.

    current network = the newest finished labelled_NN all of whose batches of labels still count;  RUN's own if none
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dan.errors import UserError, nearest
from dan.run_dir import read_records

LABELS = "labels.jsonl"
_PREFIX = "labelled_"
CURRENT, FIRST = "current", "first"


def counted_batches(events: Iterable[tuple[str, int]]) -> list[int]:
    """The batches that count, in their order, of a log's (event, batch), where event is "label" or "undo"."""
    batches: dict[int, None] = {}
    undone = set()
    for event, batch in events:
        if event == "undo":
            undone.add(batch)
        else:
            batches.setdefault(batch)
    return [batch for batch in batches if batch not in undone]


def networks_in(run: Path) -> list[Path]:
    """The folders labelled_NN that hold records, oldest first."""
    folders = [path for path in run.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdecimal()]
    return sorted((f for f in folders if read_records(f / "records.jsonl")), key=network_number)


def network_number(network: Path) -> int:
    """NN of a folder labelled_NN."""
    return int(network.name.removeprefix(_PREFIX))


def network_labels(network: Path) -> Mapping[str, Any]:
    """What labels a network was trained on: "batches", "rule", and a digest of the "answers"; {} for a run's own."""
    records = read_records(network / "records.jsonl")
    return dict(records[0].get("people") or {}) if records else {}


def current_network(run: Path) -> Path:
    """The folder of the run's current network: see the top of this module. Raises UserError for a damaged log."""
    folders = networks_in(run)
    if not folders:
        return run
    counted = set(_counted(run / LABELS))
    for folder in reversed(folders):
        if _finished(folder) and counted.issuperset(network_labels(folder).get("batches", [])):
            return folder
    return run


def chosen_network(run: Path, network: str = CURRENT) -> Path:
    """The folder of the network that a command is to use.

    network: "current"; "first", the run's own, from before any labels; or labelled_NN, by name or as a folder of the
    run. A run that is itself such a folder has one network. Raises UserError for any other, with those there are.
    """
    if network == CURRENT:
        return current_network(run)
    if network == FIRST:
        return run
    finished = {folder.name: folder for folder in networks_in(run) if _finished(folder)}
    name = Path(network).name
    if name not in finished or (len(Path(network).parts) > 1 and Path(network).resolve() != finished[name].resolve()):
        known = [FIRST, *finished]
        raise UserError(f'{run} has no network "{network}"{nearest(name, known)}: its networks are {", ".join(known)}')
    return finished[name]


def _finished(folder: Path) -> bool:
    return read_records(folder / "records.jsonl")[-1].get("event") == "done" and (folder / "model.pt").is_file()


def _counted(log: Path) -> list[int]:
    try:
        return counted_batches((str(record["event"]), int(record["batch"])) for record in read_records(log))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UserError(f"{log} has a line that is no line of a label log: restore the file") from None
