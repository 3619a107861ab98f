"""The console that draws on a terminal, and the colours of the program's words.

Rich is imported only where there is something to draw.
"""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING, TextIO

from nanolab_daemon.cli_base import is_screen

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.measure import Measurement
    from rich.text import Text

NARROWEST = 40
"""Below so many columns nothing sensible can be laid out; what is drawn then is cut off on the right."""

STATE_STYLES = {
    "queued": "dim",
    "started": "cyan",
    "measuring": "bold cyan",
    "staged": "green",
    "segmented": "green",
    "rejected": "bold red",
    "duplicate": "dim",
    "superseded": "dim",
    "waiting": "yellow",
    "gone": "dim",
}
WELL, DOUBT, WRONG, FAINT, NAME = "green", "yellow", "bold red", "dim", "bold"


def screen(stream: TextIO | None = None) -> Console | None:
    """Give the console that draws on a stream (standard output, if None); None where plain text is wanted.

    It takes all text as it is: nothing in it is read as markup. NO_COLOR leaves the tables and takes the colours.
    """
    stream = sys.stdout if stream is None else stream
    return console(stream) if is_screen(stream) else None


def console(stream: TextIO, **more: object) -> Console:
    """Give a console that takes all text as it is."""
    from rich.console import Console

    made = Console(file=stream, markup=False, highlight=False, emoji=False, **more)  # type: ignore[arg-type]
    too_narrow = made.width < NARROWEST
    if too_narrow:  # else it is left alone: a width that is set does not follow the window any more
        made.width = NARROWEST
    return made


def state_text(state: str) -> Text:
    """Give a file's state in its colour."""
    from rich.text import Text

    return Text(state, STATE_STYLES.get(state, ""))


def sentence(parts: Iterable[str | tuple[str, str]]) -> Text:
    """Join pieces of text, each plain or with its style."""
    from rich.text import Text

    return Text.assemble(*parts)


def clock(moment: str, now: datetime | None = None) -> str:
    """Give the time of a moment (ISO 8601, with its zone) on the day of `now`, the day and the time of another."""
    try:
        then = datetime.fromisoformat(moment)
    except ValueError:
        return moment
    today = (now.astimezone(then.tzinfo) if now else datetime.now(then.tzinfo)).date()
    return f"{then:%H:%M:%S}" if then.date() == today else f"{then:%Y-%m-%d %H:%M}"


class Tail:
    """A path on one line, of which the end is kept where the whole does not fit."""

    def __init__(self, text: str, style: str = "") -> None:
        self._text = text
        self._style = style

    def __rich_measure__(self, _: Console, options: ConsoleOptions) -> Measurement:
        from rich.cells import cell_len
        from rich.measure import Measurement

        width = cell_len(self._text)
        return Measurement(min(width, 12, options.max_width), min(width, options.max_width))

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        shown = kept_end(self._text, options.max_width, "..." if options.ascii_only else "…")
        yield Text(shown, self._style, no_wrap=True, overflow="crop")


def kept_end(text: str, width: int, dots: str = "…") -> str:
    """Cut a text from its left to so many columns; of a path whole folders, as long as its last part fits."""
    from rich.cells import cell_len

    if cell_len(text) <= width:
        return text
    name = "/" + text.rpartition("/")[2]
    if "/" in text and cell_len(dots + name) <= width:
        while cell_len(dots + text) > width:
            text = "/" + text.lstrip("/").partition("/")[2]
        return dots + text
    while text and cell_len(dots + text) > width:
        text = text[1:]
    return dots + text
