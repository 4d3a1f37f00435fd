"""Tables in Markdown: the first column to the left, numbers to the right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Table = tuple[list[str], list[list[str]]]  # headers and rows


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lines of a table; a | in a cell stays in its cell."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"

    return line(headers) + "|---|" + "---:|" * (len(headers) - 1) + "\n" + "".join(map(line, rows))
