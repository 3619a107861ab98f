"""What commands answer to programs, from the classes whose fields they print."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from making.tables import code, plain, table
from nanolab_daemon.findings import Finding
from nanolab_daemon.report import RejectGroup, Status
from nanolab_daemon.verify import Verified
from nanolab_daemon.why import Why

ANSWERS: Mapping[str, tuple[type, bool]] = {
    "status": (Status, False),
    "why FILE": (Why, False),
    "rejects": (RejectGroup, True),
    "verify": (Verified, False),
    "check": (Finding, True),
}
"""By command, what `--json` prints: objects of which class, and whether it is a list of them."""

_WORDS = {str: "text", int: "integer", float: "number", bool: "true or false", type(None): "null", Path: "text"}
_ANYTHING = "anything"


def page() -> list[str]:
    """Give the parts of the page."""
    parts = [
        "# Answers for programs",
        "With `--json` a command prints one JSON document on standard output, in ASCII, whatever the terminal is;"
        " messages go to standard error, and the [exit code](commands.md) tells how it went. Unknown is null."
        " Keys may be added in later versions.",
        table(
            ("command", "prints"),
            (
                (code(f"nanolab-daemon {name} --json"), f"a list of {_link(kind)}" if is_list else _link(kind))
                for name, (kind, is_list) in ANSWERS.items()
            ),
        ),
    ]
    for kind in classes():
        rows = ((code(one.name), _type(hint)) for one, hint in _fields(kind))
        parts += [f"## {kind.__name__}", plain(_words(kind)), table(("key", "value"), rows)]
    return parts


def classes() -> list[type]:
    """Give all classes that are printed, each once, an answer before its parts."""
    found: dict[type, None] = {}
    waiting = [kind for kind, _ in ANSWERS.values()]
    while waiting:
        kind = waiting.pop(0)
        if kind not in found:
            found[kind] = None
            waiting += [part for _, hint in _fields(kind) for part in _parts(hint)]
    return list(found)


def _fields(kind: type) -> list[tuple[Any, Any]]:
    hints = typing.get_type_hints(kind)
    return [(one, hints[one.name]) for one in fields(kind)]


def _parts(hint: Any) -> Iterator[type]:
    if is_dataclass(hint):
        yield typing.cast(type, hint)
    for part in typing.get_args(hint):
        yield from _parts(part)


def _type(hint: Any) -> str:
    if hint is Any:
        return _ANYTHING
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_type, inside))
    if is_dataclass(hint):
        return _link(typing.cast(type, hint))
    if isinstance(hint, type) and origin is None:
        return "text" if issubclass(hint, Enum) else _WORDS[hint]
    if origin is typing.Literal:
        return " or ".join(code(f'"{one}"') for one in inside)
    if issubclass(origin, Mapping):
        return "object" if inside[1] is Any else f"object, each value {_type(inside[1])}"
    return f"list of {_type(inside[0])}"


def _link(kind: type) -> str:
    return f"[{kind.__name__}](#{kind.__name__.lower()})"


def _words(kind: type) -> str:
    return " ".join((kind.__doc__ or "").split()).replace("None", "null")
