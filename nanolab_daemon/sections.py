"""The sections of the configuration: every key, its type, its default and its rule.

Reads nothing; the defaults here and those in `config.toml` are the same, and a test keeps them so.
"""

# ruff: noqa: RUF009 -- setting() stands for dataclasses.field()

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from nanolab_daemon.settings import (
    Address,
    Choice,
    Flag,
    Folder,
    FolderPairs,
    HostNames,
    Integer,
    LabName,
    Number,
    OptionalFile,
    Patterns,
    Rule,
    Text,
    Zone,
    setting,
)

MOST_DEFAULT_WORKERS = 8
LAB_PARTITION = "lab="
_DAY_S = 86400
_YEAR_S = 365 * _DAY_S


class WatchMode(StrEnum):
    """How new files are noticed."""

    AUTO = "auto"  # events where the file system delivers them, scans elsewhere
    EVENTS = "events"
    SCAN = "scan"


class PoolEngine(StrEnum):
    """Where the work is done."""

    LOCAL = "local"  # by processes of this machine
    DASK = "dask"  # by workers of a Dask cluster


class Fallback(StrEnum):
    """What is done if the engine of the pools can't be had at start."""

    NONE = "none"  # nothing: that is an error
    LOCAL = "local"  # the work, on this machine


class LogLevel(StrEnum):
    """The least grave records that are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How records are written."""

    AUTO = "auto"  # console on a terminal, journal under systemd, json elsewhere
    CONSOLE = "console"
    JSON = "json"
    JOURNAL = "journal"


@dataclass(frozen=True, slots=True)
class Lab:
    """The laboratory."""

    timezone: str = setting("America/Santiago", Zone())
    name: str = setting("", LabName())


@dataclass(frozen=True, slots=True)
class Paths:
    """The four folders."""

    raw: Path = setting(Path("data/01_raw"), Folder())
    stage: Path = setting(Path("data/02_stage/raw_measurements"), Folder())
    output: Path = setting(Path("data/03_intermediate"), Folder())
    state: Path = setting(Path("data/.nanolab"), Folder())

    def of_lab(self, name: str) -> Paths:
        """Give the folders of one laboratory among several: what it publishes lies in a partition of its own.

        A folder that is that partition already stays as it is, so that settings may be written out and read again.
        """
        if not name:
            return self
        part = f"{LAB_PARTITION}{name}"
        stage, output = (one if one.name == part else one / part for one in (self.stage, self.output))
        return replace(self, stage=stage, output=output)


@dataclass(frozen=True, slots=True)
class Watch:
    """Which files count, and when one is done."""

    mode: WatchMode = setting(WatchMode.AUTO, Choice(WatchMode))
    settle_s: float = setting(1.0, Number(0, 3600))
    quiet_s: float = setting(60.0, Number(0, _DAY_S))
    rescan_s: float = setting(60.0, Number(0.1, _DAY_S))
    poll_s: float = setting(0.5, Number(0.01, 60))
    abandoned_after_s: float = setting(86400.0, Number(0, _YEAR_S))
    include: tuple[str, ...] = setting(("*.csv",), Patterns(may_be_empty=False))
    exclude: tuple[str, ...] = setting((), Patterns(may_be_empty=True))


@dataclass(frozen=True, slots=True)
class Pools:
    """The two pools of worker processes. A count of 0 leaves the number to the machine."""

    stage_workers: int = setting(0, Integer(0, 64, "; 0 takes one for each CPU"))
    segment_workers: int = setting(0, Integer(0, 64, "; 0 takes one for each CPU"))
    task_timeout_s: float = setting(60.0, Number(0.1, _DAY_S))
    task_memory_mb: int = setting(1024, Integer(256, 1 << 20))
    engine: PoolEngine = setting(PoolEngine.LOCAL, Choice(PoolEngine))
    scheduler: str = setting("", Address("tcp", "tls"))
    fallback: Fallback = setting(Fallback.NONE, Choice(Fallback))
    path_map: tuple[tuple[str, str], ...] = setting((), FolderPairs())

    @property
    def stage_processes(self) -> int:
        """How many workers stage, the machine's CPUs counted where the setting is 0."""
        return self.stage_workers or default_workers()

    @property
    def segment_processes(self) -> int:
        """How many workers cut segments, the machine's CPUs counted where the setting is 0."""
        return self.segment_workers or default_workers()


@dataclass(frozen=True, slots=True)
class Segments:
    """How runs are cut."""

    min_segment_points: int = setting(5, Integer(1, 1_000_000))


@dataclass(frozen=True, slots=True)
class Limits:
    """What is too much, or too little."""

    max_file_mb: int = setting(100, Integer(1, 1 << 20))
    max_header_kb: int = setting(1024, Integer(1, 1 << 20))
    max_columns: int = setting(1000, Integer(1, 10_000))
    min_free_mb: int = setting(1024, Integer(0, 1 << 30))
    min_free_percent: float = setting(5.0, Number(0, 100, "percent"))

    @property
    def max_file_bytes(self) -> int:
        """The largest raw file that is read; an MB is 2²⁰ bytes."""
        return self.max_file_mb << 20

    @property
    def max_header_bytes(self) -> int:
        """The longest header that is read; a kB is 2¹⁰ bytes."""
        return self.max_header_kb << 10


@dataclass(frozen=True, slots=True)
class Log:
    """The log."""

    level: LogLevel = setting(LogLevel.INFO, Choice(LogLevel))
    format: LogFormat = setting(LogFormat.AUTO, Choice(LogFormat))


@dataclass(frozen=True, slots=True)
class Http:
    """The status page."""

    enabled: bool = setting(False, Flag())
    host: str = setting("127.0.0.1", Text("the name or address of this computer"))
    port: int = setting(8321, Integer(0, 65535, "; 0 takes any free one"))
    hosts: tuple[str, ...] = setting((), HostNames())
    token_file: Path | None = setting(None, OptionalFile())


@dataclass(frozen=True, slots=True)
class Notify:
    """What people are told, and where."""

    urls_file: Path | None = setting(None, OptionalFile())
    gather_s: float = setting(30.0, Number(0, 3600))
    repeat_s: float = setting(21600.0, Number(60, _YEAR_S))
    instruments: tuple[str, ...] = setting((), Patterns(may_be_empty=True))
    silent_after_h: float = setting(24.0, Number(0.01, 8760, "hours"))


@dataclass(frozen=True, slots=True)
class Manifest:
    """The table of all runs."""

    refresh_s: float = setting(5.0, Number(0.1, _DAY_S))


SECTIONS: dict[str, type[Any]] = {
    "lab": Lab,
    "paths": Paths,
    "watch": Watch,
    "pools": Pools,
    "segments": Segments,
    "limits": Limits,
    "log": Log,
    "http": Http,
    "notify": Notify,
    "manifest": Manifest,
}
PROCEDURES = "procedures"
RULES: dict[str, Rule] = {
    f"{section}.{one.name}": one.metadata["rule"] for section, kind in SECTIONS.items() for one in fields(kind)
}


def default_workers() -> int:
    """Return the number of CPUs that this process may use, at most 8."""
    return min(MOST_DEFAULT_WORKERS, len(os.sched_getaffinity(0)))
