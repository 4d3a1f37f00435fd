"""Where the data of a run are now: flags that the commands on a finished run share."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class DataLocation:
    """Where the data of a run are now, if they were moved, or if the run does not record it."""

    task: str | None = None
    """Task of a run that does not record it: of a training from Python without `metadata`."""
    source: Path | None = None
    """Where the source is now, if it was moved; its content is compared with that of the training."""
    target: Path | None = None
    """Where the target is now, if it was moved; its content is compared with that of the training."""

    @property
    def given(self) -> bool:
        """Whether anything is named."""
        return any(value is not None for value in (self.task, self.source, self.target))
