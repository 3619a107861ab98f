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

Send = Callable[[Notice], str]
"""Sends a notice, and gives why it was not taken; nothing if it was."""


def apprise_send(urls: Iterable[str]) -> Send:
    """Give what sends a notice to all these addresses, and tells what kept one of them from it. Imports apprise."""
    import logging

    import apprise

    known = apprise.Apprise()
    for url in urls:
        known.add(url)

    def send(notice: Notice) -> str:
        kind = apprise.NotifyType.WARNING if notice.grave else apprise.NotifyType.SUCCESS
        body = notice.body or notice.title
        with apprise.LogCapture(level=logging.WARNING, fmt="%(message)s") as said:  # type: ignore[no-untyped-call]
            taken = known.notify(
                title=notice.title, body=body, notify_type=kind, body_format=apprise.NotifyFormat.TEXT
            )
            words = " ".join(said.getvalue().split())
        return "" if taken else words or "not all addresses took it"

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
            try:
                trouble = self._send(notice)
            except Exception as error:  # noqa: BLE001 -- whatever a plugin raises, the notice waits
                trouble = str(error) or type(error).__name__
            if not trouble or now - at > KEPT_S:
                self._waiting.popleft()
                self._failures = 0
                self._log.info("notice given up" if trouble else "notice sent", title=notice.title)
                continue
            self._again_at = now + min(FIRST_PAUSE_S * 2**self._failures, LONGEST_PAUSE_S)
            self._failures += 1
            self._log.warning(
                "notice not sent", title=notice.title, again_in_s=self._again_at - now, **{REASON: trouble}
            )

    def as_list(self) -> list[tuple[float, dict[str, Any]]]:
        """Give what waits as plain data for JSON."""
        return [(at, asdict(notice)) for at, notice in self._waiting]
