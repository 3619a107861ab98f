"""A terminal for tests: a program runs in it as a person would see it; keys are typed, and the screen is read."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import RenderableType

from nanolab_daemon.terminal.screen import console

HOME = "\x1b[H"
ALTERNATE, ORDINARY = "\x1b[?1049h", "\x1b[?1049l"
_SEQUENCES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\x1b[=>]|\r")


def plain(text: str) -> str:
    """Leave out what steers a terminal."""
    return _SEQUENCES.sub("", text)


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def drawn(picture: RenderableType, width: int = 80) -> str:
    """Draw on a terminal of so many columns; no line may be longer."""
    stream = Tty()
    made = console(stream, width=width, force_terminal=True, color_system="standard", legacy_windows=False)
    made.print(picture)
    lines = plain(stream.getvalue()).splitlines()
    assert max(map(len, lines)) <= width, lines
    return stream.getvalue()


class Terminal:
    """A program in a terminal of so many columns and lines."""

    def __init__(
        self,
        command: Sequence[str],
        cwd: Path,
        *,
        columns: int = 80,
        lines: int = 24,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._ours, theirs = pty.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(theirs)
        self._theirs = theirs
        self._said = bytearray()
        clean = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command],  # the terminal is its own, so that Ctrl-C is a signal
            cwd=cwd,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**clean, "TERM": "xterm-256color", **(env or {})},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._theirs)
        os.close(self._ours)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    @property
    def raw(self) -> str:
        """All that was written so far, with the colours."""
        while select.select([self._ours], [], [], 0)[0]:
            try:
                part = os.read(self._ours, 65536)
            except OSError:
                break
            if not part:
                break
            self._said += part
        return self._said.decode("utf-8", "replace")

    @property
    def text(self) -> str:
        return plain(self.raw)

    @property
    def frame(self) -> str:
        """The last whole picture of a live view."""
        return plain(self.raw.rpartition(HOME)[2])

    def until(self, condition: Callable[[], object], what: str = "", limit_s: float = 30.0) -> None:
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain for {what}; the screen:\n{self.text[-3000:]}"
            select.select([self._ours], [], [], 0.02)

    def shows(self, *words: str, limit_s: float = 30.0) -> str:
        """Wait until the live view shows all these words at once; give it."""
        self.until(lambda: all(word in self.frame for word in words), f"{words}", limit_s)
        return self.frame

    def end(self, limit_s: float = 60.0) -> int:
        """Wait for the end of the program; give its exit code. The terminal has to be as it was."""
        deadline = time.monotonic() + limit_s
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end; the screen:\n{self.text[-3000:]}"
            _ = self.raw  # or it might wait for somebody to read
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.05)
        assert termios.tcgetattr(self._theirs) == self.before
        raw = self.raw
        assert raw.count(ALTERNATE) == raw.count(ORDINARY)
        return self.process.returncode
