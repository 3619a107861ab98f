"""The lab of `demo`: its folders and settings, the real daemon in a process of its own, a short day's measurements.

Judges nothing: what ought to become of each file is data.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nanolab_daemon.errors import EngineError, UsageError
from nanolab_daemon.model import FileState
from nanolab_daemon.simulate import Course, Measurement, it, iv, ivg

RAW, STAGE, OUTPUT, STATE = "data/01_raw", "data/02_stage/raw_measurements", "data/03_intermediate", "data/.nanolab"
CONFIG = f"""\
# The lab of `nanolab-daemon demo`: quicker than the defaults, since its measurements take seconds.
[paths]
raw = "{RAW}"
stage = "{STAGE}"
output = "{OUTPUT}"
state = "{STATE}"

[watch]
settle_s = 1.0
rescan_s = 5.0
poll_s = 0.1

[pools]
stage_workers = 1
segment_workers = 1

[log]
format = "json"

[manifest]
refresh_s = 0.5
"""
LOG = "daemon.log"
STOP_S = 15.0


@dataclass(frozen=True, slots=True)
class Expected:
    """A measurement, and what the daemon ought to make of its file."""

    measurement: Measurement
    state: FileState
    complete: bool | None = None  # None: there is no run
    segments: int = 0


def programme(seed: int = 75) -> tuple[Expected, ...]:
    """Give a short day in the laboratory, good and bad, in the order of queueing."""
    torn = {40: "-0.7805,-6.2e-0,nan,n"}
    aborted = Course(starts_at_s=2.1, lasts_s=6.0, stops_after=233)
    done = FileState.SEGMENTED
    return (
        Expected(iv(1.0, 0.01, seed=seed, course=Course(starts_at_s=0.5)), done, True, 4),
        Expected(ivg(5.0, 0.05, seed=seed + 1, course=Course(starts_at_s=0.9, lasts_s=4.5)), done, True, 6),
        Expected(it(40.0, 1.25, seed=seed + 2, course=Course(starts_at_s=1.3)), done, True, 3),
        Expected(iv(0.1, 0.01, seed=seed + 3, gate_v=-2.0, course=Course(1.7, lasts_s=1.0)), done, True, 4),
        Expected(ivg(5.0, 0.05, seed=seed + 4, course=aborted), done, False, 3),
        Expected(iv(1.0, 0.02, seed=seed + 5, course=Course(2.5, lasts_s=2.0, damage=torn)), FileState.REJECTED),
        Expected(ivg(5.0, 0.1, seed=seed + 6, course=Course(starts_at_s=math.inf)), FileState.QUEUED),
    )


@contextlib.contextmanager
def folder(keep: Path | None) -> Iterator[Path]:
    """Give an empty folder, gone afterwards unless it is to be kept."""
    if keep is None:
        lab = Path(tempfile.mkdtemp(prefix="nanolab-demo-"))
        try:
            yield lab
        finally:
            shutil.rmtree(lab, ignore_errors=True)
        return
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise UsageError(f"{keep} is not an empty folder: name a new one with --keep.")
    try:
        keep.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EngineError(f"{keep} can't be made: {error.strerror}.", advice="Name another with --keep.") from error
    yield keep.absolute()


@contextlib.contextmanager
def daemon(lab: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the real daemon in a process of its own, for as long as the block lasts."""
    # What is set for another daemon of this user must not reach this one.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("NANOLAB_", "NOTIFY_"))}
    # The kernel asks the daemon to end when the demonstration has, however it did: a closed terminal, a SIGKILL.
    ends_with_parent = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execv(sys.argv[1], sys.argv[1:])"
    daemon = [sys.executable, "-m", "nanolab_daemon", "run", "--config", str(lab / "config.toml")]
    command = [sys.executable, "-c", ends_with_parent, *daemon]
    with (lab / LOG).open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 -- this very program
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            process_group=0,  # Ctrl-C is for the demonstration, which then stops the daemon
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
