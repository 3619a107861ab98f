"""Whether the page, the notices and a cluster can work here: packages, address, secrets, each doubt with its remedy.

Sends nothing; listens, and connects, for no longer than it takes to see that it can.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from nanolab_daemon import control, lock, page, secret
from nanolab_daemon.config import Config, Http
from nanolab_daemon.errors import ConfigError, EngineError
from nanolab_daemon.findings import Finding, Status
from nanolab_daemon.sections import Fallback, PoolEngine

CONNECT_S = 3.0


def check_page(config: Config) -> Iterator[Finding]:
    """Tell whether the web page can be served, and who could retry through it."""
    if not config.http.enabled:
        yield Finding("page", Status.OK, "not wanted: http.enabled = false")
        return
    try:
        page.require_packages(config)
    except ConfigError as error:
        yield Finding("page packages", Status.FAIL, error.message, error.advice)
    else:
        yield Finding("page packages", Status.OK, "all there")
    yield _address(config)
    yield from _openness(config.http)
    yield from _token(config.http.token_file)


def check_cluster(config: Config) -> Iterator[Finding]:
    """Tell whether the cluster's scheduler can be reached; of its workers `status` and the journal tell."""
    if config.pools.engine is not PoolEngine.DASK:
        yield Finding("cluster", Status.OK, 'not wanted: pools.engine = "local"')
        return
    gravity = Status.WARN if config.pools.fallback is Fallback.LOCAL else Status.FAIL
    if find_spec("distributed") is None:
        remedy = "Install it: pip install 'nanolab-daemon[dask]'. Or set pools.engine = \"local\"."
        yield Finding("cluster", gravity, "the package distributed is not installed", remedy)
        return
    host, _, port = config.pools.scheduler.partition("://")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except OSError as error:
        remedy = "Start it: dask scheduler. Or correct pools.scheduler, or what is between here and there."
        detail = f"{config.pools.scheduler} can't be reached: {error.strerror or error}"
        yield Finding("cluster", gravity, detail, remedy)
    else:
        yield Finding("cluster", Status.OK, f"something listens at {config.pools.scheduler}")


def check_notices(config: Config) -> Iterator[Finding]:
    """Tell whether notices can be sent: the addresses are read and understood, none is written to."""
    file = config.notify.urls_file
    if file is None:
        yield Finding("notices", Status.OK, "not wanted: notify.urls_file names no file")
        return
    try:
        urls = secret.read_addresses(file)
    except ConfigError as error:
        yield Finding("notices", Status.FAIL, error.message, error.advice)
    else:
        kinds = ", ".join(dict.fromkeys(secret.service(url) for url in urls))
        known = f"{len(urls)} address{'es' if len(urls) > 1 else ''} ({kinds})"
        yield Finding("notices", Status.OK, f"{known}; whether they arrive, `nanolab-daemon notify --test` tells")
    yield from _rights("notices", file)
    for instrument in config.notify.instruments:
        if not (config.paths.raw / instrument).is_dir():
            detail = f"notify.instruments names {instrument}, and there is no such folder below {config.paths.raw}"
            remedy = "Make it, or correct the name: its silence is told until something comes from it."
            yield Finding("notices", Status.WARN, detail, remedy)


def _address(config: Config) -> Finding:
    http, name = config.http, "page address"
    if http.port == 0:
        return Finding(name, Status.OK, f"any free port of {http.host}; `status` tells which")
    where = f"{http.host}:{http.port}"
    try:
        page.listen(http.host, http.port).close()
    except socket.gaierror as error:
        remedy = 'Correct http.host: "127.0.0.1" is this computer alone.'
        return Finding(name, Status.FAIL, f"{http.host} is no address here: {error.strerror}", remedy)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return _taken(config, where)
        return Finding(name, Status.FAIL, f"{where} can't be listened on: {error.strerror}", _remedy(error, http))
    return Finding(name, Status.OK, f"{where} is free")


def _remedy(error: OSError, http: Http) -> str:
    if error.errno == errno.EACCES:
        return "Set http.port to one from 1024 on: those below are root's."
    if error.errno == errno.EADDRNOTAVAIL:
        return f'Correct http.host: this computer has no address {http.host}; "127.0.0.1" it always has.'
    return "Correct http.host and http.port."


def _taken(config: Config, where: str) -> Finding:
    """Tell the daemon's own page from another program."""
    if lock.holder(config.paths.state) is not None:
        try:
            answer = control.ask(config.paths.state, {"ask": "status"})
        except EngineError:
            answer = None
        described = (answer or {}).get("page") or {}
        if str(described.get("address") or "").endswith(f":{config.http.port}/"):
            return Finding("page address", Status.OK, f"{where} is where the running daemon serves it")
    remedy = (
        f"Find out by whom: ss -ltnp 'sport = :{config.http.port}'. If it is systemd, it holds the page's socket for "
        "the service, and all is well; else set http.port to another."
    )
    return Finding("page address", Status.WARN, f"{where} is in use already", remedy)


def _openness(http: Http) -> Iterator[Finding]:
    try:
        local = http.host == "localhost" or ipaddress.ip_address(http.host.strip("[]")).is_loopback
    except ValueError:
        local = False
    if not local:
        remedy = (
            'Set http.host = "127.0.0.1" and put a proxy before it that asks for a password, or know your network.'
        )
        detail = f"http.host = {http.host}: whoever reaches this computer can read it, it asks for no password"
        yield Finding("page readers", Status.WARN, detail, remedy)


def _token(file: Path | None) -> Iterator[Finding]:
    if file is None:
        yield Finding("page token", Status.OK, "none: nobody can retry through the page")
        return
    trouble = secret.read_token(file)[1]
    if trouble:
        remedy = (
            f"Write {secret.LEAST_TOKEN} characters or more into it: (umask 077; openssl rand -hex 16 > {file}), "
            "readable by the daemon's user."
        )
        yield Finding("page token", Status.WARN, f"nobody can retry: {trouble}", remedy)
    else:
        yield Finding("page token", Status.OK, f"who knows the secret in {file} can retry")
    yield from _rights("page token", file)


def _rights(name: str, file: Path) -> Iterator[Finding]:
    try:
        rights = secret.open_to_all(file)
    except OSError:
        return  # told above
    if rights:
        yield Finding(name, Status.WARN, f"every user of this computer may {rights} {file}", f"Type: chmod o= {file}")
