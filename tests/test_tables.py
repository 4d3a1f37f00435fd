"""Tables as spreadsheets and other systems write them: the same rows from each, and nothing lost without a word."""

import codecs
import errno
import os
import unicodedata
from pathlib import Path

import pytest
from test_folders import paint

from dan.class_names import class_name, class_names, doubtful_names, known_name
from dan.data.candidates import read_candidates
from dan.data.folders import read_images
from dan.data.image_tree import images_below
from dan.data.manifests import read_list, read_manifest, read_tree
from dan.errors import UserError
from dan.tables import read_table

PLAIN = "path,label,group\r\na.png,cat,1\r\nb.png,dog,2\r\n"
COMPOSED = "v\u00e9lo"
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)


def written(folder: Path, text: str | bytes, name: str = "list.csv") -> Path:
    for image in ("a.png", "b.png", "c.png", "d.png"):
        paint(folder / image)
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


FORMS: dict[str, bytes] = {
    "plain": PLAIN.encode(),
    "Linux line ends": PLAIN.replace("\r\n", "\n").encode(),
    "old Mac line ends": PLAIN.replace("\r\n", "\r").encode(),
    "no last line end": PLAIN.rstrip().encode(),
    "UTF-8 with a byte-order mark": codecs.BOM_UTF8 + PLAIN.encode(),
    "UTF-16 of Excel (Unicode text)": PLAIN.replace(",", "\t").encode("utf-16"),
    "UTF-16, big-endian": codecs.BOM_UTF16_BE + PLAIN.encode("utf-16-be"),
    "UTF-16 without a mark": PLAIN.encode("utf-16-le"),
    "UTF-16, big-endian, without a mark": PLAIN.encode("utf-16-be"),
    "UTF-32": codecs.BOM_UTF32_LE + PLAIN.encode("utf-32-le"),
    "semicolons": PLAIN.replace(",", ";").encode(),
    "tabs": PLAIN.replace(",", "\t").encode(),
    "sep=, in the first line": b"sep=,\r\n" + PLAIN.encode(),
    "sep=; in the first line": b"sep=;\r\n" + PLAIN.replace(",", ";").encode(),
    "SEP=| in the first line": b"SEP=|\r\n" + PLAIN.replace(",", "|").encode(),
    "sep= and a tab": b"sep=\t\r\n" + PLAIN.replace(",", "\t").encode(),
    "quoted sep=;": b'"sep=;"\r\n' + PLAIN.replace(",", ";").encode(),
    "sep=; after a byte-order mark": codecs.BOM_UTF8 + b"sep=;\r\n" + PLAIN.replace(",", ";").encode(),
    "sep=, saved again by LibreOffice": b"sep=,,,\n" + PLAIN.encode(),
    "blank rows at the end": PLAIN.encode() + b",,\r\n" * 3 + b"\r\n",
    "rows of spaces at the end": PLAIN.encode() + b" , ,\xc2\xa0\r\n",
    "a blank row above": b",,\r\n" + PLAIN.encode(),
    "empty columns at the end": PLAIN.replace("\r\n", ",,\r\n").encode(),
    "spaces around cells": PLAIN.replace(",", " , ").replace("\r\n", " \r\n").encode(),
    "no-break spaces": PLAIN.replace("cat", "cat\u00a0").replace("dog", "\u00a0dog").encode(),
    "zero-width spaces": PLAIN.replace("cat", "cat\u200b").encode(),
    "every cell in quotes": ("\r\n".join('"' + r.replace(",", '","') + '"' for r in PLAIN.split())).encode(),
    "another order of columns": b"group,label,path\n1,cat,a.png\n2,dog,b.png\n",
    "names of columns in capitals": PLAIN.replace("path,label,group", "Path, LABEL ,Group").encode(),
    "Windows paths": PLAIN.replace("a.png", ".\\a.png").encode(),
    "paths that begin with ./": PLAIN.replace("a.png", "./a.png").encode(),
    "pandas' first column": b",path,label,group\n0,a.png,cat,1\n1,b.png,dog,2\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_a_manifest_is_the_same_in_every_form(form: str, tmp_path: Path) -> None:
    listing = read_manifest(written(tmp_path, FORMS[form]))
    assert listing.names == ("a.png", "b.png") and listing.targets == (0, 1)
    assert listing.classes == ("cat", "dog") and listing.groups == ("1", "2")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_may_hold_letters_with_a_zero_on_the_other_side(encoding: str, tmp_path: Path) -> None:
    text = "path,label\na.png,\u4e00\nb.png,\u0100\nc.png,\u4e00\n"
    assert set(read_manifest(written(tmp_path, text.encode(encoding))).classes) == {"\u4e00", "\u0100"}


def test_tsv_is_a_manifest_too(tmp_path: Path) -> None:
    text = PLAIN.replace(",", "\t").replace("\tgroup", "").replace("\t1", "").replace("\t2", "")
    assert read_images(written(tmp_path, text, "list.tsv")).classes == ("cat", "dog")


def test_a_cell_may_hold_line_ends_and_delimiters(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(b'a;b\r\n"x;\r\ny";1\r\n\r\nz;2\r\n')
    table = read_table(tmp_path / "list.csv")
    assert [(row.number, row.line, dict(row.cells)) for row in table.rows] == [
        (2, 2, {"a": "x;\r\ny", "b": "1"}),
        (4, 5, {"a": "z", "b": "2"}),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,label,label\na.png,cat,dog\n", 'two columns "label"'),
        ("path,label,Label \na.png,cat,\n", 'two columns "label"'),
        ("path;path;label\na.png;b.png;cat\n", 'two columns "path"'),
        ("path,label\na.png,cat,dog\n", "line 2 has 3 fields, and the header 2"),
        ("path,label,\na.png,,cat\nb.png,dog,\n", r'line 2 has a value \("cat"\) in a column without a name'),
        ('path,label\n"a.png,cat\nb.png,dog\n', "row 2: a quote is opened and never closed"),
        (b"path,label\na.png,caf\xe9\n", r"cannot be read as CSV in UTF-8 or UTF-16: it is not UTF-8 \(byte 20\)"),
        (b"PK\x03\x04workbook", "is a workbook of a spreadsheet program: save its sheet as CSV in UTF-8"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is a workbook of a spreadsheet program"),
        ("path,label\na.png,cat\n./a.png,dog\n", "line 3 names a.png a second time"),
        ("path,label\na.png,cat\n.\\a.png,dog\n", "line 3 names a.png a second time"),
    ],
)
def test_what_would_be_lost_is_refused_in_one_line(text: str | bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as error:
        read_manifest(written(tmp_path, text))
    assert "\n" not in str(error.value)


# Names of classes


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (COMPOSED, DECOMPOSED),
        ("\u212bngstr\u00f6m", "\u00c5ngstro\u0308m"),  # the sign for the unit, and the letter
        ("\ud55c\uae00", unicodedata.normalize("NFD", "\ud55c\uae00")),  # Hangul
        ("bike", "bike "),
        ("bike", "\tbike\u00a0"),
        ("bike", "\ufeffbike\u200b"),
        ("traffic light", "traffic\u00a0light"),
        ("traffic light", " traffic \u2003\n light"),
        ("traffic light", "traf\u00adfic light"),  # a soft hyphen, from a text or a web page
        ("v\u00e9lo", "ve\u200b\u0301lo"),
    ],
)
def test_names_that_look_the_same_are_the_same(one: str, other: str) -> None:
    assert one != other and class_name(one) == class_name(other) == class_name(class_name(one))
    assert known_name(other, ["x", one]) == one and known_name(one, ["x", other]) == other


def test_names_that_look_otherwise_are_others() -> None:
    assert len(set(class_names(["bike", "Bike", "bikes", "b ike", "x\u00b2", "x2", "velo", COMPOSED]))) == 8
    assert known_name("bik", ["bike"]) is None


def test_folders_of_two_domains_agree_whatever_their_unicode_form(tmp_path: Path) -> None:
    for domain, name, space in (("s", COMPOSED, " "), ("t", DECOMPOSED, "")):
        paint(tmp_path / domain / name / "a.png")
        paint(tmp_path / domain / f"bike{space}" / "a.png")
    source, target = read_tree(tmp_path / "s"), read_tree(tmp_path / "t")
    assert sorted(source.classes) == sorted(target.classes) == ["bike", COMPOSED]


@pytest.mark.parametrize(("one", "other"), [(COMPOSED, DECOMPOSED), ("bike", "bike "), ("bike", "bike\u00a0")])
def test_two_folders_of_one_class_are_refused(one: str, other: str, tmp_path: Path) -> None:
    for name in (one, other, "zebra"):
        paint(tmp_path / name / "a.png")
    with pytest.raises(UserError, match=f'holds two folders of the class "{one}", .* put their images into one') as e:
        read_tree(tmp_path)
    assert ascii(one) in str(e.value) and ascii(other) in str(e.value)


def test_a_class_folder_in_no_unicode_is_refused(tmp_path: Path) -> None:
    paint(tmp_path / "a" / "a.png")
    (tmp_path / b"caf\xe9".decode(errors="surrogateescape")).mkdir()
    with pytest.raises(UserError, match=r'"caf\\udce9" in .* is no name of a class in Unicode: rename the folder'):
        read_tree(tmp_path)


def test_a_manifest_with_both_forms_of_a_name_has_one_class_and_one_group(tmp_path: Path) -> None:
    rows = [f"a.png,{COMPOSED},{COMPOSED}", f"b.png,{DECOMPOSED},{DECOMPOSED} ", "c.png,x,x"]
    listing = read_manifest(written(tmp_path, "\n".join(["path,label,group", *rows])))
    assert listing.classes == (COMPOSED, "x") and listing.targets == (0, 0, 1)
    assert listing.groups is not None and listing.groups[0] == listing.groups[1]
    text = f"path,label,candidate\na.png,{COMPOSED},{COMPOSED}\nb.png,{DECOMPOSED},{DECOMPOSED}\nc.png,x,y\n"
    found = read_candidates(written(tmp_path, text))
    assert found.owners == (COMPOSED, COMPOSED, "y")


def test_a_path_in_the_other_unicode_form_is_the_file_that_is_there(tmp_path: Path) -> None:
    paint(tmp_path / f"{DECOMPOSED}.png")
    listing = read_manifest(written(tmp_path, f"path,label\n{COMPOSED}.png,a\nb.png,b\n"))
    assert listing.names == (f"{DECOMPOSED}.png", "b.png")
    with pytest.raises(UserError, match="line 3 names .* a second time"):
        read_manifest(written(tmp_path, f"path,label\n{COMPOSED}.png,a\n{DECOMPOSED}.png,b\n"))


def test_a_list_that_numbers_a_class_twice_is_refused(tmp_path: Path) -> None:
    for name in ("x/cat", "y/cat"):
        paint(tmp_path / name / "a.png")
    (tmp_path / "list.txt").write_text("\ufeffx/cat/a.png 0\ny/cat/a.png 1\n")
    with pytest.raises(UserError, match='gives two numbers to the class "cat"'):
        read_list(tmp_path / "list.txt", tmp_path)


def test_labels_that_are_all_minus_one_are_unknown(tmp_path: Path) -> None:
    listing = read_manifest(written(tmp_path, "path,label\na.png,-1\nb.png,-1\n"))
    assert listing.targets == (-1, -1) and not listing.labelled


# What systems leave in folders


@pytest.mark.parametrize(
    "name",
    [
        "._a.png", ".DS_Store", "Icon\r", "__MACOSX/a/b.png", "Thumbs.db", "ehthumbs.db", "desktop.ini",
        "$RECYCLE.BIN/a.png", "a.png:Zone.Identifier", "@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", "#recycle/a.png",
        "lost+found/a.png", "@Recycle/a.png", "#snapshot/a.png", "RECYCLER/a.png",
        "Picasa.ini", ".directory", ".Trash-1000/files/a.png",
    ],
)  # fmt: skip
def test_what_systems_leave_behind_is_no_image(name: str, tmp_path: Path) -> None:
    from dan.data.image_tree import images_below

    for label in ("cat", "dog"):
        paint(tmp_path / label / "a.png")
    for folder in (tmp_path, tmp_path / "cat"):
        if folder == tmp_path or "/" not in name:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"x")
    assert read_tree(tmp_path).names == ("cat/a.png", "dog/a.png")
    assert images_below(tmp_path) == (["cat/a.png", "dog/a.png"], [])


def test_images_of_phones_are_read_or_refused_with_advice(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        paint(tmp_path / label / "a.jpg").rename(tmp_path / label / "a.JFIF")
    assert read_tree(tmp_path).names == ("cat/a.JFIF", "dog/a.JFIF")
    (tmp_path / "cat" / "IMG_1.HEIC").write_bytes(b"x")
    with pytest.raises(UserError, match=r"no images \(IMG_1.HEIC\): Pillow does not read HEIC: save them as JPEG"):
        read_tree(tmp_path)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cat", "Cat"), ("TRUE", "true"), ("cat", "cat."), ("cat", "'cat'"), ("cat", "\uff43\uff41\uff54"),
        ("traffic light", "traffic_light"), ("dog", "dog - Copy"), ("dog", "dog (2)"), ("1", "1.0"), ("1", "01"),
        ("0", "0,0"), ("7", "\u0667"),
    ],
)  # fmt: skip
def test_names_that_are_hardly_two_classes_are_warned_of(
    one: str, other: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listing = read_manifest(written(tmp_path, f'path,label\na.png,"{one}"\nb.png,"{other}"\nc.png,zebra\n'))
    assert len(listing.classes) == 3
    error = capsys.readouterr().err
    assert error.startswith("warning: ") and error.count("\n") == 1
    assert f'"{one}"' in error and f'"{other}"' in error and "write them alike if they are one class" in error


@pytest.mark.parametrize("names", [("a", "A"), ("-1", "1"), ("x2", "x\u00b3"), ("type (1)", "type (2)"), ("1.5", "15")])
def test_names_that_are_two_classes_are_not_warned_of(
    names: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read_manifest(written(tmp_path, f"path,label\na.png,{names[0]}\nb.png,{names[1]}\n"))
    assert capsys.readouterr().err == ""


def test_many_doubtful_names_are_counted() -> None:
    lines = doubtful_names(Path("list.csv"), [name for i in range(10) for name in (f"p{i}", f"P{i}")], "group")
    assert len(lines) == 4 and lines[-1] == "list.csv: 7 more names like these"


def test_doubtful_folders_groups_candidates_and_no_values_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("Cat", "cat"):
        paint(tmp_path / "tree" / name / "a.png")
    read_tree(tmp_path / "tree")
    assert '"Cat" and "cat" count as two' in capsys.readouterr().err
    read_manifest(written(tmp_path, "path,label,group\na.png,x,P1\nb.png,y,p1\n"))
    assert '"P1" and "p1" count as two: write them alike if they are one group' in capsys.readouterr().err
    read_candidates(written(tmp_path, "path,label,candidate\na.png,x,1\nb.png,y,1.0\n"))
    assert "if they are one candidate" in capsys.readouterr().err
    read_manifest(written(tmp_path, "path,label\na.png,x\nb.png,y\nc.png,nan\n"))
    assert 'a class is called "nan": leave the label empty' in capsys.readouterr().err


@pytest.mark.parametrize(
    "cell", ["#N/A", "#REF!", "#NAME?", "#DIV/0!", "#NV", "#BEZUG!", "#\u00a1VALOR!", "#####", "Err:502", "#N/D"]
)
def test_what_a_spreadsheet_writes_for_an_error_is_no_class(cell: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line 3 holds .* which a spreadsheet writes for what it cannot compute"):
        read_manifest(written(tmp_path, f"path,label\na.png,cat\nb.png,{cell}\nc.png,dog\n"))
    with pytest.raises(UserError, match="line 2 holds"):
        read_candidates(written(tmp_path, f"path,label,candidate\na.png,cat,{cell}\nb.png,dog,2\n"))


def test_one_folder_is_not_two_classes(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        paint(tmp_path / name / "a.png")
    (tmp_path / "kitten").symlink_to("cat")
    with pytest.raises(UserError, match="cat and .*kitten are one folder"):
        read_tree(tmp_path)


def test_a_folder_below_a_pool_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        paint(tmp_path / name / "x.png")
    scan = os.scandir

    def refused(path: str) -> object:
        if Path(path).name == "b":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(UserError, match="b cannot be read .Permission denied.: its images would be missing"):
        images_below(tmp_path)
