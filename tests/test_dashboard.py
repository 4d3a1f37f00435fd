"""The dashboard: in Streamlit's own test harness, and in a real browser."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

pytest.importorskip("streamlit", reason='no Streamlit: pip install "active-dan[app]"')
ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "experiments" / "dashboard.py"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one run of the demo: two methods, two seeds, two rounds, of known accuracies."""
    folder = tmp_path_factory.mktemp("runs")
    lines = []
    for method, base in (("random", 0.5), ("<b>margin</b>", 0.6)):
        for seed in (0, 1):
            for number, asked in ((0, [5, 3, 8]), (1, [])):
                record = {"experiment": "demo", "task": "rendered2digits", "network": "lenet", "method": method}
                record |= {"labels": 3 * number, "seed": seed, "selection": "last", "round": number, "queried": asked}
                value = base + 0.1 * number + 0.02 * seed
                lines.append(record | {"accuracy/target": value, "accuracy/unqueried": value - 0.01, "command": "c"})
    path = folder / "own" / "records.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "training").mkdir()
    (folder / "training" / "records.jsonl").write_text('{"event": "settings"}\n')
    return folder


def look(runs: Path) -> Any:
    from streamlit.testing.v1 import AppTest

    return AppTest.from_string(
        "import sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from experiments.dashboard import main\n"
        f"main(['--runs', {str(runs)!r}])",
        default_timeout=60,
    ).run()


def named(boxes: Any, label: str) -> Any:
    return next(box for box in boxes if box.label == label)


def test_choosing_a_run_shows_its_means_and_what_was_asked(runs: Path) -> None:
    page = look(runs)
    assert not page.exception
    own = str(runs / "own")
    options = named(page.selectbox, "experiment").options
    assert own in options
    assert "dan_table2" in options  # published
    assert str(runs / "training") not in options  # no experiment's
    named(page.selectbox, "experiment").set_value(own).run()
    assert not page.exception
    table = page.dataframe[0].value
    last = table[(table["method"] == "random") & (table["labels"] == 3) & (table["metric"] == "accuracy")]
    assert last["mean"].item() == pytest.approx(61)  # (0.60 + 0.62) / 2
    assert last["n"].item() == 2
    named(page.multiselect, "methods").set_value(["random"]).run()
    assert set(page.dataframe[0].value["method"]) == {"random"}
    assert named(page.selectbox, "round").options == ["0"]  # only that one asked


def test_what_was_asked_is_shown_in_pick_order_with_its_answers() -> None:
    from dan.data.tasks import load_pair
    from experiments.queried_images import queried_images

    target = load_pair("rendered2digits").target
    pictures = queried_images({"experiment": "demo", "queried": [5, 3, 8]})
    assert [picture.name for picture in pictures] == [str(int(target[i][1])) for i in (5, 3, 8)]
    first = target[5][0][0].numpy()
    assert pictures[0].pixels == pytest.approx((first - first.min()) / (first.max() - first.min()), abs=1e-6)
    assert queried_images({"experiment": "demo", "queried": []}) == []
    assert queried_images({"experiment": "aift", "queried": [1]}) == []


def test_no_records_is_one_line_and_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments import dashboard

    monkeypatch.setattr(dashboard, "HOME", tmp_path)
    assert dashboard.folders(tmp_path / "none") == {}
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "records.jsonl").write_text('{"selection": "last"\n')
    assert list(dashboard.folders(tmp_path)) == [str(broken)]


@pytest.fixture
def served(runs: Path) -> Iterator[str]:
    """The dashboard's address, served as a user would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["-m", "streamlit", "run", str(PAGE), "--server.headless", "true", "--server.port", str(port)]
    words += ["--server.address", "127.0.0.1", "--browser.gatherUsageStats", "false", "--", "--runs", str(runs)]
    server = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


class Browser:
    """Headless Chromium, driven through its debugging port."""

    def __init__(self, program: str, profile: Path) -> None:
        words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
        words += [f"--user-data-dir={profile}", "--window-size=1280,1750", "about:blank"]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([program, *words], start_new_session=True, **quiet)
        told = profile / "DevToolsActivePort"
        end = time.monotonic() + 60
        while not told.exists() or "\n" not in told.read_text():
            assert time.monotonic() < end, "the browser did not start"
            time.sleep(0.1)
        port, path = told.read_text().splitlines()[:2]
        from websockets.sync.client import connect

        self.open = ExitStack()
        self.socket = self.open.enter_context(connect(f"ws://127.0.0.1:{port}{path}", max_size=None))
        self.count = 0
        made = self.ask("Target.createTarget", url="about:blank")
        self.session = self.ask("Target.attachToTarget", targetId=made["targetId"], flatten=True)["sessionId"]

    def end(self) -> None:
        """Close it, with all its processes."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.open.close()

    def ask(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        """The answer to a command of the protocol."""
        self.count += 1
        words = {"id": self.count, "method": method, "params": parameters}
        self.socket.send(json.dumps(words | ({"sessionId": session} if session else {})))
        while True:
            answer = json.loads(self.socket.recv(timeout=60))
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return answer["result"]

    def text(self) -> str:
        """What the page says."""
        value = self.ask("Runtime.evaluate", self.session, expression="document.body.innerText")
        return str(value["result"].get("value", ""))

    def wait_for(self, words: str) -> str:
        """The page's text, once it has these words."""
        end = time.monotonic() + 90
        while words not in (text := self.text()):
            assert time.monotonic() < end, f"the page never said {words!r}: {text[:500]}"
            time.sleep(0.3)
        return text


def test_a_real_browser_shows_the_page(served: str, runs: Path, tmp_path: Path) -> None:
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    end = time.monotonic() + 60
    address = served.removeprefix("http://").split(":")
    while True:
        try:
            socket.create_connection((address[0], int(address[1])), timeout=1).close()
            break
        except OSError:
            assert time.monotonic() < end, "the server did not start"
            time.sleep(0.2)
    browser = Browser(program, tmp_path / "profile")
    try:
        shown = os.environ.get("DASHBOARD_EXPERIMENT", str(runs / "own"))
        browser.ask("Page.navigate", browser.session, url=f"{served}/?experiment={quote(shown)}")
        text = browser.wait_for("Made by")
        for words in ("active-dan: experiments", "transfer", "methods", "What was asked", "In pick order"):
            assert words in text
        images = "Array.from(document.images).filter(i => i.naturalWidth > 0).length"
        seen = browser.ask("Runtime.evaluate", browser.session, expression=images)["result"]["value"]
        assert seen >= 1 + 3  # the curves, and the three pictures that were asked for
        assert "Traceback" not in text
        if os.environ.get("DASHBOARD_PICTURE"):
            import base64

            time.sleep(4)  # the side bar slides in
            shot = browser.ask("Page.captureScreenshot", browser.session)
            Path(os.environ["DASHBOARD_PICTURE"]).write_bytes(base64.b64decode(shot["data"]))
    finally:
        browser.end()
