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

import pyarrow as pa
from pyarrow import csv

from nanolab_daemon.errors import FileRejectedError, RejectCause

# Possessive: no part is ever tried twice, however long a line of digits is.
_NUMBER = rb"[ \t]*+[+-]?(?:(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?|nan|inf(?:inity)?)[ \t]*+"
_WIDEST_PATTERN = 64  # one pattern for a whole row is quick; for thousands of columns, making it is not
_SHOWN = 120
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
        columns = _parse(_plain(body), width)
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
