"""What a table in LaTeX must be: balanced, one row a line, nothing typed that TeX would take for a command."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.framework.reporting.latex import ACCENTS, SPECIAL, escape, name_of, table, tables

EVERY = " ".join(map(chr, range(33, 127))) + " " + " ".join(SPECIAL)
# What the made text may hold: TeX's own signs only in these forms, each with its braces closed.
FORMS = re.compile(
    r"\\[&%$#_{}]"  # a sign
    r"|\\text(?:backslash|asciicircum|asciitilde|asciigrave)\{\}|\\ldots\{\}"
    r"|\{\\ttfamily\\char34\}|\{\\(?:ss|o|O|ae|AE|l|L|i)\}"
    r"|\\(?:[`'^~=.\"]|[uvrcH])\{(?:[A-Za-z]|\\[ij])\}"  # an accent over a letter
    r"|\$(?:\\[A-Za-z]+|\^\{(?:2|3|\\circ)\}|[<>|-])\$"  # one sign in mathematics
    r"|-\{\}"
)


def plain(made: str) -> str:
    """What is left of escaped text when all allowed forms are taken away."""
    return FORMS.sub("", made)


SIGNS = st.sampled_from(EVERY + "\t\u0301\u00e9\u200b\u4e2d\ufb01") | st.integers(0, 0x10FFFF).map(chr)


@given(st.lists(SIGNS, max_size=30).map("".join))
def test_no_text_is_a_command(text: str) -> None:
    made = escape(text)
    assert made.isascii() and made.isprintable()
    assert not set(plain(made)) & set('\\{}$&#%_^~<>|"')
    assert "--" not in plain(made).replace("--", "", text.count("–") + 2 * text.count("—"))


def test_escapes_by_hand() -> None:
    assert escape("DAN_7 & 50 % #1 {x} $y$") == r"DAN\_7 \& 50 \% \#1 \{x\} \$y\$"
    assert escape(r"a\b ^ ~") == r"a\textbackslash{}b \textasciicircum{} \textasciitilde{}"
    assert escape("83.8 ± 0.2, −1, C→W, MMD²") == r"83.8 $\pm$ 0.2, $-$1, C$\rightarrow$W, MMD$^{2}$"
    assert escape("--seeds 0 --- –") == "-{}-seeds 0 -{}-{}- --"
    assert escape("é e\u0301 ï Č λ") == r"\'{e} \'{e} \"{\i} \v{C} $\lambda$"
    assert escape("two\n\n lines\t\u00a0x") == "two lines x"
    assert escape("中") == "[U+4E2D]" and escape("\x00") == " "


def test_every_sign_of_ours_is_set_as_a_form_that_is_known() -> None:
    for sign, made in SPECIAL.items():
        assert not set(plain(made)) & set("\\{}$&#%_^~"), (sign, made)
    assert plain(escape(EVERY)).isascii()
    assert len(set(SPECIAL.values()) | set(ACCENTS.values())) > 50


def test_a_table_has_its_rows_in_order() -> None:
    made = table(["method", "A->C"], [["a_b & c", "1 ± 2"], ["[x]", "*"]], caption="10 % of_it", label="dan_table2")
    lines = [line.strip() for line in made.splitlines()]
    assert lines[0] == r"\begin{table}" and lines[-1] == r"\end{table}"
    assert r"\caption{10 \% of\_it}" in lines and r"\label{tab:dan-table2}" in lines
    inside = lines[lines.index(r"\toprule") : lines.index(r"\bottomrule") + 1]
    assert inside == [
        r"\toprule",
        r"method & A-$>$C \\",
        r"\midrule",
        r"a\_b \& c & 1 $\pm$ 2 \\",
        r"{[x]} & {*} \\",  # neither is an option of the line's end before it
        r"\bottomrule",
    ]
    assert r"\begin{tabular}{lr}" in lines
    for bad in (([], []), (["a", "b"], [["1"]])):
        with pytest.raises(ValueError, match="one cell for each header"):
            table(bad[0], bad[1], caption="", label="")


SHOWN = [
    ("First_1", (["m", *"abcdef"], [[EVERY, *["84.0 ± 1.1"] * 6], ["[", "*", "(", "", "-", "--", "–"]])),
    ("Second", (["m"], [["x"]])),
]


def test_a_file_of_tables_is_balanced_and_refers_to_the_first() -> None:
    made = tables(SHOWN, captions=["How --it was measured.", "50 % & more."], label="x_y")
    assert made.isascii()
    code = "\n".join(re.sub(r"(?<!\\)%.*", "", line) for line in made.splitlines())
    assert re.findall(r"\\(begin|end)\{(\w+)\}", code) == 2 * [
        ("begin", "table"),
        ("begin", "tabular"),
        ("end", "tabular"),
        ("end", "table"),
    ]
    bare = code.replace(r"\{", "").replace(r"\}", "")
    depth = 0
    for sign in bare:
        depth += (sign == "{") - (sign == "}")
        assert depth >= 0
    assert depth == 0 and bare.replace(r"\$", "").count("$") % 2 == 0
    for columns, body in re.findall(r"\\begin\{tabular\}\{(l?r*)\}(.*?)\\end\{tabular\}", code, flags=re.S):
        rows = [line for line in body.splitlines() if line.strip().endswith(r"\\")]
        assert [len(re.findall(r"(?<!\\)&", row)) for row in rows] == [len(columns) - 1] * len(rows)
        assert [line.strip() for line in body.splitlines() if "rule" in line] == [
            r"\toprule",
            r"\midrule",
            r"\bottomrule",
        ]
    labels = re.findall(r"\\label\{(.*?)\}", code)
    assert labels == ["tab:x-y-1", "tab:x-y-2"] and re.findall(r"\\ref\{(.*?)\}", code) == labels[:1]
    assert code.count("50 \\% \\& more.") == 1 and name_of("x_y-1") == labels[0]
    assert "\\ref" not in tables(SHOWN, captions=[], label="x")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex in the path")
@pytest.mark.parametrize("fonts", ["", r"\usepackage[T1]{fontenc}"])
def test_latex_sets_it(tmp_path: Path, fonts: str) -> None:
    (tmp_path / "table.tex").write_text(tables(SHOWN, captions=[EVERY, "é ï č Å"], label="x_y"), encoding="ascii")
    head = rf"\documentclass{{article}}\usepackage{{booktabs, graphicx}}{fonts}"
    body = "\\begin{document}\\listoftables\\input{table}\\end{document}"
    (tmp_path / "page.tex").write_text(f"{head}\n{body}\n", encoding="ascii")
    words = ["pdflatex", "-output-format=dvi", "-halt-on-error", "-interaction=nonstopmode", "page.tex"]
    for _ in range(2):  # the second time the references are known
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout
    log = (tmp_path / "page.log").read_text(encoding="latin-1")
    assert "undefined" not in log and "Missing character" not in log
