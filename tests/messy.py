"""A raw folder with one of everything that the commands must tell apart."""

from __future__ import annotations

import os
from pathlib import Path

import instrument

LONG_AGO = 1_600_000_000
ODD_NAME = b"od\xffd\nname.csv"

VERDICTS = {
    "iv.csv": "segmented",
    "day/ivg.csv": "segmented",
    "it.csv": "segmented",
    "abandoned.csv": "rejected",
    "bad.csv": "rejected",
    "text.csv": "rejected",
    "queued.csv": "queued",
    "started.csv": "started",
    "z-copy.csv": "duplicate",
    "z-short.csv": "superseded",
}
"""What a backfill makes of each file, but the one with the odd name, which is `segmented`."""


def fill(raw: Path) -> None:
    """Write the files; the names sort so that of two copies the first is the source."""
    iv, ivg = instrument.iv(0), instrument.ivg(1)
    iv.write(raw / "iv.csv")
    ivg.write(raw / "day" / "ivg.csv")
    instrument.it(2).write(raw / "it.csv")
    instrument.iv(3).write(raw / os.fsdecode(ODD_NAME))
    (raw / "bad.csv").write_bytes(with_bad_row(instrument.iv(4)))
    (raw / "text.csv").write_text("hello,world\n1,2\n")
    (raw / "queued.csv").write_bytes(instrument.iv(5).queued())
    (raw / "started.csv").write_bytes(instrument.iv(6).data(0))
    (raw / "abandoned.csv").write_bytes(instrument.ivg(7).queued())
    os.utime(raw / "abandoned.csv", (LONG_AGO, LONG_AGO))
    iv.write(raw / "z-copy.csv")
    ivg.first(20).write(raw / "z-short.csv")
    (raw / ".hidden.csv").write_bytes(iv.data())
    (raw / "notes.txt").write_text("buy tape")
    (raw / "link.csv").symlink_to(raw / "iv.csv")
    os.mkfifo(raw / "pipe.csv")


def with_bad_row(measurement: instrument.Measurement, row: int = 10) -> bytes:
    """Write a file in which one row has a word where a number belongs."""
    lines = measurement.data().split(b"\r\n")
    first = lines.index(b"#Data:") + 2
    lines[first + row] = b"0.1,oops,nan,nan,nan"
    return b"\r\n".join(lines)


def bad_line(measurement: instrument.Measurement, row: int = 10) -> int:
    """Give the line of the bad row, from 1."""
    return measurement.data().split(b"\r\n").index(b"#Data:") + 2 + row + 1
