"""Every procedure of the lab's program, today's and those of years past: what its files hold, what must come of them.

The parameters, columns and ramps are written down here once more, independent of the program's registry.
`pymeasure_all` lets PyMeasure write the files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import formulas
import numpy as np

NAN = math.nan
SENSOR = ("Plate T (degC)", "Ambient T (degC)", "Clock (ms)")
Row = tuple[float, ...]

# Attribute of the class: type, name in the header, unit. PyMeasure sorts a header by attribute.
PARAMETERS: dict[str, tuple[str, str, str | None]] = {
    "Irange": ("float", "Irange", "A"),
    "NPLC": ("float", "NPLC", None),
    "N_avg": ("int", "N_avg", None),
    "T_end": ("int", "T end", "C"),
    "T_start": ("int", "T start", "C"),
    "T_start_t": ("float", "T step start time", "s"),
    "T_step": ("int", "T step", "C"),
    "Vrange": ("float", "Vrange", "V"),
    "burn_in_t": ("float", "Burn-in time", "s"),
    "chained_exec": ("bool", "Chained execution", None),
    "chip_group": ("str", "Chip group name", None),
    "chip_number": ("int", "Chip number", None),
    "fake_parameter": ("float", "Fake parameter", "V"),
    "fiber": ("str", "Optical fiber", None),
    "ids": ("float", "Drain-Source current", "A"),
    "info": ("str", "Information", None),
    "initial_T": ("int", "Initial (current) T", "C"),
    "inter_sweep_wait": ("float", "Inter-sweep wait", "s"),
    "laser_T": ("float", "Laser ON+OFF period", "s"),
    "laser_freq": ("float", "Laser frequency", "Hz"),
    "laser_power": ("float", "Laser power", "W"),
    "laser_toggle": ("bool", "Laser toggle", None),
    "laser_v": ("float", "Laser voltage", "V"),
    "laser_wl": ("choice", "Laser wavelength", "nm"),
    "n_sweeps": ("int", "Number of sweep repetitions", None),
    "phase1_t": ("float", "Phase 1 duration (laser OFF)", "s"),
    "phase2_t": ("float", "Phase 2 duration (laser ON)", "s"),
    "phase3_t": ("float", "Phase 3 duration (laser OFF)", "s"),
    "procedure_version": ("str", "Procedure version", None),
    "pulse_t": ("float", "Pulse time", "s"),
    "sample": ("str", "Sample", None),
    "sampling_t": ("float", "Sampling time (excluding Keithley)", "s"),
    "sense_T": ("bool", "Use temperature sensor", None),
    "show_more": ("bool", "Show more", None),
    "step_time": ("float", "Step time", "s"),
    "t_off": ("float", "Time OFF", "s"),
    "t_on": ("float", "Time ON", "s"),
    "target_T": ("int", "Target T", "C"),
    "total_time": ("float", "Total time", "s"),
    "vds": ("float", "VDS", "V"),
    "vg": ("float", "VG", "V"),
    "vg_end": ("float", "VG end", "V"),
    "vg_start": ("float", "VG start", "V"),
    "vg_step": ("float", "VG step", "V"),
    "vg_toggle": ("bool", "VG toggle", None),
    "vl_end": ("float", "Laser voltage end", "V"),
    "vl_start": ("float", "Laser voltage start", "V"),
    "vl_step": ("float", "Laser voltage step", "V"),
    "vsd_end": ("float", "VSD end", "V"),
    "vsd_start": ("float", "VSD start", "V"),
    "vsd_step": ("float", "VSD step", "V"),
    "wait_time": ("float", "Wait time", "s"),
    "wl": ("float", "Wavelength", "nm"),
    "wl_end": ("float", "End Wavelength", "nm"),
    "wl_start": ("float", "Start Wavelength", "nm"),
    "wl_step": ("float", "Wavelength Step", "nm"),
}

# The columns that a file of each procedure has today.
COLUMNS: dict[str, tuple[str, ...]] = {
    "IV": ("Vsd (V)", "I (A)", *SENSOR),
    "IVT": ("Vsd (V)", "I (A)", *SENSOR),
    "IVg": ("Vg (V)", "I (A)", *SENSOR),
    "IVgT": ("Vg (V)", "I (A)", *SENSOR),
    "VVg": ("Vg (V)", "VDS (V)", "t (s)", *SENSOR),
    "VVgCooldown": ("Vg (V)", "VDS (V)", "t (s)", *SENSOR),
    "It": ("t (s)", "I (A)", "VL (V)", *SENSOR),
    "ITt": ("t (s)", "I (A)", "VL (V)", *SENSOR),
    "It2": ("t (s)", "I (A)", "VL (V)", *SENSOR),
    "Vt": ("t (s)", "VDS (V)", "VL (V)", *SENSOR),
    "Pt": ("t (s)", "P (W)", "VL (V)"),
    "ItVg": ("t (s)", "I (A)", "Vg (V)"),
    "ItWl": ("t (s)", "I (A)", "wl (nm)"),
    "LaserCalibration": ("VL (V)", "Power (W)"),
    "Pwl": ("Wavelength (nm)", "Power (W)", "Time (s)"),
    "Iwl": ("Wavelength (nm)", "I (A)", "t (s)"),
    "Tt": ("Time (s)", *SENSOR),
    "Stress": ("t (s)", *SENSOR),
    "FakeProcedure": ("t (s)", "fake_data"),
    "Wait": (),
}
# A staged run of each procedure has all of these and those of the past too, whatever its file has.
PAST = {"IVg": ("Vds (V)",), "IVgT": ("Vds (V)",), "It": ("Timestamp",), "ITt": ("Timestamp",), "It2": ("Timestamp",)}


@dataclass(frozen=True)
class Variant:
    """One file: what the program of that time writes, and (from `expected` on) what must come of it."""

    name: str
    when: str
    procedure: str
    values: Mapping[str, Any]
    columns: Sequence[str]
    rows: Sequence[Row]
    module: str = "laser_setup.procedures"
    start: float | None = 1757018821.6358175
    names: Mapping[str, str] = field(default_factory=dict)  # other names of parameters, by attribute
    units: bool = True
    sensor_model: str | None = None
    crlf: bool = True
    encoding: str = "utf-8"
    runs: int = 1  # into the same file, as an outside hand may make it
    expected: tuple[int, ...] | float | None = None  # rows, or seconds
    complete: bool | None = True
    cut: bool | None = False  # what is said of the run when its last row is missing
    lit: bool = False
    wavelength: float | None = None
    volts: float | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)  # written column → present column
    cut_along: str | None = None  # the column of the segments
    remarks: tuple[str, ...] = ()  # words of each remark

    @property
    def path(self) -> str:
        return f"{self.name}.csv"

    @property
    def sweep_step(self) -> float | None:
        """The step of the sweep, in volts; None where it has none."""
        return next((self.values[key] for key in ("vsd_step", "vg_step") if key in self.values), None)

    @property
    def staged_columns(self) -> tuple[str, ...]:
        present = (*COLUMNS[self.procedure], *PAST.get(self.procedure, ()))
        return (*present, *(name for name in self.columns if self.aliases.get(name, name) not in present))


def bench(rows: int) -> list[float]:
    """Give readings that no two rows share, with all the digits that a float has."""
    return [1e-8 * (at + 1) / 3 + 1e-11 * math.sin(at) for at in range(rows)]


def with_sensor(rows: Sequence[Row], sensor: str) -> list[Row]:
    """Add the temperature sensor's columns: none, all nan (switched off) or readings."""
    if sensor == "absent":
        return list(rows)
    if sensor == "off":
        return [(*row, NAN, NAN, NAN) for row in rows]
    return [(*row, 25.0 + at / 7, 22.5 - at / 1000, 137.0 * at) for at, row in enumerate(rows)]


def in_time(phases: Sequence[tuple[float, float]], every: float) -> list[tuple[float, float]]:
    """Give times and levels as the program's loops do: each phase writes rows until one is at or past its end."""
    found: list[tuple[float, float]] = []
    tick = 0
    for end, level in phases:
        while True:
            found.append((tick * every, level))
            tick += 1
            if found[-1][0] >= end:
                break
    return found


CHIP = {"chip_group": "Alisson", "chip_number": 79, "sample": "F", "info": "None"}
LASER_OFF = {"laser_wl": 455, "laser_v": 0.0, "burn_in_t": 60.0}
LASER_ON = {"laser_wl": 565, "laser_v": 2.11, "burn_in_t": 0.0}
METER = {"Irange": 1e-4, "NPLC": 1.0}
GATES = {"vg_start": -1.0, "vg_end": 1.0, "vg_step": 0.1}
TEMPERATURE = {"initial_T": 0, "target_T": 0, "T_start_t": 0.0}


def sweep_of(procedure: str, points: Sequence[float] | np.ndarray, sensor: str = "off") -> list[Row]:
    """Give the rows of a sweep in the columns of the procedure."""
    values = [float(point) for point in points]
    readings = bench(len(values))
    if procedure.startswith("VVg"):
        return with_sensor(
            [(v, r, 0.25 * at) for at, (v, r) in enumerate(zip(values, readings, strict=True))], sensor
        )
    return with_sensor(list(zip(values, readings, strict=True)), sensor)


def swept(
    name: str,
    when: str,
    procedure: str,
    points: np.ndarray,
    values: Mapping[str, Any],
    sensor: str = "off",
    **more: Any,
) -> Variant:
    """Make a sweep; its columns are today's, as far as the sensor is there."""
    present = COLUMNS[procedure]
    columns = [name for name in present if sensor != "absent" or name not in SENSOR]
    given = {"expected": len(points), "cut_along": present[0], "wavelength": 455.0, "volts": 0.0, **more}
    given["expected"] = (given["expected"],) if isinstance(given["expected"], int) else given["expected"]
    return Variant(name, when, procedure, values, columns, sweep_of(procedure, points, sensor), **given)


def series(
    name: str,
    when: str,
    procedure: str,
    phases: Sequence[tuple[float, float]],
    values: Mapping[str, Any],
    sensor: str = "off",
    every: float = 0.5,
    **more: Any,
) -> Variant:
    """Make a time series of phases (end in seconds, level)."""
    columns = [name for name in COLUMNS[procedure] if sensor != "absent" or name not in SENSOR]
    times = in_time(phases, every)
    readings = bench(len(times))
    rows = [(t, reading, level) for (t, level), reading in zip(times, readings, strict=True)]
    if len(columns) > 3:
        rows = with_sensor(rows, sensor)
    given = {"expected": phases[-1][0], "cut_along": columns[2], **more}
    return Variant(name, when, procedure, values, columns, rows, **given)


IV_VALUES = {**METER, **CHIP, **LASER_OFF, "step_time": 0.0, "vg": -0.4, "procedure_version": "2.0.1"}
IV_SWEEP = {"vsd_start": -0.1, "vsd_end": 0.1, "vsd_step": 0.01}
IVG_VALUES = {**METER, **CHIP, **LASER_OFF, **GATES, "step_time": 0.0, "vds": 0.1, "procedure_version": "2.1.0"}
VVG_VALUES = {
    **{"NPLC": 1.0, "Vrange": 0.1, "ids": 1e-6, "step_time": 0.0, "procedure_version": "1.0.0"},
    **{**CHIP, **LASER_OFF, **GATES},
}
IT_VALUES = {
    **{**METER, **CHIP, **TEMPERATURE, "vds": 0.1, "vg": 0.0, "sampling_t": 0.0, "procedure_version": "2.2.0"},
    **{"laser_wl": 365, "laser_v": 2.11, "laser_T": 20.0},
}
ON_OFF = ((10.0, 0.0), (20.0, 2.11), (30.0, 0.0))
LIT = {"lit": True, "wavelength": 365.0, "volts": 2.11}
GATE = formulas.there_and_back(-1.0, 1.0, 0.1)
SOURCE = formulas.two_steps(-0.1, 0.1, 0.01)
OLD_IV = formulas.there_and_back(-0.1, 0.1, 0.01)
TT_VALUES = {"info": "None", "sampling_t": 1.0, "procedure_version": "2.0.1"}
TT_RAMP = {"T_start": 25, "T_end": 45, "T_step": 10, "initial_T": 24, "step_time": 10.0}


def without(values: Mapping[str, Any], *attributes: str, **others: Any) -> dict[str, Any]:
    """Give values less these, and with others."""
    return {**{key: value for key, value in values.items() if key not in attributes}, **others}


def tt(name: str, when: str, values: Mapping[str, Any], columns: Sequence[str], **more: Any) -> Variant:
    """Make a Tt of 30 s: it looks at its clock before it writes, so that its last row comes a moment early."""
    rows = with_sensor([(float(at),) for at in range(30)], "on")
    given = {"expected": 30.0, "cut": True, **more}  # one row less is no more than the last look at the clock
    return Variant(name, when, "Tt", values, columns, [row[: len(columns)] for row in rows], **given)
