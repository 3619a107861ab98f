"""The scans of the daemon: each part of the raw folder in its own time and thread, so that none waits for another.

Decides when to scan what. What a scan finds goes to the engine as backlog or to the follower.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

from nanolab_daemon.backlog import Backlog, Rules
from nanolab_daemon.places import Place, below
from nanolab_daemon.scan import Memory
from nanolab_daemon.sections import WatchMode
from nanolab_daemon.tasks import StageJob

QUICK_S = 1.0
"""How often names are looked for where no events come: one stat(2) a folder."""


@dataclass(frozen=True, slots=True)
class Order:
    """What one pass over one place is to do; `changed_only` looks only into folders whose names have changed."""

    place: Place
    skip: frozenset[bytes]
    rules: Rules
    memory: Memory
    changed_only: bool


@dataclass(slots=True)
class _Part:
    place: Place
    memory: Memory = field(default_factory=dict)
    due: float = 0.0
    quick_due: float = math.inf
    running: Backlog | None = None
    order: Order | None = None
    requests: deque[tuple[int, Rules | None]] = field(default_factory=deque)  # each wants a full pass begun after it
    serving: int = 0  # the last request that the running pass answers
    served: int = 0  # the last request that a full pass has answered
    seconds: float = 0.0
    began: float = 0.0


class Scans:
    """All passes over all places. Is the engine's source."""

    def __init__(self, begin: Callable[[Order], Backlog], ended: Callable[[Order, Backlog], None]) -> None:
        self._begin = begin
        self._ended = ended
        self._parts: dict[bytes, _Part] = {}
        self._borders: set[bytes] = set()
        self._requests = 0

    def set_places(self, places: Iterable[Place], now: float) -> None:
        """Take over a changed set of places; each that is new or changed is scanned at once."""
        every = {place.path: place for place in places}
        wanted = {path: place for path, place in every.items() if not place.gone}
        if every.keys() != self._borders:
            self._borders = set(every)  # what is not mounted is a border too: the folder below it is another one
            for part in self._parts.values():
                self._drop(part)
                part.memory = {}
                part.due = now
        before = self._parts
        self._parts = {}
        for path, place in wanted.items():
            old = before.pop(path) if path in before else None
            same = old is not None and old.place == place
            self._parts[path] = old if same and old is not None else self._renewed(place, old, now)
        for part in before.values():
            self._drop(part)

    def _renewed(self, place: Place, old: _Part | None, now: float) -> _Part:
        """Begin with a place; what was asked of the one that it follows is still to be done."""
        part = _Part(place, due=now, quick_due=now + QUICK_S if place.mode is WatchMode.SCAN else math.inf)
        if old is None:
            part.requests.append((self._requests, None))
            return part
        part.served = old.served
        part.requests = old.requests
        if old.running is not None and old.order is not None and old.serving > old.served:
            part.requests.appendleft((old.serving, old.order.rules))
        self._drop(old)
        return part

    def request(self, rules: Rules | None = None) -> int:
        """Ask for a full pass over everything that begins after now; give its number."""
        self._requests += 1
        for part in self._parts.values():
            part.requests.append((self._requests, rules))
        return self._requests

    def soon(self, at: float) -> None:
        """Have everything scanned by then at the latest."""
        for part in self._parts.values():
            part.due = min(part.due, at)

    def renew(self, path: bytes, now: float) -> None:
        """Begin anew with a place that is another one than it was, though it looks the same in the mount table."""
        part = self._parts.get(path)
        if part is not None:
            self._drop(part)
            part.memory = {}  # a walk that is held by a dead share may still write into the old one
            part.due = now

    def folders(self, places: Collection[bytes]) -> int:
        """Count the folders that the last full passes met on some places."""
        return sum(len(part.memory) for path, part in self._parts.items() if path in places)

    @property
    def finished(self) -> bool:
        """Whether nothing is to be taken now."""
        return all(part.running is None or part.running.finished for part in self._parts.values())

    @property
    def served(self) -> int:
        """The number of the last request that every place has answered."""
        return min((part.served for part in self._parts.values()), default=0)

    @property
    def idle(self) -> bool:
        """Whether no full pass is under way."""
        return not any(p.running is not None and p.order and not p.order.changed_only for p in self._parts.values())

    @property
    def next_due(self) -> float:
        """When the next pass is to begin (monotonic seconds)."""
        waiting = [part for part in self._parts.values() if part.running is None]
        if any(part.requests for part in waiting):
            return 0.0
        return min((min(part.due, part.quick_due) for part in waiting), default=math.inf)

    def work(self, now: float, rescan_s: float, usual: Rules) -> None:
        """End the passes that are through, begin those whose time has come."""
        for part in self._parts.values():
            if part.running is not None and part.running.finished:
                self._end(part, now)
            full = now >= part.due or bool(part.requests)
            if part.running is None and (full or now >= part.quick_due):
                rules = self._rules(part, usual) if full else usual
                memory: Memory = {} if full else part.memory  # a full pass forgets folders that are gone
                skip = below(self._borders, part.place.path)
                part.order = Order(part.place, skip, rules, memory, not full)
                part.running = self._begin(part.order)
                part.began = now
                if full:
                    part.due = now + rescan_s
                part.running.start()

    def _rules(self, part: _Part, usual: Rules) -> Rules:
        """Give the rules of the next full pass: a command's own, or the usual ones for all who ask for no other."""
        chosen: Rules | None = None
        while part.requests and chosen is None:
            part.serving, chosen = part.requests.popleft()
            if part.requests and chosen is None and part.requests[0][1] is not None:
                break
        return chosen or usual

    def _end(self, part: _Part, now: float) -> None:
        assert part.running is not None
        assert part.order is not None
        self._ended(part.order, part.running)
        part.running.stop()
        part.running = None
        part.seconds = now - part.began
        part.memory = part.order.memory
        if not part.order.changed_only:
            part.served = part.serving
        if part.place.mode is WatchMode.SCAN:
            # A slow share is not asked all the time: looking for names may take a tenth of it.
            part.quick_due = now + max(QUICK_S, 10 * part.seconds if part.order.changed_only else 0.0)

    def take(self, most: int) -> Iterator[StageJob]:
        """Give about so many files that are to be staged, without waiting."""
        given = 0
        for part in self._parts.values():
            if part.running is not None and given < most:
                for job in part.running.take(most - given):
                    given += 1
                    yield job

    def stop(self) -> None:
        """End all passes; nothing is concluded from what they have not seen."""
        for part in self._parts.values():
            self._drop(part)
        self._parts.clear()

    def _drop(self, part: _Part) -> None:
        if part.running is not None:
            part.running.stop()
            part.running = None
