"""Is a file done? A pure function of what was observed of it and of the time; no clock, no disk.

What it guesses costs latency, never truth: a file that changes after it was published is published again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from nanolab_daemon.model import FileState, Fingerprint

MOST_DOUBLINGS = 12
LONGEST_WAIT_S = 3600.0


class Rule(StrEnum):
    """Why a file is taken to be done."""

    PROVEN = "proven"  # its rows are all that the header prescribes
    CLOSED = "closed"  # its writer closed it and it stayed as it was
    QUIET = "quiet"  # nothing has changed for longer than its header lets expect


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds; from the configuration."""

    settle_s: float
    quiet_s: float
    poll_s: float
    rescan_s: float


@dataclass(frozen=True, slots=True)
class Glance:
    """What a look into the file told: None in `state` if it could not be understood (torn, or no instrument file)."""

    state: FileState | None
    rows: int = 0
    expected_rows: int | None = None
    proven: bool = False
    silence_s: float = 0.0  # the longest time for which such a measurement may write nothing
    proc: str | None = None


@dataclass(frozen=True, slots=True)
class Track:
    """All that was observed of one file that is not done. Moments are monotonic seconds.

    `glance` is of the bytes under `fingerprint`, or None if nobody has looked inside since they changed.
    """

    fingerprint: Fingerprint
    changed_at: float
    closed_at: float | None = None
    glance: Glance | None = None
    republished: int = 0  # how often the file has grown after its run was published
    rowless: bool = False  # a worker has found that there is a sound header and no row

    def seen(self, fingerprint: Fingerprint, now: float, *, quiet_since: float | None = None) -> Track:
        """Take note of a stat(2). `quiet_since`: when the bytes last changed, where that is known to be earlier."""
        if fingerprint == self.fingerprint:
            return self
        changed = now if quiet_since is None else quiet_since
        return Track(fingerprint, changed, None, None, self.republished)

    def closed(self, now: float) -> Track:
        """Take note that a writer has closed the file."""
        return replace(self, closed_at=now)

    def looked(self, glance: Glance) -> Track:
        """Take note of a look inside."""
        return replace(self, glance=glance)


@dataclass(frozen=True, slots=True)
class Verdict:
    """`ready`: by which rule the file is done, or None. `again_at`: when to look next if nothing is heard before."""

    ready: Rule | None
    again_at: float


def decide(track: Track, now: float, patience: Patience) -> Verdict:
    """Judge a file by all that was observed of it."""
    glance = track.glance
    if glance is not None and glance.proven:
        return Verdict(Rule.PROVEN, now)
    waits = track.rowless
    doubled = 2.0 ** min(track.republished, MOST_DOUBLINGS)
    due = math.inf
    if track.closed_at is not None:
        settled_at = max(track.closed_at, track.changed_at) + _stretched(patience.settle_s, doubled)
        if not waits:
            if now >= settled_at:
                return Verdict(Rule.CLOSED, now)
            due = settled_at
    silence_s = glance.silence_s if glance is not None else 0.0
    quiet_at = track.changed_at + _stretched(max(patience.quiet_s, silence_s), doubled)
    if not waits:
        if now >= quiet_at:
            return Verdict(Rule.QUIET, now)
        due = min(due, quiet_at)
    return Verdict(None, min(due, now + pause_s(track, now, patience)))


def pause_s(track: Track, now: float, patience: Patience) -> float:
    """Give the time to the next look at a file nobody speaks of: short while it changes, longer as it stays quiet."""
    age_s = max(0.0, now - track.changed_at)
    longest = patience.rescan_s
    glance = track.glance
    if glance is not None and glance.state in (FileState.STARTED, FileState.MEASURING):
        longest = min(longest, max(1.0, patience.poll_s))
    return min(max(patience.poll_s, age_s / 20), max(longest, patience.poll_s))


def _stretched(wait_s: float, doubled: float) -> float:
    """Lengthen a wait for a file that has grown after publication; never beyond an hour or below the wait."""
    return max(wait_s, min(wait_s * doubled, LONGEST_WAIT_S))
