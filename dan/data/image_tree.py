"""A domain as a tree of folders, DIR/<class>/<image>, and what other programs leave in folders of images.

The order is that of the names, so it is the same on every machine. What does not look like one domain (one class only,
a folder too many, other files) is refused here: it would train on something else than was meant.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from dan.class_names import class_name, doubtful_names
from dan.data.listing import IMAGE_SUFFIXES, UNLABELLED, Listing, some
from dan.errors import UserError, print_warnings, printable

# What operating systems and stores of files put beside images (Windows, macOS, WSL, Synology, QNAP, ...); hidden
# files, which begin with a dot, apart.
SYSTEM_NAMES = (
    "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "#recycle", "$recycle.bin",
    "system volume information", "lost+found", "@recycle", "@recently-snapshot", "@tmp", "#snapshot", "recycler",
    "recycled", "found.000", "__pycache__", "zbthumbnail.info", "picasa.ini",
)  # fmt: skip
SYSTEM_SUFFIXES = (":zone.identifier",)
_TEXTS = (".txt", ".md")
_ADVICE = {
    suffix: f"Pillow does not read {format}: save them as JPEG or PNG"
    for suffix, format in (
        (".heic", "HEIC"),
        (".heif", "HEIF"),
        (".avif", "AVIF"),
        (".dng", "DNG"),
        (".jp2", "JPEG 2000"),
    )
}


def left_by_a_system(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or what a system leaves in folders by itself."""
    lower = name.lower()
    return name.startswith(".") or lower in SYSTEM_NAMES or lower.endswith(SYSTEM_SUFFIXES)


def read_tree(folder: Path, *, unlabelled: bool = False) -> Listing:
    """A tree DIR/<class>/<image>, as torchvision's ImageFolder reads it; classes and images in the order of the names.

    unlabelled: a flat folder of images, DIR/<image>, is taken too, with every target UNLABELLED. Passed over are hidden
    files, what systems leave behind (`SYSTEM_NAMES`), *.txt and *.md.

    Raises UserError for a missing or empty folder, for fewer than two classes, for two folders of one class, for a
    class without images, for images that are not directly in a class folder (with the folder that was probably meant),
    and for any other file.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: a domain is a tree of {folder}/<class>/<image>")
    files, folders = folder_content(folder)
    refuse_other_files(folder, files)
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
    contents = [folder_content(sub) for sub in folders]
    _refuse_nesting(folder, folders, contents)
    if len(folders) == 1:
        raise UserError(f"{folder} holds one class only ({folders[0].name}): a classifier needs at least two")
    classes = folder_classes(folders)
    for target, (sub, (files, _)) in enumerate(zip(folders, contents, strict=True)):
        if not files:
            raise UserError(f"{sub} is a class without images: remove the folder, or fill it")
        refuse_other_files(sub, files)
        names += [f"{sub.name}/{file.name}" for file in files]
        targets += [target] * len(files)
    return Listing(place=folder, root=folder, names=tuple(names), targets=tuple(targets), classes=classes)


def folder_classes(folders: Sequence[Path]) -> tuple[str, ...]:
    """The classes that these folders are named after, in their order.

    Raises UserError for two folders that are of one class, or are one (a link), and for a name that is empty or not in
    Unicode. Names that are hardly meant (`doubtful_names`) are warned of.
    """
    first: dict[str, Path] = {}
    linked: dict[str, Path] = {}
    for folder in folders:
        name = class_name(folder.name)
        if not name or any("\ud800" <= letter <= "\udfff" for letter in name):
            raise UserError(f'"{folder.name}" in {folder.parent} is no name of a class in Unicode: rename the folder')
        if name in first:
            raise UserError(
                f'{folder.parent} holds two folders of the class "{name}", {ascii(first[name].name)} and '
                f"{ascii(folder.name)}: put their images into one"
            )
        first[name] = folder
        other = linked.setdefault(os.path.realpath(folder), folder)
        if other != folder:
            raise UserError(
                f"{other} and {folder} are one folder (a link): its images cannot be of two classes; remove one of them"
            )
    print_warnings(doubtful_names(folders[0].parent, first) if folders else [])
    return tuple(first)


def folder_content(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files and the folders in a folder, by name, without what is passed over (see `read_tree`)."""
    files, folders = [], []
    try:
        paths = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror})") from None
    for path in paths:
        if left_by_a_system(path.name):
            continue
        if path.is_dir():
            folders.append(path)
        elif path.suffix.lower() not in _TEXTS:
            files.append(path)
    return files, folders


def refuse_other_files(folder: Path, files: Sequence[Path]) -> None:
    """Raises UserError for files that are no images by their names."""
    others = [file.name for file in files if file.suffix.lower() not in IMAGE_SUFFIXES]
    if others:
        advice = advice_on(others) or "remove them, or name images only"
        raise UserError(f"{folder} holds files that are no images ({some(others)}): {advice}")


def advice_on(names: Sequence[str]) -> str:
    """What to do about the first of these files that is an image of a format that is not read; "" if there is none."""
    return next((_ADVICE[suffix] for name in names if (suffix := Path(name).suffix.lower()) in _ADVICE), "")


def print_passed_over(others: Sequence[str]) -> None:
    """A line on stderr that says how many files below a folder are no images by their names, if any are."""
    if others:
        advice = f" ({advice})" if (advice := advice_on(others)) else ""
        line = f"passed over, for no image by name: {len(others)} files, such as {others[0]}{advice}"
        print(printable(line), file=sys.stderr)


def images_below(folder: Path) -> tuple[list[str], list[str]]:
    """(images, other files) below a folder, however deep, as sorted paths relative to it; links back are not followed,
    and what systems leave behind is passed over. Raises UserError for a folder that cannot be read."""
    images: list[str] = []
    others: list[str] = []
    visited: set[str] = set()
    for place, inner, files in os.walk(folder, followlinks=True, onerror=_refuse_unread):
        real = os.path.realpath(place)
        inner[:] = [] if real in visited else sorted(name for name in inner if not left_by_a_system(name))
        if real in visited:
            continue
        visited.add(real)
        for name in files:
            path = Path(place, name)
            if not left_by_a_system(name):
                (images if path.suffix.lower() in IMAGE_SUFFIXES else others).append(str(path.relative_to(folder)))
    return sorted(images), sorted(others)


def _refuse_unread(error: OSError) -> None:
    """A folder that is passed over would take its images with it."""
    raise UserError(f"{error.filename} cannot be read ({error.strerror}): its images would be missing") from None


def _refuse_nesting(folder: Path, folders: Sequence[Path], contents: Sequence[tuple[list[Path], list[Path]]]) -> None:
    """Images must lie directly in the class folders: one folder more, and what are called classes are none."""
    deep = [(sub, inner) for sub, (_, inner) in zip(folders, contents, strict=True) if inner]
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
        files, folders = folder_content(folder)
        if files or not folders:
            return None
        if folder_content(folders[0])[0]:
            return folder
        folder = folders[0]
    return None
