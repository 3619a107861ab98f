"""Reports as lines for a person, or as JSON. Knows what things look like and nothing of where they come from."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from nanolab_daemon.cli_base import say_json

if TYPE_CHECKING:
    from nanolab_daemon.check import Finding
    from nanolab_daemon.procedures import Registry


def findings(found: list[Finding], *, as_json: bool) -> None:
    """Print what `check` found, one line each, the remedy behind it."""
    if as_json:
        say_json([asdict(one) for one in found])
        return
    width = max(len(one.name) for one in found)
    for one in found:
        remedy = f"  -> {one.remedy}" if one.remedy else ""
        click.echo(f"{one.status.upper():<5} {one.name:<{width}}  {one.detail}{remedy}")


def procedures(registry: Registry, *, as_json: bool) -> None:
    """Print the registry of procedures."""
    if as_json:
        say_json([asdict(one) for one in registry])
        return
    head = ("procedure", "swept column", "segments", "columns")
    rows = [(p.name, p.swept or "-", "yes" if p.segmented else "no", ", ".join(p.columns)) for p in registry]
    table([head, *rows])


def table(rows: list[tuple[str, ...]]) -> None:
    """Print rows in columns as wide as their widest text; the last one runs on."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [f"{text:<{width}}" for text, width in zip(row, widths, strict=False)]
        click.echo("  ".join([*cells, row[-1]]).rstrip())
