"""What the machine keeps from being done: which folder or limit is at fault, since when, and when it is tried again.

Time is a parameter, and nothing is tried here: the engine does that, and tells how it went.
"""

from __future__ import annotations

import errno
import math
from dataclasses import dataclass, replace

WAITS_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""How long is waited before each further try."""

FORGOTTEN_AFTER_S = 60.0
"""A fault so long after the last one is another one, even if nothing was done between them."""


@dataclass(frozen=True, slots=True)
class Pause:
    """One fault of the machine. Times are monotonic seconds.

    `holds`: nothing may be begun. It ends when a try succeeds; the pause itself is forgotten when real work does,
    so that a fault that only seems to be mended is met with longer and longer waits.
    """

    place: str
    reason: str
    since: float
    until: float
    tries: int
    holds: bool


class Pauses:
    """The faults of the machine that are not mended."""

    def __init__(self) -> None:
        self._pauses: dict[str, Pause] = {}

    @property
    def first(self) -> Pause | None:
        """The fault that holds everything up, the oldest of several."""
        return min((p for p in self._pauses.values() if p.holds), key=lambda pause: pause.since, default=None)

    @property
    def until(self) -> float:
        """When something is to be tried next; infinity if nothing is held up."""
        return min((p.until for p in self._pauses.values() if p.holds), default=math.inf)

    def fault(self, place: str, reason: str, now: float) -> Pause | None:
        """Take note of a fault, and give the pause that it leads to; None if there is that pause already."""
        before = self._pauses.get(place)
        if before is not None and before.holds and now < before.until:
            return None  # others of the same batch
        if before is not None and not before.holds and now > before.until + FORGOTTEN_AFTER_S:
            before = None
        tries = before.tries + 1 if before else 1
        wait_s = WAITS_S[min(tries, len(WAITS_S)) - 1]
        pause = Pause(place, reason, before.since if before else now, now + wait_s, tries, True)
        self._pauses[place] = pause
        return pause

    def due(self, now: float) -> list[Pause]:
        """Give what is to be tried now."""
        return [pause for pause in self._pauses.values() if pause.holds and now >= pause.until]

    def tried(self, place: str) -> None:
        """Take note that a try succeeded: work may begin."""
        if place in self._pauses:
            self._pauses[place] = replace(self._pauses[place], holds=False)

    def worked(self, place: str) -> Pause | None:
        """Take note that real work succeeded; give the pause that is over by it, if there was one."""
        pause = self._pauses.get(place)
        return None if pause is None or pause.holds else self._pauses.pop(place)


_REMEDIES = {
    errno.ENOSPC: "Make room there.",
    errno.EDQUOT: "Make room there, or have this user's quota raised.",
    errno.EROFS: "Mount it for writing again.",
    errno.EACCES: "Give this user the right to write there.",
    errno.EPERM: "Give this user the right to write there.",
    errno.ENOENT: "Mount it, or make it again.",
    errno.ENOTDIR: "Put the folder back.",
    errno.EMFILE: "Raise the limit of open files: LimitNOFILE= of the service, or ulimit -n.",
    errno.ENFILE: "Raise the machine's limit of open files: sysctl fs.file-max.",
    errno.ENOMEM: "Free some memory, or give the machine more.",
    errno.ETIMEDOUT: "Look at the server of that share, and at the network.",
    errno.EIO: "Look at the disk, and at what the kernel says of it (dmesg).",
}


def remedy(code: int | None) -> str:
    """Say what mends a fault, if it does not pass by itself."""
    return f"{_REMEDIES.get(code or 0, 'Mend that.')} The work goes on by itself then."
