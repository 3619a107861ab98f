"""What a check found: one answer a question, with its remedy. Words alone."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How grave a finding is, the mildest first."""

    OK = "ok"
    WARN = "warn"  # works, but something will hurt
    FAIL = "fail"  # does not work


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer to one question; `remedy` is empty where none is needed. Both texts are one printable line."""

    name: str
    status: Status
    detail: str
    remedy: str = ""
