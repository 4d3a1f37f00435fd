"""Digits drawn from the fonts that ship with matplotlib: an endless labelled source domain that needs no download.

An image is x = shrink(blur(affine(stroke(glyph)))): a glyph on a large canvas, its stroke thinned or thickened, then
rotated, sheared, scaled and moved, blurred, and shrunk to 16 x 16 grey values in [0, 1] (1 = ink).

Shapes: N images.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

SIZE = 16  # pixels a side of an image
DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# The ranges below were set from what looks like a legible digit, not from any accuracy; all are uniform.
ROTATION = 15.0  # degrees, either way
SHEAR = 0.2  # horizontal shift per unit of height, either way
SCALE = (0.8, 1.15)  # width and height each draw their own
SHIFT = 1.0  # pixels of the 16 x 16 image, either way
STROKES = (-1, 0, 1, 2)  # canvas pixels taken off (-) or put on (+) every edge of a stroke
KEPT_INK = 0.7  # a glyph that would keep less of its ink is not thinned
BLUR = (0.1, 0.6)  # standard deviation in pixels of the 16 x 16 image

_CANVAS = 128  # strokes change here, where one pixel is a small part of most strokes
_MIDDLE = 64  # the affine change and the blur happen here
_HEIGHT = 88  # of the tallest digit of a font, on the canvas


@functools.cache
def fonts() -> tuple[Path, ...]:
    """The font files in use, by name: those whose own tables call the glyphs of "0".."9" zero, one, ..., nine.

    The name in the font is the rule because no rule on pixels would do: the mathematical fonts draw ten distinct, clean
    shapes at those codes (cmsy10 an infinity sign for "1", cmex10 pieces of brackets), and the fonts that hold sizes of
    symbols (STIXSiz*, DejaVuSansDisplay) or stand in for a missing one (LastResort) have no digits at all. Old-style
    figures (cmmi10: zerooldstyle) stay out too, since they do not share one height.
    """
    import matplotlib
    from matplotlib.ft2font import FT2Font

    def draws_digits(path: Path) -> bool:
        font = FT2Font(str(path))
        glyphs = font.get_charmap()
        return all(
            ord(char) in glyphs and font.get_glyph_name(glyphs[ord(char)]) == name
            for char, name in zip("0123456789", DIGIT_NAMES, strict=True)
        )

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return tuple(path for path in sorted(folder.glob("*.ttf")) if draws_digits(path))


def glyphs(font: Path) -> list[Image.Image]:
    """The ten digits of a font, white on black, each centred on a 128 x 128 canvas; the tallest is 88 pixels high."""
    from PIL import Image, ImageDraw, ImageFont

    # The basic layout is in every build of Pillow; the other one (Raqm) would make the images depend on the build.
    basic = ImageFont.Layout.BASIC
    measured = ImageFont.truetype(str(font), _CANVAS, layout_engine=basic)
    boxes = [measured.getbbox(char) for char in "0123456789"]
    tallest = max(bottom - top for _, top, _, bottom in boxes)
    sized = ImageFont.truetype(str(font), round(_CANVAS * _HEIGHT / tallest), layout_engine=basic)
    drawn = []
    for char in "0123456789":
        left, top, right, bottom = sized.getbbox(char)
        canvas = Image.new("L", (_CANVAS, _CANVAS))
        ImageDraw.Draw(canvas).text(
            ((_CANVAS - left - right) / 2, (_CANVAS - top - bottom) / 2), char, font=sized, fill=255
        )
        drawn.append(canvas)
    return drawn


@functools.cache
def render(count: int, seed: int, *, size: int = SIZE) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Draw `count` digits: images (N, size, size) in [0, 1], 1 = ink, and their labels (N,), read-only.

    The labels are as balanced as `count` allows and in random order; fonts are drawn uniformly. A pure function of
    (count, seed, size) for given versions of Pillow and matplotlib's fonts, kept in memory once drawn. The size is that
    of the last step, the shrinking: shifts and blur are shares of the image, so another size shows the same digits.
    """
    from PIL import Image, ImageFilter

    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count, dtype=np.int64) % 10)
    in_use = fonts()
    font = rng.integers(len(in_use), size=count)
    stroke = rng.choice(STROKES, size=count)
    backward = _random_affine(count, rng)
    blur = rng.uniform(*BLUR, size=count) * (_MIDDLE / SIZE)

    canvases = [glyphs(path) for path in in_use]

    @functools.cache
    def stroked(font: int, digit: int, edge: int) -> Image.Image:
        glyph = canvases[font][digit]
        if edge > 0:
            glyph = glyph.filter(ImageFilter.MaxFilter(2 * edge + 1))
        if edge < 0:
            thinner = glyph.filter(ImageFilter.MinFilter(-2 * edge + 1))
            # A hairline would vanish and leave a digit nobody can read, so such a glyph stays as it is.
            if np.asarray(thinner).mean() >= KEPT_INK * np.asarray(glyph).mean():
                glyph = thinner
        return glyph.reduce(_CANVAS // _MIDDLE)

    images = np.empty((count, size, size), dtype=np.float32)
    for i in range(count):
        moved = stroked(int(font[i]), int(labels[i]), int(stroke[i])).transform(
            (_MIDDLE, _MIDDLE), Image.Transform.AFFINE, tuple(backward[i].tolist()), Image.Resampling.BILINEAR
        )
        blurred = moved.filter(ImageFilter.GaussianBlur(float(blur[i])))
        images[i] = np.asarray(blurred.resize((size, size), Image.Resampling.BILINEAR), dtype=np.float32) / 255
    images.flags.writeable = labels.flags.writeable = False  # shared by every caller
    return images, labels


def _random_affine(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """(N, 6) rows (a, b, c, d, e, f): the point (x, y) of the result shows (a x + b y + c, d x + e y + f) of the glyph.

    The forward map is M = rotation @ shear @ scale about the centre, then a shift s; so a result point p shows
    M^-1 (p - centre - s) + centre.
    """
    angle = rng.uniform(-ROTATION, ROTATION, size=count) * (math.pi / 180)
    shear = rng.uniform(-SHEAR, SHEAR, size=count)
    width, height = rng.uniform(*SCALE, size=(2, count))
    shift = rng.uniform(-SHIFT, SHIFT, size=(count, 2)) * (_MIDDLE / SIZE)
    cos, sin, zero, one = np.cos(angle), np.sin(angle), np.zeros(count), np.ones(count)

    def matrices(*entries: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack(entries, axis=1).reshape(count, 2, 2)

    rotate, skew = matrices(cos, -sin, sin, cos), matrices(one, shear, zero, one)
    inverse = np.linalg.inv(rotate @ skew @ matrices(width, zero, zero, height))
    centre = np.full(2, _MIDDLE / 2)
    offset = centre - np.einsum("nij,nj->ni", inverse, centre + shift)
    return np.concatenate([inverse, offset[:, :, None]], axis=2).reshape(count, 6)
