"""What all tests share: one thread, no window, reproducible examples, and the folder of real data if there is one."""

import os
from pathlib import Path

import matplotlib
import pytest
import torch
from hypothesis import settings

matplotlib.use("Agg")
torch.set_num_threads(1)  # small tensors: more threads cost more than they give, and sums would depend on their number

# deadline=None: a machine under load is no bug. In CI the examples are the same in every run.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "local")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data sets: ACTIVE_DAN_DATA, or shared/data beside the repository; else the test is skipped."""
    named = os.environ.get("ACTIVE_DAN_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not a folder; name one in ACTIVE_DAN_DATA")
    return folder
