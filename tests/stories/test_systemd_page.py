"""The page of a service: on a socket that systemd opens, in a service that can open none."""

from __future__ import annotations

from pathlib import Path

import pytest
from systemd_lab import Service
from systemd_rig import Machine

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(180)]

ASK = """
import sys, urllib.request
try:
    with urllib.request.urlopen("http://127.0.0.1:8321/" + sys.argv[1], timeout=20) as answer:
        print(answer.status, answer.read().decode())
except OSError as error:
    print(getattr(error, "code", 0), error)
"""


def test_the_page_is_served_by_a_service_without_network_and_goes_with_it(
    machine: Machine, installation: Path
) -> None:
    lab = Service(machine, installation)
    python = str(installation.with_name("python"))

    def ask(path: str) -> str:
        return machine.run(python, "-c", ASK, path).out

    lab.begin("--http")
    lab.measure(range(3))
    lab.until_published(3)
    assert lab.show("PrivateNetwork") == "yes"
    assert lab.show("RestrictAddressFamilies") == "AF_UNIX"
    machine.until(lambda: ask("health").startswith("200 "), 30, "for the page to be well")
    assert "IV_2.csv" in ask("runs")
    assert "nanolab_published_runs 3.0" in ask("metrics")
    assert lab.status()["live"]["page"]["address"] == "http://127.0.0.1:8321/"
    verified = machine.run("systemd-analyze", "verify", f"/etc/systemd/system/{lab.unit}")
    assert verified.out.strip() == ""

    before = lab.pid
    machine.run("systemctl", "restart", lab.unit)
    lab.until_active(before)
    machine.until(lambda: ask("health").startswith("200 "), 30, "for the page to be back")

    machine.run("systemctl", "stop", lab.unit)
    assert ask("health").startswith("0 ")  # and nobody is started by asking
    assert lab.show("ActiveState") == "inactive"
    machine.run(lab.command, "service", "uninstall")
    assert "nanolab-daemon.socket" not in machine.run("systemctl", "list-unit-files").out
