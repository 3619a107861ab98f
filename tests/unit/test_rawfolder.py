"""What the daemon asks of the raw folder: within a limit, and a failure to look is no sign of absence."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from nanolab_daemon.courier import Courier, SilentError
from nanolab_daemon.places import Place
from nanolab_daemon.rawfolder import RawFolder
from nanolab_daemon.sections import WatchMode


def test_a_courier_gives_answers_and_errors() -> None:
    courier = Courier("pc1", 20.0)
    assert courier.call(lambda a, b: a + b, 1, 2) == 3
    with pytest.raises(FileNotFoundError):
        courier.call(os.lstat, "/nowhere/at/all")
    assert courier.waits_s(time.monotonic()) == 0
    courier.stop()


def test_one_silent_call_costs_its_limit_once() -> None:
    """While a call is out, others fail at once; when it has come back, all is as before."""
    courier, release = Courier("pc1", 1.0), threading.Event()
    with pytest.raises(SilentError, match="pc1 does not answer"):
        courier.call(release.wait)
    calls: list[int] = []
    with pytest.raises(SilentError):
        courier.call(calls.append, 1)
    assert courier.waits_s(time.monotonic()) > 0
    release.set()
    while courier.waits_s(time.monotonic()):
        os.sched_yield()
    assert Courier("pc1", 20.0).call(len, "abc") == 3
    assert courier.call(len, "abc") == 3
    assert calls == []
    courier.stop()


def folder(root: Path, kind: str) -> RawFolder:
    raw = RawFolder(root)
    raw.set_places([Place(b"", "/", kind, WatchMode.SCAN, "")])
    return raw


@pytest.mark.parametrize("kind", ["ext4", "cifs"])
def test_only_absence_is_absence(tmp_path: Path, kind: str) -> None:
    """No file, and a folder in its place, are told from trouble with looking, of which nothing may be concluded."""
    raw = folder(tmp_path, kind)
    (tmp_path / "a.csv").write_bytes(b"12")
    (tmp_path / "b.csv").mkdir()
    found = raw.stat(b"a.csv")
    assert found is not None
    assert found.size_bytes == 2
    assert raw.stat(b"b.csv") is None
    assert raw.stat(b"no.csv") is None
    assert raw.stat(b"a.csv/below") is None
    with pytest.raises(OSError, match="too long"):
        raw.stat(b"x" * 300)
    assert raw.exists(b"x" * 300)
    assert not raw.exists(b"no.csv")
    assert raw.identity(b"") == (tmp_path.stat().st_dev, tmp_path.stat().st_ino)
    assert raw.identity(b"no") is None
    (tmp_path / "link").symlink_to(tmp_path)
    assert folder(tmp_path / "link", kind).real_path() == tmp_path


def test_what_lies_below_a_share_is_asked_through_it(tmp_path: Path) -> None:
    """A local disk that is mounted below a share can't be reached while that is silent."""
    raw = RawFolder(tmp_path)
    raw.set_places(
        [
            Place(b"", "/", "ext4", WatchMode.EVENTS, ""),
            Place(b"pc1", "/pc1", "cifs", WatchMode.SCAN, ""),
            Place(b"pc1/disk", "/pc1/disk", "ext4", WatchMode.EVENTS, ""),
        ]
    )
    here = threading.get_ident()
    assert raw.call(b"a.csv", threading.get_ident) == here
    assert raw.call(b"pc1/a.csv", threading.get_ident) != here
    assert raw.call(b"pc1/disk/a.csv", threading.get_ident) != here
    assert raw.call(b"pc10/a.csv", threading.get_ident) == here
