"""Archives of instrument files for the measurements here, made of nothing but the tests' own instrument.

    python bench/archive.py FOLDER FILES [--tiny]

In the mix and the sizes of the lab's archive (of 31,806 files 7,636 IV; the others time series, gate sweeps and laser
calibrations), or of tiny sweeps of 44 rows, which are quicker to make and to read, so that what is the same for each
file weighs more. Each file is a measurement of its own, last changed long ago.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import instrument

FILES_A_DAY = 160
AGE_S = 40 * 86400
MIX = {"IV": 7636, "It": 11291, "IVg": 10349, "LaserCalibration": 2530}


def calibration() -> instrument.Measurement:
    chance = random.Random("LaserCalibration")
    parameters = {
        "N_avg": "2",
        "Optical fiber": "F1 (M92L02)",
        "Information": "None",
        "Laser wavelength": "590",
        "Procedure version": "1.1.1",
        "Step time": "0.2 s",
        "Laser voltage end": "5 V",
        "Laser voltage start": "0 V",
        "Laser voltage step": "0.1 V",
    }
    rows = [f"{at / 10!r},{1e-7 * at + chance.gauss(0, 1e-10)!r}" for at in range(51)]
    return instrument.Measurement("LaserCalibration", parameters, ("VL (V)", "Power (W)"), rows)


def templates(*, tiny: bool) -> dict[str, list[tuple[bytes, bytes]]]:
    """Give some files of each kind, as what stands before and after the start time."""
    if tiny:
        made = {"IV": [instrument.iv(seed) for seed in range(8)]}
    else:
        made = {
            "IV": [instrument.iv(seed, reach=1.0) for seed in range(8)],
            "It": [instrument.it(seed, rows=1500 + 200 * seed) for seed in range(8)],
            "IVg": [instrument.ivg(seed, step=(0.05, 0.1)[seed % 2]) for seed in range(8)],
            "LaserCalibration": [calibration()],
        }
    mark = "START"
    found = {}
    for kind, every in made.items():
        parts = [replace(one, start_time=mark).data().partition(mark.encode()) for one in every]
        found[kind] = [(before, after) for before, _, after in parts]
    return found


def files(count: int, *, tiny: bool, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Give names, with their folders, and contents."""
    chance = random.Random(seed)
    parts = templates(tiny=tiny)
    kinds = chance.choices(list(MIX), MIX.values(), k=count) if not tiny else ["IV"] * count
    for number, kind in enumerate(kinds):
        before, after = chance.choice(parts[kind])
        start = 1_700_000_000 + number * 271.37
        yield f"{number // FILES_A_DAY:05d}/{kind}_{number}.csv", before + b"%.4f" % start + after


def make(folder: Path, count: int, *, tiny: bool = False) -> None:
    """Write an archive."""
    old = time.time() - AGE_S
    made = set()
    for name, contents in files(count, tiny=tiny):
        path = folder / name
        if path.parent not in made:
            path.parent.mkdir(parents=True)
            made.add(path.parent)
        path.write_bytes(contents)
        os.utime(path, (old, old))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("files", type=int)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    make(args.folder, args.files, tiny=args.tiny)
