"""The colon nuclei: small made archives of the same layout, what is refused, and the real sets where they are."""

import csv
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dan.data import colon
from dan.data.colon import ARCHIVE, FOLDER, PARTS, PATCHES, SIZE, Part, by_patient, nuclei, read_part
from dan.data.tasks import load_pair
from dan.errors import UserError

ROWS = [  # patient, name, cancerous: not in the order of the names
    (3, "12.png", 1),
    (3, "7.png", 0),
    (1, "100.png", 0),
    (2, "5.png", 1),
    (2, "9.png", 0),
]


def patch(name: str, size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    rng = np.random.default_rng(int(name.partition(".")[0]))
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def png(name: str, **how) -> bytes:
    file = io.BytesIO()
    patch(name, **how).save(file, "PNG")
    return file.getvalue()


def table(rows, *, extra=True) -> bytes:
    """As the publisher's first file, with columns that are not read; the second has none of them."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["InstanceID", "patientID", "ImageName", *(["cellTypeName", "cellType"] * extra), "isCancerous"])
    for patient, name, label in rows:
        writer.writerow([name.partition(".")[0], patient, name, *(["others", 3] * extra), label])
    return text.getvalue().encode()


def archive(folder: Path, members: dict[str, bytes | str]) -> Path:
    """members: name -> content, or the target of a link."""
    file = folder / ARCHIVE
    with tarfile.open(file, "w:gz") as made:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                made.addfile(info)
            else:
                info.size = len(content)
                made.addfile(info, io.BytesIO(content))
    return file


def whole(rows=ROWS) -> dict[str, bytes | str]:
    first = PARTS["first"].file
    return {first: table(rows), **{f"{PATCHES}/{name}": png(name) for _, name, _ in reversed(rows)}}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader, told how much the made archive holds."""
    monkeypatch.setitem(PARTS, "first", Part(PARTS["first"].file, 5, 3, 2))


def test_an_archive_is_read_in_the_order_of_its_table(tmp_path: Path, small: None) -> None:
    archive(tmp_path, whole())
    images = nuclei("first", tmp_path)
    assert images.targets.tolist() == [1, 0, 0, 1, 0] and images.groups == ("3", "3", "1", "2", "2")
    assert images.classes == ("other", "cancerous")
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for i, (_, name, _) in enumerate(ROWS):
        expected = (np.asarray(patch(name)) / 255 - mean) / std
        torch.testing.assert_close(images[i][0].double(), torch.tensor(expected).permute(2, 0, 1), atol=1e-6, rtol=0)
    assert not (tmp_path / PATCHES).exists()  # read without untarring


def test_a_folder_is_read_as_its_archive_and_a_cache_keeps_both(tmp_path: Path, small: None) -> None:
    archive(tmp_path, whole())
    packed = nuclei("first", tmp_path, cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1
    again = nuclei("first", tmp_path, cache=tmp_path / "cache")
    with tarfile.open(tmp_path / ARCHIVE) as made:
        made.extractall(tmp_path / FOLDER, filter="data")
    (tmp_path / ARCHIVE).unlink()
    unpacked = nuclei("first", tmp_path)
    assert packed.fingerprint == again.fingerprint == unpacked.fingerprint
    assert packed.groups == again.groups == unpacked.groups


def test_another_size_is_resized(tmp_path: Path, small: None) -> None:
    archive(tmp_path, whole())
    x, _ = nuclei("first", tmp_path, size=54)[0]
    assert x.shape == (3, 54, 54)
    resized = np.asarray(patch("12.png").resize((54, 54), Image.Resampling.BILINEAR)) / 255
    expected = (resized - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    torch.testing.assert_close(x.double(), torch.tensor(expected).permute(2, 0, 1), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "name", ["../outside.png", "/tmp/outside.png", f"{PATCHES}/../../outside.png", "a\\..\\..\\b.png"]
)
def test_a_name_that_leads_out_of_the_archive_is_refused(tmp_path: Path, small: None, name: str) -> None:
    (tmp_path / "data").mkdir()
    archive(tmp_path / "data", {**whole(), name: png("1.png")})
    with pytest.raises(UserError, match="leads out of the archive"):
        nuclei("first", tmp_path / "data")
    assert sorted(path.name for path in tmp_path.rglob("*")) == [ARCHIVE, "data"]


def test_links_are_refused(tmp_path: Path, small: None) -> None:
    archive(tmp_path, {**whole(), f"{PATCHES}/5.png": "/etc/hostname"})
    with pytest.raises(UserError, match="leads out of the archive"):
        nuclei("first", tmp_path)
    (tmp_path / ARCHIVE).unlink()
    folder = tmp_path / FOLDER / PATCHES
    folder.mkdir(parents=True)
    (tmp_path / FOLDER / PARTS["first"].file).write_bytes(table(ROWS))
    for _, name, _ in ROWS:
        (folder / name).write_bytes(png(name))
    (tmp_path / "secret.png").write_bytes(png("5.png"))
    (folder / "5.png").unlink()
    (folder / "5.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(UserError, match="link that leads out of its folder"):
        nuclei("first", tmp_path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*ROWS, (4, "12.png", 0)], "lists 12.png a second time"),
        ([*ROWS, (4, "../12.png", 0)], 'line 7: "../12.png" is no name of a file'),
        ([*ROWS, (4, ".12.png", 0)], "is no name of a file"),
        ([*ROWS, ("x", "13.png", 0)], "line 7: it needs patientID, ImageName, isCancerous"),
        ([*ROWS, (4, "13.png", 2)], "with 0 or 1 for the last"),
        ([], "lists no nuclei"),
    ],
)
def test_a_table_that_cannot_be_is_refused_with_its_line(tmp_path: Path, rows, message: str) -> None:
    archive(tmp_path, {PARTS["first"].file: table(rows), **{f"{PATCHES}/{name}": png(name) for _, name, _ in ROWS}})
    with pytest.raises(UserError) as error:
        nuclei("first", tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_missing_and_damaged_pieces_are_told(tmp_path: Path, small: None) -> None:
    with pytest.raises(UserError, match=rf"not in .*put {ARCHIVE} there, or a folder {FOLDER}"):
        nuclei("first", tmp_path)
    members = whole()
    del members[f"{PATCHES}/5.png"]
    archive(tmp_path, members)
    with pytest.raises(UserError, match=r"lacks 1 patches that .* lists: 5.png"):
        nuclei("first", tmp_path)
    archive(tmp_path, {**whole(), f"{PATCHES}/5.png": b"no image"})
    with pytest.raises(UserError, match=r"5.png cannot be read"):
        nuclei("first", tmp_path)
    archive(tmp_path, {**whole(), f"{PATCHES}/5.png": png("5.png", size=(28, 27))})
    with pytest.raises(UserError, match=r"5.png cannot be read \(28 x 27 pixels in place of 27 x 27\)"):
        nuclei("first", tmp_path)
    archive(tmp_path, {f"{PATCHES}/5.png": png("5.png")})
    with pytest.raises(UserError, match="holds no data_labels_mainData.csv"):
        nuclei("first", tmp_path)
    whole_file = archive(tmp_path, whole()).read_bytes()
    (tmp_path / ARCHIVE).write_bytes(whole_file[: len(whole_file) // 2])
    with pytest.raises(UserError, match="is damaged"):
        nuclei("first", tmp_path)


def test_the_counts_are_asserted(tmp_path: Path) -> None:
    archive(tmp_path, whole())
    message = "holds 5 nuclei of 3 patients, 2 of them cancerous, and .* should list 9896 of 60, 4079 cancerous"
    with pytest.raises(UserError, match=message):
        nuclei("first", tmp_path)
    assert read_part(tmp_path / ARCHIVE, PARTS["first"].file)[1].tolist()[0] == [3, 1]


def test_patients_are_never_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(patient, f"{10 * patient + i}.png", (patient + i) % 2) for patient in range(1, 9) for i in range(4)]
    monkeypatch.setitem(PARTS, "first", Part(PARTS["first"].file, 32, 8, 16))
    archive(tmp_path, whole(rows))
    images = nuclei("first", tmp_path)
    splits = set()
    for seed in range(6):
        rest, test = by_patient(images, 0.4, seed=seed)
        assert len(test) == 12 and len(rest) == 20 and not set(rest.groups or ()) & set(test.groups or ())
        splits.add(test.groups)
        again = by_patient(images, 0.4, seed=seed)[1]
        assert again.groups == test.groups
    assert len(splits) > 3
    with pytest.raises(UserError, match="leaves a side without a class"):
        by_patient(images, 0.01)


def test_a_transfer_goes_from_patients_to_patients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(first: int):
        return [(patient, f"{10 * patient + i}.png", i % 2) for patient in range(first, first + 10) for i in range(2)]

    members = {}
    for part, begin in (("first", 1), ("second", 61)):
        monkeypatch.setitem(PARTS, part, Part(PARTS[part].file, 20, 10, 10))
        members[PARTS[part].file] = table(rows(begin), extra=part == "first")
        members |= {f"{PATCHES}/{name}": png(name) for _, name, _ in rows(begin)}
    archive(tmp_path, members)
    task = load_pair("colon_first2second", tmp_path, source_holdout=0.2)
    sides = {name: set(getattr(task, name).groups) for name in ("source", "source_test", "target", "target_test")}
    assert [len(groups) for groups in sides.values()] == [8, 2, 7, 3]
    assert len(set.union(*sides.values())) == 20  # no patient twice
    assert all(int(group) < 60 for group in sides["source"]) and all(int(group) > 60 for group in sides["target"])
    assert (task.classes, task.normalisation, task.image_size) == (("other", "cancerous"), "imagenet", 27)
    back = load_pair("colon_second2first", tmp_path)
    assert set(back.source.groups) == sides["target"] | sides["target_test"] and back.source_test is None


def test_the_real_nuclei(data_folder: Path) -> None:
    if not (data_folder / ARCHIVE).is_file():
        pytest.skip(f"no {ARCHIVE} in {data_folder}")
    # The tables alone: decoding 20,280 patches takes longer than a test may.
    texts, patches = colon._archived(data_folder / ARCHIVE)
    names = []
    for made in PARTS.values():
        rows = colon._rows(texts[made.file], made.file)
        cancerous = sum(row["isCancerous"] == "1" for row in rows)
        assert (len(rows), len({row["patientID"] for row in rows}), cancerous) == (
            made.nuclei,
            made.patients,
            made.cancerous,
        )
        names += [row["ImageName"] for row in rows]
        assert colon._decoded(patches[rows[0]["ImageName"]], "", SIZE).shape == (SIZE, SIZE, 3)
    assert len(set(names)) == len(names) == len(patches) == 20_280  # no patch in both parts, none in neither
