"""Run ids, start times and dates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanolab_daemon.errors import FileRejectedError, RejectCause
from nanolab_daemon.identity import content_run_id, date_from_path, date_in, datetime_of, run_id, start_time_us

SANTIAGO = ZoneInfo("America/Santiago")
HEADER = b"#Procedure: <IV>\n#Parameters:\n#Data:\nVsd (V),I (A)\n"


@pytest.mark.parametrize(
    ("procedure", "start_time", "expected"),
    [
        ("IV", "1757018821.6358175", "9f4b2665c901801b"),
        ("IVg", "1760370548.4022536", "5c78ea21badd8dfe"),
        ("It", "2025-10-13T12:00:00-03:00", "5935e86e611813fb"),
        ("LaserCalibration", "1760371415.740852", "8f5d0b09dd960e78"),
    ],
)
def test_run_ids_are_fixed_for_ever(procedure: str, start_time: str, expected: str) -> None:
    """These ids stand in published data: a change that moves one of them is wrong."""
    assert run_id(procedure, start_time) == expected


def test_ids_of_named_laboratories_are_fixed_for_ever() -> None:
    """So are those of laboratories with a name, each its own."""
    assert run_id("IV", "1757018821.6358175", "east") == "ff9d48e642056f5c"
    assert run_id("IV", "1757018821.6358175", "west") == "a1469349ddda9da4"
    names = ("", "east", "west")
    assert len({content_run_id("IV", HEADER, b"0.0,1e-9\n", name) for name in names}) == len(names)


def test_content_run_id_is_fixed_for_ever() -> None:
    """So does the id of a run without a Start time."""
    assert content_run_id("IV", HEADER, b"0.0,1e-9\n") == "14cf11012d1b6a91"


def test_blanks_around_a_start_time_do_not_count() -> None:
    """An editor that cuts or adds blanks does not make another run."""
    assert run_id("IV", " 1757018821.6358175 ") == run_id("IV", "1757018821.6358175")


@given(st.lists(st.text(max_size=5), min_size=4, max_size=4))
def test_run_ids_are_unambiguous(words: list[str]) -> None:
    """No two pairs of procedure and Start time can be taken for each other."""
    one, other = (words[0], words[1].strip()), (words[2], words[3].strip())
    assert (run_id(*one) == run_id(*other)) is (one == other)


def test_content_run_id_ignores_line_ends_alone() -> None:
    """CRLF and LF copies of one file are one run; another first row or header is another run."""
    known = content_run_id("IV", HEADER, b"0.0,1e-9\n")
    assert content_run_id("IV", HEADER.replace(b"\n", b"\r\n"), b"0.0,1e-9\r\n") == known
    assert content_run_id("IV", HEADER, b"0.0,2e-9\n") != known
    assert content_run_id("IV", HEADER + b"x", b"0.0,1e-9\n") != known


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1760370548.4022536", 1760370548402254),
        ("1760370548", 1760370548000000),
        ("1760370548.", 1760370548000000),
        ("1.7603705484e9 s", 1760370548400000),
        ("1760370548.0000005", 1760370548000000),
        ("1760370548.0000015", 1760370548000002),
        ("1760370548.00000050000000000000000001", 1760370548000001),
        ("2025-10-13T15:49:08.4022536Z", 1760370548402254),
        ("2025-10-13 12:49:08,402254-03:00", 1760370548402254),
        ("2025-10-13T15:49:08", 1760370548000000),
        ("2025-10-13", 1760313600000000),
        (" 2025-10-13T15:49:08.9999999Z ", 1760370549000000),
    ],
)
def test_start_times_are_exact(text: str, expected: int) -> None:
    """Seconds and ISO 8601 times become microseconds without a float between, rounded half to even."""
    assert start_time_us(text) == expected


@given(st.integers(700_000_000, 4_000_000_000), st.integers(0, 10**9 - 1))
def test_nine_decimals_round_half_to_even(seconds: int, nanoseconds: int) -> None:
    """Every decimal text is rounded as exact arithmetic rounds it."""
    exact = Fraction(seconds) + Fraction(nanoseconds, 10**9)
    assert start_time_us(f"{seconds}.{nanoseconds:09d}") == round(exact * 10**6)


@given(st.datetimes(datetime(1990, 1, 2), datetime(2100, 12, 30)), st.integers(-14 * 60, 14 * 60))
def test_iso_times_with_zones(moment: datetime, offset_minutes: int) -> None:
    """A time with a zone is the moment that it names, one without is UTC."""
    aware = moment.replace(tzinfo=UTC)
    expected = (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert start_time_us(moment.isoformat()) == expected
    hours, minutes = divmod(abs(offset_minutes), 60)
    zone = f"{'-' if offset_minutes < 0 else '+'}{hours:02d}:{minutes:02d}"
    shifted = moment + timedelta(minutes=offset_minutes)
    assert start_time_us(f"{shifted.isoformat()}{zone}") == expected
    assert datetime_of(expected) == aware


@pytest.mark.parametrize(
    "text",
    [
        *("", "None", "nan", "inf", "-1760370548.4", "0", "1e99", "1e-99", "631151999.9", "4133980800"),
        *("2025-13-01", "2025-02-30T00:00:00", "2025-10-13T25:00:00", "1989-12-31T23:59:59", "yesterday"),
        *("1_760_370_548", "١٧٦٠٣٧٠٥٤٨", "1760370548.4 V", "1" * 10_000, "1760370548.4022536 and more"),
    ],
)
def test_no_time_is_refused(text: str) -> None:
    """A Start time that is no time between 1990 and 2100 rejects the file."""
    with pytest.raises(FileRejectedError) as caught:
        start_time_us(text)
    assert caught.value.cause is RejectCause.BAD_START_TIME
    assert len(str(caught.value)) < 200


@given(st.text(max_size=30) | st.from_regex(r"[0-9.eE+:TZ -]{0,30}", fullmatch=True))
def test_any_text_is_a_time_or_refused(text: str) -> None:
    """No text makes the reading of a Start time fail in another way."""
    try:
        us = start_time_us(text)
    except FileRejectedError:
        return
    assert 1990 <= datetime_of(us).year <= 2100


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("2025-10-14T02:59:59Z", "2025-10-13"),
        ("2025-10-14T03:00:00Z", "2025-10-14"),
        ("2025-09-06T03:59:59Z", "2025-09-05"),  # winter time, four hours, until this night
        ("2025-09-07T03:30:00Z", "2025-09-06"),
    ],
)
def test_date_is_that_of_the_lab(text: str, date: str) -> None:
    """A run belongs to the day of the lab's clock, summer time included."""
    assert date_in(start_time_us(text), SANTIAGO) == date


@pytest.mark.parametrize(
    ("path", "date"),
    [
        ("2025-10-13/It2025-10-22_4.csv", "2025-10-22"),
        ("2025-10-13/It_4.csv", "2025-10-13"),
        ("2024-01-01/2025-10-13/deep/It.csv", "2025-10-13"),
        ("It22025-10-22_4.csv", "2025-10-22"),
        ("2025-10-13/It2025-02-30_1.csv", "2025-10-13"),
        ("Alisson_04_sept/IV.csv", None),
        ("3025-01-01/IV.csv", None),
        ("IV2025-10-221.csv", None),
        ("", None),
    ],
)
def test_date_from_path(path: str, date: str | None) -> None:
    """The file's name tells the date before its folders, near folders before far ones; no date is made up."""
    assert date_from_path(path) == date
