"""Reports as JSON, as a picture on a terminal, or as plain lines anywhere else.

Knows what things look like and nothing of where they come from. The pictures are `terminal`'s.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from nanolab_daemon.cli_base import as_typed, is_screen, say_json, tinted
from nanolab_daemon.settings import counted, escaped
from nanolab_daemon.terminal import facts
from nanolab_daemon.terminal.facts import Fact
from nanolab_daemon.terminal.screen import screen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nanolab_daemon.again import Became
    from nanolab_daemon.check import Finding
    from nanolab_daemon.plan import Plan
    from nanolab_daemon.procedures import Registry
    from nanolab_daemon.report import FileLine, RejectGroup, Status
    from nanolab_daemon.verify import Verified
    from nanolab_daemon.why import Why

MOST_NOTES = 10
SHOWN_CHARACTERS = 60
PLAN_TOTALS = (
    *("found", "known", "staged", "rejected", "queued", "started", "waiting", "duplicate", "superseded"),
    *("unchanged", "unselected", "changing", "gone", "runs", "runs_cut", "segments"),
    *("missing", "missing_ignored", "unreadable_folders"),
)

MOST_MEASURING = 20
NARROWEST_TABLE = 76
MOST_REJECTS = 5
"""So many files of one cause are listed, unless all are asked for."""

_VERDICT_COLOURS = {"stage": "green", "reject": "red", "started": "cyan", "wait": "yellow"}


def findings(found: list[Finding], *, as_json: bool) -> None:
    """Print what `check` found, one line each, the remedy behind it."""
    if as_json:
        say_json([asdict(one) for one in found])
        return
    if (console := screen()) is not None:
        from nanolab_daemon.terminal import tables

        console.print(tables.findings(found))
        return
    width = max(len(one.name) for one in found)
    for one in found:
        remedy = f"  -> {one.remedy}" if one.remedy else ""
        click.echo(f"{one.status.upper():<5} {one.name:<{width}}  {one.detail}{remedy}")


def procedures(registry: Registry) -> None:
    """Print the table of procedures: on a terminal as wide as that is, and with their names standing out."""
    from nanolab_daemon import cli_procedures

    if not is_screen(sys.stdout):
        click.echo("\n".join(cli_procedures.lines(registry)))
        return
    names = {procedure.name for procedure in registry}
    width = max(NARROWEST_TABLE, min(cli_procedures.WIDTH, shutil.get_terminal_size().columns))
    for number, line in enumerate(cli_procedures.lines(registry, width)):
        click.echo(tinted(line, None, bold=not number or line in names))


def table(rows: Sequence[tuple[str, ...]]) -> None:
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
        click.echo(json.dumps({"totals": totals, "causes": dict(made.causes), "frozen": made.frozen}))
        return
    for row in made.rows:
        segments = "" if row.segments is None else f", {counted(row.segments, 'segment')}"
        verdict = tinted(f"{row.verdict:<10}", _VERDICT_COLOURS.get(row.verdict))
        click.echo(f"{verdict}  {row.file}  {row.why}{segments}{offending(row.line, row.text)}")
    causes = ", ".join(f"{number:,} {cause}" for cause, number in sorted(made.causes.items()))
    told = [f"{number:,} {name.replace('_', ' ')}" for name, number in totals.items() if number]
    click.echo(f"A dry run: nothing was written. A real one now would come to: {', '.join(told) or 'nothing'}.")
    if causes:
        click.echo(f"Rejected: {causes}.")
    if made.frozen:
        click.echo(f"WARNING: not mounted, and left alone: {', '.join(made.frozen)}.")


def offending(line: int | None, text: str | None) -> str:
    """Write where a file's trouble is, for the end of a line."""
    if text is not None and len(text) > SHOWN_CHARACTERS:
        text = text[:SHOWN_CHARACTERS] + "…"
    if line is None:
        return f" [{text}]" if text else ""
    return f" [line {line}: {text}]" if text else f" [line {line}]"


def status(found: Status, *, as_json: bool) -> None:
    """Print how things stand."""
    if as_json:
        say_json(asdict(found))
        return
    if (console := screen()) is not None:
        from nanolab_daemon.terminal import status as drawn

        console.print(drawn.picture(found, console.width, ascii_only=console.options.ascii_only))
        return
    if found.running:
        who = f"`{found.command}`, process {found.pid}" if found.pid else "a process that does not say which"
        click.echo(f"Running: {who}, since {found.since or 'unknown'}; {found.health}")
    else:
        click.echo("Not running.")
    if found.live is not None:
        _live(found.live)
    if found.ledger_lost:
        click.echo(f"NOT WELL: {as_typed(found.ledger_lost)}")
        return
    if not found.ledger_exists:
        click.echo(f"There is no ledger yet ({escaped(found.ledger)}): nothing was processed.")
        return
    click.echo("Files:   " + (", ".join(f"{number:,} {state}" for state, number in found.files.items()) or "none"))
    for name, totals in (("Today:  ", found.today), ("In all: ", found.total)):
        click.echo(
            f"{name} {counted(totals.runs, 'run')}, {counted(totals.rows, 'row')},"
            f" {counted(totals.segments, 'segment')}"
        )
    if found.pending_segments:
        click.echo(f"Waiting: {counted(found.pending_segments, 'run')} for their second stage")
    if found.source_missing:
        click.echo(f"Kept:    {counted(found.source_missing, 'run')} whose raw file has gone")
    if found.flags:
        click.echo("Flags:   " + ", ".join(f"{number:,} {flag}" for flag, number in found.flags.items()))
    _list("Last files:", found.last_files)
    _list("Last rejects:", found.last_rejects)
    click.echo(f"Ledger:  {escaped(found.ledger)}")


def _live(live: Mapping[str, Any]) -> None:
    queues = live.get("queues", {})
    told = [f"{name} {waiting:,} waiting, {busy:,} at work" for name, (waiting, busy) in queues.items()]
    click.echo(f"Queues:  {'; '.join(told)}; {counted(live.get('following', 0), 'file')} followed")
    click.echo(f"Watch:   {live.get('watch') or 'not yet'}")
    page = live.get("page")
    if page is not None:
        again = f"; started again {page['restarts']:,} times" if page["restarts"] else ""
        click.echo(f"Page:    {page['address'] or page['trouble']}{again}")
    lost = [f"{pool['name']} {pool['replaced']:,}" for pool in live.get("pools", ()) if pool.get("replaced")]
    if lost:
        click.echo(f"Workers: replaced since the start: {', '.join(lost)}")
    measuring = live.get("measuring", {})
    for file, (rows, expected) in list(measuring.items())[:MOST_MEASURING]:
        click.echo(f"  measuring  {file}  {counted(rows, 'row')}{f' of {expected:,}' if expected else ''}")
    if len(measuring) > MOST_MEASURING:
        click.echo(f"  measuring  … and {len(measuring) - MOST_MEASURING:,} more")


def _list(title: str, files: tuple[FileLine, ...]) -> None:
    if files:
        click.echo(title)
        table([(f"  {one.judged_at}", one.state, one.file, _first_line(one.reason)) for one in files])


def rejects(
    groups: tuple[RejectGroup, ...],
    *,
    as_json: bool,
    ledger_exists: bool,
    most: int | None = MOST_REJECTS,
    cause: str | None = None,
) -> None:
    """Print what was refused, grouped by cause; of each cause at most so many files (None: all). JSON has all."""
    groups = tuple(_as_typed(group) for group in groups)
    if as_json:
        say_json([asdict(group) for group in groups])
        return
    if not groups:
        click.echo(f"No file is rejected{f' for {cause}' if cause else ''}.")
        if not ledger_exists:
            click.echo("There is no ledger yet, though: nothing was processed.")
        return
    from nanolab_daemon.terminal.words import left_out

    if (console := screen()) is not None:
        from nanolab_daemon.terminal import rejects as drawn

        console.print(drawn.picture(groups, console.width, most=most))
        return
    for group in groups:
        click.echo(f"{group.cause}: {counted(group.count, 'file')}, newest {group.newest}")
        for one in group.files[:most]:
            click.echo(f"  {one.file}: {_first_line(one.reason)}{offending(None, one.text)}")
        if most is not None and group.count > most:
            click.echo(f"  {left_out(group, most)}")
        for advice in group.remedies:
            click.echo(f"  -> {advice}")


def _as_typed(group: RejectGroup) -> RejectGroup:
    files = tuple(replace(one, advice=as_typed(one.advice)) for one in group.files)
    return replace(group, remedies=tuple(map(as_typed, group.remedies)), files=files)


def tried(found: tuple[Became, ...]) -> None:
    """Print what became of files that were tried again."""
    found = tuple(replace(one, advice=as_typed(one.advice)) for one in found)
    if (console := screen()) is not None:
        from nanolab_daemon.terminal import tables

        console.print(tables.tried(found, console.width))
        return
    advised = set()
    for one in found:
        click.echo(f"{one.state:<10}  {one.file}  {_first_line(one.reason)}")
        if one.state == "rejected" and one.advice and one.advice not in advised:
            click.echo(f"{'':<10}  -> {one.advice}")
            advised.add(one.advice)


def verified(found: Verified, *, as_json: bool) -> None:
    """Print where ledger and disk disagree."""
    problems = tuple(replace(one, remedy=as_typed(one.remedy)) for one in found.problems)
    found = replace(found, problems=problems)
    if as_json:
        say_json(asdict(found))
        return
    console = screen()
    if console is None:
        for one in found.problems:
            click.echo(f"{one.kind:<10}  {escaped(one.path)} {_first_line(one.detail)}")
            click.echo(f"{'':<10}  -> {one.remedy}")
    elif found.problems:
        from nanolab_daemon.terminal import tables

        console.print(tables.problems(found.problems))
    for note in found.notes[:MOST_NOTES]:
        click.echo(f"Note: {note}")
    if len(found.notes) > MOST_NOTES:
        click.echo(f"Note: and {len(found.notes) - MOST_NOTES:,} more of that kind.")
    verdict = counted(len(found.problems), "problem") if found.problems else "all as the ledger says"
    verdict = tinted(verdict, "red" if found.problems else "green")
    click.echo(
        f"{counted(found.runs, 'run')}, {counted(found.files, 'file')}, {counted(found.rows, 'row')}"
        f" in {found.seconds:.1f} s: {verdict}."
    )


def why(found: Why, *, as_json: bool) -> None:
    """Print all that is known of one file."""
    found = replace(found, next=as_typed(found.next))
    if as_json:
        say_json(asdict(found))
        return
    if (console := screen()) is not None:
        from nanolab_daemon.terminal import file

        console.print(file.picture(found, console.width))
        return
    click.echo(found.file)
    for fact in facts.verdict(found):
        _fact(fact)
    for line in found.lines:
        click.echo(f"    {facts.place(line)}")
        if pointer := facts.pointer(line):
            click.echo(f"    {pointer}")
    for fact in facts.circumstances(found):
        _fact(fact)
    procedure, lines, columns = facts.header(found)
    _fact(Fact("header", procedure))
    for name, value in lines:
        click.echo(f"{'':<14}{name}: {value}")
    _fact(Fact("columns", columns))
    _fact(Fact("to do", found.next))


def _fact(fact: Fact) -> None:
    if fact.text:
        first, *rest = fact.text.splitlines()
        click.echo(f"  {fact.name:<11} {first}")
        for line in rest:
            click.echo(f"{'':<14}{line}")


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""
