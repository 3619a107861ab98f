"""The README's section on the service, word by word on a bare Debian: from nothing to a processed file."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from systemd_lab import Service
from systemd_rig import Machine, why_not

ROOT = Path(__file__).parents[2]
CLONE = "/src/nanolab-daemon"
MIRROR = "http://deb.debian.org/debian"
PACKAGES = "systemd,systemd-sysv,dbus,sudo,ca-certificates"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(900)]


def section(title: str) -> str:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return readme.partition(f"## {title}\n")[2].partition("\n## ")[0]


@pytest.fixture
def debian() -> Iterator[Machine]:
    """Boot a Debian with systemd and sudo, and no Python."""
    if trouble := why_not() or ("" if shutil.which("debootstrap") else "needs debootstrap"):
        pytest.skip(trouble)
    base = Path(tempfile.mkdtemp(prefix="debian-", dir="/var/tmp"))
    base.chmod(0o755)
    try:
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(base), MIRROR]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        shutil.copyfile(CERTIFICATES, base / CERTIFICATES.relative_to("/"))
        with Machine(base=base, binds={CLONE: ROOT}, network=True) as machine:
            assert machine.run("which", "python3", check=False).code != 0
            yield machine
    finally:
        shutil.rmtree(base)


def test_the_readme_leads_from_nothing_to_a_processed_file(debian: Machine) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```$", section("As a service"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    # How packages are reached is the machine's affair.
    ways = {
        key: value
        for key, value in os.environ.items()
        if re.fullmatch(r"PIP_(CERT|INDEX_URL|PROXY)|https?_proxy", key)
    }
    debian.sh("apt-get update -q", limit_s=120)
    debian.sh(f"cd {CLONE}\nset -x\n" + blocks[0], limit_s=600, DEBIAN_FRONTEND="noninteractive", **ways)
    lab = Service(debian, Path("/opt/nanolab-daemon/bin/nanolab-daemon"))
    lab.measure(range(3))
    lab.until_published(3)
    record = lab.journal("SOURCE_FILE=IV_1.csv")[-1]
    asked = blocks[1].replace("0123456789abcdef", str(record["RUN_ID"])).replace("IV2025-09-12_1.csv", "IV_1.csv")
    asked = asked.replace(" -f ", " --no-pager ").replace("journalctl RUN_ID", "journalctl --no-pager RUN_ID")
    debian.run("mkdir", "-p", "/srv/lab2/raw")
    told = debian.sh(f"cd /\n{asked}", limit_s=120)
    assert "segmented" in told
    assert "configuration taken over" in lab.said()
    assert re.search(r"^ *segments .*\bdone\b", told, re.MULTILINE)  # says `why`
    assert "started   nanolab-daemon@lab2.service" in told
    assert "removed   /etc/systemd/system/nanolab-daemon.service" in told
    assert debian.show("nanolab-daemon@lab2.service", "ActiveState") == "active"
