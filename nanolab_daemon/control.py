"""The daemon's ear: a socket in the state folder on which commands ask it things, one JSON line each way.

Only those who may enter the folder can ask, and members of its group: they may know everything and order nothing.
Serves in the engine's thread, never waits for anybody.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import socket
import stat
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nanolab_daemon.errors import EngineError

FILE_NAME = "control.sock"
MOST_BYTES = 1 << 20
ANSWER_S = 30.0
LOOK_S = 3.0
"""Whoever only looks waits so long for an answer: the ledger tells him most of it without one."""

DEAF_S = 1.0
QUESTIONS = frozenset({"status", "file"})
"""What anybody may ask who gets through to the socket; all else is for root and the user that runs the daemon."""

_PEER = struct.Struct("iII")  # struct ucred: process, user, group
_LIMITS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)

Answer = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class Control:
    """The listening end. `answer` gives what is sent back; what it raises as EngineError is told to the asker."""

    def __init__(self, state: Path, selector: selectors.BaseSelector, answer: Answer) -> None:
        self._state = state
        self._selector = selector
        self._answer = answer
        self._listener: socket.socket | None = None
        self._inboxes: dict[socket.socket, bytearray] = {}
        self._deaf_until = 0.0  # monotonic seconds; 0: it listens

    def start(self) -> None:
        """Begin to listen. The caller holds the lock, so that a socket found there is a dead one's."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        (self._state / FILE_NAME).unlink(missing_ok=True)
        with _short_name(self._state) as name:
            listener.bind(name)
            mode = stat.S_IMODE(os.stat(name).st_mode)  # noqa: PTH116 -- through the short name
            os.chmod(name, mode | stat.S_IWGRP if mode & stat.S_IRGRP else mode)  # noqa: PTH101
        listener.listen(16)
        self._listener = listener
        self._selector.register(listener, selectors.EVENT_READ)

    def stop(self) -> None:
        """End, and take the socket away."""
        for connection in list(self._inboxes):
            self._drop(connection)
        if self._listener is not None:
            if self._deaf_until == 0.0:
                self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None
            (self._state / FILE_NAME).unlink(missing_ok=True)

    def poll(self) -> None:
        """Take in connections and answer what has been asked."""
        if self._listener is None:
            return
        self._listen_again()
        with contextlib.suppress(BlockingIOError, InterruptedError, ConnectionAbortedError):
            while True:
                try:
                    connection, _ = self._listener.accept()
                except OSError as error:
                    if error.errno in _LIMITS:
                        self._turn_away()
                        break
                    raise
                connection.setblocking(False)
                self._inboxes[connection] = bytearray()
                self._selector.register(connection, selectors.EVENT_READ)
        for connection in list(self._inboxes):
            self._read(connection)

    def _turn_away(self) -> None:
        """Have nobody wake the engine for a while who can't be let in: there is no descriptor for him."""
        if self._listener is not None and self._deaf_until == 0.0:
            self._selector.unregister(self._listener)
        self._deaf_until = time.monotonic() + DEAF_S

    def _listen_again(self) -> None:
        if self._listener is not None and 0.0 < self._deaf_until <= time.monotonic():
            self._selector.register(self._listener, selectors.EVENT_READ)
            self._deaf_until = 0.0

    def _read(self, connection: socket.socket) -> None:
        inbox = self._inboxes[connection]
        try:
            part = connection.recv(65536)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            part = b""
        inbox += part
        if not part or len(inbox) > MOST_BYTES:
            self._drop(connection)
        elif b"\n" in inbox:
            self._reply(connection, bytes(inbox))
            self._drop(connection)

    def _reply(self, connection: socket.socket, line: bytes) -> None:
        try:
            question = json.loads(line)
            if not isinstance(question, dict):
                answer: Mapping[str, Any] = {"error": "a question is an object"}
            elif question.get("ask") in QUESTIONS or _may_order(connection):
                answer = self._answer(question)
            else:
                answer = {"error": "Only root and the user that runs the daemon may give it orders. Use sudo."}
        except json.JSONDecodeError:
            answer = {"error": "this is no JSON"}
        except EngineError as error:
            answer = {"error": str(error)}
        with contextlib.suppress(OSError):  # the asker has gone
            connection.setblocking(True)
            connection.settimeout(1.0)
            connection.sendall(json.dumps(answer).encode() + b"\n")

    def _drop(self, connection: socket.socket) -> None:
        del self._inboxes[connection]
        self._selector.unregister(connection)
        connection.close()


def _may_order(connection: socket.socket) -> bool:
    _, user, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return user in (0, os.geteuid())


def ask(state: Path, question: Mapping[str, Any], timeout_s: float = ANSWER_S) -> dict[str, Any] | None:
    """Ask the daemon of a state folder; None if no daemon listens. Raises EngineError with what it objects."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            with _short_name(state) as name:
                connection.connect(name)
            connection.sendall(json.dumps(question).encode() + b"\n")
            inbox = bytearray()
            while not inbox.endswith(b"\n") and (part := connection.recv(65536)):
                inbox += part
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            return None
        except PermissionError as error:
            raise EngineError(
                "This user may not speak to the daemon.",
                advice=f"Use sudo, or become a member of the group of {state}, which may ask: "
                "sudo usermod --append --groups GROUP USER, from the next login on.",
            ) from error
        except TimeoutError as error:
            raise EngineError(
                f"The daemon does not answer: nothing came within {timeout_s:g} s.",
                advice="Is it stopped or very busy?",
            ) from error
        except OSError as error:
            raise EngineError(
                f"The daemon does not answer: {error}.", advice="Is it stopped or very busy?"
            ) from error
    try:
        answer: dict[str, Any] = json.loads(inbox)
    except json.JSONDecodeError as error:
        raise EngineError("The daemon ended in the middle of its answer.") from error
    if "error" in answer:
        raise EngineError(str(answer["error"]))
    return answer


@contextlib.contextmanager
def _short_name(state: Path) -> Any:
    """Give a name for the socket that fits into the 108 bytes that the kernel allows, however long the path is."""
    fd = os.open(state, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{FILE_NAME}"
    finally:
        os.close(fd)
