"""One engine for each state folder; those who only ask who it is are in nobody's way."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolab_daemon import lock
from nanolab_daemon.errors import EngineError
from nanolab_daemon.lock import FILE_NAME, Lock, holder


@pytest.fixture
def asker(tmp_path: Path) -> Iterator[int]:
    """Give a descriptor that has the lock shared, as `holder` has it for a moment."""
    fd = os.open(tmp_path / FILE_NAME, os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_SH)
    yield fd
    os.close(fd)


def test_a_second_engine_is_told_of_the_first(tmp_path: Path) -> None:
    with Lock(tmp_path, "run"):
        with pytest.raises(EngineError, match=f"in use by `nanolab-daemon run`, process {os.getpid()}"):
            Lock(tmp_path, "backfill").acquire()
        found = holder(tmp_path)
        assert found is not None
        assert found.command == "run"
    assert holder(tmp_path) is None


def test_who_only_asks_keeps_no_engine_from_starting(tmp_path: Path, asker: int) -> None:
    """`status --watch` asks twice a second: a daemon that starts at that moment must not be refused."""
    threading.Timer(0.1, fcntl.flock, (asker, fcntl.LOCK_UN)).start()
    with Lock(tmp_path, "run"):
        assert holder(tmp_path) is not None


def test_one_that_never_stops_asking_is_not_waited_for(
    tmp_path: Path, asker: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "ASKED_S", 0.05)
    with pytest.raises(EngineError, match="in use by another process"):
        Lock(tmp_path, "run").acquire()
