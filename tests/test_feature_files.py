"""Files of features as NumPy, PyTorch and MATLAB write them; what is none of these is one clear line."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat
from scipy.sparse import csc_array

from dan.data.feature_files import read_features
from dan.errors import UserError

X = np.arange(12, dtype=np.float64).reshape(4, 3) / 7
Y = np.array([2, 0, 1, 2])


def save(path: Path, x: Any, y: Any = None) -> Path:
    """Write x and, if given, y in the way of the suffix."""
    if path.suffix == ".npy":
        np.save(path, x)
        if y is not None:
            np.save(path.with_name(f"{path.stem}_labels.npy"), y)
    elif path.suffix == ".npz":
        np.savez(path, x=x) if y is None else np.savez(path, x=x, y=y)
    elif path.suffix == ".mat":
        savemat(path, {"x": x} if y is None else {"x": x, "y": y})
    else:
        tensor = torch.from_numpy(np.array(x))
        torch.save(tensor if y is None else {"x": tensor, "y": torch.from_numpy(np.array(y))}, path)
    return path


KINDS = [
    (suffix, dtype)
    for suffix in (".npy", ".npz", ".pt", ".pth", ".mat")
    for dtype in (np.float16, np.float32, np.float64, np.uint8, np.int64)
    if (suffix, dtype) != (".mat", np.float16)  # MATLAB has no half precision
]


@pytest.mark.parametrize(("suffix", "dtype"), KINDS)
@pytest.mark.parametrize("labelled", [False, True])
def test_what_was_saved_is_read(tmp_path: Path, suffix: str, dtype: Any, labelled: bool) -> None:
    x = (X * 7).astype(dtype)
    features = read_features(str(save(tmp_path / f"features{suffix}", x, Y if labelled else None)))
    expected = torch.from_numpy(x)
    expected = expected if expected.is_floating_point() else expected.float()
    assert torch.equal(features.x, expected) and features.x.dtype == expected.dtype
    if labelled:
        assert features.y is not None and features.y.dtype == torch.int64 and features.y.tolist() == Y.tolist()
    else:
        assert features.y is None


def test_npy_stays_on_disk_and_is_never_written(tmp_path: Path) -> None:
    path = tmp_path / "big.npy"
    big = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(50_000, 512))  # a sparse file of 100 MB
    big[-1, -1] = 5
    del big
    before = _resident()
    features = read_features(path)
    assert features.x.shape == (50_000, 512) and float(features.x[-1, -1]) == 5
    assert _resident() - before < 20e6
    features.x[0, 0] = 7  # no warning: the tensor may be written to, the file is not
    assert float(np.load(path, mmap_mode="r")[0, 0]) == 0


def _resident() -> int:
    """Bytes of this process in memory."""
    status = Path("/proc/self/statm")
    if not status.is_file():
        pytest.skip("needs /proc")
    return int(status.read_text().split()[1]) * 4096


@pytest.mark.parametrize(
    "x",
    [
        np.asfortranarray(X),
        X.astype(">f8"),
        X[::-1],
        (X > 0.5),
        np.arange(12, dtype=np.uint16).reshape(4, 3),
    ],
    ids=["columns first", "other byte order", "reversed", "booleans", "uint16"],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_unusual_arrays(tmp_path: Path, suffix: str, x: Any) -> None:
    features = read_features(save(tmp_path / f"a{suffix}", x, Y.astype(">i4")))
    np.testing.assert_array_equal(features.x.numpy(), x)
    assert features.y is not None and features.y.tolist() == Y.tolist()


@pytest.mark.parametrize("y", [Y.astype(np.float64), Y[:, None], Y[None, :].astype(np.uint8)])
def test_labels_as_matlab_writes_them(tmp_path: Path, y: Any) -> None:
    features = read_features(save(tmp_path / "a.mat", X, y))
    assert features.y is not None and features.y.tolist() == Y.tolist()


def test_matlab_names_of_the_surf_features(tmp_path: Path) -> None:
    savemat(tmp_path / "surf.mat", {"fts": X, "labels": Y[:, None], "note": "x is not here"})
    features = read_features(tmp_path / "surf.mat")
    assert features.y is not None and features.y.tolist() == Y.tolist()
    np.testing.assert_array_equal(features.x.numpy(), X)


def test_the_published_surf_features(data_folder: Path) -> None:
    folder = data_folder / "office_caltech10_surf"
    if not folder.is_dir():
        pytest.skip(f"no SURF features: {folder} is not a folder")
    sizes = {}
    for path in sorted(folder.glob("*_SURF_L10.mat")):
        features = read_features(path)
        assert features.x.shape[1] == 800 and features.x.dtype == torch.float32
        assert features.y is not None and sorted(set(features.y.tolist())) == list(range(1, 11))
        sizes[path.name.split("_")[0].lower()] = len(features.x)
    assert sizes == {"amazon": 958, "caltech10": 1123, "dslr": 157, "webcam": 295}


class Planted:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise AssertionError('a file was executed')",)


def _write(name: str, folder: Path) -> Path:
    path = folder / name
    stem, suffix = path.stem, path.suffix
    if stem == "garbage":
        path.write_bytes(b"no such thing" * 10)
    elif stem == "nothing":
        path.write_bytes(b"")
    elif stem == "truncated":
        data = save(folder / f"whole{suffix}", X).read_bytes()
        path.write_bytes(data[: len(data) // 2])
    elif stem == "planted":
        if suffix == ".npy":
            np.save(path, np.array([Planted()], dtype=object), allow_pickle=True)
        elif suffix == ".npz":
            np.savez(path, x=np.array([Planted()], dtype=object))
        elif suffix == ".pt":
            torch.save({"x": Planted()}, path)
        else:
            path.write_bytes(pickle.dumps(Planted()))
    return path


@pytest.mark.parametrize("stem", ["garbage", "nothing", "truncated", "planted"])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".mat"])
def test_damaged_and_planted_files(tmp_path: Path, stem: str, suffix: str) -> None:
    with pytest.raises(UserError, match=f"{stem}.*cannot be read as") as caught:
        read_features(_write(stem + suffix, tmp_path))
    assert "\n" not in str(caught.value) and "allow_pickle" not in str(caught.value).replace("allow_pickle=False", "")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".mat"])
@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (X[0], None, "matrix of samples times features"),
        (X.reshape(2, 2, 3), None, "flatten it first"),
        (X[:0], None, "empty"),
        (X + 1j, None, "real numbers"),
        (X, Y[:3], "one label for each of 4"),
        (X, X, "one label for each of 4"),
        (X, Y + 0.5, "whole numbers"),
    ],
)
def test_wrong_contents_are_one_clear_line(tmp_path: Path, suffix: str, x: Any, y: Any, words: str) -> None:
    if suffix == ".mat" and x.ndim == 1:
        x = x.reshape(1, 1, 3)  # MATLAB knows no vectors
    path = save(tmp_path / f"features{suffix}", x, y)
    with pytest.raises(UserError, match=words) as caught:
        read_features(path)
    assert "\n" not in str(caught.value) and "features" in str(caught.value)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor:UserWarning")  # torch's, while it loads one
def test_wrong_names_and_kinds_are_one_clear_line(tmp_path: Path) -> None:
    np.savez(tmp_path / "names.npz", features=X, other=Y)
    savemat(tmp_path / "names.mat", {"data": X})
    savemat(tmp_path / "sparse.mat", {"x": csc_array(X)})
    savemat(tmp_path / "cell.mat", {"x": np.array([X, "a"], dtype=object)})
    (tmp_path / "new.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n")
    torch.save({"weights": torch.ones(2, 2)}, tmp_path / "names.pt")
    torch.save([torch.ones(2, 2)], tmp_path / "list.pt")
    torch.save({"x": [1.0, 2.0]}, tmp_path / "numbers.pt")
    torch.save(torch.ones(2, 2).to_sparse(), tmp_path / "sparse.pt")
    (tmp_path / "folder.npy").mkdir()
    for name, words in {
        "names.npz": r"holds features, other: expected x \(and y\)",
        "names.mat": "holds data: expected fts",
        "sparse.mat": "real numbers",
        "cell.mat": "real numbers",
        "new.mat": "save it again with -v7",
        "names.pt": "holds weights: expected x",
        "list.pt": "holds a list",
        "numbers.pt": "x must be an array of real numbers, not of list",
        "sparse.pt": "dense",
        "folder.npy": "not a file",
        "missing.npy": "not a file",
        "features.csv": r"\.npy, \.npz, \.pt, \.pth, \.mat",
        "features.nppy": r'did you mean "\.npy"',
        "features": 'not ""',
    }.items():
        with pytest.raises(UserError, match=words) as caught:
            read_features(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_tensor_that_requires_a_gradient_is_read_without(tmp_path: Path) -> None:
    torch.save(torch.ones(2, 3, requires_grad=True), tmp_path / "a.pt")
    assert not read_features(tmp_path / "a.pt").x.requires_grad


# Values that stand for none, labels that stand for none, and types that NumPy does not have


LOW = [torch.bfloat16, *(getattr(torch, name) for name in ("float8_e4m3fn", "float8_e5m2") if hasattr(torch, name))]


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_low_precision_is_read_as_single(dtype: torch.dtype, tmp_path: Path) -> None:
    from active.annotation.pool_files import row_hashes
    from dan.data.tensor_datasets import Vectors

    x = torch.from_numpy(X).to(dtype)
    torch.save({"x": x, "y": torch.from_numpy(Y)}, tmp_path / "a.pt")
    features = read_features(tmp_path / "a.pt")
    assert features.x.dtype == torch.float32 and torch.equal(features.x, x.float())
    assert len(set(row_hashes(features.x))) == 4
    assert features.y is not None and len(Vectors(features.x, features.y, "abc").fingerprint) == 32


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1e20, r"1 of 4 samples hold values beyond 1e15 \(first: row 2, 1e\+20\): a fill value"),
        (-9.96921e36, "values beyond 1e15"),
        (float("nan"), r"NaN or infinite features \(first: row 2, nan\): missing"),
        (float("-inf"), "NaN or infinite features"),
    ],
)
@pytest.mark.parametrize("domain", ["source", "target"])
def test_values_that_stand_for_missing_ones_are_refused_with_their_row(
    value: float, words: str, domain: str, tmp_path: Path
) -> None:
    from dan.data.tasks import load_pair

    for name in ("source", "target"):
        x = X.copy()
        if name == domain:
            x[2, 1] = value
        np.savez(tmp_path / f"{name}.npz", x=x, y=Y)
    with pytest.raises(UserError, match=f"{domain}.npz: .*{words}") as error:
        load_pair("folders", source=tmp_path / "source.npz", target=tmp_path / "target.npz")
    assert "\n" not in str(error.value)


def test_large_values_that_are_features_are_taken(tmp_path: Path) -> None:
    from dan.data.tasks import load_pair

    for name in ("source", "target"):
        np.savez(tmp_path / f"{name}.npz", x=1e14 * X, y=Y)
    assert len(load_pair("folders", source=tmp_path / "source.npz", target=tmp_path / "target.npz").target) == 4


@pytest.mark.parametrize(
    ("of_source", "of_target", "targets", "warned"),
    [
        ([0, 1, 2, 2], [-1, -1, -1, -1], [-1, -1, -1, -1], False),
        ([0, 1, 2, 2], [-1, 0, 1, -1], [-1, -1, -1, -1], True),
        ([-1, 1, 1, -1], [1, -1, -1, 1], [1, 0, 0, 1], False),  # classes of their own
    ],
)
def test_minus_one_is_unknown_where_it_is_no_class_of_the_source(
    of_source: list[int],
    of_target: list[int],
    targets: list[int],
    warned: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from dan.data.tasks import load_pair

    for name, y in (("source", of_source), ("target", of_target)):
        np.savez(tmp_path / f"{name}.npz", x=X, y=np.array(y))
    task = load_pair("folders", source=tmp_path / "source.npz", target=tmp_path / "target.npz")
    assert task.target.targets.tolist() == targets and task.target_labelled == (-1 not in targets)
    assert task.source.targets.min() >= 0
    error = capsys.readouterr().err
    assert error == "" or (warned and "2 of 4 samples have the label -1, unknown" in error)
    assert bool(error) == warned


def test_fill_values_in_tensors_are_no_matter_of_the_rate() -> None:
    from torch.utils.data import TensorDataset

    from dan import DAN, fit
    from dan.training.config import TrainConfig

    x, y = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
    bad = x.clone()
    bad[::2, 1] = 1e20
    with pytest.raises(UserError, match="at step 0, before anything was trained: look for fill values") as error:
        fit(
            DAN("features", 2, layers=(4,)),
            TensorDataset(x, y),
            TensorDataset(bad, y),
            trade_off=1.0,
            steps=2,
            seed=0,
            config=TrainConfig(batch_size=8),
        )
    assert "rate" not in str(error.value)


@pytest.mark.parametrize("name", ["labels", "Y", "target"])
def test_labels_under_another_name_are_told(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = np.zeros((3, 2), np.float32), np.arange(3)
    np.savez(tmp_path / "a.npz", **{"x": x, name: y})
    torch.save({"x": torch.from_numpy(x), name: torch.from_numpy(y)}, tmp_path / "a.pt")
    for suffix in (".npz", ".pt"):
        assert read_features(tmp_path / f"a{suffix}").y is None
        error = capsys.readouterr().err
        assert f"a{suffix}: {name} passed over: labels are what is called y" in error and error.count("\n") == 1
    np.savez(tmp_path / "b.npz", x=x, y=y, **{name: y})
    assert read_features(tmp_path / "b.npz").y is not None and capsys.readouterr().err == ""


def test_matlab_labels_of_the_other_form_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for features, labels, words in (("x", "labels", "called y"), ("fts", "y", "called labels")):
        savemat(tmp_path / "a.mat", {features: np.ones((3, 2)), labels: np.array([[1], [2], [1]])})
        assert read_features(tmp_path / "a.mat").y is None
        assert words in capsys.readouterr().err


@pytest.mark.parametrize(("dtype", "largest"), [(torch.bfloat16, 256), (torch.float16, 2048), (torch.float32, 2**24)])
def test_labels_that_their_type_rounds_are_refused(dtype: torch.dtype, largest: int, tmp_path: Path) -> None:
    x = torch.zeros(2, 2)
    torch.save({"x": x, "y": torch.tensor([0, largest], dtype=dtype)}, tmp_path / "a.pt")
    found = read_features(tmp_path / "a.pt").y
    assert found is not None and found.tolist() == [0, largest]
    torch.save({"x": x, "y": torch.tensor([0.0, 2.0 * largest]).to(dtype)}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="which rounds such numbers: save the labels as integers"):
        read_features(tmp_path / "a.pt")


def test_labels_beyond_64_bits_with_a_sign_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 2)), y=np.array([0, 2**63 + 1], np.uint64))
    with pytest.raises(UserError, match="beyond 64 bits with a sign"):
        read_features(tmp_path / "a.npz")


def test_labels_in_low_precision_and_truth_values_are_read(tmp_path: Path) -> None:
    for y in (torch.tensor([True, False]), torch.tensor([1.0, 0.0]).to(LOW[-1])):
        torch.save({"x": torch.zeros(2, 2), "y": y}, tmp_path / "a.pt")
        found = read_features(tmp_path / "a.pt").y
        assert found is not None and found.tolist() == [1, 0]
