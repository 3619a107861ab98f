"""What the names of the program mean, where the code has no sentence for it. A name without one stops the build."""

from __future__ import annotations

from nanolab_daemon.errors import RejectCause
from nanolab_daemon.model import FileState

CONSTANT_COLUMNS = {
    "run_id": "16 hexadecimal digits from procedure and start time; the same on every machine",
    "proc": "procedure",
    "start_dt": "start of the measurement",
    "source_file": "raw file, below the raw folder, with `/`",
    "with_light": "whether the header gives a laser voltage other than 0",
    "wavelength_nm": "wavelength of the light; null where the procedure has none",
    "laser_voltage_V": "laser voltage; null where the procedure has none",
    "chip_group": "group of chips",
    "chip_number": "number of the chip",
    "sample": "sample on the chip",
    "procedure_version": "version of the procedure, as its header says",
}
SEGMENT_COLUMNS = {
    "segment_id": "number of the segment, from 0, as in its folder's name",
    "segment_type": "`forward_negative`, `dark_1`, `plateau_2` …",
    "segment_v_start": "set point of the first row, in the unit of the column along which the run is cut",
    "segment_v_end": "set point of the last row",
    "segment_direction": "`increasing`, `decreasing`, or `constant` for a phase",
    "point_in_segment": "number of the row in its segment, from 0",
    "segment_t_start_s": "time of the first row in seconds; phases only",
    "segment_t_end_s": "time of the last row in seconds; phases only",
}
MANIFEST_COLUMNS = {
    **CONSTANT_COLUMNS,
    "status": "`segmented` once its segments are published, else `staged`",
    "date": "day in the lab's time zone, as in the path",
    "date_origin": "where the date comes from: `meta` (Start time), `path`, or `mtime`",
    "rows": "rows of the staged run",
    "expected_rows": "rows that the header prescribes; null where rows tell nothing",
    "expected_end_s": "time in seconds that the last row has to reach; null where time tells nothing",
    "complete": "whether the header's sweep or time was measured to its end; null where that can't be known",
    "completeness_rule": "the rule by which `complete` was found, in words, with the numbers",
    "flags": "what is odd about the run: see [flags](../flags.md)",
    "path": "staged file, below the stage root",
    "segments_path": "folder of its segments, below the output root; null without segments",
    "source_sha256": "SHA-256 of the raw file, in hexadecimal",
    "source_missing": "whether the raw file has gone since",
    "segment_kind": "`sweep`, `light`, `plateau` or `wavelength`; null where the procedure is not cut",
    "segments": "number of segments",
    "rows_outside_segments": "rows in pieces too short to be segments",
    "bad_rows_skipped": "rows left out with `retry --skip-bad-rows`",
    "staged_at": "when the run was published",
    "segmented_at": "when its segments were",
    "revision": "1, and one more each time it was published again",
    "version": "version of the program that staged it",
}
METADATA_KEYS = {
    "run_id": "as the column",
    "version": "version of the program that wrote the file",
    "source_sha256": "SHA-256 of the raw file",
    "header": "the whole header, as it was written",
    "encoding": "encoding of the header",
    "parameters": "the header's parameters, JSON",
    "metadata": "the header's metadata, JSON",
    "flags": "the run's flags, JSON; but for `clock_mismatch`",
    "segments": "how the run is cut: kind, column, step, time; JSON",
    "comments": "lines beginning with `#` between the rows, with their numbers; JSON; only where there are some",
    "bad_rows_skipped": "number of rows left out; only where there are some",
}
STATES = {
    FileState.QUEUED: (
        "A header, no start time, no rows: the measurement waits in the instrument's queue.",
        "Nothing; it may wait for days. A backfill gives it up after `watch.abandoned_after_s`.",
    ),
    FileState.STARTED: ("It has begun, but has no rows yet: connecting, ramping, burning in.", "Nothing."),
    FileState.MEASURING: ("It has rows, and grows.", "Nothing; the page shows its curve so far."),
    FileState.STAGED: (
        "Its run is published. Final where the procedure has no segments; else they are made next.",
        "Nothing, or see `why` where its second stage failed.",
    ),
    FileState.SEGMENTED: ("Its run and all its segments are published.", "Nothing."),
    FileState.REJECTED: (
        "It can't be used as it stands, and has stopped changing.",
        "See its [cause](causes.md). It is tried again when its bytes change, or with `retry`.",
    ),
    FileState.DUPLICATE: ("The same bytes as another raw file, whose run is published.", "Nothing."),
    FileState.SUPERSEDED: (
        "The same run as another raw file, which holds more rows.",
        "Nothing, unless this one is the right one: then take the other out of the raw folder.",
    ),
    FileState.WAITING: (
        "It can't be opened for now: locked, closed to the daemon's user, or its share does not answer.",
        "Let the user that runs nanolab-daemon read it; it is tried again by itself.",
    ),
}
CAUSES = {
    RejectCause.NOT_INSTRUMENT_FILE: (
        "It does not begin as a file of the instrument program does.",
        "Move it out of the raw folder, or name it in `watch.exclude`.",
    ),
    RejectCause.BAD_HEADER: (
        "Its header breaks off, or lacks the line `#Data:`.",
        "Copy the original again; else mend the line that `why` names.",
    ),
    RejectCause.BAD_PROCEDURE_NAME: (
        "The procedure's name would become part of a path, and is no plain word.",
        "Rename the class in the instrument program; mend the first line of the files that exist.",
    ),
    RejectCause.BAD_START_TIME: (
        "The Start time in the header is no time.",
        "Mend the line; without a Start time the file is taken with the date of its path.",
    ),
    RejectCause.BAD_COLUMNS: (
        "The labels of its columns are not one name each, or take a name that the outputs use.",
        "Mend the label line, or give the column another name with `[procedures]`"
        " ([column_aliases](../registry.md#keys)).",
    ),
    RejectCause.BAD_ROWS: (
        "A line is no row of numbers, or has too many or too few of them.",
        "`why FILE` shows the line. Mend it, or `nanolab-daemon retry --skip-bad-rows FILE`: how many were left out"
        " is recorded.",
    ),
    RejectCause.NUL_BYTES: (
        "It holds NUL bytes: a crash or a broken copy left a hole in it.",
        "Copy the original again from the instrument's computer.",
    ),
    RejectCause.ENCODING: (
        "Its header is neither UTF-8 nor Windows-1252.",
        "Save it as UTF-8, or copy the original again.",
    ),
    RejectCause.TOO_LARGE: (
        "It is beyond a [limit](../limits.md) of size, columns or header.",
        "If it is a measurement, raise the limit that `why` names, and `nanolab-daemon retry FILE`.",
    ),
    RejectCause.ABANDONED: (
        "It has had no rows for longer than `watch.abandoned_after_s`: the measurement was never made.",
        "Nothing. Should rows come, it is staged by itself.",
    ),
    RejectCause.CRASHED: (
        "A worker died over it, twice.",
        "Look at the file, and report it as a defect; `nanolab-daemon retry FILE` tries again.",
    ),
    RejectCause.TIMED_OUT: (
        "A worker took longer over it than `pools.task_timeout_s`, twice.",
        "If it is a measurement, raise that limit, and `nanolab-daemon retry FILE`.",
    ),
    RejectCause.OUT_OF_MEMORY: (
        "A worker took more memory over it than `pools.task_memory_mb`, twice.",
        "If it is a measurement, raise that limit, and `nanolab-daemon retry FILE`.",
    ),
    RejectCause.INTERNAL: (
        "The program failed over it, twice: a defect.",
        "Report it with the file, and the traceback from the journal.",
    ),
}
FIELDS = {
    "address": "where the page is served",
    "advice": "what to do about it",
    "after_s": "for how many seconds it had lasted",
    "again_in_s": "in how many seconds it is tried again",
    "cause": "why a file was refused, in a word: see [causes](causes.md)",
    "complete": "whether the rows are all that the header prescribes; missing where that can't be told",
    "count": "a number of things",
    "duration_ms": "milliseconds from being put in line for a stage until it was recorded",
    "expected_rows": "rows that the header prescribes",
    "keys": "keys of settings, JSON",
    "path": "a folder or file, mostly below raw",
    "proc": "procedure",
    "raw": "the raw folder",
    "reason": "why, in words",
    "remedy": "what to do about it",
    "retry_in_s": "in how many seconds it is tried again",
    "rows": "rows of the run",
    "run_id": "16 hexadecimal digits, as in the paths and the ledger",
    "scheduler": "address of the Dask scheduler",
    "segments": "number of segments",
    "signal": "signal that was received",
    "source_file": "path below the raw folder; what can't be printed is escaped",
    "state": "state of the file after the event: see [states](states.md)",
    "title": "title of a notice",
    "version": "version of the program",
    "watch": "how the raw folder is watched, JSON",
    "worker": "process id of a worker; of a Dask worker its address",
}
EVENTS = {
    "the scheduler is lost": "the Dask scheduler is gone or does not answer; work waits, and it is tried again",
    "the scheduler is back": "work goes on",
    "a worker is not used": "a Dask worker can't be used, and why; it is asked again each minute",
    "watching": "inotify watches the raw folder, or what of it can be watched; `count`: its parts",
    "running": "the daemon is at work",
    "stopping": "it was asked to stop, and lets the workers finish",
    "stopped": "it has stopped in order",
    "configuration taken over": "SIGHUP: changed settings are in force",
    "not taken over: the configuration needs a restart": "SIGHUP: one of the changed settings can't change at run"
    " time; all old ones stay",
    "the configuration is wrong and was not taken over": "SIGHUP: the old settings stay",
    "staged": "a run is published",
    "segmented": "its segments are published",
    "second stage failed": "a run stays published without segments",
    "seen": "a file that is followed is queued, has started, or is being measured now",
    "no events": "inotify can't be used here: files are found by scans",
    "events were lost; a scan finds the files": "too much happened at once; nothing is lost",
    "no rows yet": "a file is queued or has started",
    "rejected": "a file is refused",
    "quarantined": "a file has cost workers their lives and is set aside by its content",
    "unreadable for now": "a file waits, since it can't be opened",
    "worker lost": "a worker died, hung or took too much memory, and is replaced",
    "paused": "the machine is at fault (a full disk, a folder that can't be written): all work waits",
    "resumed": "the work goes on",
    "degraded": "the raw folder is gone, or does not answer: nothing is concluded",
    "recovered": "what was degraded or frozen is well again",
    "part frozen": "a share below raw is not mounted or does not answer: only that part waits",
    "frozen": "most known files of a part of raw are not there, all at once: nothing is concluded",
}
EXIT_CODES = {
    0: "done; rejected files don't change it",
    1: "failed, or something was found that does not work; standard error says what",
    2: "the command line asks for something that makes no sense",
    3: "with `--strict`: a file was rejected",
    78: "the configuration is wrong; systemd does not restart on it",
    130: "interrupted; run it again, it goes on where it stopped",
}
