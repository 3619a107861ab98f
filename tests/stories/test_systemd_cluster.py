"""A service whose work is done on a cluster: it has the network that it needs, and no more rights than others."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from systemd_lab import Service
from systemd_rig import Machine

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(180)]

SCHEDULER = "systemd-run --unit=scheduler {} -m distributed.cli.dask_scheduler --host 127.0.0.1 --port 8786"
WORKER = """systemd-run --unit=worker --collect --uid=nanolab --gid=nanolab --property=WorkingDirectory=/tmp \
    --property=ProtectHome=tmpfs --property=BindReadOnlyPaths={prefix} \
    {python} -m distributed.cli.dask_worker tcp://127.0.0.1:8786 --no-nanny --nthreads 3 --no-dashboard \
    --resources 'nanolab_stage=1 nanolab_segment=1'
"""
ENGINE = '[pools]\nengine = "dask"\nscheduler = "tcp://127.0.0.1:8786"'


def test_a_cluster_works_for_the_service(machine: Machine, installation: Path) -> None:
    lab = Service(machine, installation)
    lab.begin()
    assert lab.show("PrivateNetwork") == "yes"
    before = machine.sh(f"cat {lab.config}")
    machine.put(lab.config, before.replace("[pools]", ENGINE).replace('engine = "local"', "").encode())
    machine.sh(f"sed -i '/^scheduler = \"\"/d' {lab.config}; chgrp nanolab {lab.config}; chmod 640 {lab.config}")
    python = installation.with_name("python")
    worker = WORKER.format(python=python, prefix=sys.base_prefix)
    machine.sh(SCHEDULER.format(python))
    machine.sh(worker)
    lab.install()
    machine.run("systemctl", "restart", lab.unit)
    assert lab.show("PrivateNetwork") == "no"
    lab.measure(range(5))
    lab.until_published(5)
    pools = lab.status()["live"]["pools"]
    assert pools[0]["scheduler"] == "tcp://127.0.0.1:8786"
    machine.run("systemctl", "stop", "worker")  # and it goes on with another one
    lab.measure(range(5, 8))
    machine.sh(worker)
    lab.until_published(8)
    assert "Traceback" not in lab.said()
