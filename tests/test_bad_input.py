"""Bad input through the door: one line that names the culprit and says what to do, exit code 2, and nothing lost."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dan.__main__ import main
from dan.models.registry import build_backbone

CLASSES = ("cat", "dog", "owl")
TRAIN = ["train", "folders", "--source", "a", "--target", "b"]
SMALL = ["--backbone", "lenet", "--image-size", "16", "--batch-size", "4", "--steps", "2", "--layers", "8"]
VECTORS = ["train", "folders", "--source", "a.npz", "--target", "b.npz", "--batch-size", "4", "--steps", "2"]
ALWAYS = ["--device", "cpu", "--run", "out/run", "--image-cache", "out/cache"]


def tree(place: Path, classes: tuple[str, ...] = CLASSES, *, each: int = 4) -> None:
    """A domain of small random images."""
    rng = np.random.default_rng(len(place.name))
    for name in classes:
        (place / name).mkdir(parents=True)
        for i in range(each):
            Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(place / name / f"{i}.png")


def vectors(place: Path, *, count: int = 12, nan: bool = False, width: int = 5, classes: int = 3) -> None:
    x = np.random.default_rng(0).normal(size=(count, width))
    if nan:
        x[7, 2] = np.nan
    np.savez(place, x=x, y=np.arange(count) % classes)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two good domains of images, a and b, and two of features; hub's cache is empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    tree(tmp_path / "a")
    tree(tmp_path / "b")
    vectors(tmp_path / "a.npz")
    vectors(tmp_path / "b.npz")
    return tmp_path


def door(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["python -m dan", *words])
    return main()


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that the door says; what lay in the working folder lies there still, and no run was begun."""
    before = files_below(Path())
    capsys.readouterr()
    assert door(words, monkeypatch) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n") and err.count("\n") == 1 and "\r" not in err, err
    assert err.startswith(f"python -m dan {words[0]}: ")
    after = files_below(Path())
    assert before.items() <= after.items()
    # Images that were decoded before the mistake could be seen are kept, outside of the run.
    assert [name for name in after if name not in before and not name.startswith("out/cache/")] == []
    return err


def nothing(_place: Path) -> None:
    pass


def one_class(place: Path) -> None:
    shutil.rmtree(place / "b")
    tree(place / "b", ("cat",))


def other_classes(place: Path) -> None:
    (place / "b" / "owl").rename(place / "b" / "eagle")


def empty_domain(place: Path) -> None:
    shutil.rmtree(place / "b")
    (place / "b").mkdir()


def empty_class(place: Path) -> None:
    shutil.rmtree(place / "b" / "owl")
    (place / "b" / "owl").mkdir()


def text_as_image(place: Path) -> None:
    (place / "b" / "dog" / "notes.jpg").write_text("this is no picture\n")


def cut_image(place: Path) -> None:
    file = place / "b" / "dog" / "2.png"
    file.write_bytes(file.read_bytes()[:200])


def stranger(place: Path) -> None:
    (place / "b" / "dog" / "film.mp4").write_bytes(b"x")


def nested(place: Path) -> None:
    (place / "b").rename(place / "inner")
    (place / "b").mkdir()
    (place / "inner").rename(place / "b" / "images")


def flat_source(place: Path) -> None:
    shutil.rmtree(place / "a")
    shutil.copytree(place / "b" / "cat", place / "a")


def damaged_npz(place: Path) -> None:
    file = place / "b.npz"
    file.write_bytes(file.read_bytes()[:300])


def cut_weights(place: Path) -> None:
    torch.save(build_backbone("lenet:3").state_dict(), place / "w.pth")
    data = (place / "w.pth").read_bytes()
    (place / "w.pth").write_bytes(data[: len(data) // 2])


def other_weights(place: Path) -> None:
    torch.save(build_backbone("small_cnn").state_dict(), place / "w.pth")


def nan_weights(place: Path) -> None:
    state = build_backbone("lenet:3").state_dict()
    state[next(iter(state))][0] = float("nan")
    torch.save(state, place / "w.pth")


def run_is_a_file(place: Path) -> None:
    (place / "out").mkdir()
    (place / "out" / "run").write_text("mine")


Damage = Callable[[Path], None]

MISTAKES: dict[str, tuple[list[str], Damage, list[str]]] = {
    # the data
    "missing folder": (["train", "folders", "--source", "a", "--target", "gone"], nothing, ["gone", "<class>/<image>"]),
    "no target": (["train", "folders", "--source", "a"], nothing, ["--source and --target"]),
    "one class": (TRAIN, one_class, ["b", "one class only (cat)", "at least two"]),
    "other classes": (TRAIN, other_classes, ["a: owl", "b: eagle", "--classes shared"]),
    "no such class": ([*TRAIN, "--classes", "cat", "dgo"], nothing, ["no class dgo", "cat, dog, owl"]),
    "empty domain": (TRAIN, empty_domain, ["b is empty", "<class>/<image>"]),
    "empty class": (TRAIN, empty_class, ["b/owl is a class without images", "remove the folder"]),
    "text as image": (TRAIN, text_as_image, ["1 of 13 images", "dog/notes.jpg", "not an image", "remove"]),
    "cut image": (TRAIN, cut_image, ["1 of 12 images", "dog/2.png", "remove"]),
    "a stranger": (TRAIN, stranger, ["b/dog", "film.mp4", "remove"]),
    "a folder too many": (TRAIN, nested, ["b holds a folder too many", "did you mean", "b/images?"]),
    "flat source": (TRAIN, flat_source, ["a holds images but no folders of classes", "<class>/<image>"]),
    "the same twice": (["train", "folders", "--source", "a", "--target", "a"], nothing, ["both", "two domains"]),
    "images and features": (["train", "folders", "--source", "a", "--target", "b.npz"], nothing, ["b.npz", "one kind"]),
    "batch over source": ([*TRAIN, "--batch-size", "13"], nothing, ["source's 12 samples", "lower --batch-size"]),
    "batch over target": (
        [*TRAIN, "--batch-size", "12"],
        lambda place: [(place / "b" / name / "0.png").unlink() for name in CLASSES] and None,
        ["batch_size 12", "target's 9 samples", "lower --batch-size"],
    ),
    "NaN features": (VECTORS, lambda place: vectors(place / "b.npz", nan=True), ["b.npz: 1 of 12", "NaN", "remove"]),
    "other width": (
        VECTORS,
        lambda place: vectors(place / "b.npz", width=6),
        ["b.npz has 6", "a.npz has 5 features", "one network"],
    ),
    "other labels": (VECTORS, lambda place: vectors(place / "b.npz", classes=4), ["b.npz: 3", "--classes shared"]),
    "damaged features": (VECTORS, damaged_npz, ["b.npz cannot be read"]),
    # the network
    "missing weights": ([*TRAIN, "--weights", "gone.pth"], nothing, ["no weights file gone.pth"]),
    "cut weights": ([*TRAIN, "--weights", "w.pth"], cut_weights, ["w.pth cannot be read as weights"]),
    "other weights": (
        [*TRAIN, "--backbone", "resnet18", "--weights", "w.pth", "--image-size", "32"],
        other_weights,
        ["w.pth does not fit this backbone", 'weights of "small_cnn"'],
    ),
    "NaN weights": ([*TRAIN, "--backbone", "lenet:3", "--weights", "w.pth"], nan_weights, ["w.pth", "NaN"]),
    "image as weights": ([*TRAIN, "--weights", "a/cat/0.png"], nothing, ["a/cat/0.png"]),
    "frozen at random": ([*TRAIN, "--freeze-up-to", "all"], nothing, ["frozen at random weights", "--weights"]),
    "mis-spelt layer": ([*TRAIN, "--align", "hiden1"], nothing, ['"hiden1"', 'did you mean "hidden1"']),
    "nothing to cache": ([*TRAIN, "--cache-backbone"], nothing, ["nothing to cache", "freeze"]),
    # numbers
    "layers": ([*TRAIN, "--layers", "8", "0"], nothing, ["--layers must be widths of 1 or more, not 8 0"]),
    "dropout": ([*TRAIN, "--dropout", "1"], nothing, ["--dropout must be from 0 to below 1, not 1"]),
    "momentum": ([*TRAIN, "--momentum", "2"], nothing, ["--momentum must be from 0 to below 1, not 2"]),
    "weight decay": ([*TRAIN, "--weight-decay", "-1"], nothing, ["--weight-decay must be 0 or more, not -1"]),
    "lr": ([*TRAIN, "--lr", "nan"], nothing, ["lr must be positive, not nan"]),
    "image size": ([*TRAIN, "--image-size", "4"], nothing, ["image_size must be 8 to 2048 pixels, not 4"]),
    # names
    "task": (["train", "folder"], nothing, ['unknown task "folder"', '"folders"']),
    "method": ([*TRAIN, "--method", "dnan"], nothing, ['unknown method "dnan"', 'did you mean "dan"', "dann, cdan"]),
    "layer": ([*TRAIN, "--align", "conf2"], nothing, ['no layer "conf2"', '"conv2"']),
    "stage": ([*TRAIN, "--freeze", "conv11"], nothing, ["conv11", '"conv1"']),
    "last stage": ([*TRAIN, "--freeze-up-to", "conv_1"], nothing, ["conv_1", '"conv1"']),
    "rate of a part": ([*TRAIN, "--lr-mults", "convv1=2"], nothing, ["convv1", '"conv1"']),
    "backbone": ([*TRAIN, "--backbone", "resnet19"], nothing, ['"resnet19"', '"resnet18"']),
    "recipe": ([*TRAIN, "--recipe", "dan2015"], nothing, ['"dan2015"', '"dan-2015"']),
    # the run's folder
    "run is a file": (TRAIN, run_is_a_file, ["out/run cannot be written", "name another --run"]),
    "run below a file": (
        [*TRAIN, "--run", "a/cat/0.png/run"],
        nothing,
        ["a/cat/0.png/run cannot be written", "name another --run"],
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_bad_input_is_one_line_and_costs_nothing(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given, damage, said = MISTAKES[name]
    words = ["train", *VECTORS[1:]] if given is VECTORS else [given[0], given[1], *SMALL, *given[2:]]
    damage(place)
    line = refused([*words[:2], *ALWAYS, *words[2:]], monkeypatch, capsys)
    for part in said:
        assert part in line
    assert "Traceback" not in line
    if name != "run is a file":
        assert not (place / "out" / "run").exists()


@pytest.mark.parametrize("size", [9, 12])
def test_a_batch_may_be_as_large_as_its_domain(
    size: int, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And source-only training, which never looks at the target, minds the source alone."""
    for name in CLASSES:
        (place / "b" / name / "0.png").unlink()
    lonely = ["--trade-off", "0"] if size == 12 else []
    words = [*TRAIN[:2], *SMALL, *TRAIN[2:], "--batch-size", str(size), "--quiet", *lonely, *ALWAYS]
    assert door(words, monkeypatch) == 0, capsys.readouterr().err
    assert (place / "out" / "run" / "model.pt").is_file()


def test_bought_labels_may_be_fewer_than_a_batch(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three labels and a batch of four: they come more than once, and that is no mistake."""
    words = [*TRAIN[:2], *SMALL, *TRAIN[2:], "--target-labels", "1", "--quiet", *ALWAYS]
    assert door(words, monkeypatch) == 0, capsys.readouterr().err


@pytest.fixture
def trained(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A finished run in out/run; the words that made it."""
    words = [*TRAIN[:2], *SMALL, *TRAIN[2:], "--quiet", "--no-feature-map", *ALWAYS]
    assert door(words, monkeypatch) == 0
    return words


def test_a_run_of_another_setting_is_left_as_it_was(
    place: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused([*trained, "--lr", "0.5"], monkeypatch, capsys)
    assert "out/run holds another run" in line and "lr is 0.01, not 0.5" in line and "name another --run" in line
    assert door(trained, monkeypatch) == 0  # the run itself is whole


def test_bad_input_to_what_uses_a_run(
    place: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """evaluate, predict and export say one line too, and write nothing."""
    (place / "none").mkdir()
    (place / "new").mkdir()
    shutil.copy(place / "a" / "cat" / "0.png", place / "new" / "good.png")
    (place / "new" / "bad.jpg").write_text("no picture")
    for words, said in (
        (["evaluate", "gone"], ["gone does not exist"]),
        (["evaluate", "none"], ["none", "finished run"]),
        (["predict", "out/run", "gone"], ["gone does not exist"]),
        (["predict", "out/run", "none"], ["none holds no images"]),
        (["predict", "out/run", "new"], ["1 of 2 images", "bad.jpg"]),
        (["predict", "out/run", "a.npz"], ["a.npz"]),
        (["export", "out/run", "--out", "model.tflite"], ["model.tflite", ".onnx"]),
        (["export", "gone"], ["gone does not exist"]),
        (["compare", "gone", "a"], ["gone does not exist"]),
        (["compare", "none", "a"], ["none holds 0 samples", "at least 8"]),
    ):
        line = refused(words, monkeypatch, capsys)
        assert all(part in line for part in said), line
    model = place / "out" / "run" / "model.pt"
    model.write_bytes(model.read_bytes()[:500])
    assert "out/run/model.pt cannot be read" in refused(["evaluate", "out/run"], monkeypatch, capsys)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_run_folder_that_may_not_be_written(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "locked").mkdir(mode=0o500)
    words = [*TRAIN[:2], *SMALL, *TRAIN[2:], "--device", "cpu", "--image-cache", "out/cache", "--run", "locked/run"]
    line = refused(words, monkeypatch, capsys)
    assert "locked/run" in line and "--run" in line


def test_bad_input_in_a_real_process(place: Path) -> None:
    text_as_image(place)
    words = [sys.executable, "-m", "dan", *TRAIN[:2], *SMALL, *TRAIN[2:], *ALWAYS]
    said = subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=300)
    assert (said.returncode, said.stdout, said.stderr.count("\n")) == (2, "", 1)
    assert "dog/notes.jpg" in said.stderr and "Traceback" not in said.stderr


def test_a_picture_that_cannot_be_written_costs_no_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    words = ["compare", str(tmp_path), str(tmp_path), "--out", str(tmp_path / "file" / "a.png")]
    assert door(words, monkeypatch) == 2
    said = capsys.readouterr().err
    assert "cannot be written" in said and "--out" in said and said.count("\n") == 1
