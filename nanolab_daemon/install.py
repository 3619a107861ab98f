"""Makes a service of this very installation, and unmakes it: user, folders, configuration, unit.

Everything is looked at before anything is changed. Data is never removed, an edited configuration never written over.
"""

from __future__ import annotations

import contextlib
import grp
import ipaddress
import os
import pwd
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from nanolab_daemon import config as settings
from nanolab_daemon import unit
from nanolab_daemon.config import FLAGS, Config
from nanolab_daemon.errors import EngineError, NanolabError, UsageError
from nanolab_daemon.layout import check_paths, lies_inside
from nanolab_daemon.mounts import mount_of
from nanolab_daemon.notify import binding_remedy
from nanolab_daemon.page import require_packages
from nanolab_daemon.secret import read_addresses
from nanolab_daemon.sections import Paths, PoolEngine
from nanolab_daemon.settings import escaped, shown
from nanolab_daemon.unit import PROGRAM, Lab, Service

UNITS = Path("/etc/systemd/system")
USERS = Path("/etc/sysusers.d")
FOLDERS = Path("/etc/tmpfiles.d")
SYSTEMD_RUNS = Path("/run/systemd/system")
NEIGHBOURS = "other-laboratories.conf"
_SYSTEMS = (Path("/usr"), Path("/lib"), Path("/bin"))  # folders of programs that everybody can read
_PASSING = (Path("/tmp"), Path("/var/tmp"), Path("/run"), Path("/dev"))  # noqa: S108 -- nothing is put there
_ELSEWHERE = f"From a clone: sudo python3 -m venv /opt/{PROGRAM} && sudo /opt/{PROGRAM}/bin/pip install '.[systemd]'"
_LAB_NAME = re.compile(r"[a-z][a-z0-9-]{0,21}")
_USER_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,30}")

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command line asks for; `overrides` by `section.key`, None where nothing was said."""

    lab: Lab
    overrides: Mapping[str, str | int | None]
    user: str | None = None
    now: bool = False


def lab_named(name: str) -> Lab:
    """Check the name of a laboratory."""
    if name and not _LAB_NAME.fullmatch(name):
        raise UsageError(
            f"--name {shown(name)} is no name for a laboratory.",
            advice="Use up to 22 small letters, digits and hyphens, a letter first: --name lab2",
        )
    return Lab(name)


def require_machine(again: str, *, binding: bool = True) -> None:
    """Refuse a machine on which it can't be done, with the command to type instead. `again`: the one typed now."""
    if not SYSTEMD_RUNS.is_dir():
        raise EngineError(
            "systemd does not run this machine, so there can be no service of it here.",
            advice=f"Start the daemon by what does run it, or by hand: {PROGRAM} run --config FILE",
        )
    if os.geteuid() != 0:
        raise EngineError("Only root can do this.", advice=f"Type: sudo {again}")
    if binding:
        try:
            import systemd.daemon  # noqa: F401 -- the question is whether it is there
        except ImportError as error:
            raise EngineError(
                f"The service speaks to systemd through systemd-python, which {sys.executable} lacks ({error}).",
                advice=f"Type: {binding_remedy()}",
            ) from error


# -- install --------------------------------------------------------------------------------------------------------


def install(wishes: Wishes, tell: Tell) -> None:
    """Install the service of a laboratory, or bring it up to this installation; `tell` is told of each thing done."""
    lab = wishes.lab
    text, config = _settings(wishes)
    check_paths(config)
    require_packages(config)
    address = _listen_address(config)
    _refuse_passing_folders(_folders(config).values(), "Name another folder.")
    others = {one: _config_of(one) for one in installed() if one != lab}
    _refuse_shared_folders(config, others)
    program = program_folders()
    _refuse_passing_folders(program, f"Install the program where it can stay. {_ELSEWHERE}")
    _require_readable(program)
    user = wishes.user or _user_of_unit(lab) or lab.user
    service = replace(_service(lab, user, config, program), address=address)
    _require_addresses(service, config)
    was_active = _succeeds("systemctl", "is-active", "--quiet", lab.unit)

    _make_user(service, tell)
    _make_folders(service, tell)
    if text is not None:
        lab.config.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _write(lab.config, text, 0o640, tell, group=service.group)
    else:
        tell(f"kept      {lab.config}")
        shutil.chown(lab.config, group=service.group)
    _write(UNITS / lab.unit, service.unit(), 0o644, tell)
    had_page = (UNITS / lab.socket).exists()
    if service.address:
        _write(UNITS / lab.socket, service.socket(), 0o644, tell)
    elif had_page:
        _call("systemctl", "stop", lab.unit, lab.socket)
        (UNITS / lab.socket).unlink()
        tell(f"removed   {UNITS / lab.socket}")
    notices = _write_notices(service, config, tell)
    restart = _tell_neighbours({**others, lab: config}, tell)
    _call("systemctl", "daemon-reload")
    for line in _doubts(service):
        tell(line)
    for one in restart - {lab}:
        if not _succeeds("systemctl", "is-active", "--quiet", one.unit):
            continue
        _call("systemctl", "try-restart", one.unit)
        tell(f"restarted {one.unit}, which is not to see this laboratory's folders")
    if wishes.now:
        _call("systemctl", "enable", "--quiet", lab.unit)
        _start(lab, "restart" if was_active else "start")
        tell(f"{'restarted ' if was_active else 'started   '}{lab.unit}; it starts with the machine")
    elif was_active:
        _start(lab, "restart")
        tell(f"restarted {lab.unit}")
    else:
        tell(f"To start it, now and with the machine: sudo systemctl enable --now {lab.unit}")
    if notices:
        _start_notices(lab, wishes.now, tell)
    if service.address:
        tell(f"The page:     http://{service.address}/")
    tell(f"How it fares: systemctl status {lab.unit}; journalctl -u {lab.unit}")
    being = f"sudo -u {user}" if _may(user, Path(sys.executable), write=False) else "sudo"
    tell(f"Questions:    {being} {shlex.join(service.command)} status --config {lab.config}")
    tell(f"Who may ask:  sudo usermod --append --groups {service.group} NAME, from the next login on without sudo")


def _settings(wishes: Wishes) -> tuple[str | None, Config]:
    """Give the configuration, and its text if there is none yet."""
    lab, given = wishes.lab, {key: value for key, value in wishes.overrides.items() if value is not None}
    if lab.config.exists():
        config = settings.load(lab.config, environ={})
        asked = settings.load(lab.config, environ={}, overrides=given)
        differing = [key for key in given if asked.values()[key] != config.values()[key]]
        if differing:
            lines = [
                f"{key} = {_plain(config, key)} there, {FLAGS[key]} says {_plain(asked, key)}" for key in differing
            ]
            raise UsageError(
                "\n  ".join([f"{lab.config} is there already and is not written over:", *lines]),
                advice=f"Change it there (sudoedit {lab.config}), then run this command again without these flags.",
            )
        return None, config
    if "paths.raw" not in given:
        raise UsageError("Where do the instruments write?", advice="Name that folder: --raw-root FOLDER")
    usual = {f"paths.{name}": str(lab.data / name) for name in ("stage", "output", "state")}
    with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8") as defaults:
        defaults.write(settings.default_text())
        defaults.flush()
        config = settings.load(Path(defaults.name), environ={}, overrides={**usual, **given})
    for path in _folders(config).values():
        _require_plain(str(path))
    values: dict[str, str | int] = {f"paths.{name}": str(path) for name, path in _folders(config).items()}
    values |= {key: value for key, value in given.items() if key.startswith(("pools.", "http."))}
    return unit.settings(values), config


def _listen_address(config: Config) -> str:
    """Give the address on which systemd is to listen for the web page; empty where none is wanted."""
    if not config.http.enabled:
        return ""
    host = "127.0.0.1" if config.http.host == "localhost" else config.http.host
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError as error:
        raise UsageError(
            f"http.host = {shown(host)} is no address, and for a service systemd listens, which takes no name.",
            advice="Write the address of this computer there, such as 127.0.0.1.",
        ) from error
    if not config.http.port:
        raise UsageError("http.port = 0 would be another port at each start.", advice="Write a number there: 8321")
    return f"[{address}]:{config.http.port}" if address.version == 6 else f"{address}:{config.http.port}"


def _require_addresses(service: Service, config: Config) -> None:
    """Refuse notices that could not be sent: no package, no address, or a file that the service can't read."""
    file = config.notify.urls_file
    if file is None:
        return
    read_addresses(file)
    with contextlib.suppress(KeyError):  # who is not made yet can't be asked
        pwd.getpwnam(service.user)
        if not _succeeds(*_being(service.user), "test", "-r", str(file)):
            raise EngineError(
                f"The user {service.user} can't read notify.urls_file = {shown(str(file))}.",
                advice=f"Type: sudo chown {service.user} {shlex.quote(str(file))} && "
                f"sudo chmod 400 {shlex.quote(str(file))}",
            )


def _write_notices(service: Service, config: Config, tell: Tell) -> bool:
    """Have a service for notices, or none, as the configuration asks; tell whether there is one."""
    unit_file = UNITS / service.lab.notices
    if config.notify.urls_file is not None:
        _write(unit_file, service.notices(config.notify.urls_file), 0o644, tell)
        return True
    _remove_notices(service.lab, tell)
    return False


def _remove_notices(lab: Lab, tell: Tell) -> None:
    unit_file = UNITS / lab.notices
    if unit_file.exists():
        _call("systemctl", "disable", "--now", "--quiet", lab.notices)
        unit_file.unlink()
        tell(f"removed   {unit_file}")


def _start_notices(lab: Lab, now: bool, tell: Tell) -> None:
    if now:
        _call("systemctl", "enable", "--quiet", lab.notices)
        _call("systemctl", "restart", lab.notices)
        tell(f"started   {lab.notices}; it starts with the machine")
    elif _succeeds("systemctl", "is-active", "--quiet", lab.notices):
        _call("systemctl", "restart", lab.notices)
        tell(f"restarted {lab.notices}")
    else:
        tell(f"For notices:  sudo systemctl enable --now {lab.notices}")


def _require_plain(path: str) -> None:
    """Refuse what can't stand in a unit."""
    if escaped(path) != path:
        raise UsageError(
            f"The folder {shown(path)} has characters in its name that systemd does not take.", advice="Rename it."
        )


def _plain(config: Config, key: str) -> str:
    return shown(str(config.values()[key]))


def _folders(config: Config) -> dict[str, Path]:
    return {one.name: getattr(config.paths, one.name) for one in fields(Paths)}


def _config_of(lab: Lab) -> Config:
    try:
        return settings.load(lab.config, environ={})
    except NanolabError as error:
        raise EngineError(
            f"The configuration of another laboratory here, {lab.unit}, can't be read: {error.message}",
            advice=f"Correct it, or take that one away: {PROGRAM} service uninstall --name {lab.name}",
        ) from error


def _refuse_shared_folders(config: Config, others: Mapping[Lab, Config]) -> None:
    """Two daemons at one folder would do everything twice, or hide it from each other."""
    for lab, other in others.items():
        for one, mine in _folders(config).items():
            for two, its in _folders(other).items():
                if lies_inside(mine, its) or lies_inside(its, mine):
                    raise UsageError(
                        f"paths.{one} = {shown(str(mine))} and paths.{two} = {shown(str(its))} of {lab.unit} "
                        "are one in the other.",
                        advice="Give each laboratory folders of its own, or each a name (lab.name).",
                    )


def program_folders() -> list[Path]:
    """Give the folders that this installation is made of, without those of the system and those inside others."""
    named = {sys.prefix, sys.base_prefix, str(Path(__file__).parents[1]), *(name for name in sys.path if name)}
    real = sorted({path for name in named if (path := Path(name).resolve()).is_dir()})
    found: list[Path] = []
    for folder in real:
        if folder != Path("/") and not any(folder.is_relative_to(one) for one in (*_SYSTEMS, *found)):
            found.append(folder)
    return found


def _refuse_passing_folders(folders: Iterable[Path], advice: str) -> None:
    """Refuse what lies in a temporary folder: the service has its own, and the machine empties them."""
    for folder in folders:
        if any(folder.is_relative_to(one) for one in _PASSING):
            raise UsageError(
                f"{shown(str(folder))} is in a folder that is emptied, or that a service can't see.", advice=advice
            )


def _require_readable(program: Iterable[Path]) -> None:
    """Refuse an installation that only its owner can read: the service runs as another user."""
    for folder in program:
        closed = next(_closed(folder), None)
        if closed is None and not any(folder.is_relative_to(home) for home in unit.HOMES):
            closed = next((one for one in folder.parents if not one.stat().st_mode & stat.S_IXOTH), None)
        if closed is not None:
            raise EngineError(
                f"The service's user could not read the program: {closed} is closed to others.",
                advice="Open it, or install the program where everybody can read it:\n"
                f"sudo chmod -R a+rX {shlex.quote(str(folder))}\n{_ELSEWHERE}",
            )


def _closed(folder: Path) -> Iterator[Path]:
    """Give what below a folder can't be read by everybody."""
    if folder.stat().st_mode & 0o005 != 0o005:
        yield folder
        return
    for path, folders, files in os.walk(folder):
        for name, wanted in (*((one, 0o005) for one in folders), *((one, 0o004) for one in files)):
            one = Path(path, name)
            status = one.lstat()
            if not stat.S_ISLNK(status.st_mode) and status.st_mode & wanted != wanted:
                yield one


def _service(lab: Lab, user: str, config: Config, program: list[Path]) -> Service:
    try:
        group = grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name
    except KeyError:
        group = user
        if not _USER_NAME.fullmatch(user):
            raise UsageError(
                f"--user {shown(user)} is no name for a user.", advice="Such as: --user nanolab"
            ) from None
    writable = (config.paths.stage, config.paths.output, config.paths.state)
    return Service(
        lab=lab,
        user=user,
        group=group,
        paths=config.paths,
        command=[sys.executable, "-P", "-m", "nanolab_daemon"],
        program=program,
        raw_mount=next(iter(_mount_units([config.paths.raw])), ""),
        other_mounts=_mount_units(writable),
        scheduler=config.pools.scheduler if config.pools.engine is PoolEngine.DASK else "",
    )


def _mount_units(folders: Iterable[Path]) -> list[str]:
    """Give the units of the file systems that folders are on, the root's left out."""
    points = {str(mount.point) for folder in folders if (mount := mount_of(folder)) is not None}
    return [_call("systemd-escape", "--path", "--suffix=mount", one).strip() for one in sorted(points - {"/"})]


def _user_of_unit(lab: Lab) -> str | None:
    found = re.search(r"^User=(.+)$", _read(UNITS / lab.unit), re.MULTILINE)
    return found[1] if found else None


def _data_of_unit(lab: Lab) -> list[str]:
    found = re.search(r"^ReadWritePaths=(.+)$", _read(UNITS / lab.unit), re.MULTILINE)
    return [word.replace("%%", "%") for word in shlex.split(found[1])] if found else []


def _make_user(service: Service, tell: Tell) -> None:
    try:
        pwd.getpwnam(service.user)
    except KeyError:
        file = USERS / f"{service.lab.stem}.conf"
        _write(file, service.sysusers(), 0o644, tell)
        _call("systemd-sysusers", str(file))
        tell(f"made      user and group {service.user}")
    else:
        tell(f"kept      user {service.user}")


def _make_folders(service: Service, tell: Tell) -> None:
    new = [folder for folder in service.writable if not folder.exists()]
    _require_access(service, [one for one in service.writable if one not in new and any(one.iterdir())])
    file = FOLDERS / f"{service.lab.stem}.conf"
    _write(file, service.tmpfiles(), 0o644, tell)
    # What it can't do (a share that knows no owners, a folder of somebody's home) is judged by what came of it.
    made = subprocess.run(["systemd-tmpfiles", "--create", str(file)], capture_output=True, text=True, check=False)
    for folder in service.writable:
        if not folder.is_dir():
            raise EngineError(
                f"{folder} could not be made: {made.stderr.strip()}",
                advice=f"Type: sudo install -d -m 2750 -o {service.user} -g {service.group} "
                f"{shlex.quote(str(folder))}",
            )
    _require_access(service, service.writable)
    for folder in service.writable:
        tell(f"{'made      ' if folder in new else 'kept      '}{folder}")


def _require_access(service: Service, folders: Iterable[Path]) -> None:
    closed = [str(folder) for folder in folders if not _may(service.user, folder, write=True)]
    if closed:
        raise EngineError(
            f"The user {service.user} can't write in {' nor in '.join(closed)}.",
            advice=f"Type: sudo chown -R {service.user}:{service.group} {shlex.join(closed)}",
        )


def _doubts(service: Service) -> Iterator[str]:
    """Say what may keep the service from working, though nothing is wrong with it."""
    raw = service.paths.raw
    if not _may(service.user, raw, write=False):
        shut = [one for one in reversed(raw.parents) if not one.stat().st_mode & stat.S_IXOTH]
        enter = [f"sudo setfacl -m u:{service.user}:x {shlex.quote(str(one))}" for one in shut]
        read = f"sudo setfacl -R -m u:{service.user}:rX -m d:u:{service.user}:rX {shlex.quote(str(raw))}"
        way = f", for {shut[0]} is closed" if shut else ""
        commands = " && ".join([*enter, read])
        yield f"NOTE      {service.user} can't read {raw}{way}. Type (setfacl is in the package acl): {commands}"
    for folder in service.program:
        if any(folder.is_relative_to(home) for home in unit.HOMES):
            yield f"NOTE      the program lies in {folder}: the service ends when that is moved or deleted"


def _may(user: str, path: Path, *, write: bool) -> bool:
    """Tell whether a user can list a folder, and write in it, folders above it included, by being that user."""
    tests = [flag for one in ("-r", "-x", *(["-w"] if write else [])) for flag in ("-a", one, str(path))]
    return _succeeds(*_being(user), "test", *tests[1:])


def _being(user: str) -> list[str]:
    # Not by this interpreter, which may lie where that user can't go.
    return ["setpriv", f"--reuid={user}", f"--regid={pwd.getpwnam(user).pw_gid}", "--init-groups"]


def _start(lab: Lab, verb: str) -> None:
    """Start the unit, which takes until the daemon says that it is ready."""
    began = f"--since=@{int(time.time())}"  # what it said in an earlier life would only mislead
    done = subprocess.run(["systemctl", verb, lab.unit], capture_output=True, text=True, check=False)
    if done.returncode:
        last = _call("journalctl", "--no-pager", "--output=cat", "--lines=15", began, "--unit", lab.unit)
        raise EngineError(f"{lab.unit} does not start: {done.stderr.strip()}\n{last}".rstrip())


# -- uninstall ------------------------------------------------------------------------------------------------------


def uninstall(lab: Lab, tell: Tell) -> None:
    """Take the service of a laboratory away, and leave its data, its user and its configuration."""
    if lab not in installed():
        others = ", ".join(one.unit for one in installed())
        raise UsageError(
            f"{lab.unit} is not installed in {UNITS}.",
            advice=f"Installed here: {others}. Choose one with --name." if others else "Nothing is to be done.",
        )
    user = _user_of_unit(lab) or lab.user
    data = _data_of_unit(lab)
    _call("systemctl", "disable", "--now", "--quiet", lab.unit)
    tell(f"stopped   {lab.unit}")
    _remove_notices(lab, tell)
    own = UNITS / f"{lab.unit}.d"
    if (UNITS / lab.socket).exists():
        _call("systemctl", "stop", lab.socket)
    files = (
        UNITS / lab.unit,
        UNITS / lab.socket,
        own / NEIGHBOURS,
        USERS / f"{lab.stem}.conf",
        FOLDERS / f"{lab.stem}.conf",
    )
    for file in files:
        if file.exists():
            file.unlink()
            tell(f"removed   {file}")
    if own.is_dir():
        if any(own.iterdir()):
            tell(f"kept      {own}, which holds changes of your own")
        else:
            own.rmdir()
    left: dict[Lab, Config] = {}
    for one in installed():
        with contextlib.suppress(EngineError):  # its mistake must not keep this one here
            left[one] = _config_of(one)
    _tell_neighbours(left, tell)
    _call("systemctl", "daemon-reload")
    subprocess.run(["systemctl", "reset-failed", lab.unit], capture_output=True, check=False)
    tell(f"kept      {lab.config}")
    try:
        paths = settings.load(lab.config, environ={}).paths
    except NanolabError:
        for name in data:  # as it was when the service was last installed
            tell(f"kept      {name} (published, or the ledger)")
        tell(f"kept      the raw files; where they are can't be told, as {lab.config} can't be read")
    else:
        for words, folder in (
            ("raw files, never touched", paths.raw),
            ("staged runs", paths.stage),
            ("segments", paths.output),
            ("the ledger", paths.state),
        ):
            tell(
                f"kept      {folder} ({words})" if folder.exists() else f"gone      {folder} ({words}) was not there"
            )
    tell(f"kept      user {user}, to whom the data belongs")


# -- what is there --------------------------------------------------------------------------------------------------


def installed() -> list[Lab]:
    """Give the laboratories that have a service here."""
    names = [Lab()] if (UNITS / Lab().unit).exists() else []
    for file in sorted(UNITS.glob(f"{PROGRAM}@*.service")):
        name = file.name.removeprefix(f"{PROGRAM}@").removesuffix(".service")
        names += [Lab(name)] if _LAB_NAME.fullmatch(name) else []
    return names


def _tell_neighbours(labs: Mapping[Lab, Config], tell: Tell) -> set[Lab]:
    """Hide each laboratory's folders from the others; give those for whom something has changed."""
    changed = set()
    for lab in labs:
        hidden = [
            path
            for other, config in labs.items()
            if other != lab
            for path in (*_folders(config).values(), other.config)
        ]
        file = UNITS / f"{lab.unit}.d" / NEIGHBOURS
        if not hidden:
            if file.exists():
                file.unlink()
                tell(f"removed   {file}")
                if not any(file.parent.iterdir()):
                    file.parent.rmdir()
        elif _write(file, unit.neighbours(hidden), 0o644, tell):
            changed.add(lab)
    return changed


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.exists() else ""


def _write(file: Path, text: str, mode: int, tell: Tell, *, group: str | None = None) -> bool:
    """Write a file whole or not at all; tell whether anything has changed."""
    before = _read(file)
    if before == text:
        tell(f"kept      {file}")
        return False
    file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}.new")
    new.write_text(text, encoding="utf-8")
    new.chmod(mode)
    if group is not None:
        shutil.chown(new, group=group)
    new.replace(file)
    tell(f"{'replaced  ' if before else 'wrote     '}{file}")
    return True


def _call(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise EngineError(f"{command[0]} is not there, which comes with systemd.") from error
    if done.returncode:
        raise EngineError(f"{shlex.join(command)} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
