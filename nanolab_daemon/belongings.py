"""The state folder's own files, while they are in use: what was deleted is written anew, what was replaced is told.

A lock that lies under no name any more holds nobody out, and a ledger under none is gone when the process ends.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from nanolab_daemon import lock
from nanolab_daemon.catalog import FILE_NAME, Catalog
from nanolab_daemon.errors import EngineError
from nanolab_daemon.log import PATH, logger

AGAIN = "Start it again: it takes over what is published."


class Belongings:
    """What one engine has open in its state folder. `commit` makes safe what the ledger speaks of, and commits it."""

    def __init__(self, state: Path, catalog: Catalog, commit: Callable[[], None]) -> None:
        self._ledger, self._lock = state / FILE_NAME, state / lock.FILE_NAME
        self._catalog = catalog
        self._commit = commit
        self._identities = {path: _identity(path) for path in (self._ledger, self._lock)}

    def check(self) -> None:
        """See whether they are still where they were; EngineError if they are not, and it can't be put right here."""
        if _identity(self._lock) != self._identities[self._lock]:
            raise EngineError(f"The lock {self._lock} was deleted or replaced while it was held.", advice=AGAIN)
        there = _identity(self._ledger)
        if there == self._identities[self._ledger]:
            if there is not None and os.stat(self._ledger).st_size == 0:  # noqa: PTH116
                raise EngineError(f"The ledger {self._ledger} was emptied while it was in use.", advice=AGAIN)
            return
        if there is not None:
            raise EngineError(f"The ledger {self._ledger} was replaced while it was in use.", advice=AGAIN)
        try:
            self._commit()
            self._catalog.write_anew(self._ledger)
        except (OSError, sqlite3.Error) as error:
            raise EngineError(
                f"The ledger {self._ledger} was deleted while it was in use, and can't be written anew: {error}.",
                advice=AGAIN,
            ) from error
        self._identities[self._ledger] = _identity(self._ledger)
        logger(__name__).warning("the ledger had been deleted; it is written anew", **{PATH: str(self._ledger)})


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
