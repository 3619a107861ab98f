"""What the engine asks of its workers and what they answer: frozen data that travels between processes."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

from nanolab_daemon.model import FileState, Fingerprint, OutputFile, Rejection, RunFacts
from nanolab_daemon.names import shown_path


@dataclass(frozen=True, slots=True)
class WorkSettings:
    """All that a worker needs to know of the configuration. Paths are absolute."""

    raw_root: str
    stage_root: str
    output_root: str
    owner: str  # the ledger's name: workers make bundles in this engine's temporary folder
    timezone: str
    procedures: Mapping[str, object]  # the [procedures] section, over the built-in registry
    min_segment_points: int
    max_file_bytes: int
    max_header_bytes: int
    max_columns: int
    quarantined: frozenset[str] = frozenset()  # contents (SHA-256) that have cost workers their lives
    lab: str = ""  # its name among several that share their output folders
    aside: bool = False  # leave bundles where they were made: a worker far away may be heard of no more, and go on


_READING = struct.Struct("<4q32s")


@dataclass(frozen=True, slots=True)
class Reading:
    """The bytes that a worker has read of a file: noted before they are parsed, should it not survive that."""

    fingerprint: Fingerprint
    sha256: str

    def pack(self) -> bytes:
        """Write it as a worker's note."""
        return _READING.pack(*self.fingerprint, bytes.fromhex(self.sha256))

    @classmethod
    def unpack(cls, note: bytes) -> Self | None:
        """Read a worker's note; None if there is none: the worker has not come to the end of the file."""
        if len(note) != _READING.size:
            return None
        *mark, digest = _READING.unpack(note)
        return cls(Fingerprint._make(mark), digest.hex())


class Began(Protocol):
    """What a worker says when it begins an item, and again with a note on what that is."""

    def __call__(self, index: int, note: bytes = b"", /) -> None:
        """Say that item `index` of the batch is at work."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which measurements a command is about; dates are those of the lab's time zone, both included."""

    procedures: frozenset[str] = frozenset()
    since: str | None = None
    until: str | None = None

    def __bool__(self) -> bool:
        return bool(self.procedures or self.since or self.until)

    def takes(self, proc: str, date: str) -> bool:
        """Tell whether a run of this procedure and date is selected."""
        return (
            (not self.procedures or proc in self.procedures)
            and (self.since is None or date >= self.since)
            and (self.until is None or date <= self.until)
        )


@dataclass(frozen=True, slots=True)
class StageJob:
    """Read one raw file and make its run. `path` is relative to raw, as bytes."""

    path: bytes
    size_bytes: int = 0  # as last seen: how much work it may be
    expected: Fingerprint | None = None  # if the file is another one by now, it is not judged: it may be half written
    known_sha256: str | None = None  # content that needs no work when met again; None: always work
    force: bool = False  # publish the run again though nothing has changed
    skip_bad_rows: bool = False  # stage the good rows of this file
    skip_bad_rows_of: str | None = None  # as that, if these (SHA-256) are still its bytes
    dry: bool = False  # read and judge, write nothing
    live: bool = False
    selection: Selection = field(default_factory=Selection)


@dataclass(frozen=True, slots=True)
class Staged:
    """The file holds a run. `bundle` is where it waits if it is not at `target` yet."""

    fingerprint: Fingerprint
    sha256: str
    facts: RunFacts
    output: OutputFile
    target: str  # folder of the run, relative to the stage root
    bundle: str | None
    adopted: bool = False  # the very file that was to be published lay there already
    skipped: bool = False  # bad rows were allowed to be left out
    remarks: tuple[str, ...] = ()  # things to be said once per procedure, such as an unknown column
    terms: str = ""  # on which it was judged


@dataclass(frozen=True, slots=True)
class NoRows:
    """A header without rows: the measurement is queued or has just started."""

    fingerprint: Fingerprint
    sha256: str
    state: FileState
    proc: str
    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The file can't be used as it stands."""

    fingerprint: Fingerprint
    sha256: str | None
    rejection: Rejection
    proc: str | None = None
    terms: str = ""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """The file holds the bytes of one that is quarantined: they were not parsed."""

    fingerprint: Fingerprint
    sha256: str


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The file holds the bytes that are known already."""

    fingerprint: Fingerprint
    sha256: str


@dataclass(frozen=True, slots=True)
class Changing:
    """The file changed while it was read, and what was read makes no sense: it may be torn at this moment."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The file can't be opened or read for now. `machine` tells that not the file but the machine is to blame."""

    reason: str
    errno: int
    machine: bool = False


@dataclass(frozen=True, slots=True)
class Gone:
    """There is no such file any more."""


@dataclass(frozen=True, slots=True)
class Unselected:
    """The command is not about this file."""

    proc: str
    date: str


def words_of(error: OSError, root: Path) -> str:
    """Give what the machine has refused; with the folder below `root` in which it was, whatever file was to be there.

    Of what is made aside the program's own name for it would tell nobody anything.
    """
    words = os.strerror(error.errno) if error.errno else str(error)  # libraries put more around it
    try:
        below = Path(os.fsdecode(error.filename or b"")).relative_to(root).parts
    except ValueError:
        return words
    folders = [part for part in below if "=" in part]
    if not folders or below[0].startswith("."):
        return words
    return f"{words} ({shown_path(os.fsencode(Path(*below[: below.index(folders[-1]) + 1])))})"


@dataclass(frozen=True, slots=True)
class CannotWrite:
    """The machine refused a write: full disk, quota, missing rights. Nobody's file is to blame."""

    root: str  # the folder of ours in which it was
    reason: str
    errno: int

    @classmethod
    def of(cls, error: OSError, root: Path) -> Self:
        """Tell what the machine has refused, and where, if that is further down."""
        return cls(str(root), words_of(error, root), error.errno or 0)


StageOutcome = (
    Staged | NoRows | Refused | Quarantined | Unchanged | Changing | Unreadable | Gone | Unselected | CannotWrite
)


@dataclass(frozen=True, slots=True)
class SegmentJob:
    """Cut one staged run into its segments."""

    run_id: str
    stage_path: str  # of the staged file, relative to the stage root
    target: str  # folder of the run's segments, relative to the output root
    live: bool = False
    source_sha256: str = ""  # of the raw file that the staged one is to be made from; empty: any


@dataclass(frozen=True, slots=True)
class Segmented:
    """The run's segments; `bundle` is where they wait if older ones are published (None: in place, or none)."""

    run_id: str
    source_sha256: str
    outputs: tuple[OutputFile, ...]
    rows_outside: int
    bundle: str | None


@dataclass(frozen=True, slots=True)
class StagedFileLost:
    """The staged file is missing or damaged: it must be made again from the raw file."""

    run_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class ManifestJob:
    """Rebuild the manifest from the ledger."""

    ledger: str
    serial: int


@dataclass(frozen=True, slots=True)
class ManifestWritten:
    """The manifest stands as the ledger was when the job began."""

    serial: int
    runs: int


@dataclass(frozen=True, slots=True)
class InspectJob:
    """Look whether the published files of the runs after one are there, in the order of ids, for so long at most."""

    ledger: str
    limit_s: float
    after: str = ""  # a run id; empty: from the first one on
    origin: str = ""  # where the round began: after the last run it goes on with the first, until it is here again
    folders: bool = False  # look first, however long it takes, whether the folders of all runs are there


@dataclass(frozen=True, slots=True)
class Inspected:
    """At how many runs was looked, and which lack something. `after`: where to go on; None: there is no more."""

    after: str | None
    runs: int
    lacking: tuple[str, ...]


HouseJob = ManifestJob | InspectJob
"""What is done for no single run, beside the second stage's work. It reads the ledger."""

SegmentOutcome = Segmented | StagedFileLost | CannotWrite | ManifestWritten | Inspected
