"""A run whose samples are labelled by annotators: its logs, its task, and its networks.

In RUN: asked.jsonl (requests), labels.jsonl (answers), both append-only, and labelled_01, labelled_02, ...: a network
each, trained on from the one before. RUN's own network stays as it is. Which one counts: `dan.run_networks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dan.data.domain_pair import DomainPair
from dan.data.paths import default_data
from dan.devices import choose_device
from dan.errors import UserError
from dan.models.dan import DAN
from dan.models.model_file import load_model
from dan.run_dir import Record
from dan.run_location import DataLocation
from dan.run_metadata import load_run_config, required
from dan.run_networks import LABELS, current_network
from dan.run_task import load_run_task

__all__ = [
    "LABELS", "REQUESTS", "current_network", "load_classified_run", "load_network", "reload_run_task", "utc_now",
]  # fmt: skip

REQUESTS = "asked.jsonl"


def utc_now() -> str:
    """The time, as the logs keep it: ISO 8601, UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def load_classified_run(run: Path) -> tuple[Record, list[str]]:
    """(what a run says of its task, the names of its classes). Raises UserError for what is no run of a task."""
    settings = load_run_config(run)
    required(settings, "kind", run)
    if "people" in settings:
        raise UserError(f"{run} is a network that labels have trained on: name the run that it lies in, {run.parent}")
    return settings, list(required(settings, "classes", run))


def load_network(network: Path, classes: Sequence[str], device: str) -> DAN:
    """The network in a folder. Raises UserError where it has another number of classes."""
    model = load_model(network, choose_device(device))
    if len(classes) != model.settings["num_classes"]:
        raise UserError(
            f"{network} names {len(classes)} classes, and its network tells {model.settings['num_classes']} apart: "
            "its files are of two runs"
        )
    return model


def reload_run_task(
    settings: Mapping[str, Any],
    run: Path,
    data: Path | None,
    cache: Path | None,
    quiet: bool,
    location: DataLocation | None = None,
) -> DomainPair:
    """The run's own transfer, with its random views if it had any.

    location: where its data lie now, if they were moved. Raises UserError for a run without its source, data that are
    not there, other contents, and data of other classes.
    """
    if "source_free" in settings:
        raise UserError(f"{run} was trained without its source (--source-free): a selection needs a run that has one")
    try:
        task: DomainPair = load_run_task(
            settings,
            run,
            default_data() if data is None else data,
            cache,
            quiet=quiet,
            location=location,
            augment=True,
        )
    except UserError as error:
        raise UserError(f"the task that {run} was trained on cannot be read again: {error}") from None
    return task
