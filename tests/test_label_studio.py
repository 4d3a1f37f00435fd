"""The real Label Studio: tasks in by its API, annotated by its API as two people would, exported, and taken back."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_evaluate import CLASSES, trained, trees

from active.annotation.imports import ImportRefused, finetune, import_labels
from active.annotation.label_log import LabelLog
from active.annotation.request_options import SampleChoice, TaskFiles
from active.annotation.requests import create_tasks
from dan.data.tasks import load_pair

pytestmark = pytest.mark.long

TOKEN = "0123456789abcdef0123456789abcdef01234567"
STARTS_IN = 400  # seconds: the first start makes the database


class Server:
    """Label Studio on loopback."""

    def __init__(self, address: str) -> None:
        self.address = address

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            self.address + path,
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"Authorization": f"Token {TOKEN}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"null")


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    program = os.environ.get("LABEL_STUDIO") or shutil.which("label-studio")
    if not program:
        pytest.skip(
            "no Label Studio: pip install label-studio in an environment of its own, and name its program in "
            "LABEL_STUDIO"
        )
    folder = tmp_path_factory.mktemp("label-studio")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    switches = {
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder),
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
    }
    command = [program, "start", "--no-browser", "--data-dir", str(folder), "--port", str(port)]
    command += ["--internal-host", "127.0.0.1", "--username", "ann@example.org", "--password", "only-for-this-test"]
    command += ["--user-token", TOKEN, "--enable-legacy-api-token"]
    server = Server(f"http://127.0.0.1:{port}")
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=os.environ | switches, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + STARTS_IN
            while True:
                assert process.poll() is None and time.monotonic() < deadline, (folder / "log.txt").read_text()[-3000:]
                try:
                    server("GET", "/api/projects/")
                    break
                except OSError:
                    time.sleep(1)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def chosen(*labels: str) -> list[dict[str, Any]]:
    """What the page sends when somebody clicks on choices."""
    value = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": list(labels)}}
    return [value] if labels else []


def test_tasks_go_to_label_studio_and_labels_come_back(studio: Server, tmp_path: Path) -> None:
    run = trained(tmp_path / "run", load_pair("folders", **trees(tmp_path), image_size=16), backbone="lenet:3")
    files = TaskFiles(out=tmp_path / "tasks.json")
    tasks = create_tasks(run, tmp_path / "target", SampleChoice(budget=6), files).tasks
    interface = (tmp_path / "tasks.xml").read_text()
    project = studio("POST", "/api/projects/", {"title": "cold to warm", "label_config": interface})["id"]
    imported = studio("POST", f"/api/projects/{project}/import", json.loads((tmp_path / "tasks.json").read_text()))
    assert imported["task_count"] == imported["prediction_count"] == 6

    # It shows the pictures and the guesses as they were given, and keeps what the tasks are known by.
    shown = studio("GET", f"/api/tasks?project={project}&fields=all")["tasks"]
    by_sample = {task["data"]["sample"]: task for task in shown}
    assert set(by_sample) == {task.sample for task in tasks}
    for task in tasks:
        there = by_sample[task.sample]
        (prediction,) = there["predictions"]
        assert there["data"] == {"image": task.image, "sample": task.sample, "path": task.path, "order": task.order}
        assert prediction["result"][0]["value"]["choices"] == [task.guess]
        assert prediction["score"] == pytest.approx(task.confidence) and prediction["model_version"] == "run"

    def annotate(order: int, *labels: str, skipped: bool = False) -> int:
        number = by_sample[tasks[order - 1].sample]["id"]
        body = {"result": chosen(*labels), "was_cancelled": skipped}
        return studio("POST", f"/api/tasks/{number}/annotations/", body)["completed_by"]

    truth = [Path(task.path).parent.name for task in tasks]
    person = annotate(1, truth[0])
    annotate(2, truth[1])
    annotate(3, skipped=True)
    annotate(4, truth[3], next(name for name in CLASSES if name != truth[3]))
    # The sixth: nobody came to it. The fifth: twice by one person, the same.
    annotate(5, truth[4])
    annotate(5, truth[4])
    export = tmp_path / "export.json"
    url = f"/api/projects/{project}/export?exportType=JSON&download_all_tasks=true"
    export.write_text(json.dumps(studio("GET", url)))

    with pytest.raises(ImportRefused) as refused:
        import_labels(run, export, annotator="me")
    two, empty = refused.value.problems
    assert "2 classes are chosen" in two and empty.startswith("export.json: 1 row not filled in (task ")
    taken = import_labels(run, export, annotator="me", partial=True)
    assert {(label.sample, label.label, label.annotator) for label in taken.labels} == {
        (tasks[i].sample, truth[i], str(person)) for i in (0, 1, 4)
    }
    assert all(label.when.startswith("20") for label in taken.labels)
    assert [note.split(" row ")[1].split(" (")[0] for note in taken.notes] == [
        "skipped by the annotator",
        "given before, and counted once",
    ]
    assert finetune(run, steps=2).labels == 3

    # Its default export holds what somebody came to.
    default = tmp_path / "default.json"
    default.write_text(json.dumps(studio("GET", f"/api/projects/{project}/export?exportType=JSON")))
    before = LabelLog(run / "labels.jsonl").labels
    assert import_labels(run, default, annotator="me", partial=True).batch == 0
    assert LabelLog(run / "labels.jsonl").labels == before
    more = TaskFiles(out=tmp_path / "more.json")
    again = create_tasks(run, tmp_path / "target", SampleChoice(budget=4), more)
    assert again.network == run / "labelled_01"
    assert not {task.sample for task in again.tasks} & {task.sample for task in tasks}
