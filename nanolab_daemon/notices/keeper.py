"""One look after another: observe, judge, remember, send. What it remembers lies in the state folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nanolab_daemon.commands import file_to_name
from nanolab_daemon.config import Config
from nanolab_daemon.errors import EngineError
from nanolab_daemon.lock import Lock
from nanolab_daemon.log import PATH, REASON, logger
from nanolab_daemon.notices.book import Book, Rules
from nanolab_daemon.notices.observe import Observer
from nanolab_daemon.notices.post import Post, Send

FILE_NAME = "notices.json"
SNOOZE_NAME = "snooze.json"
LOCK_NAME = "notices.lock"
LOOK_EVERY_S = 5.0


class Keeper:
    """Keeps the book and the post of one state folder."""

    def __init__(self, config: Config, send: Send, clock: Callable[[], float] = time.time) -> None:
        self._state = config.paths.state
        self._clock = clock
        self._log = logger(__name__)
        self._lock = Lock(self._state, "notify", LOCK_NAME)
        self._lock.acquire()
        kept = self._kept()
        self._written: dict[str, Any] = {}
        rules = Rules(config.notify.gather_s, config.notify.repeat_s)
        silent_s = config.notify.silent_after_h * 3600
        self._book = Book(rules, kept.get("book"))
        self._post = Post(send, kept.get("post", ()))
        self._observer = Observer(
            self._state,
            dict.fromkeys(config.notify.instruments, silent_s),
            float(kept.get("since", clock())),
            file_to_name(config.file),
        )

    def look(self) -> None:
        """Look once, and send what is to be sent."""
        now = self._clock()
        seen = self._observer.conditions(now), self._observer.events()
        notices = self._book.look(now, *seen, read_snoozes(self._state))
        self._post.put(now, notices)
        self._keep()
        self._post.work(now)
        self._keep()

    def close(self) -> None:
        """Let another one keep them."""
        self._lock.release()

    def _kept(self) -> dict[str, Any]:
        path = self._state / FILE_NAME
        try:
            found = json.loads(path.read_text())
            Book(Rules(), found["book"])
            Post(lambda _: "", found["post"])
            return dict(found)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            self._log.warning("what was told before is not known", **{PATH: str(path), REASON: str(error)})
            return {}

    def _keep(self) -> None:
        kept = {"since": self._observer.since, "book": self._book.as_dict(), "post": self._post.as_list()}
        if kept != self._written:
            _replace(self._state / FILE_NAME, kept)
            self._written = kept


def read_snoozes(state: Path) -> dict[str, float]:
    """Give until when (seconds since 1970) each kind is not told; `all` stands for every one."""
    try:
        found = json.loads((state / SNOOZE_NAME).read_text())
        return {str(kind): float(until) for kind, until in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def snooze(state: Path, kind: str, until: float) -> None:
    """Have one kind, or `all`, not told until then; a past moment ends it. EngineError if it can't be noted."""
    snoozes = read_snoozes(state)
    snoozes[kind] = until
    try:
        _replace(state / SNOOZE_NAME, {kind: until for kind, until in snoozes.items() if until > time.time()})
    except OSError as error:
        raise EngineError(
            f"The state folder {state} can't be written: {error.strerror}.", advice="Use the daemon's user, or sudo."
        ) from error


def _replace(path: Path, what: object) -> None:
    temp = path.with_name(f".{path.name}.{os.getpid()}")
    temp.write_text(json.dumps(what))
    temp.replace(path)
