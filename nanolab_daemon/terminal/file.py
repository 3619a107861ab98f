"""One raw file, drawn: the verdict, the line that was refused, what to do, and then all else that is known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from nanolab_daemon.settings import counted
from nanolab_daemon.terminal import facts
from nanolab_daemon.terminal.facts import Fact
from nanolab_daemon.terminal.screen import DOUBT, FAINT, NAME, STATE_STYLES, WRONG

if TYPE_CHECKING:
    from nanolab_daemon.why import Line, Why

_INDENT = (0, 0, 0, 2)
_TWO_COLUMNS = 76
_BAD_WORDS = ("MISSING", "(not there)")
_REASON_STYLES = {"rejected": "red", "waiting": DOUBT}
_FEW_OUTPUTS = 2


def picture(found: Why, width: int) -> RenderableType:
    """Draw all that is known of a file in so many columns."""
    head, cause = _split(facts.verdict(found))
    parts: list[RenderableType] = [
        Text.assemble((found.file, NAME), "  ", _state(found)),
        Padding(Text(found.reason, _REASON_STYLES.get(found.state or "", "")), _INDENT),
    ]
    if found.lines:
        parts += [Text(), *map(_line, found.lines), Text()]
    if found.next:
        parts.append(_grid([Fact("to do", found.next)], value=NAME))
    parts += [Text(), _grid([*head, *cause, *_shortened(found, facts.circumstances(found))])]
    procedure, lines, columns = facts.header(found)
    if procedure:
        parts += [Text(), _grid([Fact("header", procedure)])]
    if lines:
        parts.append(Padding(_header(lines, width), _INDENT))
    if columns:
        parts.append(_grid([Fact("columns", columns)]))
    return Group(*parts)


def _split(verdict: Iterable[Fact]) -> tuple[list[Fact], list[Fact]]:
    """Take from the verdict what is not in the picture's first lines: the whole path, and the cause."""
    told = list(verdict)
    return [fact for fact in told if fact.name == "file"], [fact for fact in told if fact.name == "cause"]


def _shortened(found: Why, told: Iterable[Fact]) -> list[Fact]:
    """Tell of a run's segments in one fact, as long as none is missing: they differ in a number alone."""
    run = found.run
    if run is None or len(run.outputs) <= _FEW_OUTPUTS or not all(output.there for output in run.outputs):
        return list(told)
    staged, *segments = run.outputs
    folder, last = segments[0].path.rpartition("/segment=")[0], len(segments) - 1
    rows, size = sum(one.rows for one in segments), sum(one.size_bytes for one in segments)
    return [
        *(fact for fact in told if fact.name != "output"),
        Fact("output", f"{staged.path}  ({counted(staged.rows, 'row')}, {staged.size_bytes:,} bytes)"),
        Fact(
            "",
            f"{folder}/segment=0 … {last}"
            f"  ({counted(len(segments), 'file')}, {counted(rows, 'row')}, {size:,} bytes)",
        ),
    ]


def _state(found: Why) -> Text:
    state = found.state or ("not in the ledger" if not found.known else "")
    return Text(state, STATE_STYLES.get(state, DOUBT))


def _line(line: Line) -> RenderableType:
    """Draw a line of the file; what is wrong in it stands out, and is pointed at where there are no colours."""
    text = Text(no_wrap=True, overflow="ellipsis")
    style = WRONG if line.offending else FAINT
    text.append("  ")
    text.append(facts.place(line), style)
    if pointer := facts.pointer(line):
        text.append("\n  ")
        text.append(pointer, WRONG)
    return text


def _grid(told: Sequence[Fact], *, value: str = "") -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style=FAINT, no_wrap=True, min_width=10)
    grid.add_column(style=value, overflow="fold")
    for fact in told:
        style = WRONG if fact.text.endswith(_BAD_WORDS) else ""
        grid.add_row(fact.name, Text(fact.text, style))
    return Padding(grid, _INDENT)


def _header(lines: Sequence[tuple[str, str]], width: int) -> RenderableType:
    """Lay out the header's lines in two columns where there is room: they are many and short."""
    grid = Table.grid(padding=(0, 2), expand=True)
    halves = (
        2 if width >= _TWO_COLUMNS and all(len(name) + len(value) < width // 2 - 6 for name, value in lines) else 1
    )
    size = -(-len(lines) // halves)
    columns = [lines[at : at + size] for at in range(0, len(lines), size)]
    for _ in columns:
        grid.add_column(ratio=1, overflow="fold")
    for row in zip_longest(*columns, fillvalue=("", "")):
        grid.add_row(*(Text.assemble((f"{name}: " if name else "", FAINT), value) for name, value in row))
    return Padding(grid, (0, 0, 0, 2))
