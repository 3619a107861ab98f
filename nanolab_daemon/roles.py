"""The parts that parameters and columns play in a procedure: what can play each, and which parts need each other.

Looks at one procedure's typed keys; refuses what could only give nonsense, with its place and what would be right.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from nanolab_daemon.errors import ConfigError
from nanolab_daemon.model import SegmentKind

SET_POINTS = ("start", "end", "step")
PARAMETERS = (*SET_POINTS, "repeat", "burn_in", "laser_voltage", "wavelength", "chip_group", "chip_number", "sample")
COLUMNS = ("swept", "level", "time")
SPANS = ("phases", "older_phases", "silences")
NUMBERS = ("float", "int", "choice")
"""Types of parameters that may be numbers."""
START_TIME = "Start time"

_TEXTS = ("chip_group", "sample")  # of any type
# What they give stands in a column, or is waited for, in this unit.
_UNITS = {"burn_in": "s", "laser_voltage": "V", "wavelength": "nm"}


def fail(where: str, value: object, wanted: str) -> NoReturn:
    """Refuse a value of the configuration: raise `ConfigError`."""
    shown = repr(value)
    shown = shown if len(shown) <= 80 else shown[:79] + "…"
    raise ConfigError(f"{where} = {shown}: this must be {wanted}.")


def check(where: str, values: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Check all parts of one procedure; `values` are its keys, typed, `given` the same as they were written."""
    _check_columns(where, values)
    _check_parameters(where, values)
    _check_set_points(where, values, emptied="paths" in given)
    _check_company(where, values)


def _check_columns(where: str, values: Mapping[str, Any]) -> None:
    for role in COLUMNS:
        if role in values and values[role] not in values["columns"]:
            fail(f"{where}.{role}", values[role], f"one of the columns ({', '.join(values['columns'])})")


def _check_parameters(where: str, values: Mapping[str, Any]) -> None:
    known = values["parameters"]
    for role in PARAMETERS:
        if role not in values:
            continue
        name = values[role]
        if not (isinstance(name, str) and name in known):
            fail(f"{where}.{role}", name, f"one of the parameters ({', '.join(known)})")
        if role == "chip_number":
            if known[name].kind != "int":
                fail(f"{where}.{role}", name, f"a parameter of type int; its type is {known[name].kind}")
        elif role not in _TEXTS:
            _check_number(f"{where}.{role}", name, known)
        unit = _UNITS.get(role)
        if unit and known[name].unit not in (None, unit):
            wanted = f"a parameter in {unit} (the header may print it with a prefix: m{unit} is understood)"
            fail(f"{where}.{role}", name, f"{wanted}; its unit is {known[name].unit}")
    for role in SPANS:
        for span in values[role]:
            for name, _ in span.terms:
                _check_number(f"{where}.{role}", name, known)
    for section in ("parameters", "metadata"):
        kind = values[section].get(START_TIME)
        if kind is not None and (kind.kind != "float" or kind.unit not in (None, "s")):
            shown = f"{kind.kind} {kind.unit or ''}".rstrip()
            fail(
                f"{where}.{section}.{START_TIME}", shown, "'float': seconds since 1970, by which runs are told apart"
            )


def _check_number(where: str, name: str, known: Mapping[str, Any]) -> None:
    if known[name].kind not in NUMBERS:
        fail(where, name, f"a parameter that is a number ({', '.join(NUMBERS)}); its type is {known[name].kind}")


def _check_set_points(where: str, values: Mapping[str, Any], *, emptied: bool) -> None:
    """Check that set points have a path and one unit."""
    if not values["paths"]:
        part = next((role for role in ("start", "end") if values.get(role)), None)
        part = part or ("swept" if emptied and values.get("swept") else None)
        if part:
            fail(f"{where}.paths", [], f"one path at least, because {part} is given; docs/registry.md shows them")
        return
    units = [(role, values["parameters"][values[role]].unit) for role in SET_POINTS if values.get(role)]
    units = [(role, unit) for role, unit in units if unit is not None]
    for role, unit in units:
        first, wanted = units[0]
        if unit != wanted:
            fail(f"{where}.{role}", values[role], f"a parameter in {wanted}, as {first} is; its unit is {unit}")


def _check_company(where: str, values: Mapping[str, Any]) -> None:
    """Check that keys which mean nothing alone have those that they need."""
    needs = [
        ("paths", SET_POINTS),
        ("segments", ("swept",) if values.get("segments") is SegmentKind.SWEEP else ("level",)),
        ("phases", ("time",)),
        ("older_phases", ("phases",)),
        ("repeat_required", ("repeat",)),
    ]
    for key, others in needs:
        for other in others:
            if values.get(key) and not values.get(other):
                fail(f"{where}.{other}", values.get(other), f"given, because {key} is")
    if any(span.per_set_point for span in values["phases"]) and not values["paths"]:
        fail(f"{where}.paths", [], "given, because a phase counts set points")
