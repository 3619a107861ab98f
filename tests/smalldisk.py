"""A disk of some hundred kilobytes that can be filled and emptied again: a tmpfs, which only root can mount."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount; CI runs as root")


@contextlib.contextmanager
def mounted(folder: Path, size_kb: int) -> Iterator[Path]:
    """Let a folder be a disk of this size; what was in it is hidden meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=False)


def fill(folder: Path, leave_kb: int = 0) -> Path:
    """Fill the disk but for so much, with one file; delete that to make room."""
    path = folder / "filling"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
    os.truncate(path, max(0, path.stat().st_size - (leave_kb << 10)))
    return path


def remount(folder: Path, *options: str) -> None:
    """Change a mount, such as to `ro`."""
    subprocess.run(["mount", "-o", ",".join(("remount", *options)), folder], check=True)
