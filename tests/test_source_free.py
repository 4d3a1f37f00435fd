"""What is kept of a source: sums against loops, a core-set against chance, training without samples, hostile files."""

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import TensorDataset

from active import STRATEGIES, Query
from dan import DAN, fit
from dan.__main__ import main
from dan.errors import UserError
from dan.mmd import mmd2
from dan.mmd.random_features import random_feature_mmd2
from dan.run_dir import read_records
from dan.source_free import KeptSource, _shares, keep_source, read_kept
from dan.training.config import TrainConfig

QUICK = TrainConfig(batch_size=8, lr=0.05, evaluate_every=50, feature_map=False)


def images(count: int, seed: int = 0, classes: int = 3) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, classes, (count,), generator=generator)
    x = torch.randn(count, 1, 8, 8, generator=generator)
    return TensorDataset(x + y[:, None, None, None], y)


def network(seed: int = 0) -> DAN:
    torch.manual_seed(seed)
    return DAN("lenet", 3, layers=(6,))


@pytest.fixture(scope="module")
def model() -> DAN:
    model = network()
    with torch.no_grad():
        for seed in range(3):  # batch norm that has seen something
            model(images(40, seed).tensors[0])
    return model.eval()


@pytest.fixture(scope="module")
def source() -> TensorDataset:
    return images(120)


@pytest.fixture(scope="module")
def kept(model: DAN, source: TensorDataset) -> KeptSource:
    return keep_source(model, source, 30)


@torch.no_grad()
def features(model: DAN, x: Tensor) -> Tensor:
    return model.eval()(x).features


def test_the_core_set_is_the_backbones_outputs(model: DAN, source: TensorDataset) -> None:
    x, y = source.tensors
    for stage, stop, width in (("conv1", 1, (10, 4, 4)), ("conv2", 2, (20, 4, 4)), (None, 3, (128,))):
        kept = keep_source(model, source, 30, stage=stage)
        assert kept.after_stages == stop and kept.z.shape == (30, *width)
        with torch.no_grad():
            outputs = model.backbone.run(x, stop=stop).flatten(1)
        rows = [int((outputs - z).abs().sum(1).argmin()) for z in kept.z.flatten(1)]
        assert rows == sorted(set(rows))  # samples of the source, none twice, in its order
        torch.testing.assert_close(outputs[rows], kept.z.flatten(1), rtol=1e-5, atol=1e-5)
        assert torch.equal(y[rows], kept.y)


def test_means_and_counts(model: DAN, source: TensorDataset, kept: KeptSource) -> None:
    x, y = source.tensors
    f = features(model, x)
    for c in range(3):
        assert int(kept.counts[c]) == int((y == c).sum())
        torch.testing.assert_close(kept.means[c], torch.stack([f[i] for i in range(120) if y[i] == c]).mean(0))


def test_the_embedding_gives_mmd_without_the_source(model: DAN, source: TensorDataset, kept: KeptSource) -> None:
    """The same estimate as from all samples, with the same frequencies; within its own error of the exact MMD^2."""
    f, g = features(model, source.tensors[0]), features(model, images(50, 9).tensors[0] + 0.5)
    again = random_feature_mmd2(
        f, g, kept.kernel, features=kept.frequencies.shape[1], generator=torch.Generator().manual_seed(0)
    )
    said, error = kept.mmd2(g)
    assert (said, error) == pytest.approx(again, abs=1e-6)
    assert abs(said - float(mmd2(f.double(), g.double(), kept.kernel))) < 5 * error
    biased, error = kept.mmd2(g, estimator="biased")
    assert abs(biased - float(mmd2(f.double(), g.double(), kept.kernel, estimator="biased"))) < 5 * error
    # The definition: the squared distance of the means of cos and sin.
    w, c = kept.frequencies, kept.centre.double()
    waves = [torch.cat([(z.double() - c) @ w, (z.double() - c) @ w - torch.pi / 2], 1).cos().mean(0) for z in (f, g)]
    assert biased == pytest.approx(float((waves[0] - waves[1]).square().sum() / w.shape[1]), rel=1e-5)


def test_the_core_set_is_nearer_to_the_source_than_chance(model: DAN, source: TensorDataset, kept: KeptSource) -> None:
    x, y = source.tensors
    f = features(model, x).double()
    chosen = float(mmd2(f, kept.features(model)[0].double(), kept.kernel, estimator="biased"))
    generator = torch.Generator().manual_seed(0)
    drawn = []
    for _ in range(20):
        rows = [
            (y == c).nonzero()[:, 0][
                torch.randperm(int((y == c).sum()), generator=generator)[: int((kept.y == c).sum())]
            ]
            for c in range(3)
        ]
        drawn.append(float(mmd2(f, f[torch.cat(rows)], kept.kernel, estimator="biased")))
    assert chosen < min(drawn) and chosen < 0.5 * sum(drawn) / 20


@settings(max_examples=60)
@given(st.lists(st.integers(0, 40), min_size=2, max_size=6), st.data())
def test_classes_keep_their_shares(counts: list[int], data: st.DataObject) -> None:
    total, present = sum(counts), sum(n > 0 for n in counts)
    if total < 2:
        return
    count = data.draw(st.integers(max(2, present), total))
    shares = _shares(torch.tensor(counts), count, total)
    assert sum(shares) == count
    assert all(min(1, n) <= share <= n for share, n in zip(shares, counts, strict=True))
    if all(n * count >= total for n in counts):  # where nobody needs the minimum: rounding, and no more
        assert all(abs(share - n * count / total) < 1 for share, n in zip(shares, counts, strict=True))


def test_training_on_all_of_it_is_training_on_the_source(model: DAN, source: TensorDataset) -> None:
    """Kept whole, the core-set is the source: the same bits as with the source's own cached outputs."""
    target, weights = images(40, 7), model.state_dict()
    ends = []
    for data in (source, keep_source(model, source, 120).source):
        again = DAN("lenet", 3, layers=(6,), frozen=["conv1", "conv2", "fc1"], weights=weights)
        records = fit(
            again, data, target, trade_off=1.0, steps=6, seed=0, config=QUICK, cache=True, tests={"t": target}
        )
        ends.append((again.state_dict(), records[-1]["accuracy/t"]))
    # The cache runs batches of 64, and what is kept 500: equal up to rounding.
    for name, value in ends[0][0].items():
        torch.testing.assert_close(value, ends[1][0][name], rtol=1e-3, atol=1e-5)
    assert ends[0][1] == ends[1][1]


def test_only_what_is_after_the_kept_stage_trains(model: DAN, source: TensorDataset) -> None:
    kept = keep_source(model, source, 30, stage="conv1")
    again = DAN("lenet", 3, layers=(6,), frozen=["conv1"], weights=model.state_dict())
    fit(again, kept.source, images(40, 7), trade_off=1.0, steps=3, seed=0, config=QUICK)
    moved = {name.split(".")[1] for name, p in again.named_parameters() if not torch.equal(p, model.state_dict()[name])}
    assert {"conv2", "fc1"} <= moved and "conv1" not in moved
    kept.check(again)
    assert torch.equal(kept.features(again)[1], kept.y)


def test_a_backbone_that_trains_or_is_another_is_refused(kept: KeptSource, model: DAN) -> None:
    with pytest.raises(UserError, match="kept as outputs of the stage fc1: freeze the backbone up to it"):
        fit(network(), kept.source, images(9), trade_off=1.0, steps=1, seed=0, config=QUICK)
    other = network(1)
    other.freeze(up_to="fc1")
    for refused in (kept.features, kept.check, kept.under):
        with pytest.raises(UserError, match="other weights than this network's first 3 stages"):
            refused(other)
    with pytest.raises(UserError, match="other weights"):
        replace(kept, after_stages=9).check(model)


def test_where_a_source_cannot_be_kept(model: DAN, source: TensorDataset) -> None:
    for count in (2, 121):
        with pytest.raises(UserError, match=rf"of 3 classes has 3 to 120 of them, not {count}"):
            keep_source(model, source, count)
    with pytest.raises(UserError, match='no stage "conv"'):
        keep_source(model, source, 9, stage="conv")
    captured = DAN("lenet", 3, layers=(6,), capture=["conv2"])
    assert keep_source(captured, source, 9).after_stages == 2
    with pytest.raises(UserError, match="conv2 before it is aligned"):
        keep_source(captured, source, 9, stage="fc1")
    adapted = DAN("lenet", 3, layers=(6,), adapters="residual")
    with pytest.raises(UserError, match="adapters"):
        keep_source(adapted, source, 9)


@pytest.mark.parametrize("name", ["mmd_reduction", "representative"])
def test_strategies_run_on_what_is_kept(name: str, model: DAN, kept: KeptSource) -> None:
    f, y = kept.features(model)
    assert f.shape == (30, 6)
    seen = {"source_features": f, "source_targets": y, "features": features(model, images(25, 5).tensors[0])}
    asked = STRATEGIES[name](Query(ids=torch.arange(25), **seen), 4, generator=torch.Generator().manual_seed(0))
    assert len(set(asked.tolist())) == 4


def test_under_a_network_that_has_trained_on(model: DAN, kept: KeptSource, source: TensorDataset) -> None:
    again = DAN("lenet", 3, layers=(6,), frozen=["conv1", "conv2", "fc1"], weights=model.state_dict())
    fit(again, kept.source, images(40, 7), trade_off=1.0, steps=4, seed=0, config=QUICK)
    now = kept.under(again)
    f, y = now.features(again)
    assert torch.equal(now.z, kept.z) and now.counts.tolist() == torch.bincount(y, minlength=3).tolist()
    torch.testing.assert_close(now.means[1], f[y == 1].mean(0))
    assert now.mmd2(f, estimator="biased")[0] == pytest.approx(0, abs=1e-9)
    assert kept.mmd2(f, estimator="biased")[0] > 1e-4


def test_the_file_keeps_every_bit(tmp_path: Path, kept: KeptSource) -> None:
    kept.save(tmp_path / "source.pt")
    for path in (tmp_path, tmp_path / "source.pt"):
        again = read_kept(path)
        for name, value in vars(kept).items():
            other = getattr(again, name)
            assert torch.equal(other, value) if isinstance(value, Tensor) else other == value


def _bomb(folder: Path) -> Any:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (folder / "exploded",))

    return Bomb()


HOSTILE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no dict": lambda found: [found],
    "a key less": lambda found: {name: value for name, value in found.items() if name != "means"},
    "a key more": lambda found: {**found, "more": 1},
    "another version": lambda found: {**found, "format": 2},
    "a version that is a tensor": lambda found: {**found, "format": torch.ones(2)},
    "no stage": lambda found: {**found, "after_stages": 0},
    "stages in words": lambda found: {**found, "after_stages": "3"},
    "no digest": lambda found: {**found, "backbone": 5},
    "text for a tensor": lambda found: {**found, "means": "many"},
    "NaN": lambda found: {**found, "means": found["means"] * float("nan")},
    "infinity": lambda found: {**found, "z": found["z"] / 0},
    "labels that are floats": lambda found: {**found, "y": found["y"].float()},
    "a class too many": lambda found: {**found, "y": found["y"] + 1},
    "negative counts": lambda found: {**found, "counts": found["counts"] - 100},
    "counts below the core-set": lambda found: {**found, "counts": found["counts"] * 0},
    "fewer labels": lambda found: {**found, "y": found["y"][:-1].clone()},
    "no samples": lambda found: {**found, "z": found["z"][:0].clone(), "y": found["y"][:0].clone()},
    "another width": lambda found: {**found, "frequencies": found["frequencies"][:-1].clone()},
    "a flat embedding": lambda found: {**found, "embedding": found["embedding"].flatten()},
    "a scalar": lambda found: {**found, "z": torch.tensor(1.0)},
    "a negative bandwidth": lambda found: {**found, "bandwidths": -found["bandwidths"]},
    "weights that are none": lambda found: {**found, "weights": found["weights"] * 3},
    "a vast view of nothing": lambda found: {**found, "z": torch.zeros(1).expand(10**9, 10**6)},
    "a tensor without content": lambda found: {**found, "z": torch.empty(30, 128, device="meta")},
    "a sparse tensor": lambda found: {**found, "means": found["means"].to_sparse()},
    "a complex one": lambda found: {**found, "embedding": found["embedding"].to(torch.complex64)},
    "a parameter": lambda found: {**found, "means": torch.nn.Parameter(found["means"])},
}


@pytest.mark.parametrize("change", HOSTILE)
def test_hostile_content_is_one_line(tmp_path: Path, kept: KeptSource, change: str) -> None:
    kept.save(tmp_path / "source.pt")
    found = torch.load(tmp_path / "source.pt", weights_only=True)
    torch.save(HOSTILE[change](found), tmp_path / "source.pt")
    with pytest.raises(UserError, match=r"is no kept source|cannot be read") as caught:
        read_kept(tmp_path)
    assert "\n" not in str(caught.value)


def test_nothing_in_the_file_is_executed(tmp_path: Path, kept: KeptSource) -> None:
    torch.save({**vars(kept), "format": 1, "backbone": _bomb(tmp_path)}, tmp_path / "source.pt")
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        read_kept(tmp_path)
    assert not (tmp_path / "exploded").exists()
    (tmp_path / "source.pt").write_bytes(b"PK torn")
    with pytest.raises(UserError, match="cannot be read"):
        read_kept(tmp_path)
    with pytest.raises(UserError, match="--coreset-size"):
        read_kept(tmp_path / "nowhere")


# The command line, on files of features: the source's file is gone when the target's training begins.

FLAGS = ["--batch-size", "8", "--device", "cpu", "--no-feature-map"]


def write(path: Path, shift: float, seed: int, classes: tuple[int, ...] = (0, 1, 2), width: int = 4) -> str:
    rng = np.random.default_rng(seed)
    y = np.array(classes)[np.arange(90) % len(classes)]
    x = 0.5 * rng.standard_normal((90, width))
    x[np.arange(90), y] += 2
    x[:, 3] += shift
    np.savez(path, x=x.astype(np.float32), y=y)
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source-only run that kept its source, whose file is removed."""
    folder = tmp_path_factory.mktemp("door")
    source, target = write(folder / "source.npz", 0.0, 0), write(folder / "target.npz", 2.0, 1)
    words = ["train", "folders", "--source", source, "--target", target, "--layers", "8", "--steps", "60"]
    before = sys.argv
    sys.argv = [
        "dan",
        *words,
        *FLAGS,
        "--trade-off",
        "0",
        "--coreset-size",
        "12",
        "--run",
        str(folder / "run"),
        "--quiet",
    ]
    try:
        assert main() == 0
    finally:
        sys.argv = before
    Path(source).unlink()
    return folder / "run"


Door = Callable[..., tuple[int, str, str]]


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Door:
    def call(*words: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dan", *map(str, words)])
        code = main()
        return code, *capsys.readouterr()

    return call


def test_the_command_adapts_without_the_source(run: Path, door: Door, tmp_path: Path) -> None:
    first = read_kept(run)
    assert len(first.y) == 12 and torch.bincount(first.y).tolist() == [4, 4, 4]
    assert read_records(run / "records.jsonl")[0].get("keep_source") is None

    new = write(tmp_path / "new.npz", 2.0, 2)
    words = ["train", "folders", "--target", new, "--source-free", run, "--weights", run, "--steps", "40", *FLAGS]
    code, out, err = door(*words, "--run", tmp_path / "adapted")
    assert (code, err) == (0, "")
    assert "unbiased MMD^2 between the kept source and the target: 0." in out
    header, *_, last, _done = read_records(tmp_path / "adapted" / "records.jsonl")
    assert header["source_free"] == {"run": "run", "samples": 12, "after_stages": 1}
    assert (header["shape"], header["class_counts"], header["layers"]) == ([4], [30, 30, 30], [8])
    assert last["accuracy/target"] > 0.9 and "accuracy/source_test" not in last

    code, out, err = door("evaluate", tmp_path / "adapted")
    assert code == 0 and f"target       {100 * last['accuracy/target']:6.2f} % accuracy" in out
    # And from the adapted network to the next target.
    again = write(tmp_path / "next.npz", 1.0, 3)
    words = ["train", "folders", "--target", again, "--source-free", tmp_path / "adapted", "--steps", "4", *FLAGS]
    assert door(*words, "--quiet", "--run", tmp_path / "third") == (0, "", "")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "needs --target"),
        (["--target", "TARGET", "--source", "TARGET"], "--source has no use"),
        (["--target", "OTHER"], "only in"),
        (["--target", "WIDE"], r"samples of shape \[5\]"),
        (["--target", "TARGET", "--layers", "9"], "leave out --layers"),
        (["--target", "TARGET", "--freeze-up-to", "all"], "leave out --freeze-up-to"),
        (["--target", "TARGET", "--weights", "TARGET"], "leave out --weights"),
        (["--target", "TARGET", "--source-weights", "kmm"], "--source-weights needs the source"),
        (["--target", "TARGET", "--coreset-size", "5"], "--coreset-size needs the source"),
        (["--target", "TARGET", "--coreset-stage", "features"], "--coreset-stage requires --coreset-size"),
        (["--target", "TARGET", "--select-fraction", "0.3"], "--select-fraction requires --source-weights select"),
        (["--target", "TARGET", "--tune", "2"], "--source-holdout"),
    ],
)
def test_mistakes_at_the_door(run: Path, door: Door, tmp_path: Path, flags: list[str], words: str) -> None:
    files = {
        "TARGET": write(tmp_path / "target.npz", 1.0, 3),
        "OTHER": write(tmp_path / "other.npz", 1.0, 3, classes=(0, 1)),
        "WIDE": write(tmp_path / "wide.npz", 1.0, 3, width=5),
    }
    command = ["train", "folders", "--source-free", run, *[files.get(flag, flag) for flag in flags], *FLAGS, "--quiet"]
    code, out, err = door(*command, "--run", tmp_path / "new")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert re.search(words, err), err
    assert not (tmp_path / "new").exists()


def test_a_run_that_kept_nothing(run: Path, door: Door, tmp_path: Path) -> None:
    for name in ("records.jsonl", "model.pt"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    code, _, err = door("train", "folders", "--target", "x.npz", "--source-free", tmp_path)
    assert code == 2 and "train with --coreset-size" in err
