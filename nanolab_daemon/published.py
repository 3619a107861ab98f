"""What lies in the output folders, read without a ledger: the runs, and whether their segments are all there.

Files are read by workers; this process walks the folders alone. Changes nothing.
"""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nanolab_daemon.config import Config
from nanolab_daemon.engine import work_settings
from nanolab_daemon.lane import Answer, Condemned, Lane
from nanolab_daemon.model import OutputFile, RunFacts
from nanolab_daemon.pool import Pool

PART = "part-000.parquet"
BATCH_FILES = 64
QUEUED_FILES = 4096


@dataclass(frozen=True, slots=True)
class FolderQuestion:
    """Asks which run is published in a folder (relative to the stage root)."""

    folder: str


@dataclass(frozen=True, slots=True)
class PublishedRun:
    """A run as its files tell it. `segments` is None where they are not what its rows would be cut into."""

    facts: RunFacts
    source_file: str  # as the file says: escaped
    source_sha256: str
    version: str
    stage_file: OutputFile
    staged_at: float
    segments: tuple[OutputFile, ...] | None
    rows_outside: int


@dataclass(frozen=True, slots=True)
class NoRun:
    """The folder holds no run of this program, or a damaged one."""

    folder: str
    reason: str


FolderAnswer = PublishedRun | NoRun


def run_folders(stage_root: Path) -> Iterator[str]:
    """Give every folder that may hold a published run, relative to the stage root."""
    for path in sorted(stage_root.glob(f"proc=*/date=*/run_id=*/{PART}")):
        yield os.path.dirname(os.path.relpath(path, stage_root))


def read_published(config: Config, on_step: Callable[[int, int], None] = lambda *_: None) -> Iterator[FolderAnswer]:
    """Read all that is published, in no order. `on_step` is told how many of how many folders are done."""
    pools = config.pools
    lane: Lane[FolderQuestion, FolderAnswer] = Lane(
        Pool(
            "read",
            "nanolab_daemon.audit:published_batch",
            workers=pools.stage_processes,
            settings=work_settings(config, "rebuild"),
            task_timeout_s=pools.task_timeout_s,
            task_memory_mb=pools.task_memory_mb,
        ),
        key=lambda question: question.folder,
        size_bytes=lambda _: 0,
        most_jobs=BATCH_FILES,
        most_bytes=1,
    )
    folders = list(run_folders(config.paths.stage))
    for folder in folders:
        lane.offer(FolderQuestion(folder), live=False)
    selector = selectors.DefaultSelector()
    try:
        lane.pool.start()
        selector.register(lane.pool, selectors.EVENT_READ)
        while not lane.empty:
            lane.dispatch(last=True)
            due = lane.pool.next_deadline()
            selector.select(1.0 if due is None else max(0.0, min(1.0, due - time.monotonic())))
            for event in lane.poll(time.monotonic()):
                match event:
                    case Answer():
                        yield event.result
                    case Condemned():
                        yield NoRun(event.job.folder, event.words)
            on_step(len(folders) - lane.waiting - lane.busy, len(folders))
    finally:
        lane.pool.kill()
        selector.close()
