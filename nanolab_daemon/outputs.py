"""All that the engine's one thread asks of the folders below which runs are published, as long as that may take.

What lies on a disk of this machine is asked directly. A share is asked through a thread of its own and for a while
only: one whose server is gone must not hold up the loop that watches, answers and tells what is the matter.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from nanolab_daemon.courier import Courier, SilentError
from nanolab_daemon.mounts import mount_of

LIMIT_S = 5.0
"""How long a share may keep everything else waiting, once. What was asked then goes on, and may be done later."""

Answer = TypeVar("Answer")


class Outputs:
    """The stage and the output root. For one thread; `limit_s` bounds each call on a share."""

    def __init__(self, roots: Iterable[Path], limit_s: float = LIMIT_S) -> None:
        self._roots = tuple(dict.fromkeys(roots))
        self._limit_s = limit_s
        self._couriers: dict[Path, Courier | None] = {}  # None: a local disk

    def call(self, root: Path, function: Callable[..., Answer], *arguments: Any) -> Answer:
        """Make any call about what is below a root; SilentError, with the root for its name, if that takes too long.

        What was called may come to its end after that. Its effect is then as that of a crash between the call and the
        ledger's commit: whoever goes on must hold the disk against the ledger first.
        """
        if root not in self._couriers:
            self._couriers[root] = self._courier(root)
        courier = self._couriers[root]
        try:
            return function(*arguments) if courier is None else courier.call(function, *arguments)
        except SilentError as error:
            error.filename = os.fspath(root)
            raise

    def silent(self) -> SilentError | None:
        """Ask each share among the roots for a sign of life; give what is said of the first that gives none."""
        for root in self._roots:
            try:
                if root not in self._couriers or self._couriers[root] is not None:
                    self.call(root, _sign_of_life, root)
            except SilentError as error:
                return error
            except OSError:
                continue  # it answers, if badly: who works there will tell
        return None

    def stop(self) -> None:
        """Let the threads end once they have come back."""
        for courier in self._couriers.values():
            if courier is not None:
                courier.stop()
        self._couriers.clear()

    def _courier(self, root: Path) -> Courier | None:
        courier = Courier("it", self._limit_s)
        try:
            mount = courier.call(mount_of, root)
        except OSError:  # it hangs already, or the kernel does not say
            return courier
        if mount is None or mount.remote:
            return courier
        courier.stop()
        return None


def unanswering(folders: Iterable[Path], limit_s: float = LIMIT_S) -> list[Path]:
    """Give those of some folders that lie on shares which don't answer."""
    found = []
    for folder in folders:
        outputs = Outputs((folder,), limit_s)
        if outputs.silent() is not None:
            found.append(folder)
        outputs.stop()
    return found


def _sign_of_life(root: Path) -> None:
    os.statvfs(root)  # asks the server, where stat(2) may be answered from what was known of it
