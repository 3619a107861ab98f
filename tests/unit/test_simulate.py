"""The simulated instrument writes what PyMeasure writes: the same bytes in the same steps."""

from __future__ import annotations

import ctypes
import math
import os
import re
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from nanolab_daemon.header import parse_header
from nanolab_daemon.procedures import Registry
from nanolab_daemon.ramps import is_proven
from nanolab_daemon.simulate import Course, Event, Instrument, Measurement, it, iv, ivg

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # PyMeasure's own imports are not ours to judge
    from pymeasure.experiment import FloatParameter, IntegerParameter, Metadata, Parameter, Procedure, Results
    from pymeasure.experiment.workers import Worker

QUICK = Course(burn_in_s=0.0, lasts_s=0.0)
HEADER_LINES = 21
_START_TIME = re.compile(rb"Start time: [0-9.]+")
_EVENTS = {0x2: "modify", 0x8: "close_write", 0x10: "close_nowrite", 0x20: "open", 0x1: "access", 0x100: "create"}


class IV(Procedure):  # type: ignore[misc]
    """The parameters of the lab's IV under its program's attribute names, which give their order in the header."""

    DATA_COLUMNS = ("Vsd (V)", "I (A)", "Plate T (degC)", "Ambient T (degC)", "Clock (ms)")
    Irange = FloatParameter("Irange", units="A", default=1e-3)
    NPLC = FloatParameter("NPLC", default=1)
    burn_in_t = FloatParameter("Burn-in time", units="s", default=600)
    chip_group = Parameter("Chip group name", default="Demo")
    chip_number = IntegerParameter("Chip number", default=75)
    info = Parameter("Information", default="simulated")
    laser_v = FloatParameter("Laser voltage", units="V", default=0.0)
    laser_wl = IntegerParameter("Laser wavelength", default=0)
    procedure_version = Parameter("Procedure version", default="2.0.1")
    sample = Parameter("Sample", default="A")
    step_time = FloatParameter("Step time", units="s", default=0.0)
    vg = FloatParameter("VG", units="V", default=0.0)
    vsd_end = FloatParameter("VSD end", units="V", default=0.1)
    vsd_start = FloatParameter("VSD start", units="V", default=-0.1)
    vsd_step = FloatParameter("VSD step", units="V", default=0.01)
    start_time = Metadata("Start time", fget=lambda: 1760370548.4022536)

    rows: tuple[tuple[float, ...], ...] = ()
    path: Path
    sizes: list[int]

    def startup(self) -> None:
        self.sizes.append(self.path.stat().st_size)

    def execute(self) -> None:
        self.sizes.append(self.path.stat().st_size)
        for row in self.rows:
            self.emit("results", dict(zip(self.DATA_COLUMNS, row, strict=True)))
            self.sizes.append(self.path.stat().st_size)


IV.__module__, IV.__qualname__ = "laser_setup.procedures.IV", "IV"


@pytest.fixture
def measurement() -> Measurement:
    return iv(0.1, 0.01, seed=1, course=QUICK)


def written_by_pymeasure(folder: Path, measurement: Measurement) -> tuple[Path, list[int]]:
    procedure = IV()
    procedure.path, procedure.sizes, procedure.rows = folder / "IV.csv", [], measurement.written
    worker = Worker(Results(procedure, str(procedure.path)))
    worker.start()
    threading.Thread.join(worker, 30)
    assert not worker.is_alive()
    return procedure.path, procedure.sizes


def written_by_us(folder: Path, measurement: Measurement, newline: str = "\n") -> tuple[Path, list[int]]:
    instrument = Instrument(folder, [measurement], newline=newline)
    sizes: list[int] = []
    steps = instrument._steps(measurement)
    for _ in steps:
        (path,) = instrument.files
        sizes.append(path.stat().st_size)
    return path, sizes


def timeless(path: Path) -> bytes:
    return _START_TIME.sub(b"Start time: T", path.read_bytes())


@contextmanager
def inotify(folder: Path, seen: list[str]) -> Iterator[None]:
    """Gather the kinds of events in a folder, identical neighbours once."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert libc.inotify_add_watch(fd, os.fsencode(folder), sum(_EVENTS)) >= 0
    try:
        yield
        kinds, contents, at = [], os.read(fd, 1 << 20), 0
        while at < len(contents):
            _, mask, _, length = struct.unpack_from("iIII", contents, at)
            at += 16 + length
            kinds.append(_EVENTS.get(mask, "folder"))
        seen += [kind for kind, _ in groupby(kinds)]
    finally:
        os.close(fd)


def test_the_file_is_the_one_that_pymeasure_writes_byte_for_byte(tmp_path: Path, measurement: Measurement) -> None:
    for name in ("theirs", "ours"):
        (tmp_path / name).mkdir()
    theirs, _ = written_by_pymeasure(tmp_path / "theirs", measurement)
    ours, _ = written_by_us(tmp_path / "ours", measurement)
    assert timeless(ours) == timeless(theirs)
    assert theirs.read_bytes().count(b"\n") == HEADER_LINES + len(measurement.rows)


def test_lines_end_as_on_the_labs_pcs(tmp_path: Path, measurement: Measurement) -> None:
    unix, windows = (
        written_by_us(tmp_path / name, measurement, end)[0] for name, end in (("u", "\n"), ("w", "\r\n"))
    )
    assert timeless(windows) == timeless(unix).replace(b"\n", b"\r\n")


def test_the_file_grows_in_the_steps_of_pymeasure(tmp_path: Path, measurement: Measurement) -> None:
    """Header; the same while instruments connect; metadata inserted; a row at a time."""
    for name in ("theirs", "ours"):
        (tmp_path / name).mkdir()
    _, theirs = written_by_pymeasure(tmp_path / "theirs", measurement)
    _, ours = written_by_us(tmp_path / "ours", measurement)
    assert ours[0] == theirs[0]
    # Before the first row stands a start time, and ours has the digits of this moment.
    assert [b - a for a, b in pairwise(ours[1:])] == [b - a for a, b in pairwise(theirs[1:])]
    assert len(ours) == len(theirs) == 2 + len(measurement.rows)


def test_the_kernel_tells_the_same_story_of_both(tmp_path: Path, measurement: Measurement) -> None:
    theirs: list[str] = []
    ours: list[str] = []
    for name in ("theirs", "ours"):
        (tmp_path / name).mkdir()
    with inotify(tmp_path / "theirs", theirs):
        written_by_pymeasure(tmp_path / "theirs", measurement)
    instrument = Instrument(tmp_path / "ours", [measurement])
    instrument._free_name = lambda procedure: tmp_path / "ours" / f"{procedure}.csv"  # type: ignore[method-assign]
    with inotify(tmp_path / "ours", ours):
        instrument.measure()
    assert ours == theirs
    # The second "open" is two: of the handle that stays, and of the one that rewrites.
    queued, metadata, rows = ["create", "open", "modify"], ["open", "access", "modify"], ["modify"]
    assert ours == [*queued, "close_write", *metadata, "close_write", *rows, "close_write"]


@pytest.mark.parametrize(
    "measured",
    [
        iv(1.0, 0.01, seed=1, course=QUICK),
        iv(0.1, 0.01, seed=1, course=QUICK),
        ivg(5.0, 0.05, seed=1, course=QUICK),
        it(40.0, 1.25, seed=1, course=QUICK),
    ],
    ids=lambda one: f"{one.procedure}-{len(one.rows)}",
)
def test_what_is_measured_is_what_the_header_prescribes(tmp_path: Path, measured: Measurement) -> None:
    path, _ = written_by_us(tmp_path, measured, "\r\n")
    header = parse_header(path.read_bytes())
    procedure = Registry.builtin().get(measured.procedure)
    assert procedure is not None
    assert header.columns == measured.columns == procedure.columns[: len(measured.columns)]
    assert set(procedure.columns[len(measured.columns) :]) <= {"Vds (V)", "Timestamp"}  # of the first months
    assert is_proven(procedure, header, len(measured.rows), measured.rows[-1][0])
    assert all(math.isfinite(row[1]) and abs(row[1]) < 1e-3 for row in measured.rows)


def test_the_same_seed_gives_the_same_noise(measurement: Measurement) -> None:
    assert repr(iv(0.1, 0.01, seed=1, course=QUICK).rows) == repr(measurement.rows)
    assert repr(iv(0.1, 0.01, seed=2, course=QUICK).rows) != repr(measurement.rows)


def test_names_count_up_as_in_pymeasure(tmp_path: Path, measurement: Measurement) -> None:
    instrument = Instrument(tmp_path, [measurement, measurement], speed=1000)
    instrument.measure()
    day = next(tmp_path.iterdir()).name
    assert sorted(path.name for path in tmp_path.rglob("*.csv")) == [f"IV{day}_1.csv", f"IV{day}_2.csv"]


def test_an_aborted_measurement_ends_early_and_a_damaged_line_stands_as_it_is(tmp_path: Path) -> None:
    told: list[Event] = []
    course = Course(burn_in_s=0, lasts_s=0, stops_after=7, damage={3: "torn"})
    Instrument(tmp_path, [iv(0.1, 0.01, seed=1, course=course)], told=told.append).measure()
    (path,) = tmp_path.rglob("*.csv")
    rows = path.read_bytes().split(b"\r\n")[HEADER_LINES:]
    assert len(rows) == 8
    assert rows[3] == b"torn"
    assert [event.words.partition(":")[0] for event in told] == ["queued", "begins", "ends after 7 of 44 rows"]


def test_stopping_breaks_off_and_closes_every_file(tmp_path: Path) -> None:
    begun = threading.Event()

    def hear(event: Event) -> None:
        if event.words == "begins":
            begun.set()

    slow: dict[str, Any] = {"seed": 1, "course": Course(lasts_s=3600)}
    instrument = Instrument(tmp_path, [iv(1.0, 0.01, **slow), ivg(5.0, 0.05, **slow)], told=hear)
    instrument.start()
    assert begun.wait(10)
    instrument.stop()
    assert not instrument.busy
    held = {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if fd.isdigit() and _is_link(fd)}
    assert not any(str(path) in held for path in instrument.files)


def _is_link(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Etc/GMT+12"])
def test_a_file_has_the_date_of_the_instruments_own_clock(tmp_path: Path, zone: str) -> None:
    """The two zones have never the same date."""
    before = datetime.now(ZoneInfo(zone)).date()
    instrument = Instrument(tmp_path, [], zone=ZoneInfo(zone))
    path = instrument._free_name("IV")
    assert path.name == f"IV{path.parent.name}_1.csv"
    assert before.isoformat() <= path.parent.name <= datetime.now(ZoneInfo(zone)).date().isoformat()
