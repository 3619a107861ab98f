"""What is to be done about a file, in words: for each cause of a refusal, and for each state a file may be in.

Looks at nothing; whoever asks says what is known.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from nanolab_daemon.catalog import FileRecord, RunRecord
from nanolab_daemon.errors import RejectCause
from nanolab_daemon.model import FileState, Rejection
from nanolab_daemon.names import shown_path

AGAIN = "it is tried again when its bytes change"
REPAIR = "`nanolab-daemon verify --repair` makes it again"
_NOTHING = "Nothing is to be done"
_BY_CAUSE: Mapping[str, str] = {
    RejectCause.NOT_INSTRUMENT_FILE: "If it is a measurement, copy the original again from the instrument's PC; if it"
    " is none, keep it out of the raw folder, or name it in watch.exclude.",
    RejectCause.BAD_HEADER: f"Copy the original again from the instrument's PC: {AGAIN}.",
    RejectCause.BAD_PROCEDURE_NAME: f"Mend the name in the first line, or copy the original again: {AGAIN}.",
    RejectCause.BAD_START_TIME: f"Mend the line of the start time, or copy the original again: {AGAIN}.",
    RejectCause.BAD_COLUMNS: f"Mend the line of column labels, or copy the original again: {AGAIN}.",
    RejectCause.ENCODING: f"Save it as UTF-8, or copy the original again: {AGAIN}.",
    RejectCause.BAD_ROWS: f"Mend the line, or copy the original again: {AGAIN}.",
}
_ELSE = f"Mend the file, or copy the original again: {AGAIN}."


def of_rejection(cause: str | None, advice: str) -> str:
    """Tell what to do about a refused file; `advice` is what was said when it was refused, which is to the point."""
    return advice or _BY_CAUSE.get(cause or "", _ELSE)


def of_file(
    record: FileRecord,
    run: RunRecord | None,
    *,
    running: bool,
    exists: bool,
    changed: bool,
    known_procedure: bool,
    unpublished: bool = False,
) -> str:
    """Tell what to do about a file that the ledger knows. `running`: there is a daemon, which does most by itself.

    `unpublished`: a published file of its run is not there.
    """
    by_itself = "the daemon takes it by itself" if running else "start the daemon, or run `nanolab-daemon backfill`"
    if changed:
        return f"It has changed since it was judged: {by_itself}."
    if unpublished and run is not None and not run.source_missing:
        return f"A published file of its run is gone: {REPAIR}."
    if unpublished:
        return f"A published file of its run is gone, and so is its raw file. Put that one back; then {REPAIR}."
    if not exists:
        return f"{_NOTHING}.{' Its run stays published.' if run is not None else ''}"
    other = "" if run is None else shown_path(run.source)
    match record.state:
        case FileState.REJECTED:
            return _named(record.rejection, shown_path(record.path))
        case FileState.QUEUED | FileState.STARTED | FileState.MEASURING:
            return f"Wait for the measurement; then, {by_itself}."
        case FileState.WAITING:
            return f"Let the user that runs nanolab-daemon read it; then, {by_itself}."
        case FileState.DUPLICATE:
            return f"{_NOTHING}: its bytes are published once, from {other or 'the other file'}."
        case FileState.SUPERSEDED:
            return f"{_NOTHING}, unless this file is the right one: then take {other or 'the other'} out of raw."
    if run is None:
        return f"{_NOTHING}."
    if run.segmentation == "pending":
        how = "the daemon makes them" if running else "run `nanolab-daemon preprocess`"
        return f"Its segments are to be made: {how}."
    if run.segmentation == "failed":
        return "Its second stage failed; `nanolab-daemon backfill --force` tries it again."
    if not known_procedure:
        return (
            f"{_NOTHING}. To have segments of {run.facts.proc}, describe it under [procedures] in the configuration."
        )
    if run.facts.completeness.complete is False and run.facts.bad_rows_skipped:
        return f"{_NOTHING}: it is published without the lines that were left out, and marked incomplete."
    if run.facts.completeness.complete is False:
        return f"{_NOTHING}: it is published as it is, marked incomplete. Measure again if you need the rest."
    return f"{_NOTHING}."


def _named(rejection: Rejection | None, file: str) -> str:
    """Give the remedy with the name of the file where it is to be typed."""
    if rejection is None:
        return _ELSE
    return of_rejection(rejection.cause, rejection.advice).replace(" FILE`", f" {_typed(file)}`")


def _typed(file: str) -> str:
    """Write a name as a shell and the program take it: one that begins like an option stands behind `--`."""
    return f"{'-- ' if file.startswith('-') else ''}{shlex.quote(file)}"
