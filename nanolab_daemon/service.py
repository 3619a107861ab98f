"""The daemon: watches, follows, scans, processes, until it is told to stop. One loop, which owns everything.

Puts the parts together and keeps time. What a file means, when it is done, what becomes of it is decided elsewhere.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

from nanolab_daemon import __version__
from nanolab_daemon.backlog import Backlog, Rules
from nanolab_daemon.catalog import FILE_NAME, Catalog, FileRecord
from nanolab_daemon.config import Config, WatchMode
from nanolab_daemon.control import Control
from nanolab_daemon.engine import Engine
from nanolab_daemon.errors import EngineError, NanolabError
from nanolab_daemon.follow import Follower
from nanolab_daemon.layout import check_paths
from nanolab_daemon.lock import Lock
from nanolab_daemon.log import COUNT, REASON, SIGNAL, configure, logger
from nanolab_daemon.model import Fingerprint
from nanolab_daemon.mounts import mount_of
from nanolab_daemon.names import shown_path
from nanolab_daemon.procedures import Registry
from nanolab_daemon.scan import name_test
from nanolab_daemon.tasks import Selection, StageJob, StageOutcome
from nanolab_daemon.wakeup import Wakeup
from nanolab_daemon.watch import Kind, Watch

STOP_S = 8.0
HINTS_A_STEP = 2000
LOOKS_A_STEP = 500
CHECK_EVERY_S = 1.0
RESCAN_SOON_S = 0.2
LONGEST_WAIT_S = 1.0
RELOADABLE = ("watch.", "log.", "manifest.", "limits.min_free")


def run(config: Config, *, reload: Callable[[], Config]) -> int:
    """Run the daemon until SIGTERM or SIGINT; give the exit code. `reload` reads the configuration anew at SIGHUP."""
    check_paths(config, raw_may_be_missing=True)
    registry = Registry.builtin().with_overrides(config.procedures)
    with Lock(config.paths.state, "run"):
        catalog = Catalog.open(config.paths.state / FILE_NAME)
        try:
            Daemon(config, catalog, registry, reload).run()
        except sqlite3.Error as error:
            raise EngineError(
                f"The ledger in {config.paths.state} can't be written: {error}.",
                advice="Is the disk full? What is published stays, and the next start goes on from there.",
            ) from error
        finally:
            with contextlib.suppress(sqlite3.Error):
                catalog.close()
    return 0


class Daemon:
    """One raw folder, watched."""

    def __init__(self, config: Config, catalog: Catalog, registry: Registry, reload: Callable[[], Config]) -> None:
        self.config = config
        self._catalog = catalog
        self._reload = reload
        self._log = logger(__name__)
        self._wakeup = Wakeup()
        self._engine = Engine(config, catalog, quiet=False, answered=self._answered)
        self._follower = Follower(config, self._engine, registry)
        self._control = Control(config.paths.state, self._engine.selector, self._answer)
        self._watch: Watch | None = None
        self._watch_words = ""
        self._backlog: Backlog | None = None
        self._pass = 0
        self._asked: list[tuple[int, Rules]] = []
        self._rescan_at = 0.0
        self._check_at = 0.0
        self._watch_again_at = 0.0
        self._degraded: str | None = None
        self._degraded_since = 0.0
        self._lost_events = 0
        self._stop = False
        self._hup = False
        self._began = time.time()

    def run(self) -> None:
        """Start everything, work until told to stop, end everything."""
        with self._signals():
            try:
                self._engine.selector.register(self._wakeup, 1)
                self._engine.start()
                self._control.start()
                self._check(time.monotonic())
                self._log.info(
                    "running",
                    version=__version__,
                    raw=str(self.config.paths.raw),
                    watch=self._watch_words or self._degraded,
                )
                while not self._stop:
                    self._turn()
                self._log.info("stopping")
                self._control.stop()
                self._end_pass()
                self._engine.stop(STOP_S)
                self._log.info("stopped")
            finally:
                self._end_pass()
                if self._watch is not None:
                    self._watch.stop()
                self._control.stop()
                self._engine.kill()
                self._wakeup.close()

    def _turn(self) -> None:
        """Go once round: what was heard, what is due, what is to be scanned, what the workers say."""
        now = time.monotonic()
        if self._hup:
            self._hup = False
            self._take_configuration()
        if now >= self._check_at:
            self._check(now)
        if self._degraded is None:
            self._hear(now)
            self._follower.work(now, LOOKS_A_STEP)
            self._scan(now)
        self._control.poll()
        due = min(self._check_at, self._follower.next_due, self._rescan_at, now + LONGEST_WAIT_S)
        self._engine.step(max(0.0, due - time.monotonic()))
        self._wakeup.clear()

    # -- the raw folder ---------------------------------------------------------------------------------------------

    def _check(self, now: float) -> None:
        """See whether the raw folder and the watch on it are what they were."""
        self._check_at = now + CHECK_EVERY_S
        if not self._engine.root_stands():
            if self._degraded is None:
                self._degrade("The raw folder is missing or another one: nothing is concluded from it.")
            self._engine.adopt_root()
            if not self._engine.root_stands():
                return
        if self._degraded is not None:
            self._log.info(
                "recovered", **{REASON: self._degraded}, after_s=round(time.time() - self._degraded_since, 1)
            )
            self._degraded = None
            self._unwatch()
        if self._watch is not None and not self._watch.alive:
            self._log.error("the watch has died; it is started again, and a scan finds what it missed")
            self._unwatch()
        if self._watch is None and now >= self._watch_again_at:
            self._start_watch(now)

    def _degrade(self, reason: str) -> None:
        self._degraded, self._degraded_since = reason, time.time()
        self._log.error("degraded", **{REASON: reason})
        self._unwatch()
        self._follower.forget_all()
        self._end_pass()

    def _start_watch(self, now: float) -> None:
        """Choose between events and scans alone, begin to watch, and have everything scanned."""
        self._rescan_at = now
        self._watch_again_at = math.inf
        mode = self.config.watch.mode
        mount = mount_of(self.config.paths.raw)
        if mode is WatchMode.SCAN:
            self._watch_words = "scan: the configuration says so"
        elif mode is WatchMode.AUTO and mount is not None and mount.remote:
            self._watch_words = f"scan: {mount.kind} tells nothing of what other machines write"
        else:
            watch = Watch(self.config.paths.raw, self._wakeup.call)
            try:
                watch.start()
            except OSError as error:
                self._watch_words = f"scan: events can't be had ({error.strerror})"
                self._watch_again_at = now + 60.0
                self._log.warning("no events", **{REASON: self._watch_words})
            else:
                self._watch = watch
                self._watch_words = f"events: {mount.kind if mount else 'a local file system'}"
        self._follower.events = self._watch is not None

    def _unwatch(self) -> None:
        if self._watch is not None:
            self._watch.stop()
        self._watch = None
        self._watch_again_at = 0.0

    def _hear(self, now: float) -> None:
        if self._watch is None:
            return
        for hint in self._watch.take(HINTS_A_STEP):
            match hint.kind:
                case Kind.CLOSED:
                    self._follower.heard(hint.path, now, closed=True)
                case Kind.APPEARED | Kind.GONE:
                    self._follower.heard(hint.path, now, closed=False)
                case Kind.FOLDERS:
                    self._rescan_at = min(self._rescan_at, now + RESCAN_SOON_S)
                case Kind.LOST:
                    self._lost_events += 1
                    self._log.warning("events were lost; a scan finds the files")
                    self._rescan_at = now

    # -- the scan ---------------------------------------------------------------------------------------------------

    def _scan(self, now: float) -> None:
        if self._backlog is not None:
            if not self._backlog.finished:
                return
            tally = self._engine.tally
            if tally.missing_ignored:
                self._log.error(
                    "most files are gone: nothing is concluded; is a share not mounted?",
                    **{COUNT: tally.missing_ignored},
                )
            self._end_pass()
        if now < self._rescan_at and not self._asked:
            return
        rules = Rules(abandoned_after_s=math.inf, steady=True)
        if self._asked:
            _, rules = self._asked.pop(0)
        self._rescan_at = now + self.config.watch.rescan_s
        self._pass += 1
        self._engine.tally.missing_ignored = 0
        self._backlog = Backlog(
            self.config.paths.raw,
            name_test(self.config.watch.include, self.config.watch.exclude),
            self._catalog,
            self._engine.tally,
            rules=rules,
            registrar=self._engine.registrar,
            act=lambda actions: self._engine.act(actions, live=False),
            divert=self._divert,
            wake=self._wakeup.call,
        )
        self._engine.source = self._backlog
        self._backlog.start()

    def _end_pass(self) -> None:
        if self._backlog is not None:
            self._backlog.stop()
            self._backlog = None
            self._engine.source = None

    def _divert(self, path: bytes, mark: Fingerprint, record: FileRecord | None) -> bool:
        """Leave a fresh file to the follower: it may still be written."""
        age_s = time.time() - mark.mtime_ns / 1e9
        republished = record.republished if record is not None else 0
        return self._follower.found(path, mark, time.monotonic(), age_s, republished=republished)

    def _answered(self, job: StageJob, outcome: StageOutcome) -> None:
        self._follower.answered(job, outcome, time.monotonic())

    # -- orders -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Let signals do no more than set a flag and wake the loop."""

        def handle(number: int, _frame: FrameType | None) -> None:
            if number == signal.SIGHUP:
                self._hup = True
            else:
                self._stop = True
            self._wakeup.call()

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = {number: signal.signal(number, handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def stop(self) -> None:
        """Ask the daemon to stop; safe from any thread."""
        self._stop = True
        self._wakeup.call()

    def _take_configuration(self) -> None:
        """Read the configuration anew. What can't change while the daemon runs keeps the old one whole."""
        try:
            new = self._reload()
        except NanolabError as error:
            self._log.error("the configuration is wrong and was not taken over", **{REASON: str(error)})
            return
        old_values, new_values = self.config.values(), new.values()
        changed = [key for key in new_values if new_values[key] != old_values[key]]
        if new.procedures != self.config.procedures:
            changed.append("procedures")
        fixed = [key for key in changed if not key.startswith(RELOADABLE)]
        if fixed:
            self._log.error(
                "the configuration was not taken over: some of what has changed needs a restart",
                keys=fixed,
                **{SIGNAL: "SIGHUP"},
            )
            return
        self.config = self._engine.config = new
        self._follower.configure(new)
        configure(new.log.level, new.log.format)
        self._rescan_at = 0.0
        self._log.info("configuration taken over", keys=changed)

    def _answer(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        match question.get("ask"):
            case "status":
                return self.describe()
            case "file":
                return self._describe_file(os.fsencode(str(question.get("path", ""))))
            case "rescan":
                self._rescan_at = 0.0
                return {"ok": True, "pass": self._pass + 1}
            case "retry":
                return self._retry(question)
            case "backfill":
                return self._backfill(question)
        raise EngineError(f"The daemon does not know the question {question.get('ask')!r}.")

    def _retry(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        paths = [os.fsencode(str(path)) for path in question.get("paths", [])]
        for path in paths:
            skip = bool(question.get("skip_bad_rows"))
            self._engine.offer(StageJob(path, force=True, skip_bad_rows=skip, live=True))
        return {"ok": True, "offered": len(paths)}

    def _backfill(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        chosen = question.get("selection") or {}
        selection = Selection(frozenset(chosen.get("procedures", ())), chosen.get("since"), chosen.get("until"))
        number = self._pass + len(self._asked) + 1
        self._asked.append((number, Rules(force=bool(question.get("force")), selection=selection, steady=True)))
        self._wakeup.call()
        return {"ok": True, "pass": number}

    def describe(self) -> dict[str, Any]:
        """Tell how things stand, as plain data for JSON."""
        engine, tally = self._engine, self._engine.tally
        pause = engine.paused
        return {
            "version": __version__,
            "pid": os.getpid(),
            "since": self._began,
            "watch": self._watch_words,
            "degraded": self._degraded,
            "paused": pause.reason if pause else None,
            "pass": self._pass,
            "scanning": self._backlog is not None,
            "following": len(self._follower),
            "idle": self._backlog is None and self._engine.idle and not self._follower.unsettled,
            "measuring": {
                shown_path(path): [look.rows, look.expected_rows] for path, look in self._follower.measuring().items()
            },
            "queues": {
                "stage": [engine.staging.waiting, engine.staging.busy],
                "segment": [engine.cutting.waiting, engine.cutting.busy],
            },
            "tally": tally.as_dict(),
            "lost_events": self._lost_events,
            "pools": [lane.pool.describe(time.monotonic()) for lane in (engine.staging, engine.cutting)],
        }

    def _describe_file(self, path: bytes) -> dict[str, Any]:
        glance = self._follower.glance(path)
        if glance is None:
            return {"following": False}
        return {"following": True, "state": glance.state, "rows": glance.rows, "expected_rows": glance.expected_rows}
