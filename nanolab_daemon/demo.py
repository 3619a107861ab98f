"""A lab for ten seconds: a simulated instrument writes files, the real daemon processes them, and all of it is told.

Works in a folder of its own and leaves nothing behind. Succeeds only if what came out is what was measured.
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from zoneinfo import ZoneInfo

import click

from nanolab_daemon import demo_lab
from nanolab_daemon.catalog import FILE_NAME, Catalog, FileRecord, RunRecord
from nanolab_daemon.demo_lab import LOG, OUTPUT, RAW, STAGE, STATE, STOP_S, Expected, programme
from nanolab_daemon.errors import EngineError, UsageError
from nanolab_daemon.lock import holder
from nanolab_daemon.model import FileState
from nanolab_daemon.names import shown_path
from nanolab_daemon.sections import Lab
from nanolab_daemon.simulate import Event, Instrument

LOOK_EVERY_S = 0.1
START_S = 30.0
FINISH_S = 30.0
_INTERRUPTED = 130
_PASSING = (FileState.QUEUED, FileState.STARTED, FileState.MEASURING)
_COLOURS = {FileState.REJECTED: "red", FileState.SEGMENTED: "green", FileState.STAGED: "green"}


def main(*, keep: Path | None = None, speed: float = 1.0) -> int:
    """Run the demonstration, print what happens, and give the exit code."""
    if not 0.01 <= speed <= 1000:
        raise UsageError(f"--speed {speed:g} makes no sense: give a number between 0.01 and 1000.")
    try:
        with _interruptible(), demo_lab.folder(keep) as folder:
            return Demo(folder, speed, kept=keep is not None).run()
    except KeyboardInterrupt:
        click.echo("\nInterrupted: the daemon is stopped" + ("." if keep else ", the temporary lab is gone."))
        return _INTERRUPTED


class Demo:
    """One run of the demonstration in one folder."""

    def __init__(self, folder: Path, speed: float, *, kept: bool) -> None:
        self._folder = folder
        self._kept = kept
        self._told: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._expected = programme()
        measurements = [one.measurement for one in self._expected]
        zone = ZoneInfo(Lab().timezone)  # the instrument's PC stands in the lab, wherever this machine does
        self._instrument = Instrument(folder / RAW, measurements, speed=speed, told=self._told.put, zone=zone)
        self._began = time.monotonic()
        self._seen: dict[str, FileState] = {}  # what was last told of each file
        self._explained: set[FileState] = set()
        self._colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def run(self) -> int:
        """Start the daemon, measure, watch until all is done, stop the daemon, look at what has come out."""
        self._say(f"A lab in {self._folder}", bold=True)
        for name in (RAW, STATE):
            (self._folder / name).mkdir(parents=True)
        (self._folder / "config.toml").write_text(demo_lab.CONFIG, encoding="utf-8")
        with demo_lab.daemon(self._folder) as daemon:
            self._await_start(daemon)
            self._say(f"The daemon runs (process {daemon.pid}); the instrument begins to measure.\n")
            self._began = time.monotonic()
            self._instrument.start()
            try:
                self._watch(daemon)
            finally:
                self._instrument.stop()
            daemon.terminate()
            code = daemon.wait(STOP_S)
        self._say(f"\nThe instrument is done, the daemon has ended (exit code {code}).\n")
        problems = [f"The daemon ended with exit code {code}."] if code else []
        problems += self._conclude()
        for problem in problems:
            self._say(f"WRONG: {problem}", fg="red")
        if problems:
            self._say(self._log_tail())
        return 1 if problems else 0

    # -- while it happens -------------------------------------------------------------------------------------------

    def _await_start(self, daemon: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + START_S
        while holder(self._folder / STATE) is None:
            if daemon.poll() is not None:
                raise EngineError(f"The daemon ended at once (exit code {daemon.returncode}).\n{self._log_tail()}")
            if time.monotonic() > until:
                raise EngineError(f"The daemon has not started within {START_S:g} s.\n{self._log_tail()}")
            time.sleep(LOOK_EVERY_S)

    def _watch(self, daemon: subprocess.Popen[bytes]) -> None:
        """Tell what happens at both ends until every file is where it ought to be, or time is up."""
        until = math.inf
        while time.monotonic() < until and daemon.poll() is None:
            time.sleep(LOOK_EVERY_S)
            busy = self._instrument.busy
            while not self._told.empty():
                event = self._told.get()
                self._tell("instrument", event.file.name, event.words, dim=True)
            files, runs = self._ledger()
            self._tell_states(files, runs)
            if busy:
                continue
            until = min(until, time.monotonic() + FINISH_S)
            if self._all_done(files, runs):
                return

    def _tell_states(self, files: dict[str, FileRecord], runs: dict[str, RunRecord]) -> None:
        for file, record in files.items():
            state = record.state
            if self._seen.get(file) == state:
                continue
            # What it means for a file to wait or to grow is said once, not of every file.
            words = state if state in self._explained else f"{state}: {record.reason}"
            run = runs.get(file)
            if run is not None and run.facts.completeness.complete is False:
                words += f" Incomplete: {run.facts.completeness.rule}."
            self._seen[file] = state
            if state in _PASSING:
                self._explained.add(state)
            self._tell("daemon", file, words, fg=_COLOURS.get(state, "yellow"))

    def _all_done(self, files: dict[str, FileRecord], runs: dict[str, RunRecord]) -> bool:
        wanted = {file: one.state for file, one in self._wanted().items()}
        if {file: record.state for file, record in files.items()} != wanted:
            return False
        last = max([0.0, *(max(run.staged_at, run.segmented_at or 0.0) for run in runs.values())])
        try:
            return (self._folder / STAGE / "_manifest/manifest.parquet").stat().st_mtime >= last
        except FileNotFoundError:
            return False

    def _ledger(self) -> tuple[dict[str, FileRecord], dict[str, RunRecord]]:
        catalog = Catalog.open_to_read(self._folder / STATE / FILE_NAME)
        if catalog is None:
            return {}, {}
        try:
            files = {shown_path(record.path): record for record in catalog.files()}
            return files, {shown_path(run.source): run for run in catalog.runs()}
        finally:
            catalog.close()

    def _wanted(self) -> dict[str, Expected]:
        """Pair the files that the instrument has made with what is expected of them."""
        by_measurement = {id(one.measurement): one for one in self._expected}
        raw = self._folder / RAW
        return {
            path.relative_to(raw).as_posix(): by_measurement[id(measurement)]
            for path, measurement in sorted(self._instrument.files.items())
        }

    # -- afterwards -------------------------------------------------------------------------------------------------

    def _conclude(self) -> list[str]:
        """Show the results, and give what is wrong with them."""
        files, runs = self._ledger()
        problems = [] if len(self._wanted()) == len(self._expected) else ["Not everything was measured."]
        line = "{:28} {:10} {:>9}  {:9} {:>8}"
        self._say(line.format("file", "state", "rows", "complete", "segments"), bold=True)
        for file, wanted in self._wanted().items():
            record, run = files.get(file), runs.get(file)
            state = record.state if record else "unknown"
            cells = ["", "", ""]
            complete = None
            if run is not None:
                complete = run.facts.completeness.complete
                of = run.facts.completeness.expected_rows
                rows = f"{run.facts.rows}/{of}" if of else f"{run.facts.rows}"
                cells = [rows, "yes" if complete else "NO", str(len(run.segment_files)) if run.facts.is_cut else "-"]
            self._say(line.format(Path(file).name, state, *cells))
            found = (state, complete, len(run.segment_files) if run else 0)
            if found != (wanted.state, wanted.complete, wanted.segments):
                problems.append(f"{file}: {found}, expected {(wanted.state, wanted.complete, wanted.segments)}.")
        problems += self._read_back(runs)
        self._say_where()
        return problems

    def _read_back(self, runs: dict[str, RunRecord]) -> list[str]:
        """Compare every published value with what the instrument wrote, and print one run and its segments."""
        import polars as pl

        problems: list[str] = []
        shown = False
        for file, wanted in self._wanted().items():
            run, measured = runs.get(file), wanted.measurement
            if run is None:
                continue
            frame = pl.read_parquet(self._folder / STAGE / run.stage_file.path, hive_partitioning=False)
            written = pl.DataFrame(measured.written, schema=dict.fromkeys(measured.columns, pl.Float64), orient="row")
            if not frame.select(measured.columns).equals(written):
                problems.append(f"{file}: the staged values are not those that were measured.")
            if not run.segment_files:
                continue
            paths = [self._folder / OUTPUT / one.path for one in run.segment_files]
            cut = pl.concat([pl.read_parquet(path, hive_partitioning=False) for path in paths])
            if cut.height + (run.rows_outside or 0) != frame.height or run.rows_outside is None:
                problems.append(f"{file}: its segments hold {cut.height} of {frame.height} rows.")
            if not shown and wanted.complete:
                shown = True
                by = ["segment_id", "segment_type", "segment_v_start", "segment_v_end"]
                self._say(f"\n{file}, as staged and cut into segments:")
                # Both fit into a terminal of 80 columns.
                with pl.Config(tbl_rows=6, tbl_hide_column_data_types=True, tbl_width_chars=110):
                    self._say(str(frame.select(*measured.columns[:2], "proc", "run_id", "chip_number")))
                    self._say(str(cut.group_by(by, maintain_order=True).len("rows")))
        return problems

    def _say_where(self) -> None:
        if not self._kept:
            self._say("\nKeep the lab to look around in it: nanolab-daemon demo --keep ./demo-lab")
            return
        name = os.path.relpath(self._folder)
        rejected = next((f for f, one in self._wanted().items() if one.state is FileState.REJECTED), "FILE")
        self._say("\nWhere things lie:", bold=True)
        for what, where in (("raw files", RAW), ("runs", STAGE), ("segments", OUTPUT), ("the daemon's log", LOG)):
            self._say(f"  {what:17} {name}/{where}")
        self._say("What to try next:", bold=True)
        complete = next((f for f, one in self._wanted().items() if one.complete), "FILE")
        for words in ("status", f"show {complete}", f"why {rejected}", "rejects", "verify", "run"):
            command, _, rest = words.partition(" ")
            self._say(f"  nanolab-daemon {command} --config {name}/config.toml {rest}".rstrip())

    # -- words ------------------------------------------------------------------------------------------------------

    def _tell(self, who: str, file: str, words: str, *, fg: str | None = None, dim: bool = False) -> None:
        at = time.monotonic() - self._began
        self._say(f"{at:5.1f} s  {who:10}  {Path(file).name:22}  {words}", fg=fg, dim=dim)

    def _say(self, text: str, *, fg: str | None = None, dim: bool = False, bold: bool = False) -> None:
        styled = click.style(text, fg=fg, dim=dim or None, bold=bold or None) if self._colours else text
        click.echo(styled)

    def _log_tail(self) -> str:
        text = (self._folder / LOG).read_text(encoding="utf-8", errors="backslashreplace")
        return "\n".join(["The end of the daemon's log:", *text.splitlines()[-20:]])


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Have SIGTERM, and a terminal that is closed, clean up as Ctrl-C does."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
