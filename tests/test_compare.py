"""Two samples compared: the numbers by their definitions, p-values that hold their level, files and real images.

Shapes: N, M samples; F features.
"""

import math
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import loadmat, savemat
from torch import Tensor

from dan.cli.command_line import Command, run
from dan.cli.compare import Compare, run_compare
from dan.data.batches import derived_seed
from dan.errors import UserError
from dan.evaluation.domain_comparison import compare, features_of, network, table, verdict
from dan.figures import comparison_figure
from dan.mmd import MultiKernel, median_bandwidth, mmd2, mmd2_variance, optimal_weights
from dan.models.registry import build_backbone

SQUEEZENET = Path("weights") / "squeezenet1_1_caffe_as_torchvision.pth"


def sample(n: int, m: int, f: int, shift: float = 0.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, f, generator=generator), torch.randn(m, f, generator=generator) + shift


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def door(*argv: object) -> int:
    return run(
        "python -m dan", "", {"compare": Command(Compare, run_compare, "Compare.")}, ["compare", *map(str, argv)]
    )


def refused(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """What the door says of a mistake: one line on stderr, exit code 2."""
    assert door(*argv) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said.removeprefix("python -m dan compare: ").strip()


def p_value(printed: str) -> float:
    """Of equal weights, as the table prints it."""
    (line,) = [line for line in printed.splitlines() if line.startswith("equal weights")]
    return float(line.rsplit("p =", 1)[1])


def test_the_numbers_are_what_they_are_called() -> None:
    x, y = (z.double() for z in sample(30, 20, 3, 0.4))
    result = compare(x, y, permutations=50)
    kernel = MultiKernel.ladder(median_bandwidth(x, y))
    assert (result.n, result.m, result.features) == (30, 20, 3)
    assert result.bandwidths == pytest.approx(kernel.bandwidths.tolist())
    for gamma, value, deviation in zip(result.bandwidths, result.mmd2_per_kernel, result.deviations, strict=True):
        single = MultiKernel.of([gamma])
        assert value == pytest.approx(float(mmd2(x, y, single)), abs=1e-12)
        assert deviation == pytest.approx(math.sqrt(float(mmd2_variance(x, y, single))), abs=1e-12)
    assert result.mmd2 == pytest.approx(float(mmd2(x, y, kernel)), abs=1e-12)
    assert result.deviation == pytest.approx(math.sqrt(float(mmd2_variance(x, y, kernel))), abs=1e-12)
    assert result.p_value == (1 + int((result.test.null >= result.mmd2).sum())) / 51
    assert sum(result.weights) == pytest.approx(1) and min(result.weights) >= 0
    assert result.learned_on == 10  # 2 floor(20 / 4)
    assert result.accuracy == pytest.approx(0.5 + result.a_distance / 4)


def test_weights_are_tested_on_samples_that_did_not_teach_them() -> None:
    x, y = (z.double() for z in sample(40, 24, 2, 0.5))
    result = compare(x, y, permutations=20, seed=3)
    # The order in which each side's rows are dealt out, the first c to learn from.
    orders = [torch.randperm(len(z), generator=seeded(derived_seed(3, side))) for side, z in enumerate((x, y))]
    c = result.learned_on
    taught, rest = (
        [z[order[rows]] for z, order in zip((x, y), orders, strict=True)] for rows in (slice(c), slice(c, None))
    )
    assert c == 12 and [len(z) for z in rest] == [28, 12]
    plain = MultiKernel.of(result.bandwidths)
    weights = optimal_weights(*taught, plain)
    assert result.weights == pytest.approx(weights.tolist(), abs=1e-6)
    value = float(mmd2(*rest, MultiKernel(plain.bandwidths, weights)))
    assert result.weighted_test.statistic == pytest.approx(value, abs=1e-9)
    assert compare(x, y, permutations=20, seed=4).weights != result.weights  # another seed, other halves


def test_both_p_values_hold_their_level_under_one_domain() -> None:
    """100 repeats at 5 %: 99 % of binomial counts lie in [1, 12]."""
    equal = weighted = 0
    for seed in range(100):
        result = compare(*sample(16, 16, 2, seed=seed), permutations=19, seed=seed)
        equal += result.p_value <= 0.05
        weighted += result.weighted_test.p_value <= 0.05
    assert 1 <= equal <= 12 and 1 <= weighted <= 12


def test_domains_apart_are_told() -> None:
    result = compare(*sample(60, 80, 4, 2.0))
    assert result.p_value == result.weighted_test.p_value == 1 / 501
    assert result.a_distance > 1.5 and min(result.mmd2_per_kernel) > 0
    assert "none of 500 random relabellings" in verdict(result)
    same = compare(*sample(60, 80, 4))
    assert same.p_value > 0.05 and "No difference is shown" in verdict(same)


def test_the_kernel_may_be_ones_own_and_its_weights_do_not_count() -> None:
    x, y = sample(20, 20, 2, 1.0)
    mine = compare(x, y, kernel=MultiKernel([0.5, 8.0], [0.9, 0.1]))  # type: ignore[arg-type]
    plain = compare(x, y, kernel=MultiKernel.of([0.5, 8.0]))
    assert mine.bandwidths == (0.5, 8.0) and mine.mmd2 == plain.mmd2 and torch.equal(mine.test.null, plain.test.null)


def test_the_seed_alone_decides() -> None:
    x, y = sample(40, 30, 3, 0.3)
    before = torch.get_rng_state()
    first, again, other = compare(x, y), compare(x, y), compare(x, y, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert table(first) == table(again) != table(other)
    assert first.mmd2 == pytest.approx(other.mmd2, abs=1e-6)  # of all rows, whatever the seed


def test_many_samples_are_drawn_from_and_never_hang() -> None:
    x, y = sample(100_000, 60_000, 8, 0.3)
    began = time.perf_counter()
    result = compare(x, y, most=500)
    assert time.perf_counter() - began < 30
    assert (result.n, result.m) == (500, 500) and result.p_value < 0.01
    # What is drawn is a fair sample of it: the whole's value lies within its deviation.
    whole = float(mmd2(x[:4000], y[:4000], MultiKernel.of(result.bandwidths)))
    assert abs(result.mmd2 - whole) < 4 * result.deviation


def test_samples_that_are_all_equal_are_one() -> None:
    result = compare(torch.ones(10, 3), torch.ones(9, 3))
    assert (result.mmd2, result.p_value, result.deviation) == (0.0, 1.0, 0.0)
    comparison_figure(result, torch.ones(10, 3), torch.ones(9, 3), names=("a", "b"))


def test_what_cannot_be_compared() -> None:
    x, y = sample(20, 20, 3)
    for bad, match in (
        ((x, y[:, :2]), "must be"),
        ((x[:7], y), "at least 8 samples on each side, not 7 and 20"),
        ((x / 0, y), "NaN"),
    ):
        with pytest.raises(ValueError, match=match):
            compare(*bad)


def test_the_picture_has_every_kernel_the_null_and_the_samples() -> None:
    x, y = sample(700, 30, 4, 0.5)
    result = compare(x, y)
    figure = comparison_figure(result, x, y, names=("left", "right"))
    kernels, null, plane, weights = figure.axes
    assert [bar.get_height() for bar in weights.patches] == pytest.approx(result.weights)
    points = kernels.lines[0]
    assert list(points.get_ydata()) == pytest.approx(list(result.mmd2_per_kernel))  # type: ignore[arg-type]
    assert sum(bar.get_height() for bar in null.containers[0]) == 500
    assert any(list(line.get_xdata()) == [result.mmd2] * 2 for line in null.lines)
    assert [len(np.asarray(marks.get_offsets())) for marks in plane.collections[:2]] == [500, 30]
    legend = plane.get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == ["left", "right"]


def write_images(folder: Path, count: int, *, size: int = 24, level: int = 128, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = np.clip(rng.normal(level, 30, (size, size, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    return folder


def test_a_folder_is_all_its_images_however_deep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, count in (("a", 3), ("b/c/d", 4), ("e", 5)):
        write_images(tmp_path / "all" / name, count)
    write_images(tmp_path / "all" / ".hidden", 2)
    (tmp_path / "all" / "b" / "phone.heic").write_text("no image by name")
    (tmp_path / "all" / "a" / "again").symlink_to(tmp_path / "all", target_is_directory=True)
    features, count = features_of(tmp_path / "all")
    assert features.shape == (12, 256) and count == 12
    assert "passed over, for no image by name: 1 files, such as b/phone.heic" in capsys.readouterr().err
    assert features.min() >= 0 and features.max() <= 1
    first = np.asarray(Image.open(tmp_path / "all" / "a" / "000.png").convert("L")).astype(float) / 255
    # Making an image smaller keeps its mean, but for its borders.
    assert float(features[0].mean()) == pytest.approx(first.mean(), abs=0.01)
    assert features_of(tmp_path / "all", image_size=8)[0].shape == (12, 64)


def test_a_network_sees_what_it_would_see_in_training(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "x", 9, size=40)
    backbone = network("squeezenet1_1", "none", seed=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        same = build_backbone("squeezenet1_1").eval()
    features, _ = features_of(folder, backbone=backbone, image_size=40, batch_size=4)
    pixels = torch.from_numpy(np.stack([np.asarray(Image.open(file)) for file in sorted(folder.iterdir())]))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = same(((pixels / 255 - mean) / std).permute(0, 3, 1, 2))
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    again, _ = features_of(folder, backbone="squeezenet1_1", weights="none", image_size=40, seed=4)
    torch.testing.assert_close(again, features, rtol=1e-4, atol=1e-5)


def test_only_what_is_drawn_is_read(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "x", 30)
    some, count = features_of(folder, most=10, seed=1)
    everything, _ = features_of(folder)
    rows = [int((everything == row).all(1).nonzero()[0]) for row in some]
    assert count == 30 and len(set(rows)) == 10 and rows == sorted(rows)
    assert not torch.equal(features_of(folder, most=10, seed=2)[0], some)
    # An image outside the draw may be damaged; inside, it is named.
    outside = next(i for i in range(30) if i not in rows)
    (folder / f"{outside:03d}.png").write_bytes(b"no image")
    assert torch.equal(features_of(folder, most=10, seed=1)[0], some)
    with pytest.raises(UserError, match=f"{outside:03d}.png"):
        features_of(folder)


def test_features_come_from_every_kind_of_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same numbers, whatever file they lie in."""
    sides = dict(zip("ab", sample(40, 30, 5, 0.6), strict=True))
    said: list[list[str]] = []
    for suffix in ("npy", "npz", "pt", "mat"):
        files = []
        for name, z in sides.items():
            files.append(tmp_path / f"{name}.{suffix}")
            if suffix == "npy":
                np.save(files[-1], z.numpy())
            elif suffix == "npz":
                np.savez(files[-1], x=z.numpy())
            elif suffix == "pt":
                torch.save({"x": z}, files[-1])
            else:
                savemat(files[-1], {"fts": z.numpy(), "labels": np.ones((len(z), 1))})
        assert door(*files, "--out", tmp_path / f"{suffix}.png") == 0
        said.append(capsys.readouterr().out.splitlines()[2:-1])  # but the paths
        assert (tmp_path / f"{suffix}.png").read_bytes().startswith(b"\x89PNG")
    assert said[0] == said[1] == said[2] == said[3]
    assert said[0][-2].startswith("The two differ:")
    assert said[0][0] == "features: 5 (their own)"


def test_every_option_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_images(tmp_path / "a", 30), write_images(tmp_path / "b", 40, level=140, seed=1)

    def said(*options: object) -> list[str]:
        assert door(a, b, "--out", tmp_path / "x.png", *options) == 0
        return capsys.readouterr().out.splitlines()

    plain = said()
    assert plain[0] == f"A  {a}: 30 samples" and "features: 256 (pixels)" in plain
    assert "features: 64 (pixels)" in said("--image-size", 8)
    assert f"B  {b}: 35 samples of 40, drawn at random" in said("--most", 35)
    assert p_value("\n".join(plain)) == pytest.approx(1 / 501, rel=1e-2)
    assert p_value("\n".join(said("--permutations", 99))) == pytest.approx(1 / 100, rel=1e-2)
    assert said("--seed", 1) != plain == said("--device", "cpu", "--quiet")
    assert "features: 128 (lenet:3)" in said("--backbone", "lenet:3", "--weights", "none")
    assert door(a, b, "--out", tmp_path / "new" / "x.pdf") == 0
    assert (tmp_path / "new" / "x.pdf").read_bytes().startswith(b"%PDF")


def test_mistakes_are_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = (z.numpy() for z in sample(20, 20, 3))
    broken = x.copy()
    broken[17, 1] = np.nan
    for name, z in (("x", x), ("y", y), ("broken", broken), ("narrow", x[:, :2]), ("short", x[:7])):
        np.save(tmp_path / f"{name}.npy", z)
    a, few = write_images(tmp_path / "a", 9), write_images(tmp_path / "few", 3)
    (tmp_path / "empty").mkdir()
    npy = tmp_path / "x.npy"
    out = ("--out", tmp_path / "out.png")

    def says(*argv: object) -> str:
        return refused(capsys, *argv, *(() if "--out" in argv else out))

    assert says(a, few) == f"{few} holds 3 samples: a comparison needs at least 8 on each side"
    assert says(a, tmp_path / "empty").startswith(f"{tmp_path / 'empty'} holds 0 samples")
    assert says(npy, tmp_path / "short.npy").startswith(f"{tmp_path / 'short.npy'} holds 7 samples")
    assert says(npy, tmp_path / "narrow.npy").startswith(f"{npy} has 3 features a sample, and")
    said = says(npy, tmp_path / "broken.npy")
    assert str(tmp_path / "broken.npy") in said and "1 of 20 samples" in said and "row 17" in said
    assert "does not exist" in says(a, tmp_path / "nowhere")
    (tmp_path / "text.txt").write_text("x")
    assert "is no folder of images" in says(a, tmp_path / "text.txt")
    assert says(a, tmp_path / "a" / ".." / "a").startswith("A and B are both")
    assert 'did you mean ".png"' in says(a, few, "--out", tmp_path / "x.pngg")
    assert "no p-value can reach 5 %" in says(a, few, "--permutations", 10)
    assert "at least 8" in says(a, few, "--most", 5)
    assert "at least 1" in says(a, few, "--image-size", 0)
    assert "name one with --backbone" in says(a, few, "--weights", "none")
    assert "leave out --backbone" in says(npy, tmp_path / "y.npy", "--backbone", "lenet", "--weights", "none")
    assert "leave out --image-size" in says(npy, tmp_path / "y.npy", "--image-size", 8)
    assert 'did you mean "squeezenet1_1"' in says(a, few, "--backbone", "squeezenet", "--weights", "none")
    assert "takes no images" in says(a, few, "--backbone", "features", "--weights", "none")
    assert 'nobody publishes weights "DEFAULT" for lenet' in says(a, few, "--backbone", "lenet")
    assert not (tmp_path / "out.png").exists()


def halves(folder: Path, place: Path, share: int = 2) -> Sequence[Path]:
    """The images of a folder dealt out, in turn, to folders of links."""
    sides = [place / f"half{i}" for i in range(share)]
    for side in sides:
        side.mkdir(parents=True)
    for i, file in enumerate(sorted(folder.rglob("*.jpg"))):
        (sides[i % share] / f"{file.parent.name}-{file.name}").symlink_to(file)
    return sides


def test_real_domains_differ_and_halves_of_one_do_not(
    data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    office = data_folder / "office_caltech10"
    out = ("--out", tmp_path / "x.png", "--most", 100)
    for other in ("webcam", "amazon"):
        assert door(office / "dslr", office / other, *out) == 0
        said = capsys.readouterr().out
        assert p_value(said) < 0.01 and "The two differ" in said
    assert door(*halves(office / "webcam", tmp_path), *out) == 0
    said = capsys.readouterr().out
    assert p_value(said) > 0.05 and "No difference is shown" in said


def test_a_pretrained_network_tells_real_domains_apart(
    data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--backbone", "squeezenet1_1", "--weights", data_folder / SQUEEZENET, "--image-size", 112)
    out = ("--out", tmp_path / "x.png", "--most", 60)
    office = data_folder / "office_caltech10"
    assert door(office / "webcam", office / "amazon", *options, *out) == 0
    assert p_value(capsys.readouterr().out) < 0.01
    assert door(*halves(office / "webcam", tmp_path), *options, *out) == 0
    assert p_value(capsys.readouterr().out) > 0.05


def test_published_features_of_real_domains(data_folder: Path, tmp_path: Path) -> None:
    surf = data_folder / "office_caltech10_surf"
    found, count = features_of(surf / "webcam_SURF_L10.mat")
    assert count == 295 and found.shape == (295, 800)
    np.testing.assert_array_equal(found, loadmat(surf / "webcam_SURF_L10.mat")["fts"].astype(np.float32))
    apart = compare(found, features_of(surf / "amazon_SURF_L10.mat", most=300)[0])
    assert apart.p_value < 0.01 and apart.a_distance > 1
    order = torch.randperm(295, generator=torch.Generator().manual_seed(0))
    assert compare(found[order[:147]], found[order[147:]]).p_value > 0.05


def test_the_door_is_there(tmp_path: Path) -> None:
    """From the shell and from Python, with one result."""
    x, y = sample(100, 80, 3, 2.0)
    torch.save(x, tmp_path / "x.pt")
    torch.save(y, tmp_path / "y.pt")
    command = [sys.executable, "-m", "dan", "compare", str(tmp_path / "x.pt"), str(tmp_path / "y.pt")]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "x.png")],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert table(compare(x, y)) in done.stdout and (tmp_path / "x.png").is_file()
