"""All that the daemon's one thread asks of the raw folder: answered within a moment, whatever a share does.

What lies on a disk of this machine is asked directly. Each share is asked through a thread of its own, so that one
whose server is gone holds up nothing but itself. Writes nothing.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from nanolab_daemon.courier import Courier, SilentError
from nanolab_daemon.model import Fingerprint
from nanolab_daemon.mounts import is_remote
from nanolab_daemon.names import shown_path
from nanolab_daemon.places import Place, place_of
from nanolab_daemon.rawfile import LIMITS, fingerprint

LIMIT_S = 1.0
"""How long a share may keep everything else waiting, once."""

SILENT_S = 5.0
"""How long a share may be slow before it is taken to be gone."""

Answer = TypeVar("Answer")
Identity = tuple[int, int]


class RawFolder:
    """The raw folder and the shares below it. For one thread."""

    def __init__(self, root: Path) -> None:
        self._root = os.fsencode(root)
        self._real = root
        self._couriers: dict[bytes, Courier | None] = {b"": self._courier(b"")}  # None: a local disk
        self._points: dict[bytes, str] = {}

    def set_places(self, places: Iterable[Place]) -> None:
        """Take over where shares are mounted."""
        before, self._couriers = self._couriers, {}
        every = list(places)
        remote = [place.path for place in every if is_remote(place.kind)]
        for place in every:
            # What is mounted below a share can't be reached while that is silent.
            if not any(not above or place.path == above or place.path.startswith(above + b"/") for above in remote):
                self._couriers[place.path] = None
            elif place.path in before and before[place.path] and self._points.get(place.path, "") == place.point:
                self._couriers[place.path] = before[place.path]
            else:
                self._couriers[place.path] = self._courier(place.path)
            self._points[place.path] = place.point
        if b"" not in self._couriers:
            self._couriers[b""] = before.get(b"") or self._courier(b"")
        for courier in before.values():
            if courier is not None and courier not in self._couriers.values():
                courier.stop()

    def stat(self, path: bytes) -> Fingerprint | None:
        """Look at a file; None if there is none. Any other trouble raises OSError: nothing may be concluded then."""
        try:
            status = self.call(path, os.lstat, os.path.join(self._root, path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return fingerprint(status) if stat.S_ISREG(status.st_mode) else None

    def exists(self, path: bytes) -> bool:
        """Tell whether something has this name; True also where that can't be known now."""
        try:
            self.call(path, os.lstat, os.path.join(self._root, path))
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True
        return True

    def identity(self, place: bytes) -> Identity | None:
        """Tell one folder from another that stands under its name: None if there is none or it can't be listed."""
        try:
            return self._call(place, identity, Path(os.fsdecode(os.path.join(self._root, place))))
        except SilentError:
            raise
        except OSError as error:
            if error.errno in LIMITS:
                raise SilentError(shown_path(place) or "the raw folder") from error  # it may well be there
            return None

    def real_path(self) -> Path:
        """Give the raw folder with all links resolved; while it does not answer, as it was."""
        with contextlib.suppress(OSError):
            self._real = Path(self._call(b"", os.path.realpath, os.fsdecode(self._root)))
        return self._real

    def call(self, path: bytes, function: Callable[..., Answer], *arguments: Any) -> Answer:
        """Make any call about a path, through the thread of the share that it lies on."""
        return self._call(place_of(self._couriers, path), function, *arguments)

    def silent(self) -> frozenset[bytes]:
        """Name the places that have not answered for so long that they are taken to be gone."""
        now = time.monotonic()
        return frozenset(p for p, courier in self._couriers.items() if courier and courier.waits_s(now) >= SILENT_S)

    def _call(self, place: bytes, function: Callable[..., Answer], *arguments: Any) -> Answer:
        courier = self._couriers.get(place)
        return function(*arguments) if courier is None else courier.call(function, *arguments)

    def _courier(self, place: bytes) -> Courier:
        return Courier(os.fsdecode(os.path.join(self._root, place)), LIMIT_S)


def identity(folder: Path) -> Identity | None:
    """Give what a folder is told by, device and inode; None if there is none or it can't be listed.

    OSError if this process is short of what it needs to find out.
    """
    try:
        status = folder.stat()
        with os.scandir(folder):  # a share whose server is gone may still answer stat(2)
            return status.st_dev, status.st_ino
    except OSError as error:
        if error.errno in LIMITS:
            raise
        return None
