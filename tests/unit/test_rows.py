"""Rows: every value to the last bit, every bad line by its number and text, both readers of one mind."""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Sequence

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from realdata import real_files

from nanolab_daemon import rows as module
from nanolab_daemon.errors import FileRejectedError, RejectCause
from nanolab_daemon.header import parse_header
from nanolab_daemon.rows import Rows, read_rows

DOUBLES = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(min_value=-3e-308, max_value=3e-308, allow_subnormal=True),
    st.integers(0, 2**64 - 1).map(lambda n: struct.unpack("d", struct.pack("Q", n))[0]).filter(math.isfinite),
)
FORMATS = ("%r", "%.17g", "%g", "%.20g", "%.25e", "%.3f", "%E")
SCRAPS = st.text(st.sampled_from("01.+-eE naiftyINF()x_\t\"'#;\r\0\x0b\ufeffé"), max_size=9).map(str.encode)
TEXTS = st.one_of(
    st.builds(lambda value, form: form % value, DOUBLES, st.sampled_from(FORMATS)),
    st.sampled_from(
        ["nan", "NaN", "NAN", "-nan", "inf", "-inf", "Infinity", "-INFINITY", "+inf", "1.", ".5", "+1.5"]
    ),
    st.sampled_from(["0", "-0", "-0.0", "1e400", "-1e-400", "4.9e-324", "2.4703282292062328e-324", "007"]),
    st.from_regex(r"[+-]?[0-9]{1,40}(\.[0-9]{0,40})?([eE][+-]?[0-9]{1,3})?", fullmatch=True),
)
BLANKS = st.sampled_from(["", "", "", " ", "\t", "  "])
FIELDS = st.tuples(BLANKS, TEXTS, BLANKS)
ENDS = st.sampled_from(["\n", "\r\n"])
GOOD_LINE = b"0.25,-1e-9,nan"


@st.composite
def tables(draw: st.DrawFn) -> tuple[int, list[list[str]], bytes]:
    """Draw a width, the number texts of each row, and the bytes of a file body that holds them."""
    width = draw(st.integers(1, 4))
    drawn = draw(st.lists(st.tuples(st.lists(FIELDS, min_size=width, max_size=width), ENDS), max_size=12))
    lines = [",".join(a + text + b for a, text, b in fields) + end for fields, end in drawn]
    return width, [[text for _, text, _ in fields] for fields, _ in drawn], "".join(lines).encode()


def bits(value: float) -> bytes:
    return b"nan" if math.isnan(value) else struct.pack("d", value)


def values_of(found: Rows) -> list[list[bytes]]:
    columns = [[bits(value) for value in column.to_pylist()] for column in found.columns]
    return [list(row) for row in zip(*columns, strict=True)]


def meant_by(texts: Sequence[Sequence[str]]) -> list[list[bytes]]:
    return [[bits(float(text)) for text in row] for row in texts]


def read_slowly(body: bytes, width: int, first_line: int = 1, *, skip_bad: bool = False) -> Rows:
    return module._read_slowly(body, width, first_line, (), skip_bad, "")


def rejection(body: bytes, width: int = 3, first_line: int = 1) -> FileRejectedError:
    with pytest.raises(FileRejectedError) as caught:
        read_rows(body, width, first_line)
    return caught.value


@given(tables())
@example((1, [["nan"], ["NAN"]], b"nan\r\nNAN\n"))
@example((2, [["1", "2"], ["3", "4"]], b"1,2\r\n3,4\n"))
def test_every_value_to_the_last_bit(table: tuple[int, list[list[str]], bytes]) -> None:
    """However a number is written, the double nearest to its text is read: that of Python's float(), bit for bit."""
    width, texts, body = table
    found = read_rows(body, width, 1)
    assert values_of(found) == meant_by(texts)
    assert all(column.type == pa.float64() and column.null_count == 0 for column in found.columns)
    assert (len(found.columns), found.count, found.bad_rows_skipped) == (width, len(texts), 0)


@given(
    st.integers(1, 5).flatmap(lambda n: st.lists(st.lists(TEXTS, min_size=n, max_size=n), min_size=1, max_size=40)),
    ENDS,
)
def test_plain_rows_are_read_without_the_csv_reader(texts: list[list[str]], end: str) -> None:
    """Rows as the instruments write them take the short way, and keep every bit on it."""
    body = "".join(",".join(row) + end for row in texts).encode()
    columns = module._quickly(body, len(texts[0]))
    assert columns is not None
    assert values_of(Rows(columns, len(texts))) == meant_by(texts)
    assert all(column.type == pa.float64() and column.null_count == 0 for column in columns)


@pytest.mark.parametrize("last", [b"3\n", b"text\n", b"\0\0\n", b"3,4,5\n"])
def test_a_last_line_with_another_end_is_not_passed_over(last: bytes) -> None:
    """What follows rows that end by CRLF is judged as any other line, whatever it ends by."""
    assert rejection(b"1,2\r\n" + last, width=2).line == 2


@given(tables())
def test_slow_reader_finds_the_same(table: tuple[int, list[list[str]], bytes]) -> None:
    """The reader that looks at each line reads what the quick one does."""
    width, texts, body = table
    assert values_of(read_slowly(body, width)) == meant_by(texts)


@given(
    st.lists(
        st.text(st.sampled_from("01.+-eE naiftyINF()x_\t\"'#;\r\0\x0b\ufeffé"), max_size=9).map(str.encode),
        max_size=4,
    ),
    st.integers(1, 3),
)
@example([b"nan(1)"], 1)
@example([b"1\r2"], 1)
@example([b"1\r"], 1)
@example([b"\xef\xbb\xbf1"], 1)
@example([b"1\0"], 1)
@example([b"0x1p3"], 1)
@settings(max_examples=300)
def test_both_readers_agree_on_what_is_a_number(fields: list[bytes], width: int) -> None:
    """No spelling is a number for one of the readers and none for the other."""
    body = b",".join(fields) + b"\n"
    if body.startswith(b"#"):
        body = b" " + body

    def verdict(*, slow: bool) -> object:
        try:
            return values_of(read_slowly(body, width) if slow else read_rows(body, width, 1))
        except FileRejectedError as error:
            return error.cause, error.line, error.text

    assert verdict(slow=False) == verdict(slow=True)


@pytest.mark.parametrize(
    ("bad", "cause", "words"),
    [
        (b"1,2", RejectCause.BAD_ROWS, "2 fields where the labels name 3"),
        (b"1,2,3,4", RejectCause.BAD_ROWS, "4 fields where the labels name 3"),
        (b"1,2,3,", RejectCause.BAD_ROWS, "4 fields where the labels name 3"),
        (b"1,,3", RejectCause.BAD_ROWS, "empty field"),
        (b"1, ,3", RejectCause.BAD_ROWS, "empty field"),
        (b"1,OVERFLOW,3", RejectCause.BAD_ROWS, "'OVERFLOW', which is no number"),
        (b"1,2,3 V", RejectCause.BAD_ROWS, "'3 V', which is no number"),
        (b"1,\xb5,3", RejectCause.BAD_ROWS, "no number"),
        (b"1;2;3", RejectCause.BAD_ROWS, "1 fields"),
        (b"1,2,0x10", RejectCause.BAD_ROWS, "'0x10'"),
        (b"1,2,1_0", RejectCause.BAD_ROWS, "'1_0'"),
        (b"1,2,nan(7)", RejectCause.BAD_ROWS, "'nan(7)'"),
        (b"1,2\r3,4,5", RejectCause.BAD_ROWS, "4 fields"),
        (b"Vsd (V),I (A),Clock (ms)", RejectCause.BAD_ROWS, "no number"),
        (b"1,2\0,3", RejectCause.NUL_BYTES, "NUL"),
        (b"\0" * 64, RejectCause.NUL_BYTES, "NUL"),
    ],
)
@given(
    before=st.lists(st.sampled_from([GOOD_LINE, b"", b"#note", b"  "]), max_size=8),
    after=st.lists(st.sampled_from([GOOD_LINE, b"", b"#note", b"1,2", b"x"]), max_size=5),
    first_line=st.integers(1, 40),
    end=st.sampled_from([b"\n", b"\r\n"]),
)
@settings(max_examples=25)
def test_a_bad_row_is_named(
    bad: bytes, cause: RejectCause, words: str, before: list[bytes], after: list[bytes], first_line: int, end: bytes
) -> None:
    """The first line that is no row of numbers rejects the file; number in the file, text and reason are told."""
    error = rejection(b"".join(line + end for line in [*before, bad, *after]), 3, first_line)
    assert error.cause is cause
    assert error.line == first_line + len(before)
    assert f"Line {error.line} " in error.message
    assert words in error.message
    assert error.text is not None
    assert error.text.isprintable()
    if bad.decode("latin-1").isprintable() and bad.isascii():
        assert error.text == bad.decode()


@given(
    st.lists(st.sampled_from([GOOD_LINE, b"1,2,3", b"1,2", b"x,y,z", b"\0\0", b"#a", b"", b"1,2,3,4"]), max_size=20)
)
def test_skipping_bad_rows_keeps_exactly_the_rest(lines: list[bytes]) -> None:
    """With leave to skip, the good rows are read, all of them, and the bad ones counted, the first by name."""
    found = read_rows(b"".join(line + b"\r\n" for line in lines), 3, 11, skip_bad=True)
    good = [line for line in lines if line in (GOOD_LINE, b"1,2,3")]
    bad = [number for number, line in enumerate(lines, 11) if line in (b"1,2", b"x,y,z", b"\0\0", b"1,2,3,4")]
    assert values_of(found) == meant_by([line.decode().split(",") for line in good])
    assert found.bad_rows_skipped == len(bad)
    assert (found.first_bad[0] if found.first_bad else None) == (bad[0] if bad else None)


def test_comments_between_rows() -> None:
    """Lines that begin with # are no rows, wherever they stand; they are kept with their numbers."""
    body = b"#first\r\n1,2\r\n#Metadata:\r\n#\tStart time: 5\r\n\r\n3,4\r\n#last\r\n"
    found = read_rows(body, 2, 20)
    assert values_of(found) == meant_by([["1", "2"], ["3", "4"]])
    assert found.comments == ((20, "#first"), (22, "#Metadata:"), (23, "#\tStart time: 5"), (26, "#last"))


@pytest.mark.parametrize("body", [b"", b"\n", b"\r\n\r\n", b"#only\n", b"  \n\t\n"])
def test_no_rows(body: bytes) -> None:
    """A body without rows gives columns of no length."""
    found = read_rows(body, 2, 1)
    assert [len(column) for column in found.columns] == [0, 0]
    assert found.count == 0


def test_long_text_is_shortened() -> None:
    """What is shown of a bad line is short and fit for a terminal."""
    error = rejection(b"\x1b[31m" + b"x" * 10000 + b",2,3\n")
    assert error.text is not None
    assert len(error.text) < 140
    assert "\x1b" not in error.text + error.message


@given(st.binary(max_size=400), st.integers(1, 6), st.booleans())
def test_random_bytes_give_rows_or_a_rejection(body: bytes, width: int, skip_bad: bool) -> None:
    """Whatever the bytes are, the answer is rows of one length or a rejection."""
    try:
        found = read_rows(body + b"\n", width, 1, skip_bad=skip_bad)
    except FileRejectedError:
        found = read_rows(body + b"\n", width, 1, skip_bad=True)
        assert not skip_bad
        assert found.bad_rows_skipped
    assert [len(column) for column in found.columns] == [found.count] * width


@pytest.mark.parametrize(
    "body",
    [b"1" * 500_000 + b"x\n", b" " * 500_000 + b"x\n", b"1," * 250_000 + b"\n", b"1.5e" * 100_000 + b"\n"],
    ids=["digits", "blanks", "fields", "exponents"],
)
def test_long_lines_take_no_time(body: bytes) -> None:
    """A line of half a million characters is refused at once: no pattern tries its parts again and again."""
    began = time.perf_counter()
    assert rejection(body).line == 1
    assert time.perf_counter() - began < 2.0


def test_many_columns_take_no_time() -> None:
    """A bad row in a file of thousands of columns is found at once."""
    width = 20_000
    began = time.perf_counter()
    error = rejection(b"1" + b",1" * (width - 1) + b"\n" + b"1" + b",x" * (width - 1) + b"\n", width)
    assert error.line == 2
    assert time.perf_counter() - began < 5.0


@pytest.mark.skipif(not real_files(), reason="no real files here")
def test_real_files_to_the_last_bit() -> None:
    """Each value of the real files is what Python's float() makes of its text."""
    for path in real_files()[::8]:
        raw = path.read_bytes()
        header = parse_header(raw)
        body = raw[header.data_offset :]
        texts = [line.split(",") for line in body.decode("ascii").splitlines()]
        found = read_rows(body, len(header.columns), header.data_line)
        assert values_of(found) == meant_by(texts), path
