"""The journal of systemd: each record with its keys as fields of its own, so that a run can be asked for by its id.

The last step of the log's chain where standard error is the journal. systemd-python is imported only there.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, NoReturn

IDENTIFIER = "nanolab-daemon"
PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
_TRACEBACKS = ("exception", "stack")
_UNTOLD = frozenset({"event", "level", "ts", "logger", *_TRACEBACKS})  # keys that are no part of the message
_LONGEST_NAME = 64  # of a field; the journal drops longer ones without a word

# Of kinds of events, for ever: docs/journal.md has the table.
MESSAGE_IDS = {
    "watching": "5891389917e54831984e6c9dd767df7c",
    "running": "da21da2ac97a480e854823813f1a8d1c",
    "stopping": "3f89123d944240168b72f04f2ef76b8e",
    "stopped": "58e87666bdf24d74ba465087bd4e6a47",
    "configuration taken over": "e2c3eaaba7b74d4d98dbdec2a2f29743",
    "not taken over: the configuration needs a restart": "d8998ed363a6469d9b14493ffe989df7",
    "the configuration is wrong and was not taken over": "3f9ad1a7f2394490afd625c04789ea8f",
    "the scheduler is lost": "fb927a9ddeda40039cdda4775e27df6f",
    "the scheduler is back": "c3396758f21c448498438e8904d19ebe",
    "a worker is not used": "75a7c68c1f964c8ba4beff844dd3bf1e",
    "staged": "b5bb04aa8ad34fbfbf4feae9c637e488",
    "segmented": "0456a614f77840ed8d94736fd2c51c1c",
    "second stage failed": "3215cfeb8cb04c1a8b6ddbef656388ba",
    "seen": "97f1d77ca42e468684c34596d7a1a4c6",
    "no events": "d3149832d60e44db8b558d130b4d1c12",
    "events were lost; a scan finds the files": "a076ec5342b143ef97a5b18c67a33e0c",
    "no rows yet": "550483663a1a42ecb92b0eb5586447cb",
    "rejected": "c94012c602524c32b78154085aabfc3f",
    "quarantined": "8c4244d8c13a48ccb3c8ac158c05e90b",
    "unreadable for now": "a6cb30b147ac4026a35c39aff10b0616",
    "worker lost": "6fa1dad11a4d47cdb8679dd2e80641af",
    "paused": "694b2f2befd340c0b4269cd8163e8843",
    "resumed": "c46e9b277e10424c8bec73e4c258a6f2",
    "degraded": "de8e2469b9b040a2a408a31f3e0c5609",
    "recovered": "cc75d0b94eda4a559dd1831045f4f564",
    "part frozen": "948d8c4534cb4c1c9fcfd6438ee523d7",
    "frozen": "1cdb4ad5cd6b448ca01fecee0b910de4",
}


def is_ours(fd: int, environ: Mapping[str, str] | None = None) -> bool:
    """Tell whether a descriptor leads into the journal, as systemd says in JOURNAL_STREAM."""
    words = (os.environ if environ is None else environ).get("JOURNAL_STREAM", "")
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return words == f"{status.st_dev}:{status.st_ino}"


def renderer() -> Callable[[object, str, MutableMapping[str, Any]], NoReturn]:
    """Give the last processor: it sends a record, and drops it from the chain. ImportError without systemd-python."""
    import structlog
    from systemd.journal import sendv

    def send(_logger: object, _method: str, record: MutableMapping[str, Any]) -> NoReturn:
        sendv(*(f"{name}={value}" for name, value in fields(record).items()))
        raise structlog.DropEvent

    return send


def fields(record: Mapping[str, Any]) -> dict[str, str]:
    """Give the fields of a record that was made printable: message, priority and id, then a field a key.

    The message says everything, since `journalctl` shows nothing else; a traceback follows it on lines of its own.
    """
    event = str(record.get("event", ""))
    told = [f"{key}={_shown(value)}" for key, value in record.items() if key not in _UNTOLD and value is not None]
    traces = [str(record[key]) for key in _TRACEBACKS if record.get(key)]
    found = {
        "MESSAGE": "\n".join([" ".join([event, *told]), *traces]),
        "PRIORITY": str(PRIORITIES.get(str(record.get("level")), 6)),
        "SYSLOG_IDENTIFIER": IDENTIFIER,
    }
    if event in MESSAGE_IDS:
        found["MESSAGE_ID"] = MESSAGE_IDS[event]
    for key, value in record.items():
        name = _name(key)
        if key not in ("event", "level", "ts") and value is not None and name and name not in found:
            found[name] = _text(value)
    return found


def _name(key: str) -> str:
    """Give a key as a field's name: capital letters, digits and _, the first a letter; empty if nothing is left."""
    return re.sub(r"[^A-Z0-9]+", "_", key.upper()).lstrip("_0123456789")[:_LONGEST_NAME]


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _shown(value: object) -> str:
    text = _text(value)
    return json.dumps(text, ensure_ascii=False) if not text or " " in text or '"' in text else text
