"""The registry of procedures: what `procedures.toml` and the user's `[procedures]` say, checked, as frozen data.

The only reader of that table; refuses a mistake in it by name, and knows nothing of a procedure that is not in it.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Any

from nanolab_daemon import roles
from nanolab_daemon.errors import ConfigError, FileRejectedError, RejectCause
from nanolab_daemon.header import PLAIN_WORD, quantity
from nanolab_daemon.model import Header, SegmentKind
from nanolab_daemon.roles import fail

# Columns that staging and segmentation add, those that the outputs' folders stand for, and the manifest's own: no
# procedure may bring a column of that name.
RESERVED_COLUMNS = frozenset(
    {"run_id", "proc", "start_dt", "source_file", "with_light", "wavelength_nm", "laser_voltage_V"}
    | {"chip_group", "chip_number", "sample", "procedure_version", "segment_id", "segment_type", "segment_v_start"}
    | {"segment_v_end", "segment_direction", "point_in_segment", "segment_t_start_s", "segment_t_end_s"}
    | {"date", "segment"}
)
RESERVED_MANIFEST_COLUMNS = RESERVED_COLUMNS | {
    *("status", "start_time", "start_us", "date", "date_origin", "chip", "rows", "expected_rows", "expected_end_s"),
    *("complete", "completeness_rule", "path", "paths", "source_sha256", "segments", "rows_outside_segments"),
    *("staged_at", "revision", "bad_rows_skipped", "swept", "segment_kind"),
    *("segments_path", "source_missing", "segmented_at", "version", "flags"),
}


class PathKind(StrEnum):
    """How the set points of a sweep run; `ramps` holds the arithmetic of each."""

    START_END = "start-end"
    START_END_START = "start-end-start"
    ZERO_START_END_ZERO = "zero-start-end-zero"
    ZERO_START_END_START_ZERO = "zero-start-end-start-zero"
    ZERO_START_END_START_ZERO_MET = "zero-start-end-start-zero, ends met"
    TWO_STEPS = "zero-start-end-zero in two steps"
    TWO_STEPS_MET = "zero-start-end-zero in two steps, ends met"


@dataclass(frozen=True, slots=True)
class SweepPath:
    """One way for the set points, and the files for which it is possible; dates are inclusive, `YYYY-MM-DD`."""

    kind: PathKind
    since: str = ""
    until: str = ""
    below_version: str = ""


@dataclass(frozen=True, slots=True)
class ParameterType:
    """What the header prints for a parameter; `unit` is None where it has none or (choice) prints none."""

    kind: str
    unit: str | None

    def factor(self, unit: str | None) -> float | None:
        """Return by what a number in `unit` is to be multiplied to be in this one; None if they don't fit.

        A number without a unit is taken to be in this one.
        """
        if not unit or unit == self.unit:
            return 1.0
        prefix = unit.removesuffix(self.unit) if self.unit and unit.endswith(self.unit) else ""
        return _PREFIXES.get(prefix)


@dataclass(frozen=True, slots=True)
class Span:
    """A length of time that the header gives: a sum of parameters with factors."""

    terms: tuple[tuple[str, float], ...]
    per_set_point: bool = False
    only_lit: bool = False


@dataclass(frozen=True, slots=True)
class Light:
    """What the header says of the laser."""

    on: bool
    wavelength_nm: float | None
    voltage_V: float | None  # noqa: N815 -- V is volt


@dataclass(frozen=True, slots=True)
class Procedure:
    """One kind of measurement. The keys are explained at the head of `procedures.toml`."""

    name: str
    columns: tuple[str, ...] = ()
    column_aliases: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, ParameterType] = field(default_factory=dict)
    metadata: Mapping[str, ParameterType] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    swept: str | None = None
    paths: tuple[SweepPath, ...] = ()
    start: str | None = None
    end: str | None = None
    step: str | None = None
    repeat: str | None = None
    repeat_required: bool = False
    segments: SegmentKind | None = None
    level: str | None = None
    time: str | None = None
    phases: tuple[Span, ...] = ()
    older_phases: tuple[Span, ...] = ()
    stops: str = "after"
    burn_in: str | None = None
    silences: tuple[Span, ...] = ()
    laser_voltage: str | None = None
    wavelength: str | None = None
    chip_group: str | None = None
    chip_number: str | None = None
    sample: str | None = None
    manifest: Mapping[str, str] = field(default_factory=dict)

    @property
    def segment_column(self) -> str | None:
        """The column along which a run is cut: the set points of a sweep, the level of phases; None if it is not."""
        if self.segments is None:
            return None
        return self.swept if self.segments is SegmentKind.SWEEP else self.level

    def canonical(self, column: str) -> str:
        """Return the present name of a column; a column that is not known keeps its own."""
        return self.column_aliases.get(column, column)

    def canonical_columns(self, columns: Iterable[str]) -> tuple[str, ...]:
        """Return the present names of a file's columns; two columns that would get one name reject the file."""
        written = tuple(columns)
        names = tuple(map(self.canonical, written))
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            both = " and ".join(repr(column) for column in written if self.canonical(column) == twice)
            raise FileRejectedError(
                RejectCause.BAD_COLUMNS, f"The columns {both} are two names of one column, {twice!r}."
            )
        return names

    def parameter(self, header: Header, name: str) -> str | None:
        """Return the text of a parameter by its present name, also from a file that has it under an old one."""
        text = header.parameters.get(name)
        if text is None:
            for old, present in self.renamed.items():
                if present == name and old in header.parameters:
                    return header.parameters[old]
        return text

    def number(self, header: Header, name: str | None) -> float | None:
        """Return a parameter as a number in its registered unit; None where it lacks, is no number or has another."""
        text = self.parameter(header, name) if name is not None else None
        if text is None or name is None:
            return None
        read = quantity(text)
        known = self.parameters.get(name)
        if read.value is None or read.value != read.value:
            return None
        factor = known.factor(read.unit) if known is not None else 1.0
        return None if factor is None else read.value * factor

    def light(self, header: Header) -> Light:
        """Tell whether the laser was on: its voltage decides, for a dark run's header keeps the wavelength."""
        voltage = self.number(header, self.laser_voltage)
        written = self.parameter(header, self.laser_voltage) if self.laser_voltage else None
        # A voltage in a unit that nobody knows can't be given in volts, but it is a voltage, and not 0.
        value = voltage if voltage is not None else quantity(written or "").value
        on = value is not None and not math.isnan(value) and value != 0
        return Light(on, self.number(header, self.wavelength), voltage)

    def chip(self, header: Header) -> tuple[str | None, int | None, str | None]:
        """Return chip group, chip number and sample, each None where the procedure or the file has none."""
        group = self.parameter(header, self.chip_group) if self.chip_group else None
        sample = self.parameter(header, self.sample) if self.sample else None
        number = self.number(header, self.chip_number)
        whole = int(number) if number is not None and number.is_integer() and abs(number) < 2**53 else None
        return group, whole, sample

    def manifest_values(self, header: Header) -> dict[str, float]:
        """Return the parameters that go to the manifest, by manifest column, as far as the file has them."""
        values = ((column, self.number(header, name)) for column, name in self.manifest.items())
        return {column: value for column, value in values if value is not None}


class Registry:
    """All procedures by name. Immutable; `with_overrides` makes another one."""

    __slots__ = ("_common", "_procedures", "_tables", "digest")

    def __init__(self, common: Mapping[str, Any], tables: Mapping[str, Mapping[str, Any]]) -> None:
        self._common = common
        self._tables = tables
        _check_folders(tables)
        self._procedures = {name: _build(name, _resolved(name, tables), common) for name in tables}
        text = json.dumps([asdict(self._procedures[name]) for name in sorted(tables)], sort_keys=True)
        self.digest = hashlib.sha256(text.encode()).hexdigest()

    def __reduce__(self) -> tuple[object, ...]:
        return Registry, (self._common, self._tables)

    @staticmethod
    def builtin() -> Registry:
        """Return the registry that comes with the program."""
        return _builtin()

    def with_overrides(self, overrides: Mapping[str, Any]) -> Registry:
        """Return a registry with the user's `[procedures]` laid over this one; a mistake raises `ConfigError`.

        What lies over a procedure reaches those that are `like` it.
        """
        tables: dict[str, Mapping[str, Any]] = dict(self._tables)
        for name, table in overrides.items():
            if not isinstance(table, Mapping):
                fail(f"procedures.{name}", table, "a table of keys, [procedures.<name>]")
            _check_keys(name, table)
            tables[name] = _merged(tables.get(name, {}), table)
        return Registry(self._common, tables)

    def get(self, name: str) -> Procedure | None:
        """Return a procedure by its class name, None where it is not known."""
        return self._procedures.get(name)

    def __iter__(self) -> Iterator[Procedure]:
        return iter(self._procedures.values())

    def __len__(self) -> int:
        return len(self._procedures)


def unknown_procedure(name: str) -> Procedure:
    """Return what can be said of a procedure that no registry knows: the names that all procedures share."""
    return Procedure(
        name=name,
        parameters={"Laser voltage": ParameterType("float", "V"), "Laser wavelength": ParameterType("choice", "nm")},
        renamed={"Chip": "Chip group name", "Chip name": "Chip group name", "Comment": "Information"},
        burn_in="Burn-in time",
        silences=tuple(
            Span(((text, 1.0),)) for text in ("Step time", "Sampling time (excluding Keithley)", "Inter-sweep wait")
        ),
        laser_voltage="Laser voltage",
        wavelength="Laser wavelength",
        chip_group="Chip group name",
        chip_number="Chip number",
        sample="Sample",
    )


_PREFIXES = {"p": 1e-12, "n": 1e-9, "u": 1e-6, "µ": 1e-6, "μ": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6}
_TABLES = ("column_aliases", "parameters", "metadata", "renamed", "manifest")
_NAMES = frozenset({*roles.PARAMETERS, *roles.COLUMNS, "segments"})
_KEYS = frozenset({"like", *Procedure.__dataclass_fields__} - {"name"})
_PARAMETER_KINDS = (*roles.NUMBERS, "bool", "str")
_MANIFEST_COLUMN = re.compile(r"[a-z][A-Za-z0-9_]{0,63}")
_VERSION = re.compile(r"[0-9]+(\.[0-9]+)*")


@functools.cache
def _builtin() -> Registry:
    data = tomllib.loads(Path(__file__).with_name("procedures.toml").read_text(encoding="utf-8"))
    return Registry(data["common"], data["procedures"])


def _check_keys(name: str, table: Mapping[str, Any]) -> None:
    for key, value in table.items():
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; the keys are {', '.join(sorted(_KEYS))}."
            raise ConfigError(f"procedures.{name}.{key} = {value!r}: there is no such key{hint}")
        if key in _TABLES and not (
            isinstance(value, Mapping) and all(isinstance(text, str) for text in value.values())
        ):
            fail(f"procedures.{name}.{key}", value, "a table of texts")


def _check_folders(tables: Mapping[str, object]) -> None:
    """Check that no two procedures would put their segments into one folder, `<name in lower case>_segments`."""
    names: dict[str, str] = {}
    for name in tables:
        other = names.setdefault(name.lower(), name)
        if other != name:
            shared = f"their segments would share the folder {name.lower()}_segments"
            fail(f"procedures.{name}", name, f"a name that differs from {other!r} in more than case: {shared}")


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**base, **over}
    for key in _TABLES:
        if key in base and key in over:
            merged[key] = {**base[key], **over[key]}
    return merged


def _resolved(name: str, tables: Mapping[str, Mapping[str, Any]], above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a procedure's keys over those of the procedure that it is like."""
    table = dict(tables[name])
    like = table.pop("like", None)
    if like is None:
        return table
    if not isinstance(like, str) or like not in tables:
        fail(f"procedures.{name}.like", like, f"the name of a procedure ({', '.join(sorted(tables))})")
    if like in (*above, name):
        fail(f"procedures.{name}.like", like, "a procedure that is not, in the end, like this one")
    return _merged(_resolved(like, tables, (*above, name)), table)


def _build(name: str, table: Mapping[str, Any], common: Mapping[str, Any]) -> Procedure:
    """Check a procedure's keys and freeze them."""
    where = f"procedures.{name}"
    if not PLAIN_WORD.fullmatch(name):
        fail(where, name, "a plain word of at most 64 letters, digits and underscores")
    _check_keys(name, table)
    # An empty text takes away what `like` brought: a name here, an entry of a table below.
    values = {key: value for key, value in table.items() if not (value == "" and key in _NAMES)}
    for key in _TABLES:
        values[key] = {old: new for old, new in values.get(key, {}).items() if new}
    for key in ("parameters", "metadata"):
        values[key] = {
            parameter: _parameter_type(f"{where}.{key}.{parameter}", text) for parameter, text in values[key].items()
        }
    known = values["parameters"]
    inherited = {old: new for old, new in common["renamed"].items() if new in known and old not in known}
    values["renamed"] = {**inherited, **values["renamed"]}
    values["columns"] = _columns(f"{where}.columns", values.get("columns", []))
    values["paths"] = _paths(f"{where}.paths", values.get("paths", []))
    for key in roles.SPANS:
        values[key] = _spans(f"{where}.{key}", values.get(key, []), known)
    if not isinstance(values.get("repeat_required", False), bool):
        fail(f"{where}.repeat_required", values["repeat_required"], "true or false")
    if "segments" in values:
        values["segments"] = _segment_kind(f"{where}.segments", values["segments"])
    if values.get("stops", "after") not in ("after", "before"):
        fail(f"{where}.stops", values["stops"], "'after' or 'before'")
    _check_names(where, values)
    roles.check(where, values, table)
    # Typed last, so that numbers in headers of the past are read in the right unit too.
    for key in ("parameters", "metadata"):
        values[key] = {**{old: _parameter_type("", text) for old, text in common[key].items()}, **values[key]}
    return Procedure(name=name, **values)


def _check_names(where: str, values: Mapping[str, Any]) -> None:
    """Check that the tables of names lead somewhere and collide with nothing."""
    for old, present in values["column_aliases"].items():
        if old in values["columns"]:
            fail(f"{where}.column_aliases.{old}", present, "an alias for a name that is not itself a column")
        if present not in values["columns"]:
            fail(f"{where}.column_aliases.{old}", present, f"one of the columns ({', '.join(values['columns'])})")
    for old, present in values["renamed"].items():
        if old in values["parameters"]:
            fail(f"{where}.renamed.{old}", present, "a new name for a name that is not itself a parameter")
        if present not in values["parameters"]:
            fail(f"{where}.renamed.{old}", present, f"one of the parameters ({', '.join(values['parameters'])})")
    for column, parameter in values["manifest"].items():
        if not _MANIFEST_COLUMN.fullmatch(column):
            fail(f"{where}.manifest.{column}", parameter, "under a column name such as vds_V: a plain word")
        if column in RESERVED_MANIFEST_COLUMNS:
            fail(f"{where}.manifest.{column}", parameter, "under another name: the manifest has such a column")
        if parameter not in values["parameters"] or values["parameters"][parameter].kind not in roles.NUMBERS:
            fail(f"{where}.manifest.{column}", parameter, "one of the parameters that are numbers")


def _segment_kind(where: str, value: object) -> SegmentKind:
    if not isinstance(value, str) or value not in list(SegmentKind):
        fail(where, value, f"one of {', '.join(map(repr, map(str, SegmentKind)))}, or '' for none")
    return SegmentKind(value)


def _parameter_type(where: str, text: str) -> ParameterType:
    kind, _, unit = text.partition(" ")
    if kind not in _PARAMETER_KINDS or unit != unit.strip():
        fail(where, text, f"a type ({', '.join(_PARAMETER_KINDS)}) and, after a blank, the unit if it has one")
    return ParameterType(kind, unit or None)


def _columns(where: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) and name.strip() for name in value):
        fail(where, value, "a list of column names")
    for column in value:
        if value.count(column) > 1:
            fail(where, column, "named once")
        if column in RESERVED_COLUMNS:
            fail(where, column, "another name: the program adds a column of this name itself")
    return tuple(value)


def _paths(where: str, value: object) -> tuple[SweepPath, ...]:
    if not isinstance(value, list | tuple):
        fail(where, value, "a list of paths")
    return tuple(_path(where, item) for item in value)


def _path(where: str, item: object) -> SweepPath:
    table = {"kind": item} if isinstance(item, str) else item
    wanted = f"one of {', '.join(map(repr, map(str, PathKind)))}"
    if not isinstance(table, Mapping) or "kind" not in table:
        fail(where, item, f"a kind or a table with a kind, {wanted}")
    for key, text in table.items():
        if key not in SweepPath.__dataclass_fields__:
            fail(f"{where}.{key}", text, f"one of the keys {', '.join(SweepPath.__dataclass_fields__)}")
    if table["kind"] not in list(PathKind):
        fail(where, table["kind"], wanted)
    for key in ("since", "until"):
        if key in table and not _is_date(table[key]):
            fail(f"{where}.{key}", table[key], 'a date such as "2025-07-17"')
    if table.get("since", "") > table.get("until", "9999"):
        fail(f"{where}.until", table["until"], f"a day from since on ({table['since']})")
    version = table.get("below_version", "1")
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        fail(f"{where}.below_version", version, 'a version such as "2.0.0"')
    return SweepPath(**{**table, "kind": PathKind(table["kind"])})


def _is_date(value: object) -> bool:
    try:
        return isinstance(value, str) and date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False


def _spans(where: str, value: object, known: Mapping[str, ParameterType]) -> tuple[Span, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, Mapping) for item in value):
        fail(where, value, 'a list of tables such as { "Step time" = 1 }')
    spans = []
    for item in value:
        flags = {key: item[key] for key in ("set points", "lit") if key in item}
        terms = tuple((name, factor) for name, factor in item.items() if name not in flags)
        for name, factor in terms:
            if name not in known:
                fail(f"{where}.{name}", factor, f"under one of the parameters ({', '.join(known)})")
            if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < float("inf"):
                fail(f"{where}.{name}", factor, "a positive factor")
        for name, flag in flags.items():
            if not isinstance(flag, bool):
                fail(f"{where}.{name}", flag, "true or false")
        spans.append(
            Span(
                tuple((name, float(factor)) for name, factor in terms),
                per_set_point=flags.get("set points", False),
                only_lit=flags.get("lit", False),
            )
        )
    return tuple(spans)
