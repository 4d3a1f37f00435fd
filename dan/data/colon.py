"""Nuclei of colon tissue, 27 x 27 pixels each: cancerous or not, of 60 patients, and of 38 others as a second domain.

A patient's nuclei look alike (one stain, one scanner, one slide), so a set is split by patient and never by patch:
with nuclei of a patient on both sides a test would measure how well that patient is remembered.

Source: Sirinukunwattana et al., Locality sensitive deep learning for detection and classification of nuclei in routine
colon cancer histology images, IEEE TMI 2016; here in the form of two CSV files and a folder of patches.

Shapes: N nuclei; S pixels a side.
"""

from __future__ import annotations

import csv
import hashlib
import io
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from dan.archive_limits import read_member
from dan.data.decoding import decode_known, square
from dan.data.domain_pair import DomainPair, Options, source_split
from dan.data.image_cache import kept_arrays
from dan.data.manifests import some
from dan.data.tensor_datasets import Images, held_out
from dan.errors import UserError

ARCHIVE, FOLDER, PATCHES = "colon_nuclei.tar.gz", "colon_nuclei", "patch_images"
CLASSES = ("other", "cancerous")
SIZE = 27
LARGEST, LARGEST_LIST = 2**20, 2**26  # bytes of a patch's file, which has some thousand, and of a CSV file


@dataclass(frozen=True)
class Part:
    """One of the two CSV files, and what it must hold."""

    file: str
    nuclei: int
    patients: int
    cancerous: int


PARTS = {
    "first": Part("data_labels_mainData.csv", 9896, 60, 4079),
    "second": Part("data_labels_extraData.csv", 10384, 38, 2990),
}
TEST_SHARE = 0.3  # of the target's nuclei, in whole patients


def nuclei(part: str, data: Path, *, size: int = SIZE, cache: Path | None = None) -> Images:
    """All nuclei of a part, "first" or "second": x (3, S, S) with ImageNet's normalisation, y 1 where cancerous.

    data: holds colon_nuclei.tar.gz, or the folder colon_nuclei with the two CSV files and patch_images/. The images'
    groups are the patients, their paths the patches' names. size: another one resizes the patches (bilinear), for
    networks that need more pixels. cache: keeps the decoded patches.

    Raises UserError when neither is there, when it is damaged, when a name in it leads out of it, and for another
    number of nuclei, patients or cancerous nuclei than the part has.
    """
    made = PARTS[part]
    archive, folder = data / ARCHIVE, data / FOLDER
    if (folder / made.file).is_file():
        files = [folder / made.file, folder / PATCHES]
    elif archive.is_file():
        files = [archive]
    else:
        raise UserError(
            f"the colon nuclei are not in {data}: put {ARCHIVE} there, or a folder {FOLDER} with {made.file} and "
            f"{PATCHES}/, or name another --data"
        )
    pixels, facts = kept_arrays(cache, f"colon-{part}-{size}", files, lambda: read_part(files[0], made.file, size))
    patients, labels = facts[:, 0], facts[:, 1]
    found = (len(labels), len(np.unique(patients)), int(labels.sum()))
    wanted = (made.nuclei, made.patients, made.cancerous)
    if found != wanted:
        raise UserError(
            f"{files[0]} holds {found[0]} nuclei of {found[1]} patients, {found[2]} of them cancerous, and "
            f"{made.file} should list {wanted[0]} of {wanted[1]}, {wanted[2]} cancerous: fetch it again"
        )
    return Images(
        pixels,
        labels,
        CLASSES,
        normalisation="imagenet",
        digest=hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest(),
        groups=[str(patient) for patient in patients],
    )


def by_patient(images: Images, share: float, *, seed: int = 0) -> tuple[Images, Images]:
    """(the rest, about `share` of the nuclei): whole patients, drawn by the seed; both sides hold both classes.

    Raises UserError for images without groups, and where a side would lack a class.
    """
    if images.groups is None:
        raise UserError("these images have no groups to split by: give them the patient of each image")
    rest, held = (images.subset(rows) for rows in held_out(images, share, seed=seed))
    for side in (rest, held):
        if len(side.targets.unique()) < len(images.classes):
            raise UserError(f"a share of {share} with seed {seed} leaves a side without a class: choose another")
    return rest, held


def colon_transfer(source: str, target: str, name: str, data: Path, options: Options) -> DomainPair:
    """The patients of one part as the source, those of the other as the target, of whom some are its test split."""
    train, held = source_split(nuclei(source, data, cache=options.cache), options.source_holdout)
    rest, test = by_patient(nuclei(target, data, cache=options.cache), TEST_SHARE)
    return DomainPair(
        name=name,
        classes=CLASSES,
        source=train,
        source_test=held,
        target=rest,
        target_test=test,
        image_size=SIZE,
        normalisation="imagenet",
        options=options.chosen,
    )


# --- reading ----------------------------------------------------------------------------------------------------------


def read_part(place: Path, name: str, size: int = SIZE) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The patches that the CSV file `name` lists, in its order: pixels (N, S, S, 3), and (N, 2) patient and label.

    place: the archive, which is read without untarring; or the CSV file itself, with patch_images/ beside it.
    Raises UserError as `nuclei`, but for the counts, which it doesn't know.
    """
    if place.suffix == ".csv":
        rows = _rows(_bytes(place), place.name)
        contents = {row["ImageName"]: _bytes(place.parent / PATCHES / row["ImageName"]) for row in rows}
    else:
        texts, contents = _archived(place)
        if name not in texts:
            raise UserError(f"{place} holds no {name}: fetch it again")
        rows = _rows(texts[name], name)
    missing = [row["ImageName"] for row in rows if row["ImageName"] not in contents]
    if missing:
        raise UserError(f"{place} lacks {len(missing)} patches that {name} lists: {some(missing)}; fetch it again")
    pixels = np.stack([_decoded(contents[row["ImageName"]], row["ImageName"], size) for row in rows])
    return pixels, np.array([[int(row["patientID"]), int(row["isCancerous"])] for row in rows], dtype=np.int64)


def _archived(file: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """(CSV files, patches) of the archive by name, in memory: nothing is written anywhere, whatever the names say."""
    texts: dict[str, bytes] = {}
    patches: dict[str, bytes] = {}
    try:
        with tarfile.open(file) as archive:
            for member in archive:
                path = PurePosixPath(member.name.replace("\\", "/"))
                if path.is_absolute() or ".." in path.parts or member.issym() or member.islnk() or member.isdev():
                    raise UserError(f'{file}: "{member.name}" leads out of the archive: fetch it again')
                parent = path.parent.name
                listing = path.suffix == ".csv"
                if member.isfile() and (listing or parent == PATCHES):
                    content = read_member(archive, member, LARGEST_LIST if listing else LARGEST)
                    (texts if listing else patches)[path.name] = content
    except UserError:
        raise
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        raise UserError(f"{file} is damaged ({error}): fetch it again") from None
    return texts, patches


def _bytes(file: Path) -> bytes:
    try:
        if not file.resolve().is_relative_to(file.parent.resolve()):
            raise UserError(f"{file} is a link that leads out of its folder: put the file itself there")
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): fetch the colon nuclei again") from None


def _rows(content: bytes, name: str) -> list[Mapping[str, str]]:
    """The CSV file's rows, checked: names of files and nothing else, whole numbers, no patch twice."""
    columns = ("patientID", "ImageName", "isCancerous")
    try:
        rows: list[Mapping[str, str]] = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{name} cannot be read as CSV in UTF-8 ({error}): fetch it again") from None
    for number, row in enumerate(rows, start=2):
        values = [row.get(column) or "" for column in columns]
        if not all(values) or not values[0].isdecimal() or values[2] not in ("0", "1"):
            raise UserError(f"{name}, line {number}: it needs {', '.join(columns)}, with 0 or 1 for the last")
        if values[1].startswith(".") or not values[1].replace(".", "").replace("_", "").replace("-", "").isalnum():
            raise UserError(f'{name}, line {number}: "{values[1]}" is no name of a file in {PATCHES}/')
    if repeated := _repeated(row["ImageName"] for row in rows):
        raise UserError(f"{name} lists {repeated} a second time: a nucleus has one label")
    if not rows:
        raise UserError(f"{name} lists no nuclei: fetch it again")
    return rows


def _repeated(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _decoded(content: bytes, name: str, size: int) -> NDArray[np.uint8]:
    try:
        return square(decode_known(content, SIZE), size)
    except Exception as error:  # noqa: BLE001  (a damaged file raises anything from OSError to struct.error)
        raise UserError(f"{PATCHES}/{name} cannot be read ({error}): fetch it again") from None
