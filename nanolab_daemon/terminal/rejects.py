"""What was refused, drawn: a table a cause, the remedy beneath it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from nanolab_daemon.settings import counted
from nanolab_daemon.terminal.screen import FAINT, NAME, WELL, WRONG, Tail, clock
from nanolab_daemon.terminal.words import left_out

if TYPE_CHECKING:
    from nanolab_daemon.report import RejectedFile, RejectGroup

_NAMES_PART = 0.45


def picture(groups: Sequence[RejectGroup], width: int, *, most: int | None) -> RenderableType:
    """Draw the groups, of each at most so many files (None: all)."""
    parts: list[RenderableType] = []
    for group in groups:
        if parts:
            parts.append(Text())
        parts.append(
            Text.assemble(
                (group.cause, WRONG),
                (f"  {counted(group.count, 'file')}", NAME),
                (f", newest {clock(group.newest)}", FAINT),
            )
        )
        parts.append(_files(group.files[:most], width))
        if most is not None and group.count > most:
            parts.append(Padding(Text(left_out(group, most), FAINT), (0, 0, 0, 2)))
        parts += [Padding(Text.assemble(("-> ", WELL), advice), (0, 0, 0, 2)) for advice in group.remedies]
    return Group(*parts)


def _files(files: Sequence[RejectedFile], width: int) -> RenderableType:
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(style=FAINT, no_wrap=True)
    table.add_column(max_width=max(24, int(width * _NAMES_PART)))
    table.add_column(ratio=1)
    for one in files:
        words = Text((one.reason.splitlines() or [""])[0])
        if one.text:
            words.append(f" {one.text}", FAINT)
        table.add_row(clock(one.judged_at), Tail(one.file), words)
    return Padding(table, (0, 0, 0, 2))
