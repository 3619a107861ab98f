"""The rows of an instrument file → columns of exact numbers, or the line that can't be one.

Every value is the double nearest to its decimal text (PyArrow's parser rounds correctly); what isn't a number in
every field is a bad row, whole. Never guesses, never pads.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
from pyarrow import csv

from nanolab_daemon.errors import FileRejectedError, RejectCause

# Possessive: no part is ever tried twice, however long a line of digits is.
_NUMBER = rb"[ \t]*+[+-]?(?:(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?|nan|inf(?:inity)?)[ \t]*+"
_WIDEST_PATTERN = 64  # one pattern for a whole row is quick; for thousands of columns, making it is not
_SHOWN = 120
_QUICK_BYTES = 1 << 21  # what is longer is left to Arrow's own reader, which takes less memory
_EVERY_OTHER = pa.array(np.arange(0, _QUICK_BYTES // 8, 2, dtype=np.int32))
_COMMA, _LF, _CR = b",\n\r"
_MOST_COMMENTS = 1 << 20  # bytes of lines beginning with # between the rows: they are kept with the run


@dataclass(frozen=True, slots=True)
class Rows:
    """Columns in the file's order, Float64, all of one length; and what of the file is not in them."""

    columns: tuple[pa.Array, ...]
    count: int
    bad_rows_skipped: int = 0
    first_bad: tuple[int, str] | None = None  # line and text
    comments: tuple[tuple[int, str], ...] = ()  # lines beginning with # between the rows, e.g. a second header


def read_rows(body: bytes, width: int, first_line: int, *, skip_bad: bool = False) -> Rows:
    """Read whole lines of `width` numbers; `first_line` is the number of the first one, for messages.

    Raises FileRejectedError (BAD_ROWS, NUL_BYTES) that names line and text, unless `skip_bad`; BAD_COLUMNS where
    there are rows but no columns.
    """
    comments: tuple[tuple[int, str], ...] = ()
    if not width and body.strip():
        line = first_line + body[: len(body) - len(body.lstrip())].count(b"\n")
        shown = _shown(body.strip().partition(b"\n")[0].rstrip())
        message = "The line of column labels is empty, so no column has a name, but rows follow."
        raise FileRejectedError(RejectCause.BAD_COLUMNS, message, line=line, text=shown)
    if body.startswith(b"#") or b"\n#" in body:
        body, comments = _without_comments(body, first_line)
    try:
        columns = _quickly(_plain(body), width) or _parse(body, width)
    except pa.ArrowInvalid as error:
        return _read_slowly(body, width, first_line, comments, skip_bad, str(error))
    return Rows(columns, len(columns[0]) if columns else 0, comments=comments)


def _plain(body: bytes) -> bytes:
    """Pass on rows that the quick reader understands as the slow one does; raise ArrowInvalid for others.

    It would end a line at a lone CR, skip a byte order mark, take `nan(1)` for a number and text after a NUL as well.
    """
    if b"\0" in body or b"(" in body or body.startswith(codecs.BOM_UTF8) or body.count(b"\r") != body.count(b"\r\n"):
        raise pa.ArrowInvalid("unusual bytes")
    return body


def _quickly(body: bytes, width: int) -> tuple[pa.Array, ...] | None:
    """Read rows of nothing but numbers, commas and line ends of one kind; None where there is anything else.

    Arrow's CSV reader starts a thread a call, and costs twice as much as this for a file of some hundred rows. The
    text of a number becomes one by the same function in both.
    """
    if not width or not 0 < len(body) <= _QUICK_BYTES:
        return None
    text = np.frombuffer(body, np.uint8)
    end = _CR if b"\r" in body else _LF
    ends = np.flatnonzero((text == _COMMA) | (text == end))
    fields = len(ends)
    if not fields or fields % width or fields > len(_EVERY_OTHER) or text[-1] != _LF:
        return None
    if ends[-1] != len(body) - (2 if end == _CR else 1):
        return None  # a last line ends by LF alone where those before it end by CRLF
    found = text[ends].reshape(-1, width)
    if not (found[:, -1] == end).all() or not (found[:, :-1] == _COMMA).all():
        return None
    # As one array of strings, by turns a field and what ends it; with CRLF a line's first field comes after both.
    cuts = np.empty(2 * fields + 1, np.int32)
    cuts[0], cuts[1::2], cuts[2::2] = 0, ends, ends + 1
    if end == _CR:
        cuts[2 * width :: 2 * width] += 1
    pieces = pa.StringArray.from_buffers(2 * fields, pa.py_buffer(cuts), pa.py_buffer(body))
    try:
        values = pieces.take(_EVERY_OTHER.slice(0, fields)).cast(pa.float64())
    except pa.ArrowInvalid:
        return None
    columns = values.to_numpy().reshape(-1, width).T.copy()
    return tuple(map(pa.array, columns))


def _parse(body: bytes, width: int) -> tuple[pa.Array, ...]:
    if not body or body.isspace():
        return tuple(pa.array([], pa.float64()) for _ in range(width))
    read, parse, convert = _options(width)
    read.block_size = len(body) + 1  # one block, so one chunk a column
    table = csv.read_csv(pa.BufferReader(body), read_options=read, parse_options=parse, convert_options=convert)
    return tuple(column.combine_chunks() if column.num_chunks != 1 else column.chunk(0) for column in table.columns)


@lru_cache(maxsize=64)
def _options(width: int) -> tuple[csv.ReadOptions, csv.ParseOptions, csv.ConvertOptions]:
    names = [str(n) for n in range(width)]
    return (
        csv.ReadOptions(use_threads=False, column_names=names),
        csv.ParseOptions(quote_char=False, ignore_empty_lines=True),
        csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.float64()), null_values=[], strings_can_be_null=False
        ),
    )


_is_number = re.compile(_NUMBER, re.IGNORECASE).fullmatch


@lru_cache(maxsize=64)
def _row_test(width: int) -> Callable[[bytes], object]:
    if width > _WIDEST_PATTERN:
        return lambda line: line.count(b",") == width - 1 and all(map(_is_number, line.rstrip(b"\r").split(b",")))
    return re.compile(_NUMBER + (rb"," + _NUMBER) * (width - 1) + rb"\r*+", re.IGNORECASE).fullmatch


def _read_slowly(
    body: bytes,
    width: int,
    first_line: int,
    comments: tuple[tuple[int, str], ...],
    skip_bad: bool,
    problem: str,
) -> Rows:
    """Find the bad rows one by one: only for files in which the quick reader met one."""
    good = bytearray()
    bad = 0
    first: tuple[int, str] | None = None
    fits = _row_test(width)
    commented = {line for line, _ in comments}
    number = first_line - 1
    for line in _lines(body):
        number += 1
        while number in commented:
            number += 1
        if fits(line):
            good += line
            good += b"\n"
        elif line.strip():
            text = line.rstrip(b"\r")
            if not skip_bad:
                raise _rejected(number, text, width)
            bad += 1
            first = first or (number, _shown(text))
    try:
        columns = _parse(bytes(good), width)
    except pa.ArrowInvalid as error:
        raise FileRejectedError(
            RejectCause.BAD_ROWS, f"The rows can't be read as numbers: {error} ({problem})", advice="Mend the file."
        ) from error
    return Rows(columns, len(columns[0]) if columns else 0, bad, first, comments)


def _lines(body: bytes) -> Iterator[bytes]:
    """Give the lines one after the other: as a list they would take many times the memory that the file does."""
    at = 0
    while (end := body.find(b"\n", at)) >= 0:
        yield body[at:end]
        at = end + 1
    yield body[at:]


def _rejected(line: int, text: bytes, width: int) -> FileRejectedError:
    if b"\0" in text:
        return FileRejectedError(
            RejectCause.NUL_BYTES,
            f"Line {line} holds NUL bytes: the file was not written to its end (a crash or a broken copy).",
            line=line,
            text=_shown(text),
            advice="Copy the file again from the instrument's PC; it is tried again when its bytes change.",
        )
    fields = text.count(b",") + 1
    if fields != width:
        what = f"has {fields:,} fields where the labels name {width:,}"
    else:
        wrong = next((f for f in text.split(b",") if not _is_number(f)), b"")
        what = f"holds {_shown(wrong)!r}, which is no number" if wrong.strip() else "has an empty field"
    return FileRejectedError(
        RejectCause.BAD_ROWS,
        f"Line {line} {what}.",
        line=line,
        text=_shown(text),
        advice="Mend the line, or stage the other rows with `nanolab-daemon retry --skip-bad-rows FILE`.",
    )


def _without_comments(body: bytes, first_line: int) -> tuple[bytes, tuple[tuple[int, str], ...]]:
    rows: list[memoryview] = []
    comments: list[tuple[int, str]] = []
    view = memoryview(body)
    taken, size, line, counted = 0, 0, first_line, 0
    at = 0 if body.startswith(b"#") else body.find(b"\n#") + 1
    while True:
        end = body.find(b"\n", at)
        text = body[at:] if end < 0 else body[at:end]
        line += body.count(b"\n", counted, at)
        counted = at
        size += len(text) + 1
        if size > _MOST_COMMENTS:
            raise FileRejectedError(
                RejectCause.BAD_ROWS,
                f"The lines beginning with # between the rows take more than {_MOST_COMMENTS:,} bytes.",
                line=line,
                text=_shown(text),
            )
        comments.append((line, text.rstrip(b"\r").decode("utf-8", "backslashreplace")))
        if at > taken:
            rows.append(view[taken:at])
        taken = len(body) if end < 0 else end + 1
        if end < 0:
            break
        at = taken if body.startswith(b"#", taken) else body.find(b"\n#", end) + 1
        if not at:
            break
    rows.append(view[taken:])
    return b"".join(rows), tuple(comments)


def _shown(text: bytes) -> str:
    cut = text[:_SHOWN].decode("utf-8", "backslashreplace")
    cut = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" if ord(c) < 256 else f"\\u{ord(c):04x}" for c in cut)
    return cut + ("…" if len(text) > _SHOWN else "")
