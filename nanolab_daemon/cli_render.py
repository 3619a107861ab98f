"""Reports as lines for a person, or as JSON. Knows what things look like and nothing of where they come from."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from nanolab_daemon.cli_base import say_json
from nanolab_daemon.settings import escaped

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nanolab_daemon.check import Finding
    from nanolab_daemon.plan import Plan
    from nanolab_daemon.report import FileLine, RejectGroup, Status
    from nanolab_daemon.verify import Verified
    from nanolab_daemon.why import Run, Why

MOST_NOTES = 10
SHOWN_CHARACTERS = 60
_ORIGINS = {"meta": "its start time", "path": "its path", "mtime": "the time of its last change"}
PLAN_TOTALS = (
    *("found", "known", "staged", "rejected", "queued", "started", "waiting", "duplicate", "superseded"),
    *("unchanged", "unselected", "changing", "gone", "runs", "runs_cut", "segments"),
    *("missing", "missing_ignored", "unreadable_folders"),
)

MOST_MEASURING = 20


def findings(found: list[Finding], *, as_json: bool) -> None:
    """Print what `check` found, one line each, the remedy behind it."""
    if as_json:
        say_json([asdict(one) for one in found])
        return
    width = max(len(one.name) for one in found)
    for one in found:
        remedy = f"  -> {one.remedy}" if one.remedy else ""
        click.echo(f"{one.status.upper():<5} {one.name:<{width}}  {one.detail}{remedy}")


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
        segments = "" if row.segments is None else f", {row.segments} segments"
        click.echo(f"{row.verdict:<10}  {row.file}  {row.why}{segments}{offending(row.line, row.text)}")
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
    if found.running:
        who = f"`{found.command}`, process {found.pid}" if found.pid else "a process that does not say which"
        click.echo(f"Running: {who}, since {found.since or 'unknown'}; {found.health}")
    else:
        click.echo("Not running.")
    if found.live is not None:
        _live(found.live)
    if not found.ledger_exists:
        click.echo(f"There is no ledger yet ({escaped(found.ledger)}): nothing was processed.")
        return
    click.echo("Files:   " + (", ".join(f"{number:,} {state}" for state, number in found.files.items()) or "none"))
    for name, totals in (("Today:  ", found.today), ("In all: ", found.total)):
        click.echo(f"{name} {totals.runs:,} runs, {totals.rows:,} rows, {totals.segments:,} segments")
    if found.pending_segments:
        click.echo(f"Waiting: {found.pending_segments:,} runs for their second stage")
    if found.source_missing:
        click.echo(f"Kept:    {found.source_missing:,} runs whose raw file has gone")
    if found.flags:
        click.echo("Flags:   " + ", ".join(f"{number:,} {flag}" for flag, number in found.flags.items()))
    _list("Last files:", found.last_files)
    _list("Last rejects:", found.last_rejects)
    click.echo(f"Ledger:  {escaped(found.ledger)}")


def _live(live: Mapping[str, Any]) -> None:
    queues = live.get("queues", {})
    told = [f"{name} {waiting:,} waiting, {busy:,} at work" for name, (waiting, busy) in queues.items()]
    click.echo(f"Queues:  {'; '.join(told)}; {live.get('following', 0):,} files followed")
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
        click.echo(f"  measuring  {file}  {rows:,} rows{f' of {expected:,}' if expected else ''}")
    if len(measuring) > MOST_MEASURING:
        click.echo(f"  measuring  … and {len(measuring) - MOST_MEASURING:,} more")


def _list(title: str, files: tuple[FileLine, ...]) -> None:
    if files:
        click.echo(title)
        table([(f"  {one.judged_at}", one.state, one.file, _first_line(one.reason)) for one in files])


def rejects(groups: tuple[RejectGroup, ...], *, as_json: bool, ledger_exists: bool) -> None:
    """Print what was refused, grouped by cause."""
    if as_json:
        say_json([asdict(group) for group in groups])
        return
    if not groups:
        click.echo("No file is rejected.")
        if not ledger_exists:
            click.echo("There is no ledger yet, though: nothing was processed.")
        return
    for group in groups:
        click.echo(f"{group.cause}: {len(group.files):,} file{'' if len(group.files) == 1 else 's'}")
        for one in group.files:
            click.echo(f"  {one.file}: {_first_line(one.reason)}{offending(None, one.text)}")
        for advice in dict.fromkeys(one.advice for one in group.files if one.advice):
            click.echo(f"  -> {advice}")


def verified(found: Verified, *, as_json: bool) -> None:
    """Print where ledger and disk disagree."""
    if as_json:
        say_json(asdict(found))
        return
    for one in found.problems:
        click.echo(f"{one.kind:<10}  {escaped(one.path)} {_first_line(one.detail)}")
        click.echo(f"{'':<10}  -> {one.remedy}")
    for note in found.notes[:MOST_NOTES]:
        click.echo(f"Note: {note}")
    if len(found.notes) > MOST_NOTES:
        click.echo(f"Note: and {len(found.notes) - MOST_NOTES:,} more of that kind.")
    verdict = f"{len(found.problems):,} problems" if found.problems else "all as the ledger says"
    click.echo(
        f"{found.runs:,} runs, {found.files:,} files, {found.rows:,} rows in {found.seconds:.1f} s: {verdict}."
    )


def why(found: Why, *, as_json: bool) -> None:
    """Print all that is known of one file."""
    if as_json:
        say_json(asdict(found))
        return
    click.echo(found.file)
    _fact("file", found.full_path + ("" if found.exists else "  (not there)"))
    _fact("state", found.state or ("not in the ledger" if not found.known else None))
    _fact("because", found.reason)
    if found.cause:
        _fact("cause", found.cause)
    for line in found.lines:
        click.echo(f"    {'>' if line.offending else ' '} {line.number:>6}  {line.text}")
    if found.line is not None and not found.lines:
        _fact("line", f"{found.line}: {found.text or ''}")
    if found.live and found.live.get("following"):
        state, rows, hoped = (found.live.get(key) for key in ("state", "rows", "expected_rows"))
        _fact("right now", f"the daemon follows it: {state or 'not looked into yet'}, {rows} rows of {hoped or '?'}")
    _fact("first seen", found.first_seen)
    judged = found.judged_at and f"{found.judged_at} by version {found.judged_by}"
    _fact("judged", judged and judged + (", but it has changed since" if found.changed_since else ""))
    _fact("rows", _rows(found))
    if found.attempts:
        _fact("attempts", f"{found.attempts} workers were lost over it")
    if found.republished:
        _fact("grew", f"{found.republished} times after it was published")
    _fact("SHA-256", found.sha256)
    if found.run is not None:
        _run(found, found.run)
    _header(found)
    _fact("to do", found.next)


def _rows(found: Why) -> str | None:
    if found.rows is None and found.header is None:
        return None
    there = "none read" if found.rows is None else f"{found.rows:,}"
    hoped = " or ".join(f"{number:,}" for number in found.expected_rows)
    if found.expected_end_s is not None:
        hoped = (
            f"{hoped}, until {found.expected_end_s:g} s"
            if hoped
            else f"as many as come until {found.expected_end_s:g} s"
        )
    if not hoped and not found.known:
        return there  # what the header prescribes is found out when it is judged
    return f"{there}; the header prescribes {hoped or 'no number'}"


def _run(found: Why, run: Run) -> None:
    complete = {True: "yes", False: "no", None: "can't be known"}[run.complete]
    _fact(
        "run", f"{run.run_id}, {run.proc} of {run.date} (from {_ORIGINS[run.date_origin]}), revision {run.revision}"
    )
    _fact("complete", f"{complete}{f': {run.rule}' if run.rule else ''}")
    if run.flags is None:
        _fact("flags", "not known: it was staged by a version that had none, and its raw file has gone")
    for one in run.flags or ():
        _fact("flag", f"{one.flag}: {one.meaning}")
    if run.published_from != found.file:
        _fact("published", f"from {run.published_from}, with {run.rows:,} rows")
    if run.bad_rows_skipped:
        _fact("left out", f"{run.bad_rows_skipped} lines that are no numbers, as was asked")
    _fact("staged", run.staged_at)
    if run.segmentation != "none":
        outside = f", {run.rows_outside_segments} rows outside" if run.rows_outside_segments else ""
        kind = f"{run.segment_kind}, " if run.segment_kind else ""
        _fact("segments", f"{kind}{run.segmentation}{f', {run.segmented_at}' if run.segmented_at else ''}{outside}")
    for output in run.outputs:
        there = "" if output.there else "  MISSING"
        _fact("output", f"{output.path}  ({output.rows:,} rows, {output.size_bytes:,} bytes){there}")


def _header(found: Why) -> None:
    if found.header is None:
        if found.exists and found.header_trouble:
            _fact("header", found.header_trouble)
        return
    _fact("header", found.header.procedure)
    for name, value in [*found.header.parameters.items(), *found.header.metadata.items()]:
        click.echo(f"{'':<14}{escaped(name)}: {escaped(value)}")
    _fact("columns", ", ".join(map(escaped, found.header.columns)))


def _fact(name: str, text: str | None) -> None:
    if text:
        first, *rest = text.splitlines()
        click.echo(f"  {name:<11} {first}")
        for line in rest:
            click.echo(f"{'':<14}{line}")


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""
