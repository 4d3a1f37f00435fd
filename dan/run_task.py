"""The data that a run was trained on, loaded again from its metadata, or from where the data are now."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dan.class_names import class_names
from dan.errors import UserError
from dan.run_data import read_data_record, refuse_other_data
from dan.run_location import DataLocation
from dan.run_target import load_target

if TYPE_CHECKING:
    from dan.data.domain_pair import DomainPair


def load_run_task(
    settings: Mapping[str, Any],
    run: Path,
    data: Path,
    cache: Path | None,
    *,
    quiet: bool = True,
    location: DataLocation | None = None,
    augment: bool = False,
) -> "DomainPair":
    """The source and the target that a run was trained on.

    settings: the first record of `run`. data, cache: folders of data sets and of decoded images. Of a run that was
    trained without a source (`--source-free`) the source is what it kept of one: `dan.source_free.KeptOutputs`.
    location: where to look instead of where it was trained; the content must be the same. augment: keep the random
    views, if the run was trained with any.

    Raises UserError where neither the run nor `location` names a task, where the classes have changed, and for other
    contents at `location`.
    """
    from dan.data.tasks import load_pair

    location = location or DataLocation()
    name, options = _task_and_options(settings, run, location)
    if not augment:
        options.pop("augment", None)
    if "source_free" in settings:
        from dan.source_free import read_kept

        task = load_target(name, options, read_kept(run), settings, run, data=data, cache=cache, quiet=quiet)
        if location.given:
            refuse_other_data(run, target=task.target)
        return task
    try:
        task = load_pair(name, data, **options, cache=cache, quiet=quiet)
    except UserError as error:
        if name != "folders" or location.given:
            raise
        raise UserError(f"{error} (if the data of {run} were moved: --source, --target)") from None
    if _named(settings, run) and class_names(task.classes) != class_names(settings.get("classes", task.classes)):
        raise UserError(
            f"the classes of {name} are not those that {run} was trained on: restore its data, or train again"
        )
    if location.given:
        refuse_other_data(run, source=task.source, target=task.target)
    return task


def _task_and_options(settings: Mapping[str, Any], run: Path, location: DataLocation) -> tuple[str, dict[str, Any]]:
    moved = {name: getattr(location, name) for name in ("source", "target") if getattr(location, name) is not None}
    name = settings.get("task")
    if name is not None:
        if location.task not in (None, name):
            raise UserError(f"{run} was trained on the task {name}, and not on {location.task}: leave out --task")
        if moved and name != "folders":
            raise UserError(f"{run} was trained on {name}, whose data --data names: leave out --{next(iter(moved))}")
        return name, {**settings.get("options", {}), **moved}
    if location.task is None and len(moved) < 2:
        raise UserError(
            f'{run}/records.jsonl does not say "task" of its data: name it with --task, or both domains with --source '
            "and --target; fit(..., metadata=run_metadata(task)) keeps it in the run"
        )
    name = location.task or "folders"
    shape = settings.get("shape", ())
    if name == "folders" and len(shape) == 3:
        moved["image_size"] = shape[1]
    return name, moved


def _named(settings: Mapping[str, Any], run: Path) -> bool:
    """Whether the run's classes have names of their own, and not numbers for want of them."""
    return "task" in settings or bool(read_data_record(run).get("named"))
