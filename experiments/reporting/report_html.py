"""A report as one self-contained page: pictures inside, no script, every text escaped, for phones and dark rooms."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

STYLE = """
:root { color-scheme: light dark; --text: #1c1e21; --quiet: #5c6370; --paper: #ffffff; --line: #d9dce1;
  --shade: #f4f5f7; --accent: #0068a8 }
@media (prefers-color-scheme: dark) { :root { --text: #e4e6ea; --quiet: #a0a7b4; --paper: #141619; --line: #353a42;
  --shade: #1e2126; --accent: #6cb8ee } }
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--text); font: 16px/1.55 system-ui, sans-serif }
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 4rem }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .5rem }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line) }
p { max-width: 44rem; margin: .6rem 0 }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem }
th, td { padding: .4rem .8rem .4rem 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line) }
th { color: var(--quiet); font-weight: 600; vertical-align: bottom }
th:first-child, td:first-child { text-align: left }
.figures { display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
  align-items: start }
figure { margin: 0; min-width: 0 }
figure.wide { grid-column: 1 / -1 }
figure.wide img { min-width: 38rem }
figure img { display: block; width: 100%; height: auto; border-radius: 6px; background: #fff }
figcaption { color: var(--quiet); font-size: .88rem; margin-top: .45rem }
.note { border-left: 4px solid var(--accent); background: var(--shade); padding: .6rem 1rem; max-width: 46rem }
.note p { margin: .3rem 0 }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.2rem; font-size: .92rem }
dt { color: var(--quiet) }
dd { margin: 0; overflow-wrap: anywhere }
code { background: var(--shade); padding: .1em .3em; border-radius: 4px; font-size: .92em }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr } dd { margin-bottom: .5rem } }
/* A plot on white turns dark and keeps its hues; a picture of images stays as it is. */
@media (prefers-color-scheme: dark) { figure.plot img { filter: invert(.92) hue-rotate(180deg) } }
"""


def page(title: str, sections: Iterable[str]) -> str:
    """A whole HTML document; the sections are HTML already, as the functions below make it."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )


def heading(text: str) -> str:
    """The title of a section."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str) -> str:
    """Running text."""
    return f"<p>{escape(text)}</p>"


def note(texts: Iterable[str]) -> str:
    """A few sentences set apart."""
    return '<div class="note">' + "".join(map(paragraph, texts)) + "</div>"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls by itself where the screen is narrow."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in headers)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Terms and what they are."""
    return "<dl>" + "\n".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in pairs) + "</dl>"


def figure(png: Path, caption: str, *, of_images: bool = False, wide: bool = False) -> str:
    """A PNG file inside the page.

    of_images: it shows data, whose greys a dark page must not turn round. wide: a row of its own, and a narrow screen
    scrolls over it rather than shrink it.
    """
    data = base64.b64encode(png.read_bytes()).decode("ascii")
    kind = ("images" if of_images else "plot") + (" wide" if wide else "")
    image = f'<img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
    return (
        f'<figure class="{kind}"><div class="scroll">{image}</div><figcaption>{escape(caption)}</figcaption></figure>'
    )


def figures(items: Iterable[str]) -> str:
    """Figures side by side where there is room."""
    return '<div class="figures">' + "\n".join(items) + "</div>"
