"""The backlog: what the scan finds that the ledger does not know as it stands now. Opens no raw file.

A thread walks the folders, since a share may keep stat(2) waiting; the engine's thread compares with the ledger.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from nanolab_daemon.catalog import Catalog, FileRecord
from nanolab_daemon.errors import EngineError, RejectCause
from nanolab_daemon.model import FileState, Fingerprint
from nanolab_daemon.registrar import Action, Registrar, abandon
from nanolab_daemon.scan import Listing, Memory, NameTest, walk, walk_changed
from nanolab_daemon.tally import Tally
from nanolab_daemon.tasks import Selection, StageJob

QUEUED_LISTINGS = 16
STOP_S = 0.4
SHRINK_FILES = 20
SHRINK_PART = 0.5
"""When more than so many files and so large a part of the known ones are gone, a share has vanished, not they."""

WAITS = frozenset({FileState.QUEUED, FileState.STARTED, FileState.MEASURING})


@dataclass(frozen=True, slots=True)
class Rules:
    """What a pass over the raw folder is to do beyond offering what is new or changed."""

    force: bool = False  # known files too
    dry: bool = False  # change nothing
    selection: Selection = field(default_factory=Selection)
    abandoned_after_s: float = 86400.0
    young_s: float = 0.0  # a file that was given up but is younger than this was so by a clock that was wrong
    infer_missing: bool = True
    accept_missing: bool = False  # believe it, however many known files are gone
    prove: bool = False  # judge anew what the ledger knows, and publish only what differs from what is there
    steady: bool = False  # only what is still as the scan saw it; otherwise a file is taken as it stands


class Passed(StrEnum):
    """Why a file needs no work."""

    KNOWN = "known"
    GIVEN_UP = "given up"  # known, without rows, and not changed for long: rejected without being read again
    RETURNED = "returned"  # it had vanished, and is back as it was
    MOVED = "moved"  # a known file under a new name


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a pass goes: all below `start` but not into `skip`. `memory` is kept from pass to pass.

    `changed_only`: only folders in which names have come or gone since the last pass; nothing is concluded then.
    """

    start: bytes = b""
    skip: frozenset[bytes] = frozenset()
    memory: Memory | None = None
    changed_only: bool = False

    def holds(self, folder: bytes) -> bool:
        """Tell whether a folder lies within."""
        return _inside(folder, self.start) and not any(_inside(folder, other) for other in self.skip)


def _inside(folder: bytes, above: bytes) -> bool:
    return not above or folder == above or folder.startswith(above + b"/")


class Backlog:
    """One pass over the raw folder, or a part of it, as a source of jobs for the engine."""

    def __init__(
        self,
        root: Path,
        test: NameTest,
        catalog: Catalog | None,
        tally: Tally,
        *,
        rules: Rules,
        reach: Reach = Reach(),
        registrar: Registrar | None = None,
        act: Callable[[list[Action]], None] = lambda _: None,
        divert: Callable[[bytes, Fingerprint, FileRecord | None], bool] = lambda *_: False,
        waits: Callable[[bytes, Fingerprint], None] = lambda *_: None,
        trusts: Callable[[bytes], bool] = lambda _: True,
        exists: Callable[[bytes], bool] | None = None,
        wake: Callable[[], None] = lambda: None,
        passed: Callable[[bytes, Passed, FileRecord | None], None] = lambda *_: None,
        missed: Callable[[bytes], None] = lambda _: None,
    ) -> None:
        self._root = os.fsencode(root)
        self._test = test
        self._catalog = catalog
        self._tally = tally
        self._rules = rules
        self._reach = reach
        self._registrar = registrar
        self._act = act
        self._divert = divert
        self._waits = waits
        self._trusts = trusts
        self._exists = exists or self._is_there
        self._wake = wake
        self._passed = passed
        self._missed = missed
        self._listings: queue.Queue[Listing | None] = queue.Queue(QUEUED_LISTINGS)
        self._thread = threading.Thread(target=self._walk, name="scan", daemon=True)
        self._jobs: Iterator[StageJob] = iter(())
        self._seen: set[bytes] = set()
        self.unlisted: dict[bytes, str] = {}  # folders that could not be listed, and why
        self._missing: list[bytes] = []
        self._met: set[bytes] = set()  # what the ledger was told of since the walk began
        self._followed: set[bytes] = set()  # old names of files that have new ones
        self.shrunk = (0, 0)  # how many of how many known files are gone, if that is too many to be believed
        self.trouble: OSError | None = None  # why not even the first folder could be listed
        self._failure: BaseException | None = None
        self._ended = False
        self._stopped = False
        self.finished = False

    def start(self) -> None:
        """Begin to walk."""
        if self._catalog is not None:
            self._met = self._catalog.note_met()
        self._thread.start()

    def stop(self) -> None:
        """End the walk; nothing is concluded from what it has not seen."""
        self._stopped = True
        self._finish()
        if self._thread.is_alive():
            self._thread.join(STOP_S)  # one that a dead share holds is left to itself: it has no effect any more

    def _finish(self) -> None:
        self.finished = True
        if self._catalog is not None:
            self._catalog.forget_met(self._met)

    def _walk(self) -> None:
        try:
            for listing in self._walked():
                if not self._hand_over(listing):
                    return
        except BaseException as error:  # noqa: BLE001 -- not swallowed: raised again in the other thread
            # Told where it is seen, in the engine's thread: a pass that ends without a word would never end.
            self._failure = error
        self._hand_over(None)

    def _hand_over(self, listing: Listing | None) -> bool:
        """Pass on a listing, once there is room for it; tell whether anybody still wants it."""
        while not self._stopped:
            try:
                self._listings.put(listing, timeout=STOP_S / 4)
            except queue.Full:
                continue
            if self._listings.qsize() < 2:  # who is awake already takes all that there is
                self._wake()
            return True
        return False

    def _walked(self) -> Iterator[Listing]:
        reach = self._reach
        if reach.changed_only and reach.memory is not None:
            return walk_changed(self._root, self._test, reach.memory, skip=reach.skip)
        return walk(self._root, self._test, reach.start, skip=reach.skip, memory=reach.memory)

    def take(self, most: int) -> Iterator[StageJob]:
        """Give about `most` files that are to be staged, without waiting."""
        given = 0
        while given < most and not self.finished:
            job = next(self._jobs, None)
            if job is not None:
                given += 1
                yield job
                continue
            if self._ended:
                self._finish()
                self._wake()  # whoever owns the pass need not wait for something else to happen
                return
            try:
                listing = self._listings.get_nowait()
            except queue.Empty:
                return
            if listing is None:
                if self._failure is not None:
                    raise self._failure
                self._ended = True
                self._conclude()
            else:
                self._jobs = self._compare(listing)

    def _compare(self, listing: Listing) -> Iterator[StageJob]:
        if listing.error is not None:
            if listing.folder == self._reach.start:
                self.trouble = listing.error
            if listing.folder == b"" and not self._rules.steady:
                raise EngineError(
                    f"The raw folder {os.fsdecode(self._root)} can't be listed: {listing.error.strerror}.",
                    advice="Is the share mounted? Has this user the right to read it?",
                )
            self.unlisted[listing.folder] = listing.error.strerror or str(listing.error)
            self._tally.unreadable_folders += 1
            return
        self._seen.add(listing.folder)
        catalog, mark = self._catalog, listing.mark
        if catalog is not None and not self._rules.force and catalog.is_settled(listing.folder, mark):
            self._tally.found += len(listing)
            self._tally.known += len(listing)
            return
        known = {} if catalog is None else catalog.known_in(listing.folder)
        idle = True
        for path, fingerprint in listing.files.items():
            self._tally.found += 1
            before = known.get(path)
            if before is not None and before[0] == fingerprint and not self._rules.force:
                idle = idle and before[1] not in WAITS
                again = self._known(path, before[1], fingerprint)
                if again is not None:
                    idle = False
                    yield again
                continue
            idle = False
            job = self._job(path, fingerprint, is_known=before is not None)
            if job is not None:
                yield job
        missing = [path for path in known if path not in listing.files and path not in listing.unseen]
        self._missing += missing
        if catalog is not None and idle and not missing and not listing.unseen:
            catalog.settle(listing.folder, mark)

    def _known(self, path: bytes, state: FileState, fingerprint: Fingerprint) -> StageJob | None:
        """Deal with a file that is known and unchanged: nothing is read, unless it could not be read before."""
        if state is FileState.WAITING:
            return self._make(path, fingerprint, None)
        old = time.time() - fingerprint.mtime_ns / 1e9
        if state is FileState.REJECTED and old < self._rules.young_s and self._is_given_up(path):
            return self._make(path, fingerprint, None)
        self._tally.known += 1
        given_up = state in WAITS and old > self._rules.abandoned_after_s
        if given_up and not self._rules.dry and self._catalog:
            record = self._catalog.file(path)
            if record is not None:
                self._catalog.put_file(abandon(record))
        elif state in WAITS:
            self._waits(path, fingerprint)
        self._passed(path, Passed.GIVEN_UP if given_up else Passed.KNOWN, None)
        return None

    def _is_given_up(self, path: bytes) -> bool:
        record = self._catalog.file(path) if self._catalog is not None else None
        return record is not None and record.rejection is not None and record.rejection.cause is RejectCause.ABANDONED

    def _job(self, path: bytes, fingerprint: Fingerprint, *, is_known: bool) -> StageJob | None:
        """Make a job for a new or changed file, unless it is a known one under a new name or come back."""
        record = None if self._catalog is None else self._catalog.file(path)
        if not self._rules.force and self._catalog is not None:
            if record is not None and not record.present and record.fingerprint == fingerprint:
                self._tally.known += 1
                self._passed(path, Passed.RETURNED, record)
                if self._registrar is not None and not self._rules.dry:
                    self._act(self._registrar.returned(record))
                return None
            if not is_known:
                moved = self._moved_from(fingerprint)
                if moved is not None:
                    self._tally.known += 1
                    self._followed.add(moved.path)
                    self._passed(path, Passed.MOVED, moved)
                    if self._registrar is not None and not self._rules.dry:
                        self._act(self._registrar.moved(moved, path, fingerprint))
                    return None
        if self._divert(path, fingerprint, record):
            return None
        return self._make(path, fingerprint, record)

    def _make(self, path: bytes, fingerprint: Fingerprint, record: FileRecord | None) -> StageJob:
        anew = self._rules.force or self._rules.prove
        same = record is not None and not anew and record.sha256 and record.state is not FileState.WAITING
        return StageJob(
            path,
            size_bytes=fingerprint.size_bytes,
            expected=fingerprint if self._rules.steady else None,
            known_sha256=record.sha256 if same and record is not None else None,
            force=self._rules.force,
            skip_bad_rows_of=record.sha256 if record is not None and record.skip_bad_rows else None,
            dry=self._rules.dry,
            selection=self._rules.selection,
        )

    def _moved_from(self, fingerprint: Fingerprint) -> FileRecord | None:
        """Find the file that now has another name: the same inode, size and time, and the old name is gone."""
        assert self._catalog is not None
        for record in self._catalog.same_inode(fingerprint):
            if record.path not in self._followed and not self._exists(record.path):
                return record
        return None

    def _is_there(self, path: bytes) -> bool:
        return os.path.lexists(os.path.join(self._root, path))

    def _conclude(self) -> None:
        """Work out which known files are gone, once every folder was seen, and let the registrar know."""
        if self._catalog is None or not self._rules.infer_missing or self.trouble is not None:
            return
        if not self._trusts(os.path.join(self._reach.start, b"x")):
            return  # it is not the folder any more that it was when the pass began
        if self._reach.changed_only and not self._missing:
            return
        folders = [folder for folder in self._catalog.known_folders() if self._reach.holds(folder)]
        if not self._reach.changed_only:
            for folder in folders:
                if folder not in self._seen and not any(_inside(folder, failed) for failed in self.unlisted):
                    self._missing += self._catalog.known_in(folder)
        self._missing = [path for path in self._missing if self._is_missing(path)]
        if len(self._missing) > SHRINK_FILES:
            present = sum(len(self._catalog.known_in(folder)) for folder in folders)
            if len(self._missing) > SHRINK_PART * present and not self._rules.accept_missing:
                self._tally.missing_ignored += len(self._missing)
                self.shrunk = (len(self._missing), present)
                return
        for path in self._missing:
            self._tally.missing += 1
            self._missed(path)
            if self._registrar is not None and not self._rules.dry:
                self._act(self._registrar.vanished(path))

    def _is_missing(self, path: bytes) -> bool:
        """Tell whether a known file that was not met is gone, and not followed to a new name meanwhile.

        Of one that was recorded since its folder was listed that can't be told; the next pass tells.
        """
        assert self._catalog is not None
        if path in self._followed or path in self._met:
            return False
        record = self._catalog.file(path)
        return record is not None and record.present
