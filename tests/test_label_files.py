"""Label files as people's tools really write them: the class is read from our control only, and nothing is lost."""

import csv
import io
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from active.annotation.label_log import krippendorff_alpha
from active.annotation.tasks import Answer, read_answers, read_label_file, validate
from dan.errors import UserError

VELO = "v\u00e9lo"
CLASSES = ("bike", "car", VELO)
KNOWN = {f"{i:064x}": f"{i}.png" for i in range(6)}
SAMPLES = list(KNOWN)


def result(*choices: str, control: str | None = "label", type: str = "choices", key: str = "choices") -> dict[str, Any]:
    value: dict[str, Any] = {"to_name": "image", "type": type, "value": {key: list(choices)}}
    return value if control is None else value | {"from_name": control}


def task(sample: str, *results: Any, **annotation: Any) -> dict[str, Any]:
    return {
        "id": 1,
        "data": {"image": "data:,", "sample": sample, "path": KNOWN[sample], "order": 1},
        "annotations": [{"completed_by": 1, "result": list(results), "was_cancelled": False} | annotation],
        "predictions": [{"result": [result("car")]}],
    }


def written(folder: Path, content: Any, name: str = "export.json", encoding: str = "utf-8") -> Path:
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


def imported(path: Path, classes: tuple[str, ...] = CLASSES) -> tuple[list[tuple[str, str, str]], list[str], Any, Any]:
    """((sample, label, annotator) of what is valid, problems, rows, notes)."""
    answers, notes = read_label_file(path, annotator="me", when="now", classes=classes)
    taken, problems, rows = validate(answers, known=KNOWN, classes=classes)
    return [(label.sample, label.label, label.annotator) for label in taken], problems, rows, notes


# Label Studio's controls


def test_the_class_is_what_our_control_holds_and_no_other(tmp_path: Path) -> None:
    export = [
        task(SAMPLES[0], result("bike"), result("good", control="quality")),
        task(SAMPLES[1], result("car", control="quality"), result("car")),
        task(SAMPLES[2], result("bike", control="quality")),  # ours is not answered: no label, though it is a class
        task(SAMPLES[3], result("text", control="comment", type="textarea", key="text"), result(VELO)),
    ]
    taken, problems, rows, notes = imported(written(tmp_path, export))
    assert [label for _, label, _ in taken] == ["bike", "car", VELO] and problems == notes == []
    assert rows["empty"] == ["export.json, task 3"]


def test_a_file_of_other_controls_is_refused_with_their_names(tmp_path: Path) -> None:
    two = [task(SAMPLES[0], result("bike", control="first"), result("car", control="second"))]
    boxes = result("bike", control="box", type="rectanglelabels", key="rectanglelabels")
    for export, named in (
        ([task(SAMPLES[0], result("good", control="quality"))], r'of "quality" \(choices\)'),
        (two, r'of "first" \(choices\), "second" \(choices\)'),
        ([task(SAMPLES[0], boxes)], r'of "box" \(rectanglelabels\)'),
    ):
        with pytest.raises(UserError, match=f'holds no answer of the control "label", but {named}') as error:
            imported(written(tmp_path, export))
        assert "\n" not in str(error.value) and "call the control with the classes" in str(error.value)


def test_a_single_renamed_control_with_our_classes_is_accepted_with_a_note(tmp_path: Path) -> None:
    comment = result("dark", control="comment", type="textarea", key="text")
    export = [task(SAMPLES[0], result("bike", control="species"), comment), task(SAMPLES[1])]
    taken, problems, rows, notes = imported(written(tmp_path, export))
    assert [label for _, label, _ in taken] == ["bike"] and problems == [] and rows["empty"] == ["export.json, task 2"]
    assert notes == ['export.json: the class is taken from the control "species", as none is called "label"']
    export[1] = task(SAMPLES[1], result("zebra", control="species"))
    with pytest.raises(UserError, match='but of "species"'):
        imported(written(tmp_path, export))


def test_our_control_with_another_type_is_a_problem(tmp_path: Path) -> None:
    export = [task(SAMPLES[0], result("bike", type="rectanglelabels", key="rectanglelabels")), task(SAMPLES[1])]
    taken, problems, _, _ = imported(written(tmp_path, export))
    assert taken == [] and problems == [
        'export.json, task 1: the answer of the control "label" is no choice (rectanglelabels), and so no class'
    ]


def test_null_is_absent_and_a_skipped_answer_blocks_nothing(tmp_path: Path) -> None:
    export = [
        task(SAMPLES[0], result("bike")),
        task(SAMPLES[1], result=None),
        {"data": {"sample": SAMPLES[2], "path": None}, "annotations": None},
        {"data": {"sample": SAMPLES[3]}, "annotations": [None]},
        task(SAMPLES[4], result("bike", "car"), was_cancelled=True),
        task(SAMPLES[5], result("car"), completed_by=None),
        {"data": {"sample": "f" * 64}, "annotations": [{"result": [], "was_cancelled": True}]},  # of another project
    ]
    taken, problems, rows, _ = imported(written(tmp_path, export))
    assert taken == [(SAMPLES[0], "bike", "1"), (SAMPLES[5], "car", "me")] and problems == []
    assert rows["empty"] == [f"export.json, task {number}" for number in (2, 3, 4)]
    assert rows["skipped"] == ["export.json, task 5", "export.json, task 7"]


def test_the_same_choice_twice_is_one(tmp_path: Path) -> None:
    taken, problems, _, _ = imported(written(tmp_path, [task(SAMPLES[0], result("bike"), result("bike"))]))
    assert [label for _, label, _ in taken] == ["bike"] and problems == []


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_json_in_other_encodings(encoding: str, tmp_path: Path) -> None:
    export = written(tmp_path, [task(SAMPLES[0], result(VELO))], encoding=encoding)
    assert imported(export)[0] == [(SAMPLES[0], VELO, "1")]


def test_a_key_that_comes_twice_is_refused(tmp_path: Path) -> None:
    text = f'[{{"sample": "{SAMPLES[0]}", "label": "bike", "label": "car"}}]'
    with pytest.raises(UserError, match='two values of "label" in one object'):
        imported(written(tmp_path, text))


# JSON-MIN, CSV and TSV


def minimal(sample: str, label: Any = "bike", control: str = "label", **more: Any) -> dict[str, Any]:
    record = {"image": "data:,", "sample": sample, "path": KNOWN[sample], "order": 1, "id": 7, control: label}
    return record | {"annotator": 3, "annotation_id": 9, "updated_at": "2026-02-03", "lead_time": 1.5} | more


def as_table(records: list[dict[str, Any]], delimiter: str = ",") -> str:
    """Rows as Label Studio's converter writes them: what is no text becomes JSON."""
    file = io.StringIO()
    writer = csv.DictWriter(
        file, list(dict.fromkeys(name for record in records for name in record)), delimiter=delimiter
    )
    writer.writeheader()
    for record in records:
        writer.writerow({k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in record.items()})
    return file.getvalue()


@pytest.mark.parametrize("form", ["json", "csv", "tsv"])
def test_the_smaller_exports_of_label_studio(form: str, tmp_path: Path) -> None:
    records = [
        minimal(SAMPLES[0]),
        minimal(SAMPLES[1], {"choices": ["bike", "car"]}),
        minimal(SAMPLES[2], {"choices": ["car"]}),
        minimal(SAMPLES[3], [{"choices": ["bike"]}, {"choices": ["car"]}]),
        minimal(SAMPLES[4], ""),
        minimal(SAMPLES[5], VELO, quality="car"),
    ]
    content = records if form == "json" else as_table(records, "\t" if form == "tsv" else ",")
    taken, problems, rows, notes = imported(written(tmp_path, content, f"export.{form}"))
    assert taken == [(SAMPLES[0], "bike", "3"), (SAMPLES[2], "car", "3"), (SAMPLES[5], VELO, "3")] and notes == []
    assert len(problems) == 2 and all("2 classes are chosen (bike, car)" in problem for problem in problems)
    assert len(rows["empty"]) == 1
    answers = read_answers(tmp_path / f"export.{form}", annotator="me", when="now")
    assert answers[0].when == "2026-02-03"


@pytest.mark.parametrize("form", ["json", "csv"])
def test_the_smaller_exports_with_another_control(form: str, tmp_path: Path) -> None:
    def read(*records: dict[str, Any]) -> Any:
        return imported(written(tmp_path, list(records) if form == "json" else as_table(list(records)), f"e.{form}"))

    taken, _, _, notes = read(minimal(SAMPLES[0], "bike", "species"))
    assert taken == [(SAMPLES[0], "bike", "3")] and 'from the control "species"' in notes[0]
    with pytest.raises(UserError, match='but of "quality"'):
        read(minimal(SAMPLES[0], "good", "quality"))
    with pytest.raises(UserError, match='but of "species" .*, "quality"'):
        read(minimal(SAMPLES[0], "bike", "species", quality="car"))


def test_a_class_that_looks_like_json_is_a_class(tmp_path: Path) -> None:
    classes = ("[1]", '["a"]', "{x}")
    rows = [f'{sample},"{name.replace(chr(34), 2 * chr(34))}"' for sample, name in zip(SAMPLES, classes, strict=False)]
    taken, problems, _, _ = imported(written(tmp_path, "\n".join(["sample,label", *rows]), "a.csv"), classes)
    assert [label for _, label, _ in taken] == list(classes) and problems == []


# Spreadsheets


PLAIN = f"sample,label,annotator\r\n{SAMPLES[0]},bike,ann\r\n{SAMPLES[1]},{VELO},bob\r\n"


@pytest.mark.parametrize(
    ("name", "text", "encoding"),
    [
        ("Excel, CSV UTF-8", PLAIN, "utf-8-sig"),
        ("Excel, semicolons", PLAIN.replace(",", ";"), "utf-8-sig"),
        ("Excel, sep=,", "sep=,\r\n" + PLAIN, "utf-8"),
        ("Excel, sep=;", "sep=;\r\n" + PLAIN.replace(",", ";"), "utf-8-sig"),
        ("Excel, Unicode text", PLAIN.replace(",", "\t"), "utf-16"),
        ("Excel, blank rows", PLAIN + ",,\r\n" * 4, "utf-8"),
        ("Excel, spaces", PLAIN.replace("bike", "bike "), "utf-8"),
        ("LibreOffice", PLAIN.replace("\r\n", "\n"), "utf-8"),
        ("LibreOffice, all quoted", PLAIN.replace(",", '","').replace("\r\n", '"\n"')[:-1].join('"\n'), "utf-8"),
        ("Google Sheets, TSV", PLAIN.replace(",", "\t"), "utf-8"),
        ("macOS, decomposed", unicodedata.normalize("NFD", PLAIN), "utf-8"),
        ("old Mac", PLAIN.replace("\r\n", "\r"), "utf-8"),
    ],
)
def test_a_label_file_is_the_same_in_every_form(name: str, text: str, encoding: str, tmp_path: Path) -> None:
    taken, problems, rows, _ = imported(written(tmp_path, text, "labels.csv", encoding))
    assert taken == [(SAMPLES[0], "bike", "ann"), (SAMPLES[1], VELO, "bob")] and problems == []
    assert not any(rows.values())


def test_a_row_has_the_number_that_a_spreadsheet_shows(tmp_path: Path) -> None:
    text = f'sep=;\nsample;path;label\n{SAMPLES[0]};"a\nb";bike\n;;\n{SAMPLES[1]};c;bik\n'
    assert imported(written(tmp_path, text, "labels.csv"))[1] == [
        'labels.csv, row 4: there is no class "bik" (did you mean "bike"?)'
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"sample,label,label\n{SAMPLES[0]},bike,car\n", 'two columns "label"'),
        (f"sample,label,LABEL \n{SAMPLES[0]},bike,car\n", 'two columns "label"'),
        (f"sample,label,\n{SAMPLES[0]},,bike\n", r'value \("bike"\) in a column without a name'),
        (f'sample,label\n{SAMPLES[0]},"bike\n{SAMPLES[1]},car\n', "a quote is opened and never closed"),
        ("sample,species\nx,bike\n", r'no column "label" \(but sample, species\)'),
    ],
)
def test_what_would_be_lost_is_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        imported(written(tmp_path, text, "labels.csv"))


def test_a_workbook_in_the_place_of_a_csv_is_named(tmp_path: Path) -> None:
    (tmp_path / "labels.xlsx").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match="workbook of a spreadsheet program: save its sheet as CSV in UTF-8"):
        imported(tmp_path / "labels.xlsx")


def test_one_person_in_two_unicode_forms_is_one(tmp_path: Path) -> None:
    names = (f"Zo{chr(0xEB)}", unicodedata.normalize("NFD", f"Zo{chr(0xEB)}"))
    text = "sample,label,annotator\n" + "".join(f"{SAMPLES[0]},bike,{name}\n" for name in names)
    answers = read_answers(written(tmp_path, text, "a.csv"), annotator="me", when="now")
    labels, _, rows = validate(answers, known=KNOWN, classes=CLASSES)
    assert len(labels) == 1 and len(rows["repeated"]) == 1 and krippendorff_alpha(labels)[0] == 0


def test_a_label_has_the_spelling_of_the_run(tmp_path: Path) -> None:
    """A run whose classes are on record as macOS writes them: what people type is its class."""
    decomposed = unicodedata.normalize("NFD", VELO)
    answer = Answer(where="a", sample=SAMPLES[0], path="p", label=VELO, annotator="ann", when="now")
    (label,), problems, _ = validate([answer], known=KNOWN, classes=("bike", decomposed))
    assert label.label == decomposed and problems == []


# Answers that do not count


@pytest.mark.parametrize("flag", [True, 1, "true", "True", "1", "yes"])
def test_a_skipped_answer_is_skipped_in_every_form(flag: Any, tmp_path: Path) -> None:
    record = {"sample": SAMPLES[0], "label": "bike", "was_cancelled": flag}
    table = f"sample,label,annotation_id,was_cancelled\n{SAMPLES[0]},bike,1,{flag}\n"
    for path in (
        written(tmp_path, [task(SAMPLES[0], result("bike"), was_cancelled=flag)]),
        written(tmp_path, [record], "min.json"),
        written(tmp_path, table, "export.csv"),
    ):
        taken, problems, rows, _ = imported(path)
        assert taken == [] and problems == [] and len(rows["skipped"]) == 1


@pytest.mark.parametrize("flag", [False, 0, None, "false", "False", "", "0", "no"])
def test_a_flag_that_says_no_skips_nothing(flag: Any, tmp_path: Path) -> None:
    record = {"sample": SAMPLES[0], "label": "bike", "was_cancelled": flag}
    table = f"sample,label,annotation_id,was_cancelled\n{SAMPLES[0]},bike,1,{'' if flag is None else flag}\n"
    for path in (
        written(tmp_path, [task(SAMPLES[0], result("bike"), was_cancelled=flag)]),
        written(tmp_path, [record], "min.json"),
        written(tmp_path, table, "export.csv"),
    ):
        taken, _, rows, _ = imported(path)
        assert [label for _, label, _ in taken] == ["bike"] and rows["skipped"] == []


def test_an_answer_that_a_reviewer_rejected_does_not_count(tmp_path: Path) -> None:
    no, yes = ({"accepted": accepted, "created_at": f"2026-0{1 + accepted}-01"} for accepted in (False, True))
    export = [
        task(SAMPLES[0], result("bike"), reviews=[no]),
        task(SAMPLES[1], result("bike"), reviews=[yes, no]),  # accepted later
        task(SAMPLES[2], result("bike"), last_action="rejected"),
        task(SAMPLES[3], result("bike"), last_action="updated", reviews=[no]),  # mended since
        task(SAMPLES[4], result("bike"), reviews=[]),
    ]
    taken, problems, rows, _ = imported(written(tmp_path, export))
    assert [sample for sample, _, _ in taken] == [SAMPLES[1], SAMPLES[3], SAMPLES[4]] and problems == []
    assert rows["rejected"] == ["export.json, task 1", "export.json, task 3"]
    table = io.StringIO()
    csv.writer(table).writerows(
        [["sample", "label", "annotation_id", "reviews"], [SAMPLES[0], "bike", 1, json.dumps([no])]]
    )
    assert imported(written(tmp_path, table.getvalue(), "export.csv"))[2]["rejected"] == ["export.csv, row 2"]


@pytest.mark.parametrize("name", ["label.1", "Label2", "label (2)", "LABEL 1", "label_2"])
def test_a_second_column_of_labels_under_the_name_that_a_program_gives_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match='row 3 holds "car" in a second column of labels'):
        imported(
            written(tmp_path, f"sample,label,{name}\n{SAMPLES[0]},bike,bike\n{SAMPLES[1]},bike,car\n", "labels.csv")
        )
    same = written(tmp_path, f"sample,label,{name}\n{SAMPLES[0]},bike,bike\n{SAMPLES[1]},car,\n", "labels.csv")
    assert [label for _, label, _ in imported(same)[0]] == ["bike", "car"]
    control = f"sample,label,{name},annotation_id\n{SAMPLES[0]},bike,car,1\n"  # Label Studio's: a control of its own
    assert [label for _, label, _ in imported(written(tmp_path, control, "export.csv"))[0]] == ["bike"]


def test_one_person_with_a_no_break_space_is_one(tmp_path: Path) -> None:
    rows = f"{SAMPLES[0]},bike,Anna Lee\n{SAMPLES[0]},car,Anna\u00a0Lee\n"
    taken, problems, _, _ = imported(written(tmp_path, f"sample,label,annotator\n{rows}", "labels.csv"))
    assert len(taken) == 1 and len(problems) == 1 and 'Anna Lee says "car"' in problems[0]
