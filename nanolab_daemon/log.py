"""The log: structured records, as coloured lines for people or JSON lines for machines, never garbled by a name.

Opens no files and rotates nothing: that is the work of systemd or of the shell.
"""

from __future__ import annotations

import codecs
import json
import logging
import math
import os
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TextIO

from nanolab_daemon import journal
from nanolab_daemon.errors import ConfigError
from nanolab_daemon.sections import LogFormat, LogLevel
from nanolab_daemon.settings import escaped

if TYPE_CHECKING:
    from structlog.stdlib import BoundLogger
    from structlog.typing import Processor

# The keys of records. One word a thing, the same as in the ledger and in the tables.
RUN_ID = "run_id"
PROC = "proc"
SOURCE_FILE = "source_file"
STATE = "state"
CAUSE = "cause"
REASON = "reason"
ROWS = "rows"
SEGMENTS = "segments"
REVISION = "revision"
ATTEMPT = "attempt"
STAGE = "stage"
WORKER = "worker"
PATH = "path"
COUNT = "count"
QUEUE_DEPTH = "queue_depth"
DURATION_MS = "duration_ms"
SIGNAL = "signal"
DIGEST = "digest"
ERROR = "error"

OWN_LOGGER = "nanolab_daemon"
_HANDLER = "nanolab_daemon.log"
_TRACEBACKS = frozenset({"exception", "stack"})  # the only texts that keep their line breaks
_FIRST_KEYS = ("ts", "level", "event")


def logger(name: str = OWN_LOGGER) -> BoundLogger:
    """Return a logger. Call it where an object is made, not where a module is imported: it imports structlog."""
    import structlog

    if not structlog.is_configured():
        _configure_chain()
    full = name if name == OWN_LOGGER or name.startswith(f"{OWN_LOGGER}.") else f"{OWN_LOGGER}.{name}"
    own: BoundLogger = structlog.stdlib.get_logger(full)
    return own


def configure(
    level: str = LogLevel.INFO,
    format: str = LogFormat.AUTO,
    stream: TextIO | None = None,
    *,
    renderer: Processor | None = None,
) -> None:
    """Send all records to `stream` (standard error), this program's and those of the libraries.

    May be called again at any time, also when the configuration is reloaded: loggers made earlier follow. `renderer`
    takes the place of console and JSON as the last processor; one that sends the record itself, such as to the
    journal, raises structlog.DropEvent.
    """
    import structlog

    _configure_chain()
    target = sys.stderr if stream is None else stream
    last = renderer if renderer is not None else _renderer(LogFormat(format), target)
    handler = _Handler(target)
    handler.name = _HANDLER
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                in_order,
                make_printable,
                last,
            ],
            foreign_pre_chain=_shared_chain(),
        )
    )
    root = logging.getLogger()
    for old in [one for one in root.handlers if one.name == _HANDLER]:
        root.removeHandler(old)
    root.addHandler(handler)
    threshold = logging.getLevelNamesMapping()[LogLevel(level).upper()]
    logging.getLogger(OWN_LOGGER).setLevel(threshold)
    root.setLevel(max(threshold, logging.WARNING))  # watchdog tells of every single event at the lower levels
    logging.captureWarnings(True)  # else they would stand as bare text between JSON lines


def make_printable(_logger: object, _method: str, record: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escape what can't be printed, in every key and value: control characters, bytes of names that are no UTF-8.

    One processor for both formats, so that a file's name looks the same everywhere and can neither break a line nor
    the program that reads it.
    """
    return {
        _printable_key(key): _printable_lines(value) if key in _TRACEBACKS else _printable(value)
        for key, value in record.items()
    }


def in_order(_logger: object, _method: str, record: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put time, level and event first; the other keys stay in the order in which they were given."""
    first = {key: record[key] for key in _FIRST_KEYS if key in record}
    if isinstance(first.get("event"), str):
        first["event"] = first["event"].rstrip()  # Python's own warnings end with a line break
    return first | {key: value for key, value in record.items() if key not in first}


class _Handler(logging.StreamHandler[TextIO]):
    """Writes lines, whatever the stream's encoding. A stream that fails never stops the program."""

    def format(self, record: logging.LogRecord) -> str:
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        return super().format(record).encode(encoding, "backslashreplace").decode(encoding)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- the name in logging
        from structlog import DropEvent

        if not isinstance(sys.exc_info()[1], DropEvent):
            super().handleError(record)


def _configure_chain() -> None:
    # The chain is the same for ever, and the level is asked of the standard logger each time. What a reload changes
    # is the handler, so loggers that were made before it need not be made again.
    import structlog

    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared_chain(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def _shared_chain() -> list[Processor]:
    import structlog

    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.StackInfoRenderer(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
    ]


def _renderer(format_: LogFormat, stream: TextIO) -> Processor:
    import structlog

    terminal = stream.isatty()
    if format_ is LogFormat.CONSOLE or (format_ is LogFormat.AUTO and terminal):
        return structlog.dev.ConsoleRenderer(
            colors=terminal and not os.environ.get("NO_COLOR"),
            exception_formatter=structlog.dev.plain_traceback,
            sort_keys=False,
            timestamp_key="ts",
        )
    if format_ is LogFormat.JOURNAL or (format_ is LogFormat.AUTO and _is_journal(stream)):
        try:
            return journal.renderer()
        except ImportError as error:
            if format_ is LogFormat.JOURNAL:
                raise ConfigError(
                    f'log.format = "journal" needs systemd-python ({error}).',
                    advice="Install it, or choose another: `nanolab-daemon service install` says how.",
                ) from error
    ascii_only = not _is_utf8(getattr(stream, "encoding", None))
    return structlog.processors.JSONRenderer(serializer=json.dumps, ensure_ascii=ascii_only)


def _is_journal(stream: TextIO) -> bool:
    try:
        return journal.is_ours(stream.fileno())
    except (OSError, ValueError):  # a stream in memory, or a closed one
        return False


def _is_utf8(encoding: str | None) -> bool:
    try:
        return encoding is None or codecs.lookup(encoding).name == "utf-8"
    except LookupError:
        return False


def _printable(value: object) -> object:
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else str(value)  # JSON knows no nan
        case bytes():
            return escaped(os.fsdecode(value))
        case PurePath():
            return escaped(str(value))
        case Mapping():
            return {_printable_key(key): _printable(one) for key, one in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_printable(one) for one in value]
        case _:
            return escaped(str(value))


def _printable_key(key: object) -> str:
    return escaped(str(key))


def _printable_lines(value: object) -> object:
    if not isinstance(value, str):
        return _printable(value)
    return "\n".join(escaped(line.expandtabs()) for line in value.split("\n"))
