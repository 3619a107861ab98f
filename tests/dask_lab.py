"""A real Dask scheduler and real workers on loopback, each a process of its own that can be killed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
QUICK = {  # a lost worker or scheduler is noticed in seconds
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "12s",  # it wants 11 probes at least
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "10s",
}


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as one:
        one.bind((host, 0))
        return int(one.getsockname()[1])


class Cluster:
    """A scheduler at an address that stays, and workers that come and go."""

    def __init__(self, home: Path, *, stage: int = 1, segment: int = 1, host: str = "127.0.0.1") -> None:
        self.home = home
        self._host, self._port = host, free_port(host)
        self.address = f"tcp://{host}:{self._port}"
        self._resources = f"nanolab_stage={stage} nanolab_segment={segment}"
        self._threads = stage + segment + 1
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []
        home.mkdir(parents=True, exist_ok=True)

    def start_scheduler(self) -> None:
        where = ("--host", self._host, "--port", str(self._port))
        self.scheduler = self._spawn("scheduler", "dask_scheduler", *where, "--no-dashboard", "--no-show")
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection((self._host, self._port), 1):
                return
            time.sleep(0.05)
        raise AssertionError("no scheduler")

    def start_worker(
        self, *, environment: dict[str, str] | None = None, nanny: bool = False, within: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        """Start a worker; `within` is a command that runs another one, such as on another host."""
        worker = self._spawn(
            f"worker{len(self.workers)}",
            "dask_worker",
            self.address,
            "--nanny" if nanny else "--no-nanny",
            "--nthreads",
            str(self._threads),
            "--resources",
            self._resources,
            "--no-dashboard",
            "--local-directory",
            str(self.home / "scratch"),
            environment=environment,
            within=within,
        )
        self.workers.append(worker)
        return worker

    def _spawn(
        self,
        name: str,
        program: str,
        *words: str,
        environment: dict[str, str] | None = None,
        within: Sequence[str] = (),
    ) -> subprocess.Popen[bytes]:
        every = {**os.environ, **QUICK, "PYTHONPATH": str(ROOT), **(environment or {})}
        with (self.home / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [*within, sys.executable, "-m", f"distributed.cli.{program}", *words],
                env=every,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def kill_scheduler(self) -> None:
        if self.scheduler is not None:
            end(self.scheduler)
            self.scheduler = None

    def keep(self, workers: int) -> None:
        """Have so many workers alive, as systemd would with Restart=always."""
        self.workers = [one for one in self.workers if one.poll() is None]
        while len(self.workers) < workers:
            self.start_worker()

    def stop(self) -> None:
        for one in self.workers:
            end(one)
        self.kill_scheduler()


def end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


@contextlib.contextmanager
def cluster(home: Path, workers: int = 2, **options: int) -> Iterator[Cluster]:
    found = Cluster(home, **options)
    try:
        found.start_scheduler()
        found.keep(workers)
        yield found
    finally:
        found.stop()
