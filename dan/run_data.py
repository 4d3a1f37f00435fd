"""RUN/data.json: what a run's samples were, so that they are known again where they lie now, and described where the
caller of fit() did not.

    {"kind", "shape", "classes", "named", "normalisation", "class_counts",
     "source": {"type", "samples", "fingerprint"}, "target": {...}}

The first six are as in `dan.run_metadata`; named: whether `classes` are names, and not numbers for want of them.
fingerprint: of the content, as `dan.feature_cache.fingerprint` gives it, or null.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from dan.data.batches import fetch, num_samples
from dan.errors import UserError
from dan.feature_cache import fingerprint, stages_run
from dan.run_dir import read_records, write_atomically

FILE = "data.json"
_DESCRIPTION = ("kind", "shape", "classes", "normalisation", "class_counts")


def describe_data(source: Dataset[Any], target: Dataset[Any], num_classes: int) -> dict[str, Any]:
    """What data.json holds of these two data sets. One source sample is fetched; labels are read where they lie in one
    tensor, so that no data set of the caller's is walked through."""
    names = tuple(getattr(source, "classes", None) or ())
    named = len(names) == num_classes
    description: dict[str, Any] = {
        "classes": [str(name) for name in names] if named else [str(number) for number in range(num_classes)],
        "named": named,
        "normalisation": getattr(source, "normalisation", None),
        "source": _side(source),
        "target": _side(target),
    }
    if not stages_run(source):  # outputs of the first stages have another shape than the samples
        with torch.random.fork_rng(devices=[]):
            shape = list(fetch(source, torch.tensor([0]))[0].shape[1:])
        description |= {"shape": shape, "kind": "vector" if len(shape) == 1 else "image"}
    labels = source.tensors[1] if isinstance(source, TensorDataset) else getattr(source, "targets", None)
    if labels is not None and len(labels := torch.as_tensor(labels)) == num_samples(source) and int(labels.min()) >= 0:
        description["class_counts"] = torch.bincount(labels.long().cpu(), minlength=num_classes).tolist()
    return description


def _side(data: Dataset[Any]) -> dict[str, Any]:
    whole = data
    while isinstance(whole, Subset):
        whole = whole.dataset
    return {"type": type(whole).__name__, "samples": num_samples(data), "fingerprint": fingerprint(data)}


def write_data_record(run: Path, description: Mapping[str, Any]) -> None:
    """Keep the description in the run's folder, unless there is one. Raises OSError where it cannot be written."""
    if not (run / FILE).exists():
        content = json.dumps(dict(description)).encode() + b"\n"
        write_atomically(run / FILE, lambda file: file.write(content))


def read_data_record(run: Path) -> dict[str, Any]:
    """The description that the run keeps; {} where it keeps none. Raises UserError for a damaged file."""
    path = run / FILE
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}): restore it, or remove it") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is no description of a run's data: restore it, or remove it")
    return found


def completed(settings: Mapping[str, Any], run: Path) -> dict[str, Any]:
    """The settings of a run with what data.json says of its samples, where the run itself says nothing of them: fit()
    was called without `metadata`."""
    if "task" in settings or "kind" in settings:
        return dict(settings)
    kept = read_data_record(run)
    return {**{name: kept[name] for name in _DESCRIPTION if name in kept}, **settings}


def settings_of_same_data(run: Path, settings: Mapping[str, Any], description: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings with the places of source and target that the run has on record, where the data have only moved: all
    other options are the same, and so are the contents. Else the settings as they are."""
    records = read_records(run / "records.jsonl")
    before, now = (dict(of.get("options") or {}) for of in (records[0] if records else {}, settings))
    if not before or set(before) != set(now):
        return settings
    differing = {name for name in now if json.loads(json.dumps(now[name])) != before[name]}
    if not differing or not differing <= {"source", "target"}:
        return settings
    kept = read_data_record(run)
    same = all(_same(kept.get(side), description[side]) for side in ("source", "target"))
    return {**settings, "options": before} if same else settings


def refuse_other_data(run: Path, **sides: Dataset[Any]) -> list[str]:
    """Compare data sets (source=, target=) with those that the run was trained on, by content; what could not be
    compared, a line each. Raises UserError, which names the side, where they are others."""
    kept = read_data_record(run)
    notes = []
    for side, data in sides.items():
        before, now = kept.get(side), _side(data)
        if not isinstance(before, Mapping) or not before.get("fingerprint") or before.get("type") != now["type"]:
            count = before.get("samples") if isinstance(before, Mapping) else None
            if count not in (None, now["samples"]):
                raise UserError(
                    f"the {side} has {now['samples']} samples, and {run} was trained on {count}: name the same data"
                )
            notes.append(f"{run} keeps no fingerprint that the {side} could be compared with: it is taken as it is")
        elif not _same(before, now):
            raise UserError(
                f"the {side} is not the one that {run} was trained on ({now['samples']} samples, then "
                f"{before.get('samples')}; other contents): name the same data, wherever they lie now"
            )
    return notes


def _same(before: Any, now: Mapping[str, Any]) -> bool:
    return isinstance(before, Mapping) and bool(now["fingerprint"]) and dict(before) == dict(now)
