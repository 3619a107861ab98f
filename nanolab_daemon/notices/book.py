"""What was told, what is still to be told, and what need not be: the rules of notices, as a function of time.

A `Condition` holds while something is wrong; an `Event` has happened once. Both are gathered for a while, so that
what belongs together is one notice; what goes on is not told twice; that it is over is told if it had been told.
Moments are seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

MOST_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that is wrong now. `kind` groups and names it for a snooze, `subject` tells it from its like."""

    kind: str
    subject: str
    words: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that has happened to one file, for one cause."""

    kind: str
    cause: str
    file: str
    words: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """What is to be sent: a line, and the text below it."""

    title: str
    body: str
    grave: bool


@dataclass(slots=True)
class _Standing:
    words: str
    advice: str
    since: float
    told_at: float = 0.0
    missing_since: float = 0.0


@dataclass(slots=True)
class _Heap:
    since: float
    count: int = 0
    advice: str = ""
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Rules:
    """How long is waited for what belongs together, and how soon the same may be told again; in seconds."""

    gather_s: float = 30.0
    repeat_s: float = 6 * 3600.0


class Book:
    """All that has to be remembered between two looks, and over a restart."""

    def __init__(self, rules: Rules, kept: Mapping[str, Any] | None = None) -> None:
        self._rules = rules
        self._standing: dict[tuple[str, str], _Standing] = {}
        self._heaps: dict[tuple[str, str], _Heap] = {}
        self._quiet_until: dict[tuple[str, str], float] = {}
        self._snoozed: set[str] = set()
        if kept is not None:
            self._take(kept)

    def look(
        self,
        now: float,
        conditions: Iterable[Condition],
        events: Iterable[Event],
        snoozed: Mapping[str, float] = MappingProxyType({}),
    ) -> list[Notice]:
        """Take in what is seen now and give what is to be told now.

        `snoozed`: until when nothing is told of a kind, or of `all`. What still holds then is told afterwards.
        """
        self._note_conditions(now, conditions)
        self._note_events(now, events)
        self._snoozed = {kind for kind, until in snoozed.items() if until > now}
        return [*self._begun(now), *self._over(now), *self._happened(now)]

    def as_dict(self) -> dict[str, Any]:
        """Give all of it as plain data for JSON."""
        return {
            "standing": [[*key, asdict(value)] for key, value in self._standing.items()],
            "heaps": [[*key, asdict(value)] for key, value in self._heaps.items()],
            "quiet_until": [[*key, until] for key, until in self._quiet_until.items()],
        }

    def _take(self, kept: Mapping[str, Any]) -> None:
        self._standing = {(kind, subject): _Standing(**value) for kind, subject, value in kept["standing"]}
        self._heaps = {(kind, cause): _Heap(**value) for kind, cause, value in kept["heaps"]}
        self._quiet_until = {(kind, cause): float(until) for kind, cause, until in kept["quiet_until"]}

    def _is_snoozed(self, kind: str) -> bool:
        return kind in self._snoozed or "all" in self._snoozed

    # -- what holds

    def _note_conditions(self, now: float, conditions: Iterable[Condition]) -> None:
        seen = set()
        for one in conditions:
            key = (one.kind, one.subject)
            seen.add(key)
            standing = self._standing.setdefault(key, _Standing(one.words, one.advice, now))
            standing.words, standing.advice, standing.missing_since = one.words, one.advice, 0.0
        for key, standing in list(self._standing.items()):
            if key not in seen and not standing.missing_since:
                standing.missing_since = now

    def _begun(self, now: float) -> list[Notice]:
        due = [
            (key, standing)
            for key, standing in self._standing.items()
            if not standing.missing_since
            and now - standing.since >= self._rules.gather_s
            and (not standing.told_at or now - standing.told_at >= self._rules.repeat_s)
            and not self._is_snoozed(key[0])
        ]
        told = []
        for kind in dict.fromkeys(key[0] for key, _ in due):
            group = [standing for key, standing in due if key[0] == kind]
            again = all(standing.told_at for standing in group)
            for standing in group:
                standing.told_at = now
            lines = [_sentence(standing.words, standing.advice) for standing in group]
            title = (
                f"{kind.capitalize()}: {group[0].words}"
                if len(group) == 1
                else f"{kind.capitalize()}: {len(group)} places"
            )
            told.append(
                Notice(f"Still {title[0].lower()}{title[1:]}" if again else title, "\n".join(lines), grave=True)
            )
        return told

    def _over(self, now: float) -> list[Notice]:
        """Tell what is over for good: what comes and goes within the gathering time has never been away."""
        over: list[_Standing] = []
        kinds = []
        for key, standing in list(self._standing.items()):
            if standing.missing_since and now - standing.missing_since >= self._rules.gather_s:
                del self._standing[key]
                if standing.told_at:
                    over.append(standing)
                    kinds.append(key[0])
        if not over:
            return []
        lines = [f"Over after {_duration(one.missing_since - one.since)}: {one.words}" for one in over]
        return [Notice(f"Back to normal: {', '.join(dict.fromkeys(kinds))}", "\n".join(lines), grave=False)]

    # -- what has happened

    def _note_events(self, now: float, events: Iterable[Event]) -> None:
        for one in events:
            heap = self._heaps.setdefault((one.kind, one.cause), _Heap(now))
            heap.count += 1
            heap.advice = one.advice or heap.advice
            if len(heap.examples) < MOST_EXAMPLES:
                heap.examples.append(f"{one.file}: {one.words}")

    def _happened(self, now: float) -> list[Notice]:
        self._quiet_until = {key: until for key, until in self._quiet_until.items() if until > now}
        told = []
        for key, heap in list(self._heaps.items()):
            kind, cause = key
            if now - heap.since < self._rules.gather_s or key in self._quiet_until or self._is_snoozed(kind):
                continue
            del self._heaps[key]
            self._quiet_until[key] = now + self._rules.repeat_s
            files = "1 file" if heap.count == 1 else f"{heap.count:,} files"
            more = [f"and {heap.count - len(heap.examples):,} more"] if heap.count > len(heap.examples) else []
            body = "\n".join([*heap.examples, *more, *([heap.advice] if heap.advice else [])])
            told.append(Notice(f"{kind.capitalize()} ({cause}): {files}", body, grave=True))
        return told


def _sentence(words: str, advice: str) -> str:
    return f"{words} {advice}".rstrip()


def capital(words: str) -> str:
    """Begin with a capital letter, and leave the rest."""
    return words[:1].upper() + words[1:]


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
