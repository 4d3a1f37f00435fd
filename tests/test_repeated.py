"""A run beside the published numbers: what is the same, what differs and by how much, what is not there."""

from dataclasses import replace
from pathlib import Path

import pytest

from dan.errors import UserError
from experiments import __main__ as door
from experiments.framework import reproducibility as module
from experiments.framework.measurements import Row, to_csv
from experiments.framework.records import write_text
from experiments.framework.reproducibility import repeated

WHERE = {"experiment": "digits", "task": "a2b", "network": "lenet", "method": "DAN", "labels": 0, "split": "target"}
MORE = {"metric": "accuracy", "selection": "last", "paper": None, "provenance": "", "command": "command"}
ROW = Row(**WHERE, **MORE, mean=80.0, spread=1.0, n=3)  # type: ignore[arg-type]


def tables(folder: Path, mine: list[Row], published: list[Row]) -> tuple[Path, Path]:
    write_text(folder / "run" / "table.csv", to_csv(mine))
    write_text(folder / "home" / "results" / "digits" / "table.csv", to_csv(published))
    return folder / "run", folder / "home"


def test_what_is_the_same_and_what_differs(tmp_path: Path) -> None:
    published = [ROW, replace(ROW, task="b2a", mean=70.0), replace(ROW, task="c2a", mean=60.0), replace(ROW, split="")]
    mine = [ROW, replace(ROW, task="b2a", mean=70.5), replace(ROW, task="c2a", mean=59.0), replace(ROW, method="JAN")]
    run, home = tables(tmp_path, mine, published)
    found = repeated(run, "digits", home=home)
    assert (found.same, found.others) == (1, 1)
    assert [by for by, _ in found.differ] == [1.0, 0.5] and found.differ[0][1].startswith("c2a, lenet, DAN")
    assert str(found).startswith("3 numbers, 2 differ: by 1.0000 at most (c2a, ")
    assert str(found).endswith("0.7500 the median; 1 are of other commands or seeds than the published")


def test_seconds_and_other_numbers_of_seeds_are_not_held_against_it(tmp_path: Path) -> None:
    """A mean over one seed is no repetition of one over three, nor one over the transfers of another command."""
    seconds, other = replace(ROW, metric="seconds", split=""), replace(ROW, task="b2a")
    mean = replace(ROW, task="mean", command="all of them")
    mine = [ROW, replace(seconds, mean=5.0), replace(other, n=1), replace(mean, mean=5.0, command="one of them")]
    run, home = tables(tmp_path, mine, [ROW, seconds, other, mean])
    said = str(repeated(run, "digits", home=home))
    assert said == "1 numbers, 0 differ; 2 are of other commands or seeds than the published"


def test_nothing_to_compare_is_a_line(tmp_path: Path) -> None:
    run, home = tables(tmp_path, [ROW], [replace(ROW, task="b2a")])
    with pytest.raises(UserError, match="has no number of the published digits"):
        repeated(run, "digits", home=home)
    with pytest.raises(UserError, match="does not exist: run the experiment first"):
        repeated(tmp_path / "nowhere", "digits", home=home)
    for text in ("", "a,b\n1,2\n", to_csv([ROW]).replace("80.0000", "eighty"), to_csv([ROW]).replace("80.0000", "nan")):
        write_text(run / "table.csv", text)
        with pytest.raises(UserError, match=r"is no table\.csv of a report|has no number"):
            repeated(run, "digits", home=home)


@pytest.mark.parametrize(("mean", "code"), [(80.0, 0), (80.5, 1)])
def test_the_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], mean: float, code: int
) -> None:
    run, home = tables(tmp_path, [replace(ROW, mean=mean)], [ROW])
    monkeypatch.setattr(module.repeated, "__kwdefaults__", {"home": home})
    assert door.main(["check", "digits", "--out", str(run)]) == code
    assert capsys.readouterr().out.startswith(f"1 numbers, {code} differ")
    assert door.main(["check", "nothing"]) == 2
