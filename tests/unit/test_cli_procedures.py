"""The table of the registry: everything that decides what becomes of a file, readable in 100 columns."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from nanolab_daemon import cli_procedures
from nanolab_daemon.procedures import Registry

BUILTIN = Registry.builtin()


def shown(registry: Registry) -> str:
    return "\n".join(cli_procedures.lines(registry))


def block(name: str, registry: Registry = BUILTIN) -> str:
    """Give one procedure's part of the table, as one line."""
    (found,) = (part for part in shown(registry).split("\n\n") if part.startswith(f"{name}\n"))
    return " ".join(found.split())


def test_overview_has_a_line_a_procedure() -> None:
    """The overview tells of each procedure how it is cut, along what, and what shows that it is complete."""
    head, *rows = shown(BUILTIN).split("\n\n", maxsplit=1)[0].splitlines()
    assert head.split() == ["procedure", "segments", "along", "complete", "when"]
    assert [row.split()[0] for row in rows if row[0] != " "] == [one.name for one in BUILTIN]


def test_fits_into_a_hundred_columns() -> None:
    """No line of the table is wider than 100 columns."""
    assert max(map(len, shown(BUILTIN).splitlines())) <= 100


@pytest.mark.parametrize("name", [one.name for one in BUILTIN])
def test_every_name_is_there(name: str) -> None:
    """Columns, parameters with units, old names, set points and phases of every procedure stand in the table."""
    one = BUILTIN.get(name)
    assert one is not None
    text = block(name)
    for column in (*one.columns, *one.column_aliases, *one.renamed, *one.metadata, *one.manifest):
        assert column in text
    for parameter, kind in one.parameters.items():
        assert f"{parameter} ({kind.kind}{f' {kind.unit}' if kind.unit else ''})" in text
    for path in one.paths:
        assert all(word in text for word in (path.kind, path.since, path.until, path.below_version))
    for span in (*one.phases, *one.older_phases, *one.silences):
        assert all(term in text for term, _ in span.terms)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("IV", "Vsd (V) has run through its set points"),
        ("VVgCooldown", "Vg (V) has run through its set points, Number of sweep repetitions times"),
        ("It", "t (s) reaches 1.5 x Laser ON+OFF period"),
        ("ItVg", "t (s) reaches Burn-in time if lit + Step time x set points"),
        ("Tt", "Time (s) reaches just before Step time x set points (older programs: Laser ON+OFF period)"),
        ("Stress", "unknown: the header does not tell"),
    ],
)
def test_what_the_end_looks_like(name: str, words: str) -> None:
    """The table says in words what proves the end, or that nothing does."""
    assert f"complete when {words} segments" in block(name)


def test_the_users_own_procedures_stand_in_the_table() -> None:
    """What the configuration adds is shown like the rest, whatever characters its names hold."""
    own = {"columns": ["x (V)", "a\x07" + "b" * 120], "parameters": {"From": "float V"}}
    registry = BUILTIN.with_overrides({"Novel": own})
    assert "From (float V)" in block("Novel", registry)
    assert "a\\x07bbb" in block("Novel", registry)


def test_json_holds_everything() -> None:
    """The same as plain data: every key of the registry as it is there, and the words for the end beside them."""
    data = json.loads(json.dumps(cli_procedures.data(BUILTIN)))
    for found, one in zip(data, BUILTIN, strict=True):
        keys = json.loads(json.dumps(asdict(one)))
        assert {key: found[key] for key in keys} == keys
        assert found.keys() - keys.keys() == {"complete_when"}
    iv = next(one for one in data if one["name"] == "IV")
    assert (iv["start"], iv["end"], iv["step"]) == ("VSD start", "VSD end", "VSD step")
    assert [one["name"] for one in data] == [one.name for one in BUILTIN]
    it = next(one for one in data if one["name"] == "It")
    assert it["complete_when"] == "t (s) reaches 1.5 x Laser ON+OFF period"
    assert it["parameters"]["VDS"] == {"kind": "float", "unit": "V"}
    assert (it["segments"], it["level"], it["sample"]) == ("light", "VL (V)", "Sample")
    assert [list(span["terms"][0]) for span in it["phases"]] == [["Laser ON+OFF period", 0.5]] * 3
