"""select and label: from a folder of images to people and back, every mistake in one line, and nothing ever lost."""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_evaluate import CLASSES, trained, trees
from test_gallery import opened

from active.__main__ import COMMANDS
from active.annotation.imports import ImportRefused, finetune, import_labels, revert_batch
from active.annotation.label_log import LabelLog, aggregate_labels
from active.annotation.pool_files import row_hashes
from active.annotation.request_log import RequestLog
from active.annotation.request_options import RunAccess, SampleChoice, TaskFiles
from active.annotation.requests import create_tasks
from active.annotation.state import current_network
from dan import DAN, fit
from dan.__main__ import COMMANDS as OF_DAN
from dan.cli.command_line import run as run_door
from dan.data.folders import images_of
from dan.data.tasks import load_pair
from dan.errors import UserError
from dan.evaluation.metrics import predict
from dan.models.model_file import load_model, sha256_of
from dan.run_dir import read_records
from dan.run_inputs import images_under
from dan.run_metadata import run_metadata
from dan.training.config import TrainConfig


def active(*argv: str) -> int:
    return run_door("python -m active", "", COMMANDS, argv)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run, and 18 new images in a flat folder whose names say nothing."""
    folder = tmp_path_factory.mktemp("base")
    trained(folder / "run", load_pair("folders", **trees(folder), image_size=16), backbone="lenet:3")
    (folder / "pool").mkdir()
    rng = np.random.default_rng(1)
    for i in range(18):
        image = rng.uniform(0, 120, (20, 20, 3))
        image[..., i % 3] += 80
        Image.fromarray((0.8 * image).astype(np.uint8)).save(folder / "pool" / f"{i:02d}.png")
    return folder


@pytest.fixture
def place(base: Path, tmp_path: Path) -> Path:
    """Copies of both that a test may change; their source stays where it was."""
    for name in ("run", "pool"):
        shutil.copytree(base / name, tmp_path / name)
    return tmp_path


def choose(place: Path, out: str = "tasks.csv", **options: Any) -> list[str]:
    """The samples that were asked for, in order."""
    access = RunAccess(cache=place / "cache", cache_backbone=options.pop("cache_backbone", False))
    choice = SampleChoice(**{"budget": 4} | options)
    tasks = create_tasks(place / "run", place / "pool", choice, TaskFiles(out=place / out), access).tasks
    return [task.sample for task in tasks]


def truth(path: str) -> str:
    return CLASSES[int(Path(path).stem[:2]) % 3]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def filled(path: Path, annotator: str = "ann") -> Path:
    """What a person makes of the tasks."""
    rows = [row | {"label": truth(row["path"]), "annotator": annotator} for row in rows_of(path)]
    return write_rows(path, rows)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model.pt", weights_only=True)["weights"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_the_whole_loop_through_the_door(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, pool, tasks, page = place / "run", place / "pool", place / "tasks.csv", place / "page.html"
    first_bytes = (run / "model.pt").read_bytes()
    common = ["--run", str(run), "--image-cache", str(place / "cache"), "--device", "cpu"]
    asking = ["select", *common, "--pool", str(pool), "--budget", "4"]
    assert active(*asking, "--out", str(tasks), "--gallery", str(page)) == 0
    said = capsys.readouterr()
    assert f"queried 4 samples with margin, by the network {run}\n" in said.out and said.err == ""
    assert f"label --run {run} --labels {tasks}" in said.out
    rows = rows_of(tasks)
    assert list(rows[0]) == ["order", "sample", "path", "guess", "confidence", "label", "annotator"]
    assert [row["sample"] for row in rows] == [sha256_of(Path(row["path"])) for row in rows]
    assert page.read_text().count("<li>") == 4

    assert active("label", *common, "--labels", str(filled(tasks)), "--steps", "3") == 0
    said = capsys.readouterr()
    assert said.err == "" and f"imported 4 labels from {tasks}, as batch 1\n" in said.out
    assert f"network: {run}/labelled_01, finetuned with 4 labels" in said.out
    settings = read_records(run / "labelled_01" / "records.jsonl")[0]
    assert settings["labelled"] == 4 and settings["steps"] == 3 and settings["before"] == "run"
    assert (run / "model.pt").read_bytes() == first_bytes
    assert not same(weights(run), weights(run / "labelled_01"))

    assert active(*asking, "--out", str(place / "more.csv")) == 0
    assert f"by the network {run}/labelled_01\n" in capsys.readouterr().out
    more = rows_of(place / "more.csv")
    assert not {row["sample"] for row in rows} & {row["sample"] for row in more}
    assert active("label", *common, "--labels", str(filled(place / "more.csv")), "--steps", "3", "--quiet") == 0
    assert capsys.readouterr().out == ""
    assert read_records(run / "labelled_02" / "records.jsonl")[0]["before"] == "labelled_01"
    assert current_network(run) == run / "labelled_02"
    # A network that labels have trained is a run for the other commands.
    assert load_model(run / "labelled_02").settings == load_model(run).settings


def test_the_picks_are_the_strategys_and_the_figures_the_networks(place: Path) -> None:
    chosen = create_tasks(place / "run", place / "pool", SampleChoice(budget=5), TaskFiles(out=place / "tasks.csv"))
    listing = images_under(place / "pool")
    data = images_of(listing, image_size=16, classes=CLASSES)
    probs = predict(load_model(place / "run"), data)[0].logits.double().softmax(1)
    top = probs.topk(2, dim=1).values
    margins = {listing.names[i]: float(top[i, 0] - top[i, 1]) for i in range(len(listing.names))}
    wanted = sorted(margins, key=lambda name: margins[name])[:5]
    assert [Path(task.path).name for task in chosen.tasks] == wanted
    for task, pick in zip(chosen.tasks, chosen.picks, strict=True):
        row = listing.names.index(Path(task.path).name)
        assert task.confidence == pytest.approx(float(probs[row].max()), abs=1e-6)
        assert task.guess == CLASSES[int(probs[row].argmax())]
        assert pick.margin == pytest.approx(margins[Path(task.path).name], abs=1e-6)
    logged = RequestLog(place / "run" / "asked.jsonl").tasks
    assert [(t.sample, t.path, t.guess, t.order) for t in logged] == [
        (t.sample, t.path, t.guess, t.order) for t in chosen.tasks
    ]


@pytest.mark.parametrize("strategy", ["random", "k_center", "badge"])
def test_names_decide_nothing_and_copies_are_asked_once(strategy: str, base: Path, tmp_path: Path) -> None:
    asked = []
    for number in range(2):
        place = tmp_path / str(number)
        for name in ("run", "pool"):
            shutil.copytree(base / name, place / name)
        if number:
            for i, file in enumerate(sorted((place / "pool").iterdir())):
                (place / "pool" / f"sub{i % 2}").mkdir(exist_ok=True)
                file.rename(place / "pool" / f"sub{i % 2}" / f"{99 - i}.png")
            for i in range(3):
                shutil.copy(place / "pool" / "sub0" / "99.png", place / "pool" / f"copy{i}.png")
        asked.append(choose(place, strategy=strategy, budget=6))
    assert asked[0] == asked[1] and len(set(asked[0])) == 6


def test_a_seed_and_a_batch_draw_anew_and_a_share_is_a_budget(place: Path) -> None:
    a = choose(place, "a.csv", strategy="random", include_pending=True)
    b = choose(place, "b.csv", strategy="random", include_pending=True)
    shutil.rmtree(place / "run" / "asked.jsonl", ignore_errors=True)
    (place / "run" / "asked.jsonl").unlink()
    assert choose(place, "c.csv", strategy="random", include_pending=True) == a != b
    (place / "run" / "asked.jsonl").unlink()
    assert choose(place, "d.csv", strategy="random", seed=1) != a
    (place / "run" / "asked.jsonl").unlink()
    assert len(choose(place, "e.csv", budget="50%")) == 9


def test_what_is_out_is_not_asked_for_again_unless_it_is_wanted(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = choose(place, budget=10)
    chosen = create_tasks(place / "run", place / "pool", SampleChoice(budget=8), TaskFiles(out=place / "b.csv"))
    assert not {task.sample for task in chosen.tasks} & set(first)
    note = "10 still out with people, skipped or contradicted: left out (--include-pending asks for them once more)"
    assert chosen.notes == [note]
    argv = ["select", "--run", str(place / "run"), "--pool", str(place / "pool"), "--budget", "1"]
    argv += ["--image-cache", str(place / "cache"), "--out", str(place / "c.csv")]
    assert active(*argv) == 2
    assert capsys.readouterr().err == (
        f"python -m active select: --budget 1: {place / 'pool'} has 0 samples to ask for (of 18, 0 labelled, 18 still "
        "out with people): lower it, or ask for those once more with --include-pending\n"
    )
    assert active(*argv, "--include-pending") == 0
    assert capsys.readouterr().err.startswith("18 still out with people, skipped or contradicted: may be asked for")
    assert rows_of(place / "c.csv")[0]["sample"] == first[0]  # the smallest margin, as before


@pytest.mark.parametrize("side", [64, 128])
def test_a_thumbnail_is_as_large_as_was_asked_for(side: int, place: Path) -> None:
    (place / "large").mkdir()
    for i, colour in enumerate(("red", "blue")):
        Image.linear_gradient("L").convert("RGB").resize((400, 200 + i)).save(place / "large" / f"{colour}.png")
    argv = ["select", "--run", str(place / "run"), "--pool", str(place / "large"), "--budget", "2", "--quiet"]
    argv += ["--out", str(place / "tasks.json"), "--gallery", str(place / "page.html"), "--thumbnail", str(side)]
    assert active(*argv, "--image-cache", str(place / "cache")) == 0
    for task in json.loads((place / "tasks.json").read_text()):
        assert max(opened(task["data"]["image"]).size) == side
        assert task["data"]["image"] in (place / "page.html").read_text()


def test_a_file_with_labels_is_not_written_over(place: Path) -> None:
    choose(place)
    before = filled(place / "tasks.csv").read_bytes()
    with pytest.raises(UserError, match="tasks.csv is there already, and may hold labels"):
        choose(place)
    assert (place / "tasks.csv").read_bytes() == before


def test_every_mistake_has_its_line_and_the_rest_is_taken_with_partial(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    choose(place, budget=8)
    rows = rows_of(filled(place / "tasks.csv"))
    path = [row["path"] for row in rows]
    other = next(name for name in CLASSES if name != rows[4]["label"])
    rows[0]["sample"] = "f" * 64  # row 2: unknown
    rows[1]["label"] = "wram"  # row 3: no class
    rows[2]["label"] = ""  # row 4: not filled in
    rows[3]["label"] = " "  # row 5: not filled in
    rows.append(dict(rows[4]))  # row 10: said twice
    rows.append(rows[4] | {"label": other})  # row 11: a conflict
    rows.append(rows[5] | {"label": other, "annotator": "bob"})  # row 12: another person may
    labels = write_rows(place / "labels.csv", rows)
    argv = ["label", "--run", str(place / "run"), "--labels", str(labels), "--steps", "0"]
    problems = [
        f"labels.csv, row 2: sample ffffffffffff ({path[0]}) was never asked for",
        'labels.csv, row 3: there is no class "wram" (did you mean "warm"?)',
        f'labels.csv, row 11: ann says "{other}" of {path[4]}, and "{rows[4]["label"]}" in labels.csv, row 6',
        "labels.csv: 2 rows not filled in (row 4, row 5)",
    ]
    assert active(*argv) == 2
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        *problems,
        f"python -m active label: {labels}: import failed; fix the errors above, or import the other 6 of 11 rows with "
        "--partial",
    ]
    assert said.out == "" and not (place / "run" / "labels.jsonl").exists()

    assert active(*argv, "--partial") == 0
    said = capsys.readouterr()
    repeated = "labels.csv: 1 row given before, and counted once (row 10)"
    assert said.err.splitlines() == [*problems, repeated]
    assert said.out == f"imported 5 labels from {labels}, as batch 1\n"
    log = LabelLog(place / "run" / "labels.jsonl")
    assert [(label.sample, label.label, label.annotator) for label in log.labels] == [
        (row["sample"], row["label"], row["annotator"]) for row in (*rows[4:8], rows[10])
    ]
    # The same file again changes nothing; the same person may think again, and it is told.
    before = log.path.read_bytes()
    assert active(*argv, "--partial") == 0
    assert f"nothing new in {labels}\n" in capsys.readouterr().out and log.path.read_bytes() == before
    again = write_rows(place / "again.csv", [rows[4] | {"label": other}])
    assert active("label", "--run", str(place / "run"), "--labels", str(again), "--steps", "0") == 0
    assert capsys.readouterr().err == (
        "again.csv: 1 row another answer than the same person gave before: the new one counts (row 2)\n"
    )
    assert log.path.read_bytes().startswith(before)


def test_who_labelled_is_the_row_the_flag_or_the_user(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(place)
    first, second, third, _ = rows_of(filled(place / "tasks.csv", annotator=""))
    monkeypatch.setenv("LOGNAME", "who-runs-this")
    argv = ["label", "--run", str(place / "run"), "--steps", "0", "--quiet"]
    for number, (row, flag) in enumerate(
        ((first | {"annotator": "ann"}, ["--annotator", "eve"]), (second, ["--annotator", "eve"]), (third, []))
    ):
        labels = write_rows(place / f"{number}.csv", [row])
        assert active(*argv, "--labels", str(labels), *flag) == 0
    log = LabelLog(place / "run" / "labels.jsonl").labels
    assert [label.annotator for label in log] == ["ann", "eve", "who-runs-this"]
    assert [label.origin for label in log] == [f"{number}.csv, row 2" for number in range(3)]


def annotated(path: Path, answers: list[list[dict[str, Any]]]) -> Path:
    """What Label Studio exports of these tasks."""
    tasks = json.loads(path.read_text())
    for task, given in zip(tasks, answers, strict=True):
        task["annotations"] = given
    out = path.with_name("export.json")
    out.write_text(json.dumps(tasks))
    return out


def chose(*labels: str, who: int = 1, cancelled: bool = False) -> dict[str, Any]:
    value = [{"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": list(labels)}}]
    return {"completed_by": who, "was_cancelled": cancelled, "result": value if labels else []}


def test_label_studios_export_comes_back(place: Path) -> None:
    choose(place, "tasks.json", budget=5)
    tasks = json.loads((place / "tasks.json").read_text())
    assert all(task["data"]["image"].startswith("data:image/png;base64,") for task in tasks)
    export = annotated(
        place / "tasks.json",
        [[chose("cold"), chose("mild", who=2)], [chose(cancelled=True)], [chose("cold", "warm")], [], [chose("warm")]],
    )
    with pytest.raises(ImportRefused) as refused:
        import_labels(place / "run", export, annotator="me")
    assert refused.value.problems == [
        "export.json, task 3: 2 classes are chosen (cold, warm), and a sample has one",
        "export.json: 1 row not filled in (task 4)",
    ]
    taken = import_labels(place / "run", export, annotator="me", partial=True)
    assert [(label.label, label.annotator) for label in taken.labels] == [("cold", "1"), ("mild", "2"), ("warm", "1")]
    assert taken.notes == ["export.json: 1 row skipped by the annotator (task 2)"]


def test_rules_bring_several_people_to_one(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choose(place, budget=4)
    rows = rows_of(place / "tasks.csv")
    votes = [("cold", "cold", "cold"), ("cold", "mild", "mild"), ("mild", "mild", "cold"), ("cold", "mild", "warm")]
    for person, name in enumerate(("ann", "bob", "cyd")):
        said = [row | {"label": votes[i][person], "annotator": name} for i, row in enumerate(rows)]
        import_labels(place / "run", write_rows(place / f"{name}.csv", said), annotator="me")
    argv = ["label", "--run", str(place / "run"), "--steps", "1", "--image-cache", str(place / "cache")]
    learned = {}
    for number, rule in enumerate(("majority", "last", "refuse"), start=1):
        assert active(*argv, "--aggregate", rule) == 0
        told = capsys.readouterr()
        assert "agreement: 4 samples have several annotators, Krippendorff's alpha" in told.out
        people = read_records(place / "run" / f"labelled_{number:02d}" / "records.jsonl")[0]["people"]
        assert people["rule"] == rule and people["batches"] == [1, 2, 3]
        learned[rule] = (
            read_records(place / "run" / f"labelled_{number:02d}" / "records.jsonl")[0]["labelled"],
            told.err.splitlines(),
        )
    contradicted = f'{rows[3]["path"]} is not settled: ann says "cold", bob says "mild", cyd says "warm" (--aggregate '
    assert learned["majority"] == (3, [contradicted + "majority)"])
    assert learned["last"] == (4, [])
    assert learned["refuse"][0] == 1 and len(learned["refuse"][1]) == 3
    # By majority the fourth is open still: it may be asked for again, and the other three are done with.
    again = choose(place, "again.csv", budget=15, include_pending=True)
    assert rows[3]["sample"] in again and not {row["sample"] for row in rows[:3]} & set(again)


def state(run: Path) -> tuple[dict[str, str], Path]:
    return aggregate_labels(LabelLog(run / "labels.jsonl").labels)[0], current_network(run)


def test_undo_gives_the_labels_and_the_network_before(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = place / "run"
    states = [state(run)]
    for number in range(2):
        choose(place, f"{number}.csv", budget=3)
        import_labels(run, filled(place / f"{number}.csv"), annotator="me")
        learned = finetune(run, steps=2, cache=place / "cache")
        assert learned.network == run / f"labelled_{number + 1:02d}" and learned.labels == 3 * (number + 1)
        states.append(state(run))
    assert finetune(run, steps=2).record is None  # it has learned these already
    log = (run / "labels.jsonl").read_bytes()
    assert active("label", "--run", str(run), "--undo") == 0
    assert capsys.readouterr().out == (
        f"reverted: batch 2, 3 labels; they stay in the log and no longer count\nnetwork: {run}/labelled_01\n"
    )
    assert state(run) == states[1] and (run / "labels.jsonl").read_bytes().startswith(log)
    assert revert_batch(run)[2] == run
    assert state(run) == states[0]
    with pytest.raises(UserError, match="holds no labels to take back"):
        revert_batch(run)
    # What was taken back can be given again: a new batch, a new network, on from the run's own.
    import_labels(run, place / "0.csv", annotator="me")
    assert finetune(run, steps=2, cache=place / "cache").network == run / "labelled_03"
    assert state(run)[0] == states[1][0]
    assert read_records(run / "labelled_03" / "records.jsonl")[0]["before"] == "run"


@pytest.mark.parametrize("seed", range(4))
def test_label_then_undo_is_nothing(seed: int, place: Path) -> None:
    """Whatever three people say, in whatever batches, with changes of mind: each undo gives the state before."""
    run, draw = place / "run", random.Random(seed)
    choose(place, budget=6)
    rows = rows_of(place / "tasks.csv")
    states = []
    for number in range(5):
        before = state(run)
        said = [
            row | {"label": draw.choice(CLASSES), "annotator": draw.choice(("ann", "bob"))}
            for row in draw.sample(rows, draw.randint(1, 6))
        ]
        if import_labels(run, write_rows(place / f"{number}.csv", said), annotator="me").batch:
            states.append(before)
    while states:
        revert_batch(run)
        assert state(run) == states.pop()
    assert state(run) == ({}, run)


def test_a_kill_between_the_log_and_the_training_loses_nothing(place: Path) -> None:
    """The process dies when the labels are taken: the same command, or one without the file, makes the same bits."""
    choose(place)
    labels = filled(place / "tasks.csv")
    results = []
    for number, argv in enumerate(((), ("--labels", str(labels)))):
        run = place / f"run{number}"
        shutil.copytree(place / "run", run)
        import_labels(run, labels, annotator="me")
        assert active("label", "--run", str(run), *argv, "--steps", "4", "--quiet", "--device", "cpu") == 0
        assert len(LabelLog(run / "labels.jsonl").labels) == 4
        results.append(weights(run / "labelled_01"))
    assert same(*results)


@pytest.mark.long
def test_a_kill_in_the_training_ends_with_the_same_bits(
    place: Path, record_property: Callable[[str, int], None]
) -> None:
    choose(place)
    labels = filled(place / "tasks.csv")
    argv = ["--labels", str(labels), "--steps", "80", "--quiet", "--device", "cpu"]
    for name in ("killed", "whole"):
        shutil.copytree(place / "run", place / name)
    killed = place / "killed"
    command = [sys.executable, "-m", "active", "label", "--run", str(killed), *argv]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 600
    try:
        while not (killed / "labelled_01" / "records.jsonl").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(LabelLog(killed / "labels.jsonl").labels) == 4
    assert current_network(killed) == killed
    assert subprocess.run(command, check=False).returncode == 0
    assert active("label", "--run", str(place / "whole"), *argv) == 0
    assert current_network(killed) == killed / "labelled_01" and not (killed / "labelled_02").exists()
    assert same(weights(killed / "labelled_01"), weights(place / "whole" / "labelled_01"))
    record_property("kills", 1)


def test_an_unfinished_network_goes_on_or_is_left_for_other_labels(place: Path) -> None:
    run = place / "run"
    choose(place, "a.csv", budget=3)
    import_labels(run, filled(place / "a.csv"), annotator="me")
    finetune(run, steps=2)
    records = (run / "labelled_01" / "records.jsonl").read_text().splitlines(keepends=True)
    (run / "labelled_01" / "records.jsonl").write_text("".join(records[:1]))  # killed before its end
    assert current_network(run) == run
    (run / "labelled_01" / "resume.pt").unlink()
    assert finetune(run, steps=2).network == run / "labelled_01"
    (run / "labelled_01" / "records.jsonl").write_text("".join(records[:1]))
    (run / "labelled_01" / "resume.pt").unlink()
    choose(place, "b.csv", budget=3)
    import_labels(run, filled(place / "b.csv"), annotator="me")
    assert finetune(run, steps=2).network == run / "labelled_02"
    assert read_records(run / "labelled_02" / "records.jsonl")[0]["before"] == "run"


def test_moved_and_renamed_images_are_found_by_their_content(place: Path) -> None:
    run = place / "run"
    choose(place)
    labels = filled(place / "tasks.csv")
    for i, file in enumerate(sorted((place / "pool").iterdir())):
        file.rename(file.with_name(f"renamed{i}.png"))
    import_labels(run, labels, annotator="me")
    whole = shutil.copytree(run, place / "whole")
    assert finetune(whole, steps=2).labels == 4
    (place / "pool").rename(place / "elsewhere")
    with pytest.raises(UserError, match=r"4 of 4 labelled samples lie in none of the places .* with --pool; their"):
        finetune(run, steps=2)
    assert len(LabelLog(run / "labels.jsonl").labels) == 4
    finetune(run, steps=2, pool=place / "elsewhere")
    assert same(weights(run / "labelled_01"), weights(whole / "labelled_01"))


def test_a_changed_image_is_another_sample(place: Path) -> None:
    choose(place)
    labels = filled(place / "tasks.csv")
    changed = Path(rows_of(labels)[0]["path"])
    Image.new("RGB", (20, 20), "white").save(changed)
    import_labels(place / "run", labels, annotator="me")
    result = finetune(place / "run", steps=2, cache=place / "cache")
    assert result.labels == 3 and result.network == place / "run" / "labelled_01"
    (line,) = result.missing
    assert changed.name in line and "is not found: left out of the training" in line


def test_a_manifest_is_a_pool_and_a_folder_elsewhere_is_another(place: Path) -> None:
    manifest = place / "some.csv"
    manifest.write_text("path,label\n" + "".join(f"pool/{i:02d}.png,\n" for i in range(6)))
    tasks = create_tasks(place / "run", manifest, SampleChoice(budget=3), TaskFiles(out=place / "tasks.csv")).tasks
    assert {Path(task.path).stem for task in tasks} <= {f"{i:02d}" for i in range(6)}
    import_labels(place / "run", filled(place / "tasks.csv"), annotator="me")
    (place / "other").mkdir()
    shutil.copy(place / "pool" / "17.png", place / "other" / "a.png")
    chosen = create_tasks(place / "run", place / "other", SampleChoice(budget=1), TaskFiles(out=place / "b.csv"))
    assert chosen.notes == ["3 labelled samples are not in this pool: the strategy does not see them"]


def test_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for domain in ("source", "target"):
        y = np.arange(48) % 3
        np.savez(tmp_path / f"{domain}.npz", x=rng.normal(size=(48, 4)) + 3 * np.eye(4)[y], y=y + 7)
    task = load_pair("folders", source=tmp_path / "source.npz", target=tmp_path / "target.npz")
    run = trained(tmp_path / "run", task, backbone="features")
    x = rng.normal(size=(20, 4)) + 2 * np.eye(4)[np.arange(20) % 3]
    np.save(tmp_path / "new.npy", np.concatenate([x, x[:5]]))
    common = ["--run", str(run), "--pool", str(tmp_path / "new.npy"), "--budget", "4"]
    assert active("select", *common, "--out", str(tmp_path / "tasks.json")) == 2
    assert active("select", *common, "--out", str(tmp_path / "t.csv"), "--gallery", str(tmp_path / "p.html")) == 2
    assert capsys.readouterr().err.count("features have no pictures to show") == 2
    assert active("select", *common, "--out", str(tmp_path / "tasks.csv")) == 0
    assert "5 copies of other samples" in capsys.readouterr().err
    rows = rows_of(tmp_path / "tasks.csv")
    hashes = row_hashes(torch.from_numpy(x))
    picked = [hashes.index(row["sample"]) for row in rows]
    assert [row["path"] for row in rows] == [f"new.npy, row {row}" for row in picked]
    write_rows(tmp_path / "tasks.csv", [row | {"label": str(7 + i % 3)} for row, i in zip(rows, picked, strict=True)])
    import_labels(run, tmp_path / "tasks.csv", annotator="me")
    np.save(tmp_path / "new.npy", x[::-1].astype(np.float32))  # other rows, another precision
    assert finetune(run, steps=2).labels == 4


def test_a_frozen_backbone_is_computed_once(place: Path, base: Path) -> None:
    task = load_pair("folders", source=base / "source", target=base / "target", image_size=16)
    torch.manual_seed(0)
    model = DAN("lenet:3", 3, layers=(8,), frozen=("conv1", "conv2"))
    about = {"task": task.name, "options": dict(task.options), **run_metadata(task)}
    recipe = TrainConfig(batch_size=8, num_kernels=3, feature_map=False)
    fit(
        model,
        task.source,
        task.target,
        trade_off=1.0,
        steps=5,
        seed=0,
        config=recipe,
        run=place / "own",
        metadata=about,
    )
    results = []
    for kept in (False, place / "backbones"):
        name = "kept" if kept else "plain"
        run = shutil.copytree(place / "own", place / f"run-{name}")
        plan: dict[str, Any] = {"cache": place / "cache", "cache_backbone": kept}
        choice, files = SampleChoice(budget=4, strategy="k_center"), TaskFiles(out=place / f"{name}.csv")
        chosen = create_tasks(run, place / "pool", choice, files, RunAccess(**plan))
        import_labels(run, filled(place / f"{name}.csv"), annotator="me")
        results.append((chosen, weights(finetune(run, steps=3, **plan).network)))
    assert [t.sample for t in results[0][0].tasks] == [t.sample for t in results[1][0].tasks]
    assert all(torch.allclose(results[0][1][name], results[1][1][name], atol=1e-4) for name in results[0][1])
    assert list((place / "backbones").glob("*.npy"))
    with pytest.raises(UserError, match="nothing to cache"):
        choose(place, cache_backbone=True)


def test_labels_are_learned_as_the_run_was(place: Path, base: Path) -> None:
    """A run that kept its backbone's outputs does so when labels come, too, unless it is told not to."""
    words = ["train", "folders", "--source", str(base / "source"), "--target", str(base / "target"), "--quiet"]
    words += [
        "--image-size",
        "16",
        "--backbone",
        "small_cnn",
        "--freeze-up-to",
        "conv1",
        "--cache-backbone",
        "--steps",
        "3",
    ]
    words += [
        "--steps",
        "3",
        "--batch-size",
        "8",
        "--run",
        str(place / "own"),
        "--image-cache",
        str(place / "first" / "images"),
    ]
    assert run_door("python -m dan", "", OF_DAN, words) == 0 and list((place / "first" / "backbones").glob("*.npy"))
    create_tasks(place / "own", place / "pool", SampleChoice(budget=4), TaskFiles(out=place / "tasks.csv"))
    told = ["label", "--run", str(place / "own"), "--quiet", "--steps", "2"]
    labels = ["--labels", str(filled(place / "tasks.csv"))]
    assert active(*told, *labels, "--image-cache", str(place / "second" / "images")) == 0
    assert list((place / "second" / "backbones").glob("*.npy"))
    shutil.rmtree(place / "own" / "labelled_01")
    assert active(*told, "--image-cache", str(place / "third" / "images"), "--cache-backbone", "no") == 0
    assert not (place / "third" / "backbones").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--budget", "0"], "at least 1"),
        (["--budget", "some"], 'a share of the pool, as 5%, and not "some"'),
        (["--budget", "19"], "has 18 samples to ask for (of 18, 0 labelled, 0 still out with people): lower it"),
        (["--out", "tasks.txt"], "--out tasks.txt: tasks are written as .csv, or as .json for Label Studio"),
        (["--strategy", "margn"], 'no strategy "margn" (did you mean "margin"?)'),
        (["--pool", "nowhere"], "nowhere does not exist"),
        (["--run", "nowhere"], "nowhere does not exist: name the folder of a finished run"),
        (["--thumbnail", "5"], "--thumbnail must be 16 to 4096 pixels, not 5"),
        (["--cache-backbone"], "there is nothing to cache"),
        (["--strategy", "dropout_disagreement"], "this network has no dropout to sample"),
    ],
)
def test_a_mistake_of_select_is_one_line(
    argv: list[str],
    words: str,
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(place)
    usual = {"--run": "run", "--pool": "pool", "--out": "tasks.csv", "--budget": "4", "--image-cache": "cache"}
    given = dict(zip(argv[::2], argv[1::2], strict=True)) if len(argv) == 2 else {}
    flags = [word for pair in (usual | given).items() for word in pair] + (argv if len(argv) == 1 else [])
    assert active("select", *flags) == 2
    said = capsys.readouterr()
    assert words in said.err and said.err.count("\n") == 1
    assert not (place / "tasks.csv").exists() and not (place / "run" / "asked.jsonl").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--labels", "nowhere.csv"], "nowhere.csv is no file"),
        (["--labels", "empty.csv"], "empty.csv holds no rows"),
        (["--labels", "other.csv"], 'other.csv has no column "sample"'),
        (["--undo"], "holds no labels to take back"),
        (["--undo", "--labels", "empty.csv"], "--undo reverts the latest labels and imports none"),
        (["--partial"], "--partial requires --labels"),
        (["--aggregate", "mayority"], '--aggregate: "mayority" is not one of majority, last, refuse'),
        (["--steps", "-1"], "--steps must be 0 or more, not -1"),
        ([], "run has no labels to train on: there are none yet"),
    ],
)
def test_a_mistake_of_label_is_one_line(
    argv: list[str],
    words: str,
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(place)
    RequestLog(place / "run" / "asked.jsonl").append([])
    choose(place)
    (place / "empty.csv").write_text("sample,label\n,\n")
    (place / "other.csv").write_text("path,label\na.png,cold\n")
    assert active("label", "--run", "run", *argv) == 2
    said = capsys.readouterr()
    assert words in said.err and said.err.count("\n") == 1


def test_runs_that_cannot_ask(place: Path, base: Path) -> None:
    with pytest.raises(UserError, match="nobody was asked anything"):
        import_labels(place / "run", place / "labels.csv", annotator="me")
    records = place / "run" / "records.jsonl"
    settings, *rest = records.read_text().splitlines(keepends=True)
    for change, words in (
        ({"kind": None}, 'does not say "kind"'),
        ({"source_free": {"run": "a"}}, "was trained without its source"),
        ({"options": {"source": str(place / "gone"), "target": str(base / "target")}}, "cannot be read again: .*gone"),
        ({"classes": ["cold", "mild", "hot"]}, "the classes of folders are not those"),
        ({"classes": ["cold", "mild"]}, "names 2 classes, and its network tells 3 apart"),
        ({"people": {}}, "name the run that it lies in"),
    ):
        changed = {key: value for key, value in (json.loads(settings) | change).items() if value is not None}
        records.write_text(json.dumps(changed) + "\n" + "".join(rest))
        with pytest.raises(UserError, match=words):
            choose(place)
