"""The HTTP server: limits for clients that are slow, many or hostile, and an orderly end at SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from nanolab_daemon.config import Config
from nanolab_daemon.web.app import make_app

MOST_CONNECTIONS = 128
SILENT_S = 10.0
"""For how long a client may take to send the head of its first request."""

STUCK_S = 30.0
"""For how long a client may take nothing of what is sent to it."""


class Impatient(H11Protocol):
    """One connection, which is cut when its client neither asks to the end nor takes an answer."""

    _silent: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, and don't wait for ever for a request."""
        super().connection_made(transport)
        self._silent = self.loop.call_later(SILENT_S, self._cut_if_idle)

    def data_received(self, data: bytes) -> None:
        """Take a part of a request; its head must be whole in a while."""
        super().data_received(data)
        if not _is_idle(self.cycle):
            _forget(self._silent)
            self._silent = None
        elif self._silent is None:
            self._silent = self.loop.call_later(SILENT_S, self._cut_if_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        _forget(self._silent)
        _forget(self._stuck)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Take note that the client is behind."""
        super().pause_writing()
        self._stuck = self.loop.call_later(STUCK_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Take note that the client has caught up."""
        _forget(self._stuck)
        super().resume_writing()

    def _cut_if_idle(self) -> None:
        self._silent = None
        if _is_idle(self.cycle):
            self.transport.abort()


def _is_idle(cycle: RequestResponseCycle | None) -> bool:
    """Tell whether no request is being answered; there is no cycle before the first one."""
    return cycle is None or cycle.response_complete


def _forget(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


class Server(uvicorn.Server):
    """Uvicorn's server, ended by SIGTERM alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let SIGTERM end it in order; Ctrl-C is for the daemon."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._end)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGTERM)

    def _end(self) -> None:
        self.should_exit = True


def serve(config: Config, listener: socket.socket) -> None:
    """Serve until SIGTERM."""
    listener.setblocking(False)
    app = make_app(config)
    settings: dict[str, Any] = {
        "http": Impatient,
        "ws": "none",
        "loop": "asyncio",
        "lifespan": "on",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "limit_concurrency": MOST_CONNECTIONS,
        "timeout_keep_alive": 15,
        "timeout_graceful_shutdown": 1,
        "h11_max_incomplete_event_size": 32 << 10,
    }
    server = Server(uvicorn.Config(app, **settings))
    asyncio.run(server.serve(sockets=[listener]))
