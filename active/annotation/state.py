"""A run that people label for: its logs, its task, and which of its networks counts.

In RUN: asked.jsonl (what went out), labels.jsonl (what came back), both append-only, and labelled_01, labelled_02, ...:
a network each, trained on from the one before. RUN's own network stays as it is. The current network is the newest
finished one all of whose labels still count: after an undo, the one before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from active.annotation.label_log import LabelLog
from dan.data.domain_pair import DomainPair
from dan.data.paths import default_data
from dan.data.tasks import load_pair
from dan.devices import choose_device
from dan.errors import UserError
from dan.models.dan import DAN
from dan.models.model_file import load_model
from dan.run_dir import Record, read_records
from dan.run_metadata import load_run_config, required

ASKED, LABELS = "asked.jsonl", "labels.jsonl"


def now() -> str:
    """The time, as the logs keep it: ISO 8601, UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def settings_and_classes(run: Path) -> tuple[Record, list[str]]:
    """What a run says of its task, and the names of its classes. Raises UserError for what is no run of a task."""
    settings = load_run_config(run)
    required(settings, "kind", run)
    if "people" in settings:
        raise UserError(f"{run} is a network that labels have trained on: name the run that it lies in, {run.parent}")
    return settings, list(required(settings, "classes", run))


def current_network(run: Path) -> Path:
    """The folder of the newest finished network of the run all of whose labels still count; the run itself if none."""
    counted = set(LabelLog(run / LABELS).batches)
    for folder in reversed(networks_in(run)):
        finished = read_records(folder / "records.jsonl")[-1].get("event") == "done" and (folder / "model.pt").is_file()
        if finished and counted.issuperset(learned_by(folder).get("batches", [])):
            return folder
    return run


def networks_in(run: Path) -> list[Path]:
    """The folders labelled_NN that hold records, oldest first."""
    folders = [path for path in run.glob("labelled_*") if path.name[9:].isdecimal()]
    return sorted((f for f in folders if read_records(f / "records.jsonl")), key=lambda path: int(path.name[9:]))


def learned_by(network: Path) -> Mapping[str, Any]:
    """What labels a network has learned: "batches", "rule", and a digest of the "answers"; {} for a run's own."""
    return read_records(network / "records.jsonl")[0].get("people", {})


def network_of(network: Path, classes: Sequence[str], device: str) -> DAN:
    """The network in a folder. Raises UserError where it tells other classes apart."""
    model = load_model(network, choose_device(device))
    if len(classes) != model.settings["num_classes"]:
        raise UserError(
            f"{network} names {len(classes)} classes, and its network tells {model.settings['num_classes']} apart: "
            "its files are of two runs"
        )
    return model


def load_run_task_again(
    settings: Mapping[str, Any], run: Path, data: Path | None, cache: Path | None, quiet: bool
) -> DomainPair:
    """The run's own transfer, with its random views if it had any.

    Raises UserError for a run without its source, data that are not there, and data of other classes.
    """
    if "source_free" in settings:
        raise UserError(f"{run} was trained without its source (--source-free): asking needs a run that has one")
    name = required(settings, "task", run)
    try:
        task = load_pair(
            name, default_data() if data is None else data, **settings.get("options", {}), cache=cache, quiet=quiet
        )
    except UserError as error:
        raise UserError(f"the task that {run} was trained on cannot be read again: {error}") from None
    if list(task.classes) != list(settings["classes"]):
        raise UserError(
            f"the classes of {name} are not those that {run} was trained on: restore its data, or train again"
        )
    return task
