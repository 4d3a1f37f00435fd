"""Tasks out to people, labels back: CSV and Label Studio's JSON, and every answer judged before one is taken.

Out, a CSV: order,sample,path,guess,confidence,label,annotator       the last two are empty, to be filled in
Out, Label Studio: a list of {"data": {"image", "sample", "path", "order"}, "predictions": [the guess]}
Back: the same CSV filled in, or Label Studio's export (JSON); a task is known again by its `sample`, the sha256 of the
image's bytes, so that renamed and copied files do no harm.

Source of the formats: Label Studio's documentation, "Import data", "Import pre-annotations" and "Export annotations".
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from active.annotation.label_log import Label
from dan.errors import UserError, nearest
from dan.run_dir import write_atomically
from dan.safe_csv import as_written, write_csv

COLUMNS = ("order", "sample", "path", "guess", "confidence", "label", "annotator")
CONTROL = "label"  # the name of Label Studio's control that holds the class


@dataclass(frozen=True, kw_only=True)
class Task:
    """One sample that a person is asked about. order: from 1, the most useful first. confidence: of the guess, [0, 1].

    image: where an annotation tool finds the picture: a URL, or the picture itself as a data: URI.
    """

    order: int
    sample: str
    path: str
    guess: str
    confidence: float
    image: str = ""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One line of what came back. where: file and row, for messages. label: "" where nothing was filled in. problem:
    why it cannot be taken, if it cannot."""

    where: str
    sample: str
    path: str
    label: str
    annotator: str
    when: str
    skipped: bool = False
    problem: str = ""


def write_tasks(
    path: Path, tasks: Sequence[Task], classes: Sequence[str], *, version: str = "active-dan"
) -> list[Path]:
    """Write the tasks as .csv, or as .json for Label Studio with its labelling interface beside it; the files' paths.

    version: what Label Studio calls the guesses' model. Raises UserError for another suffix, and where the file cannot
    be written.
    """
    if path.suffix.lower() == ".csv":
        rows = ((t.order, t.sample, t.path, t.guess, f"{t.confidence:.4f}", None, None) for t in tasks)
        write_csv(path, COLUMNS, rows)
        return [path]
    if path.suffix.lower() != ".json":
        raise UserError(f"--out {path}: tasks are written as .csv, or as .json for Label Studio")
    listed = [
        {
            "data": {"image": task.image, "sample": task.sample, "path": task.path, "order": task.order},
            "predictions": [
                {"model_version": version, "score": task.confidence, "result": [_choice(task.guess)]},
            ],
        }
        for task in tasks
    ]
    interface = path.with_suffix(".xml")
    for file, text in ((path, json.dumps(listed, indent=1) + "\n"), (interface, labelling_interface(classes))):
        written = text.encode()
        try:
            write_atomically(file, lambda handle: handle.write(written))  # noqa: B023  (called at once)
        except OSError as error:
            raise UserError(f"{file} cannot be written ({error.strerror or error}): name another --out") from None
    return [path, interface]


def labelling_interface(classes: Sequence[str]) -> str:
    """Label Studio's labelling interface for these classes: one image, one choice."""
    choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in classes)
    return (
        '<View>\n  <Image name="image" value="$image"/>\n'
        f'  <Choices name="{CONTROL}" toName="image" choice="single" showInLine="true">\n{choices}\n  </Choices>\n'
        "</View>\n"
    )


def read_answers(path: Path, *, annotator: str, when: str) -> list[Answer]:
    """What people answered, in the file's order. annotator, when: for lines that do not say.

    Raises UserError for a file that is not there or that is neither form, naming the row.
    """
    if not path.is_file():
        raise UserError(f"{path} is no file: name the CSV that was filled in, or Label Studio's export (JSON)")
    if path.suffix.lower() == ".json":
        return _from_label_studio(path, annotator, when)
    return _from_csv(path, annotator, when)


def validate(
    answers: Iterable[Answer],
    *,
    known: Mapping[str, str],
    classes: Sequence[str],
    labelled: Iterable[Label] = (),
) -> tuple[list[Label], list[str], dict[str, list[str]]]:
    """(what can be taken, what is wrong in a line each, the rows of what asked for nothing or is to be told).

    known: sample -> path, of every sample that may be labelled. labelled: what counts already; the same answer again
    is passed over, another answer of the same person is taken, and told. Wrong are: a sample that is not known, a class
    that is not among the classes, and two answers of one person about one sample that contradict each other.
    The rows, as `Answer.where`: "skipped" and "empty" lines, "repeated" answers, and answers that "changed".
    """
    before = {(label.sample, label.annotator): label.label for label in labelled}
    said: dict[tuple[str, str], Answer] = {}  # in this file, whether it is new or not
    taken: list[Label] = []
    problems: list[str] = []
    rows: dict[str, list[str]] = {name: [] for name in ("skipped", "empty", "repeated", "changed")}
    for answer in answers:
        key = (answer.sample, answer.annotator)
        if answer.sample not in known:
            name = f"{answer.sample[:12] or '(none)'} ({answer.path})"
            problems.append(f"{answer.where}: sample {name} was never asked for")
        elif answer.problem:
            problems.append(f"{answer.where}: {answer.problem}")
        elif answer.skipped:
            rows["skipped"].append(answer.where)
        elif not answer.label:
            rows["empty"].append(answer.where)
        elif answer.label not in classes:
            problems.append(f'{answer.where}: there is no class "{answer.label}"{nearest(answer.label, classes)}')
        elif key in said and said[key].label != answer.label:
            problems.append(
                f'{answer.where}: {answer.annotator} says "{answer.label}" of {answer.path}, and '
                f'"{said[key].label}" in {said[key].where}'
            )
        elif key in said or before.get(key) == answer.label:
            said.setdefault(key, answer)
            rows["repeated"].append(answer.where)
        else:
            if key in before:
                rows["changed"].append(answer.where)
            said[key] = answer
            taken.append(
                Label(
                    sample=answer.sample,
                    path=known[answer.sample],
                    label=answer.label,
                    annotator=answer.annotator,
                    when=answer.when,
                    origin=answer.where,
                )
            )
    return taken, problems, rows


def _choice(label: str) -> dict[str, Any]:
    return {"from_name": CONTROL, "to_name": "image", "type": "choices", "value": {"choices": [label]}}


def _from_csv(path: Path, annotator: str, when: str) -> list[Answer]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # a spreadsheet may begin it with a byte-order mark
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8: save it as CSV in UTF-8") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None
    first = text.split("\n", 1)[0]
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=";" if first.count(";") > first.count(",") else ",")
    try:
        names = [name.strip().lower() for name in rows.fieldnames or []]
    except csv.Error as error:
        raise UserError(f"{path}, row 1: {error}") from None
    for needed in ("sample", "label"):
        if needed not in names:
            raise UserError(f'{path} has no column "{needed}": give back the file of tasks, with its labels filled in')
    rows.fieldnames = names
    answers = []
    try:
        for row in rows:
            cell = {name: (row.get(name) or "").strip() for name in names}
            if not any(cell.values()):
                continue  # a spreadsheet ends its sheet with these
            answers.append(
                Answer(
                    where=f"{path.name}, row {rows.line_num}",
                    sample=cell["sample"],
                    path=cell.get("path", ""),
                    label=as_written(cell["label"]),
                    annotator=cell.get("annotator", "") or annotator,
                    when=cell.get("when", "") or cell.get("updated_at", "") or when,
                )
            )
    except csv.Error as error:
        raise UserError(f"{path}, row {rows.line_num}: {error}") from None
    return answers


def _from_label_studio(path: Path, annotator: str, when: str) -> list[Answer]:
    try:
        exported = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({type(error).__name__}): export the project as JSON") from None
    if not isinstance(exported, list):
        raise UserError(f"{path} is no export of Label Studio: it is a list of tasks; export the project as JSON")
    answers = []
    for number, task in enumerate(exported, start=1):
        where = f"{path.name}, task {number}"
        data = task.get("data") if isinstance(task, dict) else None
        if not isinstance(data, dict) or not isinstance(task.get("annotations", []), list):
            raise UserError(f"{where}: no data or annotations as Label Studio exports them (JSON, not JSON-MIN)")
        sample, shown = str(data.get("sample", "")), str(data.get("path", ""))
        given = task.get("annotations", [])
        if not given:
            answers.append(Answer(where=where, sample=sample, path=shown, label="", annotator=annotator, when=when))
        for annotation in given:
            if not isinstance(annotation, dict):
                raise UserError(f"{where}: an annotation is no object")
            chosen = _chosen(annotation.get("result"), where)
            several = f"{len(chosen)} classes are chosen ({', '.join(chosen)}), and a sample has one"
            answers.append(
                Answer(
                    where=where,
                    sample=sample,
                    path=shown,
                    label=chosen[0] if chosen else "",
                    problem=several if len(chosen) > 1 else "",
                    annotator=_person(annotation.get("completed_by")) or annotator,
                    when=str(annotation.get("updated_at") or annotation.get("created_at") or when),
                    skipped=bool(annotation.get("was_cancelled")),
                )
            )
    return answers


def _chosen(result: Any, where: str) -> list[str]:
    """The classes that an annotation chose: one, if all is well."""
    if not isinstance(result, list):
        raise UserError(f"{where}: an annotation without a list of results")
    chosen: list[str] = []
    for part in result:
        value = part.get("value") if isinstance(part, dict) else None
        choices = value.get("choices") if isinstance(value, dict) else None
        if isinstance(choices, list):
            chosen += [str(choice) for choice in choices]
    return chosen


def _person(completed_by: Any) -> str:
    """Who annotated: an id, or an object with an e-mail address or id, as versions of Label Studio differ."""
    if isinstance(completed_by, dict):
        return str(completed_by.get("email") or completed_by.get("id") or "")
    return "" if completed_by is None else str(completed_by)
