"""The task that a run was trained on, loaded again from what the run says of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dan.cli.source_free import target_alone
from dan.errors import UserError
from dan.run_metadata import required


def load_run_task(settings: Mapping[str, Any], run: Path, data: Path, cache: Path, *, quiet: bool = True) -> Any:
    """The transfer that the run was trained on, without random views. Of a run that had no source (`--source-free`)
    the source is what it keeps of one: `dan.source_free.KeptOutputs`.

    Raises UserError where the run names no task, and where its classes are not what they were.
    """
    from dan.data.tasks import load_pair

    name = required(settings, "task", run)
    options = {key: value for key, value in settings.get("options", {}).items() if key != "augment"}
    if "source_free" in settings:
        from dan.source_free import read_kept

        return target_alone(name, options, read_kept(run), settings, run, data=data, cache=cache, quiet=quiet)
    task = load_pair(name, data, **options, cache=cache, quiet=quiet)
    if list(task.classes) != list(settings.get("classes", task.classes)):
        raise UserError(
            f"the classes of {name} are not those that {run} was trained on: restore its data, or train again"
        )
    return task
