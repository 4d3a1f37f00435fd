"""The images that a round queried, from its record: ids are positions in the pool that the trial had.

Which pool that was depends on the experiment: whole, evenly thinned, or a split of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dan.data.paths import cache_folder, data_folder


class QueriedImage(NamedTuple):
    """pixels: (H, W) or (H, W, 3) in [0, 1], the network's input without its normalisation. name: of its class."""

    pixels: Any
    name: str


def demo_pair(_record: Mapping[str, Any], _data: Path | None) -> Any:
    """The domain pair of a trial of the demo."""
    from dan.data.tasks import load_pair
    from experiments.demo import TASK

    return load_pair(TASK)


def digits_pair(record: Mapping[str, Any], data: Path | None) -> Any:
    """The domain pair of a trial of clue_digits."""
    from experiments.digits.trial import SET, DigitsData

    place = DigitsData(str(data_folder(data)), str(cache_folder(None)), int(record["samples"]))
    return place.task(str(record["task"]).removeprefix(SET))


def arena_pair(record: Mapping[str, Any], data: Path | None) -> Any:
    """The domain pair of a trial of the arena: its target is without the test split of the seed."""
    from experiments.arena.data import Place, sides_of

    sizes: dict[str, Any] = {name: int(record[name]) for name in ("image_size", "samples") if name in record}
    place = Place(str(data_folder(data)), str(cache_folder(None)), **sizes)
    return sides_of(place, str(record["task"]), int(record["seed"])).transfer


PAIRS: dict[str, Callable[[Mapping[str, Any], Path | None], Any]] = {
    "demo": demo_pair,
    "clue_digits": digits_pair,
    **dict.fromkeys(("arena", "ablations", "active_adaptation"), arena_pair),
}


def queried_images(record: Mapping[str, Any], data: Path | None = None) -> list[QueriedImage]:
    """What the record's round queried, in pick order; [] for a round, or an experiment, without queries of images.

    data: folder of data sets. Raises UserError where the data of the experiment are not there.
    """
    if not record.get("queried") or record["experiment"] not in PAIRS:
        return []
    import torch

    from dan.data.batches import fetch

    pair = PAIRS[record["experiment"]](record, data)
    images, labels = fetch(pair.target, torch.tensor(record["queried"]))
    low, high = images.amin(dim=(1, 2, 3), keepdim=True), images.amax(dim=(1, 2, 3), keepdim=True)
    scaled = ((images - low) / (high - low).clamp_min(1e-8)).permute(0, 2, 3, 1)
    shown = [pixels[..., 0] if pixels.shape[-1] == 1 else pixels for pixels in scaled]
    return [QueriedImage(x.numpy(), pair.classes[int(y)]) for x, y in zip(shown, labels, strict=True)]
