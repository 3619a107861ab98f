"""One engine for each state directory: a lock that ends with its holder, and says who that is."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from nanolab_daemon.errors import EngineError

FILE_NAME = "lock"
ASKED_S = 1.0
"""So long one waits for those who only ask who holds a lock."""

ASK_EVERY_S = 0.005


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the lock."""

    pid: int
    command: str
    since: float  # seconds since 1970


class Lock:
    """The lock on a state directory, held until `release` or the end of the process, however it comes."""

    def __init__(self, state: Path, command: str, name: str = FILE_NAME) -> None:
        self._path = state / name
        self._command = command
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock; raise EngineError naming the holder if another engine has it."""
        self._refuse_root()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise EngineError(
                f"The state folder {self._path.parent} can't be written: {error.strerror}.",
                advice="Give this user the right to write there, or name another with --state-dir.",
            ) from error
        until = time.monotonic() + ASKED_S
        while not _locked(fd):
            found = holder(self._path.parent, self._path.name)
            if found is None and time.monotonic() < until:
                time.sleep(ASK_EVERY_S)  # somebody is only asking who holds it, and has it shared for that moment
                continue
            os.close(fd)
            raise EngineError(
                f"The state folder {self._path.parent} is in use by {_words(found)}.",
                advice="Wait for it to end, or stop it.",
            )
        self._fd = fd
        text = json.dumps({"pid": os.getpid(), "command": self._command, "since": time.time()})
        with contextlib.suppress(OSError):  # a full disk: it is locked all the same, only nobody can read by whom
            os.ftruncate(fd, 0)
            os.pwrite(fd, text.encode(), 0)

    def _refuse_root(self) -> None:
        """Refuse root where the folder is another user's: what root makes, that user could not replace."""
        if os.geteuid() != 0:
            return
        try:
            owner = self._path.parent.stat().st_uid
            name = pwd.getpwuid(owner).pw_name
        except (OSError, KeyError):
            return
        if owner != 0:
            raise EngineError(
                f"The state folder {self._path.parent} is {name}'s, who could not replace what root makes there.",
                advice=f"Type the same command after: sudo -u {name}",
            )

    def release(self) -> None:
        """Give the lock back."""
        if self._fd is not None:
            with contextlib.suppress(OSError):  # what a file says that nobody has locked is not read
                os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def holder(state: Path, name: str = FILE_NAME) -> Holder | None:
    """Tell who holds the lock on a state directory now; None if nobody does."""
    try:
        fd = os.open(state / name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _read(fd)
        return None  # nobody holds it: what it says is left from a process that was killed
    finally:
        os.close(fd)


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(fd: int) -> Holder:
    try:
        found = json.loads(os.pread(fd, 4096, 0))
        return Holder(int(found["pid"]), str(found["command"]), float(found["since"]))
    except (ValueError, KeyError, TypeError):
        return Holder(0, "", 0.0)


def _words(who: Holder | None) -> str:
    if who is None or not who.pid:
        return "another process"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(who.since))
    return f"`nanolab-daemon {who.command}`, process {who.pid}, since {since}"
