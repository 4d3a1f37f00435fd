"""The label log: nothing is lost or overwritten, undone is undone; rules and agreement by their definitions."""

import itertools
import json
import math
import random
from pathlib import Path

import pytest

from active.annotation.label_log import Label, LabelLog, aggregate_labels, krippendorff_alpha
from dan.errors import UserError


def said(sample: str, label: str, annotator: str = "ann", when: str = "2026-01-01T00:00:00Z") -> Label:
    return Label(
        sample=sample, path=f"{sample}.png", label=label, annotator=annotator, when=when, origin="a.csv, row 2"
    )


def test_labels_are_on_the_disk_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "run" / "labels.jsonl"
    log = LabelLog(path)
    assert log.labels == [] and log.batches == [] and not path.exists()
    assert log.append([]) == 0 and not path.exists()
    assert log.append([said("a", "cat"), said("b", "dog")]) == 1
    assert log.append([said("c", "cat", "bob")]) == 2
    again = LabelLog(path)
    assert again.labels == log.labels == [said("a", "cat"), said("b", "dog"), said("c", "cat", "bob")]
    assert again.batches == [1, 2]
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["label"] * 3


def test_a_person_may_think_again_and_nothing_is_erased(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    log = LabelLog(path)
    log.append([said("a", "cat"), said("b", "dog")])
    before = path.read_bytes()
    log.append([said("a", "dog")])
    assert path.read_bytes().startswith(before)
    assert log.labels == [said("b", "dog"), said("a", "dog")]
    batch, labels = log.undo(when="2026-01-02T00:00:00Z")
    assert batch == 2 and labels == [said("a", "dog")]
    assert path.read_bytes().startswith(before)
    assert LabelLog(path).labels == log.labels == [said("a", "cat"), said("b", "dog")]
    assert log.undo(when="")[0] == 1 and LabelLog(path).labels == []
    with pytest.raises(UserError, match="no labels to take back"):
        log.undo(when="")
    assert log.append([said("z", "cat")]) == 3  # a number is never used again
    assert LabelLog(path).labels == [said("z", "cat")]


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_torn_line_is_dropped_and_the_next_one_is_whole(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    LabelLog(path).append([said("a", "cat"), said("b", "dog")])
    path.write_bytes(path.read_bytes()[:-cut])
    log = LabelLog(path)
    assert log.labels == [said("a", "cat")]
    log.append([said("b", "dog")])
    assert LabelLog(path).labels == [said("a", "cat"), said("b", "dog")]


@pytest.mark.parametrize("line", ['{"event": "label"}', "[1]", '{"event": "undo"}', '{"no": 1}'])
def test_another_file_is_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UserError, match="line 1 is no"):
        LabelLog(path)
    assert path.read_text() == line + "\n"


def test_rules_settle_what_people_say() -> None:
    labels = [
        *(said("all", "cat", who) for who in ("ann", "bob")),
        *(said("most", label, who) for label, who in (("dog", "ann"), ("cat", "bob"), ("cat", "cyd"))),
        *(said("tie", label, who) for label, who in (("dog", "ann"), ("cat", "bob"))),
        said("one", "owl"),
    ]
    assert aggregate_labels(labels, "majority")[0] == {"all": "cat", "most": "cat", "one": "owl"}
    assert list(aggregate_labels(labels, "majority")[1]) == ["tie"]
    assert aggregate_labels(labels, "last") == ({"all": "cat", "most": "cat", "tie": "cat", "one": "owl"}, {})
    assert aggregate_labels(labels, "refuse")[0] == {"all": "cat", "one": "owl"}
    assert list(aggregate_labels(labels, "refuse")[1]) == ["most", "tie"]
    with pytest.raises(ValueError, match="majority, last, refuse"):
        aggregate_labels(labels, "first")


def alpha_by_pairs(labels: list[Label]) -> float:
    """The definition: observed over expected disagreement of pairs of answers, each within and across samples."""
    by_sample: dict[str, list[str]] = {}
    for label in labels:
        by_sample.setdefault(label.sample, []).append(label.label)
    shared = [answers for answers in by_sample.values() if len(answers) > 1]
    everything = [answer for answers in shared for answer in answers]
    n = len(everything)
    observed = (
        sum((a != b) / (len(answers) - 1) for answers in shared for a, b in itertools.permutations(answers, 2)) / n
    )
    expected = sum(a != b for a, b in itertools.permutations(everything, 2)) / (n * (n - 1))
    return 1 - observed / expected


@pytest.mark.parametrize("seed", range(5))
def test_agreement_is_krippendorffs_alpha(seed: int) -> None:
    draw = random.Random(seed)
    labels = [
        said(str(sample), draw.choice("abc"), who) for sample in range(12) for who in "xyz" if draw.random() < 0.7
    ]
    count, alpha = krippendorff_alpha(labels)
    assert alpha == pytest.approx(alpha_by_pairs(labels), abs=1e-12)
    people = [sum(label.sample == str(sample) for label in labels) for sample in range(12)]
    assert count == sum(number > 1 for number in people)


def test_agreement_at_its_ends() -> None:
    assert krippendorff_alpha([said("a", "cat"), said("b", "dog")])[0] == 0
    assert math.isnan(krippendorff_alpha([said("a", "cat")])[1])
    both = [said(s, label, who) for s, label in (("a", "cat"), ("b", "dog")) for who in ("x", "y")]
    assert krippendorff_alpha(both) == (2, 1.0)
    assert krippendorff_alpha([said("a", "cat", "x"), said("a", "cat", "y")]) == (1, 1.0)
