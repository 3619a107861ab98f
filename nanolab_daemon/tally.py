"""Counts of one engine's life, for progress bars, summaries and `status`. Numbers only; decides nothing."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

BUCKETS = 48
LATENCY_S = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 1800.0)


@dataclass(slots=True)
class Timeline:
    """How much a stage did when: counts in equal spans that widen as time goes on, so that it never grows."""

    began_s: float | None = None
    ended_s: float | None = None
    span_s: float = 0.25
    counts: list[int] = field(default_factory=lambda: [0] * BUCKETS)

    def add(self, number: int, at_s: float) -> None:
        """Count what was done at a moment (seconds since the engine began)."""
        if self.began_s is None:
            self.began_s = at_s
        self.ended_s = at_s
        while at_s >= self.span_s * BUCKETS:
            halves = [a + b for a, b in zip(self.counts[::2], self.counts[1::2], strict=True)]
            self.counts = halves + [0] * (BUCKETS - len(halves))
            self.span_s *= 2
        self.counts[int(at_s / self.span_s)] += number


@dataclass(slots=True)
class Latency:
    """How long live files took from their last byte or closing, whichever came later, to their published run."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_S) + 1))
    sum_s: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(LATENCY_S, seconds)] += 1
        self.sum_s += seconds

    def as_dict(self) -> dict[str, object]:
        """Give the upper limits in seconds, how many lie below each but above the one before, and the sum."""
        return {"limits_s": list(LATENCY_S), "counts": list(self.counts), "sum_s": self.sum_s}


@dataclass(slots=True)
class Tally:
    """What an engine has met and done. `files` are raw files looked at in this life, each counted once a pass."""

    found: int = 0  # raw files that the scan met
    known: int = 0  # of these, unchanged: not opened
    to_stage: int = 0  # offered to the first stage
    staged_done: int = 0  # of these, answered
    to_segment: int = 0
    segmented_done: int = 0
    segments: int = 0
    incomplete: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)  # by state of the file, or other ending
    causes: Counter[str] = field(default_factory=Counter)  # of rejections
    agreement: dict[str, list[int]] = field(default_factory=dict)  # procedure → [proven complete, judged]
    unreadable_folders: int = 0
    missing: int = 0
    missing_ignored: int = 0
    frozen: list[str] = field(default_factory=list)  # shares below raw that are not mounted: left alone
    stage: Timeline = field(default_factory=Timeline)
    segment: Timeline = field(default_factory=Timeline)
    latency: Latency = field(default_factory=Latency)

    def as_dict(self) -> dict[str, object]:
        """Give the counts as plain data for JSON; the timelines are left out."""
        counts = {name: getattr(self, name) for name in self.__slots__}
        return {
            name: dict(value) if isinstance(value, dict) else value
            for name, value in counts.items()
            if isinstance(value, int | dict)
        }
