"""What is requested with a run, how the run and its data are reached, and which files are written: configs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dan.run_location import DataLocation
from dan.run_networks import CURRENT


@dataclass(frozen=True, kw_only=True)
class SampleChoice:
    """Which samples of a pool to request.

    budget: how many: a number, or a share of the pool as "5%". strategy: a name of `active.strategies`, module:function
    or NAME@SHARE. include_pending: samples without an answer yet, and those whose labels contradict each other, may be
    requested again. skip_unreadable: leave out images that cannot be read, and note them. seed: with the number of
    batches before, it decides what is random.
    """

    budget: int | str
    strategy: str = "margin"
    include_pending: bool = False
    skip_unreadable: bool = False
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class RunAccess:
    """How a run and its data are reached, and where its network computes.

    network: which of the run's, see `dan.run_networks.chosen_network`. data, cache: folders of data sets and of decoded
    images. location: where the run's own data lie now. cache_backbone: as `cache` of `dan.training.fit`. device: to
    compute on. quiet: no progress bars.
    """

    network: str = CURRENT
    data: Path | None = None
    location: DataLocation | None = None
    cache: Path | None = None
    cache_backbone: Path | bool = False
    device: str = "cpu"
    quiet: bool = True


@dataclass(frozen=True, kw_only=True)
class TaskFiles:
    """Which files to write.

    out: the tasks, .csv, or .json for Label Studio, with its labelling interface (.xml) beside it. page: a gallery of
    the samples (HTML). thumbnail_side: longer side of the pictures in `page` and in a .json, in pixels.
    """

    out: Path
    page: Path | None = None
    thumbnail_side: int = 320

    @property
    def with_pictures(self) -> bool:
        """Whether any of the files shows the samples."""
        return self.page is not None or self.out.suffix.lower() == ".json"
