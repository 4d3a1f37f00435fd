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
MOST_ELONGATED = 100  # the resized image is as elongated as the file: without a limit, a thin one takes all memory


@dataclass
class FileFacts:
    """What of a file its picture does not tell: largest, the largest value in 16 bits a channel (None for files of
    other depths); pages, or frames, of which the picture is the first."""

    largest: int | None = None
    pages: int = 1


def decode(file: Path, *, channels: Literal[1, 3] = 3, facts: FileFacts | None = None) -> Image.Image:
    """The picture in `file` as RGB (channels = 3) or grey (1), upright, 8 bits a channel.

    The orientation in the EXIF data is applied. 16-bit grey values are divided by 257 and rounded, 12-bit ones by
    4095 / 255; where 0 is white (TIFF) they are inverted. Transparent pixels are laid on white. Grey becomes RGB by
    repetition; RGB becomes grey as 0.299 R + 0.587 G + 0.114 B (ITU-R 601). Of several frames the first counts. facts:
    is filled in.

    Raises ValueError, with the reason, for what Pillow cannot decode to the end, for more pixels than Pillow's limit
    against decompression bombs, and for pixels without a known range (floats, 32-bit integers beyond 16 bits).
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
            opened.load()
            image = ImageOps.exif_transpose(opened)
    except UnidentifiedImageError:
        raise ValueError(f"not an image that Pillow knows as {', '.join(FORMATS)}{_advice(file)}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError("more pixels than Pillow's limit") from None
    image, largest = _eight_bits(image, raw, inverted)
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("LA") if image.mode == "La" else image
        image = image.convert("RGBA")
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


def _advice(file: Path) -> str:
    """What to do about a file in another format that goes by the suffix of an image."""
    with open(file, "rb") as opened:
        start = opened.read(12)
    if start[4:8] == b"ftyp":
        return f" (it is {start[8:12].decode('ascii', errors='replace').upper().strip()}: save it as JPEG or PNG)"
    return ""


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
            raise ValueError("32-bit pixels, whose range is unknown: save it with 8 or 16 bits")
        if raw == "I;12":  # the file says that they are of 12 bits: their range is known
            values, largest = (values * 255 + 2047) // 4095, None
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
