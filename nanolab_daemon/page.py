"""The process of the web page as the daemon sees it: its address, its start, its end, its next start.

The daemon keeps the listening socket, so that nobody is turned away while the page is started again, and reads and
writes nothing on it: whatever a client does, only the page's own process has to do with it.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import ipaddress
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from nanolab_daemon.config import Config
from nanolab_daemon.errors import ConfigError
from nanolab_daemon.log import REASON, WORKER, logger
from nanolab_daemon.worker import PARENTS_ENVIRONMENT

MODULE = "nanolab_daemon.web"
NEEDS = ("starlette", "uvicorn", "jinja2", "prometheus_client")
FIRST_FD = 3  # sd_listen_fds(3)
WAITING_CLIENTS = 64
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0
WELL_AFTER_S = 60.0
END_S = 2.0


def require_packages(config: Config) -> None:
    """Refuse `[http]` where the packages that it needs are not installed (ConfigError, with the remedy)."""
    lacking = [name for name in NEEDS if importlib.util.find_spec(name) is None] if config.http.enabled else []
    if lacking:
        raise ConfigError(
            f"http.enabled = true needs {', '.join(lacking)}, which {sys.executable} lacks.",
            advice=f"Type: {sys.executable} -m pip install 'nanolab-daemon[http]'; or set http.enabled = false.",
        )


class Page:
    """The page's process, started and watched over by the daemon's loop. Moments are monotonic seconds.

    One thread calls all methods and outlives the process: the kernel ends it when that thread ends.
    """

    def __init__(self, config: Config, environ: Mapping[str, str] | None = None) -> None:
        self._config = config
        self._environ = os.environ if environ is None else environ
        self._log = logger(__name__)
        self._wanted = config.http.enabled
        self._addresses: list[tuple[int, Any]] = []
        self._listener: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._began = 0.0
        self._start_at = 0.0
        self._failures = 0
        self._planned = False  # its end was asked for
        self._restarts = 0
        self._trouble = ""

    def start(self, now: float) -> None:
        """Find the address and start the process. What can't be done now is tried again by `look`."""
        if not self._wanted:
            return
        self._listener = _inherited(self._environ)
        if self._listener is None:
            try:
                self._addresses = _resolved(self._config.http.host, self._config.http.port)
            except OSError as error:
                self._fail(f"http.host = {self._config.http.host} is no address here: {error.strerror}", now)
                self._wanted = False
                return
        self.look(now)

    def look(self, now: float) -> None:
        """See whether the process lives; start it if it does not and its time has come."""
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                if self._failures and now - self._began >= WELL_AFTER_S:
                    self._failures = 0
                return
            self._process = None
            if self._planned:
                self._planned = False
            else:
                self._restarts += 1
                self._fail(f"the page's process has ended ({_ending(code)})", now)
        if self._wanted and now >= self._start_at:
            self._begin(now)

    def reconfigure(self, config: Config) -> None:
        """Have the page run with other settings: it is started again, while its clients wait a moment."""
        self._config = config
        self.stop()
        self._wanted = config.http.enabled

    def stop(self) -> None:
        """Ask the process to end, and don't wait for it."""
        self._wanted = False
        if self._process is not None:
            self._planned = True
            self._process.terminate()

    def kill(self) -> None:
        """End everything at once. A second call does nothing."""
        self._wanted = False
        if self._process is not None:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs at a share: the kernel ends it later
                self._process.wait(END_S)
            self._process = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def describe(self) -> dict[str, Any] | None:
        """Tell how it stands, as plain data for JSON; None where no page is wanted."""
        if not self._config.http.enabled:
            return None
        return {
            "address": None if self._listener is None else address_of(self._listener),
            "pid": None if self._process is None else self._process.pid,
            "restarts": self._restarts,
            "trouble": self._trouble or None,
        }

    def _begin(self, now: float) -> None:
        try:
            if self._listener is None:
                self._listener = _bound(self._addresses)
            self._process = _started(self._config, self._listener)
        except OSError as error:
            words = error.strerror or str(error)
            if isinstance(error, socket.gaierror) or self._listener is None:
                words = f"{self._config.http.host}:{self._config.http.port} can't be listened on: {words}"
                if error.errno == errno.EAFNOSUPPORT:
                    words += "; in a service, systemd opens it: run `nanolab-daemon service install` again"
            self._fail(words, now)
            return
        self._began = now
        self._trouble = ""
        self._log.info("page", address=address_of(self._listener), **{WORKER: self._process.pid})

    def _fail(self, words: str, now: float) -> None:
        pause_s = min(FIRST_PAUSE_S * 2**self._failures, LONGEST_PAUSE_S)
        self._failures += 1
        self._start_at = now + pause_s
        self._trouble = words
        self._log.warning("no page", **{REASON: words}, again_in_s=pause_s)


def listen(host: str, port: int) -> socket.socket:
    """Listen as the page would, until the socket is closed. Raises OSError (gaierror: the host is no address)."""
    return _bound(_resolved(host, port))


def address_of(listener: socket.socket) -> str:
    """Give the URL under which a listening socket is reached."""
    if listener.family not in (socket.AF_INET, socket.AF_INET6):
        return str(listener.getsockname())
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if listener.family == socket.AF_INET6 else f"http://{host}:{port}/"


def _inherited(environ: Mapping[str, str]) -> socket.socket | None:
    """Take the socket that systemd has opened for this process, if it has."""
    if environ.get("LISTEN_PID") != str(os.getpid()) or environ.get("LISTEN_FDS", "0") == "0":
        return None
    listener = socket.socket(fileno=FIRST_FD)
    listener.set_inheritable(False)
    return listener


def _resolved(host: str, port: int) -> list[tuple[int, Any]]:
    """Give what may be bound to for a host. Only a name other than `localhost` may have to be asked for elsewhere."""
    if host == "localhost":
        host = "127.0.0.1"
    with contextlib.suppress(ValueError):
        host = str(ipaddress.ip_address(host.strip("[]")))
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return [(int(family), address) for family, _, _, _, address in found]


def _bound(addresses: list[tuple[int, Any]]) -> socket.socket:
    failed: OSError | None = None
    for family, address in addresses:
        try:
            listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        except OSError as error:  # such as in a service that has no network
            failed = error
            continue
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(WAITING_CLIENTS)
        except OSError as error:
            listener.close()
            failed = error
        else:
            return listener
    raise failed or OSError("there is no address to listen on")


def _started(config: Config, listener: socket.socket) -> subprocess.Popen[bytes]:
    """Start the process: exec at once, as nothing of this one may run in a copy of it."""
    settings = os.memfd_create("nanolab-page")
    try:
        os.write(settings, pickle.dumps(config))
        os.lseek(settings, 0, os.SEEK_SET)
        flags = ["-P"] if sys.flags.safe_path else []
        numbers = [str(listener.fileno()), str(os.getpid())]
        return subprocess.Popen(
            [sys.executable, *flags, "-m", MODULE, *numbers],
            stdin=settings,
            stdout=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
            env={key: value for key, value in os.environ.items() if key not in PARENTS_ENVIRONMENT},
            start_new_session=True,  # Ctrl-C and a closed terminal are for the daemon, which ends its page
        )
    finally:
        os.close(settings)


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
