"""What one pass came to, as one JSON object and as lines for a person. Counts in the ledger; decides nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from nanolab_daemon import report
from nanolab_daemon.model import FileState

if TYPE_CHECKING:
    from nanolab_daemon.batch import Ended
    from nanolab_daemon.catalog import Catalog
    from nanolab_daemon.tally import Timeline

WIDTH = 60
BESIDE = 16
"""Columns that stand beside a drawing."""

NOTE_AT = 26
"""The column in which the notes beside the figures begin."""

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = ".:-=+*#@"
_PUBLISHED = (FileState.STAGED, FileState.SEGMENTED)
_WAITS = (FileState.QUEUED, FileState.STARTED, FileState.MEASURING)


def summary(ended: Ended, catalog: Catalog | None, command: str, began: float) -> dict[str, Any]:
    """Count what became of the files of this pass (begun at `began`, seconds since 1970), as the ledger now says."""
    tally, seconds = ended.tally, ended.seconds
    judged = {} if catalog is None else catalog.judged_since(began)
    states = {state: sum(n for (one, _), n in judged.items() if one is state) for state in FileState}
    cut, segments = (0, 0) if catalog is None else catalog.cut_since(began)
    return {
        "command": command,
        "interrupted": ended.interrupted,
        "seconds": round(seconds, 3),
        "found": tally.found,
        "known": tally.known,
        "staged": sum(states[state] for state in _PUBLISHED),
        "rejected": states[FileState.REJECTED],
        "causes": {cause: n for (_, cause), n in sorted(judged.items(), key=str) if cause},
        **{str(state): states[state] for state in (*_WAITS, FileState.WAITING)},
        "duplicate": states[FileState.DUPLICATE],
        "superseded": states[FileState.SUPERSEDED],
        **{word: tally.outcomes[word] for word in ("unchanged", "unselected", "changing", "gone")},
        "runs": 0 if catalog is None else catalog.totals(began)["runs"],
        "runs_cut": cut,
        "segments": segments,
        "files_per_s": round(tally.staged_done / seconds, 1) if seconds else 0.0,
        "runs_per_s": round(tally.segmented_done / seconds, 1) if seconds else 0.0,
        "agreement": {} if catalog is None else _agreement(catalog, began),
        "flags": {} if catalog is None else report.flags(catalog, began),
        "missing": tally.missing,
        "missing_ignored": tally.missing_ignored,
        "frozen": tally.frozen,
        "unreadable_folders": tally.unreadable_folders,
        "timeline": {name: _timeline(line) for name, line in (("stage", tally.stage), ("segment", tally.segment))},
    }


def _agreement(catalog: Catalog, began: float) -> dict[str, Any]:
    return {
        proc: {**found._asdict(), "rate": None if found.rate is None else round(found.rate, 4)}
        for proc, found in catalog.agreement_since(began).items()
    }


def _timeline(line: Timeline) -> dict[str, Any]:
    return {"span_s": line.span_s, "counts": line.counts}


def lines(found: dict[str, Any], *, unicode: bool, width: int = WIDTH) -> list[str]:
    """Write the summary for a person, drawings in `width` columns; figures that say nothing are left out."""
    seconds = found["seconds"]
    told = [f"{found['command']}: {'interrupted' if found['interrupted'] else 'done'} after {seconds:.1f} s"]
    if found["command"] != "preprocess":
        told += _files(found)
    told += _runs(found)
    told += timeline(found["timeline"], seconds, unicode=unicode, width=width)
    told += _warnings(found)
    if found["interrupted"]:
        told.append("What is done is recorded. Run the same command again, and it goes on where it stopped.")
    return told


def _files(found: dict[str, Any]) -> list[str]:
    causes = ", ".join(f"{n:,} {cause}" for cause, n in found["causes"].items())
    rows = (
        ("found", found["found"], "raw files"),
        ("known", found["known"], "unchanged since they were judged: not opened"),
        ("staged", found["staged"], f"{found['files_per_s']:.0f} files/s"),
        ("rejected", found["rejected"], f"{causes}; `nanolab-daemon rejects` lists them"),
        ("queued", found["queued"], "a header alone: they wait in the instrument's queue"),
        ("started", found["started"], "no rows yet: connecting or burning in"),
        ("waiting", found["waiting"], "can't be opened for now; `nanolab-daemon why FILE` says why"),
        ("duplicate", found["duplicate"], "the same bytes as another file"),
        ("superseded", found["superseded"], "the same run as a file with more rows"),
        ("unchanged", found["unchanged"], "touched, but with the bytes that are known"),
        ("not selected", found["unselected"], "left alone, as you asked"),
        ("changing", found["changing"], "being written right now: the next pass takes them"),
        ("gone", found["gone"], "vanished before they were read"),
    )
    return [_row(*row) for row in rows if row[1] or row[0] in ("found", "known", "staged")]


def _runs(found: dict[str, Any]) -> list[str]:
    told = [_row("runs", found["runs"], "published")] if found["command"] != "preprocess" else []
    if found["runs_cut"] or found["command"] not in ("stage",):
        told.append(_row("segments", found["segments"], f"from {found['runs_cut']:,} runs"))
    told += [_agreed(proc, numbers) for proc, numbers in found["agreement"].items()]
    if found["flags"]:
        told.append("  flags: " + ", ".join(f"{number:,} {flag}" for flag, number in found["flags"].items()))
    return told


def _agreed(proc: str, numbers: dict[str, Any]) -> str:
    """Write how a procedure's runs compare with their headers; a rule that the archive belies is to be seen."""
    judged = numbers["complete"] + numbers["incomplete"] + numbers["contrary"]
    parts = [
        (numbers["incomplete"], "incomplete"),
        (numbers["contrary"], "other than the header can mean: is the rule right?"),
        (numbers["unknown"], "whose header tells no end"),
    ]
    if numbers["rate"] is None:
        return f"  {proc}: {numbers['unknown']:,} whose header tells no end"
    told = [f"{numbers['complete']:,} of {judged:,} complete as their header prescribes ({numbers['rate']:.1%})"]
    told += [f"{number:,} {words}" for number, words in parts if number]
    return f"  {proc}: {', '.join(told)}"


def _row(name: str, number: int, note: str) -> str:
    return f"  {name:<13}{number:>9,}  {note}".rstrip()


def _warnings(found: dict[str, Any]) -> list[str]:
    told = []
    if found["missing"]:
        told.append(_row("missing", found["missing"], "raw files have gone; their runs stay published"))
    if found["missing_ignored"]:
        told += [
            f"WARNING: {found['missing_ignored']:,} known raw files are not there, more than half of all. That looks",
            "  like a share that is not mounted or a wrong --raw-root, so nothing was concluded from it.",
            "  If they were taken away on purpose, say so: nanolab-daemon backfill --accept-missing",
        ]
    if found["frozen"]:
        told += [
            f"WARNING: not mounted, and left alone: {', '.join(found['frozen'])}.",
            "  Mount it and run the command again; if it is gone for good, say so: --accept-missing.",
        ]
    if found["unreadable_folders"]:
        told += [
            f"WARNING: {found['unreadable_folders']:,} folders can't be listed; what is in them was not seen.",
            "  Give the user that runs nanolab-daemon the right to read them.",
        ]
    return told


def timeline(both: dict[str, Any], seconds: float, *, unicode: bool, width: int = WIDTH) -> list[str]:
    """Draw when each stage worked, over one axis of time: that they overlap is to be seen."""
    if not any(sum(line["counts"]) for line in both.values()) or seconds <= 0:
        return []
    names = {"stage": "stage", "segment": "preprocess"}
    return [
        *(
            f"  {names[name]:<11}|{_drawn(line, seconds, unicode=unicode, width=width)}|"
            for name, line in both.items()
            if sum(line["counts"])
        ),
        f"  {'':<11} 0 s{f'{seconds:.1f} s':>{width - 3}}",
    ]


def _drawn(line: dict[str, Any], seconds: float, *, unicode: bool, width: int) -> str:
    """Spread the counts over the columns: each column takes its part of every span that it overlaps."""
    blocks = BLOCKS if unicode else ASCII_BLOCKS
    columns = [0.0] * width
    width_s = seconds / width
    for at, count in enumerate(line["counts"]):
        begin, end = at * line["span_s"], min((at + 1) * line["span_s"], seconds)
        if not count or end <= begin:
            continue
        for column in range(int(begin / width_s), min(width, math.ceil(end / width_s))):
            overlap = min(end, (column + 1) * width_s) - max(begin, column * width_s)
            columns[column] += count * max(overlap, 0.0) / (end - begin)
    most = max(columns)
    return "".join(blocks[min(7, int(8 * c / most))] if c > 0 else " " for c in columns)
