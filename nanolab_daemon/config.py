"""The settings: command line over environment over file over defaults, checked whole, frozen afterwards.

Looks at no folder that a setting names, and knows nothing of procedures: their table is handed on as it stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from nanolab_daemon.errors import ConfigError
from nanolab_daemon.sections import (
    PROCEDURES,
    RULES,
    SECTIONS,
    Http,
    Lab,
    Limits,
    Log,
    LogFormat,
    LogLevel,
    Manifest,
    Notify,
    Paths,
    PoolEngine,
    Pools,
    Segments,
    Watch,
    WatchMode,
)
from nanolab_daemon.settings import did_you_mean, escaped, shown

__all__ = [
    "Config",
    "Http",
    "Lab",
    "Limits",
    "Log",
    "LogFormat",
    "LogLevel",
    "Manifest",
    "Paths",
    "Pools",
    "Segments",
    "Source",
    "Watch",
    "WatchMode",
    "default_text",
    "find_file",
    "load",
    "read_toml",
]

DEFAULT_FILES = (Path("config.toml"), Path("/etc/nanolab-daemon/config.toml"))
ENVIRONMENT_PREFIX = "NANOLAB_"
CONFIG_VARIABLE = "NANOLAB_CONFIG"
NO_SETTINGS = frozenset({CONFIG_VARIABLE})  # variables under the prefix that set no key
FLAGS = {
    "paths.raw": "--raw-root",
    "paths.stage": "--stage-root",
    "paths.output": "--output-root",
    "paths.state": "--state-dir",
    "pools.stage_workers": "--workers",
    "pools.segment_workers": "--workers",
    "http.enabled": "--http",
}
VARIABLES = {f"{ENVIRONMENT_PREFIX}{key.replace('.', '_').upper()}": key for key in RULES}


class Source(StrEnum):
    """Where a value comes from, the weakest first."""

    DEFAULT = "default"
    FILE = "file"
    ENV = "env"
    FLAG = "flag"


@dataclass(frozen=True, slots=True)
class Config:
    """All settings, in force. `file` and `sources` say where they come from and don't count in comparisons."""

    lab: Lab = field(default_factory=Lab)
    paths: Paths = field(default_factory=Paths)
    watch: Watch = field(default_factory=Watch)
    pools: Pools = field(default_factory=Pools)
    segments: Segments = field(default_factory=Segments)
    limits: Limits = field(default_factory=Limits)
    log: Log = field(default_factory=Log)
    http: Http = field(default_factory=Http)
    notify: Notify = field(default_factory=Notify)
    manifest: Manifest = field(default_factory=Manifest)
    procedures: Mapping[str, object] = field(default_factory=dict)
    file: Path | None = field(default=None, compare=False)
    sources: Mapping[str, Source] = field(default_factory=dict, compare=False)

    def source(self, key: str) -> Source:
        """Say where the value of `section.key` comes from."""
        return self.sources.get(key, Source.DEFAULT)

    def values(self) -> dict[str, object]:
        """Return every setting by its key `section.key`, without the procedures."""
        return {
            f"{section}.{one.name}": getattr(getattr(self, section), one.name)
            for section, kind in SECTIONS.items()
            for one in fields(kind)
        }

    @property
    def digest(self) -> str:
        """SHA-256 over every value in force, in hexadecimal; equal for equal configurations, whatever their files."""
        import hashlib
        import json

        everything = {**self.values(), "procedures": self.procedures}
        return hashlib.sha256(json.dumps(everything, sort_keys=True, default=str).encode()).hexdigest()


def load(
    path: Path | None = None, *, environ: Mapping[str, str], overrides: Mapping[str, object] | None = None
) -> Config:
    """Read the settings from their four sources, or raise one ConfigError that names every mistake.

    `overrides` holds what the command line gave, by `section.key`; None is what it did not give.
    """
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    reader = _Reader()
    file = find_file(path, environ)
    here = Path.cwd()
    if file is not None:
        file = here / file
        reader.read_file(read_toml(file), escaped(str(file)), file.parent)
    reader.read_environment(environ, here)
    reader.read_overrides(given, here)
    if file is None:
        reader.require_paths()
    reader.require_scheduler()
    reader.refuse_mistakes()
    return reader.config(file, here if file is None else file.parent)


def find_file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the file to read: the one asked for, else the first default that exists, else None."""
    if path is None and environ.get(CONFIG_VARIABLE):
        path = Path(environ[CONFIG_VARIABLE])
    if path is not None:
        return path
    return next((one for one in DEFAULT_FILES if one.is_file()), None)


def read_toml(file: Path) -> dict[str, Any]:
    """Parse a file; what is no TOML is refused with its line and column."""
    import tomllib

    name = escaped(str(file))
    try:
        text = file.read_bytes().decode("utf-8-sig")  # Windows editors put a mark before the first character
        return tomllib.loads(text)
    except OSError as error:
        raise ConfigError(
            f"{name}: can't be read: {error.strerror}.", advice="Give another with --config."
        ) from error
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        raise ConfigError(
            f"{name}: is no UTF-8 (at line {line}, column {column}).", advice="Save it as UTF-8."
        ) from None
    except RecursionError:
        raise ConfigError(f"{name}: is no sensible TOML: it is nested too deeply.") from None
    except ValueError as error:  # TOMLDecodeError is one; so is a whole number of thousands of digits
        raise ConfigError(f"{name}: is no TOML: {escaped(str(error))}.") from None


def default_text() -> str:
    """Return the commented file of defaults, from the installed package or from the source tree."""
    packaged = Path(__file__).with_name("config.default.toml")
    source = packaged.parent.with_name("config.toml")
    return (packaged if packaged.is_file() else source).read_text(encoding="utf-8")


class _Reader:
    """Gathers values from one source after the other, and every mistake on the way."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.sources: dict[str, Source] = {}
        self.procedures: dict[str, object] = {}
        self.mistakes: dict[str, None] = {}  # an ordered set: `--workers` sets two keys but is one mistake

    def read_file(self, tables: Mapping[str, object], name: str, base: Path) -> None:
        for section, table in tables.items():
            if section != PROCEDURES and section not in SECTIONS:
                self._mistake(f"{name}: {_unknown_section(section, table)}")
            elif not isinstance(table, dict):
                self._mistake(f"{name}: {section} = {shown(table)} must be a table, begun by the line [{section}]")
            elif section == PROCEDURES:
                self.procedures = table
                self.sources[PROCEDURES] = Source.FILE
            else:
                for key, value in table.items():
                    full = f"{section}.{key}"
                    if full in RULES:
                        self._take(full, value, Source.FILE, f"{name}: {full}", base)
                    else:
                        self._mistake(f"{name}: {_unknown_key(section, key)}")

    def read_environment(self, environ: Mapping[str, str], here: Path) -> None:
        for name in sorted(environ):
            if not name.startswith(ENVIRONMENT_PREFIX) or name in NO_SETTINGS:
                continue
            if name in VARIABLES:
                key = VARIABLES[name]
                value = RULES[key].from_text(environ[name])
                self._take(key, value, Source.ENV, f"environment: {name}", here)
            elif name.startswith(f"{ENVIRONMENT_PREFIX}{PROCEDURES.upper()}"):
                self._mistake(f"environment: {escaped(name)}: procedures can only be set in the file")
            else:
                hint = did_you_mean(name, [*VARIABLES, *NO_SETTINGS])
                self._mistake(f"environment: {escaped(name)} is no variable of this program{hint}")

    def read_overrides(self, overrides: Mapping[str, object], here: Path) -> None:
        for key, value in overrides.items():
            if key not in RULES:
                self._mistake(f"command line: {_unknown_key(*_split(key))}")
                continue
            typed = RULES[key].from_text(value) if isinstance(value, str) else value
            self._take(key, typed, Source.FLAG, f"command line: {FLAGS.get(key, key)}", here)

    def require_paths(self) -> None:
        keys = [f"paths.{one.name}" for one in fields(Paths)]
        missing = [key for key in keys if key not in self.values]
        if not missing or self.mistakes:
            return
        flags = " ".join(f"{FLAGS[key]} FOLDER" for key in missing)
        names = " or ".join(str(one) for one in DEFAULT_FILES)
        self._mistake(
            f"No configuration file: there is no {names}. Give one with --config FILE, or name the folders: {flags} "
            f"(or set {', '.join(name for name, key in VARIABLES.items() if key in missing)})"
        )

    def require_scheduler(self) -> None:
        """Refuse an engine without an address; one that is itself wrong is told already."""
        wanted = self.values.get("pools.engine") is PoolEngine.DASK
        if wanted and not self.values.get("pools.scheduler") and not self.mistakes:
            self._mistake('pools.engine = "dask" needs pools.scheduler, such as "tcp://lab-server:8786"')

    def refuse_mistakes(self) -> None:
        lines = [f"{one}." for one in self.mistakes]
        if len(lines) == 1:
            raise ConfigError(lines[0])
        if lines:
            raise ConfigError("\n  ".join([f"The configuration has {len(lines)} mistakes:", *lines]))

    def config(self, file: Path | None, base: Path) -> Config:
        filled: dict[str, Any] = {
            section: kind(
                **{
                    one.name: self.values.get(f"{section}.{one.name}", _placed(one.default, base))
                    for one in fields(kind)
                }
            )
            for section, kind in SECTIONS.items()
        }
        filled["paths"] = filled["paths"].of_lab(filled["lab"].name)
        return Config(**filled, procedures=self.procedures, file=file, sources=self.sources)

    def _take(self, key: str, value: object, source: Source, where: str, base: Path) -> None:
        try:
            self.values[key] = _placed(RULES[key].parse(value), base)
        except ValueError as error:
            self._mistake(f"{where} = {shown(value)} {error}")
        else:
            self.sources[key] = source

    def _mistake(self, text: str) -> None:
        self.mistakes[text] = None


def _placed(value: object, base: Path) -> object:
    """Make a relative path absolute; links and `..` stay, as they may point elsewhere tomorrow."""
    return base / value if isinstance(value, Path) else value


def _split(key: str) -> tuple[str, str]:
    section, _, name = key.partition(".")
    return section, name


def _unknown_section(section: str, table: object) -> str:
    if isinstance(table, dict):
        return f"[{_name(section)}] is no section{did_you_mean(section, [*SECTIONS, PROCEDURES])}"
    homes: Iterator[str] = (home for home, name in map(_split, RULES) if name == section)
    home = next(homes, "")
    hint = f" (it belongs below the line [{home}])" if home else did_you_mean(section, [*SECTIONS, PROCEDURES])
    return f"{_name(section)} is no section{hint}"


def _unknown_key(section: str, key: str) -> str:
    siblings = [name for home, name in map(_split, RULES) if home == section]
    homes = [home for home, name in map(_split, RULES) if name == key]
    hint = f" (it belongs to [{homes[0]}])" if homes else did_you_mean(key, siblings)
    return f"{_name(section)}.{_name(key)} is no key of this program{hint}"


def _name(key: str) -> str:
    short = key if len(key) <= 60 else f"{key[:60]}…"
    return escaped(short) if short else '""'
