"""Whose the output folders are: one ledger's, of one laboratory, and of one engine at a time.

The lock of the state folder can't see an engine with another one. Each engine has a temporary folder in the outputs,
called as its ledger is; whoever is at work holds a lock (flock) on it. Where the file system has no such locks on
folders, as NFS has not, nothing is found out.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable
from pathlib import Path

from nanolab_daemon import publish
from nanolab_daemon.catalog import Catalog
from nanolab_daemon.errors import ConfigError, EngineError
from nanolab_daemon.settings import shown


def refuse_another_lab(catalog: Catalog, name: str) -> None:
    """Note whose ledger this is; ConfigError if its runs are of a laboratory with another name."""
    noted = catalog.lab()
    if noted is None:
        noted = "" if catalog.has_runs() else name
        catalog.set_lab(noted)
    if noted == name:
        return
    if not catalog.has_runs():
        catalog.set_lab(name)
        return
    whose = f"of the laboratory {shown(noted)}" if noted else "of a laboratory without a name"
    raise ConfigError(
        f"lab.name = {shown(name)}: the runs in this ledger are {whose}, and a run's id depends on that name.",
        advice=f"Set lab.name = {shown(noted)}; or name a new, empty state folder, and all runs are made anew.",
    )


class Claim:
    """The output folders, held against engines with another ledger from `take` to `release`."""

    def __init__(self, roots: Iterable[Path], owner: str) -> None:
        self._roots, self._owner = tuple(roots), owner
        self._held: list[int] = []
        self.is_held = False

    def take(self) -> None:
        """Hold the folders; EngineError if another engine does, or if they can't be written."""
        try:
            for root in self._roots:
                self._take(root, publish.temp_folder(root, self._owner))
        except BaseException:
            self.release()
            raise
        self.is_held = True

    def _take(self, root: Path, folder: Path) -> None:
        made = not folder.exists()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._held.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            others = [other for other in folder.parent.iterdir() if other != folder]
        except OSError as error:
            raise EngineError(
                f"{root} can't be written: {error.strerror}.", advice="Give this user the right to write there."
            ) from error
        if not _is_held(self._held[-1], fcntl.LOCK_EX) and not any(map(_is_at_work, others)):
            return
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise EngineError(
            f"Another engine, with another state folder, is at work in {root}.",
            advice="Give each laboratory a name of its own (lab.name) or folders of its own.",
        )

    def release(self) -> None:
        """Let go; may be called again."""
        self.is_held = False
        while self._held:
            os.close(self._held.pop())


def _is_at_work(folder: Path) -> bool:
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False  # no folder, or gone meanwhile, or another user's: then its engine can't write what is ours
    try:
        return _is_held(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def _is_held(fd: int, how: int) -> bool:
    """Take a lock; tell whether somebody else has it."""
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # a file system without locks on folders
    return False
