"""`service install` and `service uninstall` on a real systemd: the first time, again, wrongly, and away with it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from systemd_lab import Service
from systemd_rig import Machine

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(180)]


@pytest.fixture
def lab(machine: Machine, installation: Path) -> Iterator[Service]:
    """Give a laboratory that is not installed yet."""
    lab = Service(machine, installation)
    machine.run("mkdir", "-p", lab.raw)
    yield lab
    machine.run(lab.command, "service", "uninstall", check=False)
    machine.sh(
        f"rm -rf /etc/nanolab-daemon {lab.data} {lab.raw} /etc/systemd/system/{lab.unit}.d; systemctl daemon-reload"
    )
    machine.run("userdel", "nanolab", check=False)


def exists(machine: Machine, path: str) -> bool:
    return machine.run("test", "-e", path, check=False).code == 0


def test_first_it_makes_all_that_is_needed_and_says_so(lab: Service, installation: Path) -> None:
    machine = lab.machine
    told = lab.install("--raw-root", lab.raw, "--workers", "2", "--now").out
    for made in (
        f"/etc/systemd/system/{lab.unit}",
        lab.config,
        *(f"{lab.data}/{one}" for one in ("stage", "output", "state")),
    ):
        assert made in told
        assert exists(machine, made)
    assert lab.show("ExecStart").startswith(f"{{ path={installation.parent}/python")
    assert (lab.show("UnitFileState"), lab.show("ActiveState"), lab.show("User")) == ("enabled", "active", "nanolab")
    settings = machine.sh(f"cat {lab.config}")
    assert f'raw = "{lab.raw}"' in settings
    assert "stage_workers = 2" in settings
    assert machine.sh(f"stat -c '%a %U %G' {lab.config} {lab.data}/stage").split() == [
        *("640", "root", "nanolab"),
        *("2750", "nanolab", "nanolab"),
    ]


def test_without_now_it_only_says_how_to_start(lab: Service) -> None:
    told = lab.install("--raw-root", lab.raw).out
    assert (lab.show("ActiveState"), lab.show("UnitFileState")) == ("inactive", "disabled")
    (command,) = re.findall(r"sudo (systemctl enable --now \S+)", told)
    lab.machine.run(*command.split())
    assert lab.show("ActiveState") == "active"


def test_again_is_an_upgrade(lab: Service) -> None:
    """The unit is the new one, the edited configuration and one's own drop-ins stay, the work goes on."""
    machine = lab.machine
    lab.install("--raw-root", lab.raw, "--now")
    lab.measure(range(3))
    lab.until_published(3)
    pid = lab.pid
    machine.run("sed", "-i", "s/^settle_s = .*/settle_s = 0.125  # mine/", lab.config)
    machine.sh(f"echo '# edited' >>/etc/systemd/system/{lab.unit}")
    lab.drop_in("[Service]\nCPUWeight=33\n")
    told = lab.install("--raw-root", lab.raw, "--now").out
    assert f"kept      {lab.config}" in told
    assert f"replaced  /etc/systemd/system/{lab.unit}" in told
    assert "settle_s = 0.125  # mine" in machine.sh(f"cat {lab.config}")
    assert "# edited" not in machine.sh(f"cat /etc/systemd/system/{lab.unit}")
    assert (lab.show("CPUWeight"), lab.show("ActiveState")) == ("33", "active")
    assert lab.pid != pid
    lab.measure([3])
    lab.until_published(4)


def test_flags_that_contradict_the_configuration_change_nothing(lab: Service) -> None:
    lab.install("--raw-root", lab.raw, "--now")
    pid = lab.pid
    lab.machine.run("mkdir", "-p", "/srv/elsewhere")
    done = lab.install("--raw-root", "/srv/elsewhere", "--now", check=False)
    assert done.code == 2
    assert "/srv/elsewhere" in done.err
    assert f"sudoedit {lab.config}" in done.err
    assert lab.pid == pid


def test_uninstalled_the_data_stays_and_it_is_said_where(lab: Service) -> None:
    machine = lab.machine
    lab.install("--raw-root", lab.raw, "--now")
    lab.measure(range(2))
    lab.until_published(2)
    told = machine.run(lab.command, "service", "uninstall").out
    assert (lab.show("LoadState"), machine.run("pgrep", "-f", "nanolab_daemon run", check=False).code) == (
        "not-found",
        1,
    )
    for kept in (lab.config, lab.raw, *(f"{lab.data}/{one}" for one in ("stage", "output", "state"))):
        assert f"kept      {kept}" in told
        assert exists(machine, kept)
    assert lab.published() == (2, 8)
    left = machine.sh("find /etc/systemd /etc/sysusers.d /etc/tmpfiles.d -name '*nanolab*'")
    assert left == ""
    again = machine.run(lab.command, "service", "uninstall", check=False)
    assert (again.code, "not installed" in again.err) == (2, True)
    lab.install("--now")  # as it was
    assert lab.status()["total"]["runs"] == 2


def test_who_is_not_root_is_told_what_to_type(lab: Service) -> None:
    words = ["service", "install", "--raw-root", lab.raw, "--now"]
    plain = ["setpriv", "--reuid=1", "--regid=1", "--clear-groups"]
    machine = lab.machine
    machine.run("mkdir", "-p", "/opt/open")
    # A plain user must be able to start the interpreter at all.
    python = machine.sh(f"readlink -f {shlex.quote(str(Path(lab.command).parent))}/python").strip()
    for folder in Path(python).parents:
        machine.run("chmod", "a+x", str(folder))
    done = machine.run(*plain, lab.command, *words, check=False)
    assert done.code == 1
    (command,) = re.findall(r"Type: sudo (.*)", done.err)
    machine.run(*shlex.split(command))
    assert lab.show("ActiveState") == "active"


def test_members_of_the_group_may_ask_and_order_nothing(lab: Service) -> None:
    """Whoever works in the laboratory sees how it fares without sudo, once he is a member as he was told."""
    machine = lab.machine
    told = lab.install("--raw-root", lab.raw, "--now").out
    (command,) = re.findall(r"Who may ask: +sudo (.*?) NAME", told)
    machine.run("useradd", "student")
    as_student = ["setpriv", "--reuid=student", "--regid=student", "--init-groups", lab.command]
    asked = ["status", "--json", "--config", lab.config]
    assert machine.run(*as_student, *asked, check=False).code != 0
    machine.run(*shlex.split(command), "student")
    assert json.loads(machine.run(*as_student, *asked).out)["live"]
    machine.put(f"{lab.raw}/broken.csv", "this is no measurement\n")
    machine.until(lambda: "broken.csv" in lab.said(), what="for the reject")
    refused = machine.run(*as_student, "retry", f"{lab.raw}/broken.csv", "--config", lab.config, check=False)
    assert (refused.code, "Only root" in refused.err) == (1, True)


def test_uninstalled_with_a_broken_configuration_it_still_says_where_the_data_is(lab: Service) -> None:
    lab.begin()
    lab.machine.put(lab.config, "this is no TOML")
    told = lab.machine.run(lab.command, "service", "uninstall").out
    for one in ("stage", "output", "state"):
        assert f"kept      {lab.data}/{one}" in told


def test_without_systemd_nothing_is_done(lab: Service) -> None:
    hidden = f"mount -t tmpfs x /run/systemd; exec {lab.command} service install --raw-root {lab.raw} --now"
    done = lab.machine.run("unshare", "--mount", "sh", "-c", hidden, check=False)
    assert done.code == 1
    assert "nanolab-daemon run" in done.err
    assert not exists(lab.machine, "/etc/nanolab-daemon")


def test_without_the_binding_the_command_that_brings_it_is_named(lab: Service) -> None:
    lab.machine.put("/opt/none/systemd/__init__.py", "raise ImportError('none')\n")
    done = lab.machine.run(
        lab.command, "service", "install", "--raw-root", lab.raw, check=False, PYTHONPATH="/opt/none"
    )
    assert done.code == 1
    assert f"sudo {Path(lab.command).parent}/python -m pip install 'systemd-python" in done.err
    assert not exists(lab.machine, "/etc/nanolab-daemon")


def test_a_service_that_lost_the_binding_says_so_once(lab: Service) -> None:
    lab.install("--raw-root", lab.raw)
    lab.machine.put("/opt/none/systemd/__init__.py", "raise ImportError('none')\n")
    lab.drop_in("[Service]\nEnvironment=PYTHONPATH=/opt/none\nRestartSec=100ms\n")
    assert lab.machine.run("systemctl", "start", lab.unit, check=False).code != 0
    assert (lab.show("ExecMainStatus"), lab.show("NRestarts")) == ("78", "0")
    assert "pip install 'systemd-python" in lab.said()


def test_a_raw_folder_that_the_user_can_not_read_is_told_with_the_remedy(lab: Service) -> None:
    lab.machine.run("chmod", "700", lab.raw)
    told = lab.install("--raw-root", lab.raw).out
    assert f"can't read {lab.raw}" in told
    assert "setfacl" in told


def test_folders_that_a_service_can_not_have_are_refused(lab: Service) -> None:
    lab.machine.run("mkdir", "-p", "/tmp/raw", "/srv/data")
    lab.machine.sh("touch /srv/data/ofsomebody; chmod 755 /srv/data")
    for words, said in (
        (("--raw-root", "/srv/nowhere"), "does not exist"),
        (("--raw-root", "/tmp/raw"), "is emptied"),
        (("--raw-root", lab.raw, "--stage-root", lab.raw + "/stage"), "lies inside"),
        (("--raw-root", lab.raw, "--stage-root", "/srv/data"), "sudo chown -R nanolab:nanolab /srv/data"),
        ((), "--raw-root FOLDER"),
    ):
        done = lab.install(*words, check=False)
        assert done.code != 0
        assert said in done.err
        assert not exists(lab.machine, f"/etc/systemd/system/{lab.unit}")
