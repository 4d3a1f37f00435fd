"""The page of a published experiment, docs/results/NAME.md: from its declaration and its published files alone."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from experiments.framework.experiment import Experiment
from experiments.framework.options import Options, reduced
from experiments.framework.reporting import markdown

COMMON = {field.name for field in fields(Options)} | {"full"}


def page_of(experiment: Experiment[Any], name: str, results: Path, docs: Path) -> str:
    """The page: summary, command, findings, tables, figures, options.

    results: the published folder. docs: the page's folder; the pages of its parent that link to it are named on it.
    """
    figures = results / "figures.md"
    linked = figures.read_text(encoding="utf-8") if figures.is_file() else ""
    linked = linked.replace("](figures/", f"](../../experiments/results/{name}/figures/")
    pages = {page: page.read_text(encoding="utf-8") for page in sorted(docs.parent.glob("*.md"))}
    links = [
        f"[{text.partition(chr(10))[0].lstrip('# ')}](../{page.name})"
        for page, text in pages.items()
        if f"(results/{name}.md" in text and page.name != "index.md"
    ]
    parts = [
        f"# {name}",
        experiment.summary,
        *(["Explained in " + ", ".join(links) + "."] if links else []),
        f"    python -m experiments run {experiment.name}            # --quick: a small form",
        (results / "table.md").read_text(encoding="utf-8").strip(),
        *([f"## Figures\n\n{linked.strip()}"] if linked else []),
        f"## Options\n\nBesides those that [all experiments have](../trials.md):\n\n{options_of(experiment.options)}",
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def index_of(docs: Path) -> str:
    """docs/results/index.md: the published pages with their summaries."""
    lines = ["# Results", "", "Made from the published records by `python -m experiments republish`.", ""]
    lines += ["| results | what is compared |", "|---|---|"]
    for page in sorted(docs.glob("*.md")):
        if page.name != "index.md":
            summary = page.read_text(encoding="utf-8").split("\n\n")[1]
            lines.append(f"| [{page.stem}]({page.name}) | {summary} |")
    return "\n".join(lines) + "\n"


def options_of(options: type[Options]) -> str:
    """The experiment's own options as a table: defaults, the values of --quick and of --full, meanings."""
    of: Any = options()
    forms = {"default": of} | {
        f"--{form}": reduced(replace(of, **{form: True}))
        for form, values in (("quick", options.QUICK), ("full", options.FULL))
        if values
    }
    meant = meanings(options)
    rows = []
    for option in fields(options):
        if option.name not in COMMON:
            usual, *others = (_shown(getattr(form, option.name)) for form in forms.values())
            cells = [usual, *("" if other == usual else other for other in others)]
            rows.append([f"--{option.name.replace('_', '-')}", *cells, meant[option.name]])
    return markdown.table(["option", *forms, "meaning"], rows).replace("---:|\n", "---|\n", 1)


def meanings(options: type[Options]) -> dict[str, str]:
    """Option -> the text below its field in the class."""
    found = {}
    for part in reversed(options.__mro__[:-1]):
        (declared,) = ast.parse(textwrap.dedent(inspect.getsource(part))).body
        assert isinstance(declared, ast.ClassDef)
        for field, text in pairwise(declared.body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[ast.unparse(field.target)] = " ".join(str(text.value.value).split())
    return found


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "–"
    if isinstance(value, bool) or value is None:
        return {True: "on", False: "off", None: "–"}[value]
    return str(value)
