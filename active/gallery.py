"""A gallery as one page by itself: pictures inside as data: URIs, no script, every text escaped, light and dark."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from dan.errors import UserError
from dan.run_dir import write_atomically

if TYPE_CHECKING:
    from PIL import Image

SMALLEST = 160  # pixels: a picture of fewer is enlarged by whole factors, so that people see its pixels and no blur

STYLE = """
:root { color-scheme: light dark; --text: #1c1e21; --quiet: #5c6370; --paper: #ffffff; --line: #d9dce1;
  --shade: #f4f5f7; --accent: #0068a8; --wrong: #b3261e }
@media (prefers-color-scheme: dark) { :root { --text: #e4e6ea; --quiet: #a0a7b4; --paper: #141619; --line: #353a42;
  --shade: #1e2126; --accent: #6cb8ee; --wrong: #ff8a80 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--text); font: 16px/1.5 system-ui, sans-serif }
main { max-width: 76rem; margin: 0 auto; padding: 1.5rem 1rem 4rem }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .5rem; overflow-wrap: anywhere }
p { max-width: 46rem; margin: .5rem 0; color: var(--quiet); overflow-wrap: anywhere }
p.note { border-left: 4px solid var(--accent); background: var(--shade); color: var(--text); padding: .6rem 1rem }
p.alarm { border-color: var(--wrong) }
ol { list-style: none; margin: 1.5rem 0 0; padding: 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 11rem), 1fr)) }
li { border: 1px solid var(--line); border-radius: 8px; overflow: hidden; background: var(--shade); min-width: 0 }
.picture { position: relative; aspect-ratio: 1; display: grid; place-items: center; background: var(--line);
  overflow: hidden }
.picture img { width: 100%; height: 100%; object-fit: contain; display: block }
.picture span { color: var(--quiet); padding: 1rem; text-align: center }
.said { padding: .6rem .75rem .75rem }
h2 { font-size: 1rem; margin: 0; overflow-wrap: anywhere }
h2 small { color: var(--quiet); font-weight: 400; margin-right: .35em }
.picture b { position: absolute; top: .5rem; left: .5rem; min-width: 1.7rem; padding: 0 .45rem; border-radius: 1rem;
  background: var(--paper); color: var(--text); font: 600 .84rem/1.7rem system-ui, sans-serif; text-align: center }
.bar { height: 4px; border-radius: 2px; background: var(--line); margin: .4rem 0 .5rem }
.bar i { display: block; height: 100%; border-radius: 2px; background: var(--accent) }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .05rem .75rem; margin: 0; font-size: .84rem;
  font-variant-numeric: tabular-nums }
dt { color: var(--quiet) }
dd { margin: 0; text-align: right; overflow-wrap: anywhere }
.path { color: var(--quiet); font-size: .78rem; margin-top: .4rem; overflow-wrap: anywhere }
.wrong { color: var(--wrong); font-weight: 600 }
@media print { li { break-inside: avoid } }
"""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One sample of the gallery. title: the guess. share: of the bar below it, [0, 1]. picture: a data: URI, or "".

    facts: (name, value, whether it is to be marked as wrong).
    """

    order: int
    title: str
    share: float
    path: str
    picture: str = ""
    facts: Sequence[tuple[str, str, bool]] = field(default_factory=tuple)


def gallery(title: str, lines: Iterable[str], cards: Iterable[Card], *, notes: Iterable[str] = ()) -> str:
    """A whole HTML document. lines: what is to be known of all of them; notes: the same, set apart as a warning."""
    body = [f"<h1>{escape(title)}</h1>", *(f"<p>{escape(line)}</p>" for line in lines)]
    body += [f'<p class="note alarm">{escape(line)}</p>' for line in notes]
    body += ["<ol>", *map(_card, cards), "</ol>"]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        # Whatever a name may smuggle in: nothing is loaded, and nothing runs.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def write_page(path: Path, page: str) -> None:
    """Write it, whole or not at all. Raises UserError where that cannot be."""
    # A file's name may hold bytes that are no UTF-8, which Python keeps as lone surrogates.
    written = page.encode("utf-8", errors="backslashreplace")
    try:
        write_atomically(path, lambda file: file.write(written))
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}): name another file") from None


def thumbnail(picture: Image.Image, side: int = 320) -> str:
    """The picture as a data: URI, at most `side` pixels long; a tiny one is enlarged, each pixel to a square of equals.

    Pictures that are shrunk are JPEG, and those with few pixels PNG, which keeps every one of them as it is.
    """
    from PIL import Image

    longest = max(picture.size)
    file = io.BytesIO()
    if longest <= SMALLEST // 2:
        factor = SMALLEST // longest
        enlarged = picture.resize((factor * picture.width, factor * picture.height), Image.Resampling.NEAREST)
        enlarged.save(file, "PNG", optimize=True)
        kind = "png"
    else:
        shrunk = picture.copy()
        shrunk.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0)
        shrunk.save(file, "JPEG", quality=85)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _card(card: Card) -> str:
    alt = f"picture {card.order}: {card.path}, guessed to be {card.title}"
    shown = f'<img alt="{escape(alt)}" src="{escape(card.picture)}">' if card.picture else "<span>no picture</span>"
    marks = {True: ' class="wrong"', False: ""}
    facts = "".join(
        f"<dt>{escape(name)}</dt><dd{marks[wrong]}>{escape(value)}</dd>" for name, value, wrong in card.facts
    )
    width = 100 * min(1.0, max(0.0, card.share))
    return (
        f'<li><div class="picture">{shown}<b>{card.order}</b></div>\n<div class="said"><h2><small>guess</small>'
        f'{escape(card.title)}</h2>\n<div class="bar" aria-hidden="true"><i style="width:{width:.1f}%"></i></div>\n'
        f'<dl>{facts}</dl>\n<div class="path">{escape(card.path)}</div></div></li>'
    )
