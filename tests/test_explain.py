"""explain: a round is asked again and picks what is on record, figures are the network's, and a difference is told."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_evaluate import CLASSES, trained, trees
from test_gallery import Page, opened
from torch.utils.data import TensorDataset

from active.__main__ import COMMANDS
from active.learners.dan import run_rounds
from active.learners.rounds_config import RoundsConfig
from active.replay import replay, replay_page
from dan import DAN, fit
from dan.cli.command_line import run as run_door
from dan.data.tasks import load_pair
from dan.data.tensor_datasets import Images
from dan.evaluation.metrics import predict
from dan.models.model_file import load_model
from dan.run_dir import read_records
from dan.run_metadata import run_metadata
from dan.training.config import TrainConfig


def active(*argv: str) -> int:
    return run_door("python -m active", "", COMMANDS, argv)


def simulated(folder: Path, strategy: str, rounds: int = 2) -> Path:
    task = load_pair("folders", source=folder / "source", target=folder / "target", image_size=16)
    run = folder / strategy.replace("@", "-")
    plan = RoundsConfig(budget=4, num_rounds=rounds, steps_per_round=3, trade_off=1.0)
    list(run_rounds(task, strategy, plan, start=folder / "begin", run=run, seed=7))
    return run


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    task = load_pair("folders", **trees(folder), image_size=16)
    trained(folder / "begin", task, backbone="lenet:3")
    simulated(folder, "margin")
    return folder


@pytest.mark.parametrize("strategy", ["random", "k_center", "badge", "margin@0.5"])
def test_rounds_pick_again_what_they_picked(strategy: str, base: Path) -> None:
    run = simulated(base, strategy)
    records = [record for record in read_records(run / "records.jsonl") if record["event"] == "round"]
    for number in (0, 1):
        shown = replay(run, number)
        assert shown.replayed == shown.recorded == records[number]["queried"] and shown.difference == ""
        assert shown.learned == 4 * number and shown.network == (run / "round_01" if number else base / "begin")


def test_figures_are_the_networks_and_answers_the_oracles(base: Path) -> None:
    run = base / "margin"
    task = load_pair("folders", source=base / "source", target=base / "target", image_size=16)
    output, labels = predict(load_model(run / "round_01"), task.target)
    probs = output.logits.double().softmax(1)
    source = predict(load_model(run / "round_01"), task.source)[0].features
    shown = replay(run, 1)
    first = [r["queried"] for r in read_records(run / "records.jsonl") if r["event"] == "round"][0]
    labelled = torch.cat([source, output.features[first]])
    for pick, sample, answer in zip(shown.picks, shown.recorded, shown.labels, strict=True):
        assert pick.id == sample and answer == int(labels[sample])
        assert pick.guess == int(probs[sample].argmax())
        assert pick.probability == pytest.approx(float(probs[sample].max()), abs=1e-6)
        distance = (labelled - output.features[sample]).double().norm(dim=1).min()
        assert pick.distance == pytest.approx(float(distance), abs=1e-5)


def test_the_door_prints_a_table_and_writes_a_page(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, page = base / "margin", base / "page.html"
    argv = ["explain", str(run), "1", "--image-cache", str(base / "cache"), "--device", "cpu"]
    assert active(*argv, "--out", str(page)) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    heads = ["order", "sample", "guess", "probability", "margin", "entropy", "distance", "nearest", "answer"]
    assert lines[0].split() == heads
    shown = replay(run, 1)
    for line, pick, answer in zip(lines[1:5], shown.picks, shown.labels, strict=True):
        cells = line.split()
        assert cells[:3] == [str(pick.order), str(pick.id), CLASSES[pick.guess]]
        assert cells[3] == f"{pick.probability:.3f}"
        assert cells[-1] == ("*" if pick.guess != answer else CLASSES[answer])
    assert lines[5] == f"network: {shown.network}"
    assert lines[6:] == [f"wrote {page}", "replayed: the same 4 picks as recorded, in the same order"]
    assert said.err == "" and "\x1b" not in said.out
    images = [attributes for tag, attributes in Page(page.read_text()).tags if tag == "img"]
    assert len(images) == 4 and all(str(image["src"]).startswith("data:image/png") for image in images)
    assert f"sample {shown.recorded[0]}: " in page.read_text()
    assert active(*argv, "--quiet") == 0 and capsys.readouterr().out == ""


def changed(base: Path, place: Path, change: dict) -> Path:
    """A copy of the rounds whose round 1 is said to have been otherwise."""
    run = shutil.copytree(base / "margin", place / "changed")
    path = run / "rounds" / "round_01.json"
    content = json.loads(path.read_text())
    content["record"] |= change
    content["answers"] = [{0: 0, 1: 1, 2: 2}[sample // 8] for sample in content["record"]["queried"]]
    path.write_text(json.dumps(content))
    return run


def test_a_difference_is_told(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = replay(base / "margin", 1).recorded
    run = changed(base, tmp_path, {"queried": [asked[1], asked[0], *asked[2:]]})
    page = tmp_path / "page.html"
    argv = ["explain", str(run), "1", "--start", str(base / "begin"), "--image-cache", str(tmp_path / "cache")]
    assert active(*argv, "--out", str(page)) == 1
    line = (
        f"the replay differs from the record: pick 1 was sample {asked[1]}, and is {asked[0]} now (2 of 4 picks, 0 "
        "other samples)"
    )
    assert capsys.readouterr().err == line + "\n" and line in page.read_text()

    # Another network asks for others.
    shutil.rmtree(run)
    shutil.copytree(base / "margin", run)
    shutil.copy(base / "begin" / "model.pt", run / "round_01" / "model.pt")
    shown = replay(run, 1, start=base / "begin")
    assert (shown.difference == "") == (shown.replayed == asked)
    assert shown.recorded == asked


def test_a_frozen_backbones_outputs_pick_the_same(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["explain", str(base / "margin"), "0", "--image-cache", str(base / "cache")]
    assert active(*argv, "--cache-backbone", "yes") == 2
    assert "there is nothing to cache" in capsys.readouterr().err
    task = load_pair("folders", source=base / "source", target=base / "target", image_size=16)
    torch.manual_seed(0)
    model = DAN("lenet:3", 3, layers=(8,), frozen=("conv1", "conv2"))
    about = {"task": task.name, "options": dict(task.options), **run_metadata(task)}
    recipe = TrainConfig(batch_size=8, num_kernels=3, feature_map=False)
    fit(
        model, task.source, task.target, trade_off=1.0, steps=3, seed=0, config=recipe, run=base / "ice", metadata=about
    )
    plan = RoundsConfig(budget=4, num_rounds=1, steps_per_round=2, trade_off=1.0)
    where: dict = {"start": base / "ice", "run": base / "frozen", "cache": base / "backbones"}
    list(run_rounds(task, "k_center", plan, seed=0, **where))
    argv = ["explain", str(base / "frozen"), "0", "--image-cache", str(base / "images"), "--quiet"]
    # Beside --image-cache, under the same names as the run's: they are the same outputs.
    assert active(*argv, "--device", "cpu") == 0
    kept = {path.name for path in (base / "backbones").glob("*.npy")}
    assert kept and set(replay(base / "frozen", 0, cache_backbone=base / "backbones").replayed) <= set(range(24))
    assert {path.name for path in (base / "backbones").glob("*.npy")} == kept
    elsewhere = base / "elsewhere" / "images"
    assert active(
        *argv[:3], "--image-cache", str(elsewhere), "--cache-backbone", "no", "--quiet", "--device", "cpu"
    ) in (
        0,
        1,
    )
    assert not elsewhere.with_name("backbones").exists()


def test_what_cannot_be_explained(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = base / "margin"
    moved = shutil.copytree(run, tmp_path / "moved")
    for argv, words in (
        ([str(run), "2"], "is the last and has no query: name an earlier one"),
        ([str(run), "9"], "the run did not get as far as round 9"),
        ([str(run), "-1"], "rounds are numbered from 0"),
        ([str(run), "one"], '"one" is not a whole number'),
        ([str(tmp_path / "nowhere"), "0"], "does not exist"),
        ([str(base / "begin"), "0"], "did not get as far as round 0"),
        ([str(moved), "1"], 'started from the run "begin", which lies neither in it nor beside it'),
        ([str(run), "1", "--thumbnail", "1"], "--thumbnail must be 16 to 4096"),
        ([str(run), "1", "--start", str(tmp_path)], "no line of settings"),
    ):
        assert active("explain", *argv, "--quiet", "--image-cache", str(tmp_path / "cache")) == 2
        said = capsys.readouterr()
        assert words in said.err and said.err.count("\n") == 1 and said.out == ""


def test_other_data_are_told_of(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    trees(folder)
    trained(
        folder / "begin",
        load_pair("folders", source=folder / "source", target=folder / "target", image_size=16),
        backbone="lenet:3",
        steps=2,
    )
    run = simulated(folder, "random", rounds=1)
    assert replay(run, 0).difference == ""
    for i in range(1, 8):  # somebody thought again about seven images
        (folder / "target" / "cold" / f"cold{i}.png").rename(folder / "target" / "warm" / f"cold{i}.png")
    with pytest.raises(ValueError, match="answers otherwise than"):
        replay(run, 0)


@pytest.mark.parametrize(("channels", "normalisation"), [(1, "half"), (3, "imagenet")])
def test_tensors_have_pictures_too(channels: int, normalisation: str, base: Path) -> None:
    """What the network saw comes back as the pixels that were normalised; vectors have no picture."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 12, 12, channels)).astype(np.uint8)
    images = Images(pixels, [0] * 24, CLASSES, normalisation=normalisation, digest="")
    data = TensorDataset(images.batch(torch.arange(24))[0], torch.zeros(24, dtype=torch.long))
    shown = replay(base / "margin", 0)
    task = replace(shown.task, target=data, normalisation=normalisation)
    page = Page(replay_page(replace(shown, task=task)))
    pictures = [str(attributes["src"]) for tag, attributes in page.tags if tag == "img"]
    for uri, sample in zip(pictures, shown.recorded, strict=True):
        found = np.asarray(opened(uri)).reshape(156, 156, channels)[::13, ::13]
        assert (found == pixels[sample]).all()
    assert ("div", f"sample {shown.recorded[0]}") in page.text
    assert "<img" not in replay_page(replace(shown, task=replace(task, kind="vector")))
