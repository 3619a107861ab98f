"""Every procedure of the lab's program and every year of it as real PyMeasure classes, which write their files.

`pymeasure_all.py FOLDER` writes all `VARIANTS`.
"""

from __future__ import annotations

import _pyio
import builtins
import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from variants import PARAMETERS, Variant
from variants_past import shapes, years
from variants_today import today

VARIANTS: tuple[Variant, ...] = tuple(
    # a minute apart, so that no two are one run
    replace(variant, start=None if variant.start is None else variant.start + 60.0 * at)
    for at, variant in enumerate((*today(), *years(), *shapes()))
)


def procedure_class(variant: Variant) -> type:
    """Make the procedure, a real one of PyMeasure, as the program of that time defines it."""
    from pymeasure.experiment import (
        BooleanParameter,
        FloatParameter,
        IntegerParameter,
        ListParameter,
        Metadata,
        Parameter,
        Procedure,
    )

    kinds: dict[str, Callable[..., Any]] = {
        "float": FloatParameter,
        "int": IntegerParameter,
        "bool": BooleanParameter,
        "str": Parameter,
    }
    body: dict[str, Any] = {"__module__": variant.module, "DATA_COLUMNS": list(variant.columns)}
    for attribute, value in variant.values.items():
        if attribute == "laser_wl_nm":  # a number with a unit for some weeks, a choice without one since
            body["laser_wl"] = FloatParameter("Laser wavelength", units="nm", default=value)
            continue
        kind, label, unit = PARAMETERS[attribute]
        given: dict[str, Any] = {"default": value}
        if unit and variant.units:
            given["units"] = unit
        label = variant.names.get(attribute, label)
        if kind == "choice":
            body[attribute] = ListParameter(label, choices=[0, 365, 455, 565], **given)
        else:
            body[attribute] = kinds[kind](label, **given)
    if variant.start is not None:
        body["start_time"] = Metadata("Start time", fget=lambda: variant.start)
    if variant.sensor_model is not None:
        body["sensor"] = Metadata("Sensor model", fget=lambda: variant.sensor_model)

    def execute(self: Any) -> None:
        for row in variant.rows:
            self.emit("results", dict(zip(variant.columns, row, strict=True)))

    body["execute"] = execute
    return type(variant.procedure, (Procedure,), body)


def write(variant: Variant, folder: Path) -> Path:
    """Let PyMeasure queue and run the procedure; give its file."""
    from pymeasure.experiment import Results, Worker

    path = folder / variant.path
    path.parent.mkdir(parents=True, exist_ok=True)
    with _line_ends("\r\n" if variant.crlf else "\n"):
        for _ in range(variant.runs):
            worker = Worker(Results(procedure_class(variant)(), str(path)))
            worker.start()
            worker.join(60)
            assert not worker.is_alive(), variant.name
    if variant.encoding != "utf-8":  # PyMeasure up to 0.14 wrote in the locale's encoding, on Windows this one
        path.write_bytes(path.read_bytes().decode().encode(variant.encoding))
    return path


@contextlib.contextmanager
def _line_ends(wanted: str) -> Iterator[None]:
    """Let text files get these line ends: Python's own slower files ask os.linesep, as those of Windows do."""
    before = os.linesep, builtins.open
    os.linesep, builtins.open = wanted, _pyio.open  # type: ignore[assignment]
    try:
        yield
    finally:
        os.linesep, builtins.open = before  # type: ignore[assignment]


def write_all(folder: Path) -> None:
    """Write every variant below the folder."""
    for variant in VARIANTS:
        write(variant, folder)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    write_all(Path(sys.argv[1]))
