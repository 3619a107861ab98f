"""A new ledger in the place of one that is damaged or lost: from what is published, then from the raw files.

What is published is read first, so that runs whose raw file has gone stay known. The pass that follows judges every
raw file as a first backfill would, and writes only what differs from what lies there.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nanolab_daemon import __version__, batch, claim
from nanolab_daemon.backlog import Rules
from nanolab_daemon.catalog import FILE_NAME, Catalog, FileRecord, RunRecord
from nanolab_daemon.config import Config
from nanolab_daemon.engine import Engine, work_settings
from nanolab_daemon.errors import EngineError
from nanolab_daemon.layout import check_paths
from nanolab_daemon.lock import Lock
from nanolab_daemon.model import FileState
from nanolab_daemon.names import raw_path
from nanolab_daemon.published import NoRun, PublishedRun, read_published
from nanolab_daemon.registrar import UNKNOWN, published_words, segmented_words
from nanolab_daemon.terms import Terms

COMMAND = "verify --rebuild"


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a new ledger was made of. `passed_over` are folders that hold no run of this program."""

    old_ledger: Path | None  # where the old one is now
    runs: int
    passed_over: tuple[NoRun, ...]
    ended: batch.Ended


def rebuild(
    config: Config,
    *,
    on_read: Callable[[int, int], None] = lambda *_: None,
    on_step: Callable[[Engine], None] = lambda _: None,
) -> Rebuilt:
    """Put the ledger aside, if there is one, make a new one, and work off what is still to be done.

    EngineError if an engine is at work, or if the old ledger is of a newer program.
    """
    check_paths(config)
    ledger = config.paths.state / FILE_NAME
    passed_over: list[NoRun] = []
    runs = 0
    terms = Terms(work_settings(config, "rebuild")).of
    with Lock(config.paths.state, COMMAND):
        _refuse_another(ledger, config.lab.name)
        aside = _put_aside(ledger)
        catalog = Catalog.open(ledger)
        try:
            catalog.set_lab(config.lab.name)
            claim.mark(config, catalog.ledger_id, anew=True)
            for found in read_published(config, on_read):
                if isinstance(found, NoRun):
                    passed_over.append(found)
                    continue
                runs += 1
                _record(catalog, found, terms(found.facts.proc))
                if runs % 1000 == 0:
                    catalog.commit()
        finally:
            catalog.close()
    rules = Rules(prove=True, accept_missing=True, abandoned_after_s=config.watch.abandoned_after_s)
    ended = batch.run(config, COMMAND, rules=rules, on_step=on_step)
    return Rebuilt(aside, runs, tuple(sorted(passed_over, key=lambda one: one.folder)), ended)


def _refuse_another(ledger: Path, lab: str) -> None:
    try:
        catalog = Catalog.open_to_read(ledger)
    except EngineError as error:
        if "newer" in error.message:
            raise
        return  # damaged or older: that is what the command is for
    if catalog is None:
        return
    try:
        claim.refuse_another_lab(catalog, lab)
    except sqlite3.Error:
        return  # damaged, too
    finally:
        catalog.close()


def _put_aside(ledger: Path) -> Path | None:
    """Rename the old ledger and its journal; they are kept, since nobody knows what is still in them."""
    if not ledger.exists():
        return None
    aside = ledger.with_name(f"{ledger.stem}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}.sqlite")
    for suffix in ("-wal", "-shm", ""):
        part = ledger.with_name(ledger.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside


def _record(catalog: Catalog, found: PublishedRun, terms: str) -> None:
    """Record a run, and the file that it was made from as one that is to be looked at."""
    facts, path = found.facts, raw_path(found.source_file)
    segmentation = "none"
    if facts.is_cut:
        segmentation = "done" if found.segments is not None else "pending"
    words = published_words(facts.is_cut)
    if found.segments is not None and segmentation == "done":
        words = segmented_words(len(found.segments), found.rows_outside or 0)
    catalog.put_run(
        RunRecord(
            facts=facts,
            source=path,
            source_sha256=found.source_sha256,
            source_missing=True,
            revision=1,
            version=found.version,
            stage_file=found.stage_file,
            staged_at=found.staged_at,
            segmentation=segmentation,
            segment_files=found.segments or (),
            rows_outside=found.rows_outside if segmentation == "done" else None,
            segmented_at=found.staged_at if segmentation == "done" else None,
        )
    )
    before = catalog.file(path)
    if before is not None and (before.rows or 0) > facts.rows:
        return  # two runs came from one path, one after the other; which of them is there now, the pass finds out
    catalog.put_file(
        FileRecord(
            path=path,
            present=True,
            fingerprint=UNKNOWN,
            sha256=found.source_sha256,
            state=FileState.SEGMENTED if segmentation == "done" else FileState.STAGED,
            reason=words,
            proc=facts.proc,
            run_id=facts.run_id,
            rows=facts.rows,
            rejection=None,
            attempts=0,
            republished=0,
            skip_bad_rows=bool(facts.bad_rows_skipped),
            version=__version__,
            seen_at=found.staged_at,
            judged_at=found.staged_at,
            terms=terms,
        )
    )
