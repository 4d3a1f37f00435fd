"""Sets of digits and CIFAR-10: small made files in the publishers' formats, and the real sets where they are there."""

import functools
import hashlib
import struct
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from dan.data import digit_sets
from dan.data.cifar10 import CLASSES, cifar10
from dan.data.digit_sets import digit_set
from dan.data.tasks import load_pair
from dan.errors import UserError

RNG = np.random.default_rng(0)


def read(
    name: str, split: str, data: Path, cache: Path | None = None, *, download: bool = False
) -> tuple[NDArray, list[int]]:
    """Pixels (N, 28, 28), back from the normalised values, and labels."""
    found = digit_set(name, split, data, cache=cache, download=download, quiet=True)  # type: ignore[arg-type]
    x, y = found.batch(torch.arange(len(found)))
    assert x.shape[1:] == (1, 28, 28) and found.classes == tuple("0123456789")
    return ((x[:, 0].double() * 0.5 + 0.5) * 255).round().numpy(), y.tolist()


def few(monkeypatch: pytest.MonkeyPatch, name: str, train: int, test: int) -> None:
    monkeypatch.setitem(digit_sets.COUNTS, name, (train, test))


def idx(array: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(data: Path, *, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    raw = data / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix in ("train", "t10k"):
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(labels))


def test_mnist_is_read_from_its_folder_or_from_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    few(monkeypatch, "mnist", 6, 6)
    images, labels = RNG.integers(0, 256, (6, 28, 28), dtype=np.uint8), np.array([3, 1, 4, 1, 5, 9], np.uint8)
    write_mnist(tmp_path / "folder", images=images, labels=labels)
    (tmp_path / "archive").mkdir()
    with tarfile.open(tmp_path / "archive" / "mnist.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "folder" / "MNIST", "MNIST")
    from torchvision.datasets import MNIST

    theirs = MNIST(str(tmp_path / "folder"), train=False)
    for place in ("folder", "archive"):
        for split in ("train", "test"):
            pixels, targets = read("mnist", split, tmp_path / place)
            np.testing.assert_array_equal(pixels, images)
            assert targets == labels.tolist() == theirs.targets.tolist()
    np.testing.assert_array_equal(theirs.data.numpy(), images)


def test_mnist_missing_damaged_or_incomplete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match=r"MNIST is not in .*: put .*/MNIST/raw/\*-ubyte .*--download"):
        read("mnist", "train", tmp_path)
    write_mnist(tmp_path, images=np.zeros((3, 28, 28), np.uint8), labels=np.zeros(3, np.uint8))
    with pytest.raises(UserError, match=r"mnist in .* has 3 images for train, and should have 60000"):
        read("mnist", "train", tmp_path)
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    whole = file.read_bytes()
    for damaged in (whole[:-7], whole[:9], b"<html>", b""):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"MNIST in .* is damaged \(.*fetch it again"):
            read("mnist", "train", tmp_path)
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "mnist.tar.gz").write_bytes(b"none")
    with pytest.raises(UserError, match="is damaged"):
        read("mnist", "train", tmp_path / "archive")
    with tarfile.open(tmp_path / "archive" / "mnist.tar.gz", "w:gz"):
        pass
    with pytest.raises(UserError, match="mnist.tar.gz has no MNIST/raw/train-images"):
        read("mnist", "train", tmp_path / "archive")


def write_usps(data: Path, values: NDArray[np.float64], labels: list[int]) -> None:
    import bz2

    lines = [
        f"{label + 1} " + " ".join(f"{i + 1}:{value:.3f}" for i, value in enumerate(row))
        for label, row in zip(labels, values, strict=True)
    ]
    for name in ("usps.bz2", "usps.t.bz2"):
        (data / name).write_bytes(bz2.compress("\n".join(lines).encode()))


def test_usps_is_enlarged_by_bilinear_interpolation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    few(monkeypatch, "usps", 2, 2)
    values = RNG.uniform(-1, 1, (2, 256)).round(3)
    write_usps(tmp_path, values, [7, 0])
    for split in ("train", "test"):
        pixels, targets = read("usps", split, tmp_path)
        assert targets == [7, 0]
        small = np.floor((values.reshape(2, 16, 16).astype(np.float32) + 1) / 2 * 255)
        for row, column in ((0, 0), (13, 14), (27, 5), (20, 27)):
            y, x = ((np.array([row, column]) + 0.5) * 16 / 28 - 0.5).clip(0, 15)
            top, left = int(y), int(x)
            below, right = min(top + 1, 15), min(left + 1, 15)
            upper = (1 - x + left) * small[:, top, left] + (x - left) * small[:, top, right]
            lower = (1 - x + left) * small[:, below, left] + (x - left) * small[:, below, right]
            expected = (1 - y + top) * upper + (y - top) * lower
            assert abs(pixels[:, row, column] - expected).max() <= 1.01  # Pillow rounds after each direction
    read("usps", "train", tmp_path, tmp_path / "cache")
    kept = [path.name for path in (tmp_path / "cache").iterdir()]
    assert len(kept) == 1 and kept[0].startswith("usps-train-28-")
    again, _ = read("usps", "train", tmp_path, tmp_path / "cache")
    np.testing.assert_array_equal(again, pixels)


def test_usps_missing_or_damaged(tmp_path: Path):
    with pytest.raises(UserError, match=r"USPS is not in .*: put usps.bz2 and usps.t.bz2 there"):
        read("usps", "train", tmp_path)
    (tmp_path / "usps.bz2").write_bytes(b"none")
    with pytest.raises(UserError, match=r"usps.bz2 is damaged \("):
        read("usps", "train", tmp_path)


def test_what_torchvision_can_fetch_it_fetches(data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if not (data_folder / "usps.t.bz2").is_file():
        pytest.skip(f"no USPS in {data_folder}")
    from torchvision.datasets import USPS

    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(data_folder))
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/usps.t.bz2"
        checksum = hashlib.md5((data_folder / "usps.t.bz2").read_bytes(), usedforsecurity=False).hexdigest()
        for served, match in ((f"{url}.gone", "HTTP Error 404"), (url, "corrupted")):
            monkeypatch.setattr(USPS, "split_list", {"test": [served, "usps.t.bz2", checksum[::-1]]})
            with pytest.raises(UserError, match=rf"USPS cannot be fetched \(.*{match}.*docs/data.md"):
                read("usps", "test", tmp_path / "mine", download=True)
            assert not (tmp_path / "mine" / "usps.t.bz2").exists()
        monkeypatch.setattr(USPS, "split_list", {"test": [url, "usps.t.bz2", checksum]})
        pixels, _ = read("usps", "test", tmp_path / "mine", download=True)
        server.shutdown()
    again, _ = read("usps", "test", tmp_path / "mine", download=True)  # it is there: nothing is asked of a network
    np.testing.assert_array_equal(pixels, again)
    assert (tmp_path / "mine" / "usps.t.bz2").read_bytes() == (data_folder / "usps.t.bz2").read_bytes()


def test_svhn_becomes_grey_and_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    few(monkeypatch, "svhn", 3, 3)
    colours = np.array([[200, 10, 30], [0, 255, 0], [9, 9, 9]], np.uint8)
    images = np.broadcast_to(colours[:, None, None], (3, 32, 32, 3))
    file = tmp_path / "test_32x32.mat"
    savemat(file, {"X": images.transpose(1, 2, 3, 0), "y": np.array([[10], [1], [9]], np.uint8)})
    with pytest.raises(UserError, match=r"test_32x32.mat is damaged \(its checksum is another\)"):
        read("svhn", "test", tmp_path)
    digest = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setattr(SVHN, "split_list", {"test": ["", file.name, digest]})
    pixels, targets = read("svhn", "test", tmp_path)
    assert targets == [0, 1, 9], "10 stands for the digit 0"
    luma = colours @ np.array([0.299, 0.587, 0.114])
    assert abs(pixels - luma[:, None, None]).max() <= 1
    with pytest.raises(UserError, match="SVHN is not in .*train_32x32.mat"):
        read("svhn", "train", tmp_path)


def test_mnistm_is_read_from_its_pictures_and_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    few(monkeypatch, "mnistm", 2, 2)
    with pytest.raises(UserError, match=r"MNIST-M is not in .*mnist_m_train/\*.png and .*mnist_m_train_labels.txt"):
        read("mnistm", "train", tmp_path)
    with pytest.raises(UserError, match="torchvision cannot fetch MNIST-M"):
        read("mnistm", "train", tmp_path, download=True)
    folder = tmp_path / "mnist_m" / "mnist_m_train"
    folder.mkdir(parents=True)
    for i, colour in enumerate([(200, 10, 30), (0, 255, 0)]):
        Image.new("RGB", (32, 32), colour).save(folder / f"{i}.png")
    labels = tmp_path / "mnist_m" / "mnist_m_train_labels.txt"
    labels.write_text("1.png 8\n0.png 5\n")
    pixels, targets = read("mnistm", "train", tmp_path, tmp_path / "cache")
    assert targets == [8, 5]
    assert abs(pixels - np.array([0.587 * 255, 0.299 * 200 + 5.87 + 3.42])[:, None, None]).max() <= 1
    for line in ("2.png 1", "0.png x", "0.png 11", "../0.png 1"):
        labels.write_text(f"1.png 8\n{line}\n")
        with pytest.raises(UserError, match="mnist_m_train_labels.txt, line 2 is .*it must name a file of"):
            read("mnistm", "train", tmp_path)


def test_rendered_digits_at_28_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    few(monkeypatch, "rendered", 50, 20)
    pixels, targets = read("rendered", "train", tmp_path, tmp_path)
    assert pixels.shape == (50, 28, 28) and np.bincount(targets).tolist() == [5] * 10 and pixels.max() > 200
    np.testing.assert_array_equal(read("rendered", "train", tmp_path, tmp_path)[0], pixels)
    test, _ = read("rendered", "test", tmp_path)
    assert not {image.tobytes() for image in pixels} & {image.tobytes() for image in test}
    with pytest.raises(UserError, match="drawn, not fetched"):
        read("rendered", "train", tmp_path, download=True)


def test_a_pair_of_sets_is_a_transfer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    few(monkeypatch, "mnist", 3, 3)
    few(monkeypatch, "usps", 2, 2)
    write_mnist(tmp_path, images=np.zeros((3, 28, 28), np.uint8), labels=np.arange(3, dtype=np.uint8))
    write_usps(tmp_path, RNG.uniform(-1, 1, (2, 256)), [7, 0])
    task = load_pair("digits_usps2mnist", tmp_path)
    assert (task.backbone, task.kind, task.image_size, task.normalisation) == ("lenet", "image", 28, "half")
    assert {name: len(data) for name, data in task.splits.items()} == {"source_test": 2, "target": 3, "target_test": 3}
    assert task.source.targets.tolist() == [7, 0] and float(task.target[0][0].max()) == -1.0


# The real sets


def test_the_real_digits(data_folder: Path, tmp_path: Path):
    if not (data_folder / "usps.bz2").is_file() or not (
        (data_folder / "mnist.tar.gz").is_file() or (data_folder / "MNIST").is_dir()
    ):
        pytest.skip(f"no MNIST and USPS in {data_folder}")
    task = load_pair("digits_mnist2usps", data_folder, cache=tmp_path)
    counts = {"source": 60000, "source_test": 10000, "target": 7291, "target_test": 2007}
    assert {name: len(getattr(task, name)) for name in counts} == counts
    # Counts of the digits as the sets' own pages print them.
    assert task.source.targets.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert task.target.targets.bincount().tolist() == [1194, 1005, 731, 658, 652, 556, 664, 645, 542, 644]
    # A label is the label of its picture: the nearest class mean is right for most of the test images.
    for train, test, least in ((task.source, task.source_test, 0.8), (task.target, task.target_test, 0.78)):
        x, y = train.batch(torch.arange(0, len(train), 7))
        means = torch.stack([x[y == digit].mean(0).flatten() for digit in range(10)])
        x, y = test.batch(torch.arange(len(test)))
        assert (torch.cdist(x.flatten(1), means).argmin(1) == y).float().mean() > least


# CIFAR-10


def write_cifar(data: Path, *, per_class: int) -> None:
    """cifar10_jpg.tar.gz in which every image is of one grey, its class and its part told by it."""
    import io

    with tarfile.open(data / "cifar10_jpg.tar.gz", "w:gz") as archive:
        for part, level in (("train", 10), ("test", 130)):
            for index, name in enumerate(reversed(CLASSES)):
                for i in range(per_class):
                    buffer = io.BytesIO()
                    Image.new("RGB", (32, 32), (level + 10 * index,) * 3).save(buffer, "JPEG")
                    entry = tarfile.TarInfo(f"{part}/{name}/{i:04d}.jpg")
                    entry.size = len(buffer.getvalue())
                    archive.addfile(entry, io.BytesIO(buffer.getvalue()))


def test_cifar_of_another_size_or_missing(tmp_path: Path):
    with pytest.raises(UserError, match=r"CIFAR-10 is not in .*: put .*cifar-10-batches-py/ there"):
        cifar10(tmp_path)
    write_cifar(tmp_path, per_class=1)
    with pytest.raises(UserError, match="should have 5000 images a class for train"):
        cifar10(tmp_path)
    (tmp_path / "cifar10_jpg.tar.gz").write_bytes(b"none")
    with pytest.raises(UserError, match="cifar10_jpg.tar.gz is damaged"):
        cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(UserError, match="cifar-10-batches-py is damaged or incomplete"):
        cifar10(tmp_path)


def test_cifar_is_split_by_class_and_read_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from dan.data import cifar10 as module

    write_cifar(tmp_path, per_class=10)
    monkeypatch.setattr(module, "COUNTS", {"train": 100, "test": 100})
    monkeypatch.setattr(module, "VALIDATION", 20)
    sets = cifar10(tmp_path, cache=tmp_path / "cache")
    assert sets.classes == CLASSES and len(sets.train) == 80 and len(sets.test) == 100
    assert sets.validation.targets.bincount().tolist() == [2] * 10
    for data, level in ((sets.train, 10), (sets.validation, 10), (sets.test, 130)):
        x, y = data.batch(torch.arange(len(data)))
        assert x.shape[1:] == (3, 32, 32)
        grey = ((x[:, 0, 5, 5] * 0.5 + 0.5) * 255).round()
        assert (grey - (level + 10 * (9 - y))).abs().max() <= 1
    again = cifar10(tmp_path, cache=tmp_path / "cache")
    assert again.validation.fingerprint == sets.validation.fingerprint
    assert cifar10(tmp_path, cache=tmp_path / "cache", seed=1).validation.fingerprint != sets.validation.fingerprint
    assert len(list((tmp_path / "cache").iterdir())) == 2
