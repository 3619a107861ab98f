"""Frozen data that the parts hand to each other, and the words for states. No behaviour, no disk, no clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from nanolab_daemon.errors import RejectCause


class FileState(StrEnum):
    """What the ledger says of a raw file."""

    QUEUED = "queued"  # header, no metadata, no rows: the measurement waits in the instrument's queue
    STARTED = "started"  # metadata, no rows: connecting, burn-in
    MEASURING = "measuring"  # rows, growing
    STAGED = "staged"  # its run is published; final where the procedure has no segments
    SEGMENTED = "segmented"
    REJECTED = "rejected"
    DUPLICATE = "duplicate"  # the same bytes as another raw file, whose run is published
    SUPERSEDED = "superseded"  # the same run as another raw file that holds more rows
    WAITING = "waiting"  # locked or unreadable for now


WAITING_WORDS = {
    FileState.QUEUED: "It has a header but no start time and no rows: the measurement is still in the queue.",
    FileState.STARTED: "It has started but has no rows yet: the instrument connects, ramps or burns in.",
}
"""The reasons for the two states of a file without rows."""


class DateOrigin(StrEnum):
    """Where the date of a run comes from."""

    META = "meta"
    PATH = "path"
    MTIME = "mtime"


class SegmentKind(StrEnum):
    """What the segments of a procedure are; the registry says which."""

    SWEEP = "sweep"  # legs of a sweep: one direction, one side of zero
    LIGHT = "light"  # phases of one laser voltage, dark and lit
    PLATEAU = "plateau"  # phases of one gate voltage
    WAVELENGTH = "wavelength"  # phases of one wavelength, dark where it is 0


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows `start` (included) to `stop` (excluded) of a run, and what they are.

    `v_start` and `v_end` are in the unit of the column along which the run is cut.
    """

    start: int
    stop: int
    label: str  # forward_negative, return_positive …, dark_1, light_1 …, plateau_1 …
    direction: str  # increasing, decreasing; constant for phases
    v_start: float
    v_end: float


class Fingerprint(NamedTuple):
    """What stat(2) tells of a file's content; equal fingerprints mean that it need not be opened again.

    A tuple, since a scan makes and compares two for each file there is.
    """

    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class Header:
    """The head of an instrument file, decoded; `text` is all of it as written, without a byte order mark.

    `parameters` and `metadata` keep the file's order; values have their unicode escapes decoded and are not stripped
    of trailing blanks. `data_offset` is the byte at which the first row begins; `data_line` its line, from 1.
    """

    procedure: str
    procedure_path: str
    parameters: Mapping[str, str]
    metadata: Mapping[str, str]
    has_metadata: bool
    columns: tuple[str, ...]
    data_offset: int
    data_line: int
    text: str
    encoding: str
    unread: tuple[str, ...] = ()  # lines of the header that are not understood
    repeated: tuple[str, ...] = ()  # names that stand more than once in their section, once each; the last counts


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the header says of the end of the measurement.

    `rows` holds every row count that a legal layout of this procedure gives (empty: rows tell nothing);
    `end_s` the time that the last row reaches (None: time tells nothing); `rule` names the reasoning in words.
    """

    rows: tuple[int, ...] = ()
    end_s: float | None = None
    rule: str = ""


BEYOND_END = "beyond the end"
"""In the rule of a time series that goes on after its header's end: then the header, or our rule, is wrong."""


@dataclass(frozen=True, slots=True)
class Completeness:
    """Whether the rows are all that the header prescribes. `complete` is None where nothing can be known."""

    complete: bool | None
    expected_rows: int | None = None
    expected_end_s: float | None = None
    rule: str = ""


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One published Parquet file; `path` is relative to its root, with `/` separators."""

    path: str
    size_bytes: int
    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class RunFacts:
    """All that the manifest tells of a run, read from its raw file."""

    run_id: str
    proc: str
    start_us: int  # µs since 1970, UTC
    date: str  # YYYY-MM-DD in the lab's time zone
    date_origin: DateOrigin
    rows: int
    completeness: Completeness
    segment_kind: SegmentKind | None  # of its second stage; None: it has none
    chip_group: str | None
    chip_number: int | None
    sample: str | None
    procedure_version: str | None
    with_light: bool
    wavelength_nm: float | None
    laser_voltage_V: float | None  # noqa: N815 -- V is volt
    parameters: Mapping[str, float] = field(default_factory=dict)  # manifest columns such as vg_start_V
    bad_rows_skipped: int = 0
    flags: tuple[str, ...] | None = ()  # of `quality`, but for the one that the file's name decides; None: not known

    @property
    def is_cut(self) -> bool:
        """Whether the run has a second stage."""
        return self.segment_kind is not None


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a file was refused, in words; `line` from 1 over the whole file, `text` the offending line."""

    cause: RejectCause
    reason: str
    line: int | None = None
    text: str | None = None
    advice: str = ""
