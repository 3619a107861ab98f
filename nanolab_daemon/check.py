"""Whether this machine is fit for this configuration: one finding a question, each with its remedy.

Tries things out rather than guessing from rights, leaves nothing behind, and changes nothing in the raw folder.
"""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from nanolab_daemon import inotify, mounts
from nanolab_daemon.catalog import FILE_NAME, Catalog
from nanolab_daemon.claim import refuse_another_lab
from nanolab_daemon.config import Config, WatchMode
from nanolab_daemon.errors import ConfigError, EngineError
from nanolab_daemon.findings import Finding, Status
from nanolab_daemon.layout import check_paths, lies_inside, nearest_existing, path_mistakes
from nanolab_daemon.outlets import check_cluster, check_notices, check_page
from nanolab_daemon.publish import TEMP_FOLDER
from nanolab_daemon.settings import counted, escaped
from nanolab_daemon.trial import try_making, try_writing

__all__ = ["Finding", "Status", "check", "check_paths", "worst"]

COUNT_BUDGET_S = 2.0  # for counting the folders under raw
LEAST_OPEN_FILES = 1024
LEAST_FREE_INODES_PERCENT = 5
FIRST_SANE_YEAR = 2024
PACKAGES = ("polars", "pyarrow", "numpy", "watchdog", "structlog", "click", "rich", "tzdata")


def check(config: Config, *, now: datetime | None = None, count_budget_s: float = COUNT_BUDGET_S) -> list[Finding]:
    """Look at everything and report, in the order in which a person would ask."""
    table = _mount_table()
    return [
        Finding(one.name, one.status, escaped(one.detail), escaped(one.remedy))
        for one in (
            *_configuration(config),
            *_raw(config),
            *_writable(config),
            *_file_systems(config, table),
            *_free_space(config),
            *_watching(config, table, count_budget_s),
            *_machine(config, now or datetime.now(UTC)),
            *check_cluster(config),
            *check_page(config),
            *check_notices(config),
        )
    ]


def worst(findings: list[Finding]) -> Status:
    """Return the gravest status."""
    return max((one.status for one in findings), key=list(Status).index, default=Status.OK)


def _configuration(config: Config) -> Iterator[Finding]:
    origin = "no file" if config.file is None else str(config.file)
    yield Finding("configuration", Status.OK, f"{origin}, digest {config.digest[:12]}")
    mistakes = path_mistakes(config)
    for mistake in mistakes:
        yield Finding("folders", Status.FAIL, mistake, "Correct [paths] or the flag that sets it.")
    if not mistakes:
        yield Finding("folders", Status.OK, "apart from each other")
    if trouble := _another_lab(config):
        yield Finding("laboratory", Status.FAIL, trouble.message, trouble.advice)
    who = (
        "root, who may do anything; run as the service's user to learn its rights"
        if os.geteuid() == 0
        else "not root"
    )
    yield Finding("user", Status.OK, f"uid {os.geteuid()}, {who}")


def _another_lab(config: Config) -> ConfigError | None:
    """Tell whether the ledger has runs of a laboratory with another name; nothing of one that can't be read."""
    try:
        catalog = Catalog.open_to_read(config.paths.state / FILE_NAME)
    except EngineError:
        return None
    if catalog is None:
        return None
    try:
        refuse_another_lab(catalog, config.lab.name)
    except ConfigError as error:
        return error
    except sqlite3.Error:
        return None
    finally:
        catalog.close()
    return None


def _raw(config: Config) -> Iterator[Finding]:
    raw = config.paths.raw
    try:
        with os.scandir(raw) as entries:
            next(entries, None)
    except OSError as error:
        yield Finding("raw", Status.FAIL, f"{raw}: {error.strerror}", _remedy_for_reading(error, raw))
    else:
        yield Finding("raw", Status.OK, f"{raw} can be read")


def _remedy_for_reading(error: OSError, raw: Path) -> str:
    if isinstance(error, PermissionError):
        return f"Give this user (uid {os.geteuid()}) the right to list {raw}."
    return "Make it, mount it, or correct paths.raw (--raw-root)."


def _writable(config: Config) -> Iterator[Finding]:
    for name, root in (("stage", config.paths.stage), ("output", config.paths.output), ("state", config.paths.state)):
        if lies_inside(root, config.paths.raw):
            continue  # reported as a mistake above; a trial would write into the raw folder
        if not os.path.lexists(root):
            yield _creatable(name, root)
            continue
        try:
            exchange_trouble = try_writing(root)
        except OSError as error:
            remedy = (
                f"Let this user (uid {os.geteuid()}) make, rename and delete files there, or correct paths.{name}."
            )
            yield Finding(name, Status.FAIL, f"{root} can't be written: {error.strerror}", remedy)
            continue
        yield Finding(name, Status.OK, f"{root} can be written")
        if name != "state":
            yield _exchange_finding(name, root, exchange_trouble)
            yield from _one_device(name, root)


def _creatable(name: str, root: Path) -> Finding:
    above = nearest_existing(root)
    try:
        try_making(above)
    except OSError as error:
        detail = f"{root} does not exist and can't be made in {above}: {error.strerror}"
        return Finding(name, Status.FAIL, detail, f"Make it for this user: sudo install -d -o {os.geteuid()} {root}")
    return Finding(name, Status.OK, f"{root} does not exist yet and will be made at the first start")


def _exchange_finding(name: str, root: Path, trouble: str) -> Finding:
    if not trouble:
        return Finding(f"{name} replacement", Status.OK, "a published run can be replaced in one step")
    return Finding(
        f"{name} replacement",
        Status.WARN,
        f"{root}: two folders can't be exchanged in one step ({trouble}); "
        "while a run is published again, a reader may find it missing for a moment",
        "Use ext4, XFS, Btrfs or tmpfs for it, or let readers try again.",
    )


def _one_device(name: str, root: Path) -> Iterator[Finding]:
    temp = root / TEMP_FOLDER
    try:
        apart = os.path.lexists(temp) and (temp.is_symlink() or temp.stat().st_dev != root.stat().st_dev)
    except OSError as error:
        yield Finding(f"{name} temporary folder", Status.FAIL, f"{temp}: {error.strerror}", f"Remove {temp}.")
        return
    if apart:
        detail = f"{temp} is on another file system than {root}, so nothing can be moved into place"
        yield Finding(f"{name} temporary folder", Status.FAIL, detail, f"Remove {temp}; it is made anew.")


def _mount_table() -> tuple[mounts.Mount, ...] | None:
    try:
        return mounts.read_mounts()
    except OSError:
        return None


def _file_systems(config: Config, table: tuple[mounts.Mount, ...] | None) -> Iterator[Finding]:
    if table is None:
        remedy = 'Mount /proc, or set watch.mode = "scan" and keep the state on a local disk.'
        yield Finding("file systems", Status.WARN, f"{mounts.MOUNT_TABLE} can't be read: kinds unknown", remedy)
        return
    for name, root in _roots(config):
        mount = mounts.mount_of(root, table)
        if mount is not None:
            yield _kind_finding(config, name, mount)
        for below in mounts.mounts_below(root, table):
            if name == "raw":
                yield _kind_finding(config, "raw", below)
            else:
                detail = f"{below.point} is a mount of its own ({below.kind}) below paths.{name}"
                remedy = "Unmount it, or mount the whole folder: files are moved into place within one file system."
                yield Finding(f"{name} file system", Status.FAIL, detail, remedy)


def _kind_finding(config: Config, name: str, mount: mounts.Mount) -> Finding:
    title, on = f"{name} file system", f"{mount.kind} on {mount.point}"
    if name == "raw" and mount.remote:
        if config.watch.mode is WatchMode.EVENTS:
            remedy = 'Set watch.mode to "auto" or "scan".'
            return Finding(title, Status.WARN, f"{on}: what others write there makes no events", remedy)
        return Finding(title, Status.OK, f"{on}, seen by scans: what others write there makes no events")
    if name == "state" and mount.remote:
        remedy = "Name a folder on a local disk in paths.state (--state-dir)."
        return Finding(title, Status.FAIL, f"{on}: locks can't be relied upon there", remedy)
    if mount.remote:
        remedy = "Prefer a local disk, or see that nobody else writes there and that the server syncs."
        return Finding(title, Status.WARN, f"{on}: whether data is safe after a sync is the server's affair", remedy)
    if mount.in_memory and name != "raw":
        return Finding(title, Status.WARN, f"{on}: lost when the machine restarts", f"Put paths.{name} on a disk.")
    return Finding(title, Status.OK, on)


def _roots(config: Config) -> tuple[tuple[str, Path], ...]:
    paths = config.paths
    return ("raw", paths.raw), ("stage", paths.stage), ("output", paths.output), ("state", paths.state)


def _free_space(config: Config) -> Iterator[Finding]:
    limits = config.limits
    for name, root in _roots(config)[1:]:
        try:
            usage = os.statvfs(nearest_existing(root))
        except OSError as error:
            yield Finding(f"{name} space", Status.WARN, f"unknown: {error.strerror}", "See whether the disk is well.")
            continue
        free_mb = usage.f_bavail * usage.f_frsize / (1 << 20)
        percent = 100 * usage.f_bavail / usage.f_blocks if usage.f_blocks else 100.0
        detail = f"{free_mb / 1024:.1f} GiB free, {percent:.0f} %"
        if usage.f_files and 100 * usage.f_favail / usage.f_files < LEAST_FREE_INODES_PERCENT:
            remedy = "Delete small files, or make the file system with more inodes."
            yield Finding(f"{name} space", Status.WARN, f"{usage.f_favail} more files fit; {detail}", remedy)
        elif free_mb < limits.min_free_mb or percent < limits.min_free_percent:
            remedy = f"Free some space, or lower limits.min_free_mb and limits.min_free_percent. ({root})"
            yield Finding(f"{name} space", Status.WARN, detail, remedy)
        else:
            yield Finding(f"{name} space", Status.OK, detail)


def _watching(config: Config, table: tuple[mounts.Mount, ...] | None, budget_s: float) -> Iterator[Finding]:
    raw, mode = config.paths.raw, config.watch.mode
    mount = None if table is None else mounts.mount_of(raw, table)
    if mode is WatchMode.SCAN or (mode is WatchMode.AUTO and mount is not None and mount.remote):
        yield Finding("inotify", Status.OK, "not needed: raw is watched by scanning")
        return
    grave = Status.FAIL if mode is WatchMode.EVENTS else Status.WARN  # "auto" can still scan
    yield _watches(raw, budget_s, grave)
    yield _queue()
    yield _instances(grave)


def _watches(raw: Path, budget_s: float, grave: Status) -> Finding:
    name, allowed = "max_user_watches", inotify.max_watches()
    if allowed is None:
        return _limit_unknown(name)
    folders, complete = inotify.count_folders(raw, budget_s)
    found = counted(folders, "folder") if complete else f"at least {counted(folders, 'folder')} (counting was cut)"
    detail = f"{counted(allowed, 'folder')} can be watched, raw has {found}"
    if folders <= allowed * inotify.COMFORTABLE_SHARE:
        return Finding(f"inotify {name}", Status.OK, detail)
    remedy = inotify.sysctl_remedy(name, inotify.advised_watches(folders))
    return Finding(f"inotify {name}", grave if folders > allowed else Status.WARN, detail, remedy)


def _queue() -> Finding:
    name = "max_queued_events"
    length = inotify.limit(name)
    if length is None:
        return _limit_unknown(name)
    detail = f"{length} events wait at most; more are made good by a scan"
    if length >= inotify.LEAST_QUEUED_EVENTS:
        return Finding(f"inotify {name}", Status.OK, detail)
    remedy = inotify.sysctl_remedy(name, inotify.LEAST_QUEUED_EVENTS)
    return Finding(f"inotify {name}", Status.WARN, detail, remedy)


def _instances(grave: Status) -> Finding:
    name = "max_user_instances"
    allowed = inotify.limit(name)
    trouble = inotify.try_instance()
    if trouble:
        remedy = inotify.sysctl_remedy(name, inotify.advised_instances(allowed))
        return Finding(
            f"inotify {name}", grave, f"none is left of {allowed or 'an unknown number'}: {trouble}", remedy
        )
    return (
        _limit_unknown(name) if allowed is None else Finding(f"inotify {name}", Status.OK, f"{allowed}, one is free")
    )


def _limit_unknown(name: str) -> Finding:
    remedy = 'Mount /proc, or set watch.mode = "scan".'
    return Finding(f"inotify {name}", Status.WARN, f"{inotify.LIMITS / name} can't be read", remedy)


def _machine(config: Config, now: datetime) -> Iterator[Finding]:
    import resource
    from zoneinfo import ZoneInfo

    local = now.astimezone(ZoneInfo(config.lab.timezone))
    yield Finding("time zone", Status.OK, f"{config.lab.timezone}, where it is {local:%Y-%m-%d %H:%M %z} now")
    if now.year < FIRST_SANE_YEAR:
        remedy = "Set the clock: timedatectl set-ntp true"
        yield Finding("clock", Status.WARN, f"says {now:%Y-%m-%d}, before this program was written", remedy)
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < LEAST_OPEN_FILES:
        remedy = f"Raise it: ulimit -n {LEAST_OPEN_FILES}, or LimitNOFILE={LEAST_OPEN_FILES} in the unit."
        yield Finding("open files", Status.WARN, f"at most {soft}", remedy)
    else:
        yield Finding("open files", Status.OK, "unlimited" if soft == resource.RLIM_INFINITY else f"at most {soft}")
    versions = [f"Python {platform.python_version()}"]
    missing = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            missing.append(package)
    if missing:
        remedy = f"Install them: python -m pip install {' '.join(missing)}"
        yield Finding("packages", Status.FAIL, f"missing: {', '.join(missing)}", remedy)
    yield Finding("versions", Status.OK, ", ".join(versions))
