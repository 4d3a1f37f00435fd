"""One file -> one square of uint8 pixels: orientation, depth, transparency and colour are settled here only.

    square(decode(file)): the shorter side becomes S pixels, then the middle S x S are kept

S: pixels a side.
"""

from __future__ import annotations

import io
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

# Pillow's names of what is read, whatever a file is called. Not all that Pillow knows: for some (EPS) it starts another
# program, and gives it the file.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
MOST_ELONGATED = 100  # the resized image is as elongated as the file: without a limit, a thin one takes all memory


def decode(file: Path, *, channels: Literal[1, 3] = 3) -> Image.Image:
    """The picture in `file` as RGB (channels = 3) or grey (1), upright, 8 bits a channel.

    The orientation in the EXIF data is applied. 16-bit grey values are divided by 257 and rounded. Transparent pixels
    are laid on white. Grey becomes RGB by repetition; RGB becomes grey as 0.299 R + 0.587 G + 0.114 B (ITU-R 601). Of
    several frames the first counts.

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
            opened.load()
            image = ImageOps.exif_transpose(opened)
    except UnidentifiedImageError:
        raise ValueError(f"not an image that Pillow knows as {', '.join(FORMATS)}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError("more pixels than Pillow's limit") from None
    image = _eight_bits(image)
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("LA") if image.mode == "La" else image
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB") if image.mode not in ("L", "RGB") else image
    return image.convert("L" if channels == 1 else "RGB")


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


def _eight_bits(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is unknown: save it with 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("32-bit pixels, whose range is unknown: save it with 8 or 16 bits")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    return image


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
