"""A laboratory for tests: four folders, the daemon over them in a thread or a process, a fresh backfill to compare.

`InlinePool` does a pool's work at once in the caller's process, for tests that need hundreds of daemons and no crash
of a worker; everything else is the real thing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import outputs
import polars as pl
import pytest

from nanolab_daemon import batch, pools, reconcile, service
from nanolab_daemon.catalog import FILE_NAME, Catalog
from nanolab_daemon.config import Config, Log, Manifest, Paths, Pools, Watch, WatchMode
from nanolab_daemon.control import ask
from nanolab_daemon.lock import Lock
from nanolab_daemon.procedures import Registry
from nanolab_daemon.workpool import Counts, Finished

QUICK = Watch(settle_s=0.05, quiet_s=0.4, poll_s=0.02, rescan_s=0.3)


class InlinePool:
    """A pool without processes. `meanwhile` is called between the work and the answer."""

    meanwhile: ClassVar[Callable[[str], None]] = staticmethod(lambda _: None)

    def __init__(self, name: str, entry: str, *, workers: int, settings: object, **_: object) -> None:
        module, _, factory = entry.partition(":")
        self.name, self.size = name, workers
        self._factory = getattr(import_module(module), factory)
        self._handler = self._factory(settings)
        self._done: list[Any] = []
        self._bell = os.eventfd(0, os.EFD_NONBLOCK)

    def start(self) -> None:
        pass

    idle = property(lambda self: 0 if self._done else 1)
    ready = 1
    counts = Counts()

    def reconfigure(self, settings: object) -> None:
        self._handler = self._factory(settings)

    def cancel(self, batch_id: int) -> None:
        pass  # it is done already

    def submit(self, batch_id: int, items: Sequence[object]) -> None:
        self._done.append(Finished(batch_id, self._handler(items, lambda *_: None)))
        InlinePool.meanwhile(self.name)
        os.eventfd_write(self._bell, 1)

    def poll(self, now: float) -> list[Any]:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        done, self._done = self._done, []
        return done

    def next_deadline(self) -> None:
        return None

    def describe(self, now: float) -> dict[str, object]:
        return {"name": self.name}

    def fileno(self) -> int:
        return self._bell

    def close(self, timeout_s: float = 0.0) -> list[Any]:
        return []

    def kill(self) -> list[Any]:
        if self._bell >= 0:
            os.close(self._bell)
            self._bell = -1
        return []


@contextlib.contextmanager
def inline_pools() -> Iterator[None]:
    """Let engines made within work without processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pools, "Pool", InlinePool)
        patch.setattr(reconcile, "Pool", InlinePool)
        yield


def until(condition: Callable[[], Any], limit_s: float = 20.0, what: str = "") -> Any:
    """Wait for a condition, up to a limit that is generous because machines are slow, never because of a guess."""
    deadline = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {limit_s} s in vain {what or condition}"
        time.sleep(0.01)
    return value


class Lab:
    """Four folders below `home` and what happens in them."""

    patience_s: ClassVar[float] = 20.0  # for a daemon to listen

    def __init__(self, home: Path, *, watch: Watch = QUICK, workers: int = 1) -> None:
        self.home = home
        self.raw, self.stage, self.output, self.state = (home / n for n in ("raw", "stage", "output", "state"))
        self.raw.mkdir(parents=True, exist_ok=True)
        self.config = Config(
            paths=Paths(raw=self.raw, stage=self.stage, output=self.output, state=self.state),
            watch=watch,
            pools=Pools(stage_workers=workers, segment_workers=workers),
            manifest=Manifest(refresh_s=0.5),
            log=Log(),
        )

    def age(self, seconds: float = 3600.0) -> None:
        """Let all files be old: what nobody was seen to close waits for the silence that its header allows."""
        then = time.time() - seconds
        for path in self.raw.rglob("*.csv"):
            os.utime(path, (then, then), follow_symlinks=False)

    # -- the daemon in a thread

    @contextlib.contextmanager
    def daemon(self) -> Iterator[service.Daemon]:
        """Run the daemon in a thread, with pools without processes; stop it gracefully at the end."""
        with inline_pools(), Lock(self.state, "run"):
            failed: list[BaseException] = []
            ready = threading.Event()
            daemons: list[service.Daemon] = []

            def work() -> None:
                catalog = None
                try:
                    catalog = Catalog.open(self.state / FILE_NAME)
                    daemons.append(service.Daemon(self.config, catalog, Registry.builtin(), lambda: self.config))
                    ready.set()
                    daemons[0].run()
                except BaseException as error:  # noqa: BLE001 -- told in the test's own thread
                    failed.append(error)
                    ready.set()
                finally:
                    if catalog is not None:
                        catalog.close()

            thread = threading.Thread(target=work, name="daemon")
            thread.start()
            ready.wait()
            try:
                if daemons:
                    until(lambda: failed or self.status(), what="for the daemon to listen")
                    yield daemons[0]
            finally:
                if daemons:
                    daemons[0].stop()
                thread.join(30)
                assert not thread.is_alive()
                if failed:
                    raise failed[0]

    # -- the daemon as a process

    def spawn(self, *, log: Path | None = None) -> subprocess.Popen[bytes]:
        """Start the daemon as a process of its own and wait until it listens."""
        file = self.home / "config.toml"
        file.write_text(toml(self.config))
        stderr = (log or self.home / "daemon.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", "nanolab_daemon", "run", "--config", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            cwd=self.home,
        )
        stderr.close()
        ready = lambda: process.poll() is not None or self.status()  # noqa: E731
        try:
            until(ready, self.patience_s, "for the daemon to listen")
        except BaseException:
            process.kill()
            process.wait()
            raise
        assert process.poll() is None, (log or self.home / "daemon.log").read_text()
        return process

    @contextlib.contextmanager
    def process(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run the daemon as a process; SIGTERM at the end, and it must end well."""
        process = self.spawn()
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
            code = process.wait(30)
        assert code in (0, -signal.SIGKILL), (self.home / "daemon.log").read_text()

    # -- what is known of it

    def status(self) -> dict[str, Any] | None:
        return ask(self.state, {"ask": "status"}) if self.state.is_dir() else None

    def has_looked(self) -> bool:
        """Tell whether the daemon has held the published files against the ledger once."""
        status = self.status()
        return status is not None and status["looks_at_published"] > 0

    def wait_quiet(self, limit_s: float = 30.0) -> dict[str, Any]:
        """Wait until the daemon has scanned everything anew and has nothing left to do."""
        answer = until(lambda: ask(self.state, {"ask": "rescan"}), limit_s, "for an answer")

        def quiet() -> dict[str, Any] | None:
            status = self.status()
            return status if status and status["idle"] and status["pass"] >= answer["pass"] else None

        try:
            found: dict[str, Any] = until(quiet, limit_s, "for the daemon to be idle")
        except AssertionError as error:
            raise AssertionError(f"{error}: asked for pass {answer['pass']}, status is {self.status()}") from None
        return found

    def files(self) -> dict[bytes, tuple[str, str]]:
        """Give state and reason of every present file."""
        catalog = Catalog.open_to_read(self.state / FILE_NAME)
        if catalog is None:
            return {}
        try:
            return {r.path: (str(r.state), r.reason) for r in catalog.files("present")}
        finally:
            catalog.close()

    def state_of(self, path: str | Path) -> str | None:
        relative = os.fsencode(os.path.relpath(self.raw / path, self.raw))
        found = self.files().get(relative)
        return found[0] if found else None

    def runs(self) -> dict[str, Any]:
        catalog = Catalog.open_to_read(self.state / FILE_NAME)
        if catalog is None:
            return {}
        try:
            return {run.run_id: run for run in catalog.runs()}
        finally:
            catalog.close()

    def snapshot(self) -> dict[str, pl.DataFrame]:
        return outputs.snapshot(self.stage, self.output)

    def backfill(self, command: str = "backfill", **more: Any) -> batch.Ended:
        """Run a backfill over this lab, with pools without processes."""
        with inline_pools():
            return batch.run(self.config, command, **more)

    def fresh(self) -> Lab:
        """Backfill the same raw folder into folders of its own."""
        number = 1 + sum(1 for path in self.home.glob("fresh-*"))
        lab = Lab(self.home / f"fresh-{number}", watch=self.config.watch)
        lab.raw = self.raw
        paths = replace(lab.config.paths, raw=self.raw).of_lab(self.config.lab.name)
        lab.stage, lab.output = paths.stage, paths.output
        lab.config = replace(lab.config, paths=paths, lab=self.config.lab)
        lab.backfill()
        return lab


def assert_converged(lab: Lab) -> None:
    """Hold the outputs and verdicts of a quiet lab against those of a fresh backfill."""
    fresh = lab.fresh()
    missing = {run.run_id for run in lab.runs().values() if run.source_missing}
    mine = {
        path: frame
        for path, frame in lab.snapshot().items()
        if "_manifest" not in path and not any(f"run_id={run_id}/" in path for run_id in missing)
    }
    theirs = {path: frame for path, frame in fresh.snapshot().items() if "_manifest" not in path}
    outputs.assert_equal(mine, theirs, ignoring=outputs.BOOKKEEPING)
    assert _verdicts(lab) == _verdicts(fresh)
    assert not outputs.leftovers(fresh.stage, fresh.output)


def _verdicts(lab: Lab) -> Mapping[tuple[bytes, ...], Counter[tuple[str, str]]]:
    """Give the verdicts on all files; which of several identical copies is the source is left open."""
    groups: dict[bytes, list[bytes]] = {}
    files = lab.files()
    for path in files:
        groups.setdefault((lab.raw / os.fsdecode(path)).read_bytes(), []).append(path)
    return {tuple(sorted(paths)): Counter(files[path] for path in paths) for paths in groups.values()}


def toml(config: Config) -> str:
    """Write a configuration as TOML."""
    lines: list[str] = []
    section = ""
    for key, value in config.values().items():
        above, _, name = key.partition(".")
        if above != section:
            lines.append(f"[{above}]")
            section = above
        if isinstance(value, bool):
            text = str(value).lower()
        elif isinstance(value, int | float):
            text = repr(value)
        elif key == "pools.path_map":
            text = "{" + ", ".join(f'"{here}" = "{there}"' for here, there in value) + "}"
        elif isinstance(value, tuple):
            text = "[" + ", ".join(f'"{one}"' for one in value) + "]"
        else:
            text = f'"{"" if value is None else value}"'
        lines.append(f"{name} = {text}")
    return "\n".join(lines) + "\n"


SCAN_ONLY = replace(QUICK, mode=WatchMode.SCAN)
