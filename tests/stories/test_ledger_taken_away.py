"""The state folder's files are deleted or replaced while the daemon has them open."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import instrument
import pytest
from lab import Lab, assert_converged, until

from nanolab_daemon import verify
from nanolab_daemon.catalog import FILE_NAME, Catalog


def put(lab: Lab, number: int) -> None:
    (lab.raw / f"IV_{number}.csv").write_bytes(instrument.iv(number, start=1757018821.0 + number).data())


def first_seen(lab: Lab) -> float:
    catalog = Catalog.open_to_read(lab.state / FILE_NAME)
    assert catalog is not None
    with contextlib.closing(catalog):
        record = catalog.file(b"IV_1.csv")
    assert record is not None
    return record.seen_at


@pytest.mark.parametrize("rest", ["kept", "deleted"])
def test_a_deleted_ledger_is_written_anew(tmp_path: Path, rest: str) -> None:
    """All that it knew is kept, what comes later is added, and the next start has nothing to do."""
    lab = Lab(tmp_path)
    put(lab, 1)
    with lab.process() as daemon:
        until(lambda: len(lab.runs()) == 1)
        seen_at = first_seen(lab)
        (lab.state / FILE_NAME).unlink()
        if rest == "deleted":
            for path in lab.state.glob(f"{FILE_NAME}-*"):
                path.unlink()
        put(lab, 2)
        until(lambda: (lab.state / FILE_NAME).exists() and len(lab.runs()) == 2)
        put(lab, 3)
        until(lambda: len(lab.runs()) == 3)
        lab.wait_quiet()
        assert daemon.poll() is None
    assert first_seen(lab) == seen_at
    assert "written anew" in (lab.home / "daemon.log").read_text()
    assert not verify.verify(lab.config).problems
    assert lab.backfill().tally.staged_done == 0
    assert_converged(lab)


@pytest.mark.parametrize("what", ["ledger replaced", "ledger emptied", "lock deleted", "state folder deleted"])
def test_what_can_not_be_put_right_ends_the_daemon(tmp_path: Path, what: str) -> None:
    """It says what happened and ends as failed; the next one takes over what is published."""
    lab = Lab(tmp_path)
    put(lab, 1)
    daemon = lab.spawn()
    until(lambda: len(lab.runs()) == 1)
    if what == "ledger replaced":
        shutil.copy(lab.state / FILE_NAME, tmp_path / "copy")
        (tmp_path / "copy").replace(lab.state / FILE_NAME)
    elif what == "ledger emptied":
        os.truncate(lab.state / FILE_NAME, 0)
    elif what == "lock deleted":
        (lab.state / "lock").unlink()
    else:
        shutil.rmtree(lab.state)
    assert daemon.wait(20) == 1
    said = (lab.home / "daemon.log").read_text()
    assert "Start it again" in said
    assert "Traceback" not in said
    put(lab, 2)
    with lab.process():
        until(lambda: len(lab.runs()) == 2)
        lab.wait_quiet()
    assert_converged(lab)
