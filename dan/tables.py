"""Tables that people and programs write: CSV with commas, semicolons or tabs, in UTF-8 or UTF-16, from any spreadsheet.

Passed over: a byte-order mark, Excel's first line `sep=;`, rows and columns at the end that are empty, white space
around a cell. Refused: a column that comes twice, a value without a column, a quote that is never closed.

Source: RFC 4180; Microsoft, "CSV UTF-8" and the line `sep=` as Excel reads and writes them.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dan.class_names import class_name
from dan.errors import UserError

SUFFIXES = (".csv", ".tsv")
DELIMITERS = (",", ";", "\t")
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")  # .xlsx, .ods, .numbers; and the old .xls
_SEPARATOR = re.compile(r'\A"?sep=([^"\r\n])"?[,;\t ]*\Z', re.IGNORECASE)
# What spreadsheets write in place of a value, in any language: #N/A, #REF!, #NAME?, #DIV/0!, #NV, ####, Err:502.
ERROR_CELL = re.compile(r"#\u00a1?[^\W\d_]+(?:/0)?[!?]|#N/[A-Z]{1,2}|#NV|#{3,}|Err:\d{3}")
_SAMPLE = 4096  # bytes that show whether a text without a byte-order mark is in UTF-16


@dataclass(frozen=True, kw_only=True)
class Row:
    """number: as a spreadsheet counts, the header's being 1. line: of the text, where the row begins. width: cells that
    were written, before they were made as many as there are columns."""

    number: int
    line: int
    width: int
    cells: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Table:
    """header: as it is written, for messages. columns: their names in lower case, in order. rows: those that are not
    empty; each cell without white space at its ends, "" where a row is short."""

    path: Path
    header: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def read_text(path: Path, form: str) -> str:
    """A text in UTF-8 or UTF-16, without its byte-order mark. form: what it should be, for messages, such as "CSV".

    Raises UserError for a file that cannot be read, a workbook, and any other encoding.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None
    if content.startswith(_WORKBOOKS):
        raise UserError(f"{path} is a workbook of a spreadsheet program: save its sheet as CSV in UTF-8")
    try:
        return content.decode(_encoding(content)).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} cannot be read as {form} in UTF-8 or UTF-16: it is not UTF-8 (byte {error.start}): save it "
            "in UTF-8"
        ) from None


def read_table(
    path: Path, needed: Sequence[str] = (), check: Callable[[str, Sequence[str]], None] | None = None
) -> Table:
    """The table in a text file. needed: columns by which the delimiter is recognised; they may be missing all the same.
    check(header, columns) may refuse the header before any row is looked at.

    Raises UserError, with the row, for whatever is no table; see the top of this module.
    """
    text = read_text(path, "CSV")
    delimiter = _delimiter(text, needed)
    records, first = _records(path, text, delimiter), ""
    header: list[str] | None = None
    rows: list[Row] = []
    number = 0
    for line, record in records:
        written = [cell.strip().strip("\ufeff") for cell in record]
        if header is None and not number and _SEPARATOR.match(",".join(record)):
            continue  # it has no number in a spreadsheet
        number += 1
        if not any(written):
            continue
        if header is None:
            header, first = _header(path, written), delimiter.join(written)
            if check is not None:
                check(first, [name for name in header if name])
            continue
        _refuse_nameless(f"{path}, line {line}", header, written)
        cells = {name: cell for name, cell in _pairs(header, written) if name}
        rows.append(Row(number=number, line=line, width=_width(written, header), cells=cells))
    columns = tuple(name for name in header or () if name)
    if header is None and check is not None:
        check("", columns)
    return Table(path=path, header=first, columns=columns, rows=tuple(rows))


def _encoding(content: bytes) -> str:
    if content.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    sample = content[:_SAMPLE]
    first, second = sample[::2].count(0), sample[1::2].count(0)
    many = len(sample) // 8  # names of columns and European letters have a zero byte each, others now and then
    if second > many and second > 8 * first:
        return "utf-16-le"
    if first > many and first > 8 * second:
        return "utf-16-be"
    return "utf-8-sig"


def _delimiter(text: str, needed: Sequence[str]) -> str:
    """That of `sep=`, or the one by which the header has the needed columns, or else the most columns."""
    lines = [line for line in text[: 2**16].splitlines() if line.strip().strip('",;\t')][:2]
    declared = _SEPARATOR.match(lines[0].strip(" ")) if lines else None
    header = lines[1] if declared and len(lines) > 1 else lines[0] if lines else ""
    candidates = [*([declared[1]] if declared else []), *DELIMITERS]

    def fitness(delimiter: str) -> tuple[bool, int]:
        try:
            names = [name.strip().lower() for name in next(csv.reader([header], delimiter=delimiter), [])]
        except csv.Error:
            return False, 0
        return bool(needed) and set(needed) <= set(names), len(names)

    return max(candidates, key=fitness)


def _records(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line on which it begins, cells) of each record, empty ones too."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    number, line = 0, 1
    while True:
        number += 1
        try:
            record = next(rows)
        except StopIteration:
            break
        except csv.Error as error:
            raise UserError(f"{path}, row {number}: {error}") from None
        yield line, record
        line = rows.line_num + 1
    _refuse_open_quote(path, text, delimiter)


def _refuse_open_quote(path: Path, text: str, delimiter: str) -> None:
    """A quote that is never closed makes one cell of all that follows it."""
    number = 0
    try:
        for _ in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
            number += 1
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            raise UserError(f"{path}, row {number + 1}: a quote is opened and never closed") from None


def _header(path: Path, written: Sequence[str]) -> list[str]:
    names = [class_name(name).lower() for name in written]
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise UserError(f'{path} has two columns "{_shown(twice[0])}": leave one, so that it is clear which counts')
    return names


def _refuse_nameless(where: str, header: Sequence[str], written: Sequence[str]) -> None:
    """A value beyond the header, or below an empty cell of it, would be lost. The first column may have no name: there
    pandas writes the numbers of the rows."""
    if any(written[len(header) :]):
        raise UserError(f"{where} has {len(written)} fields, and the header {len(header)}")
    values = [cell for name, cell in _pairs(header, written)[1:] if cell and not name]
    if values:
        raise UserError(f'{where} has a value ("{_shown(values[0])}") in a column without a name: name the column')


def _pairs(header: Sequence[str], written: Sequence[str]) -> list[tuple[str, str]]:
    """(column, cell): "" for cells that are missing, and for columns without a name."""
    length = max(len(header), len(written))
    names, cells = ([*part, *[""] * (length - len(part))] for part in (header, written))
    return list(zip(names, cells, strict=True))


def _width(written: Sequence[str], header: Sequence[str]) -> int:
    """How many cells a row has, empty ones beyond the named columns left out."""
    return min(len(written), max((i + 1 for i, name in enumerate(header) if name), default=0))


def _shown(cell: str, most: int = 200) -> str:
    return cell if len(cell) <= most else f"{cell[:most]}..."
