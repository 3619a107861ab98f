"""Files of years past, and the shapes that a file may have in any year."""

from __future__ import annotations

from collections.abc import Iterator

import formulas
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
    OLD_IV,
    ON_OFF,
    SENSOR,
    SOURCE,
    TEMPERATURE,
    TT_RAMP,
    TT_VALUES,
    VVG_VALUES,
    Variant,
    bench,
    in_time,
    series,
    sweep_of,
    swept,
    tt,
    without,
)


def years() -> Iterator[Variant]:
    """Files of the past: other names, other columns, other ramps, and what has since left the header."""
    first = {"vds": 0.1, "N_avg": 2, "step_time": 0.01, **GATES, "chip_group": "Margarita", "sample": "B"}
    yield Variant(
        "ivg-2023-04",
        "2023-04-21",
        "IVg",
        {**first, "Irange": 0.001, "info": "first light"},
        ("Vds (V)", "Vg (V)", "I (A)"),
        [(0.1, *row) for row in sweep_of("IVg", GATE, "absent")],
        module="__main__",
        start=None,
        names={"chip_group": "Chip", "info": "Comment"},
        expected=(61,),
        cut_along="Vg (V)",
    )
    yield Variant(
        "it-2023-05",
        "2023-05-18",
        "It",
        {**without(first, "vg_step"), "vg": 0.0, "laser_power": 0.5, "info": "None"},
        ("Timestamp", "I (A)"),
        [(1684411200.25 + at, reading) for at, reading in enumerate(bench(30))],
        module="__main__",
        start=None,
        names={"chip_group": "Chip", "vg": "Vg"},
        complete=None,
        cut=None,
        remarks=("parameter 'Step time'", "parameter 'VG end'", "parameter 'VG start'"),
    )
    june = {
        **without(first, *GATES),
        "laser_freq": 0.0,
        "laser_T": 20.0,
        "laser_v": 1.5,
        "vg": 0.0,
        "sampling_t": 0.5,
        "Irange": 0.001,
        "info": "None",
    }
    yield Variant(
        "it-2023-06",
        "2023-06-12",
        "It",
        without(june, "step_time"),
        ("t (s)", "I (A)"),
        [(t, reading) for (t, _), reading in zip(in_time(ON_OFF, 0.5), bench(61), strict=True)],
        module="Scripts.It",
        start=None,
        names={"chip_group": "Chip", "sampling_t": "Sampling time", "Irange": "I range"},
        expected=30.0,
        lit=True,
        volts=1.5,
    )
    july = {**first, **LASER_OFF, "Irange": 0.001, "chip_number": 3, "info": "None", "procedure_version": "1.0.0"}
    yield swept(
        "ivg-2023-07",
        "2023-07",
        "IVg",
        GATE,
        without(july, "laser_wl", laser_wl_nm=455.0),
        "absent",
        module="Scripts.IVg",
        start=1690000000.5,
        names={"chip_group": "Chip name"},
    )
    late = {**IVG_VALUES, "N_avg": 2, "show_more": False, "laser_toggle": True, "chained_exec": False}
    yield swept(
        "ivg-2024-09",
        "2024-09",
        "IVg",
        GATE,
        {**late, "procedure_version": "1.4.0"},
        "absent",
        module="laser_setup.procedures.IVg",
        start=1726000000.5,
    )
    yield series(
        "it-2024-09",
        "2024-09",
        "It",
        ON_OFF,
        {
            **without(IT_VALUES, *TEMPERATURE),
            "N_avg": 2,
            "show_more": True,
            "laser_toggle": True,
            "chained_exec": True,
            "procedure_version": "1.4.0",
        },
        "absent",
        module="laser_setup.procedures.It",
        start=1726000000.5,
        **LIT,
    )
    yield series(
        "it-2025-02-04",
        "2025-02-04",
        "It",
        ON_OFF,
        {**without(IT_VALUES, *TEMPERATURE), "pulse_t": 0.5, "procedure_version": "1.5.0"},
        "absent",
        start=1738700000.5,
        **LIT,
    )
    old = {**IV_VALUES, **IV_SWEEP, "N_avg": 2, "laser_toggle": False, "show_more": False}
    yield swept(
        "iv-2024", "2024-09", "IV", OLD_IV, {**old, "procedure_version": "1.4.0"}, "absent", start=1726000000.5
    )
    yield swept(
        "iv-2025-01-old-ramp",
        "2025-01-20",
        "IV",
        OLD_IV,
        {**old, "procedure_version": "1.5.0"},
        "absent",
        start=1737400000.5,
    )
    yield swept(
        "iv-2025-01-new-ramp",
        "2025-01-28",
        "IV",
        SOURCE,
        {**old, "procedure_version": "1.5.0"},
        "absent",
        start=1738080000.5,
    )
    one_day = {
        "initial_T": "Initial temperature",
        "target_T": "Target temperature",
        "T_start_t": "Hot plate start time",
        "T_start": "Hot plate start temperature",
        "T_end": "Hot plate end temperature",
        "T_step": "Hot plate temperature step",
    }
    yield series(
        "it-2025-02-17",
        "2025-02-17",
        "It",
        ON_OFF,
        {**IT_VALUES, "sense_T": True, "laser_toggle": True, "procedure_version": "1.0.0"},
        "on",
        start=1739800000.5,
        names=one_day,
        **LIT,
    )
    yield series(
        "vt-2025-04",
        "2025-04-20",
        "Vt",
        ON_OFF,
        without(
            IT_VALUES,
            "Irange",
            "vds",
            Vrange=0.1,
            ids=1e-6,
            vg_toggle=True,
            laser_toggle=True,
            procedure_version="1.0.0",
        ),
        start=1745150000.5,
        **LIT,
    )
    yield swept("vvg-2025-07-13", "2025-07-13", "VVg", GATE, VVG_VALUES, start=1752400000.5)
    yield swept(
        "vvg-2025-10", "2025-10", "VVg", formulas.zero_start_end_zero(-1.0, 1.0, 0.1), VVG_VALUES, start=1760370548.4
    )
    period = without(TT_VALUES, laser_T=30.0, procedure_version="1.4.0", **CHIP)
    celsius = ("Time (s)", "Temperature (°C)")
    heat = {"Temperature (°C)": "Plate T (degC)"}
    for encoding in ("utf-8", "cp1252"):
        yield tt(
            f"tt-2024-09-{encoding}",
            "2024-09-24",
            period,
            celsius,
            encoding=encoding,
            start=1727200000.5,
            aliases=heat,
        )
    three = ("Time (s)", "Plate Temperature (degC)", "Ambient Temperature (degC)", "Clock")
    yield tt(
        "tt-2024-10",
        "2024-10-14",
        period,
        three,
        start=1729000000.5,
        aliases=dict(zip(three[1:], SENSOR, strict=True)),
    )
    yield tt(
        "tt-2025-02-17",
        "2025-02-17",
        {**TT_VALUES, **TT_RAMP},
        three,
        start=1739800000.5,
        names=one_day,
        aliases=dict(zip(three[1:], SENSOR, strict=True)),
    )
    scan = formulas.start_end(280.0, 320.0, 2.5)
    light = {"wl_start": 280.0, "wl_end": 320.0, "wl_step": 2.5, "sampling_t": 0.1, "info": "None", "N_avg": 2}
    yield Variant(
        "pwl-2025-01",
        "2025-01-22",
        "Pwl",
        {**light, "procedure_version": "1.2.0"},
        COLUMNS["Pwl"][:2],
        list(zip(map(float, scan), bench(len(scan)), strict=True)),
        start=1737550000.5,
        expected=(len(scan),),
    )


def shapes() -> Iterator[Variant]:
    """Headers and files as they may look in any year."""
    for sensor in ("absent", "on"):
        yield swept(f"ivg-sensor-{sensor}", "any", "IVg", GATE, IVG_VALUES, sensor)
    yield swept("ivg-no-units", "any", "IVg", GATE, IVG_VALUES, units=False)
    yield swept("ivg-line-feeds", "any", "IVg", GATE, IVG_VALUES, crlf=False)
    yield swept(
        "ivg-escapes", "any", "IVg", GATE, {**IVG_VALUES, "info": "µ \\ path\\new\nline ☂ 😀: ", "sample": " "}
    )
    yield swept("ivg-long", "any", "IVg", GATE, {**IVG_VALUES, "info": "very " * 4000})
    yield swept("ivg-no-laser", "any", "IVg", GATE, {**IVG_VALUES, "laser_wl": 0}, wavelength=0.0)
    yield swept(
        "ivg-lit-toggled-off",
        "2025-03",
        "IVg",
        GATE,
        {**IVG_VALUES, **LASER_ON, "laser_toggle": False, "laser_v": 0.0},
        wavelength=565.0,
    )
    fine = formulas.two_steps(-0.01, 0.01, 1e-4)
    yield swept("iv-fine", "any", "IV", fine, {**IV_VALUES, "vsd_start": -0.01, "vsd_end": 0.01, "vsd_step": 1e-4})
    finest = formulas.two_steps(-1e-3, 1e-3, 1e-6)
    yield swept(
        "iv-finest", "any", "IV", finest, {**IV_VALUES, "vsd_start": -1e-3, "vsd_end": 1e-3, "vsd_step": 1e-6}
    )
    yield swept(
        "iv-one-side",
        "any",
        "IV",
        formulas.two_steps(0.0, 1.0, 0.01),
        {**IV_VALUES, "vsd_start": 0.0, "vsd_end": 1.0, "vsd_step": 0.01},
    )
    yield swept(
        "ivg-written-twice",
        "any",
        "IVg",
        GATE,
        IVG_VALUES,
        runs=2,
        complete=False,
        expected=(61,),
        remarks=("between their rows",),
    )
