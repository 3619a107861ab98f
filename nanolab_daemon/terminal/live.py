"""A picture that is drawn again and again over the whole screen, until somebody presses q or Ctrl-C.

Whoever looks may be slow, or wait for a daemon that hangs: he looks in a thread of his own, and the keys are answered
all the while. However it ends, the terminal is as it was.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import sqlite3
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, Generic, TypeVar

from rich.console import Console, RenderableType
from rich.layout import Layout
from rich.live import Live
from rich.text import Text

from nanolab_daemon.errors import NanolabError
from nanolab_daemon.terminal.screen import DOUBT, FAINT, WRONG

if TYPE_CHECKING:
    from types import FrameType

Found = TypeVar("Found")

EVERY_S = 0.5
"""From one look to the next; what is slow rests as long as it took."""

STALE_S = 3.0
"""After so long without news it is told how old the picture is."""

FIRST_S = 1.0
"""So long the screen waits for the first picture, before it says that there is none yet."""

_KEYS_EVERY_S = 0.2
_ENDS = frozenset(b"qQ\x03\x04")  # Ctrl-C and Ctrl-D, where the terminal hands them on
_ESCAPE = b"\x1b"  # alone: with more behind it, it is an arrow or the like


@dataclass(frozen=True, slots=True)
class Seen(Generic[Found]):
    """What was found at the last look, when (monotonic seconds), and what went wrong since; `serial` counts looks."""

    found: Found | None = None
    at: float = 0.0
    trouble: str = ""
    serial: int = 0


class Looker(Generic[Found]):
    """Looks again and again in a thread of its own, which is left behind at the end: it may hang."""

    def __init__(self, look: Callable[[], Found], every_s: float = EVERY_S) -> None:
        self._look = look
        self._every_s = every_s
        self._stopped = threading.Event()
        self.looked = threading.Event()
        """Set once the first look is over."""
        self.seen: Seen[Found] = Seen()
        self._thread = threading.Thread(target=self._run, name="look", daemon=True)

    def __enter__(self) -> Looker[Found]:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            began = time.monotonic()
            seen = self.seen
            try:
                self.seen = Seen(self._look(), time.monotonic(), "", seen.serial + 1)
            except (NanolabError, OSError, sqlite3.Error) as error:
                self.seen = Seen(seen.found, seen.at, str(error), seen.serial + 1)
            self.looked.set()
            self._stopped.wait(max(self._every_s, time.monotonic() - began))


@dataclass(slots=True)
class _Asked:
    """What a signal has asked for; handlers only set marks, so that nothing is torn in its middle."""

    to_end: bool = False
    to_rest: bool = False


def watch(
    console: Console, zone: tzinfo, look: Callable[[], Found], draw: Callable[[Found, int], RenderableType]
) -> None:
    """Draw what `look` finds, over and over, until q, Ctrl-C, SIGTERM or the end of the terminal.

    `look` may raise NanolabError, OSError or sqlite3.Error, which is told beneath the last picture. `draw` is given
    what was found and how many lines there are for it. Beneath it stands the time in `zone`.
    """
    with _signals() as asked, Looker(look) as looker:
        while not asked.to_end:
            _show(console, zone, looker, draw, asked)
            if asked.to_rest:  # Ctrl-Z: the shell has its terminal back as it was; the picture comes again with `fg`
                asked.to_rest = False
                _rest()


def _show(
    console: Console,
    zone: tzinfo,
    looker: Looker[Found],
    draw: Callable[[Found, int], RenderableType],
    asked: _Asked,
) -> None:
    """Keep the picture up until something is asked for."""
    # Rich draws a box with the part's name where there is nothing, not even a blank, to draw.
    body, foot = Layout(Text(" Looking …"), name="body"), Layout(Text(" "), name="foot", size=1)
    layout = Layout()
    layout.split_column(body, foot)
    looker.looked.wait(FIRST_S)
    drawn = _fill(console, zone, looker.seen, draw, body, foot)
    live = Live(
        layout, console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
    )
    try:
        with _keys() as keys, live:
            while not (asked.to_end or asked.to_rest):
                if _mark(console, looker.seen) != drawn:
                    drawn = _fill(console, zone, looker.seen, draw, body, foot)
                    live.refresh()
                pressed = keys()
                if pressed == _ESCAPE or (pressed[:1] != _ESCAPE and _ENDS & set(pressed)):
                    asked.to_end = True
    except OSError as error:
        if error.errno not in (errno.EIO, errno.EBADF):
            raise
        asked.to_end = True  # the terminal has gone


def _mark(console: Console, seen: Seen[Found]) -> tuple[int, object, int]:
    """Give what changes when there is something new to draw."""
    return seen.serial, console.size, int(time.time())


def _fill(
    console: Console,
    zone: tzinfo,
    seen: Seen[Found],
    draw: Callable[[Found, int], RenderableType],
    body: Layout,
    foot: Layout,
) -> tuple[int, object, int]:
    """Put what was seen into the layout; give its mark."""
    mark = _mark(console, seen)
    if seen.found is not None:
        body.update(draw(seen.found, console.size.height - 1))
    foot.update(_foot(seen, zone))
    return mark


def _rest() -> None:
    """Stop as any program does on Ctrl-Z. Where no shell could wake it, the kernel lets it go on."""
    before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTSTP)
    signal.signal(signal.SIGTSTP, before)


def _foot(seen: Seen[Found], zone: tzinfo) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(" q", "bold").append(" ends it", FAINT)
    if seen.found is not None:
        line.append(f"   {datetime.now(zone):%H:%M:%S}", FAINT)
        age = time.monotonic() - seen.at
        if age > STALE_S:
            line.append(f"   as it was {age:.0f} s ago", DOUBT)
    if seen.trouble:
        line.append(f"   {seen.trouble}", WRONG)
    return line


@contextlib.contextmanager
def _signals() -> Iterator[_Asked]:
    """Note what signals ask for: to end, or Ctrl-Z."""
    asked = _Asked()

    def end(_number: int, _frame: FrameType | None) -> None:
        asked.to_end = True

    def rest(_number: int, _frame: FrameType | None) -> None:
        asked.to_rest = True

    handlers = {signal.SIGINT: end, signal.SIGTERM: end, signal.SIGHUP: end, signal.SIGTSTP: rest}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[], bytes]]:
    """Take single keys from the terminal; what is given waits for a moment and returns what was pressed, if any.

    Without a terminal as standard input there are none.
    """
    fd = sys.stdin.fileno() if sys.stdin is not None and not sys.stdin.closed else -1
    try:
        before = termios.tcgetattr(fd) if fd >= 0 else None
    except termios.error:
        before = None
    if before is None:
        yield _nothing
        return

    def pressed() -> bytes:
        if not select.select([fd], [], [], _KEYS_EVERY_S)[0]:
            return b""
        try:
            return os.read(fd, 64) or b"q"  # the end of the terminal
        except OSError:
            return b"q"

    try:
        tty.setcbreak(fd)
        yield pressed
    finally:
        with contextlib.suppress(termios.error):
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _nothing() -> bytes:
    time.sleep(_KEYS_EVERY_S)
    return b""
