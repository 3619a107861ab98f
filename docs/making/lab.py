"""A small lab for the site: the demo's measurements, taken at once and worked off by the program itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nanolab_daemon import batch, config, log
from nanolab_daemon.demo_lab import CONFIG, RAW, programme
from nanolab_daemon.sections import LogFormat, LogLevel
from nanolab_daemon.simulate import Instrument


def measure(folder: Path) -> None:
    """Make a folder a lab in which the demo's day was measured: `data/` lies in it as in the laboratory."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(CONFIG, encoding="utf-8")
    day = [
        replace(one.measurement, course=replace(one.measurement.course, burn_in_s=0, lasts_s=0))
        for one in programme()
    ]
    Instrument(folder / RAW, day, speed=100).measure()
    log.configure(LogLevel.ERROR, LogFormat.JSON)  # of the file that is refused here nobody needs to hear
    batch.run(config.load(folder / "config.toml", environ={}), "backfill")
