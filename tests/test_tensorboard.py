"""What the monitor writes is what TensorBoard reads back, a resumed run has single curves, and training never notices.

Shapes: N, M samples, F features.
"""

import errno
import pickle
import random
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from torch import Tensor

from dan.errors import UserError
from dan.figures import class_colours, feature_map_figure, pictures_figure, pixels, principal_components
from dan.training.tensorboard import Band, TensorBoardLogger


def read(folder: Path) -> Any:
    """The events of a folder, as TensorBoard itself reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    return events.Reload()


def curve(folder: Path, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars(name)]


def features(n: int, m: int, f: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n + m + f)
    x_source, x_target = torch.randn(n, f, generator=generator), torch.randn(m, f, generator=generator) + 2
    return x_source, torch.arange(n) % 3, x_target, torch.arange(m) % 3


def write_everything(folder: Path | None) -> None:
    with TensorBoardLogger(folder) as monitor:
        monitor.settings({"trade_off": 1.0})
        monitor.scalars({"loss/total": torch.tensor(0.25)}, 1)
        monitor.charts({"group": {"lines": ["loss/total"]}})
        monitor.feature_map(*features(20, 10, 64), 1)
        monitor.pictures(torch.zeros(2, 1, 8, 8), ["a", "b"], 1)


def test_scalars_come_back(tmp_path: Path) -> None:
    with TensorBoardLogger(tmp_path) as monitor:
        monitor.scalars({"loss/total": 0.5, "mmd2/hidden1": torch.tensor(0.25)}, 1)
        monitor.scalars({"loss/total": 0.125, "mmd2_per_kernel/hidden1/gamma=1.5": 1.0}, 2)
    assert curve(tmp_path, "loss/total") == [(1, 0.5), (2, 0.125)]
    assert curve(tmp_path, "mmd2/hidden1") == [(1, 0.25)]
    assert curve(tmp_path, "mmd2_per_kernel/hidden1/gamma_1.5") == [(2, 1.0)]


def layout(folder: Path) -> dict[str, list[Any]]:
    """The charts that TensorBoard's plugin of custom scalars finds: category -> charts, in order."""
    from tensorboard.plugins.custom_scalar import layout_pb2, metadata

    event = read(folder).Tensors(metadata.CONFIG_SUMMARY_TAG)[-1]
    found = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    return {category.title: list(category.chart) for category in found.category}


def test_charts_come_back(tmp_path: Path) -> None:
    """Lists stand before bands, which the page shows from the last to the first."""
    bands = {f"band {i}": Band(f"v/{i}", f"low/{i}", f"high/{i}") for i in (1, 2)}
    with TensorBoardLogger(tmp_path) as monitor:
        monitor.charts({"one": {**bands, "line": ["v/1"]}, "two": {"lines": ["v/1", "v/2"]}})
    found = layout(tmp_path)
    assert [(title, [chart.title for chart in charts]) for title, charts in found.items()] == [
        ("one", ["line", "band 2", "band 1"]),
        ("two", ["lines"]),
    ]
    (series,) = found["one"][2].margin.series
    assert (series.value, series.lower, series.upper) == ("v/1", "low/1", "high/1")


def test_a_list_of_curves_shows_these_and_no_others(tmp_path: Path) -> None:
    """As the plugin matches them: from the start of a name on. A name that ends in a slash is a whole group."""
    with TensorBoardLogger(tmp_path) as monitor:
        monitor.charts({"c": {"chart": ["p/layer4.1", "odd/a=b", "group/"]}})
    (chart,) = layout(tmp_path)["c"]
    names = ["p/layer4.1", "p/layer4.10", "p/layer4x1", "odd/a_b", "group/0", "group/1/2", "groups/0"]
    shown = [name for name in names if any(re.match(tag, name) for tag in chart.multiline.tag)]
    assert shown == ["p/layer4.1", "odd/a_b", "group/0", "group/1/2"]


def test_the_charts_of_a_resumed_run_are_the_last(tmp_path: Path) -> None:
    for step, title in ((0, "old"), (4, "new")):
        with TensorBoardLogger(tmp_path, step=step) as monitor:
            monitor.charts({"c": {title: ["loss/total"]}})
            monitor.scalars({"loss/total": 1.0}, step)
    assert [chart.title for chart in layout(tmp_path)["c"]] == ["new"]
    assert curve(tmp_path, "loss/total") == [(0, 1.0), (4, 1.0)]


def test_a_resumed_run_has_single_curves(tmp_path: Path) -> None:
    """The first run dies after step 5 with a checkpoint of step 3; the second goes on from there."""
    for first, last, value in ((1, 5, 1.0), (4, 6, 2.0)):
        with TensorBoardLogger(tmp_path, step=first) as monitor:
            for step in range(first, last + 1):
                monitor.scalars({"loss/total": value}, step)
    assert curve(tmp_path, "loss/total") == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0), (6, 2.0)]


def test_a_run_that_starts_anew_in_its_folder_hides_the_old_one(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        with TensorBoardLogger(tmp_path) as monitor:
            monitor.scalars({"loss/total": value}, 1)
    assert curve(tmp_path, "loss/total") == [(1, 2.0)]


def test_settings_are_a_table(tmp_path: Path) -> None:
    with TensorBoardLogger(tmp_path) as monitor:
        monitor.settings({"task": "a2w", "layers": (64, 32), "odd": "x|y\nz"})
    (event,) = read(tmp_path).Tensors("settings/text_summary")
    table = event.tensor_proto.string_val[0].decode()
    assert table.splitlines()[2:] == ["| task | a2w |", "| layers | (64, 32) |", r"| odd | x\|y z |"]


def test_a_feature_map_is_an_image_and_an_embedding(tmp_path: Path) -> None:
    x_source, y_source, x_target, _ = features(700, 30, 8)
    with TensorBoardLogger(tmp_path) as monitor:
        monitor.feature_map(x_source, y_source, x_target, None, 100, "hidden1", classes=["a", "b"])
    (image,) = read(tmp_path).Images("hidden1")
    assert image.step == 100 and image.width > 500 and image.encoded_image_string.startswith(b"\x89PNG")

    folder = tmp_path / "projector" / "hidden1" / "00000100"
    points = np.loadtxt(folder / "tensors.tsv", delimiter="\t")
    header, *rows = (folder / "metadata.tsv").read_text().splitlines()
    assert header.split("\t") == ["domain", "class"]
    assert points.shape == (530, 8) and len(rows) == 530  # at most 500 of a domain
    # The first and the last of each domain are there, and rows match points; class 2 has no name, the target no label.
    np.testing.assert_allclose(points[[0, 499, 500, 529]], torch.stack([*x_source[[0, 699]], *x_target[[0, 29]]]), 1e-3)
    assert [row.split("\t") for row in (rows[0], rows[499], rows[500])] == [
        ["source", "a"],
        ["source", ["a", "b", "2"][int(y_source[699])]],
        ["target", "?"],
    ]


def test_tensorboard_finds_the_embeddings_of_all_runs(tmp_path: Path) -> None:
    """A resumed run adds to the list of embeddings; a step that is written again stands there once."""
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    text_format = import_module("google.protobuf.text_format")  # by name: its types are a package of their own

    for steps in ((10, 20), (20, 30)):
        with TensorBoardLogger(tmp_path, step=steps[0]) as monitor:
            for step in steps:
                monitor.feature_map(*features(5, 5, 3), step)
    config = text_format.Parse((tmp_path / "projector_config.pbtxt").read_text(), ProjectorConfig())
    assert [e.tensor_name for e in config.embeddings] == [f"features:000000{step}" for step in (10, 20, 30)]
    for embedding in config.embeddings:
        assert (tmp_path / embedding.tensor_path).is_file() and (tmp_path / embedding.metadata_path).is_file()


def test_wide_features_reach_the_projector_as_principal_components(tmp_path: Path) -> None:
    """All of the variance lies in 3 directions of 200, so 50 components keep every distance."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, generator=generator) @ torch.randn(3, 200, generator=generator)
    with TensorBoardLogger(tmp_path) as monitor:
        monitor.feature_map(x[:20], torch.zeros(20), x[20:], None, 1)
    points = np.loadtxt(tmp_path / "projector" / "features" / "00000001" / "tensors.tsv", delimiter="\t")
    assert points.shape == (40, 50)
    np.testing.assert_allclose(pdist(points), pdist(x.double()), rtol=1e-3)


def test_pictures_are_an_image_and_no_pictures_are_none(tmp_path: Path) -> None:
    with TensorBoardLogger(tmp_path) as monitor:
        monitor.pictures(torch.zeros(3, 1, 8, 8), ["a", "b", "c"], 2)
        monitor.pictures(torch.zeros(0, 1, 8, 8), [], 3)
    assert [image.step for image in read(tmp_path).Images("queried")] == [2]


def test_the_monitor_draws_no_random_numbers(tmp_path: Path) -> None:
    """Training is bit-identical with and without it, whichever generator it uses."""

    def states() -> tuple[bytes, ...]:
        return (
            torch.get_rng_state().numpy().tobytes(),
            pickle.dumps(np.random.get_state()),
            pickle.dumps(random.getstate()),
        )

    before = states()
    write_everything(tmp_path)
    assert states() == before
    torch.rand(1)
    assert states() != before


def test_the_monitor_leaves_its_tensors_alone(tmp_path: Path) -> None:
    """Tensors that require a gradient, in half precision, are shown as they are."""
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).half().requires_grad_()
    before = x.detach().clone()
    with TensorBoardLogger(tmp_path) as monitor:
        monitor.feature_map(x, torch.zeros(6), x, None, 1)
        monitor.pictures(x.reshape(6, 1, 2, 2), ["?"] * 6, 1)
    assert torch.equal(x.detach(), before) and x.grad is None


def test_without_a_folder_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_everything(None)
    assert list(tmp_path.iterdir()) == []
    assert not TensorBoardLogger(None).on


def test_a_closed_monitor_is_off(tmp_path: Path) -> None:
    monitor = TensorBoardLogger(tmp_path)
    assert monitor.on
    monitor.close()
    monitor.close()
    assert not monitor.on


def test_tensorboard_and_matplotlib_are_imported_only_when_needed() -> None:
    code = (
        "import sys; from dan.training.tensorboard import TensorBoardLogger as Log; Log(None).scalars({'a': 1.0}, 1);"
        "sys.exit(', '.join(m for m in ('tensorboard', 'matplotlib') if m in sys.modules) or 0)"
    )
    home = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=home, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_principal_components_keep_distances_and_order_variance() -> None:
    points = np.random.default_rng(0).normal(size=(30, 3)) * [1.0, 5.0, 0.2]
    scores, shares = principal_components(points, 3)
    gram = (points - points.mean(0)) @ (points - points.mean(0)).T
    np.testing.assert_allclose(scores @ scores.T, gram, atol=1e-9)
    assert shares.sum() == pytest.approx(1) and list(shares) == sorted(shares, reverse=True)


def test_principal_components_do_not_flip_with_the_order_of_samples() -> None:
    points = np.random.default_rng(1).normal(size=(30, 5))
    scores, _ = principal_components(points, 2)
    backwards, _ = principal_components(points[::-1], 2)
    np.testing.assert_allclose(backwards[::-1], scores, atol=1e-9)


def test_principal_components_that_do_not_exist_are_zero() -> None:
    scores, shares = principal_components(np.array([[1.0], [3.0]]), 2)
    np.testing.assert_allclose(scores, [[-1, 0], [1, 0]])
    np.testing.assert_allclose(shares, [1, 0])
    scores, shares = principal_components(np.ones((4, 6)), 2)
    assert not scores.any() and not shares.any()


@pytest.mark.parametrize("classes", [3, 15, 31])
def test_a_feature_map_shows_every_sample_in_both_panels(classes: int) -> None:
    x_source, _, x_target, _ = features(40, 35, 4)
    y_source, y_target = torch.arange(40) % classes, torch.arange(35) % classes
    for labels in (y_target, None):
        figure = feature_map_figure(x_source, y_source, x_target, labels)
        for axes in figure.axes:
            assert sum(len(np.asarray(marks.get_offsets())) for marks in axes.collections) == 75
    assert len(set(map(tuple, class_colours(classes)))) == classes


def test_a_feature_map_refuses_what_it_cannot_draw() -> None:
    x_source, y_source, x_target, y_target = features(4, 4, 2)
    with pytest.raises(ValueError, match="finite"):
        feature_map_figure(x_source / 0, y_source, x_target, y_target)
    with pytest.raises(ValueError, match="at least one"):
        feature_map_figure(x_source[:0], y_source[:0], x_target[:0], y_target[:0])


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_pictures_are_stretched_to_the_full_range_each(channels: int) -> None:
    images = torch.rand(3, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    images = images * torch.tensor([1.0, 100.0, 0.0]).reshape(3, 1, 1, 1) - 3
    figure = pictures_figure(images, ["one", "two", "even"], columns=2)
    one, two, even = [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]
    for picture in (one, two):
        assert picture.min() == 0 and picture.max() == 1
    assert (even == 0.5).all()
    assert [axes.get_title() for axes in figure.axes if axes.images] == ["one", "two", "even"]


def test_pictures_beyond_the_limit_are_counted() -> None:
    figure = pictures_figure(torch.zeros(5, 1, 4, 4), list("abcde"), limit=3, title="queried")
    assert len([axes for axes in figure.axes if axes.images]) == 3
    assert figure.get_suptitle() == "queried (first 3 of 5)"


def test_pictures_need_images_and_a_caption_each() -> None:
    with pytest.raises(ValueError, match="2 images need as many captions, not 1"):
        pictures_figure(torch.zeros(2, 1, 4, 4), ["a"])
    with pytest.raises(ValueError, match="at least one"):
        pictures_figure(torch.zeros(0, 1, 4, 4), [])


def test_a_raster_has_the_size_of_its_figure() -> None:
    figure = pictures_figure(torch.zeros(1, 1, 4, 4), ["a"])
    width, height = figure.get_size_inches() * figure.dpi
    raster = pixels(figure)
    assert raster.dtype == np.uint8 and raster.shape == (int(height), int(width), 3)
    assert raster.min() < 200 < raster.max()  # something is drawn on the white page


def test_a_disk_that_takes_no_more_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard writes in a thread of its own, and tells of it at a later write; an error before it is kept."""

    def full(*given: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def write(broken: str, error: Exception | None = None) -> None:
        with TensorBoardLogger(tmp_path) as logger:
            monkeypatch.setattr(logger._writer, broken, full)
            logger.scalars({"a": 1.0}, 1)
            if error is not None:
                raise error

    for broken in ("add_scalar", "close"):
        with pytest.raises(
            UserError, match="cannot be written any more .*No space left on device.*: make room"
        ) as told:
            write(broken)
        assert "\n" not in str(told.value)
    with pytest.raises(KeyError, match="before"):
        write("close", KeyError("before"))
