"""Handwritten digits that ship with scikit-learn: 1,797 real scans of 8 x 8 pixels, a target that needs no download.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository, 1998 (its test part). Each
scan was a 32 x 32 bitmap, and a pixel here counts the ink in one of its 4 x 4 blocks: 0..16.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

COUNT = 1797
TEST_COUNT = 600  # held out; the other 1,197 are for training
SPLIT_SEED = 0


@functools.cache
def scans() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """All scans in the file's order: images (1797, 16, 16) in [0, 1], 1 = ink, and labels (1797,), read-only.

    Counts of ink are divided by 16, and 8 x 8 becomes 16 x 16 by bilinear interpolation (pixel centres as in a resize).
    Raises ValueError where scikit-learn ships another set.
    """
    import torch
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    if images.shape != (COUNT, 64):
        raise ValueError(f"scikit-learn's digits should be {COUNT} images of 64 pixels, but are {images.shape}")
    small = torch.from_numpy(images).to(torch.float32).reshape(COUNT, 1, 8, 8) / 16
    large = torch.nn.functional.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)
    pixels, digits = large[:, 0].numpy(), labels.astype(np.int64)
    pixels.flags.writeable = digits.flags.writeable = False  # shared by every caller
    return pixels, digits


@functools.cache
def split() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of `scans` for training (1197,) and for test (600,), each in rising order: one fixed split for every seed.

    Stratified: either part holds each class in its share of the whole. Writers are unknown, so one may be in both.
    """
    from sklearn.model_selection import train_test_split

    _, labels = scans()
    train, test = train_test_split(np.arange(COUNT), test_size=TEST_COUNT, random_state=SPLIT_SEED, stratify=labels)
    train, test = np.sort(train), np.sort(test)
    train.flags.writeable = test.flags.writeable = False  # shared by every caller
    return train, test
