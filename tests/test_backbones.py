"""Backbones: torchvision's own features come out of the stages, whole or in parts; the small ones; errors in one
line."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import get_model

from dan import DAN
from dan.errors import UserError
from dan.models.backbone import Backbone, stage_shapes
from dan.models.registry import BACKBONES, build_backbone, table
from dan.models.torchvision_backbones import NETWORKS, torchvision_backbone

DOCS = Path(__file__).resolve().parents[1] / "docs" / "models.md"
NO_TIMM = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm, an optional extra, is missing")

# What torchvision's model computes before its classifier, said with its own parts.
WITHOUT_CLASSIFIER = {
    "alexnet": lambda m, x: m.classifier[:6](m.avgpool(m.features(x)).flatten(1)),
    "squeezenet1_1": lambda m, x: m.features(x).mean((2, 3)),
    "mobilenet_v2": lambda m, x: m.features(x).mean((2, 3)),
    "resnet18": lambda m, x: nn.Sequential(*list(m.children())[:-1])(x).flatten(1),
}


def images(count: int = 2, size: int = 96, *, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", WITHOUT_CLASSIFIER)
def test_the_features_are_torchvisions(name: str) -> None:
    model, backbone = get_model(name).eval(), torchvision_backbone(name).eval()
    backbone.load_state_dict(
        {backbone.published[key]: v for key, v in model.state_dict().items() if backbone.published[key]}
    )
    with torch.no_grad():
        ours, theirs = backbone(images()), WITHOUT_CLASSIFIER[name](model, images())
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert ours.shape == (2, backbone.out_features) and ours.std() > 0


@pytest.mark.parametrize("name", ["alexnet", "squeezenet1_1", "resnet18"])
def test_training_gradients_are_torchvisions(name: str) -> None:
    model, backbone = get_model(name), torchvision_backbone(name)
    backbone.load_state_dict(
        {backbone.published[key]: v for key, v in model.state_dict().items() if backbone.published[key]}
    )
    torch.manual_seed(1)  # dropout
    WITHOUT_CLASSIFIER[name](model.train(), images(size=64)).square().sum().backward()
    torch.manual_seed(1)
    backbone.train()(images(size=64)).square().sum().backward()
    theirs = dict(model.named_parameters())
    for key, ours in backbone.published.items():
        if ours is not None and key in theirs:
            torch.testing.assert_close(backbone.get_parameter(ours).grad, theirs[key].grad, rtol=1e-4, atol=1e-4)


def test_the_transformer_is_torchvisions_and_takes_its_size_alone() -> None:
    """The same cut on a small transformer: the real one is looked at on the meta device only."""
    from torchvision.models import VisionTransformer

    from dan.models.torchvision_backbones import Embed, _vit

    torch.manual_seed(0)
    model = VisionTransformer(image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32).eval()
    nn.init.normal_(model.class_token)
    backbone = Backbone(_vit(model), tokens=True).eval()
    assert list(backbone.stages) == ["embed", "block1", "block2", "norm"]
    model.heads = nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(backbone(images(size=32)), model(images(size=32)), rtol=1e-5, atol=1e-6)
        tokens = backbone.run(images(size=32), stop=2)
    assert tokens.shape == (2, 17, 16)
    torch.testing.assert_close(backbone.pooled(tokens), tokens[:, 0], rtol=0, atol=0)
    with pytest.raises(UserError, match="32 x 32 pixels alone"):
        Embed(model)(images(size=64))


@pytest.mark.parametrize("name", BACKBONES)
def test_widths_are_what_the_stages_give(name: str) -> None:
    with torch.device("meta"):  # no memory, no computing: the largest ones too
        backbone = build_backbone(name)
    if backbone.input_shape is None:
        assert name == "features" and backbone.out_features is None
        return
    shapes = stage_shapes(backbone)
    assert list(shapes) == list(backbone.stages) and list(shapes.values())[-1] == (backbone.out_features,)
    assert (backbone.normalisation == "imagenet") == (name in NETWORKS)
    assert backbone.input_size == backbone.input_shape[-1]


def test_shapes_are_those_of_a_real_batch() -> None:
    for name in ("lenet", "conv1d", "squeezenet1_1"):
        backbone = build_backbone(name).eval()
        assert backbone.input_shape is not None
        x = torch.zeros(1, *backbone.input_shape)
        for i, shape in enumerate(stage_shapes(backbone).values()):
            assert backbone.run(x, stop=i + 1).shape[1:] == shape


@pytest.mark.parametrize("name", ["lenet", "alexnet", "squeezenet1_1", "resnet18"])
def test_a_backbone_can_be_run_in_two_parts(name: str) -> None:
    backbone = build_backbone(name).eval()
    assert backbone.channels is not None
    x = images(size=64)[:, : backbone.channels]
    with torch.no_grad():
        whole = backbone(x)
        for k in range(len(backbone.stages) + 1):
            torch.testing.assert_close(backbone.run(backbone.run(x, 0, k), k), whole, rtol=0, atol=0)


def test_stages_hold_every_weight_once_and_are_named_as_in_the_papers() -> None:
    backbone = torchvision_backbone("alexnet")
    assert list(backbone.stages) == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"]
    assert backbone.up_to("conv3") == ("conv1", "conv2", "conv3")
    for name in ("alexnet", "mobilenet_v2"):
        backbone, model = torchvision_backbone(name), get_model(name)
        dropped = {key for key, ours in backbone.published.items() if ours is None}
        assert dropped and all(key.startswith("classifier.") for key in dropped)
        assert sorted(ours for ours in backbone.published.values() if ours) == sorted(backbone.state_dict())
        assert set(backbone.published) == set(model.state_dict())


@pytest.mark.parametrize("size", [16, 27, 32])
def test_small_cnn_takes_any_size_and_any_channels(size: int) -> None:
    assert build_backbone("small_cnn")(torch.randn(2, 3, size, size)).shape == (2, 128)
    assert build_backbone("small_cnn:1")(torch.randn(2, 1, size, size)).shape == (2, 128)
    # At the size it is made for, bringing the map to 16 x 16 is plain 2 x 2 max-pooling.
    x = torch.randn(2, 64, 32, 32)
    torch.testing.assert_close(nn.AdaptiveMaxPool2d(16)(x), nn.MaxPool2d(2)(x), rtol=0, atol=0)


@pytest.mark.parametrize("length", [4, 100, 128])
def test_signals_of_any_length(length: int) -> None:
    model = DAN("conv1d:9", 6, layers=(), capture=["conv2"])
    output = model(torch.randn(3, 9, length))
    assert output.logits.shape == (3, 6) and output.layers["conv2"].shape == (3, 64)


def test_feature_vectors_pass_through() -> None:
    x = torch.randn(5, 800)
    assert torch.equal(build_backbone("features")(x), x)
    model = DAN("features", 10, layers=(32,))
    assert model(x).features.shape == (5, 32)
    again = DAN("features", 10, layers=(32,), weights=model.state_dict())  # the width comes with the weights
    assert torch.equal(again.eval()(x).logits, model.eval()(x).logits)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("lenet", (2, 3, 32, 32)), ("alexnet", (2, 3, 32, 32)), ("alexnet", (2, 1, 224, 224)), ("resnet18", (2, 512))],
)
def test_a_batch_that_cannot_be_right_is_one_clear_line(name: str, shape: tuple[int, ...]) -> None:
    with torch.device("meta"):
        model = DAN(name, 10)
    with pytest.raises(UserError, match="this network takes batches of") as caught:
        model(torch.zeros(shape, device="meta"))
    assert str(shape) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["lenet", "small_cnn", "conv1d", "alexnet", "squeezenet1_1"])
def test_the_smallest_input_is_the_smallest(name: str) -> None:
    backbone = build_backbone(name).eval()
    assert backbone.input_shape is not None
    least = [backbone.input_shape[0], *[backbone.smallest] * (len(backbone.input_shape) - 1)]
    with torch.no_grad():
        assert bool(backbone(torch.randn(1, *least)).isfinite().all())
        with pytest.raises(UserError, match=f"at least {backbone.smallest} wide"):
            backbone(torch.randn(1, least[0], *(size - 1 for size in least[1:])))


def test_unknown_names() -> None:
    with pytest.raises(UserError, match='did you mean "resnet50"'):
        build_backbone("resnet5o")
    with pytest.raises(UserError, match="lenet:CHANNELS"):
        build_backbone("lenet:0")
    with pytest.raises(UserError, match='no stage "conv9".*did you mean "conv'):
        torchvision_backbone("alexnet").up_to("conv9")
    with pytest.raises(ValueError, match="at least one stage"):
        Backbone({})


def test_the_table_in_the_docs_is_the_generated_one() -> None:
    assert table() in DOCS.read_text(encoding="utf-8"), "paste what dan.models.registry.table() gives into the page"


def test_importing_the_networks_does_not_wait_for_torchvision() -> None:
    code = "import sys, dan.models.dan; sys.exit(any(m in sys.modules for m in ('torchvision', 'timm', 'peft')))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


def test_without_timm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r'needs timm: pip install "active-dan\[timm\]"'):
        build_backbone("timm:resnet18")


@NO_TIMM
def test_a_network_of_timm_and_its_own_normalisation(tmp_path: Path) -> None:
    import timm

    from dan.models.timm_backbones import IMAGENET

    backbone = build_backbone("timm:vit_tiny_patch16_224").eval()
    model = timm.create_model("vit_tiny_patch16_224").eval()
    torch.save(model.state_dict(), tmp_path / "vit.pth")  # with its classifier, which is left out
    backbone = build_backbone("timm:vit_tiny_patch16_224", tmp_path / "vit.pth").eval()
    pixels = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    mean, deviation = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    with torch.no_grad():
        theirs = model.forward_head(model.forward_features((pixels - 0.5) / 0.5), pre_logits=True)
        ours = backbone((pixels - mean) / deviation)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert ours.shape[1] == backbone.out_features
    assert build_backbone("timm:resnet18").out_features == 512
    with pytest.raises(UserError, match='timm has no network "resnet19"'):
        build_backbone("timm:resnet19")
    with pytest.raises(UserError, match="none, DEFAULT or a state-dict file"):
        build_backbone("timm:resnet18", "IMAGENET1K_V1")


@NO_TIMM
def test_timms_weights_on_an_offline_machine(tmp_path: Path) -> None:
    code = """
import os; os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": os.getcwd()}
from dan.errors import UserError
from dan.models.registry import build_backbone
try: build_backbone("timm:resnet18", "DEFAULT")
except UserError as error: print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert "fetch model.safetensors or pytorch_model.bin from timm/resnet18" in done.stdout, done.stdout + done.stderr
