"""The whole archive in one go, on request: `./go test -m scale`."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import instrument
import pytest
from lab import Lab, toml

FILES, SWEEPS = 31_806, 7_636
ALLOWED_GROWTH_MIB = 40


def peak_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _around_start_time(one: instrument.Measurement) -> tuple[bytes, bytes]:
    before, _, after = one.data().partition(b"Start time: ")
    return before, after


@pytest.mark.scale
@pytest.mark.timeout(3600)
def test_the_whole_archive(tmp_path: Path) -> None:
    """31,806 files, 7,636 of them four-leg IV sweeps, become as many runs and 30,544 segments, in flat memory."""
    lab = Lab(tmp_path, workers=2)
    sweep = instrument.iv(1, reach=1.0)
    series = instrument.it(2)
    parts = [(before, after.partition(b"\r\n")[2]) for before, after in map(_around_start_time, (sweep, series))]
    for number in range(FILES):
        before, after = parts[number >= SWEEPS]
        path = lab.raw / f"{number // 200:04d}" / f"{number}.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(before + b"Start time: %d.5\r\n" % (1_700_000_000 + 60 * number) + after)
    (lab.home / "config.toml").write_text(toml(lab.config))
    command = [sys.executable, "-m", "nanolab_daemon", "backfill", "--config", str(lab.home / "config.toml")]
    backfill = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=lab.home)
    early = peak = 0.0
    while backfill.poll() is None:
        try:
            peak = max(peak, peak_mib(backfill.pid))
        except OSError:
            break
        done = len(list((lab.stage / "proc=IV").glob("date=*"))) if lab.stage.exists() else 0
        early = early or (peak if done else 0.0)
        time.sleep(0.5)
    assert backfill.wait() == 0
    runs = lab.runs()
    assert len(runs) == FILES
    assert sum(len(run.segment_files) for run in runs.values() if run.facts.proc == "IV") == 4 * SWEEPS
    assert all(run.facts.completeness.complete for run in runs.values() if run.facts.proc == "IV")
    print(f"parent's peak: {early:.0f} MiB soon after the start, {peak:.0f} MiB in all")
    assert peak < early + ALLOWED_GROWTH_MIB
