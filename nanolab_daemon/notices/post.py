"""Sends notices through apprise; what can't be sent now waits, for a day at most."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from nanolab_daemon.log import REASON, logger
from nanolab_daemon.notices.book import Notice

FIRST_PAUSE_S = 30.0
LONGEST_PAUSE_S = 1800.0
KEPT_S = 86400.0
MOST_WAITING = 200

Send = Callable[[Notice], bool]


def apprise_send(urls: Iterable[str]) -> Send:
    """Give what sends a notice to all these addresses, and tells whether all of them took it. Imports apprise."""
    import apprise

    known = apprise.Apprise()
    for url in urls:
        known.add(url)

    def send(notice: Notice) -> bool:
        kind = apprise.NotifyType.WARNING if notice.grave else apprise.NotifyType.SUCCESS
        body = notice.body or notice.title
        return bool(
            known.notify(title=notice.title, body=body, notify_type=kind, body_format=apprise.NotifyFormat.TEXT)
        )

    return send


class Post:
    """What waits to be sent. Moments are seconds since 1970."""

    def __init__(self, send: Send, kept: Iterable[tuple[float, dict[str, Any]]] = ()) -> None:
        self._send = send
        self._waiting: deque[tuple[float, Notice]] = deque(maxlen=MOST_WAITING)
        self._waiting.extend((at, Notice(**notice)) for at, notice in kept)
        self._failures = 0
        self._again_at = 0.0
        self._log = logger(__name__)

    def put(self, now: float, notices: Iterable[Notice]) -> None:
        """Take in notices."""
        self._waiting.extend((now, notice) for notice in notices)

    def work(self, now: float) -> None:
        """Send what waits, the oldest first, until one is not taken."""
        while self._waiting and now >= self._again_at:
            at, notice = self._waiting[0]
            taken = False
            trouble = "not all addresses took it"
            try:
                taken = self._send(notice)
            except Exception as error:  # noqa: BLE001 -- whatever a plugin raises, the notice waits
                trouble = str(error)
            if taken or now - at > KEPT_S:
                self._waiting.popleft()
                self._failures = 0
                self._log.info("notice sent" if taken else "notice given up", title=notice.title)
                continue
            self._again_at = now + min(FIRST_PAUSE_S * 2**self._failures, LONGEST_PAUSE_S)
            self._failures += 1
            self._log.warning(
                "notice not sent", title=notice.title, again_in_s=self._again_at - now, **{REASON: trouble}
            )

    def as_list(self) -> list[tuple[float, dict[str, Any]]]:
        """Give what waits as plain data for JSON."""
        return [(at, asdict(notice)) for at, notice in self._waiting]
