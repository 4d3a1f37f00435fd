"""python -m active select: choose what people are to label, and write the tasks and a gallery."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dan.errors import UserError, printable
from dan.run_task import DataLocation


@dataclass(frozen=True, kw_only=True)
class Select(DataLocation):
    """Choose samples of a folder for people to label, by a trained run's newest network, and write the tasks."""

    run: Path
    """Folder of a finished `python -m dan train` run."""
    pool: Path
    """Folder of images, however deep they lie; a CSV manifest (path,label); or a file of features."""
    out: Path
    """The tasks: .csv, to be filled in; or .json for Label Studio, with its labelling interface (.xml) beside it."""
    budget: str = "20"
    """How many samples to ask for: a number, or a share of the pool, as 5%."""
    strategy: str = "margin"
    """Which: a name that `python -m active strategies` lists, module:function, or NAME@SHARE."""
    gallery: Path | None = None
    """Write a page with the pictures, too: one HTML file that needs no network."""
    include_pending: bool = False
    """What is still out with people, or was skipped or contradicted, may be asked for once more."""
    skip_unreadable: bool = False
    """Leave out images that cannot be read, and list them on stderr."""
    network: str = "current"
    """Which of the run's networks: current, the newest that labels have trained; first, the run's own; or
    labelled_NN."""
    thumbnail: int = 320
    """Pixels of the longer side of the pictures in the gallery and in a .json."""
    seed: int = 0
    """Decides, with the number of batches before, what a strategy draws at random."""
    data: Path | None = None
    """Folder of data sets, where the run's task reads any (also: ACTIVE_DAN_DATA)."""
    image_cache: Path | None = None
    """Folder that decoded images are kept in; default: in the user's cache folder."""
    cache_backbone: bool = False
    """Keep the outputs of the frozen first stages on the disk: the next selection from this folder takes seconds."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    quiet: bool = False
    """No progress bar, no summary."""


def select(config: Select) -> None:
    """Write the tasks, and say in a few lines what was asked and what comes next."""
    from active.annotation.requests import create_tasks
    from dan.data.paths import cache_folder, data_folder

    if not 16 <= config.thumbnail <= 4096:
        raise UserError(f"--thumbnail must be 16 to 4096 pixels, not {config.thumbnail}")
    cache = cache_folder(config.image_cache)
    chosen = create_tasks(
        config.run,
        config.pool,
        budget=config.budget,
        out=config.out,
        strategy=config.strategy,
        page=config.gallery,
        include_pending=config.include_pending,
        skip_unreadable=config.skip_unreadable,
        network=config.network,
        seed=config.seed,
        thumbnail_side=config.thumbnail,
        data=data_folder(config.data),
        location=config,
        cache=cache,
        cache_backbone=cache.with_name("backbones") if config.cache_backbone else False,
        device=config.device,
        quiet=config.quiet,
    )
    for note in chosen.notes:
        print(printable(note), file=sys.stderr)
    if config.quiet:
        return
    print(f"asked for {len(chosen.tasks)} samples by {config.strategy}, with the network {chosen.network}")
    for file in chosen.files:
        print(f"wrote {file}")
    if config.out.suffix.lower() == ".json":
        interface = config.out.with_suffix(".xml")
        print(f"Label Studio: paste {interface} as the labelling interface, import {config.out}, export as JSON; then")
        back = "export.json"
    else:
        print("fill in the column label, one class a row; then")
        back = str(config.out)
    print(shlex.join(["python", "-m", "active", "label", "--run", str(config.run), "--labels", back]))
