"""Any bytes as a header: a header or one of the declared errors, in a time that grows as the bytes do."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress

import pytest
from fuzz import ANYTHING, assert_linear, damaged, fuzzed
from hypothesis import given
from hypothesis import strategies as st

from nanolab_daemon.errors import FileRejectedError, HeaderIncompleteError, RejectCause
from nanolab_daemon.header import PLAIN_WORD, parse_header, quantity, unescape
from nanolab_daemon.model import Header

LIMIT = 1 << 14
TORN = frozenset({RejectCause.BAD_HEADER, RejectCause.TOO_LARGE})


def verdict(raw: bytes, limit: int = LIMIT) -> Header | FileRejectedError | HeaderIncompleteError:
    try:
        return parse_header(raw, max_bytes=limit)
    except (FileRejectedError, HeaderIncompleteError) as error:
        return error


@fuzzed
@given(ANYTHING)
def test_any_bytes_are_a_header_or_a_declared_error(raw: bytes) -> None:
    """Nothing else leaves the reader, and what it gives keeps its promises."""
    found = verdict(raw)
    if isinstance(found, HeaderIncompleteError):
        assert b"\0" not in raw
        return
    if isinstance(found, FileRejectedError):
        assert found.message
        assert len(found.message) < 500
        assert len(found.text or "") <= 120
        assert found.line is None or 1 <= found.line <= raw.count(b"\n") + 1
        return
    assert PLAIN_WORD.fullmatch(found.procedure)
    assert raw[found.data_offset - 1 : found.data_offset] == b"\n"
    assert found.data_line == raw.count(b"\n", 0, found.data_offset) + 1
    assert len(set(found.columns)) == len(found.columns)
    assert all(column.strip() for column in found.columns)
    assert found.text.encode(found.encoding) == raw[: found.data_offset].removeprefix(b"\xef\xbb\xbf")
    for value in (*found.parameters.values(), *found.metadata.values()):
        value.encode()  # no half of a surrogate pair
        number = quantity(value)
        assert number.value is None or isinstance(number.value, float)


@fuzzed
@given(ANYTHING, st.binary(max_size=40))
def test_what_follows_the_header_does_not_matter(raw: bytes, more: bytes) -> None:
    """A header that is whole is the same whatever rows come; what is refused for good is refused with more bytes."""
    found = verdict(raw)
    again = verdict(raw + more)
    if isinstance(found, Header):
        assert again == found
    elif isinstance(found, FileRejectedError) and found.cause not in TORN:
        assert isinstance(again, FileRejectedError)


@fuzzed
@given(damaged(), st.integers(0, 600))
def test_the_limit_bounds_what_is_looked_at(raw: bytes, limit: int) -> None:
    """Beyond its limit a header is too large, whatever stands there; within, the limit makes no difference."""
    found = verdict(raw, limit)
    if isinstance(found, Header):
        assert found.data_offset <= limit
        assert found == verdict(raw, 1 << 20)
    whole = verdict(raw, 1 << 20)
    if isinstance(whole, Header) and whole.data_offset <= limit:
        assert found == whole


@fuzzed
@given(st.text(max_size=60), st.text(st.sampled_from("\\xuUnrt0123456789abcdefD8FF"), max_size=40))
def test_any_text_has_a_value(text: str, escaped: str) -> None:
    """Quantities and escapes of any text: a number or none, and no character that can't be stored."""
    number = quantity(text)
    assert number.text == text
    assert number.value is None or number.unit is None or number.unit.strip()
    unescape(escaped).encode()
    assert unescape(text.encode("unicode_escape").decode()) == text or any(0xD800 <= ord(c) <= 0xDFFF for c in text)


HEAD = b"#Procedure: <a.IV>\n#Parameters:\n"
TAIL = b"#Data:\nx\n"
SHAPES: dict[str, Callable[[int], bytes]] = {
    "columns": lambda n: HEAD + b"#Data:\n" + b",".join(b"%d" % i for i in range(n // 8)) + b"\n",
    "one column twice": lambda n: (
        HEAD + b"#Data:\n" + b",".join(b"%d" % i for i in [*range(n // 8), n // 8 - 1]) + b"\n"
    ),
    "nameless columns": lambda n: HEAD + b"#Data:\n" + b"," * n + b"\n",
    "parameters": lambda n: HEAD + b"".join(b"#\t%d: 1 V\n" % i for i in range(n // 12)) + TAIL,
    "one parameter": lambda n: HEAD + b"#\ta: 1\n" * (n // 7) + TAIL,
    "escapes": lambda n: HEAD + b"#\ta: " + b"\\x41\\" * (n // 5) + b"\n" + TAIL,
    "marks of data": lambda n: HEAD + b"#Data:" * (n // 6) + b"\n#Data: " * (n // 8),
    "blanks after the mark": lambda n: HEAD + b"#Data:" + b" " * n + b"x\n" + TAIL,
    "blanks in the first line": lambda n: b"#Procedure:" + b" " * n + b"<a.IV>\n" + TAIL,
    "brackets": lambda n: b"#Procedure: <" + b"> " * (n // 2) + b"x\n" + TAIL,
    "dots": lambda n: b"#Procedure: <" + b"." * n + b"IV>\n" + TAIL,
    "lines": lambda n: HEAD + b"\n" * n,
    "stray lines": lambda n: HEAD + b"x\n" * (n // 2),
    "carriage returns": lambda n: HEAD + b"\r" * n + b"\n" + TAIL,
    "NULs at the end": lambda n: HEAD + b"#" * n + b"\0" * n,
    "no UTF-8": lambda n: HEAD + b"#\ta: " + b"\xe9" * n + b"\n" + TAIL,
}


@pytest.mark.long  # it compares times, which a busy machine upsets
@pytest.mark.parametrize("shape", SHAPES)
def test_the_work_grows_as_the_bytes_do(shape: str) -> None:
    """No header makes the reader try anything again and again: it runs in the daemon's own thread as well."""

    def work(raw: bytes) -> None:
        with suppress(FileRejectedError, HeaderIncompleteError):
            parse_header(raw, max_bytes=1 << 22)

    assert_linear(work, SHAPES[shape])


TEXTS: dict[str, Callable[[int], str]] = {
    "digits": lambda n: "1" * n + "?",
    "digits and a point": lambda n: "1" * n + "." + "1" * n + "?",
    "a number": lambda n: "1" * n,
    "exponent": lambda n: "1e" + "1" * n + "?",
    "blanks before": lambda n: " " * n + "?",
    "blanks between": lambda n: "1" + " " * n + ".",
    "blanks after": lambda n: "1 V" + " " * n + "?",
    "units": lambda n: "1 " + "V " * n,
    "one unit": lambda n: "1V" + "V" * n + " 1",
}


@pytest.mark.parametrize("shape", TEXTS)
def test_the_work_of_a_value_grows_as_its_text_does(shape: str) -> None:
    """No value makes the reader of numbers try its digits or blanks again and again."""
    assert_linear(quantity, TEXTS[shape])
    assert not math.isnan(quantity("1").value or 0.0)
