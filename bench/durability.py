"""What durability costs: a backfill as it is, against the same with every sync left out, in turns on one disk.

`python bench/durability.py [--files 2000] [--rounds 5] [--below FOLDER]`; needs gcc. Times are of the whole command.
Without syncs a loss of power may leave a ledger that speaks of files which are not there: nothing but a yardstick.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import instrument

SHIM = """
int syncfs(int fd) { return 0; }
int fsync(int fd) { return 0; }
int fdatasync(int fd) { return 0; }
"""


def main() -> None:
    """Measure, and print a table."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--files", type=int, default=2000)
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--below", type=Path, help="a folder on the disk in question")
    given = asked.parse_args()
    with tempfile.TemporaryDirectory(dir=given.below) as folder:
        home = Path(folder)
        (home / "shim.c").write_text(SHIM)
        shim = home / "shim.so"
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", shim, home / "shim.c"], check=True)
        raw = home / "raw"
        raw.mkdir()
        for number in range(given.files):
            instrument.iv(number, start=1757018821.0 + 100 * number).write(raw / f"IV_{number}.csv")
        times: dict[str, list[float]] = {"as it is": [], "without syncs": []}
        for number in range(given.rounds):
            for name, more in (("as it is", {}), ("without syncs", {"LD_PRELOAD": str(shim)})):
                times[name].append(backfill(home, f"{number}-{name[:2]}", more))
        whole, bare = (statistics.median(seconds) for seconds in times.values())
        for name, seconds in times.items():
            each = " ".join(f"{one:.2f}" for one in seconds)
            print(f"{name:14} {statistics.median(seconds):7.2f} s   ({each})")
        print(f"ratio {whole / bare:.2f}; {1000 * (whole - bare) / given.files:.2f} ms a run of four segments")


def backfill(home: Path, name: str, environment: dict[str, str]) -> float:
    """Run one into folders of its own, and give the seconds that it takes."""
    roots = {
        f"--{kind}": str(home / name / kind.split("-")[0]) for kind in ("stage-root", "output-root", "state-dir")
    }
    command = [sys.executable, "-m", "nanolab_daemon", "backfill", "--raw-root", str(home / "raw"), "--workers", "2"]
    os.sync()  # what another round has left to write is not this one's to pay
    began = time.monotonic()
    subprocess.run(
        [*command, *(word for pair in roots.items() for word in pair)],
        check=True,
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
    )
    return time.monotonic() - began


if __name__ == "__main__":
    main()
