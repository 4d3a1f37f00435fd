"""Candidates in files: which patches there are and of which candidate each is, none of them decoded yet.

CSV     path,label,candidate or path,label,candidate,group; one line a patch, in any order
tree    DIR/<class>/<candidate>/<patch>, or DIR/<candidate>/<patch> without labels
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dan.class_names import class_name, doubtful_names
from dan.data.image_tree import folder_classes, folder_content, refuse_other_files
from dan.data.listing import UNLABELLED, Listing, labels_to_targets, some
from dan.data.manifests import is_manifest, listed_file, manifest_rows
from dan.errors import UserError, print_warnings

HEADERS = (("path", "label", "candidate"), ("path", "label", "candidate", "group"))


@dataclass(frozen=True, kw_only=True)
class CandidateListing:
    """A listing of patches, candidate by candidate, and the candidate's name of each patch. Groups are patches' too."""

    listing: Listing
    owners: tuple[str, ...]


def read_candidates(place: Path, *, unlabelled: bool = False) -> CandidateListing:
    """Candidates of a CSV file, or of a tree with a folder a candidate: none of their patches is decoded yet.

    CSV: the header path,label,candidate or path,label,candidate,group and one line a patch, in any order; paths are
    relative to the file's folder and stay inside it; empty labels throughout: all unknown.
    Tree: DIR/<class>/<candidate>/<patch>; with `unlabelled`, DIR/<candidate>/<patch>.

    Candidates and patches are in the order of their names (class by class in a tree).
    Raises UserError, with the line or the folder, for whatever does not look so, for patches of one candidate with
    two labels or groups, and for one class only.
    """
    if is_manifest(place):
        return _read_csv(place)
    return _read_tree(place, unlabelled)


def _read_csv(file: Path) -> CandidateListing:
    table = manifest_rows(file, HEADERS, "a folder of candidates, or a CSV file")
    rows: list[tuple[str, str, str, str]] = []  # candidate, path, label, group
    of_candidate: dict[str, tuple[str, str]] = {}
    listed: set[str] = set()
    for row in table.rows:
        where = f"{file}, line {row.line}"
        label, candidate, group = (class_name(row.cells.get(name, "")) for name in ("label", "candidate", "group"))
        path = listed_file(file.parent, row.cells["path"], where)
        if path in listed:
            raise UserError(f"{where} names {path} a second time")
        if not candidate:
            raise UserError(f"{where} names no candidate: every patch belongs to one")
        if of_candidate.setdefault(candidate, (label, group)) != (label, group):
            before = " ".join(part for part in of_candidate[candidate] if part) or "nothing"
            now = " ".join(part for part in (label, group) if part) or "nothing"
            raise UserError(f"{where} says {now} of the candidate {candidate}, and an earlier line {before}")
        listed.add(path)
        rows.append((candidate, path, label, group))
    if not rows:
        raise UserError(f"{file} lists no patches")
    rows.sort(key=lambda row: row[:2])
    targets, classes = labels_to_targets([row[2] for row in rows], file)
    for place, what in ((0, "candidate"), (3, "group")):
        print_warnings(doubtful_names(file, (row[place] for row in rows), what))
    listing = Listing(
        place=file,
        root=file.parent,
        names=tuple(row[1] for row in rows),
        targets=targets,
        classes=classes,
        groups=tuple(row[3] for row in rows) if "group" in table.columns else None,
    )
    return CandidateListing(listing=listing, owners=tuple(row[0] for row in rows))


def _read_tree(folder: Path, unlabelled: bool) -> CandidateListing:
    form = f"{folder}/<candidate>/<patch>" if unlabelled else f"{folder}/<class>/<candidate>/<patch>"
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: candidates are a tree of {form}, or a CSV file")
    classes = [] if unlabelled else _only_folders(folder, form)
    if len(classes) == 1:
        raise UserError(f"{folder} holds one class only ({classes[0].name}): a classifier needs at least two")
    names: list[str] = []
    targets: list[int] = []
    owners: list[str] = []
    for target, sub in [(UNLABELLED, folder)] if unlabelled else list(enumerate(classes)):
        for candidate in _only_folders(sub, form):
            files, deeper = folder_content(candidate)
            if deeper or not files:
                what = f"holds folders ({some(inner.name for inner in deeper)})" if deeper else "holds no patch"
                raise UserError(f"{candidate} {what}: candidates are a tree of {form}")
            refuse_other_files(candidate, files)
            owner = candidate.relative_to(folder).as_posix()
            names += [f"{owner}/{file.name}" for file in files]
            targets += [target] * len(files)
            owners += [owner] * len(files)
    listing = Listing(
        place=folder,
        root=folder,
        names=tuple(names),
        targets=tuple(targets),
        classes=folder_classes(classes),
    )
    return CandidateListing(listing=listing, owners=tuple(owners))


def _only_folders(folder: Path, form: str) -> list[Path]:
    files, folders = folder_content(folder)
    if files or not folders:
        what = f"holds files ({some(file.name for file in files)})" if files else "is empty"
        raise UserError(f"{folder} {what}: candidates are a tree of {form}")
    return folders
