"""How things stand, drawn: what runs and how it is, counts, measurements under way, the last files and rejects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nanolab_daemon.cli_base import as_typed
from nanolab_daemon.settings import counted, escaped
from nanolab_daemon.terminal.screen import DOUBT, FAINT, NAME, STATE_STYLES, WELL, WRONG, Tail, clock, state_text

if TYPE_CHECKING:
    from nanolab_daemon.report import FileLine, Status

MOST_MEASURING = 20
_BAR, _SHORT_BAR = 20, 10
_WIDE = 76
_NAMES_PART = 0.4
_INDENT = (0, 0, 0, 2)


def picture(found: Status, width: int, *, ascii_only: bool = False, most: int = MOST_MEASURING) -> RenderableType:
    """Draw how things stand in so many columns, each list with at most so many lines."""
    parts: list[RenderableType] = [_headline(found, ascii_only=ascii_only), _facts(found)]
    measuring = found.live.get("measuring") if found.live else None
    if measuring:
        parts += [_title("Measuring now"), _measuring(measuring, width, most)]
    if found.ledger_exists:
        parts += [Text(), _totals(found)]
        if found.last_files:
            parts += [_title("Last files"), _files(found.last_files[:most], width)]
        if found.last_rejects:
            parts += [
                _title("Last rejects", as_typed("nanolab-daemon rejects")),
                _rejects(found.last_rejects[:most], width),
            ]
    return Group(*parts)


def fitting(found: Status, console: Console, height: int) -> RenderableType:
    """Draw how things stand in so many lines, if they are enough, with lists as long as there is room for."""
    for most in (MOST_MEASURING, 5, 4, 3, 2, 1):
        drawn = picture(found, console.width, ascii_only=console.options.ascii_only, most=most)
        if len(console.render_lines(drawn, pad=False)) <= height:
            break
    return drawn


def _headline(found: Status, *, ascii_only: bool) -> Text:
    dot = "*" if ascii_only else "●"
    if not found.running:
        return Text.assemble((f"{dot} ", WRONG if found.ledger_lost else FAINT), ("Not running.", NAME))
    who = f"{found.command}, process {found.pid}" if found.pid else "a process that does not say which"
    since = f", since {clock(found.since)}{_age(found.since)}" if found.since else ""
    style = health_style(found.health)
    head = Text.assemble((f"{dot} ", style), ("Running", NAME), f": {who}{since}")
    head.append("\n  ")
    head.append(found.health, style)
    return head


def health_style(health: str) -> str:
    """Give the colour of a health in words."""
    if health.startswith("well,"):
        return DOUBT
    return WELL if health in ("well", "at work") else WRONG


def _age(since: str) -> str:
    try:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(since)).total_seconds()
    except (ValueError, TypeError):
        return ""
    return f" ({lasted(seconds)})" if seconds >= 0 else ""


def lasted(seconds: float) -> str:
    """Write how long something lasted: its two largest units."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    units = ((days, "d"), (hours, "h"), (minutes, "min"), (rest, "s"))
    first = next((at for at, (number, _) in enumerate(units) if number), 3)
    return " ".join(f"{number} {unit}" for number, unit in units[first : first + 2] if number) or "0 s"


def _facts(found: Status) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style=FAINT, no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in _live(found.live):
        grid.add_row(name, text)
    if found.ledger_lost:
        grid.add_row("ledger", Text(as_typed(found.ledger_lost), WRONG))
        return Padding(grid, _INDENT)
    if not found.ledger_exists:
        grid.add_row("ledger", f"there is none yet ({escaped(found.ledger)}): nothing was processed")
        return Padding(grid, _INDENT)
    states = [(f"{number:,} {state}", STATE_STYLES.get(state, "")) for state, number in found.files.items()]
    grid.add_row("files", _listed(states) if states else "none")
    if found.pending_segments:
        grid.add_row("waiting", f"{counted(found.pending_segments, 'run')} for their second stage")
    if found.source_missing:
        grid.add_row("kept", f"{counted(found.source_missing, 'run')} whose raw file has gone")
    if found.flags:
        grid.add_row("flags", _listed([(f"{number:,} {flag}", DOUBT) for flag, number in found.flags.items()]))
    grid.add_row("ledger", Text(escaped(found.ledger), FAINT))
    return Padding(grid, _INDENT)


def _listed(parts: Sequence[tuple[str, str]]) -> Text:
    return Text(", ").join(Text(*part) for part in parts)


def _live(live: Mapping[str, Any] | None) -> list[tuple[str, RenderableType]]:
    """Give what the daemon itself says, a line each."""
    if live is None:
        return []
    queues = [
        f"{name} {waiting:,} waiting {busy:,} at work"
        for name, (waiting, busy) in live.get("queues", {}).items()
        if waiting or busy
    ]
    told: list[tuple[str, RenderableType]] = [
        ("queues", f"{', '.join(queues) or 'nothing waits'}; {counted(live.get('following', 0), 'file')} followed"),
        ("watch", str(live.get("watch") or "not yet")),
    ]
    page = live.get("page")
    if page is not None:
        again = f"; started again {page['restarts']:,} times" if page["restarts"] else ""
        told.append(("page", Text(f"{page['address'] or page['trouble']}{again}", "" if page["address"] else DOUBT)))
    lost = [f"{pool['name']} {pool['replaced']:,}" for pool in live.get("pools", ()) if pool.get("replaced")]
    if lost:
        told.append(("workers", Text(f"replaced since the start: {', '.join(lost)}", DOUBT)))
    return told


def _totals(found: Status) -> RenderableType:
    table = Table.grid(padding=(0, 3))
    for justify in ("left", "right", "right", "right"):
        table.add_column(justify=justify, no_wrap=True)
    table.add_row(*(Text(word, FAINT) for word in ("", "runs", "rows", "segments")))
    for name, totals in (("today", found.today), ("in all", found.total)):
        table.add_row(Text(name, FAINT), f"{totals.runs:,}", f"{totals.rows:,}", f"{totals.segments:,}")
    return Padding(table, _INDENT)


def _measuring(measuring: Mapping[str, Sequence[int | None]], width: int, most: int) -> RenderableType:
    bar_width = _BAR if width >= _WIDE else _SHORT_BAR
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(ratio=1)
    table.add_column(width=bar_width)
    table.add_column(justify="right", no_wrap=True)
    for file, (rows, expected) in list(measuring.items())[:most]:
        done = f"{rows or 0:,} of {expected:,} rows" if expected else f"{counted(rows or 0, 'row')}"
        bar: RenderableType = ""
        if expected:
            bar = ProgressBar(
                total=expected,
                completed=min(rows or 0, expected),
                width=bar_width,
                style=FAINT,
                complete_style="cyan",
                finished_style=WELL,
            )
        table.add_row(Tail(file), bar, done)
    if len(measuring) > most:
        table.add_row(Text(f"and {len(measuring) - most:,} more", FAINT), "", "")
    return Padding(table, _INDENT)


def _files(files: Sequence[FileLine], width: int) -> RenderableType:
    """List files with their verdicts; on a narrow screen the names are worth more than the reasons."""
    table = _list(width)
    wide = width >= _WIDE
    for one in files:
        reason = Text(first_line(one.reason), FAINT) if wide else ""
        table.add_row(clock(one.judged_at), state_text(one.state), Tail(one.file), reason)
    return Padding(table, _INDENT)


def _rejects(files: Sequence[FileLine], width: int) -> RenderableType:
    table = _list(width, state=False)
    for one in files:
        table.add_row(clock(one.judged_at), Tail(one.file), Text(first_line(one.reason), WRONG))
    return Padding(table, _INDENT)


def _list(width: int, *, state: bool = True) -> Table:
    """Give an empty list: a time, a state, a file, which keeps the end of its name, and what room is left."""
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(style=FAINT, no_wrap=True)
    if state:
        table.add_column(no_wrap=True)
    table.add_column(max_width=max(24, int(width * _NAMES_PART)))
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    return table


def first_line(text: str) -> str:
    """Give the first line of a text, empty if there is none."""
    return text.splitlines()[0] if text else ""


def _title(words: str, beside: str = "") -> RenderableType:
    return Group(Text(), Text.assemble((words, NAME), (f"  {beside}" if beside else "", FAINT)))
