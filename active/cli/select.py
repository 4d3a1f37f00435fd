"""python -m active select: choose the samples to label next, and write annotation tasks and a gallery."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dan.errors import UserError, printable
from dan.run_location import DataLocation


@dataclass(frozen=True, kw_only=True)
class Select(DataLocation):
    """Choose the samples of a folder to label next, with a network of a run, and write annotation tasks."""

    run: Path
    """Run directory of a finished `python -m dan train`."""
    pool: Path
    """Folder of images (searched recursively), CSV manifest (path,label), or feature file."""
    out: Path
    """File for the tasks: .csv, to fill in; or .json for Label Studio, with an .xml for its labelling interface."""
    budget: str = "20"
    """Number of samples to query, or a percentage of the pool, as 5%."""
    strategy: str = "margin"
    """Acquisition strategy: a name that `python -m active strategies` lists, module:function, or NAME@SHARE."""
    gallery: Path | None = None
    """Write a page with the images to this HTML file; it needs no network."""
    include_pending: bool = False
    """Allow samples that were queried before and are pending, skipped or contradicted."""
    skip_unreadable: bool = False
    """Leave out images that cannot be read, and list them on stderr."""
    network: str = "current"
    """Network of the run: current (the newest that was finetuned with labels), first (the run's own), or
    labelled_NN."""
    thumbnail: int = 320
    """Longer side of the images in the gallery and in a .json, in pixels."""
    seed: int = 0
    """Seed of the random draws of a strategy, together with the number of earlier batches."""
    data: Path | None = None
    """Folder of data sets, for tasks that read any. Default: ACTIVE_DAN_DATA, or the user's cache folder."""
    image_cache: Path | None = None
    """Folder for decoded images. Default: in the user's cache folder."""
    cache_backbone: bool = False
    """Keep the outputs of the frozen first stages on disk: the next selection from this folder takes seconds."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to compute on."""
    quiet: bool = False
    """Print no progress bar and no summary."""


def select(config: Select) -> None:
    """Write the tasks, and print a summary and the next command."""
    from active.annotation.request_options import RunAccess, SampleChoice, TaskFiles
    from active.annotation.requests import create_tasks
    from dan.data.paths import cache_folder, data_folder

    if not 16 <= config.thumbnail <= 4096:
        raise UserError(f"--thumbnail must be 16 to 4096 pixels, not {config.thumbnail}")
    cache = cache_folder(config.image_cache)
    choice = SampleChoice(
        budget=config.budget,
        strategy=config.strategy,
        include_pending=config.include_pending,
        skip_unreadable=config.skip_unreadable,
        seed=config.seed,
    )
    files = TaskFiles(out=config.out, page=config.gallery, thumbnail_side=config.thumbnail)
    access = RunAccess(
        network=config.network,
        data=data_folder(config.data),
        location=config,
        cache=cache,
        cache_backbone=cache.with_name("backbones") if config.cache_backbone else False,
        device=config.device,
        quiet=config.quiet,
    )
    chosen = create_tasks(config.run, config.pool, choice, files, access)
    for note in chosen.notes:
        print(printable(note), file=sys.stderr)
    if config.quiet:
        return
    print(f"queried {len(chosen.tasks)} samples with {config.strategy}, by the network {chosen.network}")
    for file in chosen.files:
        print(f"wrote {file}")
    if config.out.suffix.lower() == ".json":
        interface = config.out.with_suffix(".xml")
        print(f"Label Studio: paste {interface} as the labelling interface, import {config.out}, export as JSON; then")
        labels = "export.json"
    else:
        print("fill in the column label, one class a row; then")
        labels = str(config.out)
    print(shlex.join(["python", "-m", "active", "label", "--run", str(config.run), "--labels", labels]))
