"""A start that fails for want of room: it is waited for as in the midst of work, and tried again.

Only what has failed so is waited for: with the files there that it needs, a daemon may well begin on a full disk, and
then says itself what it waits for.
"""

from __future__ import annotations

import errno
import sqlite3
import time
from functools import partial

from nanolab_daemon import publish
from nanolab_daemon.config import Config
from nanolab_daemon.layout import nearest_existing
from nanolab_daemon.log import REASON, logger
from nanolab_daemon.notify import Notifier
from nanolab_daemon.pauses import Pauses, remedy

AGAIN_S = 5.0
"""How long at most until it is seen that there is room."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def is_lacking(error: BaseException | None) -> bool:
    """Tell whether an error, or one that led to it, says that a disk or a quota is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return True
        if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def wait(config: Config, notifier: Notifier) -> None:
    """Return when something can be written into each of the program's folders; meanwhile tell for what it waits."""
    paths, pauses, log = config.paths, Pauses(), logger(__name__)
    for name, folder in (("state", paths.state), ("stage", paths.stage), ("output", paths.output)):
        while True:
            now = time.monotonic()
            try:
                publish.try_for_room(nearest_existing(folder))
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    break  # told better by who needs it
                words = f"the {name} folder {folder} can't be written: {error.strerror}. {remedy(error.errno)}"
                pause = pauses.fault(str(folder), words, now)
                if pause is not None and pause.tries == 1:
                    log.error("paused", **{REASON: words})
                notifier.starting(now)
                notifier.status(partial("paused: {}".format, words), now)
                time.sleep(min(AGAIN_S, max(0.0, pauses.until - now)))
            else:
                pauses.tried(str(folder))
                if over := pauses.worked(str(folder)):
                    log.info("resumed", **{REASON: over.reason}, after_s=round(now - over.since, 1))
                break
