"""Whatever happens in the raw folder, the daemon ends where a fresh backfill would.

`SEQUENCES=2000 ./go test tests/stories/test_convergence.py` tries random sequences for about an hour.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import instrument
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from lab import QUICK, SCAN_ONLY, Lab, assert_converged, until

from nanolab_daemon.courier import SilentError
from nanolab_daemon.rawfolder import RawFolder

SEQUENCES = int(os.environ.get("SEQUENCES", "12"))
NAMES = st.sampled_from(
    ["a.csv", "b.csv", "2025-01-02/a.csv", "2025-01-02/c.csv", "deep/er/d.csv", "x.part", "caf\udce9.csv"]
)
WHICH = st.integers(0, 5)


def measurements() -> list[instrument.Measurement]:
    """Sweeps and series, two of them of one run with other bytes, one without a start time."""
    one = instrument.iv(1, start=1757018821.0)
    made = [
        one,
        replace(one, rows=one.rows[:-3], parameters={**one.parameters, "Information": "again"}),
        instrument.ivg(2, start=1757020000.0),
        instrument.it(3, start=1757030000.0, rows=30),
        replace(instrument.iv(4), start_time=None),
        replace(instrument.iv(5), start_time="no time at all"),
    ]
    # A long burn-in in the header would make every file that nobody is seen to close wait for it.
    return [replace(m, parameters={k: v for k, v in m.parameters.items() if k != "Burn-in time"}) for m in made]


class Folder(RuleBasedStateMachine):
    """Random things happen to a raw folder while the daemon looks on, loses events, or is away."""

    watch = QUICK

    @initialize()
    def begin(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="nanolab-test-"))
        self.lab = Lab(self.home, watch=self.watch)
        self.all = measurements()
        self.context: Any = None
        self.running: Any = None
        self.start()

    def start(self) -> None:
        self.context = self.lab.daemon()
        self.running = self.context.__enter__()

    def stop(self) -> None:
        if self.context is not None:
            self.context.__exit__(None, None, None)
            self.context = self.running = None

    def path(self, name: str) -> Path:
        path = self.lab.raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @rule(name=NAMES, which=WHICH)
    def queue(self, name: str, which: int) -> None:
        self.path(name).write_bytes(self.all[which].queued())

    @rule(name=NAMES, which=WHICH, part=st.floats(0, 1))
    def write(self, name: str, which: int, part: float) -> None:
        one = self.all[which]
        self.path(name).write_bytes(one.data(int(part * len(one.rows))))

    @rule(name=NAMES, which=WHICH)
    def finish(self, name: str, which: int) -> None:
        self.path(name).write_bytes(self.all[which].data())

    @rule(name=NAMES, text=st.sampled_from([b"0.5,1e-9,nan,nan,nan\r\n", b"half a ro", b"not,a,row\r\n", b"\0" * 50]))
    def append(self, name: str, text: bytes) -> None:
        with self.path(name).open("ab") as file:
            file.write(text)

    @rule(name=NAMES)
    def rewrite_header(self, name: str) -> None:
        path = self.path(name)
        if path.exists():
            path.write_bytes(path.read_bytes().replace(b"Alisson", b"Margarida"))

    @rule(name=NAMES, size=st.integers(0, 900))
    def cut(self, name: str, size: int) -> None:
        path = self.path(name)
        if path.exists():
            os.truncate(path, min(size, path.stat().st_size))

    @rule(old=NAMES, new=NAMES)
    def move(self, old: str, new: str) -> None:
        if self.path(old).exists() and old != new:
            self.path(old).replace(self.path(new))

    @rule(old=NAMES, new=NAMES)
    def copy(self, old: str, new: str) -> None:
        if self.path(old).exists() and not (self.path(new).exists() and self.path(old).samefile(self.path(new))):
            shutil.copyfile(self.path(old), self.path(new))

    @rule(old=NAMES, new=NAMES)
    def link(self, old: str, new: str) -> None:
        if self.path(old).exists() and not self.path(new).exists():
            os.link(self.path(old), self.path(new))

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        self.path(name).unlink(missing_ok=True)

    @rule()
    def move_folder(self) -> None:
        if (self.lab.raw / "2025-01-02").exists() and not (self.lab.raw / "2025-01-03").exists():
            (self.lab.raw / "2025-01-02").rename(self.lab.raw / "2025-01-03")

    @precondition(lambda self: self.running is not None)
    @rule()
    def drop_events(self) -> None:
        watch = self.running._lookout.watch
        if watch is not None:
            watch._hints.clear()

    @rule()
    def restart(self) -> None:
        self.stop()
        self.start()

    @rule()
    def let_it_work(self) -> None:
        if self.running is not None:
            self.lab.wait_quiet()

    def teardown(self) -> None:
        try:
            if self.context is not None:
                self.lab.wait_quiet()
                self.stop()
                assert_converged(self.lab)
        finally:
            self.stop()
            shutil.rmtree(self.home, ignore_errors=True)


class ScannedFolder(Folder):
    """The same where no events can be had."""

    watch = SCAN_ONLY


class MoodyFolder(Folder):
    """The same on a share that now and then is slow to answer, whatever it is asked."""

    watch = SCAN_ONLY

    @initialize()
    def begin(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.calm = False
        chance = random.Random(1)
        call = RawFolder._call

        def moody(raw: RawFolder, *arguments: Any) -> Any:
            if not self.calm and chance.random() < 0.3:
                raise SilentError("it")
            return call(raw, *arguments)

        self.patch.setattr(RawFolder, "_call", moody)
        super().begin()

    @precondition(lambda self: self.running is not None)
    @rule()
    def be_mounted_anew(self) -> None:
        self.running._lookout.places = {}  # the next look adopts what is there

    def teardown(self) -> None:
        try:
            self.calm = True
            if self.running is not None:  # which may have been adopted in a bad mood: the next look puts that right
                until(lambda: self.running._engine.trusts(b"x"), what="for the raw folder to be trusted")
            super().teardown()
        finally:
            self.patch.undo()


def machine(kind: type[Folder], times: int = 1) -> Any:
    case = kind.TestCase
    case.settings = settings(
        max_examples=times * SEQUENCES,
        stateful_step_count=15,
        derandomize="SEQUENCES" not in os.environ,  # the same ones each time, unless more are asked for
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
        print_blob=True,
    )
    return pytest.mark.timeout(3600)(case)


TestEvents = machine(Folder)
TestScan = machine(ScannedFolder)
TestMoody = machine(MoodyFolder, 2)
