"""The pictures that a round asked for, from its record: ids are positions in the pool that the trial had.

Which pool that was is the experiment's own: whole, evenly thinned, or a split of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dan.data.paths import cache_folder, data_folder


class Picture(NamedTuple):
    """pixels: (H, W) or (H, W, 3) in [0, 1], as the network's input but for its normalisation. name: of its class."""

    pixels: Any
    name: str


def of_demo(_record: Mapping[str, Any], _data: Path | None) -> Any:
    """The pool of a trial of the demo."""
    from dan.data.tasks import load_pair
    from experiments.demo import TASK

    return load_pair(TASK)


def of_digits(record: Mapping[str, Any], data: Path | None) -> Any:
    """The pool of a trial of clue_digits."""
    from experiments.digits.trial import SET, DigitsData

    place = DigitsData(str(data_folder(data)), str(cache_folder(None)), int(record["samples"]))
    return place.task(str(record["task"]).removeprefix(SET))


def of_arena(record: Mapping[str, Any], data: Path | None) -> Any:
    """The pool of a trial of the arena: its target without the test split of the seed."""
    from experiments.jobs.arena import DigitsData, sides_of

    kept: dict[str, Any] = {name: int(record[name]) for name in ("image_size", "samples") if name in record}
    place = DigitsData(str(data_folder(data)), str(cache_folder(None)), **kept)
    return sides_of(place, str(record["task"]), int(record["seed"])).transfer


POOLS: dict[str, Callable[[Mapping[str, Any], Path | None], Any]] = {
    "demo": of_demo,
    "clue_digits": of_digits,
    "arena": of_arena,
    "ablations": of_arena,
    "active_adaptation": of_arena,
}


def asked_pictures(record: Mapping[str, Any], data: Path | None = None) -> list[Picture]:
    """What the record's round asked for, in pick order; [] for a round, or an experiment, that asked for nothing.

    data: folder of data sets. Raises UserError where the data of the experiment are not there.
    """
    asked: Sequence[int] = record.get("queried") or []
    if not asked or record["experiment"] not in POOLS:
        return []
    import torch

    from dan.data.batches import fetch

    task = POOLS[record["experiment"]](record, data)
    images, labels = fetch(task.target, torch.tensor(asked))
    low, high = images.amin(dim=(1, 2, 3), keepdim=True), images.amax(dim=(1, 2, 3), keepdim=True)
    grey = ((images - low) / (high - low).clamp_min(1e-8)).permute(0, 2, 3, 1)
    return [
        Picture((pixels[..., 0] if pixels.shape[-1] == 1 else pixels).numpy(), task.classes[int(label)])
        for pixels, label in zip(grey, labels, strict=True)
    ]
