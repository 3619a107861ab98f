"""Calls that may never return, such as any on a share whose server is gone: made in a thread, with a limit.

A call that is not answered in time is given up by its caller; the thread waits on, and tells when it is over.
"""

from __future__ import annotations

import errno
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

Answer = TypeVar("Answer")


class SilentError(OSError):
    """No answer came within the limit, or an earlier call still waits for its own."""

    def __init__(self, what: str) -> None:
        super().__init__(errno.ETIMEDOUT, f"{what} does not answer")


class _Errand:
    __slots__ = ("answer", "arguments", "done", "error", "function")

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.function = function
        self.arguments = arguments
        self.done = threading.Event()
        self.answer: Any = None
        self.error: BaseException | None = None


class Courier:
    """One thread that makes one call at a time. For one caller; the thread ends with the program or `stop`."""

    def __init__(self, name: str, limit_s: float) -> None:
        self._name = name
        self._limit_s = limit_s
        self._errands: queue.SimpleQueue[_Errand | None] = queue.SimpleQueue()
        self._out: _Errand | None = None
        self._out_since = 0.0
        self._thread: threading.Thread | None = None

    def call(self, function: Callable[..., Answer], *arguments: Any) -> Answer:
        """Make a call and give its answer, or raise what it raises; SilentError if that takes too long."""
        if self.waits_s(time.monotonic()):
            raise SilentError(self._name)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"ask {self._name}", daemon=True)
            self._thread.start()
        errand = self._out = _Errand(function, arguments)
        self._out_since = time.monotonic()
        self._errands.put(errand)
        if not errand.done.wait(self._limit_s):
            raise SilentError(self._name)
        self._out = None
        if errand.error is not None:
            raise errand.error
        answer: Answer = errand.answer
        return answer

    def waits_s(self, now: float) -> float:
        """Tell for how many seconds a call has been waiting for its answer; 0 if none does."""
        if self._out is None or self._out.done.is_set():
            return 0.0
        return max(now - self._out_since, 1e-9)

    def stop(self) -> None:
        """Let the thread end once it has come back."""
        self._errands.put(None)

    def _work(self) -> None:
        while (errand := self._errands.get()) is not None:
            try:
                errand.answer = errand.function(*errand.arguments)
            except BaseException as error:  # noqa: BLE001 -- not swallowed: raised again where it was asked
                errand.error = error
            errand.done.set()
