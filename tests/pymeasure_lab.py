"""Real PyMeasure writing files: procedures in the shape of the lab's own, as fast as a test wants them.

Run as a script, it is an instrument's PC: `pymeasure_lab.py FOLDER PLAN`, the plan in JSON: a list of runs, each
with the procedure's name, its parameters, and what happens to it (finish, abort after so many rows, stay queued).
"""

from __future__ import annotations

import _pyio
import builtins
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any, ClassVar

warnings.filterwarnings("ignore")

from pymeasure.experiment import (  # noqa: E402
    FloatParameter,
    IntegerParameter,
    Metadata,
    Parameter,
    Procedure,
    Results,
    Worker,
)

from nanolab_daemon.procedures import Registry  # noqa: E402
from nanolab_daemon.ramps import set_points  # noqa: E402

NAN = float("nan")


class Sweep(Procedure):
    """What IV and IVg have in common."""

    chip_group = Parameter("Chip group name", default="Alisson")
    chip_number = IntegerParameter("Chip number", default=79)
    sample = Parameter("Sample", default="F")
    info = Parameter("Information", default="µ-test: a\\b")
    laser_v = FloatParameter("Laser voltage", units="V", default=0.0)
    burn_in = FloatParameter("Burn-in time", units="s", default=0.5)
    step_time = FloatParameter("Step time", units="s", default=0.002)
    start_time = Metadata("Start time", fget=time.time)
    swept: ClassVar[str]

    def points(self) -> list[float]:
        raise NotImplementedError

    def startup(self) -> None:
        time.sleep(0.05)

    def execute(self) -> None:
        time.sleep(self.burn_in)
        for value in self.points():
            if self.should_stop():
                return
            row = {self.swept: value, "I (A)": value * 1e-6 + 1e-9}
            self.emit("results", row | dict.fromkeys(self.DATA_COLUMNS[2:], NAN))
            time.sleep(self.step_time)

    def shutdown(self) -> None:
        time.sleep(0.1)


class IV(Sweep):
    vg = FloatParameter("VG", units="V", default=0.0)
    start = FloatParameter("VSD start", units="V", default=-0.1)
    end = FloatParameter("VSD end", units="V", default=0.1)
    step = FloatParameter("VSD step", units="V", default=0.01)
    procedure_version = Parameter("Procedure version", default="2.0.1")
    swept = "Vsd (V)"
    DATA_COLUMNS: ClassVar[list[str]] = [swept, "I (A)", "Plate T (degC)", "Ambient T (degC)", "Clock (ms)"]

    def points(self) -> list[float]:
        return _points("IV", self.start, self.end, self.step)


class IVg(Sweep):
    vds = FloatParameter("VDS", units="V", default=0.1)
    start = FloatParameter("VG start", units="V", default=-1.0)
    end = FloatParameter("VG end", units="V", default=1.0)
    step = FloatParameter("VG step", units="V", default=0.1)
    procedure_version = Parameter("Procedure version", default="2.1.0")
    swept = "Vg (V)"
    DATA_COLUMNS: ClassVar[list[str]] = [swept, "I (A)", "Plate T (degC)", "Ambient T (degC)", "Clock (ms)"]

    def points(self) -> list[float]:
        return _points("IVg", self.start, self.end, self.step)


def _points(name: str, start: float, end: float, step: float) -> list[float]:
    procedure = Registry.builtin().get(name)
    assert procedure is not None
    return list(set_points(procedure.paths[0].kind, start, end, step) or [])


def main(folder: Path, plan: list[dict[str, Any]]) -> None:
    """Queue every run first, as the program does, then work them off one by one; say on stdout when each ends."""
    folder.mkdir(parents=True, exist_ok=True)
    queue = []
    for number, run in enumerate(plan, 1):
        procedure = {"IV": IV, "IVg": IVg}[run["procedure"]]()
        for name, value in run.get("parameters", {}).items():
            setattr(procedure, name, value)
        file = folder / f"{run['procedure']}2026-11-24_{number}.csv"
        queue.append((run, file, Results(procedure, str(file))))
    for run, file, results in queue:
        if run.get("queued"):
            continue
        worker = Worker(results)
        worker.start()
        if "abort_after_rows" in run:
            while file.read_bytes().count(b"\n") < run["abort_after_rows"] + 20:
                time.sleep(0.005)
            worker.stop()
        worker.join(120)
        print(json.dumps({"file": str(file), "ended": time.time()}), flush=True)


def write_as_windows_does() -> None:
    """Let text files have CRLF line ends, as on an instrument's PC: Python's own slower files ask os.linesep."""
    os.linesep = "\r\n"
    builtins.open = _pyio.open  # type: ignore[assignment]


if __name__ == "__main__":
    if "--crlf" in sys.argv:
        write_as_windows_does()
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
