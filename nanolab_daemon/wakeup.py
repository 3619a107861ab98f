"""A bell between threads: wakes the one that waits in a selector."""

from __future__ import annotations

import contextlib
import os


class Wakeup:
    """Lets another thread end the engine's wait."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        """Give the descriptor that is readable when somebody called."""
        return self._reader

    def call(self) -> None:
        """Wake the engine. Safe from any thread, and from a signal handler."""
        with contextlib.suppress(OSError):  # full: it is awake already; closed: nobody listens any more
            os.write(self._writer, b".")

    def clear(self) -> None:
        """Take note of all calls so far."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._reader, 4096):
                pass

    def close(self) -> None:
        """Close both ends."""
        os.close(self._reader)
        os.close(self._writer)
