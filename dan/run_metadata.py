"""What a run says of its own task in its first record, so that its network can be used without training's code.

task, options   what `load_pair(task, data, **options)` needs to give the transfer again
kind            "image" or "vector"
classes         their names, in the order of the logits
shape           of one sample: [channels, height, width] or [features]
normalisation   a name of `dan.data.tensor_datasets.NORMALISATIONS`, or null
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from dan.errors import UserError
from dan.run_data import completed
from dan.run_dir import Record, read_records
from dan.training.config import TrainConfig


def run_metadata(task: Any) -> dict[str, Any]:
    """These of a `dan.data.domain_pair.DomainPair`, as JSON keeps them.

    `fit(..., run=RUN, metadata=run_metadata(task))` leaves a run that every command takes.
    """
    import torch

    from dan.data.batches import fetch, labels_of

    sample = fetch(task.source, torch.tensor([0]))[0]
    return {
        "task": task.name,
        "options": dict(task.options),
        "kind": task.kind,
        "classes": list(task.classes),
        "shape": list(sample.shape[1:]),
        "normalisation": task.normalisation,
        "class_counts": torch.bincount(labels_of(task.source), minlength=len(task.classes)).tolist(),
    }


def load_run_config(run: Path) -> Record:
    """The first record of a run, with what data.json knows of its samples where the record says nothing of them.

    Raises UserError where there is none.
    """
    if not run.is_dir():
        raise UserError(f"{run} does not exist: name the folder of a finished run")
    records = read_records(run / "records.jsonl")
    if not records or records[0].get("event") != "settings":
        raise UserError(f"{run}/records.jsonl has no line of settings: name the folder of a finished run")
    return completed(records[0], run)


def required(settings: Mapping[str, Any], name: str, run: Path) -> Any:
    """One of the settings. Raises UserError for a run that does not keep it."""
    if name not in settings:
        raise UserError(
            f'{run}/records.jsonl does not say "{name}" of its task: name a folder that python -m dan train made, '
            "or give fit() metadata=run_metadata(task)"
        )
    return settings[name]


def load_train_config(settings: Mapping[str, Any]) -> TrainConfig:
    """The recipe that a run was trained with."""
    known = {entry.name for entry in fields(TrainConfig)}
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in settings.items() if name in known
    }
    return TrainConfig(**values)


def cached_backbone(
    settings: Mapping[str, Any], chosen: Path | str | bool | None, images: Path | None
) -> Path | str | bool:
    """The `cache` of `dan.training.fit`: what was chosen; for None what a run of these settings had, in the folder
    beside that of decoded images, or in memory where no such folder is named."""
    if chosen is not None:
        return chosen
    if not settings.get("cache_backbone"):
        return False
    return True if images is None else images.with_name("backbones")
