"""What the page asks the daemon and the ledger, in threads of its own, and what it makes of their silence."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from nanolab_daemon import control
from nanolab_daemon.catalog import FILE_NAME, Catalog
from nanolab_daemon.config import Config
from nanolab_daemon.errors import NanolabError
from nanolab_daemon.report import idle_pools

ANSWER_S = 3.0
RESCANS_LATE = 3.0
LEAST_LATE_S = 120.0


@dataclass(frozen=True, slots=True)
class Health:
    """Whether all is well; `reasons` say why not, `remarks` what does no harm yet."""

    well: bool
    word: str  # ok, degraded, paused, frozen, silent, unwell
    reasons: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def live(config: Config) -> tuple[dict[str, Any] | None, str]:
    """Ask the daemon how it stands; else say in words why there is no answer."""
    try:
        answer = control.ask(config.paths.state, {"ask": "status"}, ANSWER_S)
    except (NanolabError, OSError) as error:
        return None, str(error)
    return answer, "" if answer is not None else "The daemon does not listen."


def counts(config: Config) -> tuple[dict[str, int], dict[str, int], Mapping[str, int], str]:
    """Count the present files by state, the rejected ones by cause, and runs, rows, segments; or say why not."""
    try:
        catalog = Catalog.open_to_read(config.paths.state / FILE_NAME)
        if catalog is None:
            return {}, {}, {}, "There is no ledger yet."
        try:
            judged = catalog.judged_since(0.0)
            totals = catalog.totals()
        finally:
            catalog.close()
    except (NanolabError, sqlite3.Error, OSError) as error:
        return {}, {}, {}, f"The ledger can't be read: {error}"
    states: dict[str, int] = {}
    causes: dict[str, int] = {}
    for (state, cause), number in judged.items():
        states[str(state)] = states.get(str(state), 0) + number
        if cause is not None:
            causes[cause] = causes.get(cause, 0) + number
    return states, causes, totals, ""


def health(answer: Mapping[str, Any] | None, trouble: str = "", own: str = "") -> Health:
    """Judge the daemon's answer; `trouble` says why there is none, `own` what the page itself suffers from."""
    reasons = [own] if own else []
    if answer is None:
        return Health(False, "silent", (trouble or "The daemon does not answer.", *reasons))
    word = "ok"
    if answer.get("frozen"):
        word = "frozen"
        reasons += [str(one) for one in answer["frozen"]]
    if answer.get("paused"):
        word = "paused"
        reasons.insert(0, str(answer["paused"]))
    if answer.get("degraded"):
        word = "degraded"
        reasons.insert(0, str(answer["degraded"]))
    if own and word == "ok":
        word = "unwell"
    remarks = [str(answer["trouble"])] if answer.get("trouble") else []
    remarks += _late(answer)
    if idle := idle_pools(answer):
        reasons += idle
        word = "unwell" if word == "ok" else word
    return Health(not reasons, word, tuple(reasons), tuple(remarks))


def _late(answer: Mapping[str, Any]) -> list[str]:
    """Say that the last scan is long past, if it is."""
    scanned, rescan_s = answer.get("scanned_at"), float(answer.get("rescan_s") or 0.0)
    if not scanned or answer.get("degraded") or answer.get("paused"):
        return []
    ago_s = time.time() - float(scanned)
    late = ago_s > max(LEAST_LATE_S, RESCANS_LATE * rescan_s)
    return [f"The last scan of everything ended {duration(ago_s)} ago."] if late else []


def midnight(zone: ZoneInfo, now: float | None = None) -> float:
    """Give the moment (seconds since 1970) at which today began in the lab."""
    moment = datetime.fromtimestamp(time.time() if now is None else now, zone)
    return moment.replace(hour=0, minute=0, second=0, microsecond=0, fold=0).timestamp()


def duration(seconds: float) -> str:
    """Write a length of time as a person would say it."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    if seconds < 2 * 86400:
        return f"{seconds / 3600:.0f} h"
    return f"{timedelta(seconds=seconds).days} days"
