"""Weights: real files fit and give torchvision's features; everything that doesn't fit is one clear line."""

from pathlib import Path

import pytest
import torch
from torchvision.models import get_model, get_model_weights

from dan import DAN
from dan.errors import UserError
from dan.models.model_file import save_model
from dan.models.pretrained import read_state
from dan.models.registry import build_backbone

FILES = {
    "squeezenet1_1": "squeezenet1_1_caffe_as_torchvision.pth",
    "mobilenet_v2": "mobilenet_v2_from_keras_int8_as_torchvision.pth",
}


@pytest.fixture(scope="module")
def weights_folder(data_folder: Path) -> Path:
    folder = data_folder / "weights"
    if not folder.is_dir():
        pytest.skip(f"no real weights: {folder} is not a folder")
    return folder


@pytest.fixture
def empty_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A torch hub whose cache is empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub"


@pytest.mark.parametrize(("name", "file"), FILES.items())
def test_real_weights_give_torchvisions_features(weights_folder: Path, name: str, file: str) -> None:
    model = get_model(name)
    model.load_state_dict(torch.load(weights_folder / file, weights_only=True))
    backbone = build_backbone(name, weights_folder / file).eval()
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(backbone(x), model.eval().features(x).mean((2, 3)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "other"), [("squeezenet1_1", "mobilenet_v2"), ("mobilenet_v2", "squeezenet1_1")])
def test_weights_of_another_architecture(weights_folder: Path, name: str, other: str) -> None:
    with pytest.raises(UserError, match=f'missing.*unexpected.*they are weights of "{other}"') as caught:
        build_backbone(name, str(weights_folder / FILES[other]))
    assert "\n" not in str(caught.value)


def test_the_backbones_own_names_and_a_trained_networks_file(tmp_path: Path) -> None:
    model = DAN("lenet", 10)
    torch.save(model.backbone.state_dict(), tmp_path / "backbone.pt")
    save_model(tmp_path / "run" / "model.pt", model)
    for path in (tmp_path / "backbone.pt", tmp_path / "run" / "model.pt", tmp_path / "run"):  # the last: a run's folder
        again = DAN("lenet", 4, pretrained=path).backbone.state_dict()
        assert again.keys() == model.backbone.state_dict().keys()
        assert all(torch.equal(again[key], value) for key, value in model.backbone.state_dict().items())
    assert not torch.equal(build_backbone("lenet", "none").state_dict()["conv1.0.weight"], again["conv1.0.weight"])


def test_other_classes_and_old_files_fit(tmp_path: Path) -> None:
    """A classifier of any width is left out; counters of batches, which old files lack, keep their value."""
    model = get_model("resnet18", num_classes=31)
    state = {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    backbone = build_backbone("resnet18", tmp_path / "old.pth")
    assert torch.equal(backbone.get_parameter("layer4.1.conv2.weight"), model.layer4[1].conv2.weight)
    assert torch.equal(backbone.get_parameter("conv1.0.weight"), model.conv1.weight)


def test_torchvisions_name_is_looked_up_in_the_hubs_cache(empty_hub: Path) -> None:
    url = get_model_weights("squeezenet1_1")["DEFAULT"].url
    model = get_model("squeezenet1_1")
    (empty_hub / "checkpoints").mkdir(parents=True)
    torch.save(model.state_dict(), empty_hub / "checkpoints" / url.rsplit("/", 1)[-1])
    for name in ("DEFAULT", "IMAGENET1K_V1"):
        backbone = build_backbone("squeezenet1_1", name)
        assert torch.equal(backbone.get_parameter("conv1.0.weight"), model.features[0].weight)


def test_an_offline_machine_is_told_what_to_fetch_and_where_to_put_it(
    empty_hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.setenv(name, "" if name == "no_proxy" else "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(UserError, match="cannot be downloaded") as caught:
        build_backbone("resnet18", "DEFAULT")
    assert "fetch resnet18-f37072fd.pth from https://" in str(caught.value)
    assert str(empty_hub / "checkpoints") in str(caught.value) and "\n" not in str(caught.value)
    assert not list((empty_hub / "checkpoints").iterdir())


def test_nan_weights_are_refused(tmp_path: Path) -> None:
    state = build_backbone("lenet").state_dict()
    state["conv2.0.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, tmp_path / "bad.pt")
    with pytest.raises(UserError, match=r"NaN or infinite weights \(conv2.0.weight\)"):
        build_backbone("lenet", tmp_path / "bad.pt")


def test_another_width_is_named(tmp_path: Path) -> None:
    torch.save(build_backbone("lenet:3").state_dict(), tmp_path / "rgb.pt")
    with pytest.raises(UserError, match=r"conv1.0.weight of shape \(10, 3, 5, 5\) instead of \(10, 1, 5, 5\)"):
        build_backbone("lenet", tmp_path / "rgb.pt")


def test_what_is_no_state_dict(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "other.pt")
    torch.save(build_backbone("lenet"), tmp_path / "module.pt")  # a pickle: reading it would run code
    (tmp_path / "torn.pt").write_bytes((tmp_path / "other.pt").read_bytes()[:100])
    with pytest.raises(UserError, match="no state dict of tensors"):
        read_state(tmp_path / "other.pt")
    for name in ("module.pt", "torn.pt"):
        with pytest.raises(UserError, match="cannot be read as weights"):
            read_state(tmp_path / name)
    with pytest.raises(UserError, match="there is no weights file"):
        build_backbone("lenet", tmp_path / "absent.pt")


def test_names_of_weights_that_nobody_publishes() -> None:
    with pytest.raises(UserError, match='nobody publishes weights "DEFAULT" for lenet'):
        build_backbone("lenet", "DEFAULT")
    with pytest.raises(UserError, match='did you mean "IMAGENET1K_V2"'):
        build_backbone("resnet50", "IMAGENET_V2")
    with pytest.raises(ValueError, match="by name"):
        DAN(torch.nn.Flatten(), 3, pretrained="DEFAULT")
