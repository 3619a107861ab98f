"""Several hosts on one machine: network namespaces on a bridge, each with mounts of its own. Needs root."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HIDE = """
set -e
mkdir -p -- "$2"
mount --bind -- "$1" "$2"
mount -t tmpfs none "$1"
shift 2
exec "$@"
"""
"""Shows a folder under another name only, then becomes a command."""


@dataclass(frozen=True, slots=True)
class Host:
    """One of them. Its cable can be pulled, and put back."""

    name: str
    cable: str

    def within(self, folder: Path, there: Path) -> tuple[str, ...]:
        """Give a command that runs another one on this host, where `folder` is to be found at `there` alone."""
        return ("ip", "netns", "exec", self.name, "unshare", "-m", "sh", "-c", HIDE, "sh", str(folder), str(there))

    def unplug(self) -> None:
        """Nothing comes through any more, and nobody is told."""
        _ip("link", "set", self.cable, "down")

    def plug(self) -> None:
        _ip("link", "set", self.cable, "up")


def can_be() -> bool:
    """Tell whether this user may make hosts here, and the kernel can."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "unshare", "mount"))):
        return False
    try:
        with hosts(1):
            return True
    except AssertionError:
        return False


@contextlib.contextmanager
def hosts(count: int) -> Iterator[tuple[str, list[Host]]]:
    """Give the address of this machine on the bridge, and hosts beside it."""
    number = os.getpid()
    net = f"10.{20 + number % 200}.{number // 200 % 250}"
    bridge = f"nl{number}"
    made = [Host(f"nl{number}-{at}", f"nl{number}c{at}") for at in range(count)]
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("addr", "add", f"{net}.1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for at, host in enumerate(made):
            _ip("netns", "add", host.name)
            _ip("link", "add", host.cable, "type", "veth", "peer", "name", "eth0", "netns", host.name)
            _ip("link", "set", host.cable, "master", bridge, "up")
            _ip("-n", host.name, "addr", "add", f"{net}.{10 + at}/24", "dev", "eth0")
            _ip("-n", host.name, "link", "set", "eth0", "up")
            _ip("-n", host.name, "link", "set", "lo", "up")
        yield f"{net}.1", made
    finally:
        for host in made:
            _ip("netns", "del", host.name, check=False)  # its cable goes with it
        _ip("link", "del", bridge, check=False)


def _ip(*words: str, check: bool = True) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
