"""Where data sets lie and decoded images are kept: asked by the doors, since nothing below reads the environment."""

import os
from pathlib import Path

from dan.errors import UserError

VARIABLE = "ACTIVE_DAN_DATA"


def default_data() -> Path:
    """The folder of data sets where none is named: data, in the user's cache folder of this project."""
    return Path.home() / ".cache" / "active-dan" / "data"


def data_folder(explicit: str | Path | None = None) -> Path:
    """The folder of data sets: `explicit` (--data), else the one that ACTIVE_DAN_DATA names, else `default_data()`.

    Raises UserError when a folder was named and is none; the default one need not exist.
    """
    for said, named in (("--data", explicit), (VARIABLE, os.environ.get(VARIABLE))):
        if named is not None and str(named):
            folder = Path(named).expanduser()
            if not folder.is_dir():
                raise UserError(f"{said} names {folder}, which is not a folder: name the folder of data sets")
            return folder
    return default_data()


def cache_folder(explicit: str | Path | None = None) -> Path:
    """The folder that decoded images are kept in: `explicit`, else images, in the user's cache folder of this project.

    It may be removed at any time: what is missing is decoded again.
    """
    if explicit is not None and str(explicit):
        return Path(explicit).expanduser()
    return Path.home() / ".cache" / "active-dan" / "images"
