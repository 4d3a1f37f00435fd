"""Digits, 28 x 28 grey: MNIST, USPS, SVHN, MNIST-M and rendered fonts, so that one LeNet fits every pair of them.

Grey and 28 because MNIST and USPS have no colour, and because a colour says nothing of which digit it is: what is left
between the sets is shape, stroke and background. Ink is bright in MNIST, USPS and rendered; SVHN has both kinds.

Shapes: N images.
"""

from __future__ import annotations

import hashlib
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dan.archive_limits import read_member
from dan.data import rendered
from dan.data.image_cache import kept_arrays, pixels_of
from dan.data.manifests import Listing
from dan.data.tensor_datasets import Images
from dan.errors import UserError

Split = Literal["train", "test"]
Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]

SIZE = 28
LARGEST = 2**28  # bytes of a member of mnist.tar.gz: the training images have 47 million
DIGITS = tuple("0123456789")
COUNTS: dict[str, tuple[int, int]] = {  # images for training, for test
    "mnist": (60000, 10000),
    "usps": (7291, 2007),
    "svhn": (73257, 26032),
    "mnistm": (59001, 9001),
    "rendered": (10000, 2000),
}


def digit_set(name: str, split: Split, data: Path, *, cache: Path | None, download: bool, quiet: bool) -> Images:
    """One split of a set of digits: x (1, 28, 28) in [-1, 1], classes "0".."9".

    USPS (16 x 16) is enlarged and SVHN and MNIST-M (32 x 32) are shrunk by bilinear interpolation; colour becomes grey
    as 0.299 R + 0.587 G + 0.114 B. cache, quiet: see `dan.data.domain_pair.Options`.
    download: let torchvision fetch MNIST, USPS or SVHN into `data` if they are not there.

    Raises UserError that says what to fetch and where to put it when files are missing or damaged, and for another
    number of images than the set has.
    """
    pixels, targets = _READERS[name](split, data, cache, download, quiet)
    expected = COUNTS[name][split == "test"]
    if len(targets) != expected:
        raise UserError(
            f"{name} in {data} has {len(targets)} images for {split}, and should have {expected}: fetch it again"
        )
    digest = hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()
    return Images(pixels[..., None], targets, DIGITS, normalisation="half", digest=digest)


def _resized(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N, H, W) grey or (N, H, W, 3) colour -> (N, 28, 28) grey."""
    from PIL import Image

    small = np.empty((len(images), SIZE, SIZE), dtype=np.uint8)
    for i, image in enumerate(images):
        small[i] = np.asarray(Image.fromarray(image).convert("L").resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    return small


def _mnist(split: Split, data: Path, cache: Path | None, download: bool, quiet: bool) -> Arrays:
    """torchvision's layout MNIST/raw, or the same files in mnist.tar.gz, read where they are."""
    prefix = "train" if split == "train" else "t10k"
    names = [f"MNIST/raw/{prefix}-images-idx3-ubyte", f"MNIST/raw/{prefix}-labels-idx1-ubyte"]
    archive = data / "mnist.tar.gz"
    if download and not archive.is_file():
        from torchvision.datasets import MNIST

        _fetch("MNIST", lambda: MNIST(str(data), download=True))
    try:
        if all((data / name).is_file() for name in names):
            images, labels = ((data / name).read_bytes() for name in names)
        elif archive.is_file():
            with tarfile.open(archive) as opened:
                images, labels = (_member(opened, name) for name in names)
        else:
            raise UserError(
                f"MNIST is not in {data}: put {data}/MNIST/raw/*-ubyte (or mnist.tar.gz of that folder) there, or let "
                "torchvision fetch it with --download (11 MB)"
            )
        return _idx(images, 3), _idx(labels, 1).astype(np.int64)
    except (OSError, EOFError, tarfile.TarError, ValueError, struct.error) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"MNIST in {data} is damaged ({error}): remove it, and fetch it again") from None


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    try:
        member = archive.getmember(name)
    except KeyError:
        raise ValueError(f"mnist.tar.gz has no {name}") from None
    return read_member(archive, member, LARGEST)


def _idx(content: bytes, dimensions: int) -> NDArray[np.uint8]:
    """The array in an IDX file of bytes: 0, 0, 8, the number of dimensions, their sizes (big-endian), the values."""
    zero, kind, found = struct.unpack(">HBB", content[:4])
    if (zero, kind, found) != (0, 8, dimensions):
        raise ValueError(f"no IDX file of bytes in {dimensions} dimensions")
    shape = struct.unpack(f">{dimensions}I", content[4 : 4 + 4 * dimensions])
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _usps(split: Split, data: Path, cache: Path | None, download: bool, quiet: bool) -> Arrays:
    from torchvision.datasets import USPS

    file = data / ("usps.bz2" if split == "train" else "usps.t.bz2")
    if download and not file.is_file():
        _fetch("USPS", lambda: USPS(str(data), train=split == "train", download=True), file)
    if not file.is_file():
        raise UserError(
            f"USPS is not in {data}: put usps.bz2 and usps.t.bz2 there (from the LIBSVM data sets), or let torchvision "
            "fetch them with --download (2 MB)"
        )

    def read() -> Arrays:
        try:
            read = USPS(str(data), train=split == "train")
        except (OSError, EOFError, ValueError, IndexError) as error:
            raise UserError(f"{file} is damaged ({error}): remove it, and fetch it again") from None
        return _resized(read.data), np.array(read.targets, dtype=np.int64)

    return kept_arrays(cache, f"usps-{split}-{SIZE}", [file], read)


def _svhn(split: Split, data: Path, cache: Path | None, download: bool, quiet: bool) -> Arrays:
    from torchvision.datasets import SVHN

    file = data / f"{split}_32x32.mat"
    if download and not file.is_file():
        _fetch("SVHN", lambda: SVHN(str(data), split=split, download=True), file)
    if not file.is_file():
        raise UserError(
            f"SVHN is not in {data}: put train_32x32.mat and test_32x32.mat there (from "
            "http://ufldl.stanford.edu/housenumbers), or let torchvision fetch them with --download (250 MB)"
        )

    def read() -> Arrays:
        try:
            read = SVHN(str(data), split=split)
        except RuntimeError:
            raise UserError(f"{file} is damaged (its checksum is another): remove it, and fetch it again") from None
        return _resized(read.data.transpose(0, 2, 3, 1)), np.asarray(read.labels, dtype=np.int64)

    return kept_arrays(cache, f"svhn-{split}-{SIZE}", [file], read)


def _mnistm(split: Split, data: Path, cache: Path | None, download: bool, quiet: bool) -> Arrays:
    """The publisher's layout: mnist_m/mnist_m_train/*.png and mnist_m/mnist_m_train_labels.txt, and so for test."""
    if download:
        raise UserError("torchvision cannot fetch MNIST-M: leave out --download, and see docs/data.md for where it is")
    folder, labels = data / "mnist_m" / f"mnist_m_{split}", data / "mnist_m" / f"mnist_m_{split}_labels.txt"
    if not folder.is_dir() or not labels.is_file():
        raise UserError(
            f"MNIST-M is not in {data}: put {folder}/*.png and {labels} there (mnist_m.tar.gz, from the page of the "
            "paper on domain-adversarial training, http://yaroslav.ganin.net)"
        )
    names, targets = [], []
    for number, line in enumerate(labels.read_text(encoding="utf-8").splitlines(), start=1):
        name, _, digit = line.strip().partition(" ")
        if digit not in DIGITS or not (folder / name).is_file() or "/" in name:
            raise UserError(f'{labels}, line {number} is "{line}": it must name a file of {folder} and its digit')
        names.append(name)
        targets.append(int(digit))
    listing = Listing(place=folder, root=folder, names=tuple(names), targets=tuple(targets), classes=DIGITS)
    pixels, _ = pixels_of(listing, SIZE, channels=1, cache=cache, quiet=quiet)
    return pixels[..., 0], np.array(targets, dtype=np.int64)


def _rendered(split: Split, data: Path, cache: Path | None, download: bool, quiet: bool) -> Arrays:
    if download:
        raise UserError("rendered digits are drawn, not fetched: leave out --download")
    count, seed = COUNTS["rendered"][split == "test"], int(split == "test")

    def draw() -> Arrays:
        images, labels = rendered.render(count, seed, size=SIZE)
        return np.rint(images * 255).astype(np.uint8), labels

    return kept_arrays(cache, f"rendered-{split}-{count}-{SIZE}", list(rendered.fonts()), draw)


def _fetch(name: str, download: Callable[[], object], *files: Path) -> None:
    """Let torchvision fetch a set; of what failed nothing stays in its `files`."""
    try:
        download()
    except (OSError, RuntimeError) as error:  # no network, no room, another checksum
        for file in files:
            file.unlink(missing_ok=True)
        raise UserError(f"{name} cannot be fetched ({error}): see docs/data.md for where to put it by hand") from None


_READERS: dict[str, Callable[[Split, Path, Path | None, bool, bool], Arrays]] = {
    "mnist": _mnist,
    "usps": _usps,
    "svhn": _svhn,
    "mnistm": _mnistm,
    "rendered": _rendered,
}
