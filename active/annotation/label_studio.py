"""Label Studio's exports as answers: which of a project's controls holds the class, and what was chosen there.

    JSON       [{"data": {"sample", ...}, "annotations": [{"result": [{"from_name", "value": {"choices"}}], ...}]}]
    JSON-MIN   [{"sample", ..., "label": "cat" or {"choices": ["cat", "dog"]}, "annotator", "updated_at"}]
    CSV, TSV   JSON-MIN's records as rows; several choices as JSON in a cell

Skipped answers, and those that a reviewer rejected, are known by was_cancelled and reviews, in each form.
A project may have other controls (a quality, a comment): the class is what the control CONTROL holds, and no other.
Only where no answer of a file is of that control may a single control of another name stand for it.

Source: Label Studio's documentation, "Export annotations"; label-studio-sdk, converter (JSON-MIN and CSV).
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from active.annotation.answers import Answer
from dan.class_names import class_name, known_name
from dan.errors import UserError
from dan.safe_csv import as_written
from dan.tables import Row, Table, read_text

CONTROL = "label"  # the name of the control that holds the class
_TASK_FIELDS = ("order", "sample", "path", "image", "guess", "confidence")
_SKIPPED = ("was_cancelled", "skipped", "cancelled")
_REVIEW = ("last_action", "reviews", "review_result")
_EXPORT_FIELDS = (
    "id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement", *_SKIPPED, *_REVIEW,
)  # fmt: skip
_SECOND = re.compile(rf"{CONTROL}[ ._]*\(?\d+\)?")  # what programs call a second column of one name


@dataclass
class Control:
    """What one control of a project holds in a file: the types of its answers, and its choices."""

    types: set[str] = field(default_factory=set)
    choices: list[str] = field(default_factory=list)


def read_export(path: Path, annotator: str, when: str, classes: Sequence[str] | None) -> tuple[list[Answer], list[str]]:
    """(answers, notes) of an export as JSON or JSON-MIN. classes: None takes a single control of another name as it is.

    Raises UserError for another file, for a task of another form, and where no control can be the class's.
    """
    try:
        exported = json.loads(read_text(path, "JSON"), object_pairs_hook=_without_repeats)
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        reason = f": {error}" if isinstance(error, _RepeatedKey) else ""
        raise UserError(
            f"{path} cannot be read as JSON ({type(error).__name__}{reason}): export the project as JSON"
        ) from None
    if not isinstance(exported, list):
        raise UserError(f"{path} is no export of Label Studio: it is a list of tasks; export the project as JSON")
    records = [task for task in exported if isinstance(task, dict)]
    if len(records) == len(exported) and not any("data" in task for task in records):
        return _from_records(path, records, annotator, when, classes)
    return _from_tasks(path, exported, annotator, when, classes)


def from_rows(table: Table, annotator: str, when: str, classes: Sequence[str] | None) -> tuple[list[Answer], list[str]]:
    """(answers, notes) of a table: the tasks that were filled in, or an export of Label Studio as CSV or TSV."""
    columns = [name for name in table.columns if name not in (*_TASK_FIELDS, *_EXPORT_FIELDS)]
    control = CONTROL
    notes: list[str] = []
    if CONTROL not in columns and "annotation_id" in table.columns:
        found = {name: Control({"choices"}, _all_choices(row.cells[name] for row in table.rows)) for name in columns}
        control, notes = choose_control(table.path, found, classes)
    else:
        _refuse_second(table)
    for needed in ("sample", control):
        if needed not in table.columns:
            raise UserError(
                f'{table.path} has no column "{needed}" (but {", ".join(table.columns) or "none"}): give back the '
                "file of tasks, with its labels filled in"
            )
    return [_of_row(table.path, row, control, annotator, when) for row in table.rows], notes


def _refuse_second(table: Table) -> None:
    """A second column of labels, which pandas calls label.1 and a table of Excel label2: only one can count."""
    if "annotation_id" in table.columns:  # of Label Studio, where it is a control of that name
        return
    for name in filter(_SECOND.fullmatch, table.columns):
        row = next((row for row in table.rows if row.cells[name] not in ("", row.cells.get(CONTROL))), None)
        if row is not None:
            raise UserError(
                f'{table.path}, row {row.number} holds "{row.cells[name][:100]}" in a second column of labels, '
                f'"{name}": leave one, called "{CONTROL}"'
            )


def choose_control(path: Path, found: Mapping[str, Control], classes: Sequence[str] | None) -> tuple[str, list[str]]:
    """(the control that holds the class, notes): CONTROL if any answer is of it; else the only one with choices, if all
    of these are classes. Raises UserError, which names the controls, where neither is.
    """
    if CONTROL in found or not found:
        return CONTROL, []
    choosing = [name for name, control in found.items() if control.choices]
    if len(choosing) == 1:
        (name,) = choosing
        if classes is None or all(known_name(choice, classes) is not None for choice in found[name].choices):
            return name, [f'{path.name}: the class is taken from the control "{name}", as none is called "{CONTROL}"']
    named = ", ".join(f'"{name}" ({", ".join(sorted(control.types))})' for name, control in found.items())
    raise UserError(
        f'{path} holds no answer of the control "{CONTROL}", but of {named}: call the control with the classes '
        f'"{CONTROL}" in the labelling interface, as in the .xml file of the tasks'
    )


def _from_tasks(
    path: Path, exported: Sequence[Any], annotator: str, when: str, classes: Sequence[str] | None
) -> tuple[list[Answer], list[str]]:
    """JSON: a task has any number of annotations, and each any number of results, of any controls."""
    tasks = [_checked_task(task, f"{path.name}, task {number}") for number, task in enumerate(exported, start=1)]
    found: dict[str, Control] = {}
    for task in tasks:
        for annotation in task.annotations:
            for result in annotation["result"]:
                content = found.setdefault(_from_name(result), Control())
                content.types.add(str(result.get("type") or "choices"))
                content.choices += _choices(result) or []
    control, notes = choose_control(path, found, classes)
    answers = []
    for task in tasks:
        sample, shown = _text(task.data.get("sample")), _text(task.data.get("path"))
        if not task.annotations:
            answers.append(
                Answer(where=task.where, sample=sample, path=shown, label="", annotator=annotator, when=when)
            )
        for annotation in task.annotations:
            results = [result for result in annotation["result"] if _from_name(result) == control]
            label, problem = _one_choice([choice for result in results for choice in _choices(result) or []])
            if results and all(_choices(result) is None for result in results):
                kind = ", ".join(sorted({str(result.get("type")) for result in results}))
                problem = f'the answer of the control "{control}" is no choice ({kind}), and so no class'
            answers.append(
                Answer(
                    where=task.where,
                    sample=sample,
                    path=shown,
                    label=label,
                    problem=problem,
                    annotator=_person(annotation.get("completed_by")) or annotator,
                    when=_text(annotation.get("updated_at") or annotation.get("created_at")) or when,
                    **_fate(annotation),
                )
            )
    return answers, notes


def _from_records(
    path: Path, records: Sequence[Mapping[str, Any]], annotator: str, when: str, classes: Sequence[str] | None
) -> tuple[list[Answer], list[str]]:
    """JSON-MIN: one record an annotation, with a value of each control."""
    found: dict[str, Control] = {}
    for record in records:
        for name, value in record.items():
            if name not in (*_TASK_FIELDS, *_EXPORT_FIELDS):
                found.setdefault(name, Control({"choices"})).choices.extend(_all_choices([value]))
    if records and not found:
        raise UserError(
            f"{path.name}, task 1: no data or annotations as Label Studio exports them (JSON), and no answer (JSON-MIN)"
        )
    control, notes = choose_control(path, found, classes)
    answers = []
    for number, record in enumerate(records, start=1):
        label, problem = _one_choice(_all_choices([record.get(control)]))
        answers.append(
            Answer(
                where=f"{path.name}, task {number}",
                sample=_text(record.get("sample")),
                path=_text(record.get("path")),
                label=label,
                problem=problem,
                annotator=_person(record.get("annotator")) or annotator,
                when=_text(record.get("updated_at") or record.get("created_at")) or when,
                **_fate(record),
            )
        )
    return answers, notes


def _of_row(path: Path, row: Row, control: str, annotator: str, when: str) -> Answer:
    label, problem = _one_choice(_all_choices([row.cells[control]]))
    return Answer(
        where=f"{path.name}, row {row.number}",
        sample=row.cells["sample"],
        path=row.cells.get("path", ""),
        label=as_written(label),
        problem=problem,
        annotator=class_name(row.cells.get("annotator", "")) or annotator,
        when=row.cells.get("when", "") or row.cells.get("updated_at", "") or when,
        **_fate(row.cells),
    )


def _fate(annotation: Mapping[str, Any]) -> dict[str, bool]:
    """Whether an annotation was skipped, and whether a reviewer rejected it and nobody changed it since."""
    reviews = annotation.get("reviews")
    if isinstance(reviews, str):
        with contextlib.suppress(ValueError, RecursionError):
            reviews = json.loads(reviews)
    given = [review for review in reviews if isinstance(review, dict)] if isinstance(reviews, list) else []
    given.sort(key=lambda review: _text(review.get("created_at")))
    refused = bool(given) and "accepted" in given[-1] and not _is_true(given[-1]["accepted"])
    action = _text(annotation.get("last_action") or annotation.get("review_result")).lower()
    return {
        "skipped": any(_is_true(annotation.get(name)) for name in _SKIPPED),
        "rejected": action == "rejected" if action else refused,
    }


def _is_true(value: Any) -> bool:
    """A flag as JSON and tables write it: true, 1, "True", "yes"."""
    return _text(value).strip().lower() not in ("", "0", "0.0", "false", "no", "n", "f", "none", "null", "nan")


@dataclass(frozen=True)
class _Task:
    where: str
    data: Mapping[str, Any]
    annotations: list[dict[str, Any]]


def _checked_task(task: Any, where: str) -> _Task:
    """What is null is absent: of a task without annotations, an annotation without results. Raises UserError for
    anything of another form."""
    data = task.get("data") if isinstance(task, dict) else None
    given = (task.get("annotations") or task.get("completions") or []) if isinstance(task, dict) else None
    if not isinstance(data, dict) or not isinstance(given, list):
        raise UserError(f"{where}: no data or annotations as Label Studio exports them (JSON or JSON-MIN)")
    annotations = []
    for annotation in given:
        if annotation is None:
            continue
        if not isinstance(annotation, dict):
            raise UserError(f"{where}: an annotation is no object")
        results = annotation.get("result")
        results = [] if results is None else results
        if not isinstance(results, list):
            raise UserError(f"{where}: an annotation without a list of results")
        annotations.append({**annotation, "result": [result for result in results if isinstance(result, dict)]})
    return _Task(where, data, annotations)


def _from_name(result: Mapping[str, Any]) -> str:
    return _text(result.get("from_name"))


def _choices(result: Mapping[str, Any]) -> list[str] | None:
    """The choices of one result; None for one of another type."""
    value = result.get("value")
    choices = value.get("choices") if isinstance(value, dict) else None
    if isinstance(choices, str):
        return [choices]
    return [str(choice) for choice in choices if choice is not None] if isinstance(choices, list) else None


def _all_choices(values: Iterable[Any]) -> list[str]:
    """The choices in values of JSON-MIN or cells of CSV: a name, {"choices": [names]}, lists of these, or nothing."""
    found: list[str] = []
    for value in values:
        if isinstance(value, str):
            value = _json_choices(value)
        if isinstance(value, list):
            found += _all_choices(value)
        elif isinstance(value, dict):
            found += _all_choices(value["choices"]) if isinstance(value.get("choices"), list) else [json.dumps(value)]
        elif value is not None and (text := class_name(str(value))):
            found.append(text)
    return found


def _json_choices(cell: str) -> Any:
    """{"choices": ...}, or a list of these, as Label Studio writes several choices into a cell; any other text as it
    is."""
    if cell.lstrip().startswith(("{", "[")):
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(cell)
            parts = value if isinstance(value, list) else [value]
            if parts and all(isinstance(part, dict) and isinstance(part.get("choices"), list) for part in parts):
                return value
    return cell


def _one_choice(choices: Sequence[str]) -> tuple[str, str]:
    """(the class, "") of what was chosen; ("", "") of nothing, and a class with the problem of several."""
    different = list(dict.fromkeys(choices))
    if len(different) > 1:
        return different[0], f"{len(different)} classes are chosen ({', '.join(different)}), and a sample has one"
    return (different[0] if different else ""), ""


def _person(completed_by: Any) -> str:
    """Who annotated: an id, or an object with an e-mail address or id, as versions of Label Studio differ."""
    if isinstance(completed_by, dict):
        return class_name(str(completed_by.get("email") or completed_by.get("id") or ""))
    return class_name(_text(completed_by))


def _text(value: Any) -> str:
    return "" if value is None else str(value)


class _RepeatedKey(ValueError):
    """A key that an object has twice: one of the two values would be lost."""


def _without_repeats(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _RepeatedKey(f'two values of "{twice[:100]}" in one object')
    return found
