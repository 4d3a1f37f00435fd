"""What `make docs` adds to MkDocs: the published figures, which lie in experiments/results and not beside the pages.

../experiments/results/NAME/figures/FILE      in a page of docs           ->   figures/NAME/FILE      in the site
../../experiments/results/NAME/figures/FILE   in a page of docs/results   ->   ../figures/NAME/FILE   in the site
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

RESULTS = Path(__file__).resolve().parent / "experiments" / "results"
LINK = re.compile(r"\(((?:\.\./)?)\.\./experiments/results/([a-z0-9_]+)/figures/([^)/]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """The figures, as files of the site."""
    for figure in sorted(RESULTS.glob("*/figures/*.png")):
        name = f"figures/{figure.parent.parent.name}/{figure.name}"
        files.append(File.generated(config, name, abs_src_path=str(figure)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page, its links to figures leading to where they are in the site."""
    return LINK.sub(r"(\1figures/\2/\3)", markdown)
