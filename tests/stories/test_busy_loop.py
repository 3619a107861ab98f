"""However much comes at once, and however slow the machine is, the daemon's loop goes round, and is seen to."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

import pytest
from lab import Lab, until

from nanolab_daemon.follow import Follower
from nanolab_daemon.notify import Notifier
from nanolab_daemon.watch import Kind

EVENTS = 600
EACH_S = 0.01  # so long the machine takes over one event
WATCHDOG_S = 2.0


def test_the_watchdog_is_fed_while_thousands_of_events_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Follower.heard
    slow: list[bytes] = []

    def slowly(self: Follower, path: bytes, now: float, *, closed: bool) -> None:
        slow.append(path)
        time.sleep(EACH_S)
        heard(self, path, now, closed=closed)

    monkeypatch.setattr(Follower, "heard", slowly)
    fed: list[float] = []
    watched = {"WATCHDOG_USEC": str(round(WATCHDOG_S * 1e6)), "WATCHDOG_PID": str(os.getpid())}
    with Lab(tmp_path).daemon() as daemon:
        watch = until(lambda: daemon._lookout.watch, what="for the watch")
        daemon._notifier = Notifier(
            watched, send=lambda words: fed.append(time.monotonic()) if words == "WATCHDOG=1" else None
        )
        for number in range(EVENTS):
            watch.hint(Kind.CLOSED, daemon.config.paths.raw / f"{number}.csv")
        until(lambda: len(slow) >= EVENTS, what="for all events")
        until(lambda: len(fed) > 5, what="for the watchdog")
    gaps = [after - before for before, after in itertools.pairwise(fed)]
    assert EVENTS * EACH_S > 2 * WATCHDOG_S
    assert max(gaps) < WATCHDOG_S
