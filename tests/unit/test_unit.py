"""The texts of the service: what is filled in, quoted, hidden."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from nanolab_daemon import config, unit
from nanolab_daemon.sections import Paths
from nanolab_daemon.unit import Lab, Service

FIRST = Lab()
DATA = Path("/var/lib/nanolab-daemon")
PATHS = Paths(raw=Path("/srv/lab/raw"), stage=DATA / "stage", output=DATA / "output", state=DATA / "state")


def service(lab: Lab = FIRST, paths: Paths = PATHS, program: tuple[Path, ...] = (Path("/opt/nanolab"),)) -> Service:
    return Service(lab, lab.user, lab.user, paths, ["/opt/nanolab/bin/python", "-m", "nanolab_daemon"], program)


def settings_of(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^([A-Za-z]+)=(.*)$", text, re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


def test_nothing_is_left_to_be_filled_in() -> None:
    one = service()
    for text in (one.unit(), replace(one, address="[::1]:80").unit(), one.socket(), one.sysusers(), one.tmpfiles()):
        assert not re.search(r"@[A-Z_]+@", text)


def test_laboratories_differ_in_every_name() -> None:
    one, two = Lab(), Lab("lab2")
    assert (one.unit, two.unit) == ("nanolab-daemon.service", "nanolab-daemon@lab2.service")
    for name in ("unit", "stem", "user", "config", "data"):
        assert getattr(one, name) != getattr(two, name)


@pytest.mark.parametrize(
    ("program", "raw", "protect"),
    [
        ("/opt/nanolab", "/srv/raw", "yes"),
        ("/root/.pyenv/versions/3.11", "/srv/raw", "tmpfs"),
        ("/opt/nanolab", "/home/ana/raw", "read-only"),
        ("/home/ana/venv", "/home/ana/raw", "read-only"),
    ],
)
def test_homes_are_closed_but_for_what_is_needed_of_them(program: str, raw: str, protect: str) -> None:
    paths = Paths(raw=Path(raw), stage=PATHS.stage, output=PATHS.output, state=PATHS.state)
    found = settings_of(service(paths=paths, program=(Path(program),)).unit())
    assert found["ProtectHome"] == [protect]
    assert found.get("BindReadOnlyPaths", []) == ([program] if protect == "tmpfs" else [])


def test_no_folder_that_is_needed_is_hidden() -> None:
    (hidden,) = settings_of(service().unit())["InaccessiblePaths"]
    assert hidden.split() == ["-/boot", "-/media", "-/mnt"]  # the program is in /opt, raw in /srv


@pytest.mark.parametrize(
    ("word", "quoted"),
    [
        ("/srv/lab/raw", "/srv/lab/raw"),
        ("/srv/a lab", '"/srv/a lab"'),
        ("/srv/100%", "/srv/100%%"),
        ('/srv/a "b"', '"/srv/a \\"b\\""'),
        ("/srv/back\\slash", "/srv/back\\\\slash"),
        ("/srv/ñandú", '"/srv/ñandú"'),
    ],
)
def test_words_are_quoted_as_systemd_reads_them(word: str, quoted: str) -> None:
    assert unit.quoted(word) == quoted


def test_the_page_has_a_socket_of_its_own_and_the_service_no_network() -> None:
    for lab in (FIRST, Lab("lab2")):
        one = replace(service(lab), address="127.0.0.1:8321")
        unit_ = settings_of(one.unit())
        assert unit_["Sockets"] == [lab.socket]
        assert unit_["RestrictAddressFamilies"] == ["AF_UNIX"]
        assert unit_["PrivateNetwork"] == ["yes"]
        socket = settings_of(one.socket())
        assert (socket["Service"], socket["PartOf"]) == ([lab.unit], [lab.unit])
        assert socket["ListenStream"] == ["127.0.0.1:8321"]
    assert "Sockets" not in settings_of(service().unit())


def test_a_service_that_works_on_a_cluster_has_the_network_and_no_other_has() -> None:
    there = settings_of(replace(service(), scheduler="tcp://lab-server:8786").unit())
    assert there["PrivateNetwork"] == ["no"]
    assert there["RestrictAddressFamilies"] == ["AF_UNIX AF_INET AF_INET6"]
    assert "IPAddressDeny" not in there
    here = settings_of(service().unit())
    assert (here["PrivateNetwork"], here["IPAddressDeny"]) == (["yes"], ["any"])


def test_settings_are_the_commented_defaults_with_the_flags_in_their_places(tmp_path: Path) -> None:
    values = {"paths.raw": '/srv/a "lab"\\raw', "paths.state": "/var/lib/x", "pools.stage_workers": 3}
    text = unit.settings(values)
    file = tmp_path / "config.toml"
    file.write_text(text, encoding="utf-8")
    loaded = config.load(file, environ={})
    assert {key: loaded.values()[key] for key in values} == {
        "paths.raw": Path('/srv/a "lab"\\raw'),
        "paths.state": Path("/var/lib/x"),
        "pools.stage_workers": 3,
    }
    before, after = tomllib.loads(config.default_text()), tomllib.loads(text)
    assert [key for key in before if before[key] != after[key]] == ["paths", "pools"]
    comments = [line for line in config.default_text().splitlines() if line.startswith("#")]
    assert all(comment in text for comment in comments)
