"""A run's data: known again by their content wherever they lie, and described where a training from Python did not."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from test_evaluate import CLASSES, trained, trees
from test_run_networks import dan
from test_select_and_label import active, filled
from torch.utils.data import TensorDataset

from dan import DAN, evaluate, fit
from dan.data.tasks import load_pair
from dan.errors import UserError
from dan.models.model_file import load_model
from dan.run_data import read_data_record
from dan.run_metadata import load_run_config
from dan.run_task import DataLocation, load_run_task
from dan.training.config import TrainConfig


@pytest.fixture
def moved(tmp_path: Path) -> Path:
    """A run whose source and target lie elsewhere now; nothing is where it was trained."""
    trained(tmp_path / "run", load_pair("folders", **trees(tmp_path), image_size=16), backbone="lenet:3", steps=3)
    (tmp_path / "new").mkdir()
    for name in ("source", "target"):
        (tmp_path / name).rename(tmp_path / "new" / name)
    return tmp_path


def test_evaluate_select_and_label_take_the_new_place(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, new = str(moved / "run"), moved / "new"
    place = ["--source", str(new / "source"), "--target", str(new / "target")]
    common = ["--image-cache", str(moved / "cache"), "--device", "cpu"]
    asking = ["select", "--run", run, "--pool", str(new / "target"), "--budget", "3", "--out", str(moved / "t.csv")]
    for command, argv in ((dan, ["evaluate", run]), (active, asking)):
        assert command(*argv, *common) == 2
        error = capsys.readouterr().err
        assert "source is not a folder" in error and error.count("\n") == 1
        assert "were moved: --source, --target)" in error
        assert command(*argv, *common, *place) == 0
        capsys.readouterr()
    rows = [line.split(",") for line in (moved / "t.csv").read_text().splitlines()]
    label = rows[0].index("label")
    for row in rows[1:]:
        row[label] = Path(row[rows[0].index("path")]).parent.name
    (moved / "t.csv").write_text("\n".join(",".join(row) for row in rows))
    labelling = ["label", "--run", run, *common, "--steps", "2"]
    assert active(*labelling, "--labels", str(moved / "t.csv")) == 2
    assert "were moved: --source, --target)" in capsys.readouterr().err
    assert active(*labelling, *place) == 0  # the labels are in the log already
    assert "labelled_01, finetuned with 3 labels" in capsys.readouterr().out


def test_other_contents_at_the_new_place_are_refused(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = moved / "new"
    argv = ["evaluate", str(moved / "run"), "--source", str(new / "source"), "--image-cache", str(moved / "cache")]
    other = trees(moved / "other", count=7)["target"]
    assert dan(*argv, "--target", str(other)) == 2
    assert "the target is not the one that" in capsys.readouterr().err
    same = shutil.copytree(new / "target", moved / "changed")
    file = sorted((same / "cold").iterdir())[0]
    shutil.copy(sorted((same / "warm").iterdir())[0], file)  # as many, another content
    assert dan(*argv, "--target", str(same)) == 2
    error = capsys.readouterr().err
    assert "the target is not the one that" in error and "other contents" in error and error.count("\n") == 1
    assert dan(*argv, "--target", str(new / "target"), "--task", "rendered2digits") == 2
    assert "leave out --task" in capsys.readouterr().err


def test_a_training_goes_on_where_its_data_lie_now(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = trees(tmp_path)

    def train(folder: Path, steps: int, run: Path) -> int:
        words = ["train", "folders", "--source", str(folder / "source"), "--target", str(folder / "target")]
        words += [
            "--image-size",
            "16",
            "--backbone",
            "small_cnn",
            "--batch-size",
            "8",
            "--steps",
            str(steps),
            "--quiet",
        ]
        return dan(*words, "--run", str(run), "--image-cache", str(tmp_path / "cache"), "--device", "cpu")

    assert train(tmp_path, 3, tmp_path / "run") == 0
    before = (tmp_path / "run" / "records.jsonl").read_bytes()
    (tmp_path / "new").mkdir()
    for path in paths.values():
        path.rename(tmp_path / "new" / path.name)
    assert train(tmp_path / "new", 3, tmp_path / "run") == 0  # the same run, which is done
    assert (tmp_path / "run" / "records.jsonl").read_bytes() == before
    file = sorted((tmp_path / "new" / "target" / "cold").iterdir())[0]
    shutil.copy(sorted((tmp_path / "new" / "target" / "warm").iterdir())[0], file)
    assert train(tmp_path / "new", 3, tmp_path / "run") == 2
    assert "holds another run (its options is" in capsys.readouterr().err


# Runs of a training from Python, which was told nothing of its data


@pytest.fixture
def bare(tmp_path: Path) -> tuple[Path, Path]:
    """(a run of the README's Python example, shorter; a folder with two domains of images)."""
    task = load_pair("rendered2digits")
    torch.manual_seed(0)
    model = DAN("lenet", num_classes=10, layers=(64,))
    config = TrainConfig(feature_map=False)
    fit(model, task.source, task.target, trade_off=3.0, steps=3, seed=0, run=tmp_path / "digits", config=config)
    return tmp_path / "digits", tmp_path


def test_the_readmes_run_says_what_its_samples_are(bare: tuple[Path, Path]) -> None:
    run, _ = bare
    assert "kind" not in json.loads((run / "records.jsonl").read_text().splitlines()[0])
    settings = load_run_config(run)
    assert settings["kind"] == "image" and settings["shape"] == [1, 16, 16]
    assert settings["classes"] == [str(digit) for digit in range(10)] and sum(settings["class_counts"]) == 3000
    record = read_data_record(run)
    assert not record["named"] and record["source"]["samples"] == 3000 and record["target"]["samples"] == 1197


def test_the_readmes_run_is_evaluated_predicted_and_asked_with(
    bare: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    from dan.data import digits

    run, folder = bare
    assert dan("evaluate", str(run), "--device", "cpu") == 2
    error = capsys.readouterr().err
    assert 'does not say "task"' in error and "--task, or both domains with --source and --target" in error
    assert "metadata=run_metadata(task)" in error and error.count("\n") == 1
    assert dan("evaluate", str(run), "--task", "digits_mnist2usps", "--device", "cpu") == 2
    capsys.readouterr()
    assert dan("evaluate", str(run), "--task", "rendered2digits", "--device", "cpu") == 0
    task, model = load_pair("rendered2digits"), load_model(run)
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    assert metrics["splits"]["target"]["accuracy"] == pytest.approx(evaluate(model, task.target).accuracy)

    (folder / "scans").mkdir()
    images, labels = digits.scans()
    for i, image in enumerate(images[:12]):
        Image.fromarray((255 * image).astype(np.uint8)).save(folder / "scans" / f"{i}.png")
    out = folder / "out.csv"
    predicting = ["predict", str(run), str(folder / "scans"), "--out", str(out), "--device", "cpu"]
    assert dan(*predicting) == 2
    assert "name the task that they are of with --task" in capsys.readouterr().err
    assert dan(*predicting, "--task", "rendered2digits") == 0
    with open(out, newline="") as file:
        assert {row["label"] for row in csv.DictReader(file)} <= set("0123456789")
    capsys.readouterr()


def test_a_run_on_two_folders_without_metadata_takes_them_by_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = trees(tmp_path)
    task = load_pair("folders", **paths, image_size=16)
    torch.manual_seed(0)
    config = TrainConfig(batch_size=8, num_kernels=3, feature_map=False)
    model = DAN("lenet:3", 3, layers=(8,))
    fit(model, task.source, task.target, trade_off=1.0, steps=3, seed=0, run=tmp_path / "run", config=config)
    run, common = str(tmp_path / "run"), ["--image-cache", str(tmp_path / "cache"), "--device", "cpu"]
    place = ["--source", str(paths["source"]), "--target", str(paths["target"])]
    assert load_run_config(tmp_path / "run")["classes"] == list(CLASSES)
    assert dan("predict", run, str(paths["target"]), "--out", str(tmp_path / "o.csv"), "--device", "cpu") == 0
    asking = ["select", "--run", run, "--pool", str(paths["target"]), "--budget", "2", "--out", str(tmp_path / "t.csv")]
    for command, argv in ((dan, ["evaluate", run]), (active, asking)):
        assert command(*argv, *common) == 2 and 'does not say "task"' in capsys.readouterr().err
        assert command(*argv, *common, *place) == 0
    from test_select_and_label import rows_of, write_rows

    rows = [row | {"label": Path(row["path"]).parent.name} for row in rows_of(tmp_path / "t.csv")]
    write_rows(tmp_path / "t.csv", rows)
    assert active("label", "--run", run, "--labels", str(tmp_path / "t.csv"), "--steps", "2", *common, *place) == 0


def test_a_run_on_arrays_takes_files_of_the_same_features(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    for name in ("s", "t"):
        np.savez(tmp_path / f"{name}.npz", x=(rng.normal(size=(60, 4)) + 3 * np.eye(4)[y]).astype("f4"), y=y)
    sides = [TensorDataset(torch.from_numpy(f["x"]), torch.from_numpy(f["y"])) for f in
             (np.load(tmp_path / "s.npz"), np.load(tmp_path / "t.npz"))]  # fmt: skip
    model = DAN("features", 3, layers=(8,))
    config = TrainConfig(batch_size=8, feature_map=False)
    fit(model, *sides, trade_off=1.0, steps=2, seed=0, run=tmp_path / "run", config=config)
    settings = load_run_config(tmp_path / "run")
    assert settings["kind"] == "vector" and settings["shape"] == [4]
    location = DataLocation(source=tmp_path / "s.npz", target=tmp_path / "t.npz")
    task = load_run_task(settings, tmp_path / "run", tmp_path, None, location=location)
    assert len(task.target) == 60 and task.classes == ("0", "1", "2")
    np.savez(tmp_path / "t.npz", x=np.ones((59, 4), "f4"), y=y[:59])
    with pytest.raises(UserError, match="the target has 59 samples, and .* was trained on 60"):
        load_run_task(settings, tmp_path / "run", tmp_path, None, location=location)


def test_labels_are_kept_though_the_data_cannot_be_found(moved: Path) -> None:
    """The files of `filled` are the tasks of a person: what was imported before the training is in the log."""
    run, new = moved / "run", moved / "new"
    location = ["--source", str(new / "source"), "--target", str(new / "target")]
    argv = ["--run", str(run), "--image-cache", str(moved / "cache"), "--device", "cpu"]
    flat = moved / "pool"
    flat.mkdir()
    for i, file in enumerate(sorted((new / "target").rglob("*.png"))[:6]):
        shutil.copy(file, flat / f"{i:02d}.png")
    tasks = moved / "tasks.csv"
    assert active("select", *argv, "--pool", str(flat), "--budget", "2", "--out", str(tasks), *location) == 0
    assert active("label", *argv, "--labels", str(filled(tasks)), "--steps", "2") == 2
    assert len((run / "labels.jsonl").read_text().splitlines()) == 2
