"""A few labels a class: what is drawn, what is left out of the accuracy, and what the training makes of them."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dan.__main__ import main
from dan.data.semi_supervised import drawn_by_seed, few_a_class, rest_of
from dan.data.tasks import load_pair
from dan.errors import UserError
from dan.evaluation.metrics import predict
from dan.models.model_file import load_model
from dan.run_dir import read_records

QUICK = ["--steps", "60", "--batch-size", "8", "--layers", "8", "--device", "cpu", "--quiet", "--no-feature-map"]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.lists(st.integers(-1, 3), min_size=1, max_size=40), st.integers(1, 5), st.integers(0, 99))
def test_so_many_of_each_class_or_an_error(labels: list[int], count: int, seed: int) -> None:
    y = torch.tensor(labels)
    have = {c: labels.count(c) for c in sorted(set(labels) - {-1})}
    short = [c for c, number in have.items() if number < count]
    if short:
        with pytest.raises(UserError, match=f'class "{short[0]}" has {have[short[0]]} labelled samples of the {count}'):
            few_a_class(y, count, seeded(seed))
        return
    rows = few_a_class(y, count, seeded(seed)).tolist()
    assert rows == sorted(set(rows))
    assert [labels[i] for i in rows].count(-1) == 0
    assert {c: [labels[i] for i in rows].count(c) for c in have} == dict.fromkeys(have, count)
    left = rest_of(torch.tensor(rows, dtype=torch.long), len(labels)).tolist()
    assert sorted(rows + left) == list(range(len(labels)))


def test_draws_are_nested_and_the_seeds_own() -> None:
    y = torch.arange(200) % 4
    drawn = [set(few_a_class(y, count, seeded(3)).tolist()) for count in (1, 3, 10)]
    assert drawn[0] < drawn[1] < drawn[2]
    assert drawn[1] != set(few_a_class(y, 3, seeded(4)).tolist())
    state = torch.get_rng_state()
    few_a_class(y, 3, seeded(4))
    assert torch.equal(state, torch.get_rng_state())


def test_every_sample_is_as_likely() -> None:
    y = torch.tensor([0] * 5 + [1] * 10)
    times = torch.zeros(15)
    for seed in range(1000):
        times[few_a_class(y, 1, seeded(seed))] += 1
    # Binomial: 1000/5 = 200 +- 13, and 100 +- 9.5; five deviations.
    assert bool(((times[:5] - 200).abs() < 63).all()) and bool(((times[5:] - 100).abs() < 47).all())


def test_mistakes() -> None:
    with pytest.raises(UserError, match='class "cat" has 0 labelled samples of the 2'):
        few_a_class(torch.tensor([0, 0, 0]), 2, seeded(0), classes=("dog", "cat"))
    with pytest.raises(UserError, match="at least 1"):
        few_a_class(torch.tensor([0, 0]), 0, seeded(0))
    with pytest.raises(ValueError, match="has no name"):
        few_a_class(torch.tensor([0, 2]), 1, seeded(0), classes=("dog", "cat"))
    with pytest.raises(ValueError, match="one class number"):
        few_a_class(torch.zeros(3), 1, seeded(0))


@pytest.fixture
def domains(tmp_path: Path) -> list[str]:
    """Features of two domains whose classes have changed places: without target labels every sample is called wrong."""
    rng = np.random.default_rng(0)
    for name, sign, classes in (("source", 1, 2), ("target", -1, 2)):
        y = np.arange(80) % classes
        x = 0.4 * rng.standard_normal((80, 3)) + sign * np.stack([2 * y - 1, 0 * y, 0 * y], axis=1)
        x[:, 1] += name == "target"
        np.savez(tmp_path / f"{name}.npz", x=x.astype(np.float32), y=y)
    return ["folders", "--source", str(tmp_path / "source.npz"), "--target", str(tmp_path / "target.npz")]


def test_the_command_learns_them_and_leaves_them_out(
    tmp_path: Path, domains: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def train(folder: str, *flags: str) -> dict[str, float]:
        monkeypatch.setattr(
            sys, "argv", ["dan", "train", *domains, *QUICK, "--trade-off", "0", "--run", folder, *flags]
        )
        assert main() == 0
        return read_records(tmp_path / folder / "records.jsonl")[-2]

    none, some = train("none"), train("some", "--target-labels", "5")
    assert none["accuracy/target"] < 0.2 and "accuracy/unqueried" not in none
    assert some["accuracy/unqueried"] > none["accuracy/target"] + 0.3

    header = read_records(tmp_path / "some" / "records.jsonl")[0]
    assert (header["target_labels"], header["labelled"]) == (5, 10)
    assert "target_labels" not in read_records(tmp_path / "none" / "records.jsonl")[0]

    target = load_pair("folders", source=domains[2], target=domains[4]).target
    output, y = predict(load_model(tmp_path / "some"), target)
    right = (output.logits.argmax(1) == y).double()
    rows = drawn_by_seed(y, 5, 0, classes=("0", "1"))
    assert some["accuracy/target"] == pytest.approx(float(right.mean()))
    unqueried = (float(right.sum()) - float(right[rows].sum())) / 70
    assert some["accuracy/unqueried"] == pytest.approx(unqueried)

    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["dan", "evaluate", "some"])
    assert main() == 0
    said = capsys.readouterr().out
    assert f"unqueried    {100 * unqueried:6.2f} % accuracy" in said and "70 samples" in said


def test_when_all_are_labelled_there_is_no_rest(
    tmp_path: Path, domains: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ["--target-labels", "40", "--run", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", ["dan", "train", *domains, *QUICK, "--steps", "2", *run])
    assert main() == 0
    assert "accuracy/unqueried" not in read_records(tmp_path / "run" / "records.jsonl")[-2]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--target-labels", "41"], 'class "0" has 40 labelled samples of the 41'),
        (["--target-labels", "-1"], "--target-labels must be 0 or more"),
    ],
)
def test_mistakes_at_the_door(
    tmp_path: Path,
    domains: list[str],
    flags: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["dan", "train", *domains, *QUICK, "--run", str(tmp_path / "run"), *flags])
    assert main() == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_an_unlabelled_target_has_none_to_draw(
    tmp_path: Path, domains: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(domains[4]) as target:
        np.savez(tmp_path / "bare.npz", x=target["x"])
    command = ["dan", "train", *domains[:4], str(tmp_path / "bare.npz"), *QUICK, "--target-labels", "1"]
    monkeypatch.setattr(sys, "argv", command)
    assert main() == 2
    assert "the target of folders has no labels" in capsys.readouterr().err
