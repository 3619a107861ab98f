"""What `why` tells of a file, as facts in the order in which they are told: for a pipe and for the screen alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nanolab_daemon.settings import counted, escaped

if TYPE_CHECKING:
    from nanolab_daemon.why import Line, Run, Why

_ORIGINS = {"meta": "its start time", "path": "its path", "mtime": "the time of its last change"}


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that is known; `text` may have several lines."""

    name: str
    text: str


def verdict(found: Why) -> Iterator[Fact]:
    """Tell which file it is, its state, and the reason."""
    yield Fact("file", found.full_path + ("" if found.exists else "  (not there)"))
    yield from _fact("state", found.state or ("not in the ledger" if not found.known else None))
    yield from _fact("because", found.reason)
    yield from _fact("cause", found.cause)


def place(line: Line) -> str:
    """Write a line of the raw file with its number; the one that was refused is marked."""
    return f"{'>' if line.offending else ' '} {line.number:>6}  {line.text}"


def pointer(line: Line) -> str:
    """Point at what is wrong in a line, for the line below it; empty where that is not known."""
    if line.mark is None:
        return ""
    start, stop = line.mark
    return " " * (len(place(line)) - len(line.text) + start) + "^" * max(1, stop - start)


def circumstances(found: Why) -> Iterator[Fact]:
    """Tell what else is known of the file and of its run."""
    if found.line is not None and not found.lines:
        yield Fact("line", f"{found.line}: {found.text or ''}")
    if found.live and found.live.get("following"):
        state, rows, hoped = (found.live.get(key) for key in ("state", "rows", "expected_rows"))
        follows = f"the daemon follows it: {state or 'not looked into yet'}, {rows} rows of {hoped or '?'}"
        yield Fact("right now", follows)
    yield from _fact("right now", found.live_trouble)
    yield from _fact("first seen", found.first_seen)
    judged = found.judged_at and f"{found.judged_at} by version {found.judged_by}"
    yield from _fact("judged", judged and judged + (", but it has changed since" if found.changed_since else ""))
    yield from _fact("rows", _rows(found))
    if found.attempts:
        yield Fact("attempts", f"{found.attempts} workers were lost over it")
    if found.republished:
        yield Fact("grew", f"{found.republished} times after it was published")
    yield from _fact("SHA-256", found.sha256)
    if found.run is not None:
        yield from _run(found, found.run)


def header(found: Why) -> tuple[str, list[tuple[str, str]], str]:
    """Give the header: its procedure or what is wrong with it, its lines as name and value, its columns."""
    if found.header is None:
        return (found.header_trouble if found.exists else ""), [], ""
    lines = [*found.header.parameters.items(), *found.header.metadata.items()]
    columns = ", ".join(map(escaped, found.header.columns))
    return found.header.procedure, [(escaped(name), escaped(value)) for name, value in lines], columns


def _fact(name: str, text: str | None) -> Iterator[Fact]:
    if text:
        yield Fact(name, text)


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


def _run(found: Why, run: Run) -> Iterator[Fact]:
    complete = {True: "yes", False: "no", None: "can't be known"}[run.complete]
    yield Fact(
        "run", f"{run.run_id}, {run.proc} of {run.date} (from {_ORIGINS[run.date_origin]}), revision {run.revision}"
    )
    yield Fact("complete", f"{complete}{f': {run.rule}' if run.rule else ''}")
    if run.flags is None:
        yield Fact("flags", "not known: it was staged by a version that had none, and its raw file has gone")
    for one in run.flags or ():
        yield Fact("flag", f"{one.flag}: {one.meaning}")
    if run.published_from != found.file:
        yield Fact("published", f"from {run.published_from}, with {counted(run.rows, 'row')}")
    if run.bad_rows_skipped:
        yield Fact("left out", f"{counted(run.bad_rows_skipped, 'line')} that could not be read, as was asked")
    yield Fact("staged", run.staged_at)
    if run.segmentation != "none":
        outside = f", {counted(run.rows_outside_segments, 'row')} outside" if run.rows_outside_segments else ""
        kind = f"{run.segment_kind}, " if run.segment_kind else ""
        at = f", {run.segmented_at}" if run.segmented_at else ""
        yield Fact("segments", f"{kind}{run.segmentation}{at}{outside}")
    for output in run.outputs:
        there = "" if output.there else "  MISSING"
        yield Fact("output", f"{output.path}  ({counted(output.rows, 'row')}, {output.size_bytes:,} bytes){there}")
