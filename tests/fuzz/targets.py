"""What the fuzzers drive: each reader of strangers' files, and the scores, on bytes that may be anything.

A target takes bytes, and returns whether they were taken; what it may raise is UserError, which counts as refused. Any
other exception is a finding. SEEDS are good inputs, from which inputs that come far are made.
"""

from __future__ import annotations

import io
import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.io import savemat

from active.annotation.label_log import LabelLog, aggregate_labels, krippendorff_alpha
from active.annotation.request_log import RequestLog
from active.annotation.tasks import read_answers, validate
from active.budgets import budget_count, budget_schedule
from active.pool import Query
from active.round_files import path_of, read_round
from active.strategies import get_strategy
from dan.data.candidates import read_candidates
from dan.data.decoding import FORMATS
from dan.data.feature_files import read_features
from dan.data.image_cache import pixels_of
from dan.data.manifests import Listing, read_list, read_manifest
from dan.errors import UserError
from dan.models.dan import DAN
from dan.models.model_file import load_kernels, load_model, save_model
from dan.run_data import read_data_record
from dan.run_dir import read_records, read_tensors
from dan.run_networks import current_network
from dan.safe_csv import as_written, plain_text

Target = Callable[[bytes], bool]
STRATEGIES = ("random", "margin", "ratio", "entropy", "least_confidence")


def _file(name: str, read: Callable[[Path], object], beside: tuple[str, ...] = ()) -> Target:
    """A target that reads the bytes as a file of that name, with empty files beside it."""

    def target(data: bytes) -> bool:
        with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
            path = Path(folder) / name
            for other in (name, *beside):
                (Path(folder) / other).parent.mkdir(parents=True, exist_ok=True)
                (Path(folder) / other).touch()
            path.write_bytes(data)
            return _taken(lambda: read(path))

    return target


def _taken(work: Callable[[], object]) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow and scipy, about what is damaged
            work()
    except UserError as error:
        line = str(error)
        if not line or "\n" in line or len(line) > 100_000:
            raise AssertionError(f"not one line: {line[:1000]!r}") from error
        return False
    return True


def _answers(path: Path) -> object:
    answers = read_answers(path, annotator="me", when="now")
    return validate(answers, known={"a" * 64: "a.png"}, classes=("cat", "dog"))


def _labels(path: Path) -> object:
    log = LabelLog(path)
    return aggregate_labels(log.labels), krippendorff_alpha(log.labels), log.batches


def _networks(path: Path) -> object:
    """The current network of a run with two finished ones, of which the log may revert the labels."""
    for number in (1, 2):
        folder = path.parent / f"labelled_{number:02d}"
        folder.mkdir()
        (folder / "model.pt").touch()
        records = [{"event": "settings", "people": {"batches": list(range(1, number + 1))}}, {"event": "done"}]
        (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    network = current_network(path.parent)
    assert network == path.parent or network.parent == path.parent
    return network


def _image(path: Path) -> object:
    return pixels_of(Listing(place=path, root=path.parent, names=(path.name,), targets=(0,), classes=("a",)), 8)


def _network(path: Path) -> object:
    return load_kernels(path), load_model(path)


def _text(read: Callable[[str], object]) -> Target:
    return lambda data: _taken(lambda: read(data.decode("utf-8", errors="surrogateescape")))


def _budget(text: str) -> object:
    if "," not in text:
        assert budget_count(text, 1000) >= 1
    labels = budget_schedule(text.split(","), None, 1000)
    assert min(labels) >= 1
    return labels


def _cell(text: str) -> object:
    assert as_written(plain_text(text)) == text
    return text


def _scores(data: bytes) -> bool:
    """Any logits at all -> probabilities -> as many different ids as were asked for, by each strategy on these."""
    classes = 2 + data[0] % 4 if data else 2
    numbers = np.frombuffer(data[1 : 1 + (len(data) - 1) // (4 * classes) * 4 * classes], "<f4")
    if not len(numbers):
        return False
    logits = torch.from_numpy(numbers.astype(np.float32).reshape(-1, classes)).nan_to_num().clamp(-1e30, 1e30)
    probs = logits.softmax(1)
    ids = torch.arange(len(probs)) * 3
    query = Query(ids=ids, probs=probs)
    budget = 1 + data[-1] % len(ids)
    for name in STRATEGIES:
        chosen = get_strategy(name)(query, budget, generator=torch.Generator().manual_seed(0)).tolist()
        assert len(chosen) == budget == len(set(chosen)) and set(chosen) <= set(ids.tolist()), (name, probs)
    return True


TARGETS: dict[str, Target] = {
    "labels.csv": _file("a.csv", _answers),
    "labels.json": _file("a.json", _answers),
    "data record": _file("data.json", lambda path: read_data_record(path.parent)),
    "networks": _file("labels.jsonl", _networks),
    "label log": _file("labels.jsonl", _labels),
    "task log": _file("asked.jsonl", RequestLog),
    "records": _file("records.jsonl", read_records),
    "round": _file(str(path_of(Path(), 0)), lambda path: read_round(path.parent.parent, 0)),
    "manifest": _file("list.csv", read_manifest, ("a.png", "b.png")),
    "list": _file("list.txt", lambda path: read_list(path, path.parent), ("a/1.png", "b/2.png")),
    "candidates": _file("c.csv", read_candidates, ("a.png", "b.png")),
    "features.npy": _file("x.npy", read_features),
    "features.npz": _file("x.npz", read_features),
    "features.pt": _file("x.pt", read_features),
    "features.mat": _file("x.mat", read_features),
    "checkpoint": _file("resume.pt", lambda path: read_tensors(path, "cpu")),
    "network": _file("model.pt", _network),
    "image": _file("a.png", _image),
    "budget": _text(_budget),
    "cell": _text(_cell),
    "scores": _scores,
}


def _saved(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def _label_tables() -> list[bytes]:
    """Tasks that were filled in, as spreadsheets save them, and Label Studio's CSV and TSV."""
    sample = "a" * 64
    tasks = f"order,sample,path,guess,confidence,label,annotator\n1,{sample},a.png,cat,0.5,dog,me\n"
    minimal = f"annotation_id,annotator,label,quality,sample,updated_at\n1,2,cat,good,{sample},2026\n"
    several = f'annotation_id,annotator,label,sample\n1,2,"{{""choices"": [""cat"", ""dog""]}}",{sample}\n'
    semicolons = "sep=;\r\n" + tasks.replace(",", ";").replace("\n", "\r\n") + ";;;;;;\r\n"
    texts = [
        tasks,
        minimal,
        several,
        minimal.replace("label", "species").replace("quality", "id"),
        minimal.replace(",", "\t"),
        minimal.replace("quality", "was_cancelled").replace("good", "True"),
        minimal.replace("quality", "reviews").replace("good", '"[{""accepted"": false}]"'),
        f"sample,label,label.1\n{sample},cat,cat\n",
    ]
    return [
        *(text.encode() for text in texts),
        semicolons.encode("utf-8-sig"),
        tasks.replace(",", "\t").encode("utf-16"),
    ]


def _label_exports() -> list[bytes]:
    """Label Studio's JSON and JSON-MIN."""

    def exported(*results: object, **annotation: object) -> object:
        given = {"result": list(results), "completed_by": {"email": "a@b"}, "was_cancelled": False} | annotation
        return [{"data": {"sample": "a" * 64, "path": "a"}, "annotations": [given]}]

    def choice(control: str) -> dict[str, object]:
        return {"from_name": control, "to_name": "image", "type": "choices", "value": {"choices": ["cat"]}}

    record = {"sample": "a" * 64, "annotator": 1, "annotation_id": 2}
    found = [
        exported(choice("label"), reviews=[{"accepted": False, "created_at": "2026"}]),
        exported(choice("label"), last_action="rejected"),
        [{**record, "label": "cat", "was_cancelled": "true"}],
        exported({"value": {"choices": ["cat"]}}),
        exported(choice("label"), choice("quality")),
        exported(choice("species")),
        exported(result=None),
        [{"data": {"sample": "a" * 64}, "annotations": None}],
        [record | {"label": "cat"}, record | {"label": {"choices": ["cat", "dog"]}}],
    ]
    return [*(json.dumps(part).encode() for part in found), json.dumps(found[0]).encode("utf-8-sig")]


def _seeds() -> dict[str, list[bytes]]:
    x, y = np.arange(6, dtype=np.float32).reshape(3, 2), np.arange(3)
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    deep = Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4) * 250)
    label = {"event": "label", "batch": 1, "sample": "s", "path": "p", "label": "cat", "annotator": "a", "when": "w"}
    asked = dict.fromkeys(("sample", "path", "file", "place", "guess", "strategy", "network", "out", "when"), "a")
    record = {"round": 0, "queried": [1], "event": "round"}
    state = {"before": "YQ==", "after": "YQ=="}
    content = {"settings": {}, "record": record, "answers": [1], "labelled": [[0, 1, 0]], "generator": state}
    side = {"type": "Images", "samples": 2, "fingerprint": "a"}
    data = {"kind": "vector", "shape": [2], "classes": ["a"], "named": True, "source": side, "target": side}
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        save_model(Path(folder) / "model.pt", DAN("lenet", 3, layers=(4,)))
        network = (Path(folder) / "model.pt").read_bytes()
    tensors = {"x": torch.from_numpy(x), "y": torch.from_numpy(y)}
    return {
        "labels.csv": _label_tables(),
        "labels.json": _label_exports(),
        "data record": [json.dumps(data).encode()],
        "networks": [
            b'{"event": "label", "batch": 1}\n{"event": "label", "batch": 2}\n{"event": "undo", "batch": 2}\n'
        ],
        "label log": [json.dumps({**label, "origin": "o"}).encode() + b'\n{"event": "undo", "batch": 1}\n'],
        "task log": [
            json.dumps({"event": "asked", "batch": 1, "order": 1, "confidence": 0.5, **asked}).encode() + b"\n"
        ],
        "records": [b'{"event": "settings"}\n{"event": "evaluation", "step": 1}\n'],
        "round": [json.dumps(content).encode()],
        "manifest": [
            b"path,label,group\na.png,cat,1\nb.png,dog,2\n",
            b"\xef\xbb\xbfsep=;\r\nPath;Label \r\na.png;cat\r\n.\\b.png;ve\xcc\x81lo\r\n;\r\n",
            'path\tlabel\r\na.png\t"x\ny"\r\nb.png\tdog\r\n'.encode("utf-16"),
            b"path,label\na.png,-1\nb.png,-1\n",
            b"path,label,group\na.png,Cat,P1\nb.png,cat,p1\n",
            "path,label\na.png,\u4e00\nb.png,traffic\u00a0light\n".encode("utf-16-le"),
        ],
        "list": [b"a/1.png 0\nb/2.png 1\n"],
        "candidates": [
            b"path,label,candidate\na.png,cat,1\nb.png,dog,2\n",
            b"candidate\tpath\tlabel\tgroup\t\n1\ta.png\tcat\tp\t\n2\tb.png\tdog\tq\t\n",
        ],
        "features.npy": [_saved(lambda file: np.save(file, x))],
        "features.npz": [_saved(lambda f: np.savez(f, x=x, y=y)), _saved(lambda f: np.savez_compressed(f, x=x, y=y))],
        "features.pt": [_saved(lambda file: torch.save(tensors, file))],
        "features.mat": [
            _saved(lambda f: savemat(f, {"x": x, "y": y})),
            _saved(lambda f: savemat(f, {"fts": x}, do_compression=True)),
        ],
        "checkpoint": [_saved(lambda file: torch.save({"step": 1, "records": 2, "model": tensors}, file))],
        "network": [network],
        "image": [
            *(_saved(lambda file, kind=kind: picture.save(file, kind)) for kind in FORMATS),
            *(_saved(lambda file, kind=kind: deep.save(file, kind)) for kind in ("PNG", "TIFF")),
            _saved(lambda file: deep.save(file, "TIFF", tiffinfo={262: 0})),
            _saved(lambda file: picture.save(file, "TIFF", save_all=True, append_images=[picture])),
            _saved(lambda file: picture.convert("CMYK").save(file, "JPEG")),
            _saved(lambda file: deep.save(file, "PNG", transparency=250)),
            _saved(lambda file: picture.save(file, "JPEG")) + bytes(600),
            _saved(lambda file: Image.new("RGBA", (4, 4)).save(file, "PNG")),
            b"P6 4 4 4095\n" + bytes(96),
        ],
        "budget": [b"5%", b"30", b"1%,1%,3%", b"0.5%"],
        "cell": [b"=1+1", b"'=1", b"plain"],
        "scores": [bytes([1]) + np.linspace(-3, 3, 12, dtype="<f4").tobytes() + bytes([2])],
    }


SEEDS = _seeds()
