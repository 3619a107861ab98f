"""What the program's own source says: the events that it logs, and why it refuses files. Read, not run."""

from __future__ import annotations

import ast
import functools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nanolab_daemon
from nanolab_daemon import log
from nanolab_daemon.errors import RejectCause

LEVELS = ("debug", "info", "warning", "error", "exception", "critical")
PLACE = "…"
"""Stands in a sentence for what differs from file to file."""


@dataclass
class Event:
    """One kind of record of the log, gathered from all places that write it."""

    name: str
    levels: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Refusal:
    """One reason for which a file is refused, and the advice that goes with it; both as the program says them."""

    reason: str
    advice: str


@functools.cache
def functions() -> tuple[tuple[str, ast.FunctionDef], ...]:
    """Give every function of the package, and the name of its module."""
    return tuple(
        (path.stem, node)
        for path in sorted(Path(nanolab_daemon.__file__).parent.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path)))
        if isinstance(node, ast.FunctionDef)
    )


@functools.cache
def events() -> dict[str, Event]:
    """Find every record that is logged under a fixed name."""
    found: dict[str, Event] = {}
    for module, scope in functions():
        local = _assigned(scope)
        for call in _calls(scope):
            level = _level(module, call.func)
            for name in _texts(call.args[0]) if level and call.args else ():
                event = found.setdefault(name, Event(name))
                event.levels.add(level)
                for keyword in call.keywords:
                    event.keys |= {keyword.arg} if keyword.arg is not None else _keys(keyword.value, local)
    return found


def refusals() -> dict[RejectCause, list[Refusal]]:
    """Find what is said of refused files, by cause, where the code names the cause and the sentence."""
    found: dict[RejectCause, list[Refusal]] = defaultdict(list)
    for _, scope in functions():
        local = _assigned(scope)
        for call in _calls(scope):
            if not (isinstance(call.func, ast.Name) and call.func.id in ("FileRejectedError", "Rejection")):
                continue
            if len(call.args) < 2 or not _is_cause(call.args[0]):
                continue
            cause = RejectCause[call.args[0].attr]  # type: ignore[attr-defined]
            advice = next((word.value for word in call.keywords if word.arg == "advice"), ast.Constant(""))
            for reason in _sentences(call.args[1], local):
                refusal = Refusal(reason, next(iter(_sentences(advice, local)), ""))
                if refusal not in found[cause]:
                    found[cause].append(refusal)
    return found


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _level(module: str, function: ast.expr) -> str:
    """Tell at which level a function logs; nothing where it does not log."""
    if not isinstance(function, ast.Attribute):
        return ""
    if module == "engine" and function.attr.startswith("_tell"):
        return "info"
    if function.attr in LEVELS and _is_logger(function.value):
        return "error" if function.attr == "exception" else function.attr
    return ""


def _is_logger(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "logger"
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name.lstrip("_") in ("log", "logger")


def _texts(node: ast.expr) -> Iterator[str]:
    """Give the fixed texts that an expression may be."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from _texts(node.body)
        yield from _texts(node.orelse)


def _keys(node: ast.expr, local: dict[str, list[ast.expr]]) -> set[str]:
    """Give the keys of `**{REASON: ...}`, whose names are constants of `log`."""
    if isinstance(node, ast.Name):
        return {key for value in local.get(node.id, ()) for key in _keys(value, {})}
    if not isinstance(node, ast.Dict):
        return set()
    names = set()
    for key in node.keys:
        if isinstance(key, ast.Name):
            names.add(str(getattr(log, key.id)))
        elif isinstance(key, ast.Constant):
            names.add(str(key.value))
    return names


def _assigned(scope: ast.FunctionDef) -> dict[str, list[ast.expr]]:
    """Give what a function's own names may stand for."""
    found: dict[str, list[ast.expr]] = defaultdict(list)
    for node in ast.walk(scope):
        if not isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) or node.value is None:
            continue
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        if isinstance(target, ast.Name):
            found[target.id].append(node.value)
        elif isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name):
            found[target.value.id].append(ast.Dict([target.slice], [node.value]))
    return found


def _is_cause(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "RejectCause"


def _sentences(node: ast.expr, local: dict[str, list[ast.expr]]) -> Iterator[str]:
    """Write an expression as the sentences that it may become, `PLACE` for what is filled in."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=parts):
            yield "".join(part.value if isinstance(part, ast.Constant) else PLACE for part in parts)  # type: ignore[misc]
        case ast.IfExp(body=one, orelse=other):
            yield from _sentences(one, local)
            yield from _sentences(other, local)
        case ast.Name(id=name):
            for value in local.get(name, ()):
                yield from _sentences(value, {})
