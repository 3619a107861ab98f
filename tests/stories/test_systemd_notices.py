"""Notices as a service of their own: installed where addresses are named, confined, outliving the daemon."""

from __future__ import annotations

from pathlib import Path

import pytest
from systemd_lab import Service
from systemd_rig import Machine

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(240)]

PORT = 8765  # on the machine's own loopback, where nobody else is
NOTICES = "nanolab-daemon-notify.service"
ADDRESSES = "/etc/nanolab-daemon/addresses"
RECEIVER = f"""
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with open("/run/told", "ab") as file:
            file.write(body + b"\\n")
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", {PORT}), Handler).serve_forever()
"""


def test_people_are_told_by_a_service_of_its_own(machine: Machine, installation: Path) -> None:
    lab = Service(machine, installation)
    python = str(installation.with_name("python"))
    machine.put("/run/receiver.py", RECEIVER)
    machine.run("systemd-run", "--unit=receiver", python, "/run/receiver.py")
    machine.run("mkdir", "-p", lab.raw)

    lab.install("--raw-root", lab.raw)
    machine.sh(
        f'sed -i \'s|^urls_file = ""|urls_file = "{ADDRESSES}"|; s|^gather_s = .*|gather_s = 1|\' {lab.config}'
    )
    missing = lab.install("--now", check=False)
    assert (missing.code, ADDRESSES in missing.err) == (78, True)
    machine.put(ADDRESSES, f"json://127.0.0.1:{PORT}/\n")
    machine.run("chmod", "600", ADDRESSES)
    closed = lab.install("--now", check=False)
    assert closed.code == 1
    command = closed.err.partition("Type: sudo ")[2].splitlines()[0]
    machine.sh(command.replace("sudo ", ""))
    assert f"started   {NOTICES}" in lab.install("--now").out

    lab.measure(range(2))
    lab.until_published(2)
    machine.put(f"{lab.raw}/broken.csv", "this is no measurement\n")
    machine.until(
        lambda: "broken.csv" in machine.sh("cat /run/told 2>/dev/null || true"), 60, "for people to be told"
    )
    assert machine.run("systemd-analyze", "verify", f"/etc/systemd/system/{NOTICES}").out.strip() == ""
    pid = machine.show(NOTICES, "MainPID")
    for hidden in (lab.raw, f"{lab.data}/stage", f"{lab.data}/output"):
        seen = machine.run("nsenter", "-t", pid, "-m", "ls", hidden, check=False)
        assert seen.code != 0 or not seen.out.strip(), hidden

    machine.run("systemctl", "stop", lab.unit)
    assert machine.show(NOTICES, "ActiveState") == "active"

    machine.sh(f"sed -i 's|^urls_file = .*|urls_file = \"\"|' {lab.config}")
    lab.install()
    assert machine.show(NOTICES, "LoadState") == "not-found"
    machine.sh(f'sed -i \'s|^urls_file = ""|urls_file = "{ADDRESSES}"|\' {lab.config}')
    lab.install("--now")
    told = machine.run(lab.command, "service", "uninstall").out
    assert f"removed   /etc/systemd/system/{NOTICES}" in told
    assert machine.show(NOTICES, "ActiveState") == "inactive"
