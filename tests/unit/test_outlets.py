"""`check` tells beforehand whether the page and the notices can work, and what to do where they can't."""

from __future__ import annotations

import importlib.util
import os
import socket
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nanolab_daemon import control, lock, outlets
from nanolab_daemon.config import Config, Http, Notify, Paths
from nanolab_daemon.findings import Finding, Status

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # in one of apprise's

OK, WARN, FAIL = Status.OK, Status.WARN, Status.FAIL


@pytest.fixture
def config(tmp_path: Path) -> Config:
    roots = {name: tmp_path / name for name in ("raw", "stage", "output", "state")}
    for root in roots.values():
        root.mkdir()
    return Config(paths=Paths(**roots))


def page(config: Config, **http: Any) -> dict[str, Finding]:
    return {one.name: one for one in outlets.check_page(replace(config, http=Http(enabled=True, **http)))}


def notices(config: Config, **notify: Any) -> list[Finding]:
    return list(outlets.check_notices(replace(config, notify=Notify(**notify))))


def lacking(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    find = importlib.util.find_spec
    for module in ("importlib.util.find_spec", "nanolab_daemon.secret.find_spec"):
        monkeypatch.setattr(module, lambda name, *rest: None if name == package else find(name, *rest))


def written(file: Path, text: str, mode: int = 0o600) -> Path:
    file.write_text(text)
    file.chmod(mode)
    return file


def test_what_is_not_wanted_is_one_line_each(config: Config) -> None:
    found = [*outlets.check_page(config), *outlets.check_notices(config)]
    assert [(one.name, one.status) for one in found] == [("page", OK), ("notices", OK)]
    assert all("not wanted" in one.detail for one in found)


def test_a_free_port_a_secret_of_ones_own_and_all_packages_are_well(config: Config, tmp_path: Path) -> None:
    token = written(tmp_path / "token", "long enough, surely\n")
    found = page(config, port=0, token_file=token)
    assert {one.status for one in found.values()} == {OK}
    assert "can retry" in found["page token"].detail
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert "is free" in page(config, port=port)["page address"].detail


def test_packages_that_lack_are_named_with_the_command(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking(monkeypatch, "uvicorn")
    finding = page(config, port=0)["page packages"]
    assert finding.status is FAIL
    assert "uvicorn" in finding.detail
    assert "pip install 'nanolab-daemon[http]'" in finding.remedy


def test_a_port_that_another_program_has_is_a_doubt(config: Config) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        finding = page(config, port=port)["page address"]
    assert finding.status is WARN
    assert f"127.0.0.1:{port} is in use already" in finding.detail
    assert f"ss -ltnp 'sport = :{port}'" in finding.remedy


def test_a_port_that_our_own_daemon_has_is_well(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours, lock.Lock(config.paths.state, "run"):
        port = ours.getsockname()[1]
        answer = {"page": {"address": f"http://127.0.0.1:{port}/"}}
        monkeypatch.setattr(control, "ask", lambda *_: answer)
        finding = page(config, port=port)["page address"]
    assert finding.status is OK
    assert "the running daemon" in finding.detail


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [("no.such.host.invalid", 8321, "is no address here"), ("192.0.2.1", 8321, "can't be listened on")],
)
def test_an_address_that_is_none_here_fails(config: Config, host: str, port: int, words: str) -> None:
    finding = page(config, host=host, port=port)["page address"]
    assert finding.status is FAIL
    assert words in finding.detail
    assert "http.host" in finding.remedy


@pytest.mark.parametrize(
    ("host", "local"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)]
)
def test_a_page_for_everybody_is_a_doubt(config: Config, host: str, local: bool) -> None:
    assert ("page readers" not in page(config, host=host, port=0)) == local


@pytest.mark.parametrize(("text", "words"), [(None, "can't be read"), ("short", "fewer than 16")])
def test_a_token_that_allows_nothing_is_told(config: Config, tmp_path: Path, text: str | None, words: str) -> None:
    token = tmp_path / "token"
    if text is not None:
        written(token, text)
    finding = page(config, port=0, token_file=token)["page token"]
    assert finding.status is WARN
    assert words in finding.detail
    assert str(token) in finding.remedy


def test_secrets_that_every_user_can_read_are_told_but_not_what_they_are(config: Config, tmp_path: Path) -> None:
    token = written(tmp_path / "token", "long enough, surely", 0o644)
    urls = written(tmp_path / "urls", "json://user:hush@127.0.0.1/\n", 0o646)
    found = [*outlets.check_page(replace(config, http=Http(enabled=True, port=0, token_file=token)))]
    found += notices(config, urls_file=urls)
    told = {one.remedy: one.detail for one in found if one.status is WARN}
    assert f"may read {token}" in told[f"Type: chmod o= {token}"]
    assert f"may read and write {urls}" in told[f"Type: chmod o= {urls}"]
    assert not any("hush" in one.detail + one.remedy or "surely" in one.detail for one in found)
    urls.chmod(stat.S_IMODE(os.stat(urls).st_mode) & 0o770)
    assert [one.status for one in notices(config, urls_file=urls)] == [OK]


def test_addresses_are_counted_by_kind(config: Config, tmp_path: Path) -> None:
    urls = written(tmp_path / "urls", "# who\njson://127.0.0.1/a\njson://127.0.0.1/b\nmailto://u:p@example.org\n")
    (finding,) = notices(config, urls_file=urls)
    assert finding.status is OK
    assert "3 addresses (json, mailto)" in finding.detail
    assert "notify --test" in finding.detail


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "can't be read"),
        ("# nobody\n", "holds no address"),
        ("nonsense://u:hush@host\n", "address 1 (nonsense:…)"),
    ],
)
def test_addresses_that_are_none_fail(config: Config, tmp_path: Path, text: str | None, words: str) -> None:
    urls = tmp_path / "urls"
    if text is not None:
        written(urls, text)
    (finding,) = notices(config, urls_file=urls)
    assert finding.status is FAIL
    assert words in finding.detail
    assert finding.remedy
    assert "hush" not in finding.detail + finding.remedy


def test_notices_without_their_package_fail(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking(monkeypatch, "apprise")
    (finding,) = notices(config, urls_file=written(tmp_path / "urls", "json://127.0.0.1/\n"))
    assert finding.status is FAIL
    assert "pip install 'nanolab-daemon[notify]'" in finding.remedy


def test_an_instrument_without_a_folder_is_a_doubt(config: Config, tmp_path: Path) -> None:
    (config.paths.raw / "pc1").mkdir()
    urls = written(tmp_path / "urls", "json://127.0.0.1/\n")
    found = notices(config, urls_file=urls, instruments=("pc1", "pc2"))
    (doubt,) = [one for one in found if one.status is WARN]
    assert "names pc2" in doubt.detail
