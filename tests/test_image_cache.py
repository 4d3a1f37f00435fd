"""One file -> one square of pixels, every kind of file; the cache of those squares; data sets that normalise them."""

import os
import random
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader

from active.annotation.pool_files import read_unlabelled
from dan.data import decoded_listing, decoding, image_cache
from dan.data.decoding import decode, square
from dan.data.image_cache import kept_arrays, pixels_of
from dan.data.manifests import Listing, read_tree
from dan.data.tensor_datasets import NORMALISATIONS, Images, Vectors, held_out
from dan.errors import UserError

CORNERS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[10, 20, 30], [40, 50, 60], [70, 80, 90]]], np.uint8)


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def listing(tmp_path: Path, count: int = 5) -> Listing:
    """Two classes of noise, of different sizes."""
    for i in range(count):
        folder = tmp_path / "tree" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(20 + i, 30 - i, seed=i)).save(folder / f"{i}.png")
    return read_tree(tmp_path / "tree")


# One file


def test_rgb_is_read_as_it_is(tmp_path: Path):
    Image.fromarray(CORNERS).save(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(decode(tmp_path / "a.png")), CORNERS)


def test_grey_becomes_rgb_by_repetition_and_rgb_grey_by_luma(tmp_path: Path):
    Image.fromarray(CORNERS[..., 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(np.asarray(decode(tmp_path / "grey.png")), np.stack([CORNERS[..., 0]] * 3, axis=-1))
    np.testing.assert_array_equal(np.asarray(decode(tmp_path / "grey.png", channels=1)), CORNERS[..., 0])
    Image.fromarray(CORNERS).save(tmp_path / "rgb.png")
    luma = CORNERS @ np.array([0.299, 0.587, 0.114])
    assert abs(np.asarray(decode(tmp_path / "rgb.png", channels=1)).astype(float) - luma).max() <= 1
    Image.fromarray(CORNERS[..., 0] > 128).save(tmp_path / "bits.png")
    assert decode(tmp_path / "bits.png").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_transparency_is_laid_on_white(tmp_path: Path, mode: str):
    """out = alpha * colour + (1 - alpha) * white."""
    if mode in ("RGBA", "LA"):
        alpha = np.array([[255, 0, 128], [64, 255, 0]], np.uint8)
        colour = CORNERS if mode == "RGBA" else np.stack([CORNERS[..., 1]] * 3, axis=-1)
        bands = np.dstack([CORNERS if mode == "RGBA" else CORNERS[..., 1], alpha])
        Image.fromarray(bands).save(tmp_path / "a.png")
    else:
        colour = CORNERS
        alpha = np.full((2, 3), 255, np.uint8)
        indexed = Image.new("P", (3, 2))
        indexed.putdata(range(6))
        indexed.putpalette(CORNERS.reshape(-1).tolist())
        if mode == "P":
            indexed.save(tmp_path / "a.png", transparency=b"\x00\xff\xff\xff\xff\xff")
            alpha[0, 0] = 0
        else:
            indexed.save(tmp_path / "a.png", transparency=1)
            alpha[0, 1] = 0
    share = alpha[..., None] / 255
    expected = share * colour + (1 - share) * 255
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = np.asarray(decode(tmp_path / "a.png"))
    assert found.shape == (2, 3, 3) and abs(found.astype(float) - expected).max() <= 1


def test_sixteen_bits_are_divided_by_257(tmp_path: Path):
    values = np.array([[0, 128, 129, 257], [32896, 65535, 65278, 1000]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.fromarray(values).save(tmp_path / "a.tif")
    for name in ("a.png", "a.tif"):
        found = np.asarray(decode(tmp_path / name, channels=1))
        np.testing.assert_array_equal(found, np.floor(values / 257 + 0.5))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_the_camera_is_applied(tmp_path: Path, orientation: int):
    """The eight values of the EXIF tag, as its standard defines row 0 and column 0 of what is stored."""
    stored = {
        1: CORNERS,
        2: CORNERS[:, ::-1],
        3: CORNERS[::-1, ::-1],
        4: CORNERS[::-1],
        5: CORNERS.transpose(1, 0, 2),
        6: CORNERS.transpose(1, 0, 2)[::-1],
        7: CORNERS.transpose(1, 0, 2)[::-1, ::-1],
        8: CORNERS.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(decode(tmp_path / "a.png")), CORNERS)


@pytest.mark.parametrize(("height", "width"), [(224, 224), (300, 200), (199, 301), (8, 8), (13, 40), (41, 7), (64, 63)])
@pytest.mark.parametrize("size", [8, 33])
def test_square_is_torchvisions_resize_and_centre_crop(height: int, width: int, size: int):
    from torchvision.transforms import v2

    image = Image.fromarray(noise(height, width))
    expected = v2.Compose([v2.Resize(size), v2.CenterCrop(size)])(image)
    np.testing.assert_array_equal(square(image, size), np.asarray(expected))


def test_square_keeps_the_middle():
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 4:8] = noise(4, 4)
    np.testing.assert_array_equal(square(Image.fromarray(wide), 4), wide[:, 4:8])
    np.testing.assert_array_equal(square(Image.fromarray(wide.transpose(1, 0, 2)), 4), wide[:, 4:8].transpose(1, 0, 2))


def _empty(file: Path) -> None:
    file.touch()


def _text(file: Path) -> None:
    file.write_text("<html>not found</html>")


def _truncated(file: Path) -> None:
    Image.fromarray(noise(64, 64)).save(file)
    file.write_bytes(file.read_bytes()[:-3000])


def _thin(file: Path) -> None:
    Image.new("RGB", (1, 101)).save(file)


def _float(file: Path) -> None:
    Image.fromarray(np.ones((3, 3), np.float32)).save(file.with_suffix(".tif"))
    file.with_suffix(".tif").rename(file)


def _bomb(file: Path) -> None:
    """A PNG that promises 20,000 x 20,000 pixels in a few bytes."""
    Image.new("L", (1, 1)).save(file)
    content = bytearray(file.read_bytes())
    content[16:24] = struct.pack(">II", 20000, 20000)
    import zlib

    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    file.write_bytes(content)


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty": (_empty, "0 bytes"),
    "text": (_text, "not an image that Pillow knows"),
    "truncated": (_truncated, "truncated"),
    "thin": (_thin, "1 x 101 pixels: more than 100 times as long as wide"),
    "float": (_float, "floating-point pixels"),
    "bomb": (_bomb, "more pixels? than Pillow's limit|pixels: more than Pillow's limit"),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("cached", [False, True])
def test_broken_images_are_counted_and_named(tmp_path: Path, kind: str, cached: bool):
    images = listing(tmp_path)
    make, reason = BROKEN[kind]
    make(tmp_path / "tree" / "b" / "broken.png")
    images = read_tree(tmp_path / "tree")
    cache = tmp_path / "cache" if cached else None
    with pytest.raises(UserError, match=rf"1 of 6 images cannot be read: b/broken.png \(.*({reason})") as error:
        pixels_of(images, 8, cache=cache)
    assert "\n" not in str(error.value)
    assert cache is None or list(cache.iterdir()) == [], "half a cache is none"


def test_of_many_broken_images_the_first_are_named(tmp_path: Path):
    listing(tmp_path)
    for i in range(5):
        _empty(tmp_path / "tree" / "a" / f"broken{i}.png")
    with pytest.raises(UserError, match=r"5 of 10 .*broken0.*broken1.*broken2\.png \(0 bytes\) and 2 more; fetch"):
        pixels_of(read_tree(tmp_path / "tree"), 8)


def test_pillows_limit_counts_from_its_first_pixel_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Between once and twice its limit Pillow only warns: a warning in a training's log protects nobody."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    images = listing(tmp_path)  # 20 x 30 and more
    with pytest.raises(UserError, match=r"5 of 5 images cannot be read: .*Pillow's limit"):
        pixels_of(images, 8)


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path):
    listing(tmp_path)
    (tmp_path / "tree" / "a" / "gone.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(UserError, match=r"1 of 6 images cannot be read: a/gone.png \(.*No such file"):
        pixels_of(read_tree(tmp_path / "tree"), 8, cache=tmp_path / "cache")


# The cache


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files decoded."""
    seen: list[str] = []
    real = decoding.decode

    def counting(file: Path, **options: object) -> Image.Image:
        seen.append(file.name)
        return real(file, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(decoding, "decode", counting)
    return seen


def test_the_cache_is_the_direct_decode_bit_for_bit_and_used_the_second_time(tmp_path: Path, decodes: list[str]):
    images = listing(tmp_path)
    direct = np.stack([square(decode(images.root / name), 16) for name in images.names])
    in_memory, digest = pixels_of(images, 16)
    assert len(decodes) == 5
    first, first_digest = pixels_of(images, 16, cache=tmp_path / "cache")
    assert len(decodes) == 10
    again, again_digest = pixels_of(images, 16, cache=tmp_path / "cache")
    assert len(decodes) == 10, "decoded again"
    for pixels in (in_memory, first, again):
        np.testing.assert_array_equal(pixels, direct)
        assert not pixels.flags.writeable
    assert digest == first_digest == again_digest
    assert isinstance(again, np.memmap)


def test_chunks_keep_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    images = listing(tmp_path, 7)
    whole, digest = pixels_of(images, 8)
    monkeypatch.setattr(decoded_listing, "CHUNK", 3)
    for cache in (None, tmp_path / "cache"):
        parts, digest_of_parts = pixels_of(images, 8, cache=cache)
        np.testing.assert_array_equal(parts, whole)
        assert digest == digest_of_parts


@pytest.mark.parametrize("change", ["size", "channels", "content", "time", "name", "added"])
def test_whatever_changes_the_pixels_changes_the_key(tmp_path: Path, decodes: list[str], change: str):
    images = listing(tmp_path)
    pixels_of(images, 16, cache=tmp_path / "cache")
    decodes.clear()
    file = images.root / images.names[0]
    if change == "content":
        Image.fromarray(noise(20, 31, seed=9)).save(file)
    if change == "time":
        os.utime(file, (1, 1))
    if change == "name":
        file.rename(file.with_name("x.png"))
    if change == "added":
        Image.fromarray(noise(9, 9)).save(file.with_name("y.png"))
    images = read_tree(tmp_path / "tree")
    size, channels = 8 if change == "size" else 16, 1 if change == "channels" else 3
    found, _ = pixels_of(images, size, channels=channels, cache=tmp_path / "cache")  # type: ignore[arg-type]
    assert len(decodes) == len(images.names)
    np.testing.assert_array_equal(found, pixels_of(images, size, channels=channels)[0])  # type: ignore[arg-type]


def test_a_moved_folder_keeps_its_cache(tmp_path: Path, decodes: list[str]):
    images = listing(tmp_path)
    pixels_of(images, 16, cache=tmp_path / "cache")
    images.root.rename(tmp_path / "moved")
    decodes.clear()
    pixels_of(read_tree(tmp_path / "moved"), 16, cache=tmp_path / "cache")
    assert decodes == []


@pytest.mark.parametrize("damage", ["truncated", "card", "other"])
def test_a_damaged_cache_is_made_again(tmp_path: Path, decodes: list[str], damage: str):
    images = listing(tmp_path)
    pixels, _ = pixels_of(images, 16, cache=tmp_path / "cache")
    expected = pixels.copy()
    del pixels
    (file,) = (tmp_path / "cache").glob("*.npy")
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "card":
        file.with_suffix(".json").write_text("{")
    else:
        np.save(file, np.zeros((5, 2, 2, 3), np.uint8))
    decodes.clear()
    found, _ = pixels_of(images, 16, cache=tmp_path / "cache")
    assert len(decodes) == 5
    np.testing.assert_array_equal(found, expected)
    assert not list((tmp_path / "cache").glob("*.tmp"))


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path):
    images = listing(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file cannot keep decoded images .*: name another --image-cache"):
        pixels_of(images, 8, cache=tmp_path / "file")


def test_pixels_that_do_not_fit_are_refused_before_any_is_decoded(
    tmp_path: Path, decodes: list[str], monkeypatch: pytest.MonkeyPatch
):
    images = listing(tmp_path)
    monkeypatch.setattr(image_cache, "MEMORY_LIMIT", 5 * 8 * 8 * 3 - 1)
    with pytest.raises(UserError, match=r"5 images of 8 x 8 take .* of memory: name a folder .*--image-cache"):
        pixels_of(images, 8)
    pixels_of(images, 8, cache=tmp_path / "cache")
    decodes.clear()
    from collections import namedtuple

    usage = namedtuple("usage", "free")
    monkeypatch.setattr(image_cache.shutil, "disk_usage", lambda _: usage(10))
    with pytest.raises(UserError, match=r"5 decoded images take .* GiB left: name another folder"):
        pixels_of(images, 9, cache=tmp_path / "cache")
    assert decodes == []


def test_kept_arrays_are_read_once_until_their_file_changes(tmp_path: Path):
    file = tmp_path / "slow.txt"
    file.write_text("1")
    calls = []

    def make() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        calls.append(file.read_text())
        return np.full((1, 2, 2), int(file.read_text()), np.uint8), np.array([3])

    for cache, expected in ((None, 1), (None, 2), (tmp_path / "c", 3), (tmp_path / "c", 3)):
        pixels, targets = kept_arrays(cache, "slow", [file], make)
        assert len(calls) == expected and pixels.tolist() == [[[1, 1], [1, 1]]] and targets.tolist() == [3]
    file.write_text("22")
    assert kept_arrays(tmp_path / "c", "slow", [file], make)[0].max() == 22
    (newest,) = (path for path in (tmp_path / "c").iterdir() if np.load(path)["pixels"].max() == 22)
    newest.write_bytes(b"PK damaged")
    assert kept_arrays(tmp_path / "c", "slow", [file], make)[0].max() == 22 and len(calls) == 5


# Data sets in arrays


def images(count: int = 6, *, size: int = 8, channels: int = 3, **options: object) -> Images:
    pixels = np.random.default_rng(1).integers(0, 256, (count, size, size, channels), dtype=np.uint8)
    settings = {"normalisation": "imagenet" if channels == 3 else "half", "digest": "0", **options}
    return Images(pixels, [i % 2 for i in range(count)], ("a", "b"), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("channels", "normalisation"), [(3, "imagenet"), (3, "half"), (1, "half")])
def test_an_item_is_the_normalised_pixel(channels: int, normalisation: str):
    data = images(channels=channels, normalisation=normalisation)
    mean, std = NORMALISATIONS[normalisation]
    for i in (0, 5, -1):
        x, y = data[i]
        assert x.shape == (channels, 8, 8) and x.dtype == torch.float32 and x.is_contiguous() and y == i % 2
        for c in range(channels):
            pixel = data._pixels[i, 3, 2, c] / 255
            expected = (pixel - mean[c % len(mean)]) / std[c % len(std)]
            assert float(x[c, 3, 2]) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(IndexError):
        data[6]


def test_a_batch_is_its_items_with_the_same_bits():
    data = images()
    rows = torch.tensor([4, 0, 4, 5])
    x, y = data.batch(rows)
    assert torch.equal(x, torch.stack([data[i][0] for i in rows.tolist()])) and y.tolist() == [0, 0, 0, 1]
    loaded = next(iter(DataLoader(data, batch_size=6)))
    assert torch.equal(loaded[0], data.batch(torch.arange(6))[0]) and torch.equal(loaded[1], data.targets)


def test_a_subset_is_those_rows_without_a_copy():
    data = images(paths=list("uvwxyz"), groups=list("ppqqrr"))
    part = data.subset(np.array([5, 1, 3])).subset(np.array([2, 0]))
    assert len(part) == 2 and part.paths == ("x", "z") and part.groups == ("q", "r") and part.targets.tolist() == [1, 1]
    assert torch.equal(part[0][0], data[3][0]) and torch.equal(part.batch(torch.tensor([1]))[0][0], data[5][0])
    assert part._pixels is data._pixels


def test_fingerprints_tell_apart_what_differs_and_nothing_else():
    same = [images(), images(paths=list("uvwxyz"))]
    other = [
        images(digest="1"),
        images(normalisation="half"),
        images().subset(np.arange(5)),
        images().subset(np.array([1, 0, 2, 3, 4, 5])),
        Images(images()._pixels, [0] * 6, ("a", "b"), normalisation="imagenet", digest="0"),
        Images(images()._pixels, [0, 1] * 3, ("a", "c"), normalisation="imagenet", digest="0"),
    ]
    assert len({data.fingerprint for data in same}) == 1
    assert len({data.fingerprint for data in [*same, *other]}) == 1 + len(other)
    x = torch.arange(6.0).reshape(3, 2)
    vectors = [Vectors(x, torch.tensor([0, 1, 0]), "ab"), Vectors(x + 1, torch.tensor([0, 1, 0]), "ab")]
    assert vectors[0].fingerprint != vectors[1].fingerprint
    assert vectors[0].fingerprint == Vectors(x.clone(), torch.tensor([0, 1, 0]), "ab").fingerprint


def test_training_views_come_from_the_generator_alone_and_plain_images_stay():
    data = images(augment=True, size=32)
    rows = torch.arange(6)
    plain = data.batch(rows)[0]
    assert torch.equal(plain, images(size=32).batch(rows)[0]) and torch.equal(data[2][0], plain[2])

    before = torch.get_rng_state()
    random.seed(0)
    first, y = data.batch(rows, torch.Generator().manual_seed(3))
    torch.rand(5)
    random.seed(1)
    torch.set_rng_state(before)
    again = data.batch(rows, torch.Generator().manual_seed(3))[0]
    assert torch.equal(torch.get_rng_state(), before), "the global generator moved"
    assert torch.equal(first, again) and torch.equal(y, data.targets) and first.shape == plain.shape
    other = data.batch(rows, torch.Generator().manual_seed(4))[0]
    assert all(not torch.equal(a, b) for a, b in zip(first, other, strict=True))
    # Two views of one image in one batch differ too.
    twice = data.batch(torch.tensor([1, 1]), torch.Generator().manual_seed(3))[0]
    assert not torch.equal(twice[0], twice[1])
    # Without `augment` a generator changes nothing, and none of its numbers are drawn.
    generator = torch.Generator().manual_seed(3)
    state = generator.get_state()
    assert torch.equal(images(size=32).batch(rows, generator)[0], plain)
    assert torch.equal(generator.get_state(), state)


def test_training_views_are_mirrored_half_of_the_time_and_keep_most_of_the_image():
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, None, :, None] * 4, (1, 64, 64, 3)).copy()
    data = Images(ramp, [0], ("a", "b"), normalisation="half", digest="0", augment=True)
    views, _ = data.batch(torch.zeros(400, dtype=torch.long), torch.Generator().manual_seed(0))
    rows = ((views[:, 0, 32] * 0.5 + 0.5) * 255 / 4).double()  # the column of the image that each pixel shows
    mirrored = rows[:, 0] > rows[:, -1]
    assert 160 < int(mirrored.sum()) < 240
    width = (rows[:, -1] - rows[:, 0]).abs() / 63
    # width^2 = share of the area * ratio: at least 0.7 * 3/4, at most the whole image.
    assert width.min() > (0.7 * 3 / 4) ** 0.5 - 0.03 and width.max() <= 1 and width.min() < 0.85


# Held-out rows


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_held_out_rows_are_stratified_disjoint_and_complete(share: float):
    targets = np.repeat([0, 1, 2, 3], [40, 11, 2, 1])
    data = Vectors(torch.zeros(54, 1), torch.from_numpy(targets), "abcd")
    train, held = held_out(data, share)
    assert sorted([*train, *held]) == list(range(54)) and (np.diff(train) > 0).all() and (np.diff(held) > 0).all()
    counts = np.bincount(targets[held], minlength=4)
    assert counts.tolist() == [round(40 * share), max(1, round(11 * share)), 1, 0]
    np.testing.assert_array_equal(held, held_out(data, share)[1])
    assert held.tolist() != held_out(data, share, seed=1)[1].tolist()


def test_groups_are_held_out_whole():
    rng = np.random.default_rng(0)
    groups = [f"g{i}" for i in rng.integers(0, 12, 100)]
    data = Vectors(torch.zeros(100, 1), torch.from_numpy(rng.integers(0, 2, 100)), "ab", groups=groups)
    train, held = held_out(data, 0.3)
    of_train, of_held = {groups[i] for i in train}, {groups[i] for i in held}
    assert not of_train & of_held and of_train | of_held == set(groups)
    assert 15 <= len(held) <= 30
    assert data.subset(held).groups == tuple(groups[i] for i in held)


# What files hold beyond the pixels that are kept


def deep(folder: Path, name: str, largest: int, kind: str = "I;16", **options: object) -> Path:
    """An image of 16 bits a channel whose values go from 0 to `largest`."""
    values = np.linspace(0, largest, 24 * 24).reshape(24, 24).astype(np.uint16)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "RGB":
        rows = b"".join(b"\0" + np.repeat(row, 3).astype(">u2").tobytes() for row in values)
        path.write_bytes(png_of(24, 24, 16, 2, rows))
    else:
        Image.fromarray(values).save(path, **options)  # type: ignore[arg-type]
    return path


def png_of(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def whole(folder: Path, *names: str) -> Listing:
    return Listing(place=folder, root=folder, names=names, targets=(0,) * len(names), classes=("a", "b"))


@pytest.mark.parametrize(("name", "kind"), [("a.png", "I;16"), ("a.tif", "I;16"), ("a.png", "RGB")])
@pytest.mark.parametrize(("largest", "bits"), [(1023, 10), (4095, 12), (16383, 14)])
def test_few_bits_in_sixteen_are_warned_of_with_and_without_a_cache(
    name: str, kind: str, largest: int, bits: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deep(tmp_path, name, largest, kind)
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        pixels_of(whole(tmp_path, name), 8, cache=cache)
        error = capsys.readouterr().err
        assert error.startswith("warning: ") and error.count("\n") == 1
        assert f"1 of 1 images with 16 bits a channel use {bits} of these only" in error


def test_sixteen_bits_that_are_used_are_not_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deep(tmp_path, "a.png", 65535)
    deep(tmp_path, "b.png", 40000, "RGB")
    deep(tmp_path, "dark.png", 4000)  # one dark image among bright ones
    Image.new("L", (9, 9), 3).save(tmp_path / "c.png")
    pixels, _ = pixels_of(whole(tmp_path, "a.png", "b.png", "dark.png", "c.png"), 8)
    assert capsys.readouterr().err == "" and pixels[0].max() > 240 and pixels[1].max() > 145


def test_grey_that_counts_from_white_is_inverted_in_16_bits_as_in_8(tmp_path: Path) -> None:
    bright = np.linspace(0, 65535, 24 * 24).reshape(24, 24).astype(np.uint16)
    Image.fromarray(65535 - bright).save(tmp_path / "a.tif", tiffinfo={262: 0})
    Image.fromarray(bright).save(tmp_path / "b.tif")
    pixels, _ = pixels_of(whole(tmp_path, "a.tif", "b.tif"), 24)
    assert abs(pixels[0].astype(int) - pixels[1]).max() <= 1 and pixels[1].max() == 255


def test_pages_beyond_the_first_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pages = [Image.new("L", (9, 9), grey) for grey in (10, 200, 90)]
    for name in ("stack.tif", "moving.gif"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    Image.new("RGB", (9, 9)).save(tmp_path / "plain.png")
    pixels, _ = pixels_of(whole(tmp_path, "stack.tif", "moving.gif", "plain.png"), 8)
    assert "2 images have several pages or frames, of which the first counts" in capsys.readouterr().err
    assert int(pixels[0].max()) == 10


def test_a_phones_second_picture_in_a_jpeg_is_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pages = [Image.new("RGB", (9, 9), (grey, 0, 0)) for grey in (200, 10)]
    pages[0].save(tmp_path / "a.mpo", save_all=True, append_images=pages[1:])
    (tmp_path / "a.mpo").rename(tmp_path / "a.jpg")
    pixels, _ = pixels_of(whole(tmp_path, "a.jpg"), 8)
    assert capsys.readouterr().err == "" and pixels[..., 0].min() > 190


@pytest.mark.parametrize("orientation", range(1, 9))
def test_phones_turn_their_pictures_by_a_number(orientation: int, tmp_path: Path) -> None:
    """The same picture, stored in each of EXIF's eight ways, is the same array."""
    upright = np.zeros((16, 16, 3), np.uint8)
    upright[:8, :, 0] = 255
    upright[:, 8:, 1] = 255
    stored = {  # what has to be done to it, undone
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright), 7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    pixels, _ = pixels_of(whole(tmp_path, "a.png"), 16)
    np.testing.assert_array_equal(pixels[0], upright)


def test_scanners_colours_for_print_are_read(tmp_path: Path) -> None:
    Image.new("CMYK", (9, 9), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    Image.new("CMYK", (9, 9), (0, 255, 255, 0)).save(tmp_path / "a.tif")
    pixels, _ = pixels_of(whole(tmp_path, "a.jpg", "a.tif"), 8)
    assert (pixels[..., 0] > 240).all() and (pixels[..., 1:] < 15).all()


@pytest.mark.parametrize("brand", [b"heic", b"mif1", b"avif"])
def test_a_phones_format_under_another_name_says_what_to_do(brand: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(40))
    with pytest.raises(UserError, match=f"it is {brand.decode().upper()}: save it as JPEG or PNG"):
        pixels_of(whole(tmp_path, "a.jpg"), 8)


# What Pillow shows otherwise than the file holds it


def tiff(pixels: np.ndarray, *, planes: bool = False, kind: int = 1, extra: tuple[tuple[int, int], ...] = ()) -> bytes:
    """A TIFF written by hand: pixels (H, W) or (H, W, C); planes: channel by channel; kind: SampleFormat."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    content = (pixels.transpose(2, 0, 1) if planes else pixels).tobytes()
    bits, size = pixels.itemsize * 8, len(content) // channels
    arrays = struct.pack(f"<{channels}H", *[bits] * channels) + struct.pack(f"<{channels}H", *[kind] * channels)
    starts = struct.pack(f"<{channels}I", *[8 + size * i for i in range(channels)])
    sizes = struct.pack(f"<{channels}I", *[size] * channels)
    at = 8 + len(content)
    strips = [(273, 4, channels, at + len(arrays)), (279, 4, channels, at + len(arrays) + len(starts))]
    one = [(258, 3, 1, bits), (339, 3, 1, kind)]
    several = [(258, 3, channels, at), (339, 3, channels, at + 2 * channels)]
    tags = [
        (256, 4, 1, pixels.shape[1]), (257, 4, 1, pixels.shape[0]), (259, 3, 1, 1),
        (262, 3, 1, 1 if channels == 1 else 2),
        (277, 3, 1, channels), (278, 4, 1, pixels.shape[0]), (284, 3, 1, 2 if planes else 1),
        *(one if channels == 1 else several), *(strips if planes else [(273, 4, 1, 8), (279, 4, 1, len(content))]),
        *((tag, 4, 1, value) for tag, value in extra),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    body = content + arrays + starts + sizes
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_sixteen_bits_in_separate_planes_are_refused_and_interleaved_ones_read(tmp_path: Path) -> None:
    ramp = np.arange(12 * 12 * 3).reshape(12, 12, 3) * 150
    (tmp_path / "a.tif").write_bytes(tiff(ramp.astype("<u2"), planes=True))
    (tmp_path / "b.tif").write_bytes(tiff(ramp.astype("<u2")))
    (tmp_path / "c.tif").write_bytes(tiff((ramp // 256).astype(np.uint8), planes=True))
    with pytest.raises(UserError, match="separate planes, which Pillow misreads: save it interleaved"):
        pixels_of(whole(tmp_path, "a.tif"), 12)
    pixels, _ = pixels_of(whole(tmp_path, "b.tif", "c.tif"), 12)
    np.testing.assert_array_equal(pixels, np.stack([ramp // 256] * 2))


def test_signed_pixels_are_scaled_by_their_own_range_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ramp = np.linspace(0, 32767, 144).round().reshape(12, 12).astype("<i2")
    (tmp_path / "a.tif").write_bytes(tiff(ramp, kind=2))
    pixels, _ = pixels_of(whole(tmp_path, "a.tif"), 12)
    np.testing.assert_array_equal(pixels[0, ..., 0], np.round(ramp * (255 / 32767)))
    assert capsys.readouterr().err == ""
    (tmp_path / "b.tif").write_bytes(tiff(ramp - 5, kind=2))
    (tmp_path / "c.tif").write_bytes(tiff((ramp // 512 - 32).astype(np.int8), kind=2))
    for name, words in (("b.tif", "negative pixels"), ("c.tif", "signed 8-bit pixels")):
        with pytest.raises(UserError, match=words):
            pixels_of(whole(tmp_path, name), 12)


def test_the_preview_in_a_raw_file_is_not_its_picture(tmp_path: Path) -> None:
    small = np.full((12, 12), 90, np.uint8)
    for name, tag in (("nef.tif", (254, 1)), ("dng.jpg", (50706, 0x401)), ("page.tif", (254, 2))):
        (tmp_path / name).write_bytes(tiff(small, extra=(tag,)))
    for name in ("nef.tif", "dng.jpg"):
        with pytest.raises(UserError, match="its first picture is a preview"):
            pixels_of(whole(tmp_path, name), 12)
    assert (pixels_of(whole(tmp_path, "page.tif"), 12)[0] == 90).all()


def test_the_grey_that_stands_for_transparent_is_white_in_16_bits_too(tmp_path: Path) -> None:
    grey = np.full((24, 24), 5000, np.uint16)
    grey[:12] = 51400
    Image.fromarray(grey).save(tmp_path / "a.png", transparency=51400)
    content = (tmp_path / "a.png").read_bytes()
    assert b"tRNS" in content
    pixels, _ = pixels_of(whole(tmp_path, "a.png"), 24)
    assert (pixels[0, :12] == 255).all() and (pixels[0, 12:] == 19).all()


def test_images_that_are_transparent_everywhere_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, alpha in (("a.png", 0), ("b.png", 1)):
        Image.new("RGBA", (9, 9), (200, 30, 10, alpha)).save(tmp_path / name)
    pixels_of(whole(tmp_path, "a.png", "b.png"), 8)
    assert "1 images are transparent everywhere, and become white" in capsys.readouterr().err


@pytest.mark.parametrize("bits", [10, 12])
def test_few_bits_in_a_ppm_of_sixteen_are_warned_of(
    bits: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = np.linspace(0, 2**bits - 1, 27 * 27).reshape(27, 27, 1).repeat(3, 2).astype(">u2")
    (tmp_path / "a.ppm").write_bytes(b"P6 27 27 65535\n" + values.tobytes())
    pixels_of(whole(tmp_path, "a.ppm"), 8)
    assert f"use {bits} of these only" in capsys.readouterr().err
    (tmp_path / "b.ppm").write_bytes(f"P6 27 27 {2**bits - 1}\n".encode() + values.tobytes())  # by its own range
    assert pixels_of(whole(tmp_path, "b.ppm"), 27)[0].max() == 255 and capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_a_file_whose_rest_was_never_written_is_refused(kind: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg", kind)
    content = (tmp_path / "a.jpg").read_bytes()
    half = len(content) // 2
    (tmp_path / "b.jpg").write_bytes(content[:half] + bytes(len(content) - half))
    with pytest.raises(UserError, match="ends in zeros: cut short"):
        pixels_of(whole(tmp_path, "b.jpg"), 8)
    if kind == "JPEG":  # a camera that fills up its blocks
        (tmp_path / "c.jpg").write_bytes(content + bytes(1000))
        np.testing.assert_array_equal(*(pixels_of(whole(tmp_path, name), 8)[0] for name in ("a.jpg", "c.jpg")))


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\xff\x0a", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"8BPS", "Photoshop"),
        (b"%PDF-1.7", "a PDF"),
        (b"\n<!doctype html>", "a web page"),
    ],
)
def test_what_goes_by_the_name_of_an_image_is_called_what_it_is(start: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(start + bytes(40))
    with pytest.raises(UserError, match=words):
        pixels_of(whole(tmp_path, "a.jpg"), 8)


def test_a_pipe_among_the_images_of_a_pool_is_named_and_not_waited_for(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    settings = {"kind": "image", "shape": [3, 8, 8], "normalisation": "imagenet", "classes": ["x", "y"]}
    with pytest.raises(UserError, match=r"1 of 2 files cannot be read: .*b\.png \(no file\)"):
        read_unlabelled(tmp_path, settings, tmp_path)
