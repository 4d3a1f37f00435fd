"""Names of classes, compared in one form: Unicode NFC, without white space and invisible characters at either end.

    "ve\\u0301lo" (e, combining accent), "v\\u00e9lo" (one character), "v\\u00e9lo " (a space)  ->  "v\\u00e9lo"

macOS writes file names decomposed, and other systems and keyboards composed; spreadsheets leave spaces behind.
"""

import re
import unicodedata
from collections.abc import Iterable

# White space of any script, and what no program shows: zero-width spaces, marks of direction and of byte order.
_INVISIBLE = r"[\s\u200b\u200e\u200f\u2060\ufeff]+"
_ENDS = re.compile(rf"\A{_INVISIBLE}|{_INVISIBLE}\Z")


def class_name(name: str) -> str:
    """The form of a class's name that is compared: NFC, without white space and invisible characters at its ends."""
    return _ENDS.sub("", unicodedata.normalize("NFC", name))


def class_names(names: Iterable[str]) -> tuple[str, ...]:
    """`class_name` of each."""
    return tuple(class_name(name) for name in names)


def known_name(name: str, classes: Iterable[str]) -> str | None:
    """The one of `classes` that is equal to `name` in the form that is compared, as it is spelt there; None if none."""
    wanted = class_name(name)
    return next((known for known in classes if class_name(known) == wanted), None)
