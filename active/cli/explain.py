"""python -m active explain RUN ROUND: replay what a simulated round asked for, and show every pick."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from dan.errors import UserError
from dan.run_task import DataLocation

if TYPE_CHECKING:
    from active.replay import Replay

DIFFERS = 1  # exit code of a replay that does not pick what is on record


@dataclass(frozen=True, kw_only=True)
class Explain(DataLocation):
    """Replay what a round of `python -m active run` asked for, and show every pick. Exit code 1: it picks otherwise."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the rounds."""
    round: Annotated[int, tyro.conf.Positional, tyro.conf.arg(metavar="ROUND")]
    """Which round, from 0."""
    out: Path | None = None
    """Write a page with the pictures: one HTML file that needs no network."""
    start: Path | None = None
    """The run that the rounds started from, where it lies neither in RUN nor beside it."""
    thumbnail: int = 320
    """Pixels of the longer side of the pictures in the page."""
    data: Path | None = None
    """Folder of data sets, where the run's task reads any (also: ACTIVE_DAN_DATA)."""
    image_cache: Path | None = None
    """Folder that decoded images are kept in; default: in the user's cache folder."""
    cache_backbone: Literal["as-run", "yes", "no"] = "as-run"
    """Use the kept outputs of the frozen first stages; as-run: where the rounds were run with --cache-backbone."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute: another device than the run's may round otherwise, and so pick otherwise."""
    quiet: bool = False
    """No progress bar, no table."""


def explain(config: Explain) -> int:
    """Print a line a pick, write the page, and say whether the replay picks what is on record; 0 if so, else 1."""
    from active.gallery import write_page
    from active.replay import replay, replay_page
    from dan.data.paths import cache_folder, data_folder

    if not 16 <= config.thumbnail <= 4096:
        raise UserError(f"--thumbnail must be 16 to 4096 pixels, not {config.thumbnail}")
    cache = cache_folder(config.image_cache)
    kept: dict[str, Path | bool] = {"yes": cache.with_name("backbones"), "no": False}
    shown = replay(
        config.run,
        config.round,
        start=config.start,
        data=data_folder(config.data),
        location=config,
        cache=cache,
        cache_backbone=kept.get(config.cache_backbone),
        device=config.device,
        quiet=config.quiet,
    )
    if config.out is not None:
        write_page(config.out, replay_page(shown, config.thumbnail))
    if not config.quiet:
        print(table(shown))
        print(f"network: {shown.network}")
        if config.out is not None:
            print(f"wrote {config.out}")
    if shown.difference:
        print(shown.difference, file=sys.stderr)
        return DIFFERS
    if not config.quiet:
        print(f"replayed: the same {len(shown.asked)} picks as on record, in the same order")
    return 0


def table(shown: "Replay") -> str:
    """One line a pick, in plain text. A guess that the answer contradicts has a * after it."""
    names = shown.task.classes
    header = ("order", "sample", "guess", "probability", "margin", "entropy", "distance", "nearest", "answer")
    rows: list[tuple[str, ...]] = [header]
    for pick, answer in zip(shown.picks, shown.answers, strict=True):
        nearest = f"{names[pick.nearest]} ({pick.nearest_in})" if pick.nearest_in else "-"
        wrong = "" if pick.guess == answer else " *"
        figures = (f"{value:.3f}" for value in (pick.probability, pick.margin, pick.entropy))
        distance = f"{pick.distance:.4g}"
        rows.append(
            (str(pick.order), str(pick.id), names[pick.guess], *figures, distance, nearest, names[answer] + wrong)
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    left = {2, 7, 8}
    lines = [
        "  ".join(c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)
