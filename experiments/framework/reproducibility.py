"""Does a run give the published numbers again? Its table.csv, number by number, beside that of experiments/results.

What is held together was made by the same command over as many seeds; it is the same if all four decimals of its mean
are. Seconds are left out: no machine has them twice. Everything else repeats on a processor and library versions that
round alike; on others the last bits differ, and training makes more of them.
"""

from __future__ import annotations

import csv
import math
import statistics
from dataclasses import dataclass
from pathlib import Path

from dan.errors import UserError

HOME = Path(__file__).parents[1]
PLACE = ("task", "network", "method", "labels", "split", "metric", "selection")  # what says which number it is
MADE = ("n", "command")  # a mean over other seeds, or over the transfers that another command ran, is another number
Numbers = dict[tuple[str, ...], dict[str, str]]


@dataclass(frozen=True)
class Repeated:
    """differ: what each number that is another is off by, in its own unit, the largest first, with its place."""

    same: int
    differ: list[tuple[float, str]]
    others: int

    def __str__(self) -> str:
        said = f"{self.same + len(self.differ)} numbers, {len(self.differ)} differ"
        if self.differ:
            most, where = self.differ[0]
            said += f": by {most:.4f} at most ({where}), {statistics.median(d for d, _ in self.differ):.4f} the median"
        return said + (f"; {self.others} are of other commands or seeds than the published" if self.others else "")


def repeated(folder: Path, name: str, *, home: Path = HOME) -> Repeated:
    """The numbers of folder/table.csv beside home/results/<name>/table.csv.

    Raises UserError where one of the two is missing, or where they have no number in common.
    """
    mine, theirs = numbers_of(folder / "table.csv"), numbers_of(home / "results" / name / "table.csv")
    both = [p for p in mine if p in theirs and all(mine[p][part] == theirs[p][part] for part in MADE)]
    if not both:
        raise UserError(f"{folder} has no number of the published {name}: run the command of one of its cells")
    off = {place: abs(float(mine[place]["mean"]) - float(theirs[place]["mean"])) for place in both}
    differ = [(by, ", ".join(part for part in place if part)) for place, by in off.items() if by > 0]
    return Repeated(len(both) - len(differ), sorted(differ, reverse=True), len(mine) - len(both))


def numbers_of(path: Path) -> Numbers:
    """The rows of a table.csv by their places, without seconds; UserError if there is no such table."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: run the experiment first, or name its folder with --out")
    with path.open(encoding="utf-8", newline="") as file:
        try:
            rows = list(csv.DictReader(file, strict=True))
            numbers = {tuple(row[part] for part in PLACE): row for row in rows if "seconds" not in row["metric"]}
            if any(math.isnan(float(row["mean"])) or not all(row[part] for part in MADE) for row in numbers.values()):
                raise ValueError("a mean is no number, or nothing says how it was made")
        except (csv.Error, KeyError, TypeError, ValueError):
            raise UserError(f"{path} is no table.csv of a report: make the report again") from None
    return numbers
