"""What the long tests did, from pytest's own report: python tests/long_figures.py runs/long.xml

`make test-long` writes the report. What each test says of itself (record_property: kills, inputs, refused) is added up
over its cases and kept in tests/long_figures.jsonl, a line a test; docs/reliability.md gets the table of all of them.
A report of some tests alone renews the lines of those.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parent
KEPT, PAGE = HERE / "long_figures.jsonl", HERE.parent / "docs" / "reliability.md"
MARKS = ("<!-- long tests -->", "<!-- end of long tests -->")
OUTCOMES = ("passed", "skipped", "failed")
COUNTED = ("kills", "inputs", "refused")


def figures(report: Path, commit: str) -> dict[str, dict[str, Any]]:
    """Test -> its line, of a JUnit report."""
    found: dict[str, dict[str, Any]] = {}
    for case in ElementTree.parse(report).iter("testcase"):  # pytest wrote it, on this machine
        file, test = case.get("classname", "").replace(".", "/") + ".py", case.get("name", "").partition("[")[0]
        line = found.setdefault(
            f"{file}::{test}", {"test": f"{file}::{test}", "passed": 0, "skipped": 0, "failed": 0, "seconds": 0.0}
        )
        bad = case.find("failure") is not None or case.find("error") is not None
        line["failed" if bad else "skipped" if case.find("skipped") is not None else "passed"] += 1
        line["seconds"] += float(case.get("time", 0))
        for said in case.iter("property"):
            if (name := said.get("name", "")) in COUNTED:
                line[name] = line.get(name, 0) + int(said.get("value", 0))
        line["commit"] = commit
    for line in found.values():
        line["seconds"] = round(line["seconds"], 1)
    return found


def kept() -> dict[str, dict[str, Any]]:
    """Test -> its line, of earlier reports."""
    lines = KEPT.read_text(encoding="utf-8").splitlines() if KEPT.exists() else []
    return {line["test"]: line for line in map(json.loads, lines)}


def table(lines: dict[str, dict[str, Any]]) -> str:
    """All of them, as Markdown."""
    rows = ["| test | passed | kills | inputs | of them refused | seconds |", "|---|---:|---:|---:|---:|---:|"]
    of_all = {name: sum(line.get(name, 0) for line in lines.values()) for name in (*OUTCOMES, *COUNTED, "seconds")}
    for name, line in [*((f"`{name}`", lines[name]) for name in sorted(lines)), ("all", of_all)]:
        cases = sum(line[outcome] for outcome in OUTCOMES)
        counts = [f"{line[count]:,}" if count in line else "" for count in COUNTED]
        rows.append(f"| {name} | {line['passed']} of {cases} | {' | '.join(counts)} | {line['seconds']:,.0f} |")
    return "\n".join(rows) + "\n"


def main(argv: list[str]) -> int:
    """Keep the figures of the reports named, and write the table between its marks."""
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=HERE, capture_output=True, text=True)
    lines = kept()
    for report in argv:
        lines |= figures(Path(report), commit.stdout.strip())
    KEPT.write_text("".join(json.dumps(lines[name]) + "\n" for name in sorted(lines)), encoding="utf-8")
    before, rest = PAGE.read_text(encoding="utf-8").split(MARKS[0])
    _, after = rest.split(MARKS[1])
    PAGE.write_text(f"{before}{MARKS[0]}\n\n{table(lines)}\n{MARKS[1]}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
