"""predict: the CSV says what the network says of each file, in any tree; what it cannot read as trained is refused."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_evaluate import CLASSES, trained, trees

from dan.cli.predict import Predict, predict_folder
from dan.data.tasks import DomainPair, load_pair
from dan.errors import UserError
from dan.evaluation.metrics import predict
from dan.models.model_file import load_model
from dan.run_inputs import images_under


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def predicted(run: Path, folder: Path, out: Path) -> list[dict[str, str]]:
    predict_folder(Predict(run=run, folder=folder, out=out, device="cpu", quiet=True))
    return rows_of(out)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DomainPair]:
    folder = tmp_path_factory.mktemp("images")
    task = load_pair("folders", **trees(folder), image_size=16)
    return trained(folder / "run", task, backbone="lenet:3"), task


def test_predictions_are_those_of_the_network(images: tuple[Path, DomainPair], tmp_path: Path) -> None:
    run, task = images
    rows = predicted(run, run.parent / "target", tmp_path / "out.csv")
    assert [row["path"] for row in rows] == list(task.target.paths)  # type: ignore[attr-defined]
    probs = predict(load_model(run), task.target)[0].logits.double().softmax(1)
    sure, guess = probs.topk(2, dim=1)
    for i, (first, second) in enumerate((("label", "confidence"), ("second", "second_confidence"))):
        assert [row[first] for row in rows] == [task.classes[index] for index in guess[:, i]]
        assert [float(row[second]) for row in rows] == pytest.approx(sure[:, i].tolist(), abs=1e-5)


def test_any_tree_will_do(images: tuple[Path, DomainPair], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Flat, deep or mixed: the same image has the same prediction. Hidden files, other files and rings of links don't
    count."""
    run, task = images
    given = task.target.paths[0]  # type: ignore[attr-defined]
    places = ["=1+1.png", "a.png", "deep/er/a.PNG", ".hidden.png", ".hidden/a.png", "notes.txt"]
    for place in places:
        (tmp_path / "new" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "new" / place).write_bytes(Path(given).read_bytes())
    (tmp_path / "new" / "deep" / "ring").symlink_to(tmp_path / "new", target_is_directory=True)
    rows = predicted(run, tmp_path / "new", tmp_path / "out.csv")
    assert [Path(row["path"]).relative_to(tmp_path / "new").as_posix() for row in rows] == [
        "=1+1.png",
        "a.png",
        "deep/er/a.PNG",
    ]
    assert len({tuple(row.values())[1:] for row in rows}) == 1
    assert "1 files, such as notes.txt" in capsys.readouterr().err


def test_names_that_a_spreadsheet_would_compute(
    images: tuple[Path, DomainPair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, task = images
    (tmp_path / "=cmd").mkdir()
    (tmp_path / "=cmd" / "a.png").write_bytes(Path(task.target.paths[0]).read_bytes())  # type: ignore[attr-defined]
    monkeypatch.chdir(tmp_path)
    assert predicted(run.absolute(), Path("=cmd"), Path("out.csv"))[0]["path"] == "'=cmd/a.png"


def test_a_folder_of_one_class_is_warned_of(
    images: tuple[Path, DomainPair], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, task = images
    for i in range(60):  # 24 images taught three classes, equally many of each
        (tmp_path / "new").mkdir(exist_ok=True)
        given = Path(task.target.paths[0])  # type: ignore[attr-defined]
        (tmp_path / "new" / f"{i}.png").write_bytes(given.read_bytes())
    label = predicted(run, tmp_path / "new", tmp_path / "out.csv")[0]["label"]
    said = capsys.readouterr().err.splitlines()
    assert any(line.startswith("warning: ") and label in line for line in said)
    predicted(run, run.parent / "source", tmp_path / "out.csv")
    assert capsys.readouterr().err == ""


def test_a_manifest_names_the_images(images: tuple[Path, DomainPair], tmp_path: Path) -> None:
    run, _task = images
    manifest = run.parent / "some.csv"
    manifest.write_text("path,label\ntarget/warm/warm1.png,\ntarget/cold/cold0.png,\n")
    rows = predicted(run, manifest, tmp_path / "out.csv")
    assert [row["path"] for row in rows] == [
        str(run.parent / f"target/{name}") for name in ("warm/warm1.png", "cold/cold0.png")
    ]


def test_grey_images_are_read_as_in_training(tmp_path: Path) -> None:
    """A run on grey 16-pixel digits predicts scans written as PNG as it predicts the task's own tensors."""
    from dan.data.digits import scans, split

    task = load_pair("rendered2digits")
    run = trained(tmp_path / "run", task, backbone="lenet", steps=30)
    (tmp_path / "scans").mkdir()
    pictures = scans()[0][split()[0][:50]]
    for i, picture in enumerate(pictures):
        Image.fromarray(np.round(255 * picture).astype(np.uint8)).save(tmp_path / "scans" / f"{i:03d}.png")
    rows = predicted(run, tmp_path / "scans", tmp_path / "out.csv")
    expected = predict(load_model(run), torch.utils.data.Subset(task.target, range(50)))[0].logits.softmax(1)
    assert [float(row["confidence"]) for row in rows] == pytest.approx(expected.amax(1).tolist(), abs=0.02)
    assert sum(row["label"] == task.classes[i] for row, i in zip(rows, expected.argmax(1), strict=True)) >= 49


def test_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    for domain in ("source", "target"):
        y = np.arange(60) % 3
        np.savez(tmp_path / f"{domain}.npz", x=generator.normal(size=(60, 4)) + 3 * np.eye(4)[y], y=y + 7)
    task = load_pair("folders", source=tmp_path / "source.npz", target=tmp_path / "target.npz")
    run = trained(tmp_path / "run", task, backbone="features")
    rows = predicted(run, tmp_path / "target.npz", tmp_path / "out.csv")
    assert list(rows[0]) == ["row", "label", "confidence", "second", "second_confidence"]
    assert [row["row"] for row in rows] == [str(i) for i in range(60)]
    guess = predict(load_model(run), task.target)[0].logits.argmax(1)
    assert [row["label"] for row in rows] == [("7", "8", "9")[i] for i in guess]

    predict_folder(Predict(run=run, folder=tmp_path / "target.npz", out=tmp_path / "out.csv", device="cpu"))
    said = capsys.readouterr().out
    assert f"60 predictions: {tmp_path / 'out.csv'}" in said and "mean confidence" in said

    np.save(tmp_path / "wide.npy", np.zeros((5, 6)))
    with pytest.raises(UserError, match="has 6 features a sample, and .* was trained on 4"):
        predicted(run, tmp_path / "wide.npy", tmp_path / "no.csv")
    np.save(tmp_path / "nan.npy", np.array([[0.0, 0, 0, 0], [0, np.nan, 0, 0]]))
    with pytest.raises(UserError, match=r"1 of 2 samples hold NaN.*row 1"):
        predicted(run, tmp_path / "nan.npy", tmp_path / "no.csv")
    assert not (tmp_path / "no.csv").exists()


def test_what_cannot_be_predicted(images: tuple[Path, DomainPair], tmp_path: Path) -> None:
    run, task = images
    out = tmp_path / "out.csv"
    with pytest.raises(UserError, match="does not exist"):
        predicted(tmp_path / "no-run", run.parent / "target", out)
    with pytest.raises(UserError, match="does not exist: the run was trained on images"):
        predicted(run, tmp_path / "nowhere", out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        predicted(run, tmp_path / "empty", out)
    for name in ("a", "b"):
        (tmp_path / "empty" / f"{name}.png").write_bytes(b"no image")
    (tmp_path / "empty" / "c.png").write_bytes(Path(task.target.paths[0]).read_bytes())  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="2 of 3 images cannot be read: a.png .*b.png"):
        predicted(run, tmp_path / "empty", out)
    settings = json.loads((run / "records.jsonl").read_text().splitlines()[0])
    for change, words in (
        ({"classes": None}, 'does not say "classes"'),
        ({"classes": list(CLASSES[:2])}, "names 2 classes"),
        ({"normalisation": None}, "tensors of its own"),
        ({"kind": "vector", "task": "office_caltech10_surf_a2c"}, "scales its features by itself"),
    ):
        other = tmp_path / f"run{words[-8:]}"
        other.mkdir()
        changed = {key: value for key, value in {**settings, **change}.items() if value is not None}
        (other / "records.jsonl").write_text(json.dumps(changed) + "\n")
        (other / "model.pt").write_bytes((run / "model.pt").read_bytes())
        with pytest.raises(UserError, match=words):
            predicted(other, run.parent / "target", out)
    assert not out.exists()


def test_images_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name in ("b/2.jpg", "a/9.png", "c.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    listing = images_under(tmp_path)
    assert listing.names == ("a/9.png", "b/2.jpg", "c.tif") and set(listing.targets) == {-1}
