"""Files of every procedure as the newest program that has it writes them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import formulas
import numpy as np
from variants import (
    CHIP,
    COLUMNS,
    GATE,
    GATES,
    IT_VALUES,
    IV_SWEEP,
    IV_VALUES,
    IVG_VALUES,
    LASER_OFF,
    LASER_ON,
    LIT,
    METER,
    ON_OFF,
    SOURCE,
    TT_RAMP,
    TT_VALUES,
    VVG_VALUES,
    Variant,
    bench,
    series,
    swept,
    tt,
    with_sensor,
    without,
)


def today() -> Iterator[Variant]:
    """Every class of the registry as the newest program that has it writes it."""
    yield swept("iv", "2025-09", "IV", SOURCE, {**IV_VALUES, **IV_SWEEP})
    yield swept(
        "ivt",
        "2025-09",
        "IVT",
        SOURCE,
        {**IV_VALUES, **IV_SWEEP, **LASER_ON},
        "on",
        lit=True,
        wavelength=565.0,
        volts=2.11,
    )
    yield swept("ivg", "2025-09", "IVg", GATE, IVG_VALUES)
    yield swept(
        "ivgt", "2025-09", "IVgT", GATE, {**IVG_VALUES, **LASER_ON}, "on", lit=True, wavelength=565.0, volts=2.11
    )
    yield swept(
        "vvg", "2026-02", "VVg", formulas.zero_start_end_zero(-1.0, 1.0, 0.1), VVG_VALUES, start=1770000000.25
    )
    yield swept(
        "vvg-repeated",
        "2026-02",
        "VVg",
        np.tile(formulas.zero_start_end_zero(-1.0, 1.0, 0.1), 3),
        {**VVG_VALUES, "n_sweeps": 3},
        "on",
        start=1770000000.25,
    )
    yield swept(
        "vvgcooldown",
        "2026-05",
        "VVgCooldown",
        np.tile(formulas.zero_start_end_zero(-1.0, 1.0, 0.1), 2),
        {**VVG_VALUES, "n_sweeps": 2, "inter_sweep_wait": 60.0},
        start=1779000000.5,
    )
    yield series("it", "2025-09", "It", ON_OFF, IT_VALUES, **LIT)
    yield series(
        "it-dark",
        "2025-09",
        "It",
        [(end, 0.0) for end, _ in ON_OFF],
        {**IT_VALUES, "laser_v": 0.0},
        wavelength=365.0,
        volts=0.0,
    )
    yield series("itt", "2025-09", "ITt", ON_OFF, IT_VALUES, "on", **LIT)
    yield series(
        "it2",
        "2025-11",
        "It2",
        [(5.0, 0.0), (20.0, 2.11), (40.0, 0.0)],
        without(IT_VALUES, "laser_T", phase1_t=5.0, phase2_t=15.0, phase3_t=20.0),
        **LIT,
    )
    yield series(
        "vt",
        "2025-09",
        "Vt",
        ON_OFF,
        without(IT_VALUES, "Irange", "vds", Vrange=0.1, ids=1e-6, procedure_version="1.1.0"),
        **LIT,
    )
    yield series(
        "pt",
        "2025-09",
        "Pt",
        ON_OFF,
        {
            **{key: IT_VALUES[key] for key in ("Irange", "laser_wl", "laser_v", "laser_T", "sampling_t")},
            "N_avg": 2,
            "fiber": "F1 (M92L02)",
            "info": "None",
            "procedure_version": "0.1.1",
        },
        sensor_model="S130C",
        **LIT,
    )
    itvg = {
        **METER,
        **CHIP,
        **GATES,
        "vg_step": 0.5,
        "vds": 0.1,
        "sampling_t": 0.0,
        "step_time": 10.0,
        "procedure_version": "1.0.1",
    }
    stairs = formulas.up_down(-1.0, 1.0, 0.5)
    plateaus = [(10.0 * (at + 1), float(level)) for at, level in enumerate(stairs)]
    yield series("itvg", "2025-04", "ItVg", plateaus, {**itvg, **LASER_OFF}, wavelength=455.0, volts=0.0)
    lit = [(20.0, -1.0), *((20.0 + end, level) for end, level in plateaus)]
    yield series(
        "itvg-lit",
        "2025-04",
        "ItVg",
        lit,
        {**itvg, **LASER_ON, "burn_in_t": 20.0},
        lit=True,
        wavelength=565.0,
        volts=2.11,
    )
    yield series(
        "itvg-jump",
        "2025-04",
        "ItVg",
        [(10.0, -1.0), (20.0, 1.0), (30.0, -1.0)],
        {**itvg, **LASER_OFF, "vg_step": 0.0},
        wavelength=455.0,
        volts=0.0,
    )
    yield series(
        "itwl",
        "2025-09",
        "ItWl",
        [(10.0, 0.0), (30.0, 620.0)],
        {
            **METER,
            **CHIP,
            "vds": 0.1,
            "vg": 0.0,
            "sampling_t": 0.0,
            "burn_in_t": 10.0,
            "step_time": 20.0,
            "wl": 620.0,
            "procedure_version": "1.1.0",
        },
        wavelength=620.0,
    )
    volts = formulas.start_end(0.0, 5.0, 0.1)
    yield swept(
        "lasercalibration",
        "2025-09",
        "LaserCalibration",
        volts,
        {
            "N_avg": 2,
            "fiber": "F1 (M92L02)",
            "info": "None",
            "laser_wl": 455,
            "step_time": 0.1,
            "vl_start": 0.0,
            "vl_end": 5.0,
            "vl_step": 0.1,
            "procedure_version": "1.1.1",
        },
        "absent",
        sensor_model="S130C",
        volts=None,
        cut_along=None,
    )
    scan = formulas.start_end(280.0, 320.0, 2.5)
    light = {"wl_start": 280.0, "wl_end": 320.0, "wl_step": 2.5, "sampling_t": 0.1, "info": "None"}
    rows = [(float(wl), power, 0.7 * at) for at, (wl, power) in enumerate(zip(scan, bench(len(scan)), strict=True))]
    yield Variant(
        "pwl",
        "2025-03",
        "Pwl",
        {**light, "N_avg": 2, "procedure_version": "1.2.0"},
        COLUMNS["Pwl"],
        rows,
        sensor_model="S130C",
        expected=(len(scan),),
    )
    yield Variant(
        "iwl",
        "2025-02-03",
        "Iwl",
        {
            **METER,
            **CHIP,
            **light,
            "N_avg": 2,
            "vds": 0.1,
            "vg": 0.0,
            "chained_exec": False,
            "show_more": True,
            "procedure_version": "1.5.0",
        },
        COLUMNS["Iwl"],
        rows,
        start=1738600000.125,
        expected=(len(scan),),
    )
    yield tt("tt", "2025-09", {**TT_VALUES, **TT_RAMP}, COLUMNS["Tt"])
    stress = {
        **CHIP,
        "T_start": 25,
        "T_end": 60,
        "initial_T": 24,
        "target_T": 60,
        "t_on": 10.0,
        "t_off": 10.0,
        "vg": 0.0,
        "sampling_t": 1.0,
        "procedure_version": "1.0.0",
    }
    yield Variant(
        "stress",
        "2025-12",
        "Stress",
        stress,
        COLUMNS["Stress"],
        with_sensor([(float(at),) for at in range(30)], "on"),
        start=1765000000.5,
        complete=None,
        cut=None,
    )
    yield Variant(
        "fakeprocedure",
        "2025-09",
        "FakeProcedure",
        {"fake_parameter": 1.0, "total_time": 2.0, "info": "None", "procedure_version": "1.0.0"},
        COLUMNS["FakeProcedure"],
        [(0.2 * at, math.cos(at)) for at in range(10)],
        complete=None,
        cut=None,
    )
    yield Variant(
        "wait", "2025-09", "Wait", {"info": "None", "wait_time": 60.0, "procedure_version": "1.0.0"}, (), ()
    )
