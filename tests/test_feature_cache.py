"""What a frozen backbone says, kept: the same numbers as without, keyed by all that they depend on, safe from
damage."""

import copy
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset, TensorDataset

import dan.feature_cache
from dan import DAN, fit
from dan.data.batches import fetch, iter_batches
from dan.errors import UserError
from dan.feature_cache import cached, fingerprint, stages_run
from dan.models.backbone import Backbone
from dan.models.registry import build_backbone
from dan.training.config import TrainConfig


def samples(count: int = 11, size: int = 32, *, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 5, (count,), generator=generator)
    return TensorDataset(torch.randn(count, 3, size, size, generator=generator), y)


class Named(Dataset):
    """A data set that isn't tensors, as image folders are; with a fingerprint only if it is given one."""

    def __init__(self, data: TensorDataset, name: str | None = None) -> None:
        self.data = data
        if name is not None:
            self.fingerprint = name

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        x, y = self.data[i]
        return x, int(y)


@pytest.fixture(scope="module")
def model() -> DAN:
    torch.manual_seed(0)
    model = DAN("squeezenet1_1", 5, layers=(8,))
    model.freeze(up_to="fire8")
    return model


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one each time that a backbone is really run over a data set."""
    counted: list[int] = []
    real: Callable = dan.feature_cache._outputs

    def counting(*arguments: object) -> object:
        counted.append(1)
        return real(*arguments)

    monkeypatch.setattr(dan.feature_cache, "_outputs", counting)
    return counted


@pytest.mark.parametrize("on_disk", [True, False])
def test_kept_outputs_are_the_networks_bit_for_bit(model: DAN, tmp_path: Path, on_disk: bool) -> None:
    data = samples()
    kept = cached(data, model, folder=tmp_path if on_disk else None, batch_size=4)
    assert (kept.path is not None) == on_disk
    assert model.cached_stages == 8 and kept.tensors[0].shape == (11, 512, 1, 1)
    assert torch.equal(kept.tensors[1], data.tensors[1]) and kept.tensors[1].dtype == torch.long
    model.eval()
    with torch.no_grad():
        for (x, _), (output, _) in zip(iter_batches(data, 4), iter_batches(kept, 4), strict=True):
            assert torch.equal(model(output, start=8).logits, model(x).logits)
    other = cached(data, model, batch_size=11).tensors[0]
    torch.testing.assert_close(other, kept.tensors[0], rtol=1e-5, atol=1e-5)


def test_training_on_what_is_kept_is_training_on_the_data(model: DAN) -> None:
    """The same gradients in the stages that train, and none below."""
    data = samples()
    model.train()
    kept = cached(data, model)
    assert model.training and not model.stages["fire8"].training and model.stages["fire9"].training  # left as it was
    rows, gradients = torch.tensor([3, 1, 7, 7]), []
    for source, start in ((data, 0), (kept, 8)):
        x, y = fetch(source, rows)
        model.zero_grad()
        nn.functional.cross_entropy(model(x, start=start).logits, y).backward()
        gradients.append([p.grad.clone() for group in model.groups().values() for p in group if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 4
    for plain, quick in zip(*gradients, strict=True):
        torch.testing.assert_close(quick, plain, rtol=1e-4, atol=1e-6)


def test_a_part_of_what_is_kept_is_kept_too(model: DAN) -> None:
    """A Subset of outputs goes on where they are: to train on, and to be tested on."""
    kept = cached(samples(), model)
    part = Subset(Subset(kept, range(2, 9)), [0, 3, 5])
    assert stages_run(kept) == stages_run(part) == 8 and stages_run(samples()) == stages_run(None) == 0
    networks = [copy.deepcopy(model) for _ in range(2)]
    rows = torch.tensor([2, 5, 7])
    common = {"trade_off": 0.0, "steps": 1, "seed": 0, "config": TrainConfig(batch_size=2, feature_map=False)}
    told = [
        fit(network, kept, kept, tests={"part": data}, **common)[-1]["accuracy/part"]
        for network, data in zip(networks, (part, kept.rows(rows, kept.tensors[1][rows])), strict=True)
    ]
    assert told[0] == told[1]
    assert fit(networks[0], part, part, **common)[-1]["step"] == 1


def test_the_second_call_reads(model: DAN, tmp_path: Path, runs: list[int]) -> None:
    first = cached(samples(), model, folder=tmp_path)
    again = cached(samples(), model, "fire8", tmp_path)  # the same stage by its name
    assert len(runs) == 1 and again.path == first.path and again.fingerprint == first.fingerprint
    assert torch.equal(again.tensors[0], first.tensors[0]) and torch.equal(again.tensors[1], first.tensors[1])
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".npy"]  # and nothing temporary
    again.tensors[0].zero_()  # what is done to them in memory ...
    assert torch.equal(cached(samples(), model, folder=tmp_path).tensors[0], first.tensors[0])  # ... stays there


def test_the_key_knows_all_that_the_outputs_depend_on(tmp_path: Path, runs: list[int]) -> None:
    def network(seed: int = 0, activation: type[nn.Module] = nn.ReLU) -> Backbone:
        torch.manual_seed(seed)
        stages = {"a": nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), activation()), "b": nn.Conv2d(2, 2, 1)}
        return Backbone(stages)

    data, moved = samples(), network()
    moved.get_buffer("a.1.running_mean").add_(1e-3)
    changed = TensorDataset(data.tensors[0].clone(), data.tensors[1])
    changed.tensors[0][3, 0, 0, 0] += 1e-3
    relabelled = TensorDataset(data.tensors[0], 4 - data.tensors[1])
    kept = [
        cached(data, network(), 1, tmp_path),
        cached(data, network(), 2, tmp_path),
        cached(data, network(1), 1, tmp_path),
        cached(data, network(activation=nn.ELU), 1, tmp_path),
        cached(data, moved, 1, tmp_path),
        cached(changed, network(), 1, tmp_path),
        cached(relabelled, network(), 1, tmp_path),
        cached(Subset(data, [1, 2]), network(), 1, tmp_path),
        cached(Subset(data, [2, 1]), network(), 1, tmp_path),
        cached(data, network(), 1, tmp_path, key_parts=["resize 224"]),
        cached(data, network(), 1, tmp_path, key_parts=["resize", " 224"]),
    ]
    assert len({data.path for data in kept}) == len(runs) == len(kept)
    later = network()
    later.get_parameter("b.weight").data.add_(1)  # a stage above those that are kept
    assert cached(data, later, 1, tmp_path).path == kept[0].path and len(runs) == len(kept)


def test_fingerprints() -> None:
    data = samples()
    assert fingerprint(Named(data)) is None and fingerprint(Subset(Named(data), [1])) is None
    assert fingerprint(Named(data, "office webcam")) == "office webcam"
    assert fingerprint(data) == fingerprint(samples()) != fingerprint(samples(seed=1))
    assert fingerprint(Subset(Named(data, "a"), [1])) != fingerprint(Subset(Named(data, "b"), [1]))
    flat = TensorDataset(data.tensors[0].flatten(1), data.tensors[1])  # the same bytes in another shape
    assert fingerprint(flat) != fingerprint(data)


def test_without_a_fingerprint_nothing_is_written(model: DAN, tmp_path: Path) -> None:
    data = samples()
    kept = cached(Named(data), model, folder=tmp_path / "cache")
    assert kept.path is None and not (tmp_path / "cache").exists()
    assert torch.equal(kept.tensors[0], cached(data, model).tensors[0])
    assert cached(Named(data, "x"), model, folder=tmp_path / "cache").path is not None


@pytest.mark.parametrize("damage", ["torn", "flipped", "empty", "header", "no json", "torn json", "foreign json"])
def test_a_damaged_file_is_made_again(model: DAN, tmp_path: Path, runs: list[int], damage: str) -> None:
    first = cached(samples(), model, folder=tmp_path)
    assert first.path is not None
    whole, about = first.path.read_bytes(), first.path.with_suffix(".json")
    expected = first.tensors[0].clone()
    match damage:
        case "torn":
            first.path.write_bytes(whole[:-5])
        case "flipped":
            first.path.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
        case "empty":
            first.path.write_bytes(b"")
        case "header":
            first.path.write_bytes(b"\x80" + whole[1:])
        case "no json":
            os.remove(about)
        case "torn json":
            about.write_bytes(about.read_bytes()[:9])
        case "foreign json":
            about.write_text("[1, 2]")
    again = cached(samples(), model, folder=tmp_path)
    assert len(runs) == 2 and torch.equal(again.tensors[0], expected) and first.path.read_bytes() == whole
    cached(samples(), model, folder=tmp_path)
    assert len(runs) == 2


def test_a_kill_while_writing_leaves_no_file(model: DAN, tmp_path: Path) -> None:
    class Stops(Named):
        def __getitem__(self, i: int) -> tuple[Tensor, int]:
            if i == 9:
                raise KeyboardInterrupt
            return super().__getitem__(i)

    with pytest.raises(KeyboardInterrupt):
        cached(Stops(samples(), "stops"), model, folder=tmp_path, batch_size=4)
    assert list(tmp_path.iterdir()) == []
    assert not model.stages["conv1"].training


def test_a_folder_that_cannot_be_written(model: DAN, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="name another folder"):
        cached(samples(), model, folder=tmp_path / "file")


def test_values_that_are_not_finite_are_named(model: DAN, tmp_path: Path) -> None:
    data = samples()
    data.tensors[0][7, 0, 0, 0] = float("nan")
    with pytest.raises(UserError, match="sample 7 is NaN or infinite"):
        cached(data, model, folder=tmp_path, batch_size=4)
    assert list(tmp_path.iterdir()) == []


def test_stages_that_train_are_refused(model: DAN) -> None:
    for stop in (9, "pool"):
        with pytest.raises(ValueError, match="only the first 8 stay the same"):
            cached(samples(), model, stop)
    with pytest.raises(ValueError, match="freeze them first"):
        cached(samples(), DAN("squeezenet1_1", 5))
    with pytest.raises(ValueError, match="one class number a sample"):
        cached(TensorDataset(torch.zeros(2, 3, 32, 32), torch.zeros(2, 4)), model)
    with pytest.raises(UserError, match="at least one sample"):
        cached(TensorDataset(torch.zeros(0, 3, 32, 32), torch.zeros(0)), model)
    with pytest.raises(UserError, match='no stage "fire1"'):
        cached(samples(), model, "fire1")


def test_a_backbone_by_itself_and_a_module_of_ones_own(tmp_path: Path) -> None:
    data = samples(size=28)
    backbone = build_backbone("lenet:3").train()
    kept = cached(data, backbone, folder=tmp_path)  # all of it
    assert backbone.training and torch.equal(kept.tensors[0], backbone.eval()(data.tensors[0]))
    own = DAN(nn.Sequential(nn.Flatten(), nn.Linear(3 * 28 * 28, 4)), 3, frozen=["backbone"]).eval()
    kept = cached(data, own, folder=tmp_path)
    assert torch.equal(own(kept.tensors[0], start=1).logits, own(data.tensors[0]).logits)


def test_real_images_run_once(data_folder: Path, tmp_path: Path) -> None:
    """Frozen SqueezeNet on real digits: features that carry the class, the same from the file as from the network."""
    from sklearn.datasets import load_digits

    weights = data_folder / "weights" / "squeezenet1_1_caffe_as_torchvision.pth"
    if not weights.exists():
        pytest.skip(f"no real weights: {weights}")
    pixels, classes = load_digits(return_X_y=True)
    x = torch.from_numpy(pixels[:64]).float().reshape(-1, 1, 8, 8).expand(-1, 3, -1, -1) / 8 - 1
    data = TensorDataset(nn.functional.interpolate(x, scale_factor=8), torch.from_numpy(classes[:64]))
    model = DAN("squeezenet1_1", 10, pretrained=weights)
    model.freeze(model.stages)
    kept = cached(data, model, folder=tmp_path, batch_size=32).tensors[0]
    with torch.no_grad():
        direct = torch.cat([model.backbone.eval()(batch) for batch in data.tensors[0].split(32)])
    assert torch.equal(kept, direct)
    distances = torch.cdist(kept, kept) + torch.eye(64) * 1e9
    nearest = data.tensors[1][distances.argmin(1)]
    assert (nearest == data.tensors[1]).float().mean() > 0.5  # chance is 0.1
