"""What can go wrong, in two families: this file can't be used, and the program can't go on.

Every message says what, where, and what to do. `advice` holds the last of the three where it is more than obvious.
"""

from __future__ import annotations

from enum import StrEnum


class RejectCause(StrEnum):
    """Why a raw file was refused; the word under which `rejects` groups it."""

    NOT_INSTRUMENT_FILE = "not_instrument_file"
    BAD_HEADER = "bad_header"
    BAD_PROCEDURE_NAME = "bad_procedure_name"
    BAD_START_TIME = "bad_start_time"
    BAD_COLUMNS = "bad_columns"
    BAD_ROWS = "bad_rows"
    NUL_BYTES = "nul_bytes"
    ENCODING = "encoding"
    TOO_LARGE = "too_large"
    ABANDONED = "abandoned"
    CRASHED = "crashed"
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    INTERNAL = "internal"


QUARANTINE = frozenset({RejectCause.CRASHED, RejectCause.TIMED_OUT, RejectCause.OUT_OF_MEMORY, RejectCause.INTERNAL})
"""The causes of a file that has cost workers their lives: it is not tried again, nor is any copy of it."""


class NanolabError(Exception):
    """Base of all errors that are told to a person."""

    exit_code = 1

    def __init__(self, message: str, *, advice: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.message} {self.advice}".rstrip()


class FileRejectedError(NanolabError):
    """This raw file can't be used as it stands. Recorded in the ledger; the program goes on.

    `line` counts from 1 over the whole file; `text` is the offending line, shortened.
    """

    def __init__(
        self,
        cause: RejectCause,
        message: str,
        *,
        line: int | None = None,
        text: str | None = None,
        advice: str = "",
    ) -> None:
        super().__init__(message, advice=advice)
        self.cause = cause
        self.line = line
        self.text = text

    def __reduce__(self) -> tuple[object, ...]:
        return _rejected, (self.cause, self.message, self.line, self.text, self.advice)


def _rejected(cause: RejectCause, message: str, line: int | None, text: str | None, advice: str) -> FileRejectedError:
    return FileRejectedError(cause, message, line=line, text=text, advice=advice)


class HeaderIncompleteError(NanolabError):
    """The file ends before its column labels: it is empty or was caught while its header was being written."""


class ConfigError(NanolabError):
    """The configuration is wrong. Exit code 78, which systemd does not restart on."""

    exit_code = 78


class UsageError(NanolabError):
    """The command line asks for something that makes no sense."""

    exit_code = 2


class EngineError(NanolabError):
    """The program can't go on: a lock is held, a folder can't be written, a ledger can't be read."""
