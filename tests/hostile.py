"""Every hostile file that is tried: how it is made, who reads it, and what that reader's one line must say.

tests/test_hostile.py runs these; `python tests/hostile.py` writes their table into docs/reliability.md.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import struct
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from active.annotation.label_log import LabelLog
from active.annotation.request_log import RequestLog
from active.annotation.tasks import read_answers
from active.budgets import budget_count
from active.round_files import path_of, read_round
from dan.data.candidates import read_candidates
from dan.data.cifar10 import cifar10
from dan.data.colon import read_part
from dan.data.feature_files import read_features
from dan.data.image_cache import pixels_of
from dan.data.manifests import Listing, read_list, read_manifest
from dan.errors import UserError
from dan.models.dan import DAN
from dan.models.model_file import load_kernels, load_model, save_model
from dan.models.pretrained import read_state
from dan.run_data import read_data_record
from dan.run_dir import read_records, read_tensors
from dan.run_networks import current_network
from dan.source_free import read_kept

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reliability.md"
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n(sign) (w) file\n"
MARKS = ("<!-- hostile input -->", "<!-- end of hostile input -->")


class Evil:
    """What leaves a file behind, wherever it is unpickled."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.sign),)


@dataclass(frozen=True)
class Case:
    """What is tried: `make(folder)` writes it, `read(folder)` is refused with a line that holds `says`."""

    kind: str
    name: str
    make: Callable[[Path], object]
    read: Callable[[Path], object]
    says: str


def image(name: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        listing = Listing(place=folder, root=folder, names=(name,), targets=(0,), classes=("a", "b"))
        return pixels_of(listing, 8)

    return read


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG file of that claim, whatever its rows are."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def npy(shape: str, descr: str = "'<f4'", content: bytes = b"") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def archive(file: Path, **members: bytes) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(f"{name}.npy", content)


def bomb(file: Path, name: str) -> None:
    """A member that claims to be 2 GiB."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr(name, npy("(1, 1)"))
    # The claim is what is looked at: to write 2 GiB would take seconds.
    data = bytearray(file.read_bytes())
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 2**31)
    file.write_bytes(data)


def evil_npy(folder: Path) -> None:
    np.save(folder / "a.npy", np.array([Evil(folder / "sign")], dtype=object), allow_pickle=True)


def evil_npz(folder: Path) -> None:
    np.savez(folder / "a.npz", x=np.array([Evil(folder / "sign")], dtype=object))


def trained(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """A network's file, changed."""
    save_model(folder / "model.pt", _network())
    saved = torch.load(folder / "model.pt", weights_only=True)
    change(saved)
    torch.save(saved, folder / "model.pt")


def _network() -> DAN:
    with torch.random.fork_rng():
        return DAN("lenet", 3, layers=(4,))


def tar(folder: Path, name: str, content: bytes = b"x", *, file: str = "a.tar.gz", **kind: Any) -> None:
    with tarfile.open(folder / file, "w:gz") as opened:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        for part, value in kind.items():
            setattr(member, part, value)
        opened.addfile(member) if member.size != len(content) else opened.addfile(member, io.BytesIO(content))


def text(name: str, content: str | bytes) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return make


def manifest(row: str) -> Callable[[Path], object]:
    return text("list.csv", f"path,label\n{row}\n")


def linked(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "inside").mkdir()
    (folder / "elsewhere" / "secret.png").write_bytes(b"x")
    (folder / "inside" / "a.png").symlink_to(folder / "elsewhere" / "secret.png")
    (folder / "inside" / "list.csv").write_text("path,label\na.png,cat\n")


def answers(name: str) -> Callable[[Path], object]:
    return lambda folder: read_answers(folder / name, annotator="me", when="now")


def reverted(folder: Path) -> None:
    """A run with one network that labels have trained, and a log of labels that is damaged."""
    text("labelled_01/records.jsonl", '{"event": "settings"}\n{"event": "done"}\n')(folder)
    text("labels.jsonl", '{"event": "undo", "batch": Infinity}\n')(folder)


def of_manifest(folder: Path) -> object:
    return read_manifest(folder / "list.csv")


def features(name: str) -> Callable[[Path], object]:
    return lambda folder: read_features(folder / name)


DEEP = "[" * 100_000 + "]" * 100_000
LONG = "x" * 200_000
ROUND = path_of(Path(), 0)

CASES = (
    # pickles
    Case(
        "pickle",
        "a checkpoint with an object that runs code",
        lambda f: torch.save({"a": Evil(f / "sign")}, f / "a.pt"),
        lambda f: read_tensors(f / "a.pt", "cpu"),
        "cannot be read as a checkpoint",
    ),
    Case(
        "pickle",
        "a plain pickle called .pt",
        lambda f: (f / "a.pt").write_bytes(pickle.dumps(Evil(f / "sign"))),
        lambda f: read_tensors(f / "a.pt", "cpu"),
        "cannot be read as a checkpoint",
    ),
    Case(
        "pickle",
        "a network with an object that runs code",
        lambda f: torch.save({"network": Evil(f / "sign")}, f / "model.pt"),
        lambda f: load_model(f),
        "cannot be read as a checkpoint",
    ),
    Case(
        "pickle",
        "weights with an object that runs code",
        lambda f: torch.save({"w": Evil(f / "sign")}, f / "w.pth"),
        lambda f: read_state(f / "w.pth"),
        "cannot be read as weights",
    ),
    Case(
        "pickle",
        "a kept source with an object that runs code",
        lambda f: torch.save({"z": Evil(f / "sign")}, f / "source.pt"),
        read_kept,
        "cannot be read as a checkpoint",
    ),
    Case(
        "pickle",
        "features (.pt) with an object that runs code",
        lambda f: torch.save({"x": Evil(f / "sign")}, f / "a.pt"),
        features("a.pt"),
        "it holds other objects",
    ),
    Case("pickle", "features (.npy) of objects", evil_npy, features("a.npy"), "cannot be read as a NumPy array"),
    Case("pickle", "features (.npz) of objects", evil_npz, features("a.npz"), "cannot be read as an archive"),
    Case(
        "pickle",
        "a plain pickle called .npz",
        lambda f: (f / "a.npz").write_bytes(pickle.dumps(Evil(f / "sign"))),
        features("a.npz"),
        "cannot be read as an archive",
    ),
    # paths
    Case("path", "a manifest with ../", manifest("../secret.png,cat"), of_manifest, "leads out of"),
    Case("path", "a manifest with ..\\", manifest("..\\secret.png,cat"), of_manifest, "leads out of"),
    Case("path", "a manifest with an absolute path", manifest("/etc/passwd,cat"), of_manifest, "leads out of"),
    Case(
        "path",
        "a manifest with a link that leads out",
        linked,
        lambda f: read_manifest(f / "inside" / "list.csv"),
        "is a link that leads out",
    ),
    Case(
        "path",
        "a manifest with a link to itself",
        lambda f: ((f / "a.png").symlink_to(f / "a.png"), manifest("a.png,cat")(f)),
        of_manifest,
        "there is no file",
    ),
    Case("path", "a manifest with a zero byte in a name", manifest("a\0b.png,cat"), of_manifest, "line 2"),
    Case(
        "path",
        "a manifest with a name of 100,000 letters",
        manifest("x" * 100_000 + ".png,cat"),
        of_manifest,
        "there is no file",
    ),
    Case(
        "path",
        "a list with ../",
        text("list.txt", "../a/secret.png 0\n"),
        lambda f: read_list(f / "list.txt", f),
        "leads out of",
    ),
    Case(
        "path",
        "candidates with ../",
        text("c.csv", "path,label,candidate\n../a.png,cat,1\n"),
        lambda f: read_candidates(f / "c.csv"),
        "leads out of",
    ),
    Case(
        "path",
        "a tar archive with ../",
        lambda f: tar(f, "../../etc/a.csv"),
        lambda f: read_part(f / "a.tar.gz", "a.csv", 8),
        "leads out of the archive",
    ),
    Case(
        "path",
        "a tar archive with an absolute path",
        lambda f: tar(f, "/etc/a.csv"),
        lambda f: read_part(f / "a.tar.gz", "a.csv", 8),
        "leads out of the archive",
    ),
    Case(
        "path",
        "a tar archive with a link",
        lambda f: tar(f, "a.csv", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        lambda f: read_part(f / "a.tar.gz", "a.csv", 8),
        "leads out of the archive",
    ),
    # sizes
    Case(
        "size",
        "a PNG of 60,000 x 60,000 pixels in 70 bytes",
        text("a.png", png(60_000, 60_000)),
        image("a.png"),
        "more pixels than Pillow's limit",
    ),
    Case(
        "size",
        "a tar archive with a list that claims 2 GiB",
        lambda f: tar(f, "a.csv", size=2**31),
        lambda f: read_part(f / "a.tar.gz", "a.csv", 8),
        "claims 2,147,483,648 bytes",
    ),
    Case(
        "size",
        "CIFAR-10's archive with an image that claims 2 GiB",
        lambda f: tar(f, "train/cat/a.jpg", file="cifar10_jpg.tar.gz", size=2**31),
        cifar10,
        "claims 2,147,483,648 bytes",
    ),
    Case(
        "size",
        "CIFAR-10's archive with a PNG of 60,000 x 60,000 pixels",
        lambda f: tar(f, "train/cat/a.jpg", png(60_000, 60_000), file="cifar10_jpg.tar.gz"),
        cifar10,
        "more pixels than Pillow's limit",
    ),
    Case(
        "size",
        "a PNG a million times as wide as high",
        text("a.png", png(1_000_000, 1, bytes(1_000_001))),
        image("a.png"),
        "times as long as wide",
    ),
    Case(
        "size",
        "features (.npy) that claim 10^15 rows",
        text("a.npy", npy(f"({10**15}, 8)")),
        features("a.npy"),
        "cannot be read as a NumPy array",
    ),
    Case("size", "features (.npy) of a negative shape", text("a.npy", npy("(-4, 8)")), features("a.npy"), "a.npy"),
    Case(
        "size",
        "features (.npz) that claim 10^12 rows",
        lambda f: archive(f / "a.npz", x=npy(f"({10**12}, 8)")),
        features("a.npz"),
        "its header promises",
    ),
    Case(
        "size",
        "features (.npz) that unpack to 2 GiB",
        lambda f: bomb(f / "a.npz", "x.npy"),
        features("a.npz"),
        "decompression bomb",
    ),
    Case(
        "size",
        "features (.pt) that unpack to 2 GiB",
        lambda f: bomb(f / "a.pt", "archive/data/0"),
        features("a.pt"),
        "decompression bomb",
    ),
    Case(
        "size",
        "a checkpoint that unpacks to 2 GiB",
        lambda f: bomb(f / "a.pt", "archive/data/0"),
        lambda f: read_tensors(f / "a.pt", "cpu"),
        "decompression bomb",
    ),
    Case(
        "size",
        "features (.pt) of 10^12 rows that are one",
        lambda f: torch.save(torch.zeros(1).expand(10**12, 8), f / "a.pt"),
        features("a.pt"),
        "repeats the few numbers",
    ),
    Case(
        "size",
        "a network of 10^12 classes",
        lambda f: trained(f, lambda s: s["network"].update(num_classes=10**12)),
        load_model,
        "no weights of it are of a layer as wide as",
    ),
    Case(
        "size",
        "a network with a layer of 10^12",
        lambda f: trained(f, lambda s: s["network"].update(layers=[10**12])),
        load_model,
        "no weights of it are of a layer as wide as",
    ),
    Case(
        "size",
        "a CSV with a field of 200,000 letters",
        manifest(f"{LONG},cat"),
        of_manifest,
        "field larger than field limit",
    ),
    Case(
        "size",
        "labels with a field of 200,000 letters",
        text("a.csv", f"sample,label\n{LONG},cat\n"),
        answers("a.csv"),
        "field larger than field limit",
    ),
    Case(
        "size",
        "labels whose header is 200,000 letters",
        text("a.csv", f"{LONG},label\n"),
        answers("a.csv"),
        "field larger than field limit",
    ),
    Case(
        "size",
        "labels as JSON, 100,000 brackets deep",
        text("a.json", DEEP),
        answers("a.json"),
        "cannot be read as JSON",
    ),
    Case(
        "size",
        "records, 100,000 brackets deep",
        text("records.jsonl", DEEP + "\n"),
        lambda f: read_records(f / "records.jsonl"),
        "is not JSON",
    ),
    Case(
        "size",
        "a round's file, 100,000 brackets deep",
        text(str(ROUND), DEEP),
        lambda f: read_round(f, 0),
        "is not the file of round 0",
    ),
    Case(
        "size",
        "a budget of 100,000 digits",
        lambda f: None,
        lambda f: budget_count("9" * 100_000 + "%", 100),
        "a budget is a number",
    ),
    Case(
        "size",
        "a list with a class number of 100,000 digits",
        text("list.txt", "a/b.png " + "9" * 100_000 + "\n"),
        lambda f: read_list(f / "list.txt", f),
        "it must be a path",
    ),
    # content that is not what it says
    Case(
        "content",
        "an EPS called .jpg, which Pillow gives to another program",
        text("a.jpg", EPS),
        image("a.jpg"),
        "not an image that Pillow knows as",
    ),
    Case(
        "content",
        "CIFAR-10's archive with such an EPS called .jpg",
        lambda f: tar(f, "train/cat/a.jpg", EPS, file="cifar10_jpg.tar.gz"),
        cifar10,
        "not an image that Pillow knows as",
    ),
    Case("content", "a pipe called .png", lambda f: os.mkfifo(f / "a.png"), image("a.png"), "no file"),
    Case("content", "text called .png", text("a.png", "hello"), image("a.png"), "not an image that Pillow knows as"),
    Case("content", "a manifest that is a folder", lambda f: (f / "list.csv").mkdir(), of_manifest, "cannot be read"),
    Case(
        "content",
        "a manifest in another encoding",
        text("list.csv", b"path,label\n\xff\xfe,cat\n"),
        of_manifest,
        "cannot be read as CSV in UTF-8",
    ),
    Case(
        "content",
        "a manifest with a terminal's commands in a name",
        manifest("\x1b[2Ja.png,cat"),
        of_manifest,
        r"\x1b[2Ja.png",
    ),
    Case(
        "content",
        "a manifest with a column twice",
        text("list.csv", "path,label,label\na.png,cat,dog\n"),
        of_manifest,
        'two columns "label"',
    ),
    Case(
        "content",
        "a manifest with a quote that is never closed",
        manifest('"a.png,cat\nb.png,dog'),
        of_manifest,
        "a quote is opened and never closed",
    ),
    Case(
        "content",
        "labels that are a workbook of a spreadsheet",
        text("a.csv", b"PK\x03\x04..."),
        answers("a.csv"),
        "is a workbook",
    ),
    Case(
        "content",
        "labels with a column twice",
        text("a.csv", "sample,label,Label\n1,cat,dog\n"),
        answers("a.csv"),
        'two columns "label"',
    ),
    Case(
        "content",
        "labels as JSON with a key twice",
        text("a.json", '[{"sample": "1", "label": "cat", "label": "dog"}]'),
        answers("a.json"),
        'two values of "label"',
    ),
    Case(
        "content",
        "a run's description of its data that is a list",
        text("data.json", "[]"),
        read_data_record,
        "is no description of a run's data",
    ),
    Case(
        "size",
        "a run's description of its data, 100,000 brackets deep",
        text("data.json", DEEP),
        read_data_record,
        "cannot be read",
    ),
    Case(
        "content",
        "a log of labels with a batch that is infinite, where the current network is looked for",
        reverted,
        current_network,
        "is no line of a label log",
    ),
    Case(
        "content",
        "a HEIC called .jpg",
        text("a.jpg", b"\0\0\0\x18ftypheic" + bytes(40)),
        image("a.jpg"),
        "it is HEIC: save it as JPEG or PNG",
    ),
    Case(
        "content",
        "a header that is no Python",
        text("a.npy", npy("((((")),
        features("a.npy"),
        "cannot be read as a NumPy array",
    ),
    Case(
        "content",
        "a MATLAB file cut short",
        text("a.mat", b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + b"\x0e\0\0\0\xff\xff\xff\x7f"),
        features("a.mat"),
        "cannot be read as a MATLAB file",
    ),
    Case(
        "content",
        "records that are no objects",
        text("records.jsonl", "[1]\n"),
        lambda f: read_records(f / "records.jsonl"),
        "is not JSON",
    ),
    Case(
        "content",
        "a label log with a batch that is infinite",
        text("l.jsonl", '{"event": "undo", "batch": Infinity}\n'),
        lambda f: LabelLog(f / "l.jsonl"),
        "is no line of a label log",
    ),
    Case(
        "content",
        "a log of tasks with a batch that is infinite",
        text("a.jsonl", '{"batch": Infinity}\n'),
        lambda f: RequestLog(f / "a.jsonl"),
        "is no line of a log of tasks",
    ),
    Case(
        "content",
        "a round's file that is a list",
        text(str(ROUND), "[]"),
        lambda f: read_round(f, 0),
        "is not the file of round 0",
    ),
    Case(
        "content",
        "a round's file whose record is text",
        text(str(ROUND), json.dumps({"settings": {}, "record": "a", "answers": [], "labelled": [], "generator": None})),
        lambda f: read_round(f, 0),
        "is not the file of round 0",
    ),
    Case(
        "content",
        "Label Studio's export that is an object",
        text("a.json", "{}"),
        answers("a.json"),
        "is no export of Label Studio",
    ),
    Case(
        "content",
        "a network's file that is a list",
        lambda f: torch.save([1], f / "model.pt"),
        load_model,
        "cannot be read as a checkpoint",
    ),
    Case(
        "content",
        "a network's file without a network",
        lambda f: torch.save({}, f / "model.pt"),
        load_model,
        "nothing says of what network",
    ),
    Case(
        "content",
        "a network whose weights are numbers",
        lambda f: trained(f, lambda s: s.update(weights={"a": 1})),
        load_model,
        "its weights are no tensors",
    ),
    Case(
        "content",
        "a network with settings of another kind",
        lambda f: trained(f, lambda s: s["network"].update(dropout="x")),
        load_model,
        "does not fit this version's networks",
    ),
    Case(
        "content",
        "a network whose kernels are text",
        lambda f: torch.save({"kernels": {"a": "b"}}, f / "model.pt"),
        load_kernels,
        "kernels that are no tensors",
    ),
)


def line_of(case: Case, folder: Path) -> str:
    """The one line that the case gives, with `folder` left out of it. Raises AssertionError if it gives none."""
    case.make(folder)
    try:
        case.read(folder)
    except UserError as error:
        return str(error).replace(f"{folder}/", "").replace(str(folder), ".")
    raise AssertionError(f"{case.name} was taken")


def table() -> str:
    """All cases and their lines, as Markdown."""
    rows = ["| | what is tried | the line it gives |", "|---|---|---|"]
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            line = line_of(case, Path(folder).resolve())
        shown = re.sub(r"(.)\1{20,}", r"\1\1\1...", line)
        rows.append(f"| {case.kind} | {case.name} | `{shown.replace('|', ' ').replace('`', ' ')}` |")
    return "\n".join(rows) + "\n"


def main() -> None:
    """Write the table between its marks."""
    before, rest = PAGE.read_text(encoding="utf-8").split(MARKS[0])
    _, after = rest.split(MARKS[1])
    PAGE.write_text(f"{before}{MARKS[0]}\n\n{table()}\n{MARKS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
