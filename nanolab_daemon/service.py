"""The daemon: watches, follows, scans, processes, until it is told to stop. One loop, which owns everything.

Puts the parts together and keeps time. What a file means, when it is done, what becomes of it is decided elsewhere.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from types import FrameType
from typing import Any

from nanolab_daemon import __version__, memory, room
from nanolab_daemon.backlog import Backlog, Reach, Rules
from nanolab_daemon.belongings import Belongings
from nanolab_daemon.catalog import FILE_NAME, Catalog, FileRecord, unusable
from nanolab_daemon.config import Config
from nanolab_daemon.control import Control
from nanolab_daemon.engine import Engine
from nanolab_daemon.errors import EngineError, NanolabError
from nanolab_daemon.follow import Follower
from nanolab_daemon.layout import check_paths
from nanolab_daemon.lock import Lock
from nanolab_daemon.log import PATH, REASON, SIGNAL, configure, logger
from nanolab_daemon.lookout import CHECK_EVERY_S, Lookout
from nanolab_daemon.model import Fingerprint
from nanolab_daemon.names import shown_path
from nanolab_daemon.notify import Notifier
from nanolab_daemon.page import Page, require_packages
from nanolab_daemon.procedures import Registry
from nanolab_daemon.rawfile import LIMITS
from nanolab_daemon.scan import name_test
from nanolab_daemon.scans import Order, Scans
from nanolab_daemon.settings import counted
from nanolab_daemon.tasks import Selection, Staged, StageJob, StageOutcome
from nanolab_daemon.wakeup import Wakeup
from nanolab_daemon.watch import Hint, Kind

STOP_S = 8.0
BATCH_FILES = 8
MANIFEST_REST = 10.0  # a measurement each minute must not keep a worker at the manifest of a million runs
"""A live file waits for a worker to end its batch, so the daemon's are small; a backfill's are not."""

HINTS_A_STEP = 50
LOOKS_A_STEP = 25
SHARE_S = 0.25
"""How long a turn of the loop hears, and how long it looks at files, so that no part waits long for its turn."""

RESCAN_SOON_S = 0.2
MOST_UNLISTED = 20
LONGEST_WAIT_S = 1.0
GIVE_BACK_EVERY_S = 60.0
ROOM_AGAIN_S = 1.0
USUAL = Rules(abandoned_after_s=math.inf, steady=True)
"""A header without rows waits without limit while the daemon runs."""

RELOADABLE = ("watch.", "log.", "manifest.", "limits.", "lab.timezone", "segments.", "procedures", "notify.")
"""What a running daemon can take over; `notify.` is for another process, so a change of it keeps nothing back."""


def run(config: Config, *, reload: Callable[[], Config], confine: bool = False) -> int:
    """Run the daemon until SIGTERM or SIGINT; give the exit code. `reload` reads the configuration anew at SIGHUP.

    `confine`: give up for good the right to write anywhere but in the three folders that are its own.
    """
    check_paths(config, raw_may_be_missing=True)
    require_packages(config)
    registry = Registry.builtin().with_overrides(config.procedures)
    notifier = Notifier()
    while True:
        notifier.starting(time.monotonic())
        try:
            _run(config, registry, reload, notifier, confine=confine)
        except (NanolabError, OSError) as error:
            if notifier.is_ready or not room.is_lacking(error):
                raise
            logger(__name__).error("can't begin", **{REASON: str(error)})
            time.sleep(ROOM_AGAIN_S)
            room.wait(config, notifier)
        else:
            return 0


def _run(
    config: Config, registry: Registry, reload: Callable[[], Config], notifier: Notifier, *, confine: bool
) -> None:
    with Lock(config.paths.state, "run"):
        if confine:
            _confine(config)
        catalog = Catalog.open(config.paths.state / FILE_NAME)
        try:
            Daemon(config, catalog, registry, reload, notifier).run()
        except sqlite3.Error as error:
            raise unusable(error, config.paths.state / FILE_NAME, "used") from error
        finally:
            with contextlib.suppress(sqlite3.Error):
                catalog.close()


def _confine(config: Config) -> None:
    from nanolab_daemon.confine import write_only_below  # by ctypes, which nobody else needs here

    folders = (config.paths.stage, config.paths.output, config.paths.state)
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        trouble = write_only_below(folders)
    except OSError as error:
        raise EngineError(
            f"{error.filename or 'A folder'} can't be made or opened: {error.strerror}.",
            advice="Give this user the right to write there.",
        ) from error
    if trouble:
        logger(__name__).warning("not confined", **{REASON: trouble})


class Daemon:
    """One raw folder, watched."""

    def __init__(
        self,
        config: Config,
        catalog: Catalog,
        registry: Registry,
        reload: Callable[[], Config],
        notifier: Notifier | None = None,
    ) -> None:
        self.config = config
        self._notifier = notifier or Notifier({})
        self._catalog = catalog
        self._reload = reload
        self._log = logger(__name__)
        self._wakeup = Wakeup()
        self._engine = Engine(config, catalog, quiet=False, batch_files=BATCH_FILES, answered=self._answered)
        self._engine.manifest_rest = MANIFEST_REST
        self._follower = Follower(config, self._engine, registry)
        self._scans = Scans(self._begin_pass, self._end_pass)
        self._lookout = Lookout(config, catalog, self._engine, self._follower, self._scans, self._wakeup.call)
        self._control = Control(config.paths.state, self._engine.selector, self._answer)
        self._belongings = Belongings(config.paths.state, catalog, self._engine.registrar.commit)
        self._page = Page(config)
        self._check_at = 0.0
        self._give_back_at = 0.0
        self._scanned_at = 0.0  # when a pass over everything last ended, in seconds since 1970; 0: never
        self._unpublished: list[float] = []  # since when the runs wait that the next commit makes good
        self._unlisted: dict[bytes, dict[bytes, str]] = {}  # by place: folders, and why
        self._lost_events = 0
        self._stop = False
        self._hup = False
        self._began = time.time()

    def run(self) -> None:
        """Start everything, work until told to stop, end everything."""
        with self._signals():
            try:
                self._engine.selector.register(self._wakeup, 1)
                self._engine.registrar.progress = lambda: self._notifier.starting(time.monotonic())
                self._engine.start()
                self._engine.reconciler.begin()
                self._engine.source = self._scans
                self._control.start()
                self._lookout.check(time.monotonic())
                self._page.start(time.monotonic())
                raw = str(self.config.paths.raw)
                self._log.info("running", version=__version__, raw=raw, watch=self._lookout.words)
                while not self._stop and not self._workers_ready:
                    self._turn()
                    self._notifier.starting(time.monotonic())
                self._notifier.ready()
                gc.freeze()  # what the start has left stays: no search for garbage need look at it again
                while not self._stop:
                    self._turn()
                self._notifier.stopping()
                self._log.info("stopping")
                self._page.stop()
                self._control.stop()
                self._scans.stop()
                self._engine.stop(STOP_S)
                self._log.info("stopped")
            finally:
                self._scans.stop()
                self._lookout.stop()
                self._control.stop()
                self._page.kill()
                self._engine.kill()
                self._wakeup.close()

    def _turn(self) -> None:
        """Go once round: what was heard, what is due, what is to be scanned, what the workers say."""
        now = time.monotonic()
        if self._hup:
            self._hup = False
            self._notifier.reloading()
            self._take_configuration()
            self._notifier.ready()
        more = False
        try:
            more = self._look(now)
        except OSError as error:
            if error.errno not in LIMITS:
                raise
            self._engine.short_of(error, now)  # what was not seen now, a scan finds
        due = min(self._check_at, self._follower.next_due, self._scans.next_due, now + LONGEST_WAIT_S)
        self._engine.step(0.0 if more else max(0.0, due - time.monotonic()))
        self._wakeup.clear()
        now = time.monotonic()
        self._note_published(now)
        self._notifier.alive(now)
        self._notifier.status(self._words, now)

    @property
    def _workers_ready(self) -> bool:
        """Whether each pool has a worker that has loaded what it needs: a broken installation shows here."""
        return bool(self._engine.staging.pool.ready and self._engine.cutting.pool.ready)

    def _words(self) -> str:
        """Tell how things stand, in a line."""
        if self._lookout.degraded:
            return f"degraded: {self._lookout.degraded}"
        engine, tally = self._engine, self._engine.tally
        if engine.paused is not None:
            return f"paused: {engine.paused.reason}"
        to_stage, to_cut = (lane.waiting + lane.busy for lane in (engine.staging, engine.cutting))
        done = f"{counted(tally.staged_done, 'file')} and {counted(tally.segments, 'segment')} done"
        line = f"{done}; {to_stage:,} and {to_cut:,} in line; {len(self._follower):,} followed"
        rejected = tally.outcomes["rejected"]
        frozen = len(self._lookout.frozen_words)
        return line + (f"; {rejected:,} rejected" if rejected else "") + (f"; {frozen} frozen" if frozen else "")

    def _look(self, now: float) -> bool:
        """Take in what has happened outside; tell whether there may be more of it."""
        if now >= self._check_at:
            self._check_at = now + CHECK_EVERY_S
            self._belongings.check()
            self._lookout.check(now)
            self._page.look(now)
        if now >= self._give_back_at:
            self._give_back_at = now + GIVE_BACK_EVERY_S
            memory.give_back()
        more = False
        if not self._lookout.degraded:
            more = self._hear(now)
            until = time.monotonic() + SHARE_S
            while self._follower.next_due <= now and time.monotonic() < until:
                self._follower.work(now, LOOKS_A_STEP)
            self._scans.work(now, self.config.watch.rescan_s, USUAL)
        self._control.poll()
        return more

    # -- news -------------------------------------------------------------------------------------------------------

    def _hear(self, now: float) -> bool:
        """Take in hints for a while; tell whether more may be waiting."""
        watch, until = self._lookout.watch, time.monotonic() + SHARE_S
        while watch is not None and (hints := watch.take(HINTS_A_STEP)):
            for hint in hints:
                self._take_hint(hint, now)
            if time.monotonic() >= until:
                return True
        return False

    def _take_hint(self, hint: Hint, now: float) -> None:
        if hint.kind is Kind.LOST:
            self._lost_events += 1
            self._log.warning("events were lost; a scan finds the files")
            self._scans.soon(now)
        elif hint.kind is Kind.FOLDERS:
            self._scans.soon(now + RESCAN_SOON_S)
        elif not self._lookout.frozen(hint.path):
            self._lookout.heard(hint.path)
            self._follower.heard(hint.path, now, closed=hint.kind is Kind.CLOSED)

    def _begin_pass(self, order: Order) -> Backlog:
        tally = self._engine.tally
        if not order.changed_only and not order.place.path:
            tally.missing_ignored = 0  # of the last passes, not of all
        return Backlog(
            self.config.paths.raw,
            name_test(self.config.watch.include, self.config.watch.exclude),
            self._catalog,
            tally,
            rules=replace(order.rules, young_s=self.config.watch.abandoned_after_s),
            reach=Reach(order.place.path, order.skip, order.memory, order.changed_only),
            registrar=self._engine.registrar,
            act=lambda actions: self._engine.act(actions, live=False),
            divert=self._divert,
            waits=self._follower.watch_over,
            trusts=self._engine.trusts,
            exists=self._engine.raw.exists,
            wake=self._wakeup.call,
        )

    def _end_pass(self, order: Order, backlog: Backlog) -> None:
        if backlog.trouble is not None:
            self._log.warning("can't be listed", **{PATH: shown_path(order.place.path), REASON: str(backlog.trouble)})
        elif not order.changed_only or backlog.shrunk[0]:
            self._lookout.shrunk(order.place.path, *backlog.shrunk)
        if not order.changed_only:
            self._note_unlisted(order.place.path, backlog.unlisted)
            self._scanned_at = time.time()
            self._lookout.scanned(time.monotonic())
            self._engine.look_after_manifest()

    def _note_unlisted(self, place: bytes, found: Mapping[bytes, str]) -> None:
        """Keep which folders of a place can't be listed, and tell of those that could be before."""
        for folder in found.keys() - self._unlisted.get(place, {}).keys():
            self._log.warning("can't be listed", **{PATH: shown_path(folder), REASON: found[folder]})
        self._unlisted[place] = dict(found)

    def _divert(self, path: bytes, mark: Fingerprint, record: FileRecord | None) -> bool:
        """Leave a fresh file to the follower: it may still be written."""
        age_s = time.time() - mark.mtime_ns / 1e9
        republished = record.republished if record is not None else 0
        if record is None and not self._follower.follows(path) and not self._engine.staging.holds(path):
            self._lookout.found_unheard(path, age_s)
        return self._follower.found(path, mark, time.monotonic(), age_s, republished=republished)

    def _answered(self, job: StageJob, outcome: StageOutcome) -> None:
        if isinstance(outcome, Staged):
            heard = self._follower.last_heard(job.path)
            if heard is not None:
                self._unpublished.append(heard)
        self._follower.answered(job, outcome, time.monotonic())

    def _note_published(self, now: float) -> None:
        """Count how long live files took, once what was said of them is safely on the disk."""
        if self._unpublished and not self._catalog.uncommitted:
            for heard in self._unpublished:
                self._engine.tally.latency.add(now - heard)
            self._unpublished.clear()

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
            registry = Registry.builtin().with_overrides(new.procedures)
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
                "not taken over: the configuration needs a restart",
                keys=fixed,
                **{SIGNAL: "SIGHUP"},
            )
            return
        self.config = new
        self._engine.reconfigure(new)
        self._follower.configure(new, registry)
        configure(new.log.level, new.log.format)
        self._page.reconfigure(new)
        self._lookout.config = new
        self._scans.soon(0.0)
        self._log.info("configuration taken over", keys=changed)

    def _answer(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        match question.get("ask"):
            case "status":
                return self.describe()
            case "file":
                return self._describe_file(os.fsencode(str(question.get("path", ""))))
            case "rescan":
                return {"ok": True, "pass": self._scans.request()}
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
        self._engine.look_after_manifest()
        return {"ok": True, "offered": len(paths)}

    def _backfill(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        chosen = question.get("selection") or {}
        selection = Selection(frozenset(chosen.get("procedures", ())), chosen.get("since"), chosen.get("until"))
        rules = Rules(
            force=bool(question.get("force")),
            selection=selection,
            accept_missing=bool(question.get("accept_missing")),
            steady=True,
        )
        if rules.accept_missing:
            self._lookout.forget_gone()
            self._lookout.check(time.monotonic())
        self._wakeup.call()
        return {"ok": True, "pass": self._scans.request(rules)}

    def describe(self) -> dict[str, Any]:
        """Tell how things stand, as plain data for JSON."""
        engine, tally = self._engine, self._engine.tally
        pause = engine.paused
        return {
            "version": __version__,
            "pid": os.getpid(),
            "since": self._began,
            "watch": self._lookout.words,
            "places": self._lookout.describe(),
            "trouble": self._lookout.trouble or None,
            "frozen": self._lookout.frozen_words,
            "unlisted": {
                shown_path(folder): words
                for found in self._unlisted.values()
                for folder, words in islice(found.items(), MOST_UNLISTED)
            },
            "degraded": self._lookout.degraded or None,
            "paused": pause.reason if pause else None,
            "paused_since": time.time() - (time.monotonic() - pause.since) if pause else None,
            "pass": self._scans.served,
            "scanning": not self._scans.idle,
            "following": len(self._follower),
            "idle": self._scans.idle and self._engine.idle and not self._follower.unsettled,
            "measuring": {
                shown_path(path): [look.rows, look.expected_rows] for path, look in self._follower.measuring().items()
            },
            "queues": {
                "stage": [engine.staging.waiting, engine.staging.busy],
                "segment": [engine.cutting.waiting, engine.cutting.busy],
            },
            "oldest_in_line_s": engine.oldest_in_line_s(time.monotonic()),
            "tally": tally.as_dict(),
            "latency": tally.latency.as_dict(),
            "scanned_at": self._scanned_at or None,
            "rescan_s": self.config.watch.rescan_s,
            "looks_at_published": engine.reconciler.rounds,
            "lost_events": self._lost_events,
            "pools": [lane.pool.describe(time.monotonic()) for lane in engine.lanes],
            "page": self._page.describe(),
        }

    def _describe_file(self, path: bytes) -> dict[str, Any]:
        glance = self._follower.glance(path)
        if glance is None:
            return {"following": False}
        return {"following": True, "state": glance.state, "rows": glance.rows, "expected_rows": glance.expected_rows}
