"""CSV files that a spreadsheet can open without harm: a text cell that it would take for a formula is made text.

=2+3  ->  '=2+3        the same for + - @, tab, carriage return and line feed as the first character
'=2+3  ->  ''=2+3      so that `as_written` gives every text back
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from dan.errors import UserError
from dan.run_dir import write_atomically

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")

Cell = str | int | float | None


def plain_text(text: str) -> str:
    """The text, with a ' before it if a spreadsheet would compute it.

    Source: OWASP, "CSV Injection". Names of files come from anywhere, and so may say anything.
    """
    return f"'{text}" if text.lstrip("'").startswith(FORMULA) else text


def as_written(text: str) -> str:
    """The text that `plain_text` was given: what it puts before a formula is taken away again."""
    return text[1:] if text.startswith("'") and text.lstrip("'").startswith(FORMULA) else text


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Write a CSV file in UTF-8, whole or not at all. Texts are made harmless, numbers stay, None is an empty cell.

    Characters that UTF-8 does not have (in file names of other encodings) are written as \\udcXX.
    Raises ValueError for a row of another length than the header, UserError where the file cannot be written.
    """
    lines = [_line(header)]
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"a row of {len(row)} cells under a header of {len(header)}")
        lines.append(_line(row))
    written = "".join(lines).encode("utf-8", errors="backslashreplace")
    try:
        write_atomically(path, lambda file: file.write(written))
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}): name another --out") from None


def _line(row: Sequence[Cell]) -> str:
    """RFC 4180, but for the line's end. Not csv.writer: with that end it leaves a carriage return without quotes."""
    return ",".join(_quoted(cell) for cell in row) + "\n"


def _quoted(cell: Cell) -> str:
    if not isinstance(cell, str):
        return "" if cell is None else str(cell)
    text = plain_text(cell)
    if not any(char in text for char in ',"\r\n'):
        return text
    return '"' + text.replace('"', '""') + '"'
