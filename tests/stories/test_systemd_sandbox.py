"""What the service can't do, tried from inside: write raw files, see other laboratories, open a socket."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from systemd_lab import Service
from systemd_rig import Machine

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(180)]

OTHER_RAW = "/srv/a 2nd lab, 100%/raw"

PROBE = r"""
import ctypes, json, os, socket, subprocess, sys, time
from pathlib import Path
sys.path.insert(0, {site!r})
from nanolab_daemon.confine import write_only_below

raw, other, data = {raw!r}, {other!r}, {data!r}
found = {{}}
found["confined"] = write_only_below([Path(data, name) for name in ("stage", "output", "state")])
Path(data, "stage/waits").touch()
while not os.path.exists(raw + "/late/there"):
    time.sleep(0.02)

def attempt(name, action):
    try:
        action()
    except OSError as error:
        found[name] = error.strerror
    else:
        found[name] = "done"

def call(name, *words):
    libc = ctypes.CDLL(None, use_errno=True)
    number = getattr(libc, name)(*words)
    if number < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

def execute():
    script = Path(data, "output/script")
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    subprocess.run([script], check=True)

attempt("raw: make", lambda: open(raw + "/made", "w"))
attempt("raw: append", lambda: open(raw + "/file.csv", "a"))
attempt("raw: chmod", lambda: os.chmod(raw + "/file.csv", 0o777))
attempt("raw: delete", lambda: os.unlink(raw + "/file.csv"))
attempt("raw: rename", lambda: os.rename(raw + "/file.csv", raw + "/other.csv"))
attempt("late share: make", lambda: open(raw + "/late/made", "w"))
attempt("late share: append", lambda: open(raw + "/late/there", "a"))
attempt("late share: delete", lambda: os.unlink(raw + "/late/there"))
attempt("late share: read", lambda: open(raw + "/late/there").read())
for name, path in (("raw", other), ("data", data + "/second/stage"), ("ledger", data + "/second/state")):
    attempt("other laboratory: " + name, lambda: os.listdir(path))
attempt("other laboratory: settings", lambda: open("/etc/nanolab-daemon/second/config.toml").read())
for folder in ("/mnt", "/boot"):
    attempt("list " + folder, lambda: os.listdir(folder))
for file in ("/home/somebody/letter", "/root/letter"):
    attempt("read " + file, lambda: open(file).read())
for folder in ("/etc", "/usr", "/srv", "/var/lib", "/"):
    attempt("write " + folder, lambda: open(folder + "/made", "w"))
for family in ("AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET", "AF_VSOCK"):
    attempt(family, lambda: socket.socket(getattr(socket, family), socket.SOCK_RAW))
    attempt(family + " stream", lambda: socket.socket(getattr(socket, family), socket.SOCK_STREAM))
attempt("execute what it wrote", execute)
attempt("mount", lambda: call("mount", b"x", b"/tmp", b"tmpfs", 0, None))
attempt("new user namespace", lambda: call("unshare", 0x10000000))
attempt("higher priority", lambda: os.nice(-5))
attempt("stop the others", lambda: os.kill(1, 9))
attempt("set-user-id", lambda: (Path(data, "state/s").touch(), os.chmod(data + "/state/s", 0o4755)))
attempt("write stage", lambda: open(data + "/stage/made", "w"))
attempt("write output", lambda: open(data + "/output/made", "w"))
attempt("write state", lambda: open(data + "/state/made", "w"))
print("FOUND " + json.dumps(found))
"""

ALLOWED = {"late share: read", "write stage", "write output", "write state"}


@pytest.fixture(scope="module")
def labs(machine: Machine, installation: Path) -> tuple[Service, Service]:
    """Two laboratories on one machine; the second one's names need quoting everywhere."""
    one = Service(machine, installation)
    two = Service(machine, installation, name="second", raw=OTHER_RAW)
    for lab in (one, two):
        lab.begin("--workers", "1")
    return one, two


@pytest.fixture(scope="module")
def found(machine: Machine, installation: Path, labs: tuple[Service, Service]) -> Mapping[str, str]:
    """Run the probe under all the directives of the first laboratory's unit, as open as the disk's rights can be."""
    lab = labs[0]
    machine.sh(f"mkdir -p {lab.raw}/late; touch {lab.raw}/file.csv; chmod -R a+rwX {lab.raw} '{OTHER_RAW}'")
    machine.sh("mkdir -p /home/somebody; echo x | tee /home/somebody/letter >/root/letter; chmod a+rx /root")
    site = str(next(installation.parents[1].glob("lib/python3*/site-packages")))
    script = PROBE.format(site=site, raw=lab.raw, other=OTHER_RAW, data=lab.data)
    machine.put("/opt/probe.py", script)
    unit = machine.run("systemctl", "cat", lab.unit).out
    unit = re.sub(r"^ExecStart=.*$", "ExecStart=/usr/bin/env python3 /opt/probe.py", unit, flags=re.MULTILINE)
    unit = re.sub(r"^(Restart|WatchdogSec|Type)=.*$", "", unit, flags=re.MULTILINE)
    machine.put("/etc/systemd/system/probe.service", unit)
    machine.sh("systemctl daemon-reload; systemctl start probe")
    machine.until(lambda: machine.run("test", "-e", f"{lab.data}/stage/waits", check=False).code == 0)
    # Mounted while it runs, and writable for everybody.
    machine.sh(f"cd {lab.raw}; mount -t tmpfs -o mode=777 late late; echo x >late/there; chmod 666 late/there")
    machine.until(lambda: machine.show("probe.service", "ActiveState") != "active")
    machine.run("journalctl", "--sync")
    said = machine.run("journalctl", "--unit=probe", "--output=cat", "--all", "--no-pager").out
    answer = re.search(r"FOUND (.*)", said)
    assert answer is not None, said
    told: dict[str, str] = json.loads(answer[1])
    return told


def test_it_may_read_raw_and_write_its_own_folders_and_nothing_else(found: Mapping[str, str]) -> None:
    assert found["confined"] == ""
    assert len(found) > 30
    assert {name for name, answer in found.items() if answer == "done"} == ALLOWED


def test_the_raw_folder_is_read_only_and_a_late_share_below_it_too(found: Mapping[str, str]) -> None:
    assert {answer for name, answer in found.items() if name.startswith("raw: ")} == {"Read-only file system"}
    late = {answer for name, answer in found.items() if name.startswith("late share: ") and name not in ALLOWED}
    assert late == {"Permission denied"}


def test_no_socket_can_be_opened(found: Mapping[str, str]) -> None:
    answers = {answer for name, answer in found.items() if name.startswith("AF_")}
    assert answers == {"Address family not supported by protocol"}


def test_all_its_processes_have_given_up_their_privileges(labs: tuple[Service, Service]) -> None:
    lab = labs[0]
    assert len(lab.workers) == 2
    for pid in (lab.pid, *lab.workers):
        status = dict(
            line.split(":\t", 1) for line in lab.machine.sh(f"cat /proc/{pid}/status").splitlines() if ":\t" in line
        )
        assert set(status["Uid"].split()) == {lab.machine.run("id", "-u", "nanolab").out.strip()}
        assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        assert lab.machine.run("ps", "-o", "ni=", "-p", str(pid)).out.strip() == "10"
    assert "not confined" not in lab.said()


def test_two_laboratories_work_side_by_side(labs: tuple[Service, Service]) -> None:
    one, two = labs
    assert one.show("User") != two.show("User")
    before = [lab.published() for lab in labs]
    one.measure(range(30))
    two.measure(range(100, 140))
    for lab, (runs, _), files in zip(labs, before, (30, 40), strict=True):
        lab.until_published(runs + files)
    one.machine.run("systemctl", "stop", one.unit)
    two.measure([200])
    two.until_published(before[1][0] + 41)
    one.machine.run("systemctl", "start", one.unit)


def test_a_share_that_comes_back_is_seen(labs: tuple[Service, Service]) -> None:
    """Each instrument's PC has a share below raw: one that goes is frozen, and found again, without a restart."""
    lab = labs[0]
    pid = lab.pid
    runs, _ = lab.published()
    share = f"{lab.raw}/pc9"
    lab.machine.sh(
        f"mkdir -p {share} /srv/pc9; mount -t tmpfs -o mode=755 pc9 /srv/pc9; mount --bind /srv/pc9 {share}"
    )
    lab.measure([301], "pc9")
    lab.until_published(runs + 1)
    lab.machine.until(lambda: "pc9" in lab.status()["live"]["places"], what="for the share to be known")
    lab.machine.run("umount", share)
    lab.machine.until(lambda: lab.status()["live"]["frozen"])
    lab.machine.sh(f"mount --bind /srv/pc9 {share}")
    lab.machine.until(lambda: not lab.status()["live"]["frozen"])
    lab.measure([302], "pc9")
    lab.until_published(runs + 2)
    assert (lab.pid, lab.status()["source_missing"]) == (pid, 0)


def test_a_raw_folder_that_is_a_share_itself_may_go_and_come_back(machine: Machine, installation: Path) -> None:
    lab = Service(machine, installation, name="share", raw="/srv/share/raw")
    machine.sh(
        f"mkdir -p {lab.raw} /srv/nas; mount -t tmpfs -o mode=755 nas /srv/nas; mount --bind /srv/nas {lab.raw}"
    )
    lab.begin("--workers", "1")
    pid = lab.pid
    assert "srv-share-raw.mount" in lab.show("Wants").split()
    lab.measure([1])
    lab.until_published(1)
    machine.run("umount", lab.raw)
    machine.until(lambda: lab.status()["live"]["degraded"])
    machine.until(lambda: "degraded" in lab.show("StatusText"), what="for the status to follow")
    machine.sh(f"mount --bind /srv/nas {lab.raw}")
    machine.until(lambda: not lab.status()["live"]["degraded"])
    lab.measure([2])
    lab.until_published(2)
    assert (lab.pid, lab.status()["source_missing"]) == (pid, 0)
