"""evaluate: calibration and confusions against their definitions, and what the command prints and writes."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix as reference_confusions
from torch import Tensor

from dan import DAN, MultiKernel, fit, median_bandwidth, mmd2
from dan.cli.evaluate import Evaluate, evaluate_run
from dan.data.batches import labels_of
from dan.data.tasks import DomainPair, load_pair
from dan.errors import UserError
from dan.evaluation.calibration import expected_calibration_error, reliability
from dan.evaluation.metrics import class_accuracies, confusion_matrix, evaluate, predict
from dan.evaluation.validators import VALIDATORS, validate, validator_inputs
from dan.figures import confusion_figure, pixels
from dan.mmd import a_distance
from dan.models.model_file import load_model
from dan.run_metadata import load_run_config, run_metadata
from dan.safe_csv import plain_text, write_csv
from dan.training.config import TrainConfig

CLASSES = ("cold", "mild", "warm")


def probabilities(count: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    probs = (2 * torch.randn(count, classes, generator=generator, dtype=torch.float64)).softmax(1)
    return probs, torch.randint(classes, (count,), generator=generator)


def test_calibration_error_is_its_definition() -> None:
    probs, labels = probabilities(400, 5)
    for bins in (1, 4, 15):
        total = 0.0
        for b in range(bins):
            inside = [i for i in range(400) if b / bins < float(probs[i].max()) <= (b + 1) / bins]
            if inside:
                accuracy = sum(int(probs[i].argmax()) == int(labels[i]) for i in inside) / len(inside)
                confidence = sum(float(probs[i].max()) for i in inside) / len(inside)
                total += len(inside) / 400 * abs(accuracy - confidence)
        assert expected_calibration_error(probs, labels, bins=bins) == pytest.approx(total, abs=1e-12)


def test_calibration_error_by_hand() -> None:
    """Three samples at 0.8, two of them right: |2/3 - 0.8|. One at 0.55, wrong: 0.55. Weighed 3 : 1."""
    probs = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.2, 0.8], [0.45, 0.55]])
    labels = torch.tensor([0, 0, 0, 0])
    expected = 3 / 4 * (0.8 - 2 / 3) + 1 / 4 * 0.55
    assert expected_calibration_error(probs, labels) == pytest.approx(expected, abs=1e-7)


def test_calibration_of_the_sure_and_the_ignorant() -> None:
    sure, labels = torch.eye(4)[[0, 1, 2, 3]], torch.arange(4)
    assert expected_calibration_error(sure, labels) == 0
    assert expected_calibration_error(sure, (labels + 1) % 4) == 1
    ignorant = torch.full((4, 4), 0.25)  # argmax is class 0: right for a quarter
    assert expected_calibration_error(ignorant, labels) == pytest.approx(0)


def test_an_edge_belongs_to_the_bin_below() -> None:
    found = reliability(torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([0, 0]), bins=2)
    assert found.counts.tolist() == [1, 1] and found.confidences.tolist() == [0.5, 1.0]


def test_calibration_does_not_depend_on_the_order() -> None:
    probs, labels = probabilities(100, 3)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    shuffled = expected_calibration_error(probs[order], labels[order])
    assert shuffled == pytest.approx(expected_calibration_error(probs, labels), abs=1e-12)


@pytest.mark.parametrize(
    ("probs", "labels", "bins"),
    [
        (torch.ones(2, 2), torch.zeros(2, dtype=torch.long), 15),
        (torch.full((2, 2), 0.5), torch.zeros(3, dtype=torch.long), 15),
        (torch.empty(0, 2), torch.empty(0, dtype=torch.long), 15),
        (torch.full((2, 2), 0.5), torch.zeros(2, dtype=torch.long), 0),
        (torch.full((2, 2), torch.nan), torch.zeros(2, dtype=torch.long), 15),
    ],
)
def test_calibration_refuses(probs: Tensor, labels: Tensor, bins: int) -> None:
    with pytest.raises(ValueError, match="prob|bin"):
        expected_calibration_error(probs, labels, bins=bins)


def test_confusions_and_class_accuracies() -> None:
    probs, labels = probabilities(200, 4)
    predicted = probs.argmax(1)
    labels[labels == 3] = 2  # a class without samples
    confusions = confusion_matrix(predicted, labels, 4)
    assert np.array_equal(confusions.numpy(), reference_confusions(labels, predicted, labels=range(4)))
    accuracies = class_accuracies(confusions)
    for c in range(3):
        assert float(accuracies[c]) == pytest.approx(float((predicted[labels == c] == c).double().mean()))
    assert math.isnan(accuracies[3])
    with pytest.raises(ValueError, match="classes from 0 to 2"):
        confusion_matrix(predicted, labels, 3)
    with pytest.raises(ValueError, match="labels must be classes"):
        confusion_matrix(torch.zeros(1, dtype=torch.long), torch.tensor([-1]), 3)


def test_the_picture_of_confusions_is_darkest_where_they_are() -> None:
    matrix = torch.tensor([[10, 0], [0, 1000]])
    right = pixels(confusion_figure(matrix, ("a", "b")))
    wrong = pixels(confusion_figure(matrix.flip(0), ("a", "b")))
    assert right.shape == wrong.shape and not np.array_equal(right, wrong)
    assert pixels(confusion_figure(torch.eye(65), [f"class {i}" for i in range(65)])).std() > 0
    with pytest.raises(ValueError, match="3 classes need a matrix"):
        confusion_figure(matrix, ("a", "b", "c"))


def test_csv_cells_are_no_formulas(tmp_path: Path) -> None:
    path = tmp_path / "out" / "cells.csv"
    texts = ["=1+1", "+1", "-1", "@sum", "\tx", "\rx", "a=1", 'quo"te, comma', "line\nbreak", "", "é"]
    write_csv(path, ["text", "number"], [(text, -1.5) for text in texts])
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["text", "number"]
    assert [row[0] for row in rows[1:]] == [f"'{text}" for text in texts[:6]] + texts[6:]
    assert {row[1] for row in rows[1:]} == {"-1.5"}
    assert plain_text("plain") == "plain"
    with pytest.raises(ValueError, match="2 cells"):
        write_csv(path, ["one"], [(1, 2)])
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_csv(blocked / "out.csv", ["one"], [])


def trees(folder: Path, *, labelled_target: bool = True, count: int = 8) -> dict[str, Path]:
    """Two domains of 16-pixel images: a class is a mean colour, and the target is darker."""
    rng = np.random.default_rng(0)
    for domain, shade in (("source", 1.0), ("target", 0.7)):
        for index, name in enumerate(CLASSES):
            for i in range(count):
                place = folder / domain if domain == "target" and not labelled_target else folder / domain / name
                place.mkdir(parents=True, exist_ok=True)
                image = rng.uniform(0, 60, (20, 20, 3))
                image[..., index] += 150
                Image.fromarray((shade * image).astype(np.uint8)).save(place / f"{name}{i}.png")
    return {"source": folder / "source", "target": folder / "target"}


def trained(folder: Path, task: DomainPair, *, backbone: str, steps: int = 20, align: tuple[str, ...] = ()) -> Path:
    """A run as python -m dan train leaves it."""
    torch.manual_seed(0)
    model = DAN(backbone, len(task.classes), layers=(8,))
    about = {"task": task.name, "options": dict(task.options), **run_metadata(task)}
    recipe = TrainConfig(batch_size=8, align=align, num_kernels=3, evaluate_every=steps, feature_map=False)
    fit(
        model,
        task.source,
        task.target,
        trade_off=1.0,
        steps=steps,
        seed=0,
        tests=task.splits,
        config=recipe,
        run=folder,
        metadata=about,
    )
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DomainPair]:
    folder = tmp_path_factory.mktemp("images")
    task = load_pair("folders", **trees(folder), image_size=16, source_holdout=0.25, cache=folder / "cache")
    return trained(folder / "run", task, backbone="lenet:3"), task


def measured(run: Path, **options: object) -> dict[str, dict]:
    evaluate_run(Evaluate(run=run, image_cache=run.parent / "cache", device="cpu", **options))  # type: ignore[arg-type]
    return json.loads(((options.get("out") or run / "evaluation") / "metrics.json").read_text())  # type: ignore[operator]


def test_evaluate_measures_what_it_says(images: tuple[Path, DomainPair], capsys: pytest.CaptureFixture[str]) -> None:
    run, task = images
    metrics = measured(run)
    said = capsys.readouterr().out
    model = load_model(run)
    assert list(metrics["splits"]) == ["source_test", "target"]
    for name, data in task.splits.items():
        split, whole = metrics["splits"][name], evaluate(model, data)
        assert split["accuracy"] == pytest.approx(whole.accuracy) and split["samples"] == whole.count
        assert split["cross_entropy"] == pytest.approx(whole.loss, rel=1e-5)
        output, labels = predict(model, data)
        probs = output.logits.double().softmax(1)
        assert split["calibration_error"] == pytest.approx(expected_calibration_error(probs, labels))
        assert np.trace(split["confusions"]) == pytest.approx(whole.accuracy * whole.count)
        assert f"{100 * whole.accuracy:.2f} % accuracy" in said
        with Image.open(run / "evaluation" / f"confusion-{name}.png") as picture:
            assert picture.format == "PNG" and min(picture.size) > 200
        with open(run / "evaluation" / f"predictions-{name}.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["path"] for row in rows] == list(data.paths)  # type: ignore[attr-defined]
        assert [row["true"] for row in rows] == [task.classes[y] for y in labels]
        assert [row["predicted"] for row in rows] == [task.classes[y] for y in output.logits.argmax(1)]
        assert [float(row["confidence"]) for row in rows] == pytest.approx(probs.amax(1).tolist(), abs=1e-6)
    assert all(re_class in said for re_class in (*CLASSES, "hidden1", "output", "A-distance"))


def test_evaluate_measures_the_distance_of_the_aligned_layers(images: tuple[Path, DomainPair]) -> None:
    run, task = images
    layers = measured(run)["layers"]
    assert list(layers) == ["hidden1", "output"]
    model = load_model(run)
    (source, _), (target, _) = predict(model, task.source), predict(model, task.target)
    for name, x, y in (
        ("hidden1", source.layers["hidden1"], target.layers["hidden1"]),
        ("output", source.logits.double().softmax(1), target.logits.double().softmax(1)),
    ):
        x, y = x.double(), y.double()
        kernel = MultiKernel.ladder(median_bandwidth(x, y), count=3)
        assert layers[name]["mmd2"] == pytest.approx(float(mmd2(x, y, kernel)), abs=1e-9)
        assert layers[name]["a_distance"] == pytest.approx(a_distance(x, y))
    fewer = measured(run, most=6)["layers"]["hidden1"]
    assert fewer["source_samples"] == fewer["target_samples"] == 6


def test_evaluate_scores_the_network_by_every_validator(
    images: tuple[Path, DomainPair], capsys: pytest.CaptureFixture[str]
) -> None:
    run, task = images
    scores = measured(run)["validators"]
    assert list(scores) == [name for name in VALIDATORS if name != "circular"]
    inputs = validator_inputs(load_model(run), task.source_test, task.target)
    assert scores == pytest.approx(validate(inputs))
    assert f"entropy       {scores['entropy']:8.4f}" in capsys.readouterr().out
    fewer = measured(run, most=6)["validators"]  # and not of more than 6 samples
    assert (6 * fewer["source_risk"]).is_integer() and fewer["entropy"] != scores["entropy"]


def test_evaluate_a_target_without_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = trees(tmp_path, labelled_target=False)
    task = load_pair("folders", **options, image_size=16, cache=tmp_path / "cache")
    run = trained(tmp_path / "run", task, backbone="lenet:3", steps=2, align=("hidden1",))
    metrics = measured(run, out=tmp_path / "elsewhere")
    assert metrics["splits"] == {} and list(metrics["layers"]) == ["hidden1"]
    assert metrics["validators"] == {}  # no source is held out
    said = capsys.readouterr().out
    assert str(tmp_path / "elsewhere") in said
    probs = predict(load_model(run), task.target)[0].logits.double().softmax(1)
    confidence, predicted = probs.max(1)
    found = metrics["unlabelled"]["target"]
    assert found["samples"] == len(probs) and found["mean_confidence"] == pytest.approx(float(confidence.mean()))
    shares = {name: float((predicted == c).double().mean()) for c, name in enumerate(task.classes)}
    assert found["predicted_shares"] == pytest.approx(shares)
    assert f"target       has no labels: its accuracy needs labels  {float(confidence.mean()):.4f} mean" in said
    assert all(f"{name} {100 * share:.1f} %" in said for name, share in shares.items())
    assert "MMD^2" in said and "A-distance" in said and "% accuracy" not in said
    assert not (run / "evaluation").exists() and not list((tmp_path / "elsewhere").glob("*.png"))
    with open(tmp_path / "elsewhere" / "predictions-target.csv", newline="") as file:
        assert {row["true"] for row in csv.DictReader(file)} == {""}


def test_what_a_run_keeps_of_its_task(images: tuple[Path, DomainPair]) -> None:
    run, task = images
    settings = load_run_config(run)
    assert settings["kind"] == "image" and settings["classes"] == list(CLASSES) and settings["shape"] == [3, 16, 16]
    assert settings["normalisation"] == "imagenet" and settings["class_counts"] == [6, 6, 6]  # a quarter is held out
    plain = [(torch.zeros(2), y) for y in (0, 1, 1)]
    assert labels_of(plain).tolist() == [0, 1, 1]
    assert torch.equal(labels_of(task.target), torch.stack([torch.tensor(y) for _, y in task.target]))


def test_a_shift_of_labels_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Vectors that any network tells apart; the target holds one class of the source's three only, 60 times."""
    for domain, y in (("source", np.arange(90) % 3), ("target", np.repeat([0, 1, 2], [58, 1, 1]))):
        np.savez(tmp_path / f"{domain}.npz", x=10.0 * np.eye(3)[y], y=y)
    task = load_pair("folders", source=tmp_path / "source.npz", target=tmp_path / "target.npz")
    run = trained(tmp_path / "run", task, backbone="features", steps=50)
    warnings = measured(run)["warnings"]
    assert warnings and [f"warning: {line}" for line in warnings] == capsys.readouterr().err.splitlines()


def test_what_cannot_be_evaluated(images: tuple[Path, DomainPair], tmp_path: Path) -> None:
    run, _task = images
    with pytest.raises(UserError, match="does not exist"):
        measured(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds all of its weights"):
        measured(run, weights=tmp_path / "some.pth")
    with pytest.raises(UserError, match="--most must be at least 4"):
        measured(run, most=3)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        measured(run, out=tmp_path / "file")
    settings = load_run_config(run)
    for change, words in (
        ({"classes": ["cold", "warm", "mild"]}, "the classes of folders are not those"),
        ({"task": None}, 'does not say "task"'),
    ):
        other = tmp_path / f"run-{next(iter(change))}"
        other.mkdir()
        changed = {key: value for key, value in {**settings, **change}.items() if value is not None}
        (other / "records.jsonl").write_text(json.dumps(changed) + "\n")
        (other / "model.pt").write_bytes((run / "model.pt").read_bytes())
        with pytest.raises(UserError, match=words):
            measured(other)
        assert not (other / "evaluation").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no line of settings"):
        measured(tmp_path / "empty")
