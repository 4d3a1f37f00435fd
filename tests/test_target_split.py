"""Held-out target samples: a share or a set of their own, which no training, alignment or query sees."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dan import DomainPair, load_pair
from dan.data.tensor_datasets import Vectors
from dan.errors import UserError
from dan.run_dir import read_records


def features(path: Path, count: int, *, seed: int, labelled: bool = True, classes: int = 3) -> Path:
    x = np.random.default_rng(seed).normal(size=(count, 5)).astype(np.float32)
    np.savez(path, **({"x": x, "y": np.arange(count) % classes} if labelled else {"x": x}))
    return path


def images(root: Path, counts: dict[str, int], grey: int) -> Path:
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (8, 8), (grey + i,) * 3).save(root / name / f"{i}.png")
    return root


@pytest.fixture
def domains(tmp_path: Path) -> dict[str, Path]:
    return {
        "source": features(tmp_path / "s.npz", 30, seed=0),
        "target": features(tmp_path / "t.npz", 60, seed=1),
    }


def rows_of(data: Any) -> set[tuple[float, ...]]:
    assert isinstance(data, Vectors)
    return {tuple(row) for row in data.x.tolist()}


def test_a_share_is_held_out_of_each_class_and_is_no_longer_in_the_target(domains: dict[str, Path]) -> None:
    whole, pair = load_pair("folders", **domains), load_pair("folders", **domains, target_holdout=0.2)
    held: Any = pair.target_test
    assert (len(whole.target), len(pair.target), len(held)) == (60, 48, 12)  # type: ignore[arg-type]
    assert Counter(held.targets.tolist()) == {0: 4, 1: 4, 2: 4}
    assert not rows_of(pair.target) & rows_of(held) and rows_of(pair.target) | rows_of(held) == rows_of(whole.target)
    assert list(pair.splits) == ["target", "target_test"] and rows_of(pair.source) == rows_of(whole.source)
    again = load_pair("folders", **pair.options)
    assert torch.equal(again.target_test.x, held.x)  # type: ignore[union-attr]


def test_a_share_of_a_target_without_labels_is_held_out_but_has_no_accuracy(tmp_path: Path) -> None:
    source, target = features(tmp_path / "s.npz", 30, seed=0), features(tmp_path / "t.npz", 60, seed=1, labelled=False)
    pair = load_pair("folders", source=source, target=target, target_holdout=0.25)
    assert (len(pair.target), len(pair.target_test)) == (45, 15)  # type: ignore[arg-type]
    assert not rows_of(pair.target) & rows_of(pair.target_test) and pair.splits == {}


def test_a_set_of_its_own_gives_an_unlabelled_target_an_accuracy(tmp_path: Path) -> None:
    source, target = features(tmp_path / "s.npz", 30, seed=0), features(tmp_path / "t.npz", 60, seed=1, labelled=False)
    held = features(tmp_path / "h.npz", 9, seed=2)
    pair = load_pair("folders", source=source, target=target, target_test=held)
    assert list(pair.splits) == ["target_test"] and not pair.target_labelled
    assert len(pair.target) == 60 and pair.target_test.targets.tolist() == [0, 1, 2] * 3  # type: ignore
    again = load_pair("folders", **pair.options)
    assert torch.equal(again.target_test.x, pair.target_test.x)  # type: ignore[union-attr]


def test_images_of_their_own_are_numbered_as_the_training_numbers_classes(tmp_path: Path) -> None:
    source = images(tmp_path / "s", {"b": 3, "a": 3, "c": 3}, 0)
    target = images(tmp_path / "t", {"b": 3, "a": 3, "c": 3}, 50)
    held = images(tmp_path / "h", {"b": 1, "c": 2}, 100)
    options: dict[str, Any] = {"source": source, "target": target, "target_test": held, "image_size": 8}
    pair = load_pair("folders", **options)
    found: Any = pair.target_test
    assert pair.classes == ("a", "b", "c") and found.targets.tolist() == [1, 2, 2]
    grey = ((found[0][0] * torch.tensor([0.229, 0.224, 0.225])[:, None, None])[0, 0, 0] + 0.485) * 255
    assert float(grey) == pytest.approx(100, abs=0.01)
    chosen = load_pair("folders", **options, classes=("c", "a"))
    assert chosen.classes == ("a", "c") and chosen.target_test.targets.tolist() == [1, 1]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_test": "h.npz", "target_holdout": 0.2}, "give one of them"),
        ({"target_holdout": 0.6}, "target_holdout is a share of the target from 0 to 0.5, not 0.6"),
        ({"target_test": "wide.npz"}, "wide.npz has 4 features a sample, and the target 5"),
        ({"target_test": "more.npz"}, "more.npz has the class 3, 4, and the training has 0, 1, 2"),
        ({"target_test": "bare.npz"}, "bare.npz has no labels: target_test needs a class for every sample"),
        ({"target_test": "tree"}, "tree holds images, and the target features"),
        ({"target_test": "nowhere.npz"}, "nowhere.npz"),
    ],
)
def test_what_cannot_be_held_out_is_refused(
    domains: dict[str, Path], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    features(tmp_path / "h.npz", 9, seed=2)
    features(tmp_path / "more.npz", 10, seed=2, classes=5)
    features(tmp_path / "bare.npz", 9, seed=2, labelled=False)
    np.savez(tmp_path / "wide.npz", x=np.zeros((6, 4), dtype=np.float32), y=np.arange(6) % 3)
    images(tmp_path / "tree", {"0": 1, "1": 1}, 0)
    if "target_test" in change:
        change = change | {"target_test": tmp_path / change["target_test"]}
    with pytest.raises(UserError, match=message):
        load_pair("folders", **domains, **change)


def test_an_image_of_the_target_is_no_test_image(tmp_path: Path) -> None:
    source, target = (images(tmp_path / name, {"a": 3, "b": 3}, 0) for name in "st")
    (tmp_path / "h").symlink_to(target)
    with pytest.raises(UserError, match=r"6 images of .*h are in the target too \(a/0.png, .*\): keep them apart"):
        load_pair("folders", source=source, target=target, target_test=tmp_path / "h", image_size=8)


def test_a_set_with_a_test_split_needs_no_share() -> None:
    with pytest.raises(UserError, match="rendered2digits has no use for target_holdout"):
        load_pair("rendered2digits", target_holdout=0.2)


def test_a_pair_of_ones_own_needs_no_test_sets() -> None:
    data = Vectors(torch.zeros(4, 2), torch.arange(4) % 2, ("a", "b"))
    pair = DomainPair(name="mine", classes=("a", "b"), source=data, target=data)
    assert list(pair.splits) == ["target"]


@pytest.mark.parametrize("flags", [["--target-holdout", "0.2"], ["--target-test", "h.npz"]])
def test_the_records_of_a_training_tell_the_held_out_accuracy(
    domains: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    from dan.cli.evaluate import Evaluate, evaluate_run
    from dan.cli.train import Train, train
    from dan.evaluation.metrics import evaluate as measure
    from dan.models.model_file import load_model

    features(tmp_path / "h.npz", 9, seed=2)
    monkeypatch.chdir(tmp_path)
    option = flags[0][2:].replace("-", "_")
    chosen: dict[str, Any] = {option: float(flags[1]) if option == "target_holdout" else Path(flags[1])}
    run = tmp_path / "run"
    train(
        Train(
            task="folders",
            **domains,
            **chosen,
            run=run,
            steps=3,
            batch_size=8,
            device="cpu",
            quiet=True,
            feature_map=False,
        )  # fmt: skip
    )
    record = read_records(run / "records.jsonl")[-2]
    pair = load_pair("folders", **domains, **chosen)
    assert record["accuracy/target_test"] == measure(load_model(run), pair.target_test).accuracy
    evaluate_run(Evaluate(run=run, device="cpu", out=tmp_path / "evaluation"))
    metrics = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert list(metrics["splits"]) == ["target", "target_test"]
