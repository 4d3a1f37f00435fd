"""Tasks out to people, labels back: CSV and Label Studio's JSON, and every answer judged before one is taken.

Out, a CSV: order,sample,path,guess,confidence,label,annotator       the last two are empty, to be filled in
Out, Label Studio: a list of {"data": {"image", "sample", "path", "order"}, "predictions": [the guess]}
Back: the same CSV filled in, or Label Studio's export; a task is known again by its `sample`, the sha256 of the image's
bytes, so that renamed and copied files do no harm.

Source of the formats: Label Studio's documentation, "Import data", "Import pre-annotations" and "Export annotations".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from active.annotation.answers import Answer
from active.annotation.label_log import Label
from active.annotation.label_studio import CONTROL, from_rows, read_export
from dan.class_names import known_name
from dan.errors import UserError, nearest
from dan.run_dir import write_atomically
from dan.safe_csv import write_csv
from dan.tables import read_table

__all__ = [
    "Answer", "Task", "labelling_interface", "read_answers", "read_label_file", "validate", "write_tasks",
]  # fmt: skip

COLUMNS = ("order", "sample", "path", "guess", "confidence", "label", "annotator")


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
        written = text.encode(errors="backslashreplace")  # names of files may be of no Unicode
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


def read_label_file(
    path: Path, *, annotator: str, when: str, classes: Sequence[str] | None = None
) -> tuple[list[Answer], list[str]]:
    """(what people answered, in the file's order; notes, a line each).

    path: the tasks, filled in (CSV, or what a spreadsheet makes of it: see `dan.tables`), or Label Studio's export
    (JSON, JSON-MIN, CSV, TSV). annotator, when: for lines that do not say. classes: which a control of Label Studio
    that is not called as ours must hold to be taken for it; None: any.

    Raises UserError for a file that is not there or of none of these forms, naming the row or the controls.
    """
    if not path.is_file():
        raise UserError(f"{path} is no file: name the CSV that was filled in, or Label Studio's export (JSON)")
    if path.suffix.lower() == ".json":
        return read_export(path, annotator, when, classes)
    return from_rows(read_table(path, ("sample", CONTROL)), annotator, when, classes)


def read_answers(path: Path, *, annotator: str, when: str, classes: Sequence[str] | None = None) -> list[Answer]:
    """The answers of `read_label_file`, without its notes."""
    return read_label_file(path, annotator=annotator, when=when, classes=classes)[0]


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
    The rows, as `Answer.where`: "skipped", "rejected" and "empty" lines, "repeated" answers, and those that "changed".
    """
    before = {(label.sample, label.annotator): label.label for label in labelled}
    first: dict[tuple[str, str], tuple[str, str]] = {}  # of this file: the label, and where it is
    taken: list[Label] = []
    problems: list[str] = []
    rows: dict[str, list[str]] = {name: [] for name in ("skipped", "rejected", "empty", "repeated", "changed")}
    for answer in answers:
        key = (answer.sample, answer.annotator)
        label = known_name(answer.label, classes)
        if answer.skipped or answer.rejected:
            rows["skipped" if answer.skipped else "rejected"].append(answer.where)
        elif answer.sample not in known:
            name = f"{answer.sample[:12] or '(none)'} ({answer.path})"
            problems.append(f"{answer.where}: sample {name} was never asked for")
        elif answer.problem:
            problems.append(f"{answer.where}: {answer.problem}")
        elif not answer.label:
            rows["empty"].append(answer.where)
        elif label is None:
            problems.append(f'{answer.where}: there is no class "{answer.label}"{nearest(answer.label, classes)}')
        elif key in first and first[key][0] != label:
            problems.append(
                f'{answer.where}: {answer.annotator} says "{label}" of {answer.path}, and "{first[key][0]}" in '
                f"{first[key][1]}"
            )
        elif key in first or before.get(key) == label:
            first.setdefault(key, (label, answer.where))
            rows["repeated"].append(answer.where)
        else:
            if key in before:
                rows["changed"].append(answer.where)
            first[key] = (label, answer.where)
            taken.append(
                Label(
                    sample=answer.sample,
                    path=known[answer.sample],
                    label=label,
                    annotator=answer.annotator,
                    when=answer.when,
                    origin=answer.where,
                )
            )
    return taken, problems, rows


def _choice(label: str) -> dict[str, Any]:
    return {"from_name": CONTROL, "to_name": "image", "type": "choices", "value": {"choices": [label]}}
