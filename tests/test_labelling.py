"""Tasks out and labels back: what is written reads back, every mistake is told with its row, nothing else is lost."""

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from active.annotation.label_log import Label
from active.annotation.tasks import Answer, Task, labelling_interface, read_answers, validate, write_tasks
from dan.errors import UserError

CLASSES = ("cat", 'big "dog" & co', "=owl")
TASKS = [
    Task(
        order=i + 1, sample=f"{i:064x}", path=f"a/{name}", guess=CLASSES[i], confidence=0.5 + i / 10, image=f"data:,{i}"
    )
    for i, name in enumerate(("plain.png", "with, comma\nand line.png", "=formula.png"))
]
KNOWN = {task.sample: task.path for task in TASKS}
NOW = "2026-01-01T00:00:00Z"


def answers(path: Path) -> list[Answer]:
    return read_answers(path, annotator="me", when=NOW)


def filled(path: Path, labels: list[str], annotators: list[str] | None = None) -> None:
    """What a person does in a spreadsheet: the same rows, with the last columns filled in."""
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file))
    for i, row in enumerate(rows):
        row[header.index("label")] = labels[i]
        row[header.index("annotator")] = (annotators or [""] * len(rows))[i]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def test_a_csv_goes_out_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "tasks.csv"
    assert write_tasks(path, TASKS, CLASSES) == [path]
    assert [answer.label for answer in answers(path)] == ["", "", ""]
    # A spreadsheet shows the class =owl as '=owl, since it would compute it: both come back as the class.
    filled(path, ["cat", CLASSES[1], "'=owl"], ["", "bob", ""])
    taken, problems, counts = validate(answers(path), known=KNOWN, classes=CLASSES)
    assert problems == [] and not any(counts.values())
    assert [(label.sample, label.label, label.annotator) for label in taken] == [
        (TASKS[0].sample, "cat", "me"),
        (TASKS[1].sample, CLASSES[1], "bob"),
        (TASKS[2].sample, "=owl", "me"),
    ]
    assert [label.path for label in taken] == [task.path for task in TASKS]
    assert all(label.when == NOW and label.origin.startswith("tasks.csv, row ") for label in taken)


def test_a_spreadsheets_semicolons_and_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(f"Sample;Label\n{TASKS[0].sample};cat\n", encoding="utf-8-sig")
    assert [(a.sample, a.label, a.where) for a in answers(path)] == [(TASKS[0].sample, "cat", "labels.csv, row 2")]


def exported(path: Path, annotations: list[list[dict]]) -> None:
    """What Label Studio exports: the tasks as they were given, with annotations."""
    tasks = json.loads(path.read_text())
    for task, given in zip(tasks, annotations, strict=True):
        task["annotations"] = given
    path.write_text(json.dumps(tasks))


def chose(*labels: str, who: object = 7, cancelled: bool = False) -> dict:
    result = [{"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": list(labels)}}]
    return {
        "completed_by": who,
        "was_cancelled": cancelled,
        "result": result if labels else [],
        "updated_at": "2026-02-03T04:05:06Z",
    }


def test_label_studio_gets_guesses_and_gives_annotations(tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    assert write_tasks(path, TASKS, CLASSES, version="runs/a") == [path, tmp_path / "tasks.xml"]
    listed = json.loads(path.read_text())
    assert [task["data"]["image"] for task in listed] == [task.image for task in TASKS]
    for task, given in zip(listed, TASKS, strict=True):
        (guess,) = task["predictions"]
        assert guess["score"] == given.confidence and guess["model_version"] == "runs/a"
        assert guess["result"][0]["value"]["choices"] == [given.guess]
    exported(path, [[chose("cat"), chose("cat", who={"email": "bob@example.org"})], [chose(cancelled=True)], []])
    taken, problems, counts = validate(answers(path), known=KNOWN, classes=CLASSES)
    assert problems == [] and counts == {
        "skipped": ["tasks.json, task 2"],
        "rejected": [],
        "empty": ["tasks.json, task 3"],
        "repeated": [],
        "changed": [],
    }
    assert [(label.label, label.annotator) for label in taken] == [("cat", "7"), ("cat", "bob@example.org")]
    assert taken[0].when == "2026-02-03T04:05:06Z"


def test_the_interface_has_every_class_whatever_its_name() -> None:
    view = ElementTree.fromstring(labelling_interface(CLASSES))
    assert [choice.get("value") for choice in view.iter("Choice")] == list(CLASSES)
    assert view.find("Choices").get("toName") == view.find("Image").get("name") == "image"


def test_every_mistake_is_told_with_its_row_and_the_rest_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    rows = [
        (TASKS[0].sample, "cat", "ann"),
        ("f" * 64, "cat", "ann"),  # never asked for
        (TASKS[1].sample, "cta", "ann"),  # no class
        (TASKS[0].sample, "cat", "ann"),  # again
        (TASKS[0].sample, "=owl", "ann"),  # contradicts row 2
        (TASKS[0].sample, "=owl", "bob"),  # another person may
        (TASKS[1].sample, "", "ann"),  # half filled
        ("", "cat", "ann"),
    ]
    path.write_text("sample,label,annotator\n" + "".join(",".join(row) + "\n" for row in rows))
    taken, problems, counts = validate(answers(path), known=KNOWN, classes=CLASSES)
    assert [(label.label, label.annotator) for label in taken] == [("cat", "ann"), ("=owl", "bob")]
    assert counts == {
        "skipped": [],
        "rejected": [],
        "empty": ["labels.csv, row 8"],
        "repeated": ["labels.csv, row 5"],
        "changed": [],
    }
    wanted = [
        ("row 3", "never asked for"),
        ("row 4", 'no class "cta" (did you mean "cat"?)'),
        ("row 6", '"cat" in labels.csv, row 2'),
        ("row 9", "(none)"),
    ]
    assert len(problems) == len(wanted)
    for problem, (row, words) in zip(problems, wanted, strict=True):
        assert problem.startswith(f"labels.csv, {row}") and words in problem and "\n" not in problem


def test_what_is_labelled_already_is_repeated_or_changed() -> None:
    def label(sample: str, name: str) -> Label:
        return Label(sample=sample, path="p", label=name, annotator="ann", when=NOW, origin="before")

    def answer(sample: str, name: str) -> Answer:
        return Answer(where="now", sample=sample, path="p", label=name, annotator="ann", when=NOW)

    a, b = TASKS[0].sample, TASKS[1].sample
    before = [label(a, "cat"), label(b, "cat")]
    taken, problems, counts = validate(
        [answer(a, "cat"), answer(b, "=owl")], known=KNOWN, classes=CLASSES, labelled=before
    )
    assert [(t.sample, t.label) for t in taken] == [(b, "=owl")] and problems == []
    assert counts["repeated"] == counts["changed"] == ["now"]


def test_two_choices_are_one_problem_and_not_the_end(tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    write_tasks(path, TASKS, CLASSES)
    exported(path, [[chose("cat", "=owl")], [chose("cat")], [chose("cat")]])
    taken, problems, _ = validate(answers(path), known=KNOWN, classes=CLASSES)
    assert len(taken) == 2 and problems == [
        "tasks.json, task 1: 2 classes are chosen (cat, =owl), and a sample has one"
    ]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "sample,guess\n", 'no column "label"'),
        ("a.csv", "", 'no column "sample"'),
        ("a.csv", b"sample,label\n\xff,cat\n", "not UTF-8"),
        ("a.json", "[", "cannot be read as JSON"),
        ("a.json", "{}", "a list of tasks"),
        ("a.json", '[{"sample": "x"}]', "a.json, task 1"),
        ("a.json", '[{"data": {}, "annotations": [3]}]', "no object"),
        ("a.json", '[{"data": {}, "annotations": [{"result": 3}]}]', "without a list"),
        ("b.csv", None, "no file"),
    ],
)
def test_another_file_is_refused_in_one_line(name: str, text: object, words: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if isinstance(text, bytes):
        path.write_bytes(text)
    elif text is not None:
        path.write_text(str(text))
    with pytest.raises(UserError, match=words) as error:
        answers(path)
    assert "\n" not in str(error.value)


def test_tasks_of_another_form_and_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.csv, or as \.json"):
        write_tasks(tmp_path / "tasks.xlsx", TASKS, CLASSES)
    (tmp_path / "file").touch()
    for name in ("a.csv", "a.json"):
        with pytest.raises(UserError, match="cannot be written"):
            write_tasks(tmp_path / "file" / name, TASKS, CLASSES)
