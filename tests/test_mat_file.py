"""MATLAB files: what scipy writes reads as scipy reads it; what is cut or forged is refused."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from dan.data.mat_file import read_mat

KINDS = ("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("packed", [False, True])
def test_it_reads_what_scipy_reads(kind: str, packed: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    arrays = {
        "x": (np.arange(35).reshape(7, 5) * 3).astype(kind),
        "one": np.array([[3]], dtype=kind),  # lies in its tag, where it is small enough
        "empty": np.zeros((0, 4), dtype=kind),
        "deep": np.arange(24).reshape(2, 3, 4).astype(kind),
    }
    savemat(path, {**arrays, "a_longer_name": np.array([1.5]), "text": "no numbers"}, do_compression=packed)
    found, expected = read_mat(path, [*arrays, "absent"]), loadmat(path)
    for name in arrays:
        assert found[name].dtype == expected[name].dtype
        assert np.array_equal(found[name], expected[name])
    assert found["text"] is None and found["a_longer_name"] is None and "absent" not in found


def test_files_of_machines_with_the_other_byte_order(tmp_path: Path) -> None:
    """The same file by hand, in both orders."""
    for order, mark in (("<", b"IM"), (">", b"MI")):

        def element(kind: int, content: bytes, order: str = order) -> bytes:
            sizes = np.array([kind, len(content)], f"{order}u4").tobytes()
            return sizes + content + bytes(-len(content) % 8)

        values = np.arange(6, dtype=f"{order}f8")
        parts = element(6, np.array([6, 0], f"{order}u4").tobytes())
        parts += element(5, np.array([2, 3], f"{order}i4").tobytes()) + element(1, b"x") + element(9, values.tobytes())
        path = tmp_path / "a.mat"
        path.write_bytes(b"made by hand".ljust(126) + mark + element(14, parts))
        assert read_mat(path, ["x"])["x"].tolist() == [[0, 2, 4], [1, 3, 5]]


@pytest.mark.parametrize("value", ["text", 1j * np.ones((2, 2)), {"a": 1}, np.array([1, "a"], dtype=object)])
def test_other_variables_are_refused_by_name(value: object, tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"x": value})
    with pytest.raises(ValueError, match="x must be a dense matrix of real numbers"):
        read_mat(tmp_path / "a.mat", ["x"])


@pytest.mark.parametrize("packed", [False, True])
def test_no_cut_of_a_file_reads_as_other_numbers(packed: bool, tmp_path: Path) -> None:
    path, x = tmp_path / "a.mat", np.arange(6.0).reshape(2, 3) / 7
    savemat(path, {"x": x}, do_compression=packed)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        try:
            found = read_mat(path, ["x"])
        except Exception:  # noqa: BLE001  (every kind is told of by read_features)
            continue
        assert np.array_equal(found.get("x", x), x)
