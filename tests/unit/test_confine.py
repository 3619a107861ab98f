"""The right to write is given up for good, by the process and all that it starts."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SCRIPT = """
import os, subprocess, sys
from pathlib import Path
from nanolab_daemon.confine import write_only_below
own, raw = map(Path, sys.argv[1:])
trouble = write_only_below([own])
if trouble:
    print("trouble:", trouble)
    sys.exit(77)
(own / "a/b").mkdir(parents=True)
(own / "file").write_text("x")
(own / "file").rename(own / "a/b/file")  # between folders, as publishing does
(own / "a/b/file").unlink()
Path(os.devnull).write_text("x")
assert (raw / "file.csv").read_text() == "data"
for attempt in (
    lambda: (raw / "new").write_text("x"),
    lambda: (raw / "file.csv").open("a"),
    lambda: os.truncate(raw / "file.csv", 0),
    lambda: (raw / "file.csv").unlink(),
    lambda: (raw / "file.csv").rename(own / "file.csv"),
    lambda: os.link(raw / "file.csv", own / "link.csv"),
    lambda: (raw / "folder").mkdir(),
    lambda: os.mkfifo(raw / "pipe"),
    lambda: os.symlink("x", raw / "link"),
):
    try:
        attempt()
    except OSError:
        continue
    sys.exit("it could be done")
child = subprocess.run(["sh", "-c", f"echo x >'{raw}/child'"], capture_output=True)
sys.exit("a child could" if child.returncode == 0 else 0)
"""


def place_that_is_confined() -> Path:
    """Find a folder that this user can write and that is none of those that stay writable, as /tmp is."""
    for place in (Path(__file__).parent, Path.home(), Path("/var/lib")):
        free = any(place.is_relative_to(other) for other in ("/tmp", "/var/tmp", "/dev", "/run"))
        if not free and os.access(place, os.W_OK):
            return place
    pytest.skip("everything that this user can write stays writable")


def test_raw_can_be_read_and_not_written_not_even_by_a_child() -> None:
    with tempfile.TemporaryDirectory(dir=place_that_is_confined()) as home:
        own, raw = Path(home, "own"), Path(home, "raw")
        own.mkdir()
        raw.mkdir()
        (raw / "file.csv").write_text("data")
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, own, raw], capture_output=True, text=True, timeout=60, check=False
        )
        assert [one.name for one in raw.iterdir()] == ["file.csv"]
    if done.returncode == 77:
        pytest.skip(done.stdout)
    assert done.returncode == 0, done.stderr
