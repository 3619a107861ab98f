"""Follows files that are being written, from the first hint to the moment that they are done.

Looks at each again and again, as seldom as it can, and offers it to the engine when `settle` says so. Whatever it
misses, the scan finds.
"""

from __future__ import annotations

import heapq
import itertools
import math
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from nanolab_daemon.catalog import HAS_RUN
from nanolab_daemon.config import Config, WatchMode
from nanolab_daemon.engine import Engine
from nanolab_daemon.log import PROC, REASON, ROWS, SOURCE_FILE, STATE, logger
from nanolab_daemon.model import WAITING_WORDS, FileState, Fingerprint
from nanolab_daemon.names import shown_path
from nanolab_daemon.places import Place, place_of
from nanolab_daemon.probe import Probe
from nanolab_daemon.procedures import Registry
from nanolab_daemon.scan import name_test
from nanolab_daemon.settle import Glance, Patience, Rule, Track, decide, pause_s
from nanolab_daemon.tasks import (
    Changing,
    Gone,
    NoRows,
    Quarantined,
    Refused,
    Staged,
    StageJob,
    StageOutcome,
    Unchanged,
    Unreadable,
)

LOOK_BYTES = 1 << 20
"""A closed file of this size is looked into, since it may be proven whole; a larger one just waits to settle."""

LOOKS_A_SECOND = 200
"""What looking at files may cost where no events come: so many stat(2) calls."""

CROWD = 64
GROWN_S = 1.0

_FINAL = HAS_RUN | {FileState.REJECTED}
_WAITING = frozenset({FileState.QUEUED, FileState.STARTED})


@dataclass(slots=True)
class _Entry:
    track: Track
    due: float
    probe: Probe | None = None
    offered: bool = False
    told: FileState | None = None  # what the ledger says of it while it is measured
    known: bool = False  # the ledger has been asked about these bytes
    done: bool = False  # staged or refused; only watched for growth
    failures: int = 0
    began: float = 0.0  # when something was first heard of it
    changes: int = 0  # how often it was seen to change since
    why: Rule | None = None


class Follower:
    """The files that something was heard of lately. `places` tell where closes can be seen."""

    def __init__(self, config: Config, engine: Engine, registry: Registry) -> None:
        self.engine = engine
        self.places: Mapping[bytes, Place] = {}
        self._root = os.fsencode(config.paths.raw)
        self._log = logger(__name__)
        self._entries: dict[bytes, _Entry] = {}
        self._line: list[tuple[float, int, bytes]] = []  # (when to look, serial number, path)
        self._serial = itertools.count()
        self.configure(config, registry)

    def configure(self, config: Config, registry: Registry) -> None:
        """Take over changed settings."""
        self.config = config
        self.registry = registry
        for entry in self._entries.values():
            entry.probe = None  # it knows the old registry
            entry.track = replace(entry.track, glance=None) if entry.track.glance else entry.track
        watch = config.watch
        self._patience = Patience(watch.settle_s, watch.quiet_s, watch.poll_s, watch.rescan_s)
        self._test = name_test(watch.include, watch.exclude)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def next_due(self) -> float:
        """The monotonic second at which the next file is to be looked at; infinity if none is."""
        return self._line[0][0] if self._line else math.inf

    def glance(self, path: bytes) -> Glance | None:
        """Give what the last look into a file told, if it is being followed."""
        entry = self._entries.get(path)
        return entry.track.glance if entry else None

    def follows(self, path: bytes) -> bool:
        """Tell whether something was heard of a file lately."""
        return path in self._entries

    def last_heard(self, path: bytes) -> float | None:
        """Give the monotonic second at which a file that is followed last changed or was closed, as far as seen."""
        entry = self._entries.get(path)
        return max(entry.track.changed_at, entry.track.closed_at or 0.0) if entry else None

    def measuring(self) -> dict[bytes, Glance]:
        """Give the files that have rows and grow, with the last look into each."""
        looks = {path: entry.track.glance for path, entry in self._entries.items() if not entry.done}
        return {path: look for path, look in looks.items() if look is not None and look.rows}

    @property
    def unsettled(self) -> int:
        """How many files are being written or are with the engine: all but the done and those that wait for rows."""
        return sum(not entry.done and not _waits(entry) for entry in self._entries.values())

    # -- what is heard ----------------------------------------------------------------------------------------------

    def heard(self, path: bytes, now: float, *, closed: bool) -> None:
        """Something happened to this path; `closed`: a writer has closed it."""
        if not self._test(path):
            return
        entry = self._entries.get(path)
        try:
            mark = self._stat(path)
        except OSError:
            if entry is not None:
                self._later(path, entry, now)
            return  # else the scan meets it, or tells that it can't be looked at
        if mark is None:
            if entry is not None or self.engine.catalog.file(path) is not None:
                self._gone(path)
            return
        if entry is None:
            entry = self._entries[path] = _Entry(Track(mark, now), now, began=now)
        else:
            self._note(entry, mark, now)
        if closed:
            entry.track = entry.track.closed(now)
        if not entry.offered:
            self._visit(path, entry, mark, now)

    def found(self, path: bytes, mark: Fingerprint, now: float, age_s: float, *, republished: int) -> bool:
        """Take a new or changed file from the scan if it is fresh; tell whether it is followed from here."""
        entry = self._entries.get(path)
        if entry is not None:
            self._note(entry, mark, now)
            if not entry.offered:
                self._schedule(path, entry, now)
            return True
        if age_s >= self._patience.quiet_s:
            return False
        since = now - max(0.0, age_s)
        entry = self._entries[path] = _Entry(Track(mark, since, republished=republished), now, began=now)
        self._schedule(path, entry, now)
        return True

    def answered(self, job: StageJob, outcome: StageOutcome, now: float) -> None:
        """Take note of what a worker said."""
        entry = self._entries.get(job.path)
        if entry is None:
            try:
                mark = self._stat(job.path)
            except OSError:
                return
            if mark is None:
                self._gone(job.path)  # between the reading and the answer, when the ledger did not know it yet
            elif isinstance(outcome, Changing):
                entry = self._entries[job.path] = _Entry(Track(mark, now), now, began=now)
                self._schedule(job.path, entry, now + self._patience.poll_s)
            return
        entry.offered = False
        match outcome:
            case Staged() | Refused() | Quarantined() | Unchanged():
                entry.done = True
                entry.failures = 0
                record = self.engine.catalog.file(job.path)
                track = entry.track.seen(outcome.fingerprint, now)
                entry.track = Track(track.fingerprint, now, republished=record.republished if record else 0)
                self._schedule(job.path, entry, now + self._patience.poll_s)
            case NoRows():
                glance = entry.track.glance or Glance(outcome.state, proc=outcome.proc)
                track = entry.track.seen(outcome.fingerprint, now)
                entry.track = replace(track, glance=glance, rowless=track.fingerprint == entry.track.fingerprint)
                entry.told = outcome.state
                self._schedule(job.path, entry, now + pause_s(entry.track, now, self._patience_for(job.path)))
            case Gone():
                del self._entries[job.path]
            case _:
                entry.failures += isinstance(outcome, Unreadable)
                entry.track = Track(entry.track.fingerprint, now, republished=entry.track.republished)
                self._retry(job.path, entry, now)

    def forget(self, places: Iterable[bytes]) -> None:
        """Let go of the files on some places, which are not to be trusted now; a scan will find them again."""
        above = tuple(place + b"/" if place else b"" for place in places)
        for path in [path for path in self._entries if path.startswith(above)]:
            del self._entries[path]

    def watch_over(self, path: bytes, mark: Fingerprint) -> None:
        """Follow a known file without rows, which the scan has met: where no events come, it would grow unseen."""
        if path not in self._entries:
            now = time.monotonic()
            entry = self._entries[path] = _Entry(Track(mark, now), now, began=now)
            self._schedule(path, entry, now)

    # -- looking ----------------------------------------------------------------------------------------------------

    def work(self, now: float, most: int) -> None:
        """Look at the files whose time has come, at most so many."""
        for _ in range(most):
            if not self._line or self._line[0][0] > now:
                return
            due, _, path = heapq.heappop(self._line)
            entry = self._entries.get(path)
            if entry is None or entry.due != due or entry.offered:
                continue
            try:
                mark = self._stat(path)
            except OSError:
                self._later(path, entry, now)
                continue
            if mark is None:
                self._gone(path)
                continue
            self._note(entry, mark, now)
            self._visit(path, entry, mark, now)

    def _note(self, entry: _Entry, mark: Fingerprint, now: float) -> None:
        if mark != entry.track.fingerprint:
            entry.known = entry.done = False
            entry.changes += 1
            entry.track = entry.track.seen(mark, now)

    def _visit(self, path: bytes, entry: _Entry, mark: Fingerprint, now: float) -> None:
        if not entry.known and self._is_known(path, entry, mark):
            return
        if entry.done:
            self._watch_for_growth(path, entry, now)
            return
        if entry.track.glance is None and (entry.track.closed_at is None or mark.size_bytes <= LOOK_BYTES):
            self._look_inside(path, entry)
        verdict = decide(entry.track, now, self._patience_for(path))
        if verdict.ready is None:
            self._schedule(path, entry, verdict.again_at)
            return
        entry.offered = True
        entry.why = verdict.ready
        record = self.engine.catalog.file(path)
        known = record.sha256 if record and record.state is not FileState.WAITING else None
        allowed = record.sha256 if record and record.skip_bad_rows else None
        live = self._comes_first(entry, mark, now)
        self.engine.offer(
            StageJob(path, mark.size_bytes, expected=mark, known_sha256=known, skip_bad_rows_of=allowed, live=live)
        )

    def _comes_first(self, entry: _Entry, mark: Fingerprint, now: float) -> bool:
        """Tell whether somebody waits for a file, so that it overtakes the backlog.

        Not one that was changed long ago: it was copied or moved here. Of very many that come at once, only those
        that were seen to grow: what appears whole, in a crowd, is an archive being copied.
        """
        if time.time() - mark.mtime_ns / 1e9 > self._patience.quiet_s:
            return False
        grown = entry.changes > 0 and now - entry.began >= GROWN_S
        return grown or self.engine.staging.crowd < CROWD

    def _is_known(self, path: bytes, entry: _Entry, mark: Fingerprint) -> bool:
        """Ask the ledger about these bytes; tell whether nothing is left to be done with the file."""
        entry.known = True
        catalog, registrar = self.engine.catalog, self.engine.registrar
        record = catalog.file(path)
        if record is None:
            for other in catalog.same_inode(mark):
                if not self.engine.raw.exists(other.path) and self.engine.trusts(other.path):
                    self.engine.act(registrar.moved(other, path, mark), live=True)
                    record = catalog.file(path)
                    break
        if record is None:
            return False
        entry.track = replace(entry.track, republished=record.republished)
        if record.fingerprint != mark:
            return False
        if not record.present:
            self.engine.act(registrar.returned(record), live=True)
        if record.state in _FINAL and not entry.done:
            del self._entries[path]
            return True
        if record.state in _WAITING:
            entry.track = replace(entry.track, glance=Glance(record.state, proc=record.proc), rowless=True)
            entry.told = record.state
        return False

    def _watch_for_growth(self, path: bytes, entry: _Entry, now: float) -> None:
        """Keep an eye on a file that was just published: where closes can't be seen, nothing else would tell."""
        pause = pause_s(entry.track, now, self._patience)
        if self._events_come(path) or pause >= self._patience.rescan_s:
            del self._entries[path]
        else:
            self._schedule(path, entry, now + pause)

    def _events_come(self, path: bytes) -> bool:
        place = self.places.get(place_of(self.places, path))
        return place is not None and place.mode is WatchMode.EVENTS

    def _patience_for(self, path: bytes) -> Patience:
        """Look at files more often where nothing else would tell that they have begun, as far as there are few."""
        if self._events_come(path):
            return self._patience
        pause_s = max(1.0, self._patience.poll_s, len(self._entries) / LOOKS_A_SECOND)
        return replace(self._patience, rescan_s=min(self._patience.rescan_s, pause_s))

    def _look_inside(self, path: bytes, entry: _Entry) -> None:
        if entry.probe is None:
            entry.probe = Probe(self.registry, self.config.limits.max_header_kb << 10)
        try:
            glance = self.engine.raw.call(path, entry.probe.look, self._root, path)
        except OSError:
            glance = Glance(None)
        entry.track = entry.track.looked(glance)
        if glance.state is not None and glance.state is not entry.told:
            entry.told = glance.state
            words = WAITING_WORDS.get(glance.state) or "It has rows and grows: it is published when it is done."
            self.engine.registrar.observed(path, glance.state, words, glance.proc)
            bound = {SOURCE_FILE: shown_path(path), STATE: glance.state, PROC: glance.proc, ROWS: glance.rows}
            self._log.info("seen", **bound, expected_rows=glance.expected_rows, **{REASON: words})

    def _gone(self, path: bytes) -> None:
        self._entries.pop(path, None)
        if self.engine.trusts(path):
            self.engine.act(self.engine.registrar.vanished(path), live=True)

    def _stat(self, path: bytes) -> Fingerprint | None:
        return self.engine.raw.stat(path)

    def _later(self, path: bytes, entry: _Entry, now: float) -> None:
        """Put off a file that can't even be looked at, longer each time: nothing is concluded from that."""
        entry.failures += 1
        self._retry(path, entry, now)

    def _retry(self, path: bytes, entry: _Entry, now: float) -> None:
        wait_s = self._patience.poll_s * 2 ** min(entry.failures, 10)
        self._schedule(path, entry, now + min(wait_s, self._patience.rescan_s))

    def _schedule(self, path: bytes, entry: _Entry, due: float) -> None:
        entry.due = due
        heapq.heappush(self._line, (due, next(self._serial), path))


def _waits(entry: _Entry) -> bool:
    return entry.track.rowless and not entry.offered
