"""Benchmarks of images in folders: what is expected of each, and the real Office-10 + Caltech-10 where it is there."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dan.data.benchmarks import BENCHMARKS, Benchmark, Domain, domain_of
from dan.data.domain_pair import Options
from dan.data.folders import image_transfer
from dan.data.surf import CLASSES, z_scored
from dan.data.tasks import TASKS, load_pair
from dan.data.tensor_datasets import Images, Vectors
from dan.errors import UserError

SMALL = Benchmark(
    "Small",
    ("small", "Small-2010"),
    2,
    {"a": Domain(("amazon", "amazon/images"), 3), "r": Domain(("Real World", "RealWorld"), 2)},
    "small.zip from its page",
)
LISTED = Benchmark(
    "Listed",
    ("listed",),
    2,
    {"c": Domain(("clip",), 4, lists=True), "s": Domain(("sketch",), 3, lists=True)},
    "listed.zip",
)


def paint(*files: Path) -> None:
    for i, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10, 12), (i, 0, 0)).save(file)


def test_the_table_holds_the_published_counts():
    """Sums are those that the papers print for a whole benchmark."""
    totals = {name: sum(domain.images for domain in row.domains.values()) for name, row in BENCHMARKS.items()}
    assert totals == {
        "office31": 4110,
        "office_caltech10": 2533,
        "officehome": 15588,
        "imageclef": 1800,
        "visda2017": 207785,
        "domainnet": 586575,
        "pacs": 9991,
    }
    counted = {family: sum(name.startswith(f"{family}_") for name in TASKS) for family in BENCHMARKS}
    assert counted == {
        "office31": 6,
        "office_caltech10": 24,  # 12 of images, 12 of vectors
        "officehome": 12,
        "imageclef": 6,
        "visda2017": 1,
        "domainnet": 30,
        "pacs": 12,
    }


@pytest.mark.parametrize("folder", ["small/amazon", "small/amazon/images", "Small-2010/amazon/images"])
def test_a_domain_is_found_in_each_of_its_known_places(tmp_path: Path, folder: str):
    paint(*(tmp_path / folder / name for name in ("b/1.png", "m/1.png", "m/2.png")))
    listing, test = domain_of(SMALL, "a", tmp_path)
    assert test is None and listing.names == ("b/1.png", "m/1.png", "m/2.png") and listing.classes == ("b", "m")


def test_another_count_is_refused(tmp_path: Path):
    paint(*(tmp_path / "small" / "amazon" / name for name in ("b/1.png", "m/1.png")))
    with pytest.raises(UserError, match=r"amazon holds 2 classes and 2 images, and Small has 2 and 3 there: fetch it"):
        domain_of(SMALL, "a", tmp_path)
    paint(tmp_path / "small" / "amazon" / "x" / "1.png")
    with pytest.raises(UserError, match=r"holds 3 classes and 3 images, and Small has 2 and 3"):
        domain_of(SMALL, "a", tmp_path)


@pytest.mark.parametrize(("family", "benchmark"), BENCHMARKS.items())
def test_what_is_missing_is_said_with_the_tree_and_where_to_fetch_it(tmp_path: Path, family: str, benchmark: Benchmark):
    name = next(task for task in TASKS if task.startswith(f"{family}_"))
    with pytest.raises(UserError) as error:
        load_pair(name, tmp_path)
    message = str(error.value)
    assert message.startswith(f"{benchmark.title} needs {tmp_path / benchmark.folders[0]}") and "\n" not in message
    for part in ("<class>/<image>", f"({benchmark.classes} classes", benchmark.fetch, "--data"):
        assert part in message


def test_lists_give_a_split_of_their_own(tmp_path: Path):
    root = tmp_path / "listed"
    paint(*(root / name for name in ("clip/a/1.png", "clip/a/2.png", "clip/b/1.png", "clip/b/2.png")))
    paint(*(root / name for name in ("sketch/a/1.png", "sketch/b/1.png", "sketch/b/2.png")))
    lists = {
        "clip_train": "clip/a/2.png 0\nclip/b/1.png 1\n",
        "clip_test": "clip/a/1.png 0\nclip/b/2.png 1\n",
        "sketch_train": "sketch/a/1.png 0\nsketch/b/1.png 1\n",
        "sketch_test": "sketch/b/2.png 1\n",
    }
    for name, text in lists.items():
        (root / f"{name}.txt").write_text(text)
    sides = domain_of(LISTED, "c", tmp_path)
    assert sides[1] is not None and sides[1].names == ("clip/a/1.png", "clip/b/2.png")
    with pytest.raises(UserError, match="without a gap"):  # a class that the test list leaves out would shift the rest
        domain_of(LISTED, "s", tmp_path)
    (root / "sketch_test.txt").write_text("sketch/a/1.png 0\nsketch/b/2.png 1\n")
    with pytest.raises(UserError, match="sketch_train.txt holds 2 classes and 4 images, and Listed has 2 and 3"):
        domain_of(LISTED, "s", tmp_path)
    task = image_transfer("listed_c2c", sides, sides, Options(image_size=8), backbone="lenet")
    assert list(task.splits) == ["source_test", "target", "target_test"]
    assert isinstance(task.target_test, Images) and task.target_test.paths == tuple(
        str(root / name) for name in ("clip/a/1.png", "clip/b/2.png")
    )
    (root / "sketch_train.txt").unlink()
    with pytest.raises(
        UserError, match=r"Listed needs .*/sketch/<class>/<image> and the lists .*sketch_train.txt and sketch"
    ):
        domain_of(LISTED, "s", tmp_path)


# The real images


def test_office_caltech_images(data_folder: Path, tmp_path: Path):
    if not (data_folder / "office_caltech10").is_dir():
        pytest.skip(f"no Office-10 + Caltech-10 in {data_folder}")
    task = load_pair("office_caltech10_d2w", data_folder, cache=tmp_path, image_size=64, source_holdout=0.2)
    assert task.classes == CLASSES and task.image_size == 64 and task.kind == "image"
    assert isinstance(task.source, Images) and isinstance(task.target, Images) and isinstance(task.source_test, Images)
    assert len(task.source) + len(task.source_test) == 157 and len(task.target) == 295 and task.target_test is None
    # The held-out fifth has every class; round(0.2 n) of each.
    counts = torch.bincount(task.source.targets) + torch.bincount(task.source_test.targets)
    assert torch.bincount(task.source_test.targets).tolist() == [round(0.2 * n) for n in counts.tolist()]
    x, y = task.target[100]
    with Image.open(task.target.paths[100]) as image:
        from torchvision.transforms import v2

        plain = v2.Compose([v2.Resize(64), v2.CenterCrop(64), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
        expected = v2.functional.normalize(plain(image), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-6)
    assert task.classes[y] == Path(task.target.paths[100]).parent.name
    again = load_pair("office_caltech10_d2w", data_folder, cache=tmp_path, image_size=64, source_holdout=0.2)
    assert again.source.fingerprint == task.source.fingerprint and len(list(tmp_path.glob("*.npy"))) == 2


def test_grey_photographs_of_caltech_become_rgb(data_folder: Path):
    if not (data_folder / "office_caltech10").is_dir():
        pytest.skip(f"no Office-10 + Caltech-10 in {data_folder}")
    from dan.data.decoding import decode

    listing, _ = domain_of(BENCHMARKS["office_caltech10"], "c", data_folder)
    grey = []
    for name in listing.names:
        with Image.open(listing.root / name) as image:
            if image.mode == "L":
                grey.append((listing.root / name, np.asarray(image)))
    assert len(grey) == 4
    for file, pixels in grey:
        np.testing.assert_array_equal(np.asarray(decode(file)), np.stack([pixels] * 3, axis=-1))


# SURF


def test_z_scores_are_those_of_the_definition():
    counts = torch.tensor([[1, 3, 0, 4], [2, 2, 0, 0], [5, 0, 0, 5]], dtype=torch.uint8)
    shares = [[n / sum(row) for n in row] for row in counts.tolist()]
    expected = []
    for column in zip(*shares, strict=True):
        mean = sum(column) / 3
        std = (sum((value - mean) ** 2 for value in column) / 3) ** 0.5
        expected.append([(value - mean) / std if std else 0.0 for value in column])
    torch.testing.assert_close(z_scored(counts), torch.tensor(expected).T)


def test_surf_is_a_vector_task_over_the_same_images(data_folder: Path):
    if not (data_folder / "office_caltech10_surf").is_dir() or not (data_folder / "office_caltech10").is_dir():
        pytest.skip(f"no Office-10 + Caltech-10 and its SURF features in {data_folder}")
    task = load_pair("office_caltech10_surf_a2c", data_folder)
    assert task.kind == "vector" and task.classes == CLASSES and task.image_size is None
    for letter, data in (("a", task.source), ("c", task.target)):
        assert isinstance(data, Vectors) and data.x.shape == (
            BENCHMARKS["office_caltech10"].domains[letter].images,
            800,
        )
        assert data.x.mean(0).abs().max() < 1e-5
        deviation = data.x.std(0, correction=0)
        assert ((deviation - 1).abs() < 1e-4).logical_or(deviation == 0).all()
        # The numbers 1..10 stand for the folders' names in their order: the counts of the classes agree.
        images, _ = domain_of(BENCHMARKS["office_caltech10"], letter, data_folder)
        assert images.classes == CLASSES and np.bincount(images.targets).tolist() == data.targets.bincount().tolist()
    held = load_pair("office_caltech10_surf_a2c", data_folder, source_holdout=0.2)
    assert held.source_test is not None and len(held.source) + len(held.source_test) == 958


def test_surf_that_is_missing_or_another(tmp_path: Path):
    with pytest.raises(UserError, match=r"amazon_SURF_L10.mat does not exist: fetch the SURF features"):
        load_pair("office_caltech10_surf_a2c", tmp_path)
    from scipy.io import savemat

    (tmp_path / "office_caltech10_surf").mkdir()
    savemat(
        tmp_path / "office_caltech10_surf" / "amazon_SURF_L10.mat", {"fts": np.ones((5, 800)), "labels": np.arange(5)}
    )
    with pytest.raises(UserError, match="should hold 958 x 800 histograms with labels 1 to 10"):
        load_pair("office_caltech10_surf_a2c", tmp_path)
