"""File servers that can fall silent: every call on what they serve hangs until they answer again."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import until


class Server:
    """Serves one folder at the place of another, as a program in user space."""

    def __init__(self, source: Path, target: Path) -> None:
        target.mkdir(exist_ok=True)
        self.target = target
        self.process = subprocess.Popen(["bindfs", "-f", "-o", "attr_timeout=0,entry_timeout=0", source, target])
        until(lambda: os.path.ismount(target), what="for the mount")

    def fall_silent(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def answer(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def served(source: Path, target: Path) -> Iterator[Server]:
    source.mkdir(exist_ok=True)
    server = Server(source, target)
    try:
        yield server
    finally:
        server.answer()
        subprocess.run(["umount", "-l", target], check=False, stderr=subprocess.DEVNULL)
        server.process.terminate()
        server.process.wait(10)
