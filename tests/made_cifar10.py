"""A small set in the layout of CIFAR-10's archive, for tests of the experiments on it: flat greys with noise."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dan.data import cifar10 as module

TRAIN, VALIDATION, TEST = 250, 50, 100  # images; the real counts are 49,000, 1,000 and 10,000


def write_made(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write cifar10_jpg.tar.gz into `data`, each class of one grey, and have its counts expected."""
    rng = np.random.default_rng(0)
    data.mkdir(parents=True, exist_ok=True)
    with tarfile.open(data / module.ARCHIVE, "w:gz") as archive:
        for split, count in (("train", (TRAIN + VALIDATION) // 10), ("test", TEST // 10)):
            for place, name in enumerate(module.CLASSES):
                for i in range(count):
                    pixels = (25 * place + rng.integers(0, 8, (32, 32, 3))).astype(np.uint8)
                    content = io.BytesIO()
                    Image.fromarray(pixels).save(content, "PNG")
                    entry = tarfile.TarInfo(f"{split}/{name}/{i:04d}.jpg")
                    entry.size = content.tell()
                    content.seek(0)
                    archive.addfile(entry, content)
    monkeypatch.setattr(module, "COUNTS", {"train": TRAIN + VALIDATION, "test": TEST})
    monkeypatch.setattr(module, "VALIDATION", VALIDATION)
    return data
