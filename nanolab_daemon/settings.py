"""Kinds of settings: what one value of the configuration may be, and in which words a wrong one is refused.

Knows no key, no file and no environment. A refusal is a ValueError that says what would be right.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

_SHOWN_CHARACTERS = 60
_HOST_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_ADDRESS = re.compile(r"(?P<scheme>[a-z]+)://(?:\[[0-9a-fA-F:.]+\]|[0-9A-Za-z._-]+):(?P<port>[0-9]{1,5})")
_LAB_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_INTEGER = re.compile(r"[+-]?[0-9]{1,40}")
_FLAG_WORDS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}

EnumT = TypeVar("EnumT", bound=StrEnum)


class Rule(Protocol):
    """What one setting may be."""

    def parse(self, value: object) -> object:
        """Return the value in its final type, or raise ValueError saying what it must be."""

    def from_text(self, text: str) -> object:
        """Turn text from the environment into what TOML would have given; what makes no sense stays text."""


def setting(default: object, rule: Rule) -> Any:
    """Declare a field of a section together with its rule."""
    return field(default=default, metadata={"rule": rule})


@dataclass(frozen=True, slots=True)
class Number:
    """A finite number within limits, whole or not. Booleans are no numbers."""

    lower: float
    upper: float
    unit: str = "seconds"

    def parse(self, value: object) -> float:
        """Return the number as a float."""
        # The limits are compared first: a whole number from TOML can be too large for a float.
        if not _is_number(value) or not self.lower <= value <= self.upper:  # type: ignore[operator]
            raise ValueError(f"must be a number of {self.unit} from {_plain(self.lower)} to {_plain(self.upper)}")
        return float(value)  # type: ignore[arg-type]

    def from_text(self, text: str) -> object:
        """Read a decimal number."""
        try:
            return float(text)
        except ValueError:
            return text


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number within limits."""

    lower: int
    upper: int
    note: str = ""

    def parse(self, value: object) -> int:
        """Return the number."""
        if isinstance(value, bool) or not isinstance(value, int) or not self.lower <= value <= self.upper:
            raise ValueError(f"must be a whole number from {self.lower} to {self.upper}{self.note}")
        return value

    def from_text(self, text: str) -> object:
        """Read a whole number."""
        return int(text) if _INTEGER.fullmatch(text.strip()) else text


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    def parse(self, value: object) -> bool:
        """Return the flag."""
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
        return value

    def from_text(self, text: str) -> object:
        """Read a word such as `yes` or `0`."""
        return _FLAG_WORDS.get(text.strip().lower(), text)


@dataclass(frozen=True, slots=True)
class Text:
    """A line of text that isn't empty."""

    what: str = "text"

    def parse(self, value: object) -> str:
        """Return the text."""
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            raise ValueError(f"must be {self.what}, in quotes and not empty")
        return value

    def from_text(self, text: str) -> object:
        """Take the text as it is."""
        return text


@dataclass(frozen=True, slots=True)
class Choice(Generic[EnumT]):
    """One word of an enum."""

    words: type[EnumT]

    def parse(self, value: object) -> EnumT:
        """Return the member."""
        if isinstance(value, str) and value in set(self.words):
            return self.words(value)
        options = ", ".join(f'"{word}"' for word in self.words)
        hint = did_you_mean(value.lower(), list(self.words)) if isinstance(value, str) else ""
        raise ValueError(f"must be one of {options}{hint}")

    def from_text(self, text: str) -> object:
        """Take the text without blanks around it."""
        return text.strip()


@dataclass(frozen=True, slots=True)
class Patterns:
    """A list of file name patterns, such as `*.csv`."""

    may_be_empty: bool

    def parse(self, value: object) -> tuple[str, ...]:
        """Return the patterns."""
        given = list(value) if isinstance(value, list | tuple) else [None]
        patterns = tuple(one for one in given if isinstance(one, str) and one.strip() and "\0" not in one)
        if len(patterns) < len(given):
            raise ValueError('must be a list of file name patterns, such as ["*.csv"]')
        if not patterns and not self.may_be_empty:
            raise ValueError('must name at least one pattern, such as ["*.csv"]; without one, no file would count')
        return patterns

    def from_text(self, text: str) -> object:
        """Split at commas; an empty text is an empty list."""
        return [part.strip() for part in text.split(",")] if text.strip() else []


@dataclass(frozen=True, slots=True)
class Folder:
    """The path of a folder, `~` expanded. It stays relative if it was: only the reader knows to what."""

    def parse(self, value: object) -> Path:
        """Return the path; whether it exists is not asked here."""
        text = os.fspath(value) if isinstance(value, str | Path) else ""
        if not text.strip() or "\0" in text:
            raise ValueError("must be the path of a folder, in quotes and not empty")
        expanded = Path(os.path.expanduser(text))  # noqa: PTH111 -- Path.expanduser raises where this leaves as it is
        if expanded.parts[:1] and expanded.parts[0].startswith("~"):
            raise ValueError(f"must be the path of a folder; {shown(expanded.parts[0])} is no user's home")
        return expanded

    def from_text(self, text: str) -> object:
        """Take the text as it is: blanks are legal in names."""
        return text


@dataclass(frozen=True, slots=True)
class FolderPairs:
    """Folders and other names for them, all absolute: a table in the file, `here=there,here=there` in a variable."""

    def parse(self, value: object) -> tuple[tuple[str, str], ...]:
        """Return the pairs."""
        pairs: tuple[tuple[Any, Any], ...] = tuple(value.items()) if isinstance(value, dict) else ((None, None),)
        for pair in pairs:
            if not all(isinstance(one, str) and one.startswith("/") and "\0" not in one for one in pair):
                raise ValueError('must be a table of absolute folders, such as { "/srv/lab" = "/mnt/lab" }')
        if len({here.rstrip("/") for here, _ in pairs}) < len(pairs):
            raise ValueError("must name each folder once")
        return pairs

    def from_text(self, text: str) -> object:
        """Split at commas, and each part at its equals sign."""
        parts = [part.partition("=") for part in text.split(",")] if text.strip() else []
        return {here.strip(): there.strip() for here, _, there in parts}


class Address:
    """Where a server is reached, `scheme://host:port`, or nothing."""

    def __init__(self, *schemes: str) -> None:
        self._schemes = schemes

    def parse(self, value: object) -> str:
        """Return the address."""
        if value == "":
            return ""
        parts = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
        if parts is None or parts["scheme"] not in self._schemes or not 0 < int(parts["port"]) < 65536:
            raise ValueError(f'must be an address such as "{self._schemes[0]}://lab-server:8786", or ""')
        return str(value)

    def from_text(self, text: str) -> object:
        """Take the text without blanks around it."""
        return text.strip()


@dataclass(frozen=True, slots=True)
class OptionalFile:
    """The path of a file, `~` expanded, or nothing. It stays relative if it was."""

    def parse(self, value: object) -> Path | None:
        """Return the path, None for an empty text; whether it exists is not asked here."""
        if value is None or value == "":
            return None
        if not isinstance(value, str | Path) or not str(value).strip() or "\0" in str(value):
            raise ValueError('must be the path of a file, in quotes, or "" for none')
        return Path(os.path.expanduser(value))  # noqa: PTH111 -- as for folders

    def from_text(self, text: str) -> object:
        """Take the text as it is."""
        return text


@dataclass(frozen=True, slots=True)
class HostNames:
    """A list of names of computers, in small letters; it may be empty."""

    def parse(self, value: object) -> tuple[str, ...]:
        """Return the names."""
        given = list(value) if isinstance(value, list | tuple) else [None]
        if not all(isinstance(one, str) and _HOST_NAME.fullmatch(one) for one in given):
            raise ValueError('must be a list of names of computers, such as ["lab-pc.example.org"]')
        return tuple(str(one).lower() for one in given)

    def from_text(self, text: str) -> object:
        """Split at commas; an empty text is an empty list."""
        return [part.strip() for part in text.split(",")] if text.strip() else []


@dataclass(frozen=True, slots=True)
class LabName:
    """The name of a laboratory among several, part of a path: as narrow as paths on shares want it. May be empty."""

    def parse(self, value: object) -> str:
        """Return the name."""
        if not isinstance(value, str) or (value and not _LAB_NAME.fullmatch(value)):
            raise ValueError(
                'must be empty, or up to 32 small letters, digits and hyphens, a letter first, such as "nano-east"'
            )
        return value

    def from_text(self, text: str) -> object:
        """Take the text without blanks around it."""
        return text.strip()


@dataclass(frozen=True, slots=True)
class Zone:
    """The name of a time zone in the IANA database."""

    def parse(self, value: object) -> str:
        """Return the name."""
        import zoneinfo

        if not isinstance(value, str) or not value:
            raise ValueError('must be the name of a time zone, such as "America/Santiago"')
        try:
            zoneinfo.ZoneInfo(value)
        except (LookupError, ValueError, OSError):  # OSError: the name of a region, such as "America", is a folder
            hint = did_you_mean(value, sorted(zoneinfo.available_timezones()))
            raise ValueError(f'must be the name of a time zone, such as "America/Santiago"{hint}') from None
        return value

    def from_text(self, text: str) -> object:
        """Take the text without blanks around it."""
        return text.strip()


def counted(number: int, what: str) -> str:
    """Write how many there are of something, `what` being the word for one of them."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean …?)` for the nearest known word, or nothing."""
    import difflib

    by_lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(word.lower()[:200], by_lower, n=1, cutoff=0.7)
    return f" (did you mean {by_lower[near[0]]}?)" if near else ""


def shown(value: object) -> str:
    """Write a value for a message: as TOML has it where it is simple, short, on one line, printable everywhere."""
    match value:
        case bool():
            return "true" if value else "false"
        case dict():
            return "a table"
        case list() | tuple() if len(value) > 3 or any(isinstance(one, list | tuple) for one in value):
            return f"a list of {len(value)}"
        case list() | tuple():
            return f"[{', '.join(shown(one) for one in value)}]"
        case int() if value.bit_length() > 256:  # Python refuses to write whole numbers that are far too long
            return "a number of more than 70 digits"
        case Path():
            return f'"{escaped(str(value))}"'  # whole: its end is what tells it from others
        case str():
            return f'"{escaped(value if len(value) <= _SHOWN_CHARACTERS else value[:_SHOWN_CHARACTERS] + "…")}"'
        case _:
            return str(value)


def escaped(text: str) -> str:
    r"""Write what can't be printed with a backslash: control characters, and bytes of a name that are no UTF-8."""
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # how Python carries a byte that is no UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or math.isfinite(value)


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)
