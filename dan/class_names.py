"""Names of classes, compared in one form: Unicode NFC, without invisible characters, words one space apart.

    "ve\\u0301lo" (e, combining accent), "v\\u00e9lo" (one character), "v\\u00e9lo " (a space)  ->  "v\\u00e9lo"
    "traffic\\u00a0light" (a no-break space), "traffic  light" (two spaces)  ->  "traffic light"

macOS writes file names decomposed, and other systems and keyboards composed; spreadsheets and web pages leave spaces
behind. What differs even so, and yet is hardly two classes (`Cat` and `cat`, `1` and `1.0`), is warned of.
"""

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

# What no program shows: soft hyphens, zero-width spaces, marks of direction and of byte order. Not the joiners
# (U+200C, U+200D), which change letters of Persian and of Indian scripts.
_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]+")
_NUMBER = re.compile(r"[+-]?\d+(?:[.,]\d+)?")
_COPY = re.compile(r"(?: - copy| copy)?(?: \(\d+\)| \d+)?\Z")  # as Windows and macOS name what is copied
_PUNCTUATION = " .,;:'\"`\u2018\u2019\u201c\u201d"
_SHOWN = 3  # doubtful names of one file
_MISSING = ("nan", "<na>", "nat", "null", "n/a", "#n/a")  # what programs write where there is no value


def class_name(name: str) -> str:
    """The form of a class's name that is compared: NFC, no invisible characters, no white space at its ends, and one
    space for white space of any length within."""
    return " ".join(unicodedata.normalize("NFC", _INVISIBLE.sub("", name)).split())


def class_names(names: Iterable[str]) -> tuple[str, ...]:
    """`class_name` of each."""
    return tuple(class_name(name) for name in names)


def known_name(name: str, classes: Iterable[str]) -> str | None:
    """The one of `classes` that is equal to `name` in the form that is compared, as it is spelt there; None if none."""
    wanted = class_name(name)
    return next((known for known in classes if class_name(known) == wanted), None)


def doubtful_names(place: Path, names: Iterable[str], what: str = "class") -> list[str]:
    """A line on each name that is hardly meant: one that differs from another in case, width, `_`, quotes and stops at
    its ends, the way a number is written, or as a copied folder's does; and a class that means "no value" (`nan`)."""
    different = list(dict.fromkeys(names))
    lines: list[str] = []
    first: dict[str, str] = {}
    for name in different:
        first.setdefault(_loose(name), name)
    for name in different:
        key = _loose(name)
        original = _COPY.sub("", key) if " " in key else key
        other = first[original] if original in first else first[key]
        if what == "class" and name.lower() in _MISSING:
            lines.append(f'{place}: a class is called "{name}": leave the label empty where there is none')
        elif other != name:
            lines.append(f'{place}: "{other}" and "{name}" count as two: write them alike if they are one {what}')
    rest = len(lines) - _SHOWN
    return [*lines[:_SHOWN], *([f"{place}: {rest} more names like these"] if rest > 0 else [])]


def _loose(name: str) -> str:
    """Equal for names that differ in what people and programs change without meaning to."""
    text = unicodedata.normalize("NFKC", name)
    if _NUMBER.fullmatch(text) and len(text) < 18:
        return str(float(text.replace(",", ".")))
    if len(text) < 2:
        return text  # letters of an alphabet, in both cases
    return " ".join(text.casefold().replace("_", " ").split()).strip(_PUNCTUATION) or text
