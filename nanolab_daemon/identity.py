"""Who a run is and when it began: run ids, start times, dates; rules that are fixed for ever.

Looks at no clock and no disk; a start time that is no time is refused, never replaced.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import ROUND_HALF_EVEN, Context, Decimal

from nanolab_daemon.errors import FileRejectedError, RejectCause

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FIRST_YEAR, _LAST_YEAR = 1990, 2100
_EARLIEST_US = (datetime(_FIRST_YEAR, 1, 1, tzinfo=UTC) - _EPOCH) // _MICROSECOND
_LATEST_US = (datetime(_LAST_YEAR + 1, 1, 1, tzinfo=UTC) - _EPOCH) // _MICROSECOND

_SECONDS = re.compile(r"\+?([0-9]{1,40}\.?[0-9]{0,40}(?:[eE][+-]?[0-9]{1,2})?)(?:\s+s)?")
_ISO = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9:]+)?)(?:[.,]([0-9]{1,40}))?(Z|[+-][0-9:]+)?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?![0-9])")
_EXACT = Context(prec=120, rounding=ROUND_HALF_EVEN)


def run_id(procedure: str, start_time_text: str, lab: str = "") -> str:
    """Return the 16 hex digits that name a run, for ever and on every machine.

    The first 16 hex digits of SHA-256 over `nanolab-run/1` and two netstrings (`<length in bytes>:<UTF-8 bytes>,`):
    the class name of the procedure, and the Start time as the header writes it, without blanks around it. Nothing
    else enters: not the path, not the rows, not another line of the header.

    Laboratories with a name have ids of their own, since two may start the same procedure in the same second: for
    them, `nanolab-lab-run/1` and three netstrings, the laboratory's name first.
    """
    if lab:
        return _digest(b"nanolab-lab-run/1", lab, procedure, start_time_text.strip())
    return _digest(b"nanolab-run/1", procedure, start_time_text.strip())


def content_run_id(procedure: str, header_bytes: bytes, first_row_bytes: bytes, lab: str = "") -> str:
    """Return the 16 hex digits that name a run without a Start time; rows that follow the first don't change them.

    As `run_id`, over `nanolab-content/1` and three netstrings: the class name, the header through its label line, the
    first row without its line end; CRLF counts as LF, so that a copy with other line ends is the same run. For a
    laboratory with a name, `nanolab-lab-content/1` and four netstrings, that name first.
    """
    header = header_bytes.replace(b"\r\n", b"\n")
    if lab:
        return _digest(b"nanolab-lab-content/1", lab, procedure, header, first_row_bytes.rstrip(b"\r\n"))
    return _digest(b"nanolab-content/1", procedure, header, first_row_bytes.rstrip(b"\r\n"))


def start_time_us(text: str) -> int:
    """Return microseconds since 1970 UTC of a Start time: decimal seconds, or ISO 8601 (without a zone: UTC).

    Exact: no float is involved, and what is finer than a microsecond is rounded half to even. What is no time between
    1990 and 2100 raises `FileRejectedError`.
    """
    stripped = text.strip()
    seconds = _SECONDS.fullmatch(stripped)
    us = _rounded_us(seconds[1]) if seconds else _iso_us(stripped)
    if us is None:
        raise _bad_start_time(text, "is neither seconds since 1970 nor an ISO 8601 time")
    if not _EARLIEST_US <= us < _LATEST_US:
        raise _bad_start_time(text, f"lies outside the years {_FIRST_YEAR} to {_LAST_YEAR}")
    return us


def datetime_of(us: int) -> datetime:
    """Return the aware UTC time of microseconds since 1970."""
    return _EPOCH + us * _MICROSECOND


def date_in(us: int, tz: tzinfo) -> str:
    """Return the calendar date, YYYY-MM-DD, on which a moment falls in a time zone."""
    return datetime_of(us).astimezone(tz).date().isoformat()


def date_from_path(rel_path: str) -> str | None:
    """Return the date that a path tells, for files without a Start time; None where it tells none.

    The file's own name comes first, then its folder, then the folder above, and so on: the instrument program names
    the file and the dated folder at the same moment, while folders further up are made and renamed by people. Of
    several dates in one name the first counts. `It22025-10-22_1.csv` is run 1 of It2 on 2025-10-22.
    """
    for name in reversed(rel_path.split("/")):
        for match in _DATE.finditer(name):
            try:
                found = date.fromisoformat(match[0])
            except ValueError:
                continue
            if _FIRST_YEAR <= found.year <= _LAST_YEAR:
                return match[0]
    return None


def _digest(version: bytes, *parts: str | bytes) -> str:
    hasher = hashlib.sha256(version)
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        hasher.update(b"%d:%s," % (len(raw), raw))
    return hasher.hexdigest()[:16]


def _rounded_us(seconds: str) -> int:
    scaled = Decimal(seconds).scaleb(6, _EXACT)
    return int(scaled.quantize(Decimal(1), context=_EXACT) if scaled.adjusted() < 100 else scaled)


def _iso_us(text: str) -> int | None:
    match = _ISO.fullmatch(text)
    if match is None:
        return None
    moment, fraction, zone = match.groups()
    try:
        # The fraction is added by hand: fromisoformat() cuts it after six digits instead of rounding.
        parsed = datetime.fromisoformat(moment + (zone or ""))
    except ValueError:
        return None
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=UTC)
    return (parsed - _EPOCH) // _MICROSECOND + (_rounded_us("0." + fraction) if fraction else 0)


def _bad_start_time(text: str, what: str) -> FileRejectedError:
    shown = text if len(text) <= 60 else text[:59] + "…"
    return FileRejectedError(RejectCause.BAD_START_TIME, f"The Start time {shown!r} {what}.", text=shown)
