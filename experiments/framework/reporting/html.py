"""A report as one self-contained page: pictures inside, no script, every text escaped, for phones and dark mode."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.framework.reporting.markdown import Table


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A picture on the page. of_images: it shows data, whose greys a dark page must not invert."""

    png: Path
    caption: str
    of_images: bool = False


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page, from top to bottom: what is left empty is not there. notes: sentences set apart."""

    heading: str = ""
    notes: Sequence[str] = ()
    table: Table | None = None
    paragraphs: Sequence[str] = ()
    figures: Sequence[Shown] = ()
    facts: Sequence[tuple[str, str]] = ()


def page(title: str, sections: Sequence[Section]) -> str:
    """The whole HTML document."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    made.filters["base64"] = lambda png: base64.b64encode(png.read_bytes()).decode("ascii")
    return made.get_template("report.html").render(title=title, sections=sections)
