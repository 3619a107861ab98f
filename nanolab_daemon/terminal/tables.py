"""The answers of the other commands, drawn: findings about the machine, problems, what became of a retry."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nanolab_daemon.settings import escaped
from nanolab_daemon.terminal.screen import DOUBT, NAME, WELL, WRONG, Tail, state_text

if TYPE_CHECKING:
    from nanolab_daemon.again import Became
    from nanolab_daemon.check import Finding
    from nanolab_daemon.verify import Problem

_FINDING_STYLES = {"ok": WELL, "warn": DOUBT, "fail": WRONG}
_NAMES_PART = 0.45


def findings(found: Sequence[Finding]) -> RenderableType:
    """Draw what `check` found; the remedies stand out."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", max_width=27)
    table.add_column(overflow="fold")
    for one in found:
        style = _FINDING_STYLES.get(one.status, "")
        told = Text(one.detail, "" if one.status == "ok" else style)
        if one.remedy:
            told.append("\n-> ", WELL).append(one.remedy, NAME)
        table.add_row(Text(one.status.upper(), style), one.name, told)
    counts = {status: sum(one.status == status for one in found) for status in _FINDING_STYLES}
    words = [
        (f"{counts['ok']} well", WELL),
        (f"{counts['warn']} doubtful", DOUBT),
        (f"{counts['fail']} wrong", WRONG),
    ]
    told = Text(", ").join(Text(word, style) for word, style in words if not word.startswith("0 "))
    return Group(table, Text(), told)


def problems(found: Iterable[Problem]) -> RenderableType:
    """Draw where ledger and disk disagree."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style=WRONG, no_wrap=True)
    table.add_column(overflow="fold")
    for one in found:
        detail = one.detail.splitlines()[0] if one.detail else ""
        told = Text.assemble((escaped(one.path), NAME), f" {detail}", ("\n-> ", WELL), one.remedy)
        table.add_row(one.kind, told)
    return table


def tried(found: Iterable[Became], width: int) -> RenderableType:
    """Draw what became of files that were tried again."""
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(no_wrap=True)
    table.add_column(max_width=max(24, int(width * _NAMES_PART)))
    table.add_column(ratio=1)
    advised = set()
    for one in found:
        told = Text(one.reason.splitlines()[0] if one.reason else "")
        if one.state == "rejected" and one.advice and one.advice not in advised:
            advised.add(one.advice)
            told.append("\n-> ", WELL).append(one.advice)
        table.add_row(state_text(one.state), Tail(one.file), told)
    return table
