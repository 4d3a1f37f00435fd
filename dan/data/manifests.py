"""Which images a domain holds, in which classes: read from a folder tree, a CSV manifest or a list, none decoded yet.

The order is that of the names, or of the list, so it is the same on every machine. What does not look like one domain
(one class only, a folder too many, stray files) is refused here: it would train on something else than was meant.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from dan.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
UNLABELLED = -1  # the target of an image whose class nobody has told

LONGEST = 18  # digits of a number that stands for a class: Python itself refuses to read thousands

_HARMLESS_NAMES = ("thumbs.db", "desktop.ini", "__macosx")
_HARMLESS_SUFFIXES = (".txt", ".md")
_NAMED = 3  # of many offenders this many are named, and the rest counted


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The images of one domain: `names[i]` lies at `root / names[i]` and is of class `classes[targets[i]]`.

    place: the folder or file that it was read from, for messages. targets: all UNLABELLED where classes are unknown.
    groups: what belongs together (a patient, a series), one name an image, or None.
    """

    place: Path
    root: Path
    names: tuple[str, ...]
    targets: tuple[int, ...]
    classes: tuple[str, ...]
    groups: tuple[str, ...] | None = None

    @property
    def labelled(self) -> bool:
        """Whether the images have labels."""
        return bool(self.classes)


def some(words: Iterable[object], *, most: int = _NAMED) -> str:
    """`a, b, c and 4 more`: the first few of a list that may be long."""
    listed = [str(word) for word in words]
    rest = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {rest} more" if rest > 0 else "")


def read_tree(folder: Path, *, unlabelled: bool = False) -> Listing:
    """A tree DIR/<class>/<image>, as torchvision's ImageFolder reads it; classes and images in the order of the names.

    unlabelled: a flat folder of images, DIR/<image>, is taken too, with every target UNLABELLED. Hidden files,
    Thumbs.db, desktop.ini, *.txt and *.md are passed over.

    Raises UserError for a missing or empty folder, for fewer than two classes, for a class without images, for images
    that are not directly in a class folder (with the folder that was probably meant), and for any other file.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: a domain is a tree of {folder}/<class>/<image>")
    files, folders = _inside(folder)
    _refuse_strangers(folder, files)
    if files and folders:
        raise UserError(
            f"{folder} holds both images ({some(file.name for file in files)}) and folders "
            f"({some(sub.name for sub in folders)}): a domain is a tree of {folder}/<class>/<image>"
        )
    if files and unlabelled:
        flat = tuple(file.name for file in files)
        return Listing(place=folder, root=folder, names=flat, targets=(UNLABELLED,) * len(flat), classes=())
    if files:
        raise UserError(
            f"{folder} holds images but no folders of classes: labels are read from a tree of {folder}/<class>/<image>"
        )
    if not folders:
        raise UserError(f"{folder} is empty: a domain is a tree of {folder}/<class>/<image>")

    names: list[str] = []
    targets: list[int] = []
    insides = [_inside(sub) for sub in folders]
    _refuse_nesting(folder, folders, insides)
    if len(folders) == 1:
        raise UserError(f"{folder} holds one class only ({folders[0].name}): a classifier needs at least two")
    for target, (sub, (files, _)) in enumerate(zip(folders, insides, strict=True)):
        if not files:
            raise UserError(f"{sub} is a class without images: remove the folder, or fill it")
        _refuse_strangers(sub, files)
        names += [f"{sub.name}/{file.name}" for file in files]
        targets += [target] * len(files)
    return Listing(
        place=folder,
        root=folder,
        names=tuple(names),
        targets=tuple(targets),
        classes=tuple(sub.name for sub in folders),
    )


def _inside(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files and the folders in a folder, by name, without what is known to be harmless."""
    files, folders = [], []
    try:
        paths = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror})") from None
    for path in paths:
        if path.name.startswith(".") or path.name.lower() in _HARMLESS_NAMES:
            continue
        if path.is_dir():
            folders.append(path)
        elif path.suffix.lower() not in _HARMLESS_SUFFIXES:
            files.append(path)
    return files, folders


def _refuse_strangers(folder: Path, files: Sequence[Path]) -> None:
    strangers = [file.name for file in files if file.suffix.lower() not in IMAGE_SUFFIXES]
    if strangers:
        raise UserError(
            f"{folder} holds files that are no images ({some(strangers)}): remove them, or name images only"
        )


def _refuse_nesting(folder: Path, folders: Sequence[Path], insides: Sequence[tuple[list[Path], list[Path]]]) -> None:
    """Images must lie directly in the class folders: one folder more, and what are called classes are none."""
    deep = [(sub, inner) for sub, (_, inner) in zip(folders, insides, strict=True) if inner]
    if not deep:
        return
    sub, inner = deep[0]
    # The nearest folder below whose subfolders hold images themselves is the one that was meant.
    meant = _tree_below(sub)
    if meant is not None and len(deep) == len(folders):
        lies = "a folder too many" if len(folders) == 1 else "folders of domains, or of something else, not of classes"
        raise UserError(f"{folder} holds {lies} ({some(s.name for s in folders)}): did you mean {meant}?")
    raise UserError(
        f"{inner[0]} is one folder too deep: images lie directly in {folder}/<class>/ (a CSV manifest can list others)"
    )


def _tree_below(folder: Path) -> Path | None:
    for _ in range(5):
        files, folders = _inside(folder)
        if files or not folders:
            return None
        if _inside(folders[0])[0]:
            return folder
        folder = folders[0]
    return None


def read_manifest(file: Path) -> Listing:
    """A CSV file with the header `path,label` or `path,label,group` and one line an image; classes in sorted order.

    A path is relative to the file's own folder, and stays inside it. Labels are names; where all are whole numbers they
    are sorted as such. A column of empty labels means that all are unknown. group: what belongs together (a patient, a
    series).

    Raises UserError, with the line's number, for a missing or empty file, another header, a line of another length, an
    absolute path or one that leads out, a file that is not there, a path that comes twice, labels for some only, and
    one class only.
    """
    try:
        with open(file, encoding="utf-8-sig", newline="") as opened:
            rows = list(csv.reader(opened))
    except FileNotFoundError:
        raise UserError(f"{file} does not exist: name a folder of images, or a CSV manifest") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror or error})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} cannot be read as CSV in UTF-8 ({error})") from None
    header = [word.strip().lower() for word in rows[0]] if rows else []
    if header not in (["path", "label"], ["path", "label", "group"]):
        raise UserError(
            f'{file} begins with "{_shown(",".join(header))}": its first line must be path,label or path,label,group'
        )
    root, names, labels, groups = file.parent, [], [], []
    seen: set[str] = set()
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        where = f"{file}, line {number}"
        if len(row) != len(header):
            raise UserError(f"{where} has {len(row)} fields, and the header {len(header)}")
        name = row[0].strip()
        _refuse_outside(root, name, where)
        if name in seen:
            raise UserError(f"{where} names {_shown(name)} a second time")
        seen.add(name)
        names.append(name)
        labels.append(row[1].strip())
        groups.append(row[2].strip() if len(row) == 3 else "")
    if not names:
        raise UserError(f"{file} lists no images")
    classes = _sorted_classes(set(labels) - {""})
    if classes and "" in labels:
        raise UserError(
            f"{file}: {labels.count('')} of {len(labels)} lines have no label: give all of them one, or none"
        )
    if len(classes) == 1:
        raise UserError(f"{file} holds one class only ({classes[0]}): a classifier needs at least two")
    position = {name: index for index, name in enumerate(classes)} | {"": UNLABELLED}
    return Listing(
        place=file,
        root=root,
        names=tuple(names),
        targets=tuple(position[label] for label in labels),
        classes=classes,
        groups=tuple(groups) if len(header) == 3 else None,
    )


def _sorted_classes(names: set[str]) -> tuple[str, ...]:
    numbers = all(name.isdecimal() and len(name) <= LONGEST for name in names)
    return tuple(sorted(names, key=lambda name: (int(name) if numbers else 0, name)))


def _refuse_outside(root: Path, name: str, where: str) -> None:
    """A list may come from others: it names what lies beside it, and no other file of the machine."""
    path = PurePosixPath(name.replace("\\", "/"))
    if not name or path.is_absolute() or Path(name).is_absolute() or ".." in path.parts:
        raise UserError(
            f'{where}: "{_shown(name)}" leads out of {root}: paths are relative to that folder, and stay inside it'
        )
    file = root / name
    try:
        there = file.is_file()
        inside = there and file.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError):  # a name of thousands of letters, links in a circle, a zero byte
        there = False
    if not there:
        raise UserError(f"{where}: there is no file {_shown(str(file))}")
    if not inside:
        raise UserError(f'{where}: "{name}" is a link that leads out of {root}')


def _shown(name: str, most: int = 200) -> str:
    """A name no longer than a line tells of."""
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
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as a list in UTF-8 ({error})") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        name, _, target = line.strip().rpartition(" ")
        if not name or not target.isdecimal() or len(target) > LONGEST:
            raise UserError(
                f'{where} is "{_shown(line.strip())}": it must be a path, a space, and the number of a class'
            )
        _refuse_outside(root, name, where)
        folder = PurePosixPath(name).parent.name
        if classes.setdefault(int(target), folder) != folder:
            raise UserError(f"{where} calls class {target} {folder}, and an earlier line {classes[int(target)]}")
        names.append(name)
        targets.append(int(target))
    if not names or sorted(classes) != list(range(len(classes))):
        raise UserError(f"{file} must list images of the classes 0, 1, 2, ... without a gap")
    ordered = tuple(classes[index] for index in range(len(classes)))
    return Listing(place=file, root=root, names=tuple(names), targets=tuple(targets), classes=ordered)


def agreed_classes(
    source: tuple[Path, Sequence[str]], target: tuple[Path, Sequence[str]], wanted: Sequence[str] = ()
) -> tuple[str, ...]:
    """The classes of a transfer, in the source's order, from what each side (its place, its classes) holds.

    wanted: () takes all, and they must be the same on both sides; ("shared",) takes those on both sides; any other
    names are the classes to take. A target without classes (unlabelled) agrees with any source.

    Raises UserError that names the classes on one side only, and for fewer than two classes.
    """
    (source_place, of_source), (target_place, of_target) = source, target
    of_target = of_target or of_source
    shared = tuple(name for name in of_source if name in set(of_target))
    if tuple(wanted) == ("shared",):
        chosen = shared
    elif wanted:
        for place, names in ((source_place, of_source), (target_place, of_target)):
            missing = [name for name in wanted if name not in names]
            if missing:
                raise UserError(f"{place} has no class {some(missing)}: it holds {some(names, most=12)}")
        chosen = tuple(name for name in of_source if name in set(wanted))
    else:
        chosen = tuple(of_source)
        one_sided = [
            f"only in {place}: {some(only, most=8)}"
            for place, only in (
                (source_place, [name for name in of_source if name not in set(of_target)]),
                (target_place, [name for name in of_target if name not in set(of_source)]),
            )
            if only
        ]
        if one_sided:
            raise UserError(
                f"the domains do not hold the same classes (a partial or open set); {'; '.join(one_sided)}: "
                f"make them equal, or take the {len(shared)} that both hold with --classes shared"
            )
    if len(chosen) < 2:
        raise UserError(
            f"{source_place} and {target_place} share {len(chosen)} classes: a classifier needs at least two"
        )
    return chosen


def restricted(listing: Listing, classes: Sequence[str]) -> Listing:
    """The images of those classes only, with targets that count in the order of `classes`; unlabelled ones all stay."""
    if not listing.labelled or listing.classes == tuple(classes):
        return listing
    position = {name: index for index, name in enumerate(classes)}
    to = [position.get(name) for name in listing.classes]
    rows = [i for i, target in enumerate(listing.targets) if to[target] is not None]
    return replace(
        listing,
        names=tuple(listing.names[i] for i in rows),
        targets=tuple(to[listing.targets[i]] or 0 for i in rows),
        classes=tuple(classes),
        groups=None if listing.groups is None else tuple(listing.groups[i] for i in rows),
    )
