"""Looks into files that are being written."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from nanolab_daemon.model import FileState
from nanolab_daemon.probe import Probe
from nanolab_daemon.procedures import Registry
from nanolab_daemon.ramps import set_points

QUEUED = (
    "#Procedure: <laser_setup.procedures.IV.IV>\r\n#Parameters:\r\n#\tBurn-in time: 600 s\r\n"
    "#\tLaser voltage: 1 V\r\n#\tProcedure version: 2.0.1\r\n#\tVSD end: 0.1 V\r\n#\tVSD start: -0.1 V\r\n"
    "#\tVSD step: 0.01 V\r\n"
)
START = "#Metadata:\r\n#\tStart time: 1757686798.9217222\r\n"
LABELS = "#Data:\r\nVsd (V),I (A)\r\n"


def ramp() -> list[float]:
    registry = Registry.builtin().get("IV")
    assert registry is not None
    return list(set_points(registry.paths[0].kind, -0.1, 0.1, 0.01) or [])


def test_the_life_of_a_file(tmp_path: Path) -> None:
    """Queued, started, measuring and proven follow from the bytes, though the header moves all rows' places."""
    file, probe = tmp_path / "IV.csv", Probe(Registry.builtin(), 1 << 20)
    file.write_bytes(b"")
    assert probe.look(file.parent.as_posix(), os.fsencode(file.name)).state is None
    file.write_text(QUEUED + LABELS, newline="")
    assert probe.look(file.parent.as_posix(), os.fsencode(file.name)).state is FileState.QUEUED
    file.write_text(QUEUED + START + LABELS, newline="")
    glance = probe.look(file.parent.as_posix(), os.fsencode(file.name))
    assert glance.state is FileState.STARTED
    assert glance.expected_rows == 44
    assert glance.silence_s >= 600
    for number, value in enumerate(ramp(), 1):
        with file.open("a", newline="") as f:
            f.write(f"{value!r},1e-9\r\n")
        glance = probe.look(file.parent.as_posix(), os.fsencode(file.name))
        assert (glance.state, glance.rows) == (FileState.MEASURING, number)
        assert glance.proven == (number == 44)


def test_a_torn_row_does_not_count(tmp_path: Path) -> None:
    """A row without its newline is no row yet."""
    file, probe = tmp_path / "IV.csv", Probe(Registry.builtin(), 1 << 20)
    file.write_text(QUEUED + START + LABELS + "0.0,1e-9\r\n-0.0005,1e", newline="")
    assert probe.look(file.parent.as_posix(), os.fsencode(file.name)).rows == 1
    with file.open("a", newline="") as f:
        f.write("-9\r\n")
    assert probe.look(file.parent.as_posix(), os.fsencode(file.name)).rows == 2


@given(st.lists(st.integers(0, 400), max_size=20), st.booleans())
def test_piecewise_looks_see_what_one_look_sees(cuts: list[int], moved: bool) -> None:
    """However a file grows, and though its header is rewritten, the last look is that of a new probe."""
    import tempfile

    body = "".join(f"{value!r},1e-9\n" for value in ramp())
    with tempfile.TemporaryDirectory() as folder:
        file, probe = Path(folder) / "IV.csv", Probe(Registry.builtin(), 1 << 20)
        for cut in sorted(cuts):
            head = QUEUED + (START if not moved or cut > 100 else "") + LABELS
            file.write_text(head + body[: cut * 3], newline="")
            assert probe.look(file.parent.as_posix(), os.fsencode(file.name)) == Probe(
                Registry.builtin(), 1 << 20
            ).look(file.parent.as_posix(), os.fsencode(file.name))
