"""Reports as lines for a person, or as JSON. Knows what things look like and nothing of where they come from."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from nanolab_daemon.cli_base import say_json

if TYPE_CHECKING:
    from nanolab_daemon.check import Finding
    from nanolab_daemon.plan import Plan
    from nanolab_daemon.procedures import Registry

PLAN_TOTALS = (
    *("found", "known", "staged", "rejected", "queued", "started", "waiting", "duplicate", "superseded"),
    *("unchanged", "unselected", "changing", "gone", "runs", "runs_cut", "segments"),
    *("missing", "missing_ignored", "unreadable_folders"),
)


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


def plan(made: Plan, *, as_json: bool) -> None:
    """Print what a pass would do: a line a file, then the totals that a real one hits."""
    import json

    totals = {name: made.totals[name] for name in PLAN_TOTALS}
    if as_json:
        for row in made.rows:
            click.echo(json.dumps(asdict(row)))
        click.echo(json.dumps({"totals": totals, "causes": dict(made.causes), "seconds": round(made.seconds, 3)}))
        return
    for row in made.rows:
        segments = "" if row.segments is None else f", {row.segments} segments"
        click.echo(f"{row.verdict:<10}  {row.file}  {row.why}{segments}{offending(row.line, row.text)}")
    causes = ", ".join(f"{number:,} {cause}" for cause, number in sorted(made.causes.items()))
    told = [f"{number:,} {name.replace('_', ' ')}" for name, number in totals.items() if number]
    click.echo(f"A dry run: nothing was written. A real one now would come to: {', '.join(told) or 'nothing'}.")
    if causes:
        click.echo(f"Rejected: {causes}.")


def offending(line: int | None, text: str | None) -> str:
    """Write where a file's trouble is, for the end of a line."""
    return "" if line is None else f" [line {line}" + (f": {text}]" if text else "]")
