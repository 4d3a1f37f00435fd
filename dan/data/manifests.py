"""Images that a text file lists, with their classes: a CSV manifest, or a list of `path number`. None is decoded yet.

The order is that of the file. What does not look like one domain is refused here, with the line.
"""

import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from dan.class_names import class_name, doubtful_names
from dan.data.image_tree import read_tree
from dan.data.listing import (
    IMAGE_SUFFIXES,
    MAX_DIGITS,
    UNLABELLED,
    Listing,
    agreed_classes,
    labels_to_targets,
    restricted,
    some,
)
from dan.errors import UserError, print_warnings
from dan.tables import ERROR_CELL, SUFFIXES, Row, Table, read_table, read_text

__all__ = [
    "IMAGE_SUFFIXES", "UNLABELLED", "Listing", "agreed_classes", "is_manifest", "listed_file", "manifest_rows",
    "read_list", "read_manifest", "read_tree", "restricted", "some",
]  # fmt: skip


def is_manifest(path: Path) -> bool:
    """Whether a path names a table rather than a folder."""
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


class MissingFile(UserError):
    """A list names a file, `name`, that is not there."""

    def __init__(self, line: str, name: str) -> None:
        super().__init__(line)
        self.name = name


def read_manifest(file: Path, missing: list[str] | None = None) -> Listing:
    """A table with the columns path, label and perhaps group, and one line an image; classes in sorted order.

    See `dan.tables` for its forms (CSV with commas, semicolons or tabs). A path is relative to the file's own folder,
    and stays inside it. Labels are names; where all are whole numbers they are sorted as such. Labels that
    are all empty, or all -1, are unknown. group: what belongs together (a patient, a series).
    missing: gets the names of files that are not there, whose lines are left out; None refuses them.

    Raises UserError, with the line's number, for a missing or empty file, other columns, a line of another length, an
    absolute path or one that leads out, a file that is not there, a path that comes twice, labels for some only, and
    one class only.
    """
    table = manifest_rows(
        file, (("path", "label"), ("path", "label", "group")), "a folder of images, or a CSV manifest"
    )
    root, names, labels, groups = file.parent, [], [], []
    listed: set[str] = set()
    for row in table.rows:
        where = f"{file}, line {row.line}"
        try:
            name = listed_file(root, row.cells["path"], where)
        except MissingFile as gone:
            if missing is None:
                raise
            missing.append(gone.name)
            continue
        if name in listed:
            raise UserError(f"{where} names {shown(name)} a second time")
        listed.add(name)
        names.append(name)
        labels.append(class_name(row.cells["label"]))
        groups.append(class_name(row.cells.get("group", "")))
    if not names:
        raise UserError(f"{file} lists no images")
    targets, classes = labels_to_targets(labels, file)
    print_warnings(doubtful_names(file, groups, "group"))
    return Listing(
        place=file,
        root=root,
        names=tuple(names),
        targets=targets,
        classes=classes,
        groups=tuple(groups) if "group" in table.columns else None,
    )


def manifest_rows(file: Path, headers: Sequence[tuple[str, ...]], kinds: str) -> Table:
    """The table in `file`, with the columns of one of these headers, in any order. kinds: what to name, for messages.

    Raises UserError for a missing file, other columns, a line that is too short, and a cell in which a spreadsheet
    wrote that it could not compute it.
    """
    if not file.exists():
        raise UserError(f"{file} does not exist: name {kinds}")

    def check(header: str, columns: Sequence[str]) -> None:
        if set(columns) not in map(set, headers):
            expected = " or ".join(",".join(known) for known in headers)
            raise UserError(f'{file} begins with "{shown(header)}": its first line must be {expected}')

    table = read_table(file, headers[0], check)
    for row in table.rows:
        _refuse_short(row, table)
        broken = next((cell for cell in row.cells.values() if ERROR_CELL.fullmatch(cell)), None)
        if broken is not None:
            raise UserError(
                f'{file}, line {row.line} holds "{shown(broken)}", which a spreadsheet writes for what it cannot '
                "compute or show: mend the cell, and save the file again"
            )
    return table


def _refuse_short(row: Row, table: Table) -> None:
    if row.width < len(table.columns):
        raise UserError(f"{table.path}, line {row.line} has {row.width} fields, and the header {len(table.columns)}")


def listed_file(root: Path, name: str, where: str) -> str:
    """The path, relative to `root`, of the file that a list names so: a list may come from another system, which writes
    accents in another Unicode form, or \\ between folders.

    A list may come from others: it names what lies below it, and no other file of the machine. Raises UserError for any
    other name, and where there is no such file.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if not name or path.is_absolute() or Path(name).is_absolute() or ".." in path.parts:
        raise UserError(
            f'{where}: "{shown(name)}" leads out of {root}: paths are relative to that folder, and stay inside it'
        )
    spellings = [spelt for form in (name, str(path)) for spelt in (form, *_forms(form))]
    found = next((spelt for spelt in spellings if _is_file(root / spelt)), None)
    if found is None:
        raise MissingFile(f"{where}: there is no file {shown(str(root / name))}", name)
    if not (root / found).resolve().is_relative_to(root.resolve()):
        raise UserError(f'{where}: "{name}" is a link that leads out of {root}')
    return PurePosixPath(found).as_posix()  # without ./, so that one file has one name


def _forms(name: str) -> tuple[str, str]:
    return unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)


def _is_file(file: Path) -> bool:
    try:
        return file.is_file()
    except (OSError, RuntimeError, ValueError):  # a name of thousands of letters, links in a circle, a zero byte
        return False


def shown(name: str, most: int = 200) -> str:
    """A name no longer than fits into a message."""
    return name if len(name) <= most else f"{name[:most]}..."


def read_list(file: Path, root: Path) -> Listing:
    """A text file with `path number` a line, paths relative to `root`: the class is called as the image's folder.

    Raises UserError, with the line's number, for a line of another form, a path that leads out, a file that is not
    there, a class number that stands for two folders, and numbers that are not 0, 1, ..., C - 1.
    """
    if not file.is_file():
        raise UserError(f"{file} does not exist: it lists the images, one `path number` a line")
    names: list[str] = []
    targets: list[int] = []
    classes: dict[int, str] = {}
    for number, line in enumerate(read_text(file, "a list").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        name, _, target = line.strip().rpartition(" ")
        if not name or not target.isdecimal() or len(target) > MAX_DIGITS:
            raise UserError(
                f'{where} is "{shown(line.strip())}": it must be a path, a space, and the number of a class'
            )
        name = listed_file(root, name, where)
        folder = class_name(PurePosixPath(name).parent.name)
        if classes.setdefault(int(target), folder) != folder:
            raise UserError(f"{where} calls class {target} {folder}, and an earlier line {classes[int(target)]}")
        names.append(name)
        targets.append(int(target))
    if not names or sorted(classes) != list(range(len(classes))):
        raise UserError(f"{file} must list images of the classes 0, 1, 2, ... without a gap")
    ordered = tuple(classes[index] for index in range(len(classes)))
    twice = next((name for name in ordered if ordered.count(name) > 1), None)
    if twice is not None:
        raise UserError(f'{file} gives two numbers to the class "{twice}": number each class once')
    return Listing(place=file, root=root, names=tuple(names), targets=tuple(targets), classes=ordered)
