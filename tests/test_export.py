"""export and release: what leaves a run gives the network's own logits, and holds what is the run's own alone."""

import hashlib
import json
import re
from importlib.util import find_spec
from pathlib import Path
from shutil import copy

import pytest
import torch
import tyro
from test_evaluate import trained, trees

from dan import DAN, evaluate
from dan.cli import export
from dan.cli.evaluate import Evaluate, evaluate_run
from dan.cli.export import Export, export_run
from dan.data.tasks import DomainPair, load_pair
from dan.errors import UserError
from dan.models.model_file import load_kernels, load_model, save_model
from dan.run_dir import read_records, read_tensors
from experiments.publish_checkpoint import PublishCheckpoint, command_of, publish_checkpoint


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DomainPair]:
    task = load_pair("rendered2digits")
    return trained(tmp_path_factory.mktemp("digits") / "run", task, backbone="lenet"), task


def test_the_exported_program_gives_the_logits(
    digits: tuple[Path, DomainPair], capsys: pytest.CaptureFixture[str]
) -> None:
    run, task = digits
    export_run(Export(run=run))
    assert "(batch, 1, 16, 16) -> logits (batch, 10)" in capsys.readouterr().out
    note = {export.NOTE: ""}
    program = torch.export.load(run / "model.pt2", extra_files=note).module()
    model = load_model(run)
    for count in (1, 3, 64):  # sizes other than those that export looked at
        x = torch.stack([task.target[i][0] for i in range(count)])
        assert torch.allclose(program(x), model(x).logits, atol=1e-5)
    said = json.loads(note[export.NOTE])
    assert said["classes"] == list(task.classes) and said["normalisation"] == "half" and said["shape"] == [1, 16, 16]


@pytest.mark.parametrize("backbone", ["conv1d", "features"])
def test_signals_and_vectors_are_exported_too(tmp_path: Path, backbone: str) -> None:
    torch.manual_seed(0)
    shape = (1, 32) if backbone == "conv1d" else (6,)
    model = DAN(backbone, 3, layers=(8,), dropout=0.5)
    model(torch.randn(4, *shape))  # a backbone of vectors learns its width from the first batch
    save_model(tmp_path / "model.pt", model)
    about = {"event": "settings", "kind": "vector", "classes": ["a", "b", "c"], "shape": shape, "normalisation": None}
    (tmp_path / "records.jsonl").write_text(json.dumps(about) + "\n")
    export_run(Export(run=tmp_path, out=tmp_path / "other.pt2"))
    x = torch.randn(7, *shape)
    assert torch.allclose(torch.export.load(tmp_path / "other.pt2").module()(x), model.eval()(x).logits, atol=1e-5)


def test_a_file_that_says_something_else_is_removed(
    digits: tuple[Path, DomainPair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _task = digits
    honest = export.as_pt2

    def wrong(network: torch.nn.Module, samples: torch.Tensor, note: str) -> bytes:
        return honest(torch.nn.Sequential(network, torch.nn.Softmax(1)), samples, note)

    monkeypatch.setattr(export, "as_pt2", wrong)
    with pytest.raises(RuntimeError, match="other logits"):
        export_run(Export(run=run, out=tmp_path / "wrong.pt2"))
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported(
    digits: tuple[Path, DomainPair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _task = digits
    with pytest.raises(UserError, match=r'exported as .pt2 or .onnx, not ".pt"'):
        export_run(Export(run=run, out=tmp_path / "model.pt"))
    with pytest.raises(UserError, match="does not exist"):
        export_run(Export(run=tmp_path / "nowhere", out=tmp_path / "model.pt2"))
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'needs onnx and onnxscript: pip install "active-dan\[onnx\]"'):
        export_run(Export(run=run, out=tmp_path / "model.onnx"))
    assert not list(tmp_path.iterdir())


# torch's exporter, and what it imports, warn of their own future.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.skipif(
    find_spec("onnx") is None or find_spec("onnxscript") is None, reason='needs pip install "active-dan[onnx]"'
)
def test_onnx(digits: tuple[Path, DomainPair], tmp_path: Path) -> None:
    import onnx

    run, task = digits
    export_run(Export(run=run, out=tmp_path / "model.onnx"))
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]  # no weights beside it
    proto = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(proto)
    (inputs,), (logits,) = proto.graph.input, proto.graph.output
    assert (inputs.name, logits.name) == ("inputs", "logits")
    assert not inputs.type.tensor_type.shape.dim[0].HasField("dim_value")  # any size of the batch
    x = torch.stack([task.target[i][0] for i in range(64)])
    network = export.logits_of(load_model(run))
    assert torch.allclose(export._loaded(tmp_path / "model.onnx")(x), network(x), atol=1e-4)
    assert json.loads({entry.key: entry.value for entry in proto.metadata_props}[export.NOTE])["task"] == task.name


def released(run: Path, out: Path, **options: object) -> Path:
    publish_checkpoint(PublishCheckpoint(run=run, name="small", out=out, **options))  # type: ignore[arg-type]
    return out / "small"


def test_a_released_digit_network(
    digits: tuple[Path, DomainPair], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, task = digits
    folder = released(run, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "model.pt", "records.jsonl"]
    assert load_kernels(run) and not load_kernels(folder)  # training's own
    records, all_records = read_records(folder / "records.jsonl"), read_records(run / "records.jsonl")
    assert records == [all_records[0], *all_records[-2:]]
    card = (folder / "README.md").read_text()
    assert hashlib.sha256((folder / "model.pt").read_bytes()).hexdigest() in card
    for split in task.splits:
        assert f"| {split} | {100 * records[1][f'accuracy/{split}']:.2f} % |" in card
    assert command_of(records[0]) in card and "seed 0" in card and str(run) not in card

    capsys.readouterr()
    evaluate_run(Evaluate(run=folder, out=tmp_path / "evaluation", device="cpu"))
    said = capsys.readouterr().out
    for split, data in task.splits.items():
        accuracy = evaluate(load_model(run), data).accuracy
        assert re.search(rf"^{split} +{100 * accuracy:.2f} % accuracy", said, re.MULTILINE)


def test_the_command_on_the_card_is_the_run(digits: tuple[Path, DomainPair]) -> None:
    """Parsed by the command line itself, it gives the settings back."""
    from dan.__main__ import Train

    settings = read_records(digits[0] / "records.jsonl")[0]
    settings |= {"steps": 7, "seed": 3, "trade_off": 0.5, "align": ["hidden1", "output"], "lr_mults": ["conv1=0.1"]}
    settings |= {"feature_map": False, "bandwidth": "mean", "layers": [32, 16], "dropout": 0.25, "backbone": "lenet:1"}
    settings |= {"weights": "some.pth", "freeze_up_to": "conv1", "options": {"image_size": 32, "augment": True}}
    command = command_of(settings)
    words = command.split()
    assert words[:5] == ["python", "-m", "dan", "train", "rendered2digits"]
    config = tyro.cli(Train, args=words[4:])
    for name in (
        "batch_size",
        "align",
        "lr_mults",
        "feature_map",
        "bandwidth",
        "layers",
        "dropout",
        "weights",
        "num_kernels",
    ):
        assert json.loads(json.dumps(getattr(config, name))) == settings[name], name
    for name in ("task", "steps", "seed", "trade_off", "backbone", "freeze_up_to", "evaluate_every"):
        assert getattr(config, name) == settings[name], name
    assert config.image_size == 32 and config.augment
    assert command_of({"task": "x", "command": "python -m other"}) == "python -m other"


def test_what_cannot_be_released(
    digits: tuple[Path, DomainPair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _task = digits
    with pytest.raises(UserError, match="is no name for a checkpoint"):
        publish_checkpoint(PublishCheckpoint(run=run, name="../up", out=tmp_path / "out"))
    with pytest.raises(UserError, match="is frozen: leave out --weights"):
        released(run, tmp_path / "out", weights=tmp_path / "a.pth")
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    lines = (run / "records.jsonl").read_text().splitlines(keepends=True)
    (unfinished / "records.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(UserError, match="is not finished"):
        released(unfinished, tmp_path / "out")
    task = load_pair("folders", **trees(tmp_path), image_size=16, source_holdout=0.25)
    own = trained(tmp_path / "own", task, backbone="lenet:3", steps=1)
    with pytest.raises(UserError, match="folders of your own"):
        released(own, tmp_path / "out")
    monkeypatch.setattr("experiments.publish_checkpoint.LIMIT", 1000)
    with pytest.raises(UserError, match="and 1,000 may be published"):
        released(run, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


def test_a_frozen_backbone_stays_with_its_publisher(tmp_path: Path) -> None:
    """The checkpoint of a partly frozen network holds the trained parts alone; with the backbone's file it is whole."""
    torch.manual_seed(0)
    published = tmp_path / "published.pth"
    torch.save(DAN("lenet", 2).backbone.state_dict(), published)
    model = DAN(
        "lenet", 3, layers=(8,), pretrained=published, adapters={"kind": "residual", "stages": ["conv1"], "rank": 2}
    )
    model.freeze(["conv1", "conv2"])
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    x = torch.randn(8, 1, 16, 16)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).logits.square().sum().backward()
        optimizer.step()
    save_model(tmp_path / "whole.pt", model)
    save_model(tmp_path / "model.pt", model, backbone_file=published)
    kept = read_tensors(tmp_path / "model.pt", "cpu")["weights"]
    assert kept and not [name for name in kept if name.startswith(("backbone.conv1.", "backbone.conv2."))]
    assert any(name.startswith("adapters.") for name in kept) and any(name.startswith("backbone.fc1.") for name in kept)
    again = load_model(tmp_path, weights=published)
    assert torch.equal(again(x).logits, model.eval()(x).logits)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True))

    digest = hashlib.sha256(published.read_bytes()).hexdigest()
    with pytest.raises(UserError, match=rf"trained parts only: fetch published.pth \(sha256 {digest}\).*--weights"):
        load_model(tmp_path)
    with pytest.raises(UserError, match="there is no file"):
        load_model(tmp_path, weights=tmp_path / "nowhere.pth")
    other = tmp_path / "other.pth"
    torch.save(DAN("lenet", 2).backbone.state_dict(), other)
    with pytest.raises(UserError, match="is not the file"):
        load_model(tmp_path, weights=other)
    with pytest.raises(UserError, match="holds all of its weights"):
        load_model(tmp_path / "whole.pt", weights=published)
    with pytest.raises(UserError, match="is not as in"):
        save_model(tmp_path / "no.pt", model, backbone_file=other)
    model.freeze()
    with pytest.raises(UserError, match="no stage of the backbone is frozen"):
        save_model(tmp_path / "no.pt", model, backbone_file=published)
    saved = read_tensors(tmp_path / "model.pt", "cpu")
    del saved["weights"]["backbone.fc1.1.weight"]
    torch.save(saved, tmp_path / "torn.pt")
    with pytest.raises(UserError, match="does not hold what"):
        load_model(tmp_path / "torn.pt", weights=published)
    assert not (tmp_path / "no.pt").exists()


def test_a_head_on_a_real_frozen_backbone_is_small(data_folder: Path, tmp_path: Path) -> None:
    """SqueezeNet's weights stay out of the repository: the released head has some hundred kilobytes."""
    weights = data_folder / "weights" / "squeezenet1_1_caffe_as_torchvision.pth"
    if not weights.is_file():
        pytest.skip(f"no real weights: {weights} is not a file")
    torch.manual_seed(0)
    model = DAN("squeezenet1_1", 10, layers=(64,), pretrained=weights)
    model.freeze(up_to=list(model.stages)[-1])
    run = tmp_path / "run"
    save_model(run / "model.pt", model)
    settings = {"event": "settings", "task": "office_caltech10_a2w", "seed": 0, "trade_off": 1.0, "steps": 5}
    settings |= {"weights": str(weights), "backbone": "squeezenet1_1", "freeze_up_to": "all"}
    evaluation = {"event": "evaluation", "step": 5, "accuracy/target": 0.5}
    lines = [settings, evaluation, {"event": "done", "step": 5}]
    (run / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = released(run, tmp_path / "out", weights_from="its publisher")
    assert (folder / "model.pt").stat().st_size < 400_000
    text = (folder / "README.md").read_text() + (folder / "records.jsonl").read_text()
    assert str(data_folder) not in text and f"--weights {weights.name}" in text and "from its publisher." in text
    copy(weights, tmp_path / weights.name)
    x = torch.randn(2, 3, 64, 64)
    again = load_model(folder, weights=tmp_path / weights.name)
    assert torch.equal(again(x).logits, model.eval()(x).logits)
