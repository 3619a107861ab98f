"""The registry of procedures as a table for a person, and as plain data. Prints nothing itself."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from nanolab_daemon.settings import escaped

if TYPE_CHECKING:
    from nanolab_daemon.procedures import ParameterType, Procedure, Registry, Span, SweepPath

WIDTH = 100
_LABEL = 14
_HELD = "\N{NO-BREAK SPACE}"  # textwrap ends no line at one
_INSIDE_NAMES = re.compile(r"(?<![,;:|+]) (?![|+]|\(older)")
_HEAD = ("procedure", "segments", "along", "complete when")


def data(registry: Registry) -> list[dict[str, Any]]:
    """Give every procedure as plain data for JSON: the keys of the registry, and beside them what proves the end."""
    return [{**asdict(one), "complete_when": end(one)} for one in registry]


def lines(registry: Registry, width: int = WIDTH) -> Iterator[str]:
    """Give the overview, one line a procedure where it fits in `width` columns, and then each procedure whole."""
    rows = [_HEAD, *((one.name, one.segments or "-", along(one), end(one)) for one in registry)]
    widths = [max(len(row[at]) for row in rows) for at in range(3)]
    for *cells, last in rows:
        head = "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)) + "  "
        yield from _wrapped(head, last, width)
    for one in registry:
        yield ""
        yield one.name
        for label, text in _parts(one):
            yield from _wrapped(f"  {label:<{_LABEL}}", text, width)


def end(procedure: Procedure) -> str:
    """Say in words what tells that a run of this procedure is complete."""
    if procedure.phases:
        before = "" if procedure.stops == "after" else "just before "
        older = _sum(procedure.older_phases)
        said = f"{procedure.time} reaches {before}{_sum(procedure.phases)}"
        return f"{said} (older programs: {older})" if older else said
    if procedure.paths:
        needed = f", {procedure.repeat} times" if procedure.repeat_required else ""
        return f"{procedure.swept} has run through its set points{needed}"
    return "unknown: the header does not tell"


def along(procedure: Procedure) -> str:
    """Give the column along which a run goes, or a dash."""
    return procedure.segment_column or procedure.swept or "-"


def _parts(procedure: Procedure) -> Iterator[tuple[str, str]]:
    """Give a procedure's parts that are not empty, each with its name."""
    chip = (procedure.chip_group, procedure.chip_number, procedure.sample)
    every = (
        ("columns", ", ".join(procedure.columns) or "none: it writes no data"),
        ("old columns", _renamed(procedure.column_aliases)),
        ("parameters", _typed(procedure.parameters)),
        ("old names", _renamed(procedure.renamed)),
        ("metadata", _typed(procedure.metadata)),
        ("light", _light(procedure)),
        ("chip", ", ".join(filter(None, chip))),
        ("set points", _set_points(procedure)),
        ("phases", " | ".join(_sum((span,)) for span in procedure.phases)),
        ("complete when", end(procedure)),
        ("segments", f"{procedure.segments}, along {along(procedure)}" if procedure.segments else "none"),
        ("silences", _silences(procedure)),
        ("manifest", ", ".join(f"{column} = {name}" for column, name in procedure.manifest.items())),
    )
    yield from ((label, text) for label, text in every if text)


def _typed(parameters: Mapping[str, ParameterType]) -> str:
    """Write each name with its type and unit, as the configuration writes them."""
    typed = ((name, f"{kind.kind} {kind.unit or ''}".rstrip()) for name, kind in parameters.items())
    return ", ".join(f"{name} ({kind})" for name, kind in typed)


def _renamed(names: Mapping[str, str]) -> str:
    return ", ".join(f"{old} -> {present}" for old, present in names.items())


def _light(procedure: Procedure) -> str:
    on = f"on where {procedure.laser_voltage} is not 0" if procedure.laser_voltage else ""
    return "; ".join(filter(None, (on, f"of {procedure.wavelength}" if procedure.wavelength else "")))


def _set_points(procedure: Procedure) -> str:
    if not procedure.paths:
        return ""
    ways = " | ".join(map(_path, procedure.paths))
    times = f", repeated by {procedure.repeat}" if procedure.repeat else ""
    return f"{procedure.start}, {procedure.end}, {procedure.step}{times}: {ways}"


def _path(path: SweepPath) -> str:
    limits = (("since ", path.since), ("until ", path.until), ("version below ", path.below_version))
    said = ", ".join(word + value for word, value in limits if value)
    return f"{path.kind} ({said})" if said else str(path.kind)


def _silences(procedure: Procedure) -> str:
    first = f"{procedure.burn_in} before the first row of a lit run" if procedure.burn_in else ""
    between = [_sum((span,)) for span in procedure.silences]
    return "; ".join(filter(None, (first, f"{' or '.join(between)} between two rows" if between else "")))


def _sum(spans: tuple[Span, ...]) -> str:
    """Write lengths of time as one sum, the same parameter once."""
    factors: dict[tuple[str, str], float] = {}
    for span in spans:
        after = (" x set points" if span.per_set_point else "") + (" if lit" if span.only_lit else "")
        for name, factor in span.terms:
            factors[name, after] = factors.get((name, after), 0.0) + factor
    return " + ".join(
        f"{'' if factor == 1 else f'{factor:g} x '}{name}{after}" for (name, after), factor in factors.items()
    )


def _wrapped(head: str, text: str, width: int) -> list[str]:
    """Give lines of at most `width` columns, the further ones indented; names are kept whole where they can be."""
    wrapper = textwrap.TextWrapper(width, head, " " * len(head), break_on_hyphens=False, break_long_words=False)
    lines = wrapper.wrap(_INSIDE_NAMES.sub(_HELD, escaped(text)))
    if any(len(line) > width for line in lines):
        lines = wrapper.wrap(escaped(text))
    return [line.replace(_HELD, " ") for line in lines]
