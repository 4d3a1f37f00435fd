"""One network of a run counts, and every command uses it; an older one only where it is named."""

import csv
import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_evaluate import CLASSES, trained, trees
from test_select_and_label import active, filled, rows_of, truth, write_rows

from active.annotation.imports import finetune, import_labels, revert_batch
from active.annotation.request_options import RunAccess, SampleChoice, TaskFiles
from active.annotation.requests import create_tasks
from dan.__main__ import COMMANDS
from dan.cli.command_line import run as run_command
from dan.data.tasks import load_pair
from dan.errors import UserError
from dan.models.model_file import load_model
from dan.run_networks import chosen_network, counted_batches, current_network


def dan(*argv: str) -> int:
    return run_command("python -m dan", "", COMMANDS, argv)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two networks that labels have trained on, and the pool that they are of."""
    folder = tmp_path_factory.mktemp("base with a space")
    trained(folder / "run", load_pair("folders", **trees(folder), image_size=16), backbone="lenet:3", steps=3)
    shutil.copytree(folder / "target", folder / "pool")
    for number in range(2):
        files, access = TaskFiles(out=folder / f"{number}.csv"), RunAccess(cache=folder / "cache")
        create_tasks(folder / "run", folder / "pool", SampleChoice(budget=3), files, access)
        rows = [row | {"label": Path(row["path"]).parent.name} for row in rows_of(folder / f"{number}.csv")]
        write_rows(folder / f"{number}.csv", rows)
        import_labels(folder / "run", folder / f"{number}.csv", annotator="me")
        finetune(folder / "run", steps=3, cache=folder / "cache")
    return folder


@pytest.fixture
def run(base: Path, tmp_path: Path) -> Path:
    return shutil.copytree(base / "run", tmp_path / "run")


def probabilities(network: Path, base: Path) -> list[float]:
    task = load_pair("folders", source=base / "source", target=base / "pool", image_size=16)
    with torch.no_grad():
        return (
            load_model(network)(task.target.batch(torch.arange(len(task.target)))[0]).logits.softmax(1).amax(1).tolist()
        )


def test_batches_count_until_they_are_reverted() -> None:
    events = [("label", 1), ("label", 1), ("label", 2), ("undo", 2), ("label", 3)]
    assert counted_batches(events) == [1, 3] and counted_batches([]) == []


def test_the_current_network_is_the_newest_whose_labels_count(run: Path) -> None:
    assert current_network(run) == chosen_network(run) == run / "labelled_02"
    assert chosen_network(run, "first") == run and chosen_network(run, "labelled_01") == run / "labelled_01"
    assert chosen_network(run, str(run / "labelled_01")) == run / "labelled_01"
    assert current_network(run / "labelled_01") == run / "labelled_01"
    revert_batch(run)
    assert current_network(run) == run / "labelled_01"
    (run / "labelled_01" / "model.pt").unlink()
    assert current_network(run) == run
    for wrong in ("labelled_1", "labelled_07", "labelled_01", "other/labelled_02"):
        with pytest.raises(UserError, match=f'has no network "{wrong}".*its networks are first, labelled_02'):
            chosen_network(run, wrong)


@pytest.mark.parametrize(("flag", "name"), [(None, "labelled_02"), ("labelled_01", "labelled_01"), ("first", "")])
def test_predict_and_evaluate_and_select_use_the_same(
    flag: str | None, name: str, run: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = run / name if name else run
    chosen = [] if flag is None else ["--network", flag]
    out = run.parent / "predictions.csv"
    assert dan("predict", str(run), str(base / "pool"), "--out", str(out), "--device", "cpu", *chosen) == 0
    assert f"network: {network}\n" in capsys.readouterr().out
    with open(out, newline="") as file:
        found = [float(row["confidence"]) for row in csv.DictReader(file)]
    assert found == pytest.approx(probabilities(network, base), abs=1e-5)
    others = {"labelled_02", "labelled_01", ""} - {name}
    assert all(found != pytest.approx(probabilities(run / other, base), abs=1e-4) for other in others)

    common = ["--image-cache", str(run.parent / "cache"), "--device", "cpu", *chosen]
    assert dan("evaluate", str(run), *common) == 0
    assert f"network: {network}\n" in capsys.readouterr().out
    assert json.loads((network / "evaluation" / "metrics.json").read_text())["network"] == network.name
    with open(network / "evaluation" / "predictions-target.csv", newline="") as file:
        assert [float(row["confidence"]) for row in csv.DictReader(file)] == pytest.approx(found, abs=1e-5)

    tasks = run.parent / "tasks.csv"
    argv = ["select", "--run", str(run), "--pool", str(base / "pool"), "--budget", "2", "--out", str(tasks), *common]
    assert active(*argv) == 0
    assert f"by the network {network}\n" in capsys.readouterr().out


def test_label_prints_the_next_command_as_a_shell_reads_it(
    run: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = run.parent / "with a space"
    shutil.copytree(run, place / "run")
    argv = ["--run", str(place / "run"), "--image-cache", str(base / "cache"), "--device", "cpu"]
    tasks = place / "my tasks.csv"
    assert active("select", *argv, "--pool", str(base / "pool"), "--budget", "2", "--out", str(tasks)) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert shlex.split(last) == [
        "python", "-m", "active", "label", "--run", str(place / "run"), "--labels", str(tasks),
    ]  # fmt: skip
    rows = rows_of(tasks)
    tasks.write_text("sample,label\n" + "".join(f"{row['sample']},{CLASSES[0]}\n" for row in rows))
    assert active("label", *argv, "--labels", str(tasks), "--steps", "2") == 0
    printed = capsys.readouterr().out
    assert f"network: {place / 'run' / 'labelled_03'}, finetuned with" in printed
    (line,) = [line for line in printed.splitlines() if "-m dan predict" in line]
    words = shlex.split(line.split(": ", 1)[1])
    assert words == ["python", "-m", "dan", "predict", str(place / "run"), "FOLDER"]
    out = place / "out.csv"
    assert dan(*words[3:5], str(base / "pool"), "--out", str(out), "--device", "cpu") == 0
    assert f"network: {place / 'run' / 'labelled_03'}\n" in capsys.readouterr().out


# Samples that cannot be read, or are gone


@pytest.fixture
def broken(base: Path, tmp_path: Path) -> Path:
    """A pool of four images and three files that are none: cut short, too large, and no image at all."""
    pool = tmp_path / "broken"
    (pool / "sub").mkdir(parents=True)
    for number, name in enumerate(("00.png", "01.png", "sub/02.png", "03.png")):
        shutil.copy(sorted((base / "pool" / CLASSES[number % 3]).iterdir())[number], pool / name)
    whole = Image.effect_noise((64, 64), 80)
    whole.save(pool / "cut.jpg")
    (pool / "cut.jpg").write_bytes((pool / "cut.jpg").read_bytes()[:800])
    Image.new("1", (12_000, 10_000)).save(pool / "sub" / "large.png")
    (pool / "text.png").write_text("no image")
    return pool


def test_predict_skips_what_cannot_be_read_and_lists_it(
    run: Path, broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run.parent / "out.csv"
    argv = ["predict", str(run), str(broken), "--out", str(out), "--device", "cpu"]
    assert dan(*argv) == 2
    assert "3 of 7 images cannot be read" in capsys.readouterr().err and not out.exists()
    assert dan(*argv, "--skip-unreadable") == 1
    captured = capsys.readouterr()
    listed = [line for line in captured.err.splitlines() if line.startswith("not read: ")]
    assert [line.split(" ")[2] for line in listed] == ["cut.jpg", "sub/large.png", "text.png"]
    assert "4 predictions" in captured.out
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["path"]).relative_to(broken).as_posix() for row in rows] == [
        "00.png", "01.png", "03.png", "sub/02.png",
    ]  # fmt: skip
    for name in ("cut.jpg", "sub/large.png", "text.png"):
        (broken / name).unlink()
    assert dan(*argv[:4], str(run.parent / "again.csv"), *argv[5:], "--skip-unreadable") == 0
    assert (run.parent / "again.csv").read_text() == out.read_text()


@pytest.mark.parametrize("cached", [True, False])
def test_select_skips_what_cannot_be_read_and_lists_it(
    cached: bool, run: Path, broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["select", "--run", str(run), "--pool", str(broken), "--budget", "2", "--device", "cpu"]
    argv += ["--image-cache", str(run.parent / "cache")]
    assert active(*argv, "--out", str(run.parent / "a.csv")) == 2
    assert "3 of 7 images cannot be read" in capsys.readouterr().err
    for name in ("b.csv", "c.csv")[: 1 + cached]:
        assert active(*argv, "--out", str(run.parent / name), "--skip-unreadable", "--include-pending") == 0
        listed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("not read: ")]
        assert len(listed) == 3 and str(broken / "text.png") in listed[2]
    kept = list((run.parent / "cache").glob("*.unreadable.json"))
    assert len(kept) == 1 and len(json.loads(kept[0].read_text())) == 3


def test_files_that_a_manifest_lists_and_that_are_gone_are_skipped_too(
    run: Path, broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (broken / "list.csv").write_text("path,label\n00.png,\ngone.png,\ntext.png,\nsub/02.png,\n")
    out = run.parent / "out.csv"
    argv = ["predict", str(run), str(broken / "list.csv"), "--out", str(out), "--device", "cpu"]
    assert dan(*argv) == 2 and "line 3: there is no file" in capsys.readouterr().err
    assert dan(*argv, "--skip-unreadable") == 1
    listed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("not read: ")]
    assert [line.split(" ")[2] for line in listed] == ["gone.png", "text.png"] and len(rows_of(out)) == 2
    choice, files = SampleChoice(budget=1, skip_unreadable=True), TaskFiles(out=run.parent / "a.csv")
    chosen = create_tasks(run, broken / "list.csv", choice, files)
    assert sum("not read: " in note for note in chosen.notes) == 2


def test_only_unreadable_images_are_one_line(run: Path, broken: Path) -> None:
    for name in ("00.png", "01.png", "sub/02.png", "03.png"):
        (broken / name).unlink()
    choice, files = SampleChoice(budget=1, skip_unreadable=True), TaskFiles(out=run.parent / "a.csv")
    with pytest.raises(UserError, match="none of 3 images can be read"):
        create_tasks(run, broken, choice, files)


def test_labels_of_images_that_are_gone_do_not_block_the_others(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, pool = shutil.copytree(base / "run", tmp_path / "run"), tmp_path / "pool"
    for name in ("asked.jsonl", "labels.jsonl", "labelled_01", "labelled_02"):
        shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()
    pool.mkdir()
    for number, file in enumerate(sorted((base / "pool").rglob("*.png"))):
        shutil.copy(file, pool / f"{number:02d}.png")
    common = ["--run", str(run), "--image-cache", str(tmp_path / "cache"), "--device", "cpu"]
    kept = []
    for number, place in enumerate((pool, tmp_path / "list.csv")):  # a manifest that lists what is gone is a place too
        lines = "".join(f"pool/{file.name},\n" for file in sorted(pool.iterdir()))
        (tmp_path / "list.csv").write_text(f"path,label\n{lines}")
        tasks = tmp_path / f"{number}.csv"
        assert active("select", *common, "--pool", str(place), "--budget", "3", "--out", str(tasks)) == 0
        rows = rows_of(filled(tasks))
        assert all(row["label"] == truth(row["path"]) for row in rows)
        kept += [row["path"] for row in rows]
        Path(kept[-1]).rename(tmp_path / f"gone{number}")
        capsys.readouterr()
        assert active("label", *common, "--labels", str(tasks), "--steps", "2") == 0
        captured = capsys.readouterr()
        missing = [line for line in captured.err.splitlines() if "is not found: left out of the training" in line]
        assert len(missing) == number + 1 and f"finetuned with {2 * number + 2} labels" in captured.out
    assert len((run / "labels.jsonl").read_text().splitlines()) == 6  # the log keeps all
    assert current_network(run) == run / "labelled_02"
    assert active("label", *common) == 0  # nothing new: the same labels, the same samples
    assert "was trained on these 4 labels already" in capsys.readouterr().out
    (tmp_path / "gone0").rename(tmp_path / "pool" / "back.png")
    assert active("label", *common, "--steps", "2") == 0  # one is found again, by its content
    assert "labelled_03, finetuned with 5 labels" in capsys.readouterr().out
    for file in pool.iterdir():
        file.unlink()
    assert active("label", *common, "--steps", "2") == 2
    assert "6 of 6 labelled samples lie in none of the places" in capsys.readouterr().err


def test_export_takes_the_same_network(run: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run.parent / "model.pt2"
    assert dan("export", str(run), "--out", str(out)) == 0
    assert f"network: {run / 'labelled_02'}\n" in capsys.readouterr().out
    task = load_pair("folders", source=base / "source", target=base / "pool", image_size=16)
    x = task.target.batch(torch.arange(4))[0]
    expected = load_model(run / "labelled_02")(x).logits
    assert torch.allclose(torch.export.load(out).module()(x), expected, atol=1e-4)
