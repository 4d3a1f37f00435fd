"""CIFAR-10: one set of small photographs in ten classes, for learning curves of active learning; no transfer.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

import hashlib
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dan.archive_limits import read_member
from dan.data.decoding import decode_known
from dan.data.image_cache import kept_arrays
from dan.data.tensor_datasets import Images, held_out
from dan.errors import UserError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
COUNTS = {"train": 50000, "test": 10000}
VALIDATION = 1000  # of the training images
SIZE, LARGEST = 32, 2**20  # pixels a side; bytes of an image's file, which has one or two thousand
ARCHIVE, BATCHES = "cifar10_jpg.tar.gz", "cifar-10-batches-py"


@dataclass(frozen=True, kw_only=True)
class Splits:
    """One labelled set, split: x (3, 32, 32) in [-1, 1]."""

    train: Images
    validation: Images
    test: Images

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the ten classes."""
        return self.train.classes


def cifar10(data: Path, *, cache: Path | None = None, seed: int = 0) -> Splits:
    """49,000 images for training, 1,000 for validation (100 a class, chosen by `seed`), 10,000 for test.

    data: holds torchvision's folder cifar-10-batches-py, or cifar10_jpg.tar.gz with train/<class>/*.jpg and
    test/<class>/*.jpg (the same images, compressed once more: not the same bits). cache: keeps the decoded archive.

    Raises UserError when neither is there, when it is damaged, and for another number of images than the set has.
    """
    whole, test = (_part(split, data, cache) for split in ("train", "test"))
    train, validation = held_out(whole, VALIDATION / len(whole), seed=seed)
    return Splits(train=whole.subset(train), validation=whole.subset(validation), test=test)


def _part(split: str, data: Path, cache: Path | None) -> Images:
    if (data / BATCHES).is_dir():
        pixels, targets = _batches(split, data)
    elif (data / ARCHIVE).is_file():
        archive = data / ARCHIVE
        pixels, targets = kept_arrays(cache, f"cifar10-{split}", [archive], lambda: _archive(split, archive))
    else:
        raise UserError(
            f"CIFAR-10 is not in {data}: put {data / BATCHES}/ there (cifar-10-python.tar.gz from "
            f"https://www.cs.toronto.edu/~kriz/cifar.html, untarred) or {ARCHIVE}, or name another --data"
        )
    expected = COUNTS[split]
    if len(targets) != expected or (np.bincount(targets, minlength=10) != expected // 10).any():
        raise UserError(f"CIFAR-10 in {data} should have {expected // 10} images a class for {split}: fetch it again")
    digest = hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()
    return Images(pixels, targets, CLASSES, normalisation="half", digest=digest)


def _batches(split: str, data: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    from torchvision.datasets import CIFAR10

    try:
        read = CIFAR10(str(data), train=split == "train")
    except RuntimeError:  # torchvision compares checksums before it unpickles anything
        raise UserError(f"{data / BATCHES} is damaged or incomplete: fetch it again") from None
    return read.data, np.array(read.targets, dtype=np.int64)


def _archive(split: str, file: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The JPEGs of a split, by class and then by name, read without untarring."""
    found: dict[str, NDArray[np.uint8]] = {}
    try:
        with tarfile.open(file) as archive:
            for member in archive:
                parts = member.name.removeprefix("./").split("/")
                if member.isfile() and len(parts) == 3 and parts[0] == split and parts[1] in CLASSES:
                    content = read_member(archive, member, LARGEST)
                    found[f"{parts[1]}/{parts[2]}"] = np.asarray(decode_known(content, SIZE))
        names = sorted(found)
        pixels = np.stack([found[name] for name in names])
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        raise UserError(f"{file} is damaged ({error}): fetch it again") from None
    return pixels, np.array([CLASSES.index(name.split("/")[0]) for name in names], dtype=np.int64)
