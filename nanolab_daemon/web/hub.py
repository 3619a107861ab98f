"""News for open pages: looks once a moment at daemon, ledger and measuring files, and tells all who listen.

Looks only while somebody listens. A listener that does not keep up is let go; its browser comes again by itself.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nanolab_daemon.log import REASON, logger

PERIOD_S = 0.7
LOOK_LIMIT_S = 5.0
HEARTBEAT_S = 15.0
MOST_LISTENERS = 32
MOST_UNREAD = 16

Items = Mapping[str, str]
"""Pieces of HTML by the id of their element."""


@dataclass(frozen=True, slots=True)
class View:
    """What an open page shows, rendered. `live` and `runs` are in the order in which they are shown."""

    state: str = ""
    live: Items = field(default_factory=dict)
    runs: Items = field(default_factory=dict)
    count: int = 0


class Hub:
    """The listeners and what they were told last. Lives in the server's event loop; `look` runs in a thread."""

    def __init__(self, look: Callable[[], View]) -> None:
        self._look = look
        self._log = logger(__name__)
        self._listeners: set[asyncio.Queue[str | None]] = set()
        self._somebody = asyncio.Event()
        self._view = View()
        self._seen_at = 0.0
        self._ended = False
        self.trouble = ""  # why there is no news, in words

    @property
    def is_full(self) -> bool:
        """Whether nobody else can listen now."""
        return len(self._listeners) >= MOST_LISTENERS

    async def work(self) -> None:
        """Look and tell, until cancelled."""
        look: asyncio.Future[View] | None = None
        while True:
            await self._somebody.wait()
            if look is None:
                look = asyncio.ensure_future(asyncio.to_thread(self._look))
            done, _ = await asyncio.wait({look}, timeout=LOOK_LIMIT_S)
            if not done:  # a share hangs: the same look goes on, no second one is begun
                self.trouble = f"A look at the raw folder or the ledger takes longer than {LOOK_LIMIT_S:g} s."
                continue
            try:
                view = look.result()
            except Exception as error:  # noqa: BLE001 -- the main loop of the news: the next look may do better
                self._log.exception("the page could not look", **{REASON: str(error)})
                self.trouble = f"The page could not look: {error}"
            else:
                self.trouble = ""
                self._tell(view)
            look = None
            await asyncio.sleep(PERIOD_S)

    async def listen(self) -> AsyncIterator[str]:
        """Give events for one page: first how things stand, then what changes; a comment when nothing does."""
        inbox: asyncio.Queue[str | None] = asyncio.Queue(MOST_UNREAD)
        self._listeners.add(inbox)
        try:
            yield "retry: 1500\n\n"
            if self._listeners == {inbox} and time.monotonic() - self._seen_at > 3 * PERIOD_S:
                self._view = View()  # nobody has looked for a while: what comes next is all new
            else:
                yield _everything(self._view)
            self._somebody.set()
            while not self._ended:
                try:
                    event = await asyncio.wait_for(inbox.get(), HEARTBEAT_S)
                except TimeoutError:
                    event = ": still here\n\n"
                if event is None:
                    return
                yield event
        finally:
            self._listeners.discard(inbox)
            if not self._listeners:
                self._somebody.clear()

    def end(self) -> None:
        """Let all listeners go."""
        self._ended = True
        for inbox in self._listeners:
            _put(inbox, None)

    def _tell(self, view: View) -> None:
        old, self._view = self._view, view
        self._seen_at = time.monotonic()
        events = []
        if view.state != old.state:
            events.append(_event("state", {"html": view.state}))
        if dict(view.live) != dict(old.live) or list(view.live) != list(old.live):
            events.append(_event("live", {"order": list(view.live), "items": _changed(view.live, old.live)}))
        if dict(view.runs) != dict(old.runs) or view.count != old.count:
            changed = {"order": list(view.runs), "items": _changed(view.runs, old.runs), "count": view.count}
            events.append(_event("runs", changed))
        if events:
            text = "".join(events)
            for inbox in list(self._listeners):
                if not _put(inbox, text):
                    self._listeners.discard(inbox)


def _put(inbox: asyncio.Queue[str | None], event: str | None) -> bool:
    try:
        inbox.put_nowait(event)
    except asyncio.QueueFull:
        while not inbox.empty():
            inbox.get_nowait()
        inbox.put_nowait(None)
        return False
    return True


def _changed(new: Items, old: Items) -> dict[str, str]:
    return {key: html for key, html in new.items() if old.get(key) != html}


def _everything(view: View) -> str:
    return (
        _event("state", {"html": view.state})
        + _event("live", {"order": list(view.live), "items": dict(view.live)})
        + _event("runs", {"order": list(view.runs), "items": dict(view.runs), "count": view.count})
    )


def _event(name: str, data: Mapping[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
