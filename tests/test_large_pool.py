"""The estimate for 10^9 images: its arithmetic, and a page that is made of records alone."""

from pathlib import Path

import pytest

from experiments.benchmarks import large_pool
from experiments.benchmarks.large_pool import best_of, constants, costs, duration, markdown, volume

RECORDS = [
    {"constant": name, "processes": 1, "seconds": seconds, "device_name": "a", "torch": "2", "commit": "c"}
    for name, seconds in (("decode", 1e-2), ("network", 3e-2), ("wave", 1e-8), ("pair", 2e-8))
]
RECORDS += [{**RECORDS[0], "constant": "message", "processes": w, "seconds": w * 1e-5} for w in (64, 1024)]
OF_SELECTION = [
    {"task": "k_center from disk", "method": "ours", "n": 1_000_000, "seconds_median": 5.0},
    {"task": "k_center", "method": "ours", "n": 1_000, "seconds_median": 1e9},
]


def test_costs_by_hand() -> None:
    """N = 10^9, S = 10^6, D = 4096, W = 64."""
    look, waves, pairs, few, many = (cost(64) for cost in costs(*constants(RECORDS, OF_SELECTION)).values())
    assert look == pytest.approx(1e9 * 4e-2 / 64)
    assert waves == pytest.approx(2e9 * 4096 * 1e-8 / 64)
    assert pairs == pytest.approx((0.5e18 + 1e15) * 2e-8 / 64)
    assert few == pytest.approx(1e9 / 64 * 5e-6 + 500 * 64e-5)
    assert many == pytest.approx(1e9 / 64 * 5e-6 * 20 + 10_000 * 64e-5)


def test_the_page_is_made_of_records() -> None:
    page = markdown(RECORDS, OF_SELECTION)
    assert "| decode, and run the network once | 460 days | 7.2 days | 11 hours |" in page
    assert "| features on the disk, of each process | 1 TB | 16 GB | 1 GB |" in page
    assert "| a message of k-center between two processes, as long as of 64 processes together | 0.00064 |" in page


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.5, "0.5 seconds"),
        (110, "110 seconds"),
        (180, "3.0 minutes"),
        (86400 * 3, "3.0 days"),
        (6.2e10, "2,000 years"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_volumes() -> None:
    assert [volume(count) for count in (4e12, 3.2e10, 5.6e7)] == ["4 TB", "32 GB", "56 MB"]


def test_the_fastest_call_counts() -> None:
    times = iter([0.0, 3.0, 3.0, 4.0, 4.0, 9.0])
    calls: list[int] = []
    assert best_of(lambda: calls.append(1), 3, lambda: next(times)) == 1.0
    assert len(calls) == 4  # one was not counted


def test_what_was_measured_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def measure(name: str) -> float:
        calls.append(name)
        return 1e-6

    measured = [(name, 1, lambda name=name: measure(name)) for name in ("decode", "network", "wave", "pair")]
    monkeypatch.setattr(large_pool, "CONSTANTS", measured)
    for _ in range(2):
        large_pool.run_large_pool(large_pool.LargePool(out=tmp_path))
    assert calls == ["decode", "network", "wave", "pair"]
    assert "10^9 images" in (tmp_path / "table.md").read_text(encoding="utf-8")
