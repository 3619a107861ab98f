"""What the daemon tells systemd: ready, reloading, stopping, how things stand, and that its loop goes round.

Speaks through systemd-python, which is imported only where systemd listens; elsewhere nothing is said. Has no thread
and no clock of its own: who calls `alive` is what the watchdog watches.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping

from nanolab_daemon.errors import ConfigError

BINDING = "systemd-python>=235,<236"
EXTEND_S = 30.0
"""How long a start may take from one sign of progress to the next."""
STATUS_EVERY_S = 1.0
PINGS_AN_INTERVAL = 4
"""systemd advises two; the loop waits up to a second in each turn, and a busy machine more."""

Send = Callable[[str], object]


def binding_remedy() -> str:
    """Give the commands that bring systemd-python to this very interpreter, where Debian's names are in use."""
    return (
        "sudo apt-get install -y gcc pkg-config python3-dev libsystemd-dev && "
        f"sudo {sys.executable} -m pip install '{BINDING}'"
    )


class Notifier:
    """The line to systemd. All methods do nothing where nobody listens; `now` is time.monotonic()."""

    def __init__(self, environ: Mapping[str, str] | None = None, *, send: Send | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._send = send or (_binding() if environ.get("NOTIFY_SOCKET") else None)
        self._every_s = _watchdog_s(environ) / PINGS_AN_INTERVAL
        self._ping_at = 0.0
        self._extend_at = 0.0
        self._status_at = 0.0
        self._status = ""
        self.is_ready = False  # once `ready` was said

    @property
    def listening(self) -> bool:
        """Whether anybody wants to hear."""
        return self._send is not None

    def starting(self, now: float) -> None:
        """Say that the start makes progress, so that it is given more time."""
        if self._send is not None and now >= self._extend_at:
            self._extend_at = now + EXTEND_S / 4
            self._send(f"EXTEND_TIMEOUT_USEC={round(EXTEND_S * 1e6)}")

    def ready(self) -> None:
        """Say that work has begun, or goes on after a reload."""
        self.is_ready = True
        self._say("READY=1")

    def reloading(self) -> None:
        """Say that the configuration is being read; `ready` ends it."""
        # Type=notify-reload asks for the time; Type=notify lets it pass.
        self._say(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """Say that the end has begun."""
        self._say("STOPPING=1")

    def alive(self, now: float) -> None:
        """Feed the watchdog. To be called by the loop that does the work, once a turn, and by nothing else."""
        if self._send is not None and self._every_s and now >= self._ping_at:
            self._ping_at = now + self._every_s
            self._send("WATCHDOG=1")

    def status(self, words: Callable[[], str], now: float) -> None:
        """Say how things stand, in a line, at most once a second and when it has changed."""
        if self._send is None or now < self._status_at:
            return
        self._status_at = now + STATUS_EVERY_S
        line = " ".join(words().split())
        if line != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    def _say(self, state: str) -> None:
        if self._send is not None:
            self._send(state)


def _binding() -> Send:
    try:
        from systemd.daemon import notify
    except ImportError as error:
        raise ConfigError(
            f"systemd waits for news of this service, but {sys.executable} has no systemd-python ({error}).",
            advice=f"Install it: {binding_remedy()}",
        ) from error
    send: Send = notify
    return send


def _watchdog_s(environ: Mapping[str, str]) -> float:
    """Give the time after which systemd misses a sign of life, in seconds; 0 if it does not watch this process."""
    meant_for = environ.get("WATCHDOG_PID", "")
    if meant_for and meant_for != str(os.getpid()):
        return 0.0
    try:
        return max(0.0, int(environ.get("WATCHDOG_USEC", "0")) / 1e6)
    except ValueError:
        return 0.0
