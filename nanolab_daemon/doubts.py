"""What a worker on another machine says, held against what is seen here: one may have lost a mount.

Waits for the disk; called in a thread that may.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nanolab_daemon import publish
from nanolab_daemon.names import shown_path
from nanolab_daemon.tasks import (
    CannotWrite,
    Gone,
    Segmented,
    SegmentJob,
    Staged,
    StagedFileLost,
    StageJob,
    Unreadable,
    WorkSettings,
)

LATE_S = 1.0
"""So long what another machine has written may take to be seen here."""


def of_batch(here: WorkSettings, items: Sequence[Any], results: Sequence[Any]) -> str:
    """Tell in words what of a worker's results can't be so; empty if nothing speaks against them."""
    for item, result in zip(items, results, strict=True):
        if doubt := _of(here, item, result):
            return doubt
    return ""


def _of(here: WorkSettings, item: Any, result: Any) -> str:
    match item, result:
        case StageJob(), Gone():
            if os.path.lexists(_raw(here, item)):
                return f"it does not find {shown_path(item.path)}, which is in the raw folder"
        case StageJob(), Unreadable():
            if _can_be_read(_raw(here, item)):
                return f"it can't read {shown_path(item.path)}, which can be read here: {result.reason}"
        case SegmentJob(), StagedFileLost():
            # One that is there and damaged it may well have found.
            missing = "[Errno 2]" in result.reason or "[Errno 20]" in result.reason
            if missing and Path(here.stage_root, item.stage_path).exists():
                return f"it does not find {item.stage_path}, which is in the stage folder"
        case _, CannotWrite():
            if _has_room(Path(result.root), here.owner):
                return f"it can't write {result.root}, which can be written here: {result.reason}"
        case _, (Staged() | Segmented()):
            if result.bundle is not None and not _appears(result.bundle):
                return f"what it has written, {result.bundle}, is not to be seen here"
    return ""


def _raw(here: WorkSettings, job: StageJob) -> bytes:
    return os.path.join(os.fsencode(here.raw_root), job.path)


def _can_be_read(path: bytes) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.read(fd, 1)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _has_room(root: Path, owner: str) -> bool:
    try:
        publish.try_for_room(publish.temp_folder(root, owner))
    except OSError:
        return False
    return True


def _appears(path: str) -> bool:
    until = time.monotonic() + LATE_S
    while not os.path.isdir(path):  # noqa: PTH112
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True
