"""What can be done in a folder, found out by doing it.

Works in a folder of its own with a random name, and leaves nothing behind.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

_PREFIX = ".nanolab-check-"
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


def try_writing(root: Path) -> str:
    """Make, sync, rename, exchange and delete in a folder; OSError where that fails.

    Returns why two folders can't be exchanged in one step, or an empty text where they can.
    """
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
    try:
        one, other = folder / "one", folder / "other"
        one.mkdir()
        other.mkdir()
        with (one / "made").open("wb") as file:
            file.write(b"nanolab")
            file.flush()
            os.fsync(file.fileno())
        (one / "made").rename(one / "renamed")
        handle = os.open(one, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        return _exchange(one, other)
    finally:
        shutil.rmtree(folder)


def try_making(root: Path) -> None:
    """Make a folder in `root` and remove it; OSError where that fails."""
    Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root)).rmdir()


def _exchange(one: Path, other: Path) -> str:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    try:
        done = libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    except AttributeError:
        return "this C library has no renameat2"
    return "" if done == 0 else os.strerror(ctypes.get_errno())
