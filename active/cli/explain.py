"""python -m active explain RUN ROUND: replay the queries of a simulated round, and show every pick."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from dan.errors import UserError
from dan.run_location import DataLocation

if TYPE_CHECKING:
    from active.replay import Replay

DIFFERS = 1  # exit code of a replay whose picks differ from the recorded ones


@dataclass(frozen=True, kw_only=True)
class Explain(DataLocation):
    """Replay the queries of a round of `python -m active run`, and show every pick. Exit code 1: the picks differ."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run directory of the rounds."""
    round: Annotated[int, tyro.conf.Positional, tyro.conf.arg(metavar="ROUND")]
    """Number of the round, from 0."""
    out: Path | None = None
    """Write a page with the images to this HTML file; it needs no network."""
    start: Path | None = None
    """The run that the rounds started from, where it is neither inside RUN nor in the same folder as RUN."""
    thumbnail: int = 320
    """Longer side of the images in the page, in pixels."""
    data: Path | None = None
    """Folder of data sets, for tasks that read any. Default: ACTIVE_DAN_DATA, or the user's cache folder."""
    image_cache: Path | None = None
    """Folder for decoded images. Default: in the user's cache folder."""
    cache_backbone: Literal["as-run", "yes", "no"] = "as-run"
    """Use cached outputs of the frozen first stages; as-run: if the rounds were run with --cache-backbone."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to compute on; another device than the run's rounds differently, and may pick differently."""
    quiet: bool = False
    """Print no progress bar and no table."""


def explain(config: Explain) -> int:
    """Print a line for each pick, and write the page; 0 if the replay picks the recorded samples, else 1."""
    from active.gallery import write_page
    from active.replay import replay, replay_page
    from dan.data.paths import cache_folder, data_folder

    if not 16 <= config.thumbnail <= 4096:
        raise UserError(f"--thumbnail must be 16 to 4096 pixels, not {config.thumbnail}")
    cache = cache_folder(config.image_cache)
    kept: dict[str, Path | bool] = {"yes": cache.with_name("backbones"), "no": False}
    result = replay(
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
        write_page(config.out, replay_page(result, config.thumbnail))
    if not config.quiet:
        print(table(result))
        print(f"network: {result.network}")
        if config.out is not None:
            print(f"wrote {config.out}")
    if result.difference:
        print(result.difference, file=sys.stderr)
        return DIFFERS
    if not config.quiet:
        print(f"replayed: the same {len(result.recorded)} picks as recorded, in the same order")
    return 0


def table(replay: "Replay") -> str:
    """One line for each pick, in plain text; a * marks a wrong guess."""
    names = replay.task.classes
    header = ("order", "sample", "guess", "probability", "margin", "entropy", "distance", "nearest", "answer")
    rows: list[tuple[str, ...]] = [header]
    for pick, answer in zip(replay.picks, replay.labels, strict=True):
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
