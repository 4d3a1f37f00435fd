"""python -m active label: import labels, report what is wrong with them, and finetune the network."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dan.errors import UserError, printable
from dan.run_location import DataLocation


@dataclass(frozen=True, kw_only=True)
class LabelCommand(DataLocation):
    """Import labels, and finetune the run's newest network with all valid ones."""

    run: Path
    """Run directory that `python -m active select` was given."""
    labels: Path | None = None
    """The filled-in tasks (.csv), or Label Studio's export (.json). Default: finetune with the labels in the log."""
    partial: bool = False
    """Import the valid rows even if others are not."""
    aggregate: Literal["majority", "last", "refuse"] = "majority"
    """How several labels of one sample become one: the most frequent, the latest, or only a unanimous one."""
    annotator: str | None = None
    """Annotator of rows that name none. Default: the name of the current user."""
    undo: bool = False
    """Revert the latest batch of labels, and return to the network before it."""
    steps: int = 150
    """Training steps; 0 imports the labels without training."""
    pool: Path | None = None
    """Where the labelled samples are now, if they were moved."""
    data: Path | None = None
    """Folder of data sets, for tasks that read any. Default: ACTIVE_DAN_DATA, or the user's cache folder."""
    image_cache: Path | None = None
    """Folder for decoded images. Default: in the user's cache folder."""
    cache_backbone: Literal["as-trained", "yes", "no"] = "as-trained"
    """Compute the outputs of the frozen first stages once, keep them on disk, and train on them: many times faster.
    as-trained: if the run was trained with --cache-backbone."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to compute on."""
    quiet: bool = False
    """Print no progress bar and no summary; errors in the labels are printed."""


def label(config: LabelCommand) -> None:
    """Import the labels into the log, then finetune; each problem is a line on stderr."""
    from active.annotation.imports import revert_batch

    if config.steps < 0:
        raise UserError(f"--steps must be 0 or more, not {config.steps}")
    if config.undo:
        if config.labels is not None or config.partial:
            raise UserError("--undo reverts the latest labels and imports none: leave out --labels and --partial")
        batch, labels, network = revert_batch(config.run)
        if not config.quiet:
            print(f"reverted: batch {batch}, {len(labels)} labels; they stay in the log and no longer count")
            print(f"network: {network}")
        return
    if config.labels is None and config.partial:
        raise UserError("--partial requires --labels")
    if config.labels is not None:
        _import(config, config.labels)
    if config.steps:
        _finetune(config)


def _import(config: LabelCommand, labels: Path) -> None:
    from active.annotation.imports import ImportRefused, import_labels

    annotator = config.annotator or current_user()
    try:
        imported = import_labels(config.run, labels, annotator=annotator, partial=config.partial)
    except ImportRefused as refused:
        for problem in refused.problems:
            print(printable(problem), file=sys.stderr)
        raise
    for line in [*imported.problems, *imported.notes]:
        print(printable(line), file=sys.stderr)
    if not config.quiet:
        new = f"imported {len(imported.labels)} labels from {labels}, as batch {imported.batch}"
        print(new if imported.batch else f"nothing new in {labels}")


def _finetune(config: LabelCommand) -> None:
    from active.annotation.imports import finetune
    from dan.data.paths import cache_folder, data_folder

    cache = cache_folder(config.image_cache)
    kept: dict[str, Path | bool] = {"yes": cache.with_name("backbones"), "no": False}
    result = finetune(
        config.run,
        rule=config.aggregate,
        steps=config.steps,
        pool=config.pool,
        data=data_folder(config.data),
        location=config,
        cache=cache,
        cache_backbone=kept.get(config.cache_backbone),
        device=config.device,
        quiet=config.quiet,
    )
    for line in result.missing:
        print(printable(line), file=sys.stderr)
    for line in result.unsettled:
        print(printable(f"{line} (--aggregate {config.aggregate})"), file=sys.stderr)
    if config.quiet:
        return
    if result.shared:
        print(
            f"agreement: {result.shared} samples have several annotators, Krippendorff's alpha {result.alpha:.3f} "
            "(1: all agree, 0: chance)"
        )
    if result.record is None:
        print(f"network: {result.network} was trained on these {result.labels} labels already")
    else:
        for name, value in result.record.items():
            if name.startswith("accuracy/"):
                print(f"{name.removeprefix('accuracy/'):<12} {100 * value:6.2f} % accuracy")
        print(f"network: {result.network}, finetuned with {result.labels} labels")
    run = shlex.quote(str(config.run))
    print(f"its predictions: python -m dan predict {run} FOLDER")
    print(f"the next tasks: python -m active select --run {run} --pool FOLDER --out FILE")


def current_user() -> str:
    """The current user's name, as far as the system knows."""
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"
