"""Keeps the lookout on the raw folder: which parts it has, which of them are there, and how news comes from each.

When a part is missing or another one stands in its place, that part is frozen: nothing is concluded from it, until it
is back by itself. Takes no news itself and scans nothing.
"""

from __future__ import annotations

import errno
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nanolab_daemon import inotify
from nanolab_daemon.catalog import Catalog
from nanolab_daemon.config import Config
from nanolab_daemon.courier import SilentError
from nanolab_daemon.engine import Engine
from nanolab_daemon.follow import Follower
from nanolab_daemon.log import COUNT, PATH, REASON, logger
from nanolab_daemon.mounts import read_mounts
from nanolab_daemon.names import shown_path
from nanolab_daemon.places import Place, place_of, survey
from nanolab_daemon.rawfolder import Identity, identity
from nanolab_daemon.scans import Scans
from nanolab_daemon.sections import WatchMode
from nanolab_daemon.watch import Watch

CHECK_EVERY_S = 1.0
RETRY_EVENTS_S = 60.0
RECOUNT_S = 1.0
START_S = 2.0
"""How long the daemon waits for its watch: some hundred thousand folders take that long, a dead share for ever."""
MISSES_ALLOWED = 3
MISSED_AFTER_S = 2.0
"""An event that has not come after so long does not come any more."""


_ACCEPT = "If that is meant to be so: nanolab-daemon backfill --accept-missing"


class Lookout:
    """The state of the raw folder and of the watch on it."""

    def __init__(
        self,
        config: Config,
        catalog: Catalog,
        engine: Engine,
        follower: Follower,
        scans: Scans,
        wake: Callable[[], None],
    ) -> None:
        self.config = config
        self.places: dict[bytes, Place] = {}
        self.watch: Watch | None = None
        self._coming: Watch | None = None  # being set up
        self.degraded = ""  # in words; the raw folder itself
        self.degraded_since = 0.0
        self.trouble = ""  # why events can't be had, with the remedy
        self._catalog = catalog
        self._engine = engine
        self._follower = follower
        self._scans = scans
        self._wake = wake
        self._log = logger(__name__)
        self._heard = inotify.hears
        self._deaf: dict[bytes, str] = {}
        self._misses: Counter[bytes] = Counter()
        self._watched: set[tuple[bytes, str, WatchMode]] = set()
        self._identities: dict[bytes, Identity | None] = {}
        self._raw = engine.raw
        self._watching_since = 0.0
        self._shortages = 0
        self._limited: frozenset[bytes] = frozenset()  # places on which not every folder can be watched
        self._shrunk: dict[bytes, str] = {}
        self._retry_at = 0.0
        self._tried: dict[tuple[bytes, str], bool] = {}
        self._given: tuple[Any, ...] | None = None  # what the places were last found from
        self._surveyed: dict[bytes, Place] = {}
        self._unsure = False

    def check(self, now: float) -> None:
        """See whether the raw folder, the mounts below it and the watch are what they were, and put it right."""
        places, identities, words = self._look_round()
        if not words and identities != self._identities:
            self._given = None  # whether events come from what is there now has to be tried
            places, identities, words = self._look_round()
        if words:
            self._degrade(words)
            return
        if self.degraded:
            after_s = round(time.time() - self.degraded_since, 1)
            self._log.info("recovered", **{REASON: self.degraded}, after_s=after_s)
            self.degraded = ""
        if places != self.places or identities != self._identities:
            self._adopt(places, identities, now)
        elif self._coming is not None:
            self._welcome(now)
        elif self.watch is not None and not self.watch.alive:
            self._log.error("the watch has died; it is started again, and a scan finds what it missed")
            self._start_watch(now)
            self._scans.soon(now)
        elif self.watch is None and self._wants_events() and now >= self._retry_at:
            self._start_watch(now)

    def stop(self) -> None:
        """End the watch."""
        for watch in (self.watch, self._coming):
            if watch is not None:
                watch.stop()
        self.watch = self._coming = None

    def frozen(self, path: bytes) -> bool:
        """Tell whether a path lies on a part from which nothing may be concluded now."""
        place = self.places.get(place_of(self.places, path))
        return place is None or bool(place.gone)

    def found_unheard(self, path: bytes, age_s: float) -> None:
        """Take note that the scan has found a new file, last changed so long ago, of which no event had told."""
        if self.watch is None or self.config.watch.mode is not WatchMode.AUTO:
            return
        if not MISSED_AFTER_S < age_s < time.monotonic() - self._watching_since:
            return  # an event may yet come, or the file was there before anybody listened
        place = self.places.get(place_of(self.places, path))
        if place is None or place.mode is not WatchMode.EVENTS:
            return
        self._misses[place.path] += 1
        if self._misses[place.path] >= MISSES_ALLOWED:
            self._deaf[place.path] = f"{self._misses[place.path]} files came of which no event told"

    def heard(self, path: bytes) -> None:
        """Take note that an event came."""
        if self._misses:
            self._misses.pop(place_of(self.places, path), None)

    def scanned(self, now: float) -> None:
        """After a full pass, see whether every folder it met is watched: the kernel may refuse some in silence.

        A folder that was made an instant ago may not be watched yet, so it has to be seen twice.
        """
        if self.watch is None or self.config.watch.mode is WatchMode.SCAN:
            return
        wanted = {p.path for p in self.places.values() if p.mode is WatchMode.EVENTS or p.path in self._limited}
        folders, watched = self._scans.folders(wanted), self.watch.count()
        if watched is None or watched >= folders:
            self._shortages = 0
            if self._limited:
                self._log.info("every folder is watched again")
                self._deaf = {path: words for path, words in self._deaf.items() if path not in self._limited}
                self._limited, self.trouble = frozenset(), ""
            return
        self._shortages += 1
        if self._shortages == 1:
            self._scans.soon(now + RECOUNT_S)
            return
        remedy = inotify.sysctl_remedy("max_user_watches", inotify.advised_watches(folders))
        words = f"only {watched} of {folders} folders can be watched"
        if not self._limited:
            self._log.error("the limit of watches is reached", **{REASON: words}, remedy=remedy)
        self.trouble = f"{words}. {remedy}"
        self._limited = frozenset(wanted)
        self._deaf |= dict.fromkeys(wanted, words)

    def shrunk(self, place: bytes, gone: int, known: int) -> None:
        """Take note of how many known files of a place were not met all at once; 0: that it is well."""
        if not gone:
            if self._shrunk.pop(place, None):
                self._log.info("recovered", **{PATH: shown_path(place)})
            return
        words = f"{gone} of {known} known files are not there, all at once: nothing is concluded from it"
        if self._shrunk.get(place) != words:
            self._log.error("frozen", **{PATH: shown_path(place), REASON: words}, remedy=_ACCEPT)
        self._shrunk[place] = words

    def forget_gone(self) -> None:
        """Let go of the shares that are not mounted: a person says that they are gone for good."""
        self._catalog.set_places((p.path, p.point, p.kind) for p in self.places.values() if not p.gone)

    @property
    def frozen_words(self) -> list[str]:
        """What is frozen and why, a sentence each, with what to do about it."""
        found = [
            f"{shown_path(place.path)}: {place.gone}; nothing is concluded from it. {_ACCEPT}"
            for place in self.places.values()
            if place.gone
        ]
        return found + [f"{shown_path(path) or 'raw'}: {words}. {_ACCEPT}" for path, words in self._shrunk.items()]

    def describe(self) -> dict[str, object]:
        """Tell of each part how it is watched and why, as plain data for JSON."""
        return {
            os.fsdecode(place.path).encode("utf-8", "backslashreplace").decode() or ".": {
                "kind": place.kind,
                "mode": place.mode,
                "why": place.why,
                "frozen": place.gone,
            }
            for place in self.places.values()
        }

    @property
    def words(self) -> str:
        """How the raw folder is watched, in a line."""
        if self.degraded:
            return self.degraded
        root = self.places.get(b"")
        more = len(self.places) - 1
        line = f"{root.mode}: {root.why}" if root is not None else "nothing"
        gone = sum(bool(place.gone) for place in self.places.values())
        return line + (f"; {more} mounts below" if more else "") + (f", {gone} of them missing" if gone else "")

    # -- parts ------------------------------------------------------------------------------------------------------

    def _look_round(self) -> tuple[dict[bytes, Place], dict[bytes, Identity | None], str]:
        """Give the places, what each is, and in words what is wrong with the raw folder itself."""
        places = self._survey()
        self._raw.set_places(places.values())
        root = places.get(b"")
        here = self._identity(b"")
        if root is not None and root.gone:
            return places, {}, f"The raw folder is not what it was: {root.gone}."
        if here is None:
            return places, {}, f"The raw folder {self.config.paths.raw} is missing or can't be listed."
        return places, {p: self._identity(p) for p, place in places.items() if place.silent or not place.gone}, ""

    def _survey(self) -> dict[bytes, Place]:
        """Find the places; as long as nothing is another than it was, neither are they."""
        known, silent = tuple(self._catalog.places()), frozenset(self._raw.silent())
        given = (self._raw.real_path(), self.config.watch.mode, known, read_mounts(), dict(self._deaf), silent)
        if given == self._given:
            return self._surveyed
        self._given, self._unsure = None, False
        root, mode, _, table, deaf, _ = given
        self._surveyed = survey(root, mode, known, table=table, hears=self._hears, deaf=deaf, silent=silent)
        if not self._unsure:
            self._given = given
        return self._surveyed

    def _identity(self, place: bytes) -> Identity | None:
        """Tell a place by what it is; one that is slow to answer is held to be what it was."""
        try:
            return self._raw.identity(place)
        except SilentError:
            return self._identities.get(place)

    def _hears(self, folder: Path) -> bool:
        """Try once for each folder and file system whether events come from it."""
        try:
            here = identity(folder)
        except OSError:
            here = None
        if here is None:
            self._unsure = True  # it is tried again
            return False
        key = (os.fsencode(folder), str(here))
        if key not in self._tried:
            self._tried[key] = self._heard(folder)
        return self._tried[key]

    def _degrade(self, words: str) -> None:
        if self.degraded == words:
            return
        self.degraded, self.degraded_since = words, time.time()
        self._log.error("degraded", **{REASON: words})
        self.stop()
        self.places, self._identities = {}, {}
        self._engine.adopt_places([], {})
        self._follower.forget([b""])
        self._scans.set_places([], 0.0)

    def _adopt(self, places: dict[bytes, Place], identities: dict[bytes, tuple[int, int] | None], now: float) -> None:
        changed = [path for path in places | self.places if places.get(path) != self.places.get(path)]
        swapped = [path for path in identities if self._identities.get(path) != identities[path]]
        for path in changed:
            place = places.get(path)
            if place is None or place.gone:
                self._log.error(
                    "part frozen", **{PATH: os.fsdecode(path), REASON: place.gone if place else "removed"}
                )
            elif path:
                self._log.info("part", **{PATH: os.fsdecode(path), REASON: f"{place.mode}: {place.why}"})
        self.places, self._identities = places, identities
        # Not asked once more: a share that were slow just now would be trusted no more, and nobody would notice.
        self._engine.adopt_places(places.values(), identities)
        self._follower.places = places
        self._engine.let_go([path for path in changed if path in places and places[path].gone])
        self._follower.forget([p for p in {*changed, *swapped} if p])
        known = [(p.path, p.point, p.kind) for p in places.values()]
        if sorted(known) != sorted(self._catalog.places()):
            self._catalog.set_places(known)
        watched = {(p.path, p.point, p.mode) for p in places.values() if p.silent or not p.gone}
        if watched != self._watched or swapped or self.watch is None:
            # Not when a share has only fallen silent: its folders are still watched, and it could not be walked now.
            self._start_watch(now)
        self._watched = watched
        self._scans.set_places(places.values(), now)
        for path in swapped:
            self._scans.renew(path, now)

    def _wants_events(self) -> bool:
        return any(place.mode is WatchMode.EVENTS for place in self.places.values())

    def _start_watch(self, now: float) -> None:
        self.stop()
        self._misses.clear()
        if not self._wants_events():
            return
        self._coming = Watch(self._raw.real_path(), self._wake)
        self._coming.start(START_S)
        self._welcome(now)
        if self._coming is not None:
            self._log.warning("slow to watch", **{REASON: "a folder is slow to answer; until then, scans find files"})

    def _welcome(self, now: float) -> None:
        """Take a watch into service once it has been set up."""
        watch = self._coming
        if watch is None or not watch.ready:
            return
        self._coming = None
        error = watch.failure
        if error is not None:
            self._retry_at = now + RETRY_EVENTS_S
            name = "max_user_watches" if error.errno == errno.ENOSPC else "max_user_instances"
            limit = inotify.limit(name)
            remedy = ""
            if error.errno in (errno.ENOSPC, errno.EMFILE) and limit:
                remedy = inotify.sysctl_remedy(name, max(inotify.advised_instances(limit), 2 * limit))
            self.trouble = f"events can't be had: {error.strerror or error}. {remedy}".strip()
            self._log.error("no events", **{REASON: self.trouble})
            for path in self.places:
                self._deaf[path] = "events can't be had"
            return
        self.watch = watch
        self._watching_since = now
        self.trouble = ""
        self._scans.soon(now)  # what came before anybody listened
        self._log.info("watching", **{REASON: self.words, COUNT: len(self.places)})
