"""The embedded transfer: rendered fonts -> handwritten scans; what is drawn, how it is split, how tasks are found."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import TensorDataset

from dan.data import digits, rendered
from dan.data.paths import cache_folder, data_folder, default_data
from dan.data.tasks import TASKS, DomainPair, load_pair
from dan.errors import UserError


@pytest.fixture(scope="module")
def task() -> DomainPair:
    return load_pair("rendered2digits")


def tensors(dataset: object) -> tuple[torch.Tensor, torch.Tensor]:
    assert isinstance(dataset, TensorDataset)
    images, labels = dataset.tensors
    return images, labels


def parts(task: DomainPair) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    return {part: tensors(getattr(task, part)) for part in ("source", "source_test", "target", "target_test")}


def fresh(count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    return rendered.render.__wrapped__(count, seed)  # past the cache


def test_rendering_is_a_function_of_count_and_seed_alone():
    np.random.seed(1)
    images, labels = fresh(40, 7)
    np.random.seed(2)
    again, labels_again = fresh(40, 7)
    assert images.tobytes() == again.tobytes() and labels.tobytes() == labels_again.tobytes()
    other, _ = fresh(40, 8)
    assert not (images == other).all(axis=(1, 2)).any()


@pytest.mark.parametrize("count", [1, 10, 57, 500])
def test_rendered_images_are_balanced_legible_and_in_range(count: int):
    images, labels = rendered.render(count, 1)
    assert images.shape == (count, 16, 16) and images.dtype == np.float32
    assert images.min() >= 0 and images.max() <= 1
    assert (images.max(axis=(1, 2)) > 0.2).all(), "an image without visible ink"
    rim = np.concatenate([images[:, [0, -1]].reshape(count, -1), images[:, :, [0, -1]].reshape(count, -1)], axis=1)
    assert rim.mean() < 0.02, "digits cut off by the border"
    per_class = np.bincount(labels, minlength=10)
    assert len(per_class) == 10 and per_class.max() - per_class.min() <= 1


def test_labels_come_in_random_order():
    _, labels = rendered.render(500, 1)
    assert 0.05 < (labels[1:] == labels[:-1]).mean() < 0.2  # 1 / 10 expected


def test_rendered_images_are_read_only_since_they_are_shared():
    images, _ = rendered.render(10, 1)
    assert rendered.render(10, 1)[0] is images
    with pytest.raises(ValueError, match="read-only"):
        images[0] = 0


def test_each_font_in_use_draws_ten_distinct_digits_inside_the_canvas():
    drawings = {}
    for font in rendered.fonts():
        glyphs = np.stack([np.asarray(glyph) for glyph in rendered.glyphs(font)])
        assert len({glyph.tobytes() for glyph in glyphs}) == 10, font.name
        assert (glyphs.max(axis=(1, 2)) == 255).all(), font.name
        for rim in (glyphs[:, 0], glyphs[:, -1], glyphs[:, :, 0], glyphs[:, :, -1]):
            assert not rim.any(), font.name
        drawings[font.name] = glyphs.tobytes()
    assert len(set(drawings.values())) == len(drawings), "two fonts draw the same digits"


def test_fonts_without_digits_are_left_out():
    names = {font.name for font in rendered.fonts()}
    assert {"DejaVuSans.ttf", "DejaVuSerif-Italic.ttf", "STIXGeneral.ttf", "cmr10.ttf", "cmtt10.ttf"} <= names
    assert not {"cmex10.ttf", "cmsy10.ttf", "cmmi10.ttf", "STIXSizOneSymReg.ttf", "DejaVuSansDisplay.ttf"} & names
    assert not any(name.startswith(("STIXSiz", "STIXNonUni", "LastResort")) for name in names)


def test_affine_moves_the_centre_by_the_shift_and_never_mirrors():
    backward = rendered._random_affine(200, np.random.default_rng(0)).reshape(200, 2, 3)
    inverse, offset = backward[:, :, :2], backward[:, :, 2]
    middle = np.full(2, rendered._MIDDLE / 2)
    # The glyph's centre is shown at the p with inverse @ p + offset = middle.
    shown = np.linalg.solve(inverse, (middle - offset)[:, :, None])[:, :, 0]
    limit = rendered.SHIFT * rendered._MIDDLE / rendered.SIZE
    assert 0.9 * limit < abs(shown - middle).max() <= limit + 1e-9
    # det(M) = width * height of the two scales, since rotation and shear keep areas.
    area = 1 / np.linalg.det(inverse)
    assert (area >= rendered.SCALE[0] ** 2 - 1e-9).all() and (area <= rendered.SCALE[1] ** 2 + 1e-9).all()


def test_stroke_changes_change_the_ink(monkeypatch: pytest.MonkeyPatch):
    ink = {}
    for edge in (-1, 0, 1, 2):
        monkeypatch.setattr(rendered, "STROKES", (edge,))
        images, _ = fresh(100, 3)
        ink[edge] = images.mean()
    assert ink[-1] < ink[0] < ink[1] < ink[2]


def test_hairlines_are_not_thinned_away(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rendered, "STROKES", (-1,))
    faintest = fresh(300, 3)[0].max(axis=(1, 2)).min()
    monkeypatch.setattr(rendered, "KEPT_INK", 0.0)
    faintest_of_all_thinned = fresh(300, 3)[0].max(axis=(1, 2)).min()
    assert faintest > 1.3 * faintest_of_all_thinned


def test_scans_are_the_originals_enlarged():
    from sklearn.datasets import load_digits

    images, labels = digits.scans()
    original, original_labels = load_digits(return_X_y=True)
    assert images.shape == (1797, 16, 16) and images.min() == 0 and images.max() == 1
    np.testing.assert_array_equal(labels, original_labels)
    small = original.reshape(-1, 8, 8) / 16
    np.testing.assert_allclose(images[:, 0, 0], small[:, 0, 0], atol=1e-6)  # beyond the outer centres: the edge itself
    for row, column in [(7, 9), (1, 1), (14, 2), (8, 8)]:
        np.testing.assert_allclose(images[:, row, column], _doubled(small, row, column), atol=1e-6)


def _doubled(small: NDArray, row: int, column: int) -> NDArray:
    """Bilinear value at the centre of the (row, column) pixel of the doubled image, written from the definition."""
    y, x = (row + 0.5) / 2 - 0.5, (column + 0.5) / 2 - 0.5
    top, left = int(y), int(x)
    dy, dx = y - top, x - left
    upper = (1 - dx) * small[:, top, left] + dx * small[:, top, left + 1]
    lower = (1 - dx) * small[:, top + 1, left] + dx * small[:, top + 1, left + 1]
    return (1 - dy) * upper + dy * lower


def test_split_is_disjoint_complete_stratified_and_fixed():
    _, labels = digits.scans()
    train, test = digits.split()
    assert len(train) == 1197 and len(test) == 600
    assert sorted([*train, *test]) == list(range(1797))
    expected = np.bincount(labels) * (600 / 1797)
    assert abs(np.bincount(labels[test]) - expected).max() <= 1
    again = digits.split.__wrapped__()
    np.testing.assert_array_equal(test, again[1])


def test_task_has_normalised_tensors_of_one_shape(task: DomainPair):
    assert task.name == "rendered2digits" and task.backbone == "lenet" and len(task.classes) == 10
    counts = {"source": 3000, "source_test": 500, "target": 1197, "target_test": 600}
    for part, (x, y) in parts(task).items():
        assert x.shape == (counts[part], 1, 16, 16) and x.dtype == torch.float32, part
        assert y.shape == (counts[part],) and y.dtype == torch.int64 and set(y.tolist()) == set(range(10)), part
        assert x.min() == -1 and x.max() <= 1 and x.max() > 0.9, part
    x, y = task.source[0]
    images, labels = rendered.render(3000, 0)
    np.testing.assert_array_equal(x[0].numpy(), (images[0] - np.float32(0.5)) / np.float32(0.5))
    assert int(y) == labels[0]


def test_no_image_is_in_two_parts(task: DomainPair):
    images = {part: {row.numpy().tobytes() for row in x} for part, (x, _) in parts(task).items()}
    assert len(images["source"]) == 3000 and len(images["source_test"]) == 500
    names = list(images)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            assert not images[first] & images[second], (first, second)


def test_a_change_to_a_task_does_not_reach_the_next_one():
    x, _ = tensors(load_pair("rendered2digits").target)
    before = x.clone()
    x.zero_()
    assert torch.equal(tensors(load_pair("rendered2digits").target)[0], before)


def test_tasks_are_named_set_source2target():
    assert {name for name in TASKS if "2" not in name} == {"folders"}
    named = [name for name in TASKS if name not in ("folders", "rendered2digits")]
    assert all(re.fullmatch(r"[a-z0-9_]+_[a-z]+2[a-z]+", name) for name in named), named
    ends = {name: name.rpartition("_")[2].split("2") for name in named}
    assert all(source != target for source, target in ends.values())
    # every ordered pair: a set with a -> b has b -> a, but for the one benchmark with one direction
    turned = {name.rpartition("_")[0] + f"_{target}2{source}" for name, (source, target) in ends.items()}
    assert turned - set(TASKS) == {"visda2017_validation2train"}


def test_an_unknown_task_is_named_with_its_nearest_neighbour():
    with pytest.raises(UserError) as error:
        load_pair("renderd2digit")
    message = str(error.value)
    assert '"renderd2digit"' in message and 'did you mean "rendered2digits"?' in message and "\n" not in message
    with pytest.raises(UserError, match=r"the tasks are: .*office31_<a\|d\|w>2<a\|d\|w>, .*rendered2digits") as error:
        load_pair("zzz")
    assert len(str(error.value)) < 600, "one line that a person reads"


def test_the_single_set_says_that_it_is_no_transfer():
    with pytest.raises(UserError, match=r"cifar10 is one set and no transfer.*dan.data.cifar10"):
        load_pair("cifar10")


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("rendered2digits", {"augment": True}, "rendered2digits has no use for augment .* none"),
        ("office31_a2w", {"source": "x"}, "has no use for source .* augment, classes, image_size, source_holdout"),
        ("digits_mnist2usps", {"source_holdout": 0.2}, "has no use for source_holdout"),
        ("domainnet_c2s", {"source_holdout": 0.2}, "has no use for source_holdout"),
        ("office_caltech10_surf_a2c", {"augment": True}, "has no use for augment"),
        ("office31_a2w", {"image_size": 4}, "image_size must be 8 to 2048 pixels, not 4"),
        ("office31_a2w", {"source_holdout": 0.7}, "from 0 to 0.5, not 0.7"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(name: str, options: dict[str, Any], match: str):
    with pytest.raises(UserError, match=match):
        load_pair(name, **options)


def test_defaults_and_none_are_no_options(task: DomainPair):
    again = load_pair("rendered2digits", augment=False, image_size=None, classes=(), cache=None, quiet=True)
    assert again.options == {} == task.options
    with pytest.raises(TypeError, match="no option colour"):
        load_pair("rendered2digits", colour=True)


def test_splits_are_what_an_accuracy_can_be_told_of(task: DomainPair):
    assert list(task.splits) == ["source_test", "target", "target_test"]
    assert task.splits["target"] is task.target
    assert list(replace(task, source_test=None, target_test=None).splits) == ["target"]
    assert list(replace(task, target_labelled=False).splits) == ["source_test"]


def test_the_folder_of_data_is_the_named_one_then_the_environments_then_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    named, of_environment = tmp_path / "named", tmp_path / "of_environment"
    named.mkdir()
    of_environment.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ACTIVE_DAN_DATA", raising=False)
    assert data_folder() == default_data() == tmp_path / ".cache" / "active-dan" / "data"
    assert cache_folder() == tmp_path / ".cache" / "active-dan" / "images"
    monkeypatch.setenv("ACTIVE_DAN_DATA", str(of_environment))
    assert data_folder() == of_environment and data_folder(named) == named and data_folder("~/named") == named
    assert cache_folder("~/kept") == tmp_path / "kept"
    with pytest.raises(UserError, match="--data names .*gone, which is not a folder"):
        data_folder(tmp_path / "gone")
    monkeypatch.setenv("ACTIVE_DAN_DATA", str(tmp_path / "gone"))
    with pytest.raises(UserError, match="ACTIVE_DAN_DATA names .*gone, which is not a folder"):
        data_folder()


def test_load_task_does_not_read_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ACTIVE_DAN_DATA", str(tmp_path))
    with pytest.raises(UserError, match=str(tmp_path / ".cache" / "active-dan" / "data" / "office31")):
        load_pair("office31_a2w")


def test_larger_renderings_show_the_same_digits():
    small, labels = rendered.render(60, 5)
    large, labels_again = rendered.render(60, 5, size=32)
    np.testing.assert_array_equal(labels, labels_again)
    assert large.shape == (60, 32, 32)
    # Both shrink the same 64-pixel image: 2 x 2 means of the larger one are nearly the smaller one, and of no other.
    means = large.reshape(60, 16, 2, 16, 2).mean(axis=(2, 4))
    apart = abs(small[:, None] - means[None]).mean(axis=(2, 3))
    assert (apart.argmin(axis=1) == np.arange(60)).all() and apart.diagonal().max() < 0.02


def test_nothing_is_read_or_drawn_at_import():
    code = (
        "import sys, dan.data.tasks; from dan.data import digits, rendered; "
        "assert not {'sklearn', 'matplotlib', 'PIL', 'torchvision', 'scipy.io'} & set(sys.modules); "
        "assert rendered.render.cache_info().misses == digits.scans.cache_info().misses == 0"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
