"""One process at a time in a folder: a lock of the operating system on FOLDER/.lock, gone with whoever held it.

    with lock_dir(folder):      refused, in one line, while another process holds it
        ...                 held while the object lives; a crash, or kill -9, ends it too

The file says who holds the lock, for the message; what counts is the lock, not the file, so that a file which a crash
left behind is in nobody's way. Within one process the lock is shared: whoever asks again gets the same one.
"""

from __future__ import annotations

import errno
import os
import platform
import sys
import time
import warnings
import weakref
from pathlib import Path

from dan.errors import UserError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

NAME = ".lock"
_BUSY = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_PAUSE = 0.02  # seconds between two tries

_held: weakref.WeakValueDictionary[tuple[int, str], Lock] = weakref.WeakValueDictionary()


class Lock:
    """A folder that is this process's own for as long as this object lives, or until `release`. Made by `lock_dir`."""

    def __init__(self, path: Path, descriptor: int | None) -> None:
        self.path = path
        self.release = weakref.finalize(self, _release, path, descriptor, os.getpid())

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing: somebody further out may have it too, and the last one who lets go of it ends it."""


def lock_dir(folder: Path | str, *, wait: float = 0.0) -> Lock:
    """The lock of a folder, which is made if it is not there. wait: seconds to wait for whoever has it.

    Raises UserError where another process has it, and OSError where the folder cannot be made. A folder that is there
    and may not be written needs no lock, for nobody can work in it; a file system without locks is warned of.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.resolve() / NAME
    known = (os.getpid(), str(path))  # a forked process has to ask for itself
    lock = _held.get(known)
    if lock is not None and lock.release.alive:
        return lock
    until = time.monotonic() + wait
    while True:
        try:
            descriptor = _taken(path)
        except BlockingIOError:
            if time.monotonic() < until:
                time.sleep(_PAUSE)
                continue
            raise UserError(
                f"{folder} is in use by another process{_holder(path)}: wait until it ends, or name another folder"
            ) from None
        lock = Lock(path, descriptor)
        _held[known] = lock
        return lock


def _taken(path: Path) -> int | None:
    """A descriptor that holds the lock, None where there can't be one. Raises BlockingIOError if another has it."""
    while True:
        try:
            # Never handed on to a program that this one starts: it would hold the lock after this one's end.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                return None
            raise
        try:
            _lock(descriptor)
            # Whoever had the lock before removed the file: the lock on what is no longer there keeps nobody out.
            if not _is_at(descriptor, path):
                os.close(descriptor)
                continue
            _sign(descriptor)
        except OSError as error:
            os.close(descriptor)
            if error.errno in _NO_LOCKS:
                warnings.warn(
                    f"{path.parent} is on a file system without locks: see to it that no two processes work in it",
                    stacklevel=4,
                )
                return None
            if error.errno in _BUSY:
                raise BlockingIOError(error.errno, "held by another process") from None
            raise
        return descriptor


if sys.platform == "win32":

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)  # a byte that is not there, so that the holder's name can be read
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:

    def _lock(descriptor: int) -> None:
        # Of the open file, not of the process as lockf's is: closing another descriptor of the file does not end it.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    """Who has it. Only for the message: a full disk must not keep anybody from the lock."""
    try:
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, f"{os.getpid()} on {platform.node()}".encode())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise


def _holder(path: Path) -> str:
    try:
        said = path.read_text(encoding="utf-8", errors="replace")[:200].strip()
    except OSError:
        return ""
    return f" ({said})" if said.isprintable() and said else ""


def _release(path: Path, descriptor: int | None, owner: int) -> None:
    """Remove the file while the lock is held, then let go. A forked child only closes its copy."""
    if descriptor is None:
        return
    if os.getpid() == owner:
        try:
            if _is_at(descriptor, path):
                path.unlink(missing_ok=True)
        except OSError:  # a folder that may no longer be written, or a system that keeps open files
            pass
    os.close(descriptor)


def _close_inherited() -> None:
    """In a forked child, such as a data loader's worker: its copies would hold the locks after the parent's end."""
    for lock in list(_held.values()):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited)
