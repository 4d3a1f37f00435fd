"""Where data sets and decoded images are: for the command lines, since nothing below them reads the environment."""

import os
import tempfile
from pathlib import Path

from dan.errors import UserError

VARIABLE = "ACTIVE_DAN_DATA"


def default_data() -> Path:
    """The folder of data sets where none is named: data, in the user's cache folder of this project.

    For a user without a home folder that cache folder is one of the system's folder of temporary files.
    """
    return _user_cache() / "data"


def data_folder(explicit: str | Path | None = None) -> Path:
    """The folder of data sets: `explicit` (--data), else the one that ACTIVE_DAN_DATA names, else `default_data()`.

    Raises UserError when a folder was named and is none; the default one need not exist.
    """
    for origin, named in (("--data", explicit), (VARIABLE, os.environ.get(VARIABLE))):
        if named is not None and str(named):
            folder = _expanded(Path(named))
            if not folder.is_dir():
                raise UserError(f"{origin} names {folder}, which is not a folder: name the folder of data sets")
            return folder
    return default_data()


def cache_folder(explicit: str | Path | None = None) -> Path:
    """The folder that decoded images are kept in: `explicit`, else images, in the user's cache folder of this project.

    It may be removed at any time: what is missing is decoded again.
    """
    if explicit is not None and str(explicit):
        return _expanded(Path(explicit))
    return _user_cache() / "images"


def _user_cache() -> Path:
    try:
        return Path.home() / ".cache" / "active-dan"
    except RuntimeError:  # no HOME, and a user id that the system does not know, as in some containers
        return Path(tempfile.gettempdir()) / f"active-dan-{os.getuid()}"


def _expanded(path: Path) -> Path:
    """The path with ~ replaced. Raises UserError where it stands for a folder that is not known."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise UserError(f"{path}: this user has no home folder: name the folder without ~") from None
