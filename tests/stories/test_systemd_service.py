"""The life of the service under a real systemd: ready when it is, restarted when it dies or hangs, heard by run.

`REST_S=600 BACKLOG=31806 ./go test -m systemd -k watchdog_does_not_bite` rests and works longer.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from systemd_lab import Service
from systemd_rig import Machine

from nanolab_daemon.journal import MESSAGE_IDS

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(300)]

WATCHDOG_S = 3
REST_S = float(os.environ.get("REST_S", str(4 * WATCHDOG_S)))
BACKLOG = int(os.environ.get("BACKLOG", "1500"))

HANGS = """
import os, sys, threading, time

def hang_now():
    while os.path.exists("/srv/hang"):
        time.sleep(0.1)

def lay_trap():
    while not hasattr(sys.modules.get("nanolab_daemon.service"), "Daemon"):
        time.sleep(0.01)
    daemon = sys.modules["nanolab_daemon.service"].Daemon
    turn = daemon._turn
    daemon._turn = lambda self: (hang_now(), turn(self))[1]

threading.Thread(target=lay_trap, daemon=True).start()
"""

SLOW = """
import sys, time
if "spawn_main" in " ".join(sys.orig_argv):
    time.sleep(15)
"""


@pytest.fixture(scope="module")
def first(machine: Machine, installation: Path) -> Service:
    service = Service(machine, installation)
    service.begin("--workers", "1")
    return service


@pytest.fixture
def lab(first: Service) -> Iterator[Service]:
    """Give the service, running and as it was installed; what a test puts beside its unit goes with it."""
    first.machine.run("systemctl", "reset-failed", first.unit, check=False)
    first.machine.run("systemctl", "start", first.unit)
    yield first
    first.machine.run("rm", "-rf", f"/etc/systemd/system/{first.unit}.d")
    first.machine.run("systemctl", "daemon-reload")
    first.machine.run("systemctl", "stop", first.unit)
    first.machine.run("systemctl", "reset-failed", first.unit, check=False)


def restart(lab: Service, drop_in: str) -> None:
    lab.drop_in(drop_in)
    lab.machine.run("systemctl", "restart", lab.unit)


def test_the_unit_has_no_mistake_and_little_exposure(lab: Service) -> None:
    file = f"/etc/systemd/system/{lab.unit}"
    done = lab.machine.run("systemd-analyze", "verify", file)
    assert (done.out, done.err) == ("", "")
    # A threshold of 5 is a score of 0.5.
    lab.machine.run("systemd-analyze", "security", "--offline=yes", "--threshold=5", file)
    lab.machine.run("systemd-analyze", "security", "--threshold=5", lab.unit)


def test_it_is_active_only_when_it_works(lab: Service) -> None:
    lab.machine.run("systemctl", "restart", lab.unit)
    since = int(lab.show("ActiveEnterTimestampMonotonic"))
    invocation = lab.show("InvocationID")
    running = lab.journal(f"_SYSTEMD_INVOCATION_ID={invocation}", f"MESSAGE_ID={MESSAGE_IDS['running']}")
    watching = lab.journal(f"_SYSTEMD_INVOCATION_ID={invocation}", f"MESSAGE_ID={MESSAGE_IDS['watching']}")
    assert len(running) == 1
    assert len(watching) >= 1
    assert max(int(one["__MONOTONIC_TIMESTAMP"]) for one in (*running, watching[0])) <= since
    assert all(pool["ready"] for pool in lab.status()["live"]["pools"])


def test_it_is_not_active_while_no_worker_can_work(lab: Service) -> None:
    """Its main process needs no Arrow, so only the workers notice that the installation is broken."""
    lab.machine.put("/opt/broken/pyarrow/__init__.py", "raise ImportError('this Arrow is broken')\n")
    lab.drop_in("[Service]\nEnvironment=PYTHONPATH=/opt/broken\nRestart=no\n")
    began = lab.machine.run("systemctl", "restart", lab.unit, check=False)
    assert began.code != 0
    assert lab.show("ActiveState") == "failed"
    assert "this Arrow is broken" in lab.said()


def test_a_file_becomes_segments_and_its_run_can_be_asked_for(lab: Service) -> None:
    runs, _ = lab.published()
    lab.measure([5001])
    lab.until_published(runs + 1)
    (seen,) = lab.journal("SOURCE_FILE=IV_5001.csv", f"MESSAGE_ID={MESSAGE_IDS['staged']}")
    history = lab.journal(f"RUN_ID={seen['RUN_ID']}")
    staged, segmented = history
    assert [staged["STATE"], segmented["STATE"]] == ["staged", "segmented"]
    assert (staged["PROC"], staged["ROWS"], staged["PRIORITY"]) == ("IV", "44", "6")
    assert (segmented["SEGMENTS"], segmented["SOURCE_FILE"]) == ("4", "IV_5001.csv")
    assert all(0 <= int(one["DURATION_MS"]) < 60_000 for one in history)
    assert {one["_SYSTEMD_UNIT"] for one in history} == {lab.unit}
    assert all(one["_TRANSPORT"] == "journal" for one in history)
    assert "done" in lab.show("StatusText")


def test_killed_it_is_back_and_its_workers_are_gone(lab: Service) -> None:
    pid, workers = lab.pid, lab.workers
    assert len(workers) == 2
    lab.drop_in("[Service]\nRestartSec=100ms\n")
    lab.machine.run("kill", "-9", str(pid))
    lab.until_active(other_than=pid)
    assert lab.show("NRestarts") == "1"
    assert not any(lab.machine.run("kill", "-0", str(one), check=False).code == 0 for one in (pid, *workers))


def test_a_killed_worker_is_replaced_without_a_restart(lab: Service) -> None:
    pid, before = lab.pid, lab.workers
    runs, _ = lab.published()
    for worker in before:
        lab.machine.run("kill", "-9", str(worker))
    lab.measure([5002])
    lab.until_published(runs + 1)
    assert lab.pid == pid
    assert lab.show("NRestarts") == "0"
    assert not lab.workers & before


def test_one_that_hangs_is_restarted_and_leaves_its_stacks(lab: Service) -> None:
    restart(lab, f"[Service]\nWatchdogSec={WATCHDOG_S}s\nRestartSec=100ms\n")
    pid = lab.pid
    lab.machine.run("kill", "-STOP", str(pid))
    began = time.monotonic()
    lab.until_active(other_than=pid)
    assert WATCHDOG_S / 2 < time.monotonic() - began < WATCHDOG_S + 15
    said = lab.said()
    assert "Watchdog timeout" in said
    # Of a thread that is caught as it enters a function Python tells that function alone, so which one is left open.
    assert "/nanolab_daemon/" in said.partition("most recent call first")[2], said


def test_a_loop_that_hangs_in_a_process_that_lives_is_noticed(lab: Service) -> None:
    """Its other threads run on, and its workers; only the loop that does the work feeds the watchdog."""
    lab.machine.put("/opt/hangs/sitecustomize.py", HANGS)
    restart(lab, f"[Service]\nWatchdogSec={WATCHDOG_S}s\nRestartSec=100ms\nEnvironment=PYTHONPATH=/opt/hangs\n")
    pid = lab.pid
    lab.machine.run("touch", "/srv/hang")
    lab.machine.until(lambda: lab.pid != pid)
    lab.machine.run("rm", "/srv/hang")
    lab.until_active(other_than=pid)
    assert "hang_now" in lab.said()


def test_a_start_that_makes_progress_may_take_longer_than_allowed(lab: Service) -> None:
    lab.machine.put("/opt/slow/sitecustomize.py", SLOW)
    lab.drop_in("[Service]\nTimeoutStartSec=10s\nRestart=no\nEnvironment=PYTHONPATH=/opt/slow\n")
    began = time.monotonic()
    lab.machine.run("systemctl", "restart", lab.unit)
    assert time.monotonic() - began > 12
    assert lab.show("ActiveState") == "active"


@pytest.mark.timeout(600 + REST_S + BACKLOG / 4)
def test_the_watchdog_does_not_bite_in_rest_nor_in_a_backlog(lab: Service) -> None:
    restart(lab, f"[Service]\nWatchdogSec={WATCHDOG_S}s\n")
    pid = lab.pid
    runs, _ = lab.published()
    time.sleep(REST_S)  # nothing is to happen
    assert (lab.pid, lab.show("NRestarts")) == (pid, "0")
    lab.measure(range(100_000, 100_000 + BACKLOG), "backlog")
    lab.until_published(runs + BACKLOG, limit_s=300 + BACKLOG / 4)
    assert (lab.pid, lab.show("NRestarts")) == (pid, "0")


def test_reload_takes_what_can_change_and_keeps_the_workers(lab: Service) -> None:
    pid, workers = lab.pid, lab.workers
    lab.machine.run("sed", "-i", 's/^settle_s = .*/settle_s = 0.25/; s/^level = .*/level = "debug"/', lab.config)
    lab.machine.run("systemctl", "reload", lab.unit)
    lab.machine.until(lambda: lab.journal(f"MESSAGE_ID={MESSAGE_IDS['configuration taken over']}"))
    taken = lab.journal(f"MESSAGE_ID={MESSAGE_IDS['configuration taken over']}")[-1]
    assert {"watch.settle_s", "log.level"} <= set(json.loads(taken["KEYS"]))
    assert (lab.pid, lab.workers, lab.show("ActiveState")) == (pid, workers, "active")


def test_reload_refuses_by_name_what_needs_a_restart(lab: Service) -> None:
    pid = lab.pid
    config = lab.machine.sh(f"cat {lab.config}")
    try:
        lab.machine.run("sed", "-i", "s/^task_timeout_s = .*/task_timeout_s = 90/", lab.config)
        lab.machine.run("systemctl", "reload", lab.unit)
        needs = MESSAGE_IDS["not taken over: the configuration needs a restart"]
        lab.machine.until(lambda: lab.journal(f"MESSAGE_ID={needs}"))
        assert "pools.task_timeout_s" in lab.journal(f"MESSAGE_ID={needs}")[-1]["KEYS"]
        lab.machine.put(lab.config, config + "nonsense\n")
        lab.machine.run("systemctl", "reload", lab.unit)
        wrong = MESSAGE_IDS["the configuration is wrong and was not taken over"]
        lab.machine.until(lambda: lab.journal(f"MESSAGE_ID={wrong}"))
        assert (lab.pid, lab.show("ActiveState")) == (pid, "active")
    finally:
        lab.machine.put(lab.config, config)


def test_it_stops_in_time_under_full_load_and_goes_on_later(lab: Service) -> None:
    runs, _ = lab.published()
    lab.measure(range(20_000, 21_000), "load")
    lab.machine.until(lambda: lab.published()[0] > runs + 20)
    began = time.monotonic()
    lab.machine.run("systemctl", "stop", lab.unit)
    assert time.monotonic() - began < 10
    assert lab.show("Result") == "success"
    assert lab.published()[0] < runs + 1000
    lab.machine.run("systemctl", "start", lab.unit)
    lab.until_published(runs + 1000, limit_s=180)


def test_a_crash_loop_ends(lab: Service) -> None:
    lab.machine.run("systemctl", "stop", lab.unit)
    ledger = f"{lab.data}/state/ledger.sqlite"
    lab.machine.sh(f"mv {ledger} {ledger}.good; mkdir {ledger}")
    try:
        lab.drop_in("[Unit]\nStartLimitBurst=3\n[Service]\nRestartSec=100ms\n")
        lab.machine.run("systemctl", "start", lab.unit, check=False)
        lab.machine.until(lambda: "repeated too quickly" in lab.said())
        lab.machine.until(lambda: lab.show("ActiveState") == "failed")
    finally:
        lab.machine.sh(f"rmdir {ledger}; mv {ledger}.good {ledger}")


def test_a_wrong_configuration_is_not_tried_again(lab: Service) -> None:
    config = lab.machine.sh(f"cat {lab.config}")
    try:
        lab.machine.run("sed", "-i", "s/^settle_s = .*/settel_s = 1.0/", lab.config)
        lab.drop_in("[Service]\nRestartSec=100ms\n")
        assert lab.machine.run("systemctl", "restart", lab.unit, check=False).code != 0
        assert lab.show("ActiveState") == "failed"
        assert (lab.show("ExecMainStatus"), lab.show("NRestarts")) == ("78", "0")
        assert "settel_s" in lab.said()
    finally:
        lab.machine.put(lab.config, config)
