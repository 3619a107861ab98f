"""A cluster of several hosts, with folders under other names, one of which is cut off and comes back."""

from __future__ import annotations

from pathlib import Path

import hosts_rig
import instrument
import pytest
from dask_lab import Cluster
from lab import Lab, until
from stories.test_dask import assert_as_on_one_machine, fill, on

pytestmark = pytest.mark.skipif(not hosts_rig.can_be(), reason="hosts are made by root, with iproute2")


def test_a_host_that_is_cut_off_changes_nothing(tmp_path: Path) -> None:
    """What it had is done by the other one; what it goes on to make by itself is not used; it may come back."""
    lab = Lab(tmp_path / "lab")
    there = tmp_path / "there"
    fill(lab, 90)
    runs = len(lab.fresh().runs())
    with hosts_rig.hosts(2) as (address, (east, west)):
        found = Cluster(tmp_path / "dask", host=address)
        try:
            found.start_scheduler()
            for host in (east, west):
                found.start_worker(within=host.within(lab.home, there))
            with on(lab, found, path_map=((str(lab.home), str(there)),)).process():
                until(lambda: (lab.status() or {})["pools"][0]["ready"] == 2, 60, "for both hosts")
                until(lambda: len(lab.runs()) > 10, 60, "for the first runs")
                east.unplug()
                until(lambda: len(lab.runs()) == runs, 120, "for the other host to do it all")
                until(lambda: (lab.status() or {})["pools"][0]["ready"] == 1, 60, "for the loss to be noticed")
                east.plug()
                found.keep(1)
                found.start_worker(within=east.within(lab.home, there))
                until(lambda: (lab.status() or {})["pools"][0]["ready"] == 2, 90, "for it to be back")
                (lab.raw / "late.csv").write_bytes(instrument.iv(77, start=1758018821.0).data())
                until(lambda: any(run.source == b"late.csv" for run in lab.runs().values()), 60)
                lab.age()
                lab.wait_quiet()
        finally:
            found.stop()
    assert_as_on_one_machine(lab)
    assert not list(there.iterdir())  # seen by the hosts alone
