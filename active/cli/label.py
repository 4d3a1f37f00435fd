"""python -m active label: take people's labels back, report what is wrong with them, and train on."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dan.errors import UserError, printable
from dan.run_task import DataLocation


@dataclass(frozen=True, kw_only=True)
class LabelCommand(DataLocation):
    """Take people's labels back, and train the run's newest network on with all that count."""

    run: Path
    """Folder of the run that `python -m active select` chose with."""
    labels: Path | None = None
    """The tasks, filled in (.csv), or Label Studio's export (.json). Left out: train on with what is in the log."""
    partial: bool = False
    """Take the rows that are valid, though others are not."""
    aggregate: Literal["majority", "last", "refuse"] = "majority"
    """How several people's answers about one sample become one: the most frequent, the latest, or only a unanimous."""
    annotator: str | None = None
    """Who labelled, for rows that do not say; default: the name of the user who runs this."""
    undo: bool = False
    """Take the latest batch of labels back, and return to the network before it."""
    steps: int = 150
    """Training steps; 0 takes the labels and trains nothing."""
    pool: Path | None = None
    """Where the labelled samples lie now, if they were moved."""
    data: Path | None = None
    """Folder of data sets, where the run's task reads any (also: ACTIVE_DAN_DATA)."""
    image_cache: Path | None = None
    """Folder that decoded images are kept in; default: in the user's cache folder."""
    cache_backbone: Literal["as-trained", "yes", "no"] = "as-trained"
    """Compute the frozen first stages once, keep their outputs on the disk, and train on them: many times faster.
    as-trained: where the run was trained with --cache-backbone."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    quiet: bool = False
    """No progress bar, no summary; what is wrong with the labels is told."""


def label(config: LabelCommand) -> None:
    """Labels into the log, then the network; each problem is a line on stderr."""
    from active.annotation.imports import revert_batch

    if config.steps < 0:
        raise UserError(f"--steps must be 0 or more, not {config.steps}")
    if config.undo:
        if config.labels is not None or config.partial:
            raise UserError("--undo takes the latest labels back, and takes none: leave out --labels and --partial")
        batch, labels, network = revert_batch(config.run)
        if not config.quiet:
            print(f"taken back: batch {batch}, {len(labels)} labels; the log keeps them, and they no longer count")
            print(f"network: {network}")
        return
    if config.labels is None and config.partial:
        raise UserError("--partial is of --labels: give both, or neither")
    if config.labels is not None:
        _import(config, config.labels)
    if config.steps:
        _train(config)


def _import(config: LabelCommand, labels: Path) -> None:
    from active.annotation.imports import ImportRefused, import_labels

    try:
        taken = import_labels(config.run, labels, annotator=config.annotator or _user(), partial=config.partial)
    except ImportRefused as refused:
        for problem in refused.problems:
            print(printable(problem), file=sys.stderr)
        raise
    for line in [*taken.problems, *taken.notes]:
        print(printable(line), file=sys.stderr)
    if not config.quiet:
        new = f"{len(taken.labels)} labels taken from {labels}, as batch {taken.batch}"
        print(new if taken.batch else f"nothing new in {labels}")


def _train(config: LabelCommand) -> None:
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
            f"agreement: {result.shared} samples were labelled by several people, Krippendorff's alpha "
            f"{result.alpha:.3f} (1: all agree, 0: chance)"
        )
    if result.record is None:
        print(f"network: {result.network} was trained on these {result.labels} labels already")
    else:
        for name, value in result.record.items():
            if name.startswith("accuracy/"):
                print(f"{name.removeprefix('accuracy/'):<12} {100 * value:6.2f} % accuracy")
        print(f"network: {result.network}, trained on with {result.labels} labels")
    run = shlex.quote(str(config.run))
    print(f"its predictions: python -m dan predict {run} FOLDER")
    print(f"the next tasks: python -m active select --run {run} --pool FOLDER --out FILE")


def _user() -> str:
    """Who runs this, as far as the system knows."""
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "somebody"
