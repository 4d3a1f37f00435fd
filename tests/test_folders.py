"""A user's own two domains, and every way in which they can be wrong: each is one line that says what to do."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dan.data.domain_pair import DomainPair, Options
from dan.data.folders import images_of, own_transfer, read_images
from dan.data.manifests import agreed_classes, read_list, read_manifest, read_tree, restricted, some
from dan.data.tasks import load_pair
from dan.data.tensor_datasets import Images, Vectors
from dan.errors import UserError


def paint(file: Path, grey: int = 0, size: int = 12) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (size, size), grey).save(file)
    return file


def tree(root: Path, classes: dict[str, int], *, start: int = 0) -> Path:
    """A tree whose images are of one grey each: start, start + 1, ... in the order of the names."""
    grey = start
    for name, count in sorted(classes.items()):
        for i in range(count):
            paint(root / name / f"{i:02d}.png", grey)
            grey += 1
    return root


def greys(data: object) -> list[int]:
    """The grey of each image of a data set, back from the normalised values."""
    assert isinstance(data, Images)
    x = data.batch(torch.arange(len(data)))[0]
    return [int(value) for value in ((x[:, 0, 0, 0] * 0.229 + 0.485) * 255).round()]


def transfer(source: Path, target: Path, **options: Any) -> DomainPair:
    return load_pair("folders", source=source, target=target, image_size=8, **options)


def refused(match: str, source: Path, target: Path, **options: Any) -> None:
    with pytest.raises(UserError, match=match) as error:
        transfer(source, target, **options)
    assert "\n" not in str(error.value)


# Trees


def test_two_trees_are_a_transfer(tmp_path: Path):
    source = tree(tmp_path / "s", {"b": 3, "a": 2})
    target = tree(tmp_path / "t", {"a": 1, "b": 2}, start=100)
    task = transfer(source, target)
    assert task.name == "folders" and task.classes == ("a", "b") and task.kind == "image" and task.target_labelled
    assert task.image_size == 8 and task.normalisation == "imagenet"
    assert task.source_test is None and task.target_test is None and list(task.splits) == ["target"]
    assert greys(task.source) == [0, 1, 2, 3, 4] and greys(task.target) == [100, 101, 102]
    assert task.source.targets.tolist() == [0, 0, 1, 1, 1] and task.target.targets.tolist() == [0, 1, 1]
    assert task.source.paths == tuple(
        str(source / name) for name in ("a/00.png", "a/01.png", *(f"b/0{i}.png" for i in range(3)))
    )
    x, y = task.source[4]
    assert x.shape == (3, 8, 8) and y == 1


def test_a_tree_is_read_as_torchvision_reads_it(tmp_path: Path):
    from torchvision.datasets import ImageFolder

    root = tree(tmp_path / "s", {"Zebra": 2, "ant": 3, "10": 1, "9": 2})
    listing, folder = read_tree(root), ImageFolder(str(root))
    assert list(listing.classes) == folder.classes
    assert [
        (str(root / name), target) for name, target in zip(listing.names, listing.targets, strict=True)
    ] == folder.samples


def test_the_same_options_give_the_same_transfer_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tree(tmp_path / "s", {"a": 4, "b": 4, "c": 1})
    tree(tmp_path / "t", {"a": 2, "b": 2, "c": 1})
    monkeypatch.chdir(tmp_path)
    task = transfer(Path("s"), Path("t"), classes=["b", "a"], source_holdout=0.25, cache="cache", augment=True)
    monkeypatch.chdir("/")
    options = json.loads(json.dumps(task.options))
    assert set(options) == {"source", "target", "image_size", "classes", "source_holdout", "augment"}
    again = load_pair("folders", **options)
    for part in ("source", "source_test", "target"):
        assert getattr(task, part).fingerprint == getattr(again, part).fingerprint
    assert again.source.augment and list((tmp_path / "cache").iterdir())


def test_what_is_known_to_be_harmless_is_passed_over(tmp_path: Path):
    root = tree(tmp_path / "s", {"a": 1, "b": 1})
    for name in (".DS_Store", "Thumbs.db", "a/Thumbs.db", "a/._00.png", "image_list.txt", "b/desktop.ini", "README.md"):
        (root / name).touch()
    paint(root / "__MACOSX" / "a" / "x.png")
    paint(root / ".cache" / "x.png")
    assert read_tree(root).names == ("a/00.png", "b/00.png")


@pytest.mark.parametrize("suffix", ["JPG", "jpeg", "png", "bmp", "gif", "tif", "webp", "ppm"])
def test_every_usual_format_is_an_image(tmp_path: Path, suffix: str):
    root = tree(tmp_path / "s", {"a": 1})
    (root / "b").mkdir()
    Image.new("RGB", (9, 9), (50, 60, 70)).save(root / "b" / f"x.{suffix}")
    data = images_of(read_tree(root), image_size=8)
    pixel = data._pixels[1, 4, 4].astype(int)
    assert abs(pixel - [50, 60, 70]).max() <= 3  # JPEG and the like lose a little


# An unlabelled target


def test_a_flat_target_has_no_labels_and_no_accuracy(tmp_path: Path):
    source = tree(tmp_path / "s", {"a": 2, "b": 2})
    for i in range(3):
        paint(tmp_path / "t" / f"{i}.png", 200 + i)
    task = transfer(source, tmp_path / "t")
    assert not task.target_labelled and task.splits == {}
    assert task.target.targets.tolist() == [-1, -1, -1] and greys(task.target) == [200, 201, 202]
    assert task.target.classes == ("a", "b")
    refused("t holds images but no folders of classes", tmp_path / "t", source)
    assert transfer(source, tmp_path / "t", classes=("b", "a"), source_holdout=0.5).splits.keys() == {"source_test"}


# Every wrong tree


def test_missing_and_empty_folders(tmp_path: Path):
    good = tree(tmp_path / "s", {"a": 1, "b": 1})
    refused(r"gone is not a folder: a domain is a tree of .*gone/<class>/<image>", good, tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    refused(r"empty is empty", good, tmp_path / "empty")
    refused(r"empty is empty", tmp_path / "empty", good)
    (good / "c").mkdir()
    refused(r"s/c is a class without images: remove the folder, or fill it", good, good.parent / "t")


def test_one_class_is_none(tmp_path: Path):
    good = tree(tmp_path / "s", {"a": 1, "b": 1})
    refused(r"t holds one class only \(a\)", good, tree(tmp_path / "t", {"a": 3}))


def test_a_folder_too_many_is_named_with_the_one_that_was_meant(tmp_path: Path):
    """The field's classic: amazon/images/<class>, read as one class called images, with every prediction right."""
    good = tree(tmp_path / "s", {"a": 1, "b": 1})
    tree(tmp_path / "amazon" / "images", {"a": 1, "b": 1})
    refused(r"amazon holds a folder too many \(images\): did you mean .*/amazon/images\?", good, tmp_path / "amazon")
    tree(tmp_path / "deep" / "x" / "images", {"a": 1, "b": 1})
    refused(r"did you mean .*/deep/x/images\?", good, tmp_path / "deep")
    # The folder of the whole benchmark in the place of a domain's.
    tree(tmp_path / "office" / "dslr" / "images", {"a": 1, "b": 1})
    tree(tmp_path / "office" / "amazon" / "images", {"a": 1, "b": 1})
    refused(
        r"office holds folders of domains.*\(amazon, dslr\): did you mean .*/office/amazon/images\?",
        good,
        tmp_path / "office",
    )
    paint(good / "a" / "more" / "x.png")
    refused(r"s/a/more is one folder too deep: images lie directly in .*/s/<class>/", good, tmp_path / "s2")


def test_strangers_and_mixtures(tmp_path: Path):
    good, bad = tree(tmp_path / "s", {"a": 1, "b": 1}), tree(tmp_path / "t", {"a": 1, "b": 1})
    (bad / "a" / "labels.csv").touch()
    refused(r"t/a holds files that are no images \(labels.csv\)", good, bad)
    (bad / "a" / "labels.csv").unlink()
    paint(bad / "loose.png")
    refused(r"t holds both images \(loose.png\) and folders \(a, b\)", good, bad)
    (bad / "loose.png").rename(bad / "loose.exe")
    refused(r"t holds files that are no images \(loose.exe\)", good, bad)


def test_a_folder_that_may_not_be_read(tmp_path: Path):
    if os.geteuid() == 0:
        pytest.skip("the superuser may read everything")
    good, bad = tree(tmp_path / "s", {"a": 1, "b": 1}), tree(tmp_path / "t", {"a": 1, "b": 1})
    (bad / "a").chmod(0)
    try:
        refused(r"t/a cannot be read \(Permission denied\)", good, bad)
    finally:
        (bad / "a").chmod(0o700)


def test_what_is_missing_or_the_same_is_said(tmp_path: Path):
    good = tree(tmp_path / "s", {"a": 1, "b": 1})
    for options in ({}, {"source": good}, {"target": good}):
        with pytest.raises(UserError, match="the task folders needs --source and --target"):
            load_pair("folders", **options)
    refused("--source and --target are both", good, good / ".." / "s")
    refused(r"00.png is a file: a domain is a folder <class>/<image>, a manifest \(.csv\)", good, good / "a" / "00.png")


def test_broken_images_are_found_before_any_training(tmp_path: Path):
    good, bad = tree(tmp_path / "s", {"a": 1, "b": 1}), tree(tmp_path / "t", {"a": 1, "b": 1})
    (bad / "b" / "00.png").write_bytes(b"")
    refused(r"t: 1 of 2 images cannot be read: b/00.png \(0 bytes\)", good, bad)


# Classes on both sides


def test_unequal_classes_are_named_side_by_side(tmp_path: Path):
    source = tree(tmp_path / "s", {"a": 1, "b": 2, "c": 1})
    target = tree(tmp_path / "t", {"b": 1, "c": 2, "d": 1}, start=100)
    refused(r"only in .*/s: a; only in .*/t: d: make them equal, or take the 2 that both hold", source, target)
    shared = transfer(source, target, classes="shared")
    assert shared.classes == ("b", "c")
    assert greys(shared.source) == [1, 2, 3] and shared.source.targets.tolist() == [0, 0, 1]
    assert greys(shared.target) == [100, 101, 102] and shared.target.targets.tolist() == [0, 1, 1]
    chosen = transfer(source, target, classes=("c", "b"))
    assert chosen.classes == ("b", "c") and greys(chosen.source) == [1, 2, 3]
    refused(r"s has no class d: it holds a, b, c", source, target, classes=("b", "d"))
    refused(r"t has no class a: it holds b, c, d", source, target, classes=("a", "b"))
    refused(r"share 1 classes: a classifier needs at least two", source, target, classes=("b",))


def test_long_lists_of_classes_are_cut():
    many = [str(i) for i in range(100)]
    with pytest.raises(UserError, match=r"only in s: 0, 1, 2, 3, 4, 5, 6, 7 and 92 more; only in t: x: make") as error:
        agreed_classes((Path("s"), many), (Path("t"), ["x"]))
    assert len(str(error.value)) < 400
    assert some([1, 2, 3]) == "1, 2, 3" and some(range(5)) == "0, 1, 2 and 2 more"


def test_restricting_counts_targets_in_the_new_order(tmp_path: Path):
    listing = read_tree(tree(tmp_path / "s", {"a": 1, "b": 2, "c": 1}))
    part = restricted(listing, ("c", "a"))
    assert part.names == ("a/00.png", "c/00.png") and part.targets == (1, 0) and part.classes == ("c", "a")
    assert restricted(listing, listing.classes) is listing


# Manifests


def manifest(folder: Path, text: str, *, images: int = 4) -> Path:
    for i in range(images):
        paint(folder / "pictures" / f"{i}.png", i)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "list.csv").write_bytes(text.encode())
    return folder / "list.csv"


def test_a_manifest_names_images_labels_and_groups(tmp_path: Path):
    text = "path,label,group\npictures/2.png,10,p1\npictures/0.png,9,p2\n\npictures/1.png,10,p1\n"
    listing = read_manifest(manifest(tmp_path, text))
    assert listing.names == ("pictures/2.png", "pictures/0.png", "pictures/1.png")
    assert listing.classes == ("9", "10") and listing.targets == (1, 0, 1) and listing.groups == ("p1", "p2", "p1")
    assert greys(images_of(listing, image_size=8)) == [2, 0, 1]
    assert images_of(listing, image_size=8).groups == ("p1", "p2", "p1")


def test_a_manifest_of_excel_is_read_too(tmp_path: Path):
    text = '\ufeffPath,Label\r\n"pictures/0.png","cat, black"\r\npictures/1.png,dog\r\n'
    listing = read_manifest(manifest(tmp_path, text))
    assert listing.classes == ("cat, black", "dog") and listing.groups is None


def test_manifest_and_tree_make_a_transfer_and_groups_stay_whole(tmp_path: Path):
    lines = [f"pictures/{i}.png,{'ab'[i % 2]},g{i // 4}" for i in range(12)]
    source = manifest(tmp_path / "s", "\n".join(["path,label,group", *lines]), images=12)
    task = transfer(source, tree(tmp_path / "t", {"a": 1, "b": 1}), source_holdout=0.4)
    assert len(task.source) == 8 and len(task.source_test) == 4 and list(task.splits) == ["source_test", "target"]
    assert len(set(task.source_test.groups)) == 1 and not set(task.source_test.groups) & set(task.source.groups)
    refused("source_holdout 0.2 of 12 samples leaves a side empty", source, tmp_path / "t", source_holdout=0.2)


def test_a_manifest_without_labels_is_a_target(tmp_path: Path):
    target = manifest(tmp_path / "t", "path,label\npictures/0.png,\npictures/1.png,\n")
    source = tree(tmp_path / "s", {"a": 1, "b": 1})
    task = transfer(source, target)
    assert not task.target_labelled and task.target.targets.tolist() == [-1, -1]
    refused("list.csv has no labels: the source needs a class for every image", target, source)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", 'begins with "": its first line must be path,label or path,label,group'),
        ("image;class\n", 'begins with "image;class": its first line must be path,label'),
        ("path,label\n", "lists no images"),
        ("path,label\npictures/0.png\n", "line 2 has 1 fields, and the header 2"),
        ("path,label\npictures/0.png,a\n\npictures/1.png,a,b\n", "line 4 has 3 fields"),
        ("path,label\n../secret.png,a\n", r'line 2: "../secret.png" leads out of .*: paths are relative'),
        ("path,label\npictures/../../secret.png,a\n", "leads out of"),
        ("path,label\n/etc/passwd,a\n", '"/etc/passwd" leads out of'),
        ("path,label\n,a\n", "leads out of"),
        ("path,label\nlink.png,a\n", 'line 2: "link.png" is a link that leads out of'),
        ("path,label\npictures/9.png,a\n", "line 2: there is no file .*pictures/9.png"),
        ("path,label\npictures,a\n", "line 2: there is no file .*pictures"),
        ("path,label\npictures/0.png,a\npictures/0.png,b\n", "line 3 names pictures/0.png a second time"),
        ("path,label\npictures/0.png,a\npictures/1.png,\n", "1 of 2 lines have no label"),
        ("path,label\npictures/0.png,a\npictures/1.png,a\n", r"holds one class only \(a\)"),
    ],
)
def test_a_wrong_manifest_names_its_line(tmp_path: Path, text: str, match: str):
    file = manifest(tmp_path / "m", text)
    (tmp_path / "m" / "link.png").symlink_to(paint(tmp_path / "secret.png"))
    with pytest.raises(UserError, match=match) as error:
        read_manifest(file)
    assert "\n" not in str(error.value) and str(file) in str(error.value)


def test_a_manifest_that_is_none(tmp_path: Path):
    with pytest.raises(UserError, match="gone.csv does not exist"):
        read_images(tmp_path / "gone.csv")
    (tmp_path / "x.csv").write_bytes(b"path,label\n\xff\xfe,a\n")
    with pytest.raises(UserError, match="x.csv cannot be read as CSV in UTF-8"):
        read_images(tmp_path / "x.csv")


# Lists


def test_a_list_names_paths_and_numbers(tmp_path: Path):
    tree(tmp_path / "clipart", {"ant hill": 2, "bee": 1})
    text = "clipart/bee/00.png 1\nclipart/ant hill/00.png 0\nclipart/ant hill/01.png 0\n"
    (tmp_path / "l.txt").write_text(text)
    listing = read_list(tmp_path / "l.txt", tmp_path)
    assert listing.classes == ("ant hill", "bee") and listing.targets == (1, 0, 0)
    for broken, match in {
        "clipart/bee/00.png\n": "line 1 is .*: it must be a path, a space, and the number",
        "clipart/bee/00.png 0\nclipart/ant hill/00.png 0\n": "line 2 calls class 0 ant hill, and an earlier line bee",
        "clipart/bee/00.png 1\n": "classes 0, 1, 2, ... without a gap",
        "../bee/00.png 0\n": "leads out of",
        "clipart/bee/09.png 0\n": "there is no file",
        "": "without a gap",
    }.items():
        (tmp_path / "l.txt").write_text(broken)
        with pytest.raises(UserError, match=match):
            read_list(tmp_path / "l.txt", tmp_path)
    with pytest.raises(UserError, match="gone.txt does not exist"):
        read_list(tmp_path / "gone.txt", tmp_path)


# Features


def features(file: Path, labels: list[int] | None, *, width: int = 3, shift: float = 0.0) -> Path:
    count = 4 if labels is None else len(labels)
    x = np.arange(count * width, dtype=np.float32).reshape(count, width) + shift
    np.savez(file, **{"x": x} | ({} if labels is None else {"y": np.array(labels)}))
    return file


def test_two_files_of_features_are_a_transfer(tmp_path: Path):
    source = features(tmp_path / "s.npz", [7, 7, 3, 10, 10])
    target = features(tmp_path / "t.npz", [10, 3, 7], shift=100)
    task = load_pair("folders", source=source, target=target)
    assert task.kind == "vector" and task.classes == ("3", "7", "10") and task.image_size is None
    assert isinstance(task.source, Vectors) and task.source.targets.tolist() == [1, 1, 0, 2, 2]
    assert task.target.targets.tolist() == [2, 0, 1]
    x, y = task.target[1]
    assert x.tolist() == [103, 104, 105] and x.dtype == torch.float32 and y == 0
    x, y = task.source.batch(torch.tensor([2, 0]))
    assert x.tolist() == [[6, 7, 8], [0, 1, 2]] and y.tolist() == [0, 1]
    part = load_pair("folders", source=source, target=target, classes=["7", "10"], source_holdout=0.5)
    assert part.classes == ("7", "10") and len(part.source) == len(part.source_test) == 2
    assert part.target.targets.tolist() == [1, 0] and part.target.x.tolist() == [[100, 101, 102], [106, 107, 108]]


def test_features_without_labels_are_a_target(tmp_path: Path):
    source, target = features(tmp_path / "s.npz", [0, 1, 1]), features(tmp_path / "t.npz", None)
    task = load_pair("folders", source=source, target=target)
    assert not task.target_labelled and task.target.targets.tolist() == [-1] * 4 and task.splits == {}
    with pytest.raises(UserError, match="t.npz has no labels: the source needs"):
        load_pair("folders", source=target, target=source)


def test_wrong_features(tmp_path: Path):
    source = features(tmp_path / "s.npz", [0, 1, 1])

    def refused_with(match: str, target: Path, **options: Any) -> None:
        with pytest.raises(UserError, match=match):
            load_pair("folders", source=source, target=target, **options)

    refused_with("s.npz has 3 features a sample, and .*t.npz has 4", features(tmp_path / "t.npz", [0, 1], width=4))
    refused_with(r"only in .*s.npz: 1; only in .*t.npz: 2", features(tmp_path / "t.npz", [0, 2]))
    refused_with("t.npz: 2 of 4 samples hold NaN or infinite", _spoilt(tmp_path / "t.npz"))
    refused_with("images and features: both must be of one kind", tree(tmp_path / "t", {"a": 1, "b": 1}))
    good = features(tmp_path / "t.npz", [0, 1])
    refused_with("features are not images: leave out image_size", good, image_size=64)
    refused_with("features are not images: leave out augment", good, augment=True)


def _spoilt(file: Path) -> Path:
    x = np.zeros((4, 3), np.float32)
    x[1, 2], x[3, 0] = np.nan, np.inf
    np.savez(file, x=x, y=np.array([0, 1, 0, 1]))
    return file


def test_own_transfer_keeps_the_name_it_was_called_by(tmp_path: Path):
    sides = tree(tmp_path / "s", {"a": 1, "b": 1}), tree(tmp_path / "t", {"a": 1, "b": 1})
    assert own_transfer("scanners", Options(source=sides[0], target=sides[1], image_size=8)).name == "scanners"
