"""Whose the output folders are: one ledger's, of one laboratory, and of one engine at a time.

The lock of the state folder can't see an engine with another one. Each engine has a temporary folder in the outputs,
called as its ledger is; whoever is at work holds a lock (flock) on it. Where the file system has no such locks on
folders, as NFS has not, nothing is found out.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterable
from pathlib import Path

from nanolab_daemon import publish
from nanolab_daemon.catalog import Catalog
from nanolab_daemon.config import Config
from nanolab_daemon.errors import ConfigError, EngineError
from nanolab_daemon.settings import shown


def note_lab(catalog: Catalog, name: str) -> None:
    """Note whose ledger this is; ConfigError if its runs are of a laboratory with another name."""
    refuse_another_lab(catalog, name)
    if catalog.lab() != name:
        catalog.set_lab(name)


def refuse_another_lab(catalog: Catalog, name: str) -> None:
    """Raise ConfigError if a ledger has runs, and they are of a laboratory with another name. Notes nothing."""
    noted = catalog.lab() or ""
    if noted == name or not catalog.has_runs():
        return
    whose = f"of the laboratory {shown(noted)}" if noted else "of a laboratory without a name"
    raise ConfigError(
        f"lab.name = {shown(name)}: the runs in this ledger are {whose}, and a run's id depends on that name.",
        advice=f"Set lab.name = {shown(noted)}; or name a new, empty state folder, and all runs are made anew.",
    )


def mark(config: Config, ledger_id: str, *, anew: bool = False) -> None:
    """Leave in a laboratory's partition whose it is; ConfigError if it is another one's that has the same name.

    A ledger that was lost leaves a partition behind that is taken over by the same laboratory: one with the same raw
    folder on the same machine, or one that says so (`anew`). A laboratory without a name has its folders alone.
    """
    name, path = config.lab.name, config.paths.stage / publish.LAB_MARK
    if not name:
        return
    mine = {"ledger": ledger_id, "raw": os.fsdecode(config.paths.raw), "host": socket.gethostname()}
    found = _marked(path)
    if found == mine:
        return
    same_place = found is not None and (found["raw"], found["host"]) == (mine["raw"], mine["host"])
    if found is not None and found["ledger"] != ledger_id and not same_place and not anew:
        raise ConfigError(
            f"lab.name = {shown(name)}: another laboratory of that name publishes in {shown(str(path.parent))}, with "
            f"the raw folder {shown(found['raw'])} on {found['host']}.",
            advice="Give this one another name. If it is the same, and its ledger is lost: "
            "`nanolab-daemon verify --rebuild` takes over what is published.",
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{publish.LAB_MARK}-{os.getpid()}")
        aside.write_text(json.dumps(mine), encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise EngineError(
            f"{path.parent} can't be written: {error.strerror}.", advice="Give this user the right to write there."
        ) from error


def _marked(path: Path) -> dict[str, str] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {key: str(found[key]) for key in ("ledger", "raw", "host")}
    except (OSError, ValueError, KeyError, TypeError):
        return None  # there is none, or nobody can tell any more


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
