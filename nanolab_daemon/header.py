"""The head of an instrument file, bytes to `Header`, as PyMeasure's `Results` writes it and as older versions did.

Refuses what is no instrument file, and guesses nothing: a line that it does not understand stands in `Header.unread`.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from nanolab_daemon.errors import FileRejectedError, HeaderIncompleteError, RejectCause
from nanolab_daemon.model import Header

MAX_HEADER_BYTES = 1 << 20
PLAIN_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")

_OPENING = b"#Procedure:"
_DATA_LINE = re.compile(rb"\n#Data:[ \t]*\r?\n")
_PROCEDURE_LINE = re.compile(r"#Procedure:[ \t]*<(.*)>[ \t]*")
_UNCOMMENTED_LINE = re.compile(rb"\n[^#\r\n][^\n]*\n")
_SHOWN_CHARS = 120
_KEPT_CHARS = 40

# Exactly what str.encode("unicode_escape") can produce. Octal, \a or \N{...} never come from there, so they are text.
_ESCAPE = re.compile(r"\\(?:(\\)|([nrt])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))")
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t"}

# Possessive: no part of a number is ever tried twice, however long a line of digits is.
_QUANTITY = re.compile(
    r"\s*([+-]?(?:(?:[0-9]++\.?[0-9]*+|\.[0-9]++)(?:[eE][+-]?[0-9]+)?|nan|inf))(?:\s+([^\s0-9.+-]\S*)|(?<=[0-9.])([^\W\d_]\S*))?\s*"
)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A header value read as a number with a unit; `value` is None where the text is no number (`None`, `DP + 1`)."""

    value: float | None
    unit: str | None
    text: str


def parse_header(raw: bytes, *, max_bytes: int = MAX_HEADER_BYTES) -> Header:
    """Read the head of a file; `raw` is its beginning, or all of it.

    Raises `HeaderIncompleteError` while the column labels are not there yet, `FileRejectedError` where no more bytes
    could make it an instrument file.
    """
    start = len(codecs.BOM_UTF8) if raw.startswith(codecs.BOM_UTF8) else 0
    _check_opening(raw, start)
    data = _DATA_LINE.search(raw, start, max_bytes)
    labels_end = raw.find(b"\n", data.end(), max_bytes) if data else -1
    if data is None or labels_end < 0:
        raise _unfinished(raw, start, max_bytes, has_data_line=data is not None)
    offset = labels_end + 1
    nul = raw.find(b"\0", start, offset)
    if nul >= 0:
        raise _nul_bytes(raw, nul)
    text, encoding = _decode(raw[start:offset])
    lines = text.replace("\r\n", "\n").split("\n")
    path, procedure = _procedure(lines[0])
    # The last three lines: #Data:, the labels, and what split() leaves after the newline.
    parameters: dict[str, str] = {}
    metadata: dict[str, str] = {}
    unread: list[str] = []
    repeated: dict[str, None] = {}  # an ordered set
    has_metadata = _sections(lines[1:-3], parameters, metadata, unread, repeated)
    data_line = raw.count(b"\n", 0, offset) + 1
    return Header(
        procedure=procedure,
        procedure_path=path,
        parameters=parameters,
        metadata=metadata,
        has_metadata=has_metadata,
        columns=_columns(lines[-2], data_line - 1),
        data_offset=offset,
        data_line=data_line,
        text=text,
        encoding=encoding,
        unread=tuple(unread),
        repeated=tuple(repeated),
    )


def unescape(value: str) -> str:
    r"""Undo `unicode_escape` as PyMeasure applies it to header values; what is no such escape stays as written.

    A surrogate (`\ud800`) stays as written too: it is no character, and neither UTF-8 nor Parquet can hold it.
    """
    return _ESCAPE.sub(_character, value)


def quantity(text: str) -> Quantity:
    """Read `2.11 V`, `455`, `1e-06 V`, `nan`; a text that is no number, or holds more than that, has value None."""
    return _kept_quantity(text) if len(text) <= _KEPT_CHARS else _quantity(text)


def _quantity(text: str) -> Quantity:
    match = _QUANTITY.fullmatch(text)
    if match is None:
        return Quantity(None, None, text)
    return Quantity(float(match[1]), match[2] or match[3], text)


_kept_quantity = lru_cache(maxsize=2048)(_quantity)  # the same few texts stand in thousands of headers


def shortened(text: str) -> str:
    """Make a line fit to be shown in a message."""
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"


def _check_opening(raw: bytes, start: int) -> None:
    """Raise unless the file begins as every file of PyMeasure does."""
    if raw.startswith(_OPENING, start):
        return
    head = raw[start : start + len(_OPENING)]
    if _OPENING.startswith(head) or codecs.BOM_UTF8.startswith(raw):
        raise HeaderIncompleteError("The file ends before its header: it is empty or is being written.")
    shown = shortened(raw[:200].split(b"\n", 1)[0].decode("latin-1").rstrip("\r"))
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or head[:6] in (b"#\0P\0r\0", b"\0#\0P\0r"):
        raise FileRejectedError(
            RejectCause.ENCODING,
            "The file is UTF-16 text; instrument files are UTF-8 or Windows-1252.",
            line=1,
            text=shown,
            advice="Save it as UTF-8, or copy the original again.",
        )
    if not head.strip(b"\0"):
        raise _nul_bytes(raw, start)
    if b"\0" in raw[:1024]:
        message = "The file is binary, not an instrument's CSV."
    else:
        message = "The first line is not '#Procedure: <...>': this is no file of the instrument program."
    raise FileRejectedError(RejectCause.NOT_INSTRUMENT_FILE, message, line=1, text=shown)


def _unfinished(
    raw: bytes, start: int, max_bytes: int, *, has_data_line: bool
) -> FileRejectedError | HeaderIncompleteError:
    """Say why the label line was not found: not written yet, damaged, or too far away."""
    nul = raw.find(b"\0", start, max_bytes)
    if nul >= 0:
        return _nul_bytes(raw, nul)
    first_end = raw.find(b"\n", start, max_bytes)
    if first_end >= 0:
        try:
            _procedure(_decode(raw[start:first_end])[0].rstrip("\r"))
        except FileRejectedError as error:
            return error
        # Before escapes came, a value could hold a line end, so an uncommented line matters only where #Data: lacks.
        stray = None if has_data_line else _UNCOMMENTED_LINE.search(raw, first_end, max_bytes)
        if stray:
            return FileRejectedError(
                RejectCause.BAD_HEADER,
                "The header has no '#Data:' line before its first line without '#'.",
                line=raw.count(b"\n", 0, stray.start() + 1) + 1,
                text=shortened(stray[0].strip().decode("utf-8", "replace")),
            )
    if len(raw) >= max_bytes:
        return FileRejectedError(
            RejectCause.TOO_LARGE,
            f"The header goes on past {max_bytes:,} bytes without a line of column labels.",
            advice="If it is a measurement, raise limits.max_header_kb in the configuration, and retry it.",
        )
    return HeaderIncompleteError("The file ends before its column labels: its header is being written, or was cut.")


def _nul_bytes(raw: bytes, position: int) -> FileRejectedError:
    return FileRejectedError(
        RejectCause.NUL_BYTES,
        f"NUL bytes from byte {position} on, in the header: a write or a copy of this file was interrupted.",
        line=raw.count(b"\n", 0, position) + 1,
        advice="Copy the original again.",
    )


def _decode(raw: bytes) -> tuple[str, str]:
    """Decode as UTF-8, else as Windows-1252, the locale in which PyMeasure 0.10 to 0.14 wrote."""
    try:
        return raw.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        pass
    try:
        return raw.decode("cp1252"), "cp1252"
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise FileRejectedError(
            RejectCause.ENCODING,
            f"The header is neither UTF-8 nor Windows-1252 text: byte 0x{raw[error.start]:02x}.",
            line=line,
            text=shortened(raw.split(b"\n", line)[line - 1].decode("latin-1").rstrip("\r")),
        ) from None


def _procedure(line: str) -> tuple[str, str]:
    """Return the dotted path and the class name; the name becomes part of a path, so only a plain word will do."""
    match = _PROCEDURE_LINE.fullmatch(line)
    if match is None:
        raise FileRejectedError(
            RejectCause.NOT_INSTRUMENT_FILE,
            "The first line is not '#Procedure: <...>': this is no file of the instrument program.",
            line=1,
            text=shortened(line),
        )
    name = match[1].rpartition(".")[2]
    if not PLAIN_WORD.fullmatch(name):
        raise FileRejectedError(
            RejectCause.BAD_PROCEDURE_NAME,
            f"The procedure name {shortened(name)!r} is no plain word of at most 64 letters, digits and underscores.",
            line=1,
            text=shortened(line),
        )
    return match[1], name


def _sections(
    lines: list[str],
    parameters: dict[str, str],
    metadata: dict[str, str],
    unread: list[str],
    repeated: dict[str, None],
) -> bool:
    """Fill parameters, metadata, lines not understood and names given twice; tell whether metadata was there."""
    has_metadata = False
    section: dict[str, str] | None = parameters
    for line in lines:
        if line == "#Parameters:":
            section = parameters
            continue
        if line == "#Metadata:":
            section, has_metadata = metadata, True
            continue
        name, value = _entry(line)
        if section is not None and name:
            if name in section:  # the last one counts, as it does for PyMeasure; `text` keeps both
                repeated[name] = None
            section[name] = unescape(value) if "\\" in value else value
            continue
        unread.append(line)
        if line.startswith("#") and not line.startswith("#\t") and line.endswith(":"):
            section = None  # a section that is not known
    return has_metadata


def _entry(line: str) -> tuple[str, str]:
    r"""Return name and value of a line such as `#\tVDS: 0.1 V`; without a name it is none."""
    if not line.startswith("#\t"):
        return "", ""
    name, separator, value = line[2:].partition(": ")
    if not separator:  # an editor cut the blank after an empty value
        name = name[:-1] if name.endswith(":") else ""
    return name, value


def _columns(labels: str, line: int) -> tuple[str, ...]:
    if not labels.strip():
        return ()  # a procedure without data, such as a wait
    columns = tuple(labels.split(","))
    if len(set(columns)) < len(columns) or not all(map(str.strip, columns)):
        times = Counter(columns)
        twice = next((name for name in columns if name.strip() and times[name] > 1), None)
        message = f"The column {shortened(twice)!r} stands twice." if twice else "A column has no name."
        raise FileRejectedError(RejectCause.BAD_COLUMNS, message, line=line, text=shortened(labels))
    return columns


def _character(match: re.Match[str]) -> str:
    backslash, control, *codes = match.groups()
    if backslash:
        return "\\"
    if control:
        return _CONTROLS[control]
    code = int(next(filter(None, codes)), 16)
    is_character = code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF
    return chr(code) if is_character else match[0]
