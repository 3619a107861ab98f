"""When which part of the raw folder is scanned. Passes are scripted and time is a parameter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from nanolab_daemon.backlog import Rules
from nanolab_daemon.places import Place
from nanolab_daemon.scans import QUICK_S, Order, Scans
from nanolab_daemon.sections import WatchMode
from nanolab_daemon.tasks import StageJob

USUAL = Rules(steady=True)
WATCHED = Place(b"", "/", "ext4", WatchMode.EVENTS, "")
SHARE = Place(b"pc1", "/mnt", "cifs", WatchMode.SCAN, "")
GONE = Place(b"pc2", "/mnt2", "cifs", WatchMode.SCAN, "", "not mounted")


class Pass:
    """A pass that ends when the test says so."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.finished = self.stopped = False
        self.trouble = None

    def start(self) -> None:
        pass

    def stop(self) -> None:
        self.stopped = True

    def take(self, most: int) -> Iterator[StageJob]:
        yield StageJob(b"x")


class Desk:
    """Scans, with a record of the passes that it began."""

    def __init__(self, *places: Place) -> None:
        self.begun: list[Pass] = []
        self.scans = Scans(self._begin, lambda *_: None)  # type: ignore[arg-type]
        self.scans.set_places(places, 0.0)

    def _begin(self, order: Order) -> Pass:
        self.begun.append(Pass(order))
        return self.begun[-1]

    def work(self, now: float, *, end: bool = True) -> list[tuple[bytes, bool]]:
        """Go once round; give place and `changed_only` of each pass that was begun."""
        before = len(self.begun)
        self.scans.work(now, 60.0, USUAL)
        new = self.begun[before:]
        for one in new:
            one.finished = end
        return [(one.order.place.path, one.order.changed_only) for one in new]


def test_everything_is_scanned_at_first_and_then_in_time() -> None:
    """Each part is scanned at once, then every rescan_s; names on a share are looked for in between."""
    desk = Desk(WATCHED, SHARE)
    assert desk.work(0.0) == [(b"", False), (b"pc1", False)]
    assert desk.work(0.1) == []
    assert desk.work(0.1 + QUICK_S) == [(b"pc1", True)]
    assert desk.work(60.0) == [(b"", False), (b"pc1", False)]


def test_a_hanging_share_keeps_nobody_waiting() -> None:
    """While one part's pass does not end, the others go on, and an order is served when all have served it."""
    desk = Desk(WATCHED, SHARE)
    desk.work(0.0, end=False)
    desk.begun[0].finished = True
    number = desk.scans.request()
    assert desk.work(1.0) == [(b"", False)]
    desk.work(2.0)
    assert desk.scans.served < number
    desk.begun[1].finished = True
    desk.work(3.0)
    desk.work(4.0)
    assert desk.scans.served == number


def test_a_request_is_served_by_a_pass_begun_after_it() -> None:
    """A pass that was under way when somebody asked does not count."""
    desk = Desk(WATCHED)
    desk.work(0.0, end=False)
    number = desk.scans.request()
    desk.begun[0].finished = True
    assert desk.work(1.0) == [(b"", False)]
    assert desk.scans.served < number
    desk.work(1.1)
    assert desk.scans.served == number


def test_orders_with_rules_of_their_own_get_a_pass_each() -> None:
    """A command's rules hold for its own pass alone, and every part makes it."""
    desk = Desk(WATCHED, SHARE)
    desk.work(0.0)
    desk.work(0.1)
    forced = Rules(force=True)
    desk.scans.request()
    desk.scans.request(forced)
    desk.scans.request()
    desk.begun.clear()
    for now in range(1, 8):
        desk.work(float(now) / 10)
    for path in (b"", b"pc1"):
        rules = [p.order.rules for p in desk.begun if p.order.place.path == path and not p.order.changed_only]
        assert rules == [USUAL, forced, USUAL]


def test_what_is_not_mounted_is_neither_scanned_nor_entered() -> None:
    """A part that is gone has no pass, and the pass of the part above does not go into its folder."""
    desk = Desk(WATCHED, GONE)
    assert desk.work(0.0) == [(b"", False)]
    assert desk.begun[0].order.skip == {b"pc2"}
    desk.scans.set_places([WATCHED], 1.0)
    assert desk.begun[0].stopped, "the border has moved: what the pass concludes might be wrong"
    assert desk.work(1.0) == [(b"", False)]
    assert desk.begun[1].order.skip == frozenset()


def test_what_was_asked_outlives_a_change_of_mode() -> None:
    """A part that is watched otherwise from now on still serves what it was asked before."""
    desk = Desk(WATCHED)
    desk.work(0.0)
    desk.work(0.1)
    number = desk.scans.request(Rules(force=True))
    desk.work(0.2, end=False)
    desk.scans.set_places([replace(WATCHED, mode=WatchMode.SCAN)], 0.3)
    desk.work(0.4)
    assert desk.begun[-1].order.rules.force
    desk.work(0.5)
    assert desk.scans.served == number
