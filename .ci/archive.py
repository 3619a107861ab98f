"""An archive of bounded size through `backfill`, `verify` and a second `backfill`: every count must be the right one.

python .ci/archive.py FOLDER FILES
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from nanolab_daemon.simulate import Course, Instrument, Measurement, it, iv, ivg

QUICK = Course(burn_in_s=0, lasts_s=0)
# Measurement, its share in the lab's archive, and how many segments it has.
KINDS: tuple[tuple[Measurement, float, int], ...] = (
    (iv(1.0, 0.01, seed=1, course=QUICK), 0.24, 4),
    (ivg(5.0, 0.05, seed=2, course=QUICK), 0.30, 6),
    (ivg(5.0, 0.05, seed=3, course=Course(burn_in_s=0, lasts_s=0, stops_after=233)), 0.04, 3),
    (it(40.0, 1.25, seed=4, course=QUICK), 0.40, 3),
    (iv(1.0, 0.02, seed=5, course=Course(burn_in_s=0, lasts_s=0, damage={40: "-0.7805,x,nan,nan,nan"})), 0.02, -1),
)
FIRST_START = 1_735_700_000


def make(raw: Path, files: int) -> Counter[int]:
    """Write the archive: each file a measurement of its own. Give how many there are of each kind."""
    templates = []
    for number, (measurement, _, _) in enumerate(KINDS):
        instrument = Instrument(raw.parent / f"template{number}", [measurement])
        instrument.measure()
        (path,) = instrument.files
        templates.append(path.read_bytes())
    chosen = random.Random(0).choices(range(len(KINDS)), weights=[share for _, share, _ in KINDS], k=files)
    for number, kind in enumerate(chosen):
        start = f"Start time: {FIRST_START + number * 271.37:.4f}".encode()
        folder = raw / time.strftime("%Y-%m-%d", time.gmtime(FIRST_START + number * 271.37))
        folder.mkdir(parents=True, exist_ok=True)
        contents = re.sub(rb"Start time: [0-9.]+", start, templates[kind], count=1)
        (folder / f"{KINDS[kind][0].procedure}_{number}.csv").write_bytes(contents)
    return Counter(chosen)


def command(lab: Path, *arguments: str) -> str:
    """Run one command of the program on the lab; it must succeed."""
    flags = [f"--{name}={lab / folder}" for name, folder in FOLDERS.items()]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "nanolab_daemon", *arguments, *flags], capture_output=True, text=True, check=False
    )
    print(
        f"--- {' '.join(arguments)}: {time.monotonic() - began:.1f} s\n{done.stdout}{done.stderr[-2000:]}", flush=True
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(arguments)} gave exit code {done.returncode}:\n{done.stderr[-4000:]}")
    return done.stdout


FOLDERS = {"raw-root": "raw", "stage-root": "stage", "output-root": "output", "state-dir": "state"}


def main() -> int:
    """Do it, and compare what is there with what was written."""
    import polars as pl

    lab, files = Path(sys.argv[1]), int(sys.argv[2])
    counts = make(lab / "raw", files)
    good = {kind: number for kind, number in counts.items() if KINDS[kind][2] >= 0}
    began = time.monotonic()
    command(lab, "backfill")
    rate = files / (time.monotonic() - began)
    command(lab, "verify")
    manifest = lab / "stage/_manifest/manifest.parquet"
    before = manifest.stat().st_mtime_ns
    command(lab, "backfill")

    runs = pl.read_parquet(manifest)
    expected = {
        "runs": sum(good.values()),
        "segments": sum(number * KINDS[kind][2] for kind, number in good.items()),
        "incomplete": counts[2],
        "staged files": sum(good.values()),
        "segment files": sum(number * KINDS[kind][2] for kind, number in good.items()),
        "rows": sum(number * len(KINDS[kind][0].written) for kind, number in good.items()),
    }
    found = {
        "runs": runs.height,
        "segments": int(runs["segments"].sum()),
        "incomplete": runs.filter(~pl.col("complete")).height,
        "staged files": sum(1 for _ in (lab / "stage").rglob("part-*.parquet")),
        "segment files": sum(1 for _ in (lab / "output").rglob("part-*.parquet")),
        "rows": int(runs["rows"].sum()),
    }
    for name, number in expected.items():
        print(f"{name:14} {found[name]:>9} of {number:>9}  {'ok' if found[name] == number else 'WRONG'}")
    print(f"{files} files, {rate:.0f} files/s from start to end of `backfill`")
    again = manifest.stat().st_mtime_ns != before
    if again:
        print("WRONG: the second backfill wrote the manifest again")
    return int(found != expected or again)


if __name__ == "__main__":
    sys.exit(main())
