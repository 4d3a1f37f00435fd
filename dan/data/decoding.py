"""One file -> one square of uint8 pixels: orientation, depth, transparency and colour are settled here only.

    square(decode(file)): the shorter side becomes S pixels, then the middle S x S are kept

S: pixels a side.
"""

from __future__ import annotations

import io
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

# Pillow's names of what is read, whatever a file is called. Not all that Pillow knows: for some (EPS) it starts another
# program, and gives it the file.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
_PREVIEW = 1  # the bit of TIFF's NewSubfileType that says: a smaller copy of another picture in the file
_CUT = bytes(512)  # no compressed picture ends so: the rest of it was never written
_SIGNATURES = (
    (b"version https://git-lfs", "a pointer of Git LFS: fetch the file with git lfs pull"),
    (b"\xff\x0a", "JPEG XL: save it as JPEG or PNG"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL: save it as JPEG or PNG"),
    (b"\x00\x00\x00\x0cjP", "JPEG 2000: save it as JPEG or PNG"),
    (b"8BPS", "a file of Photoshop: save it as PNG"),
    (b"%PDF", "a PDF: save its picture as PNG"),
    (b"<", "text, such as a web page or an SVG: fetch the picture again"),
)
MOST_ELONGATED = 100  # the resized image is as elongated as the file: without a limit, a thin one takes all memory


@dataclass
class FileFacts:
    """What of a file its picture does not tell: largest, the largest value in 16 bits a channel (None for files of
    other depths); pages, or frames, of which the picture is the first; blank: every pixel is transparent."""

    largest: int | None = None
    pages: int = 1
    blank: bool = False


def decode(file: Path, *, channels: Literal[1, 3] = 3, facts: FileFacts | None = None) -> Image.Image:
    """The picture in `file` as RGB (channels = 3) or grey (1), upright, 8 bits a channel.

    The orientation in the EXIF data is applied. 16-bit grey values are divided by 257 and rounded, 12-bit ones by
    4095 / 255, and signed ones by 32767 / 255; where 0 is white (TIFF) they are inverted. Transparent pixels are laid
    on white. Grey becomes RGB by repetition; RGB becomes grey as 0.299 R + 0.587 G + 0.114 B (ITU-R 601). Of several
    frames the first counts. facts: is filled in.

    Raises ValueError, with the reason, for what Pillow cannot decode to the end, for more pixels than Pillow's limit
    against decompression bombs, for pixels without a known range (floats, 32-bit integers beyond 16 bits, negative
    ones), for what Pillow misreads (16 bits in separate planes), and where the first picture is but the preview of
    another (a camera's raw file).
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    state = file.stat()
    if not stat.S_ISREG(state.st_mode):  # a pipe or a device might be read for ever
        raise ValueError("no file")
    if state.st_size == 0:
        raise ValueError("0 bytes")
    try:
        with Image.open(file, formats=FORMATS) as opened:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and opened.width * opened.height > limit:  # Pillow itself would only warn
                raise ValueError(f"{opened.width} x {opened.height} pixels: more than Pillow's limit of {limit}")
            # A phone's JPEG may hold a second picture (MPO: depth, or a larger preview), which is no page.
            pages = 1 if opened.format in ("JPEG", "MPO") else int(getattr(opened, "n_frames", 1))
            raw, inverted = _raw_mode(opened), _zero_is_white(opened)
            depth = _ppm_depth(opened)
            _refuse_misread(opened, file)
            opened.load()
            image = ImageOps.exif_transpose(opened)
    except UnidentifiedImageError:
        raise ValueError(f"not an image that Pillow knows as {', '.join(FORMATS)}{_advice(file)}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError("more pixels than Pillow's limit") from None
    clear = image.info.get("transparency") if image.mode.startswith("I") else None
    hidden = None if clear is None else np.asarray(image) == clear
    image, largest = _eight_bits(image, raw, inverted)
    largest = (
        max(0, 257 * max(high for _, high in _extrema(image)) - 128) if depth > 255 and largest is None else largest
    )
    if hidden is not None:  # the grey value that stands for transparent
        image.putalpha(Image.fromarray(np.where(hidden, 0, 255).astype(np.uint8)))
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("LA") if image.mode == "La" else image
        image = image.convert("RGBA")
        if facts is not None:
            facts.blank = image.getchannel("A").getextrema() == (0, 0)
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB") if image.mode not in ("L", "RGB") else image
    if facts is not None:
        facts.largest, facts.pages = largest, pages
    return image.convert("L" if channels == 1 else "RGB")


def _raw_mode(opened: Any) -> str:
    """How the pixels lie in the file, in Pillow's words: RGB;16B, I;12, ... Known before they are decoded only."""
    tiles = getattr(opened, "tile", None)
    args = tiles[0][3] if tiles else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def _zero_is_white(opened: Any) -> bool:
    """Of a TIFF file whether its grey values count from white; Pillow inverts those of up to 8 bits itself."""
    return opened.format == "TIFF" and opened.tag_v2.get(262) == 0


def _ppm_depth(opened: Any) -> int:
    """The largest value that a PPM of several channels says it may hold; 0 of other files. Pillow scales by it."""
    args = opened.tile[0][3] if opened.format == "PPM" and opened.tile else ()
    return int(args[1]) if isinstance(args, tuple) and len(args) > 1 and opened.mode == "RGB" else 0


def _refuse_misread(opened: Any, file: Path) -> None:
    """Raises ValueError for files of which Pillow gives a picture, but not the one that they hold."""
    if opened.format == "TIFF":
        tags = opened.tag_v2
        bits, signed = tags.get(258, (1,)), 2 in tags.get(339, (1,))
        if int(tags.get(254, 0)) & _PREVIEW or 50706 in tags:  # DNGVersion
            raise ValueError("its first picture is a preview, as in a camera's raw file: save it as JPEG or PNG")
        if tags.get(284) == 2 and len(bits) > 1 and max(bits) > 8:
            raise ValueError("16 bits a channel in separate planes, which Pillow misreads: save it interleaved")
        if signed and max(bits) <= 8:
            raise ValueError("signed 8-bit pixels, which Pillow takes for unsigned ones: save it unsigned")
    elif opened.format in ("JPEG", "WEBP"):
        with open(file, "rb") as content:
            size = content.seek(0, io.SEEK_END)
            content.seek(max(0, size - len(_CUT)))
            if content.read() == _CUT and not _ends_before_zeros(file):
                raise ValueError("it ends in zeros: cut short, as by a download or a copy that stopped")


def _ends_before_zeros(file: Path) -> bool:
    """Whether the zeros at a file's end come after a JPEG's end marker: some cameras fill up blocks."""
    return file.read_bytes().rstrip(b"\0").endswith(b"\xff\xd9")


def _advice(file: Path) -> str:
    """What to do about a file in another format that goes by the suffix of an image."""
    with open(file, "rb") as opened:
        start = opened.read(32)
    if start[4:8] == b"ftyp":
        return f" (it is {start[8:12].decode('ascii', errors='replace').upper().strip()}: save it as JPEG or PNG)"
    known = next((words for signature, words in _SIGNATURES if start.lstrip().startswith(signature)), "")
    return f" (it is {known})" if known else ""


def decode_known(content: bytes, size: int) -> Image.Image:
    """The picture in these bytes as RGB, of a set whose images are all size x size. Raises ValueError for any other."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            if opened.size != (size, size):  # before it is decoded: a small file may unpack to any size
                raise ValueError(f"{opened.width} x {opened.height} pixels in place of {size} x {size}")
            return opened.convert("RGB")
    except UnidentifiedImageError:
        raise ValueError(f"not an image that Pillow knows as {', '.join(FORMATS)}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError("more pixels than Pillow's limit") from None


def _eight_bits(image: Image.Image, raw: str, inverted: bool) -> tuple[Image.Image, int | None]:
    """(the image with 8 bits a channel, its largest value if it had 16). raw: how the pixels lay in the file."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is unknown: save it with 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            what = "negative" if values.min() < 0 else "32-bit"
            raise ValueError(f"{what} pixels, whose range is unknown: save it with 8 or 16 bits, from 0 on")
        if raw == "I;12":  # the file says that they are of 12 bits: their range is known
            values, largest = (values * 255 + 2047) // 4095, None
        elif raw.startswith("I;16") and "S" in raw:  # signed, and none below 0
            values, largest = (values * 255 + 16383) // 32767, 2 * int(values.max())
        else:
            values, largest = (values + 128) // 257, int(values.max())
        values = 255 - values if inverted else values
        return Image.fromarray(values.astype(np.uint8)), largest
    if ";16" in raw:  # several channels: Pillow has kept the upper 8 bits of each
        return image, 256 * max(high for _, high in _extrema(image)) + 255
    return image, None


def _extrema(image: Image.Image) -> list[tuple[int, int]]:
    """(smallest, largest) of each colour channel; transparency is none."""
    found: Any = image.getextrema()
    bands = [found] if isinstance(found[0], int) else list(found)
    return bands[: len([band for band in image.getbands() if band not in ("A", "a")])]


def square(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """The image as (S, S, channels): resized so that the shorter side is S pixels (bilinear with antialiasing, the
    longer side rounded down), then the middle S x S cut out. No padding, nothing squeezed.

    The same bits as torchvision's Resize(S) and CenterCrop(S) on Pillow images.
    Raises ValueError for an image more than 100 times as long as it is wide.
    """
    from PIL import Image

    width, height = image.size
    short, long = sorted(image.size)
    if long > MOST_ELONGATED * short:
        raise ValueError(f"{width} x {height} pixels: more than {MOST_ELONGATED} times as long as wide")
    if short != size:
        longer = int(size * long / short)
        width, height = (size, longer) if width <= height else (longer, size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    pixels = np.asarray(image.crop((left, top, left + size, top + size)))
    return pixels.reshape(size, size, -1)
