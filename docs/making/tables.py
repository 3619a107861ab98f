"""Tables in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table; a bar or a line end inside a cell can't break it."""
    lines = [_line(head), _line(["---"] * len(head)), *map(_line, rows)]
    return "\n".join(lines)


def code(text: object) -> str:
    """Mark as code; nothing where there is nothing."""
    return f"`{text}`" if str(text) else ""


def plain(text: str) -> str:
    """Let a text of the program stand as it is: nothing in it is Markdown or HTML but what is between back-ticks."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if at % 2 else _escaped(part) for at, part in enumerate(parts))


def _escaped(text: str) -> str:
    return re.sub(r"([\\*_\[\]>#])", r"\\\1", text.replace("&", "&amp;")).replace("<", "&lt;")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |"
