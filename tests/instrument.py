"""Instrument files made for tests: the text that PyMeasure would write for a measurement, seeded and small.

`measurement` describes one; `text` writes it. Line ends are CRLF, as on the instrument's PC.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nanolab_daemon.procedures import PathKind
from nanolab_daemon.ramps import set_points

CHIP = {"Chip group name": "Alisson", "Chip number": "79", "Sample": "F"}
SENSOR = ("Plate T (degC)", "Ambient T (degC)", "Clock (ms)")


@dataclass(frozen=True)
class Measurement:
    """What an instrument file tells, part by part; `rows` are the texts of its rows."""

    procedure: str
    parameters: Mapping[str, str]
    columns: Sequence[str]
    rows: Sequence[str]
    start_time: str | None = "1757018821.6358175"
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def header(self) -> str:
        lines = [f"#Procedure: <laser_setup.procedures.{self.procedure}.{self.procedure}>", "#Parameters:"]
        lines += [f"#\t{name}: {value}" for name, value in self.parameters.items()]
        metadata = dict(self.metadata)
        if self.start_time is not None:
            metadata["Start time"] = self.start_time
        if metadata:
            lines += ["#Metadata:", *(f"#\t{name}: {value}" for name, value in metadata.items())]
        return "\r\n".join([*lines, "#Data:", ",".join(self.columns), ""])

    def data(self, rows: int | None = None) -> bytes:
        """Write the file as it is after so many rows (all, if None)."""
        return (self.header + "".join(f"{row}\r\n" for row in self.rows[:rows])).encode()

    def queued(self) -> bytes:
        """Write the file as it is while the measurement waits in the queue."""
        return replace(self, start_time=None, metadata={}).data(0)

    def first(self, rows: int) -> Measurement:
        """Give the measurement as if it had been aborted after so many rows."""
        return replace(self, rows=self.rows[:rows])

    def write(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.data())
        return path


def _sweep_rows(points: Sequence[float], chance: random.Random, conductance: float) -> list[str]:
    return [f"{v!r},{v * conductance + chance.gauss(0, 1e-12)!r},nan,nan,nan" for v in points]


def iv(seed: int = 0, *, start: float = 1757018821.0, reach: float = 0.1, step: float = 0.01) -> Measurement:
    """Make a complete IV sweep: 44 rows at the usual reach and step."""
    chance = random.Random(f"IV{seed}")
    points = set_points(PathKind.TWO_STEPS, -reach, reach, step)
    assert points is not None
    lit = seed % 2
    parameters = {
        "Irange": "0.0001 A",
        "NPLC": "1",
        "VSD end": f"{reach:g} V",
        "VSD start": f"{-reach:g} V",
        "VSD step": f"{step:g} V",
        "Burn-in time": "60 s",
        **CHIP,
        "Information": r"test 71: muerto :( \xb5 ",
        "Laser voltage": "2.11 V" if lit else "0 V",
        "Laser wavelength": "455",
        "Procedure version": "2.0.1",
        "Step time": "0 s",
        "VG": "-0.4 V",
    }
    rows = _sweep_rows(points, chance, 1e-6)
    return Measurement("IV", parameters, ("Vsd (V)", "I (A)", *SENSOR), rows, _moment(start + 3600 * seed, chance))


def ivg(seed: int = 0, *, start: float = 1757018821.0, reach: float = 5.0, step: float = 0.5) -> Measurement:
    """Make a complete IVg sweep."""
    chance = random.Random(f"IVg{seed}")
    points = set_points(PathKind.ZERO_START_END_START_ZERO, -reach, reach, step)
    assert points is not None
    parameters = {
        "Irange": "0.0001 A",
        "NPLC": "1",
        "VDS": "0.1 V",
        "VG end": f"{reach:g} V",
        "VG start": f"{-reach:g} V",
        "VG step": f"{step:g} V",
        "Burn-in time": "60 s",
        **CHIP,
        "Information": "None",
        "Laser voltage": "0 V",
        "Laser wavelength": "455",
        "Procedure version": "2.1.0",
        "Step time": "0 s",
    }
    rows = _sweep_rows(points, chance, 1e-7)
    return Measurement(
        "IVg", parameters, ("Vg (V)", "I (A)", *SENSOR), rows, _moment(start + 3600 * seed + 7, chance)
    )


def it(seed: int = 0, *, start: float = 1757018821.0, rows: int = 60) -> Measurement:
    """Make a complete It run: the current in time, dark, lit, dark."""
    chance = random.Random(f"It{seed}")
    period = 2.0
    length = 1.5 * period
    times = [i * length / (rows - 1) + 0.001 * (i == rows - 1) for i in range(rows)]
    parameters = {
        "Irange": "0.0001 A",
        "NPLC": "1",
        "T step start time": "0 s",
        "VDS": "0.1 V",
        "VG": "0 V",
        **CHIP,
        "Information": "None",
        "Initial (current) T": "0 C",
        "Laser ON+OFF period": f"{period:g} s",
        "Laser voltage": "2.11 V",
        "Laser wavelength": "365",
        "Procedure version": "2.2.0",
        "Sampling time (excluding Keithley)": "0 s",
        "Target T": "0 C",
    }
    lines = [
        f"{t!r},{1e-6 + chance.gauss(0, 1e-9)!r},{2.11 if period / 2 <= t < period else 0.0!r},nan,nan,nan"
        for t in times
    ]
    columns = ("t (s)", "I (A)", "VL (V)", *SENSOR)
    return Measurement("It", parameters, columns, lines, _moment(start + 3600 * seed + 13, chance))


def lab(root: Path, files: int = 24) -> dict[str, Measurement]:
    """Fill a folder as some days in the lab would: sweeps and time traces, an abort, a file that still waits."""
    made: dict[str, Measurement] = {}
    for seed in range(files):
        kind, make = (("IV", iv), ("IVg", ivg), ("It", it))[seed % 3]
        measurement = make(seed)
        if seed % 7 == 6:
            measurement = measurement.first(len(measurement.rows) // 2)
        path = f"2025-09-{4 + seed // 6:02}/{kind}2025-09-{4 + seed // 6:02}_{seed}.csv"
        measurement.write(root / path)
        made[path] = measurement
    return made


def _moment(start: float, chance: random.Random) -> str:
    return repr(start + round(chance.random(), 6))
