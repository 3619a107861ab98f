"""A simulated instrument: measurements with plausible physics, written step by step as PyMeasure writes its files.

Writes CSV files and nothing else; knows neither the daemon nor what it makes of them.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from pathlib import Path
from typing import TextIO

from nanolab_daemon.procedures import PathKind
from nanolab_daemon.ramps import set_points

NAN = math.nan
SENSOR = ("Plate T (degC)", "Ambient T (degC)", "Clock (ms)")
SENSOR_OFF = (NAN, NAN, NAN)
_LIT_WAVELENGTH_NM = 455
_SAMPLE_S = 0.0835  # between two rows of a real time series, in the median

Row = tuple[float, ...]


class ResultsFile:
    """One results file in the hands of the instrument program, each call one step of its life.

    Uses the same layers as PyMeasure's `Results` and `Recorder`, so that the system calls are the same too. Lines end
    with CRLF as on the lab's PCs: there, text mode makes it of every line feed.
    """

    def __init__(self, path: Path, *, newline: str = "\r\n") -> None:
        self.path = path
        self._newline = newline
        self._recorder: TextIO | None = None

    def queue(self, procedure: str, parameters: Mapping[str, str], columns: Iterable[str]) -> None:
        """Write the header at the moment the measurement is queued, and close."""
        lines = [f"#Procedure: <{procedure}>", "#Parameters:"]
        lines += [f"#\t{name}: {_escaped(value)}" for name, value in parameters.items()]
        lines += ["#Data:", ",".join(columns)]
        with self.path.open("w", encoding="utf-8", newline=self._newline) as file:
            file.write("\n".join([*lines, ""]))

    def open(self) -> None:
        """Open the handle that will append the rows, as the worker does at its start; nothing is written."""
        self._recorder = self.path.open("a", encoding="utf-8", newline=self._newline)

    def store_metadata(self, metadata: Mapping[str, str]) -> None:
        """Rewrite the whole file in place with the metadata in front of the data, and close this second handle."""
        block = ["#Metadata:", *(f"#\t{name}: {_escaped(value)}" for name, value in metadata.items())]
        with self.path.open("r+", encoding="utf-8", newline="") as file:
            lines = file.readlines()
            lines.insert(lines.index(f"#Data:{self._newline}"), "".join(line + self._newline for line in block))
            file.seek(0)
            file.writelines(lines)

    def append(self, row: Row) -> None:
        """Write one row: one write(2), at once."""
        self.append_text(",".join(map(repr, row)))

    def append_text(self, line: str) -> None:
        """Write one line as it stands."""
        assert self._recorder is not None, "open() comes first"
        self._recorder.write(line + "\n")
        self._recorder.flush()

    def close(self) -> None:
        """Close the appending handle: the end of a measurement, however it ended."""
        if self._recorder is not None:
            self._recorder.close()
            self._recorder = None


@dataclass(frozen=True, slots=True)
class Course:
    """How a measurement goes."""

    starts_at_s: float = 0.0  # after it was queued; infinite: never
    burn_in_s: float = 0.6  # between the metadata and the first row
    lasts_s: float = 4.0  # from the first row to the last of a whole measurement
    stops_after: int | None = None  # aborted after so many rows
    damage: Mapping[int, str] = field(default_factory=dict)  # lines that stand in the place of rows


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the instrument is asked to measure."""

    procedure: str
    about: str
    parameters: Mapping[str, str]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]  # of the whole measurement
    course: Course

    @property
    def written(self) -> tuple[Row, ...]:
        """The rows that come into the file."""
        return self.rows[: self.course.stops_after]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at the instrument."""

    measurement: Measurement
    file: Path
    words: str


class Instrument:
    """Runs several measurements at once, in a thread of its own, so that each file grows as in the laboratory.

    `speed` divides every span of time. `told` hears of each event, in the instrument's thread.
    """

    def __init__(
        self,
        folder: Path,
        programme: Iterable[Measurement],
        *,
        speed: float = 1.0,
        told: Callable[[Event], None] = lambda _: None,
        newline: str = "\r\n",
        zone: tzinfo | None = None,
    ) -> None:
        self.files: dict[Path, Measurement] = {}
        self._folder = folder
        self._programme = tuple(programme)
        self._speed = speed
        self._told = told
        self._newline = newline
        self._zone = zone
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self.measure, name="instrument", daemon=True)

    def start(self) -> None:
        """Begin to measure in the background."""
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether something is still being measured."""
        return self._thread.is_alive()

    def stop(self, limit_s: float = 5.0) -> None:
        """Break off, and wait for the files to be closed."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join(limit_s)

    def measure(self) -> None:
        """Do the whole programme in the calling thread; each measurement says for how long it waits next."""
        now = 0.0
        began = time.monotonic()
        order = itertools.count()
        due = [(0.0, next(order), self._steps(one)) for one in self._programme]
        heapq.heapify(due)
        while due and not self._stopped.is_set():
            at, _, steps = heapq.heappop(due)
            now = max(now, at)
            if self._stopped.wait(max(0.0, began + now / self._speed - time.monotonic())):
                steps.close()
                break
            pause_s = next(steps, None)
            if pause_s is not None:
                heapq.heappush(due, (at + pause_s, next(order), steps))
        for _, _, steps in due:
            steps.close()

    def _steps(self, measurement: Measurement) -> Generator[float]:
        """Take one measurement from step to step, giving the seconds until the next."""
        name, course = measurement.procedure, measurement.course
        path = self._free_name(name)
        file = ResultsFile(path, newline=self._newline)
        self.files[path] = measurement
        file.queue(f"laser_setup.procedures.{name}.{name}", measurement.parameters, measurement.columns)
        self._told(Event(measurement, path, f"queued: {measurement.about}"))
        if math.isinf(course.starts_at_s):
            return
        yield course.starts_at_s
        file.open()
        try:
            file.store_metadata({"Start time": repr(time.time())})
            self._told(Event(measurement, path, "begins"))
            yield course.burn_in_s
            for number, row in enumerate(measurement.written):
                if number in course.damage:
                    file.append_text(course.damage[number])
                else:
                    file.append(row)
                yield course.lasts_s / len(measurement.rows)
        finally:
            file.close()
        self._told(Event(measurement, path, f"ends after {len(measurement.written)} of {len(measurement.rows)} rows"))

    def _free_name(self, procedure: str) -> Path:
        day = datetime.now(self._zone).strftime("%Y-%m-%d")  # the date of the PC's own clock
        folder = self._folder / day
        folder.mkdir(parents=True, exist_ok=True)
        names = (folder / f"{procedure}{day}_{number}.csv" for number in itertools.count(1))
        return next(name for name in names if not name.exists())


# --- what is measured: a graphene transistor, lit or in the dark


def iv(end_v: float, step_v: float, *, seed: int, course: Course, gate_v: float = 0.0) -> Measurement:
    """Measure the current over the drain voltage, from 0 to -end, to +end and back."""
    noise = random.Random(seed)  # noqa: S311 -- noise, no secret
    sheet = _resistance_ohm(gate_v)
    rows = tuple(
        (volt, _read(volt / sheet * (1 + 0.02 * volt * volt), 4e-9, noise), *SENSOR_OFF)
        for volt in _ramp(PathKind.TWO_STEPS, -end_v, end_v, step_v)
    )
    parameters = _parameters(
        {"Irange": "0.001 A", "NPLC": "1", "Burn-in time": "600 s"},
        {"Laser voltage": "0 V", "Laser wavelength": "0", "Procedure version": "2.0.1", "Sample": "A"},
        {"Step time": "0 s", "VG": f"{gate_v:g} V"},
        {"VSD end": f"{end_v:g} V", "VSD start": f"{-end_v:g} V", "VSD step": f"{step_v:g} V"},
    )
    about = f"current over drain voltage, ±{end_v:g} V in steps of {step_v:g} V"
    return Measurement("IV", about, parameters, ("Vsd (V)", "I (A)", *SENSOR), rows, course)


def ivg(end_v: float, step_v: float, *, seed: int, course: Course) -> Measurement:
    """Measure the current over the gate voltage, from 0 to -end, to +end, to -end and back."""
    noise = random.Random(seed)  # noqa: S311 -- noise, no secret
    rows = tuple(
        (volt, _read(0.1 / _resistance_ohm(volt), 3e-8, noise), *SENSOR_OFF)
        for volt in _ramp(PathKind.ZERO_START_END_START_ZERO, -end_v, end_v, step_v)
    )
    parameters = _parameters(
        {"Irange": "0.001 A", "NPLC": "1", "Burn-in time": "60 s"},
        {"Laser voltage": "0 V", "Laser wavelength": "0", "Procedure version": "2.1.0", "Sample": "A"},
        {"Step time": "0 s", "VDS": "0.1 V"},
        {"VG end": f"{end_v:g} V", "VG start": f"{-end_v:g} V", "VG step": f"{step_v:g} V"},
    )
    about = f"current over gate voltage, ±{end_v:g} V in steps of {step_v:g} V"
    return Measurement("IVg", about, parameters, ("Vg (V)", "I (A)", *SENSOR), rows, course)


def it(period_s: float, laser_v: float, *, seed: int, course: Course) -> Measurement:
    """Measure the current over time: half a period dark, half a period lit, half a period dark."""
    noise = random.Random(seed)  # noqa: S311 -- noise, no secret
    rows: list[Row] = []
    clock_s, excited, dark_a = 0.0, 0.0, 0.1 / _resistance_ohm(-1.0)
    while not rows or rows[-1][0] < 1.5 * period_s:
        lit = 0.5 * period_s <= clock_s < period_s
        # Traps fill while it is lit, and empty more slowly than they filled.
        towards, tau_s = (1.0, 0.04 * period_s) if lit else (0.0, 0.12 * period_s)
        excited += (towards - excited) * -math.expm1(-_SAMPLE_S / tau_s)
        current = dark_a * (1 + 0.05 * excited)
        rows.append((float(f"{clock_s:.7g}"), _read(current, 1e-8, noise), laser_v if lit else 0.0, *SENSOR_OFF))
        clock_s += _SAMPLE_S + noise.uniform(-2e-4, 2e-3)
    parameters = _parameters(
        {"Irange": "0.0001 A", "NPLC": "1", "T step start time": "120 s"},
        {"Initial (current) T": "0 C", "Laser ON+OFF period": f"{period_s:g} s", "Laser voltage": f"{laser_v:g} V"},
        {"Laser wavelength": str(_LIT_WAVELENGTH_NM), "Procedure version": "2.2.0", "Sample": "A"},
        {"Sampling time (excluding Keithley)": "0 s", "Target T": "25 C", "VDS": "0.1 V", "VG": "-1 V"},
    )
    about = f"current over time, {0.5 * period_s:g} s each of dark, {_LIT_WAVELENGTH_NM} nm light and dark"
    columns = ("t (s)", "I (A)", "VL (V)", *SENSOR)
    return Measurement("It", about, parameters, columns, tuple(rows), course)


def _ramp(kind: PathKind, start: float, end: float, step: float) -> Iterable[float]:
    points = set_points(kind, start, end, step)
    assert points is not None, "the instrument is asked for a ramp that does not exist"
    return points


def _resistance_ohm(gate_v: float) -> float:
    """Give the channel's resistance: contacts, and carriers that the gate adds to those left at the Dirac point."""
    residual, per_volt, dirac_v = 6e11, 7.2e11, 1.1  # carriers per cm², per V, and where they are fewest
    carriers = math.hypot(residual, per_volt * (gate_v - dirac_v))
    return 1.2e3 + 4.0 / (carriers * 1.602e-19 * 4500)


def _read(ampere: float, sigma: float, noise: random.Random) -> float:
    """Read a current as the meter gives it: noisy, seven digits."""
    return float(f"{ampere + noise.gauss(0.0, sigma):.7g}")


def _parameters(first: Mapping[str, str], *others: Mapping[str, str]) -> dict[str, str]:
    """Put parameters in the header's order: by attribute names of the program, with those of the chip after three."""
    chip = {"Chip group name": "Demo", "Chip number": "75", "Information": "simulated"}
    return {**first, **chip, **{name: value for other in others for name, value in other.items()}}


def _escaped(value: str) -> str:
    return value.encode("unicode_escape").decode("ascii")
