"""Tables in LaTeX, in the booktabs style, with every character escaped: a method's name is never a command.

A document needs \\usepackage{booktabs, graphicx}, and reads the file by \\input{table}. UTF-8 source is not needed:
what is made is ASCII, so that every engine sets it with every font encoding.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import zip_longest

OPENING = "% Made from records. Needs \\usepackage{booktabs, graphicx}; \\input it where the tables shall stand.\n"

SPECIAL = (
    {sign: f"\\{sign}" for sign in "{}$&#%_"}
    | {"\\": "\\textbackslash{}", "^": "\\textasciicircum{}", "~": "\\textasciitilde{}"}
    # The old font encoding has other signs in these places.
    | {"<": "$<$", ">": "$>$", "|": "$|$", '"': "{\\ttfamily\\char34}", "`": "\\textasciigrave{}"}
    | {"–": "--", "—": "---", "‘": "`", "’": "'", "“": "``", "”": "''", "…": "\\ldots{}", "−": "$-$"}
    | {"ß": "{\\ss}", "ø": "{\\o}", "Ø": "{\\O}", "æ": "{\\ae}", "Æ": "{\\AE}"}
    | {"ł": "{\\l}", "Ł": "{\\L}", "ı": "{\\i}"}
    | {"²": "$^{2}$", "³": "$^{3}$", "°": "$^{\\circ}$"}
    | {
        sign: f"$\\{name}$"
        for names, signs in (
            ("pm times cdot div leq geq neq approx", "±×·÷≤≥≠≈"),
            ("rightarrow leftarrow leftrightarrow infty mu", "→←↔∞µ"),
            ("alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi", "αβγδεζηθικλμνξ"),
            ("pi rho sigma tau upsilon phi chi psi omega", "πρστυφχψω"),
            ("Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega", "ΓΔΘΛΞΠΣΦΨΩ"),
        )
        for name, sign in zip(names.split(), signs, strict=True)
    }
)
# Combining accents -> LaTeX's commands for them.
ACCENTS = dict(
    zip("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327", "`'^~=u.\"rHvc", strict=True)
)


def escape(text: str) -> str:
    """Text as LaTeX sets it, character by character; white space of any kind becomes one space.

    Two hyphens stay two: a flag of a command is no dash. A character that is neither ASCII nor known here, with or
    without an accent, stands as [U+XXXX]: seen, not lost.
    """
    plain = " ".join(unicodedata.normalize("NFC", text).split())
    return "".join(
        "-{}" if pair == "--" else _sign(pair[0]) for pair in map("".join, zip_longest(plain, plain[1:], fillvalue=""))
    )


def _sign(sign: str) -> str:
    if sign in SPECIAL:
        return SPECIAL[sign]
    if sign.isascii():
        return sign if sign.isprintable() else " "
    base, *marks = list(unicodedata.normalize("NFD", sign))
    if len(marks) == 1 and marks[0] in ACCENTS and base.isascii() and base.isalpha():
        dotless = {"i": "\\i", "j": "\\j"}.get(base, base)
        return f"\\{ACCENTS[marks[0]]}{{{dotless}}}"
    return f"[U+{ord(sign):04X}]"


def table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str, label: str, like: str | None = None
) -> str:
    """One floating table: the first column to the left, the others to the right, shrunk only where it is too wide.

    caption: plain text, escaped here. label: for \\ref{tab:LABEL}; all but letters and digits become hyphens. like:
    the label of the table whose caption says how this one was measured. Raises ValueError if a row has not one cell a
    header.
    """
    if not headers or any(len(row) != len(headers) for row in rows):
        raise ValueError("every row of a table has one cell for each header, and there is one or more")
    said = escape(caption) + ("" if like is None else f" Measured as in table~\\ref{{{name_of(like)}}}.")
    lines = ["      " + " & ".join(map(_cell, cells)) + " \\\\\n" for cells in (headers, *rows)]
    return (
        "\\begin{table}\n"
        "  \\centering\n"
        f"  \\caption{{{said}}}\n"
        f"  \\label{{{name_of(label)}}}\n"
        "  \\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%\n"
        f"    \\begin{{tabular}}{{l{'r' * (len(headers) - 1)}}}\n"
        "      \\toprule\n"
        f"{lines[0]}"
        "      \\midrule\n"
        f"{''.join(lines[1:])}"
        "      \\bottomrule\n"
        "    \\end{tabular}%\n"
        "  }\n"
        "\\end{table}\n"
    )


def _cell(text: str) -> str:
    made = escape(text)
    # After a line's end [ and * would begin an option of it.
    return f"{{{made}}}" if made[:1] in ("[", "*") else made


def name_of(label: str) -> str:
    """The name that a table is referred to by."""
    return "tab:" + "".join(sign if sign.isascii() and sign.isalnum() else "-" for sign in label)


def tables(
    shown: Sequence[tuple[str, tuple[Sequence[str], Sequence[Sequence[str]]]]], *, captions: Sequence[str], label: str
) -> str:
    """A file of tables, each (heading, (headers, rows)); captions stand at the first, to which the others refer."""
    made = []
    for number, (heading, (headers, rows)) in enumerate(shown, start=1):
        first = number == 1
        caption = " ".join([f"{heading}.", *(captions if first else [])])
        like = None if first or not captions else f"{label}-1"
        made.append(table(headers, rows, caption=caption, label=f"{label}-{number}", like=like))
    return "\n".join([OPENING, *made])
