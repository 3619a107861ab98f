"""A machine for tests: a real systemd as process 1 of a container, over a throw-away layer on a root file system.

Needs root and systemd-nspawn. Nothing is written to the host; whatever the container holds is gone at its end.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

BOOT_S = 120.0
# A layer over a root file system, in a mount namespace of its own; an empty machine-id would mean a first boot.
PREPARE = """
base=$1 work=$2 id=$3
shift 3
cd "$work"
mkdir layer root
mount -t tmpfs -o mode=755 machine layer
mkdir layer/upper layer/work
mount -t overlay -o "lowerdir=$base,upperdir=layer/upper,workdir=layer/work" machine root
rm -f root/etc/hostname root/etc/fstab
echo "$id" >root/etc/machine-id
exec "$@"
"""
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


def why_not() -> str:
    """Say why no machine can be had here; empty if one can."""
    if os.geteuid() != 0:
        return "needs root"
    if shutil.which("systemd-nspawn") is None:
        return "needs systemd-nspawn (apt-get install systemd-container)"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "needs overlayfs"
    return ""


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


class Machine:
    """A booted container; `run` runs a command in it as root.

    `binds` are folders that it sees read-only: what they are called inside, and where they are on the host. With
    `network` it uses the host's.
    """

    def __init__(
        self, *, base: Path = Path("/"), binds: Mapping[str, Path] | None = None, network: bool = False
    ) -> None:
        self._base = base
        self._binds = binds or {}
        self._network = network
        self._work = Path(tempfile.mkdtemp(prefix="machine-", dir="/var/tmp"))
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def __enter__(self) -> Self:
        try:
            self._boot()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.close()

    def _boot(self) -> None:
        bell = self._work / "bell"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(os.fspath(bell))
            listener.settimeout(BOOT_S)
            # Whatever becomes of the tests, the machine ends with them, and its mounts with it.
            command = ["setpriv", "--pdeathsig=KILL", "unshare", "--mount", "sh", "-euc", PREPARE, "prepare"]
            command += [str(self._base), str(self._work), uuid.uuid4().hex, "systemd-nspawn"]
            command += [f"--directory={self._work}/root", "--boot", "--quiet", "--notify-ready=yes"]
            command += ["--register=no", "--keep-unit", "--link-journal=no", "--console=pipe"]
            command += [f"--resolv-conf={'copy-host' if self._network else 'off'}"]
            # systemd-nspawn 252 does not know Landlock, which services inside may use as on any machine.
            command += ["--system-call-filter=landlock_create_ruleset landlock_add_rule landlock_restrict_self"]
            command += [f"--bind-ro={folder}:{inside}" for inside, folder in self._binds.items()]
            command += [] if self._network else ["--private-network"]
            command += ["systemd.unit=basic.target"]
            with (self._work / "console").open("wb") as console:
                self._nspawn = subprocess.Popen(
                    command,
                    env={**os.environ, "NOTIFY_SOCKET": os.fspath(bell), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=subprocess.STDOUT,
                )
            ready = False
            while not ready:
                try:
                    words = listener.recv(65536).decode().splitlines()
                except TimeoutError:
                    raise RuntimeError(f"no boot:\n{self._console()}") from None
                for word in words:
                    name, _, value = word.partition("=")
                    if name == "X_NSPAWN_LEADER_PID":
                        self._leader = int(value)
                    ready = ready or (name, value) == ("READY", "1")

    def _console(self) -> str:
        return (self._work / "console").read_text(errors="replace")[-4000:]

    def close(self) -> None:
        """Power off and leave nothing behind."""
        if self._nspawn is not None:
            if self._leader:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._leader, signal.SIGRTMIN + 4)  # poweroff.target
            try:
                self._nspawn.wait(30)
            except subprocess.TimeoutExpired:
                self._nspawn.kill()
                self._nspawn.wait()
        shutil.rmtree(self._work, ignore_errors=True)

    # -- what can be done in it --------------------------------------------------------------------------------------

    def enter(self, command: Sequence[str], *, env: Mapping[str, str] | None = None) -> list[str]:
        """Give the command of the host that runs `command` inside."""
        spaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd"]
        words = [f"{key}={value}" for key, value in {**ENVIRONMENT, **(env or {})}.items()]
        return ["nsenter", "--target", str(self._leader), *spaces, "env", "-i", *words, *command]

    def run(self, *command: str, check: bool = True, limit_s: float = 60.0, **env: str) -> Done:
        """Run a command to its end."""
        done = subprocess.run(
            self.enter(command, env=env),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return Done(done.returncode, done.stdout, done.stderr)

    def sh(self, script: str, **options: Any) -> str:
        """Run a shell script; give what it printed."""
        return self.run("sh", "-euc", script, **options).out

    def put(self, path: str, text: str | bytes) -> None:
        """Write a file inside, the folders above it too."""
        data = text.encode() if isinstance(text, str) else text
        subprocess.run(
            self.enter(["sh", "-euc", 'mkdir -p "$(dirname "$1")"; cat > "$1"', "put", path]),
            input=data,
            check=True,
            timeout=60,
        )

    def show(self, unit: str, name: str) -> str:
        """Give a property of a unit."""
        return self.run("systemctl", "show", "--property", name, "--value", unit).out.strip()

    def until(
        self, condition: Callable[[], Any], limit_s: float = 30.0, what: str = "", every_s: float = 0.05
    ) -> Any:
        """Wait for a condition, each look at which takes a process or more."""
        deadline = time.monotonic() + limit_s
        while not (value := condition()):
            if time.monotonic() > deadline:
                journal = self.run("journalctl", "--no-pager", "-n", "40", check=False).out
                raise AssertionError(f"waited {limit_s} s in vain {what or condition}\n{journal}")
            time.sleep(every_s)
        return value
