"""Headers as PyMeasure writes them, as older versions did, and as no instrument would."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymeasure.experiment import FloatParameter, IntegerParameter, Metadata, Parameter, Procedure, Results

from nanolab_daemon.errors import FileRejectedError, HeaderIncompleteError, RejectCause
from nanolab_daemon.header import Quantity, parse_header, quantity, unescape

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from realdata import real_files

IV = b"""#Procedure: <laser_setup.procedures.IV.IV>
#Parameters:
#\tIrange: 0.0001 A
#\tBurn-in time: 600 s
#\tChip number: 79
#\tInformation: test 71: muerto :( 
#\tLaser ON+OFF period: 120 s
#\tSampling time (excluding Keithley): 0 s
#\tSample: 
#\tVSD step: 0.01 V
#Metadata:
#\tStart time: 1757018821.6358175
#Data:
Vsd (V),I (A),Clock (ms)
0.0,1e-9,nan
"""  # noqa: W291 -- blanks at the end are part of a value
QUEUED = IV.replace(b"#Metadata:\n#\tStart time: 1757018821.6358175\n", b"")


def rejection(raw: bytes, **options: int) -> FileRejectedError:
    with pytest.raises(FileRejectedError) as caught:
        parse_header(raw, **options)
    return caught.value


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_reads_every_part(line_end: bytes) -> None:
    """A header is read whole, whatever its line ends."""
    raw = IV.replace(b"\n", line_end)
    header = parse_header(raw)
    assert (header.procedure, header.procedure_path) == ("IV", "laser_setup.procedures.IV.IV")
    assert list(header.parameters) == [
        *("Irange", "Burn-in time", "Chip number", "Information", "Laser ON+OFF period"),
        *("Sampling time (excluding Keithley)", "Sample", "VSD step"),
    ]
    assert header.parameters["Information"] == "test 71: muerto :( "
    assert header.parameters["Sample"] == ""
    assert header.metadata == {"Start time": "1757018821.6358175"}
    assert header.has_metadata
    assert header.columns == ("Vsd (V)", "I (A)", "Clock (ms)")
    assert raw[header.data_offset :] == b"0.0,1e-9,nan" + line_end
    assert header.data_line == 15
    assert header.text.encode() == raw[: header.data_offset]
    assert header.encoding == "utf-8"


def test_queued_file_has_no_metadata() -> None:
    """A file whose measurement waits in the queue has no metadata, and says so."""
    header = parse_header(QUEUED)
    assert not header.has_metadata
    assert header.metadata == {}


@pytest.mark.parametrize("raw", [IV, b"\xef\xbb\xbf" + IV, IV.replace(b"\n", b"\r\n")], ids=["lf", "bom", "crlf"])
def test_cut_anywhere_is_incomplete(raw: bytes) -> None:
    """Cut at any byte before the end of the label line, a file is incomplete, never refused."""
    end = parse_header(raw).data_offset
    for cut in range(end):
        with pytest.raises(HeaderIncompleteError):
            parse_header(raw[:cut])
    parse_header(raw[:end])


def test_byte_order_mark_is_no_text() -> None:
    """A UTF-8 byte order mark is skipped, and counted in the offset of the data."""
    header = parse_header(b"\xef\xbb\xbf" + IV)
    assert header.text.startswith("#Procedure")
    assert header.data_offset == parse_header(IV).data_offset + 3


@pytest.mark.parametrize(("encoding", "raw_degree"), [("utf-8", b"\xc2\xb0"), ("cp1252", b"\xb0")])
def test_both_encodings_of_pymeasure(encoding: str, raw_degree: bytes) -> None:
    """Labels of PyMeasure 0.15 are UTF-8, those of 0.10 to 0.14 Windows-1252; both are read."""
    header = parse_header(IV.replace(b"Clock (ms)", b"Temperature (" + raw_degree + b"C)"))
    assert header.columns[-1] == "Temperature (°C)"
    assert header.encoding == encoding


@pytest.mark.parametrize(
    ("raw", "cause", "line"),
    [
        (b"a,b\n1,2\n", RejectCause.NOT_INSTRUMENT_FILE, 1),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), RejectCause.NOT_INSTRUMENT_FILE, 1),
        (b"#Procedure: IV\n", RejectCause.NOT_INSTRUMENT_FILE, 1),
        (IV.decode().encode("utf-16"), RejectCause.ENCODING, 1),
        (IV.decode().encode("utf-16-le"), RejectCause.ENCODING, 1),
        (IV.decode().encode("utf-16-be"), RejectCause.ENCODING, 1),
        (bytes(4096), RejectCause.NUL_BYTES, 1),
        (IV[:95] + bytes(4096), RejectCause.NUL_BYTES, 4),
        (IV.replace(b"0.01", b"0\0"), RejectCause.NUL_BYTES, 10),
        (IV.replace(b"0.01", b"\x81"), RejectCause.ENCODING, 10),
        (IV.replace(b".IV>", b"...>"), RejectCause.BAD_PROCEDURE_NAME, 1),
        (IV.replace(b".IV>", b"./etc>"), RejectCause.BAD_PROCEDURE_NAME, 1),
        (IV.replace(b".IV>", b"." + b"x" * 65 + b">"), RejectCause.BAD_PROCEDURE_NAME, 1),
        (IV.replace(b"I (A)", b"Vsd (V)"), RejectCause.BAD_COLUMNS, 14),
        (IV.replace(b"I (A)", b""), RejectCause.BAD_COLUMNS, 14),
        (IV.replace(b"#Data:\n", b""), RejectCause.BAD_HEADER, 13),
    ],
)
def test_refusals_name_cause_and_line(raw: bytes, cause: RejectCause, line: int) -> None:
    """What can't become an instrument file is refused, with its cause and its line."""
    error = rejection(raw)
    assert (error.cause, error.line) == (cause, line)
    assert "\n" not in str(error)


def test_a_procedure_without_data_has_no_columns() -> None:
    """An empty line of labels is that of a procedure which writes no data, such as a wait."""
    assert parse_header(IV.replace(b"Vsd (V),I (A),Clock (ms)", b"")).columns == ()


def test_oversize_header() -> None:
    """A header that goes on past the limit is refused; the same one under a wider limit is read."""
    raw = IV.replace(b"muerto", b"x" * 5000)
    assert rejection(raw, max_bytes=4096).cause is RejectCause.TOO_LARGE
    assert rejection(raw[:4096], max_bytes=4096).cause is RejectCause.TOO_LARGE
    assert len(parse_header(raw).parameters["Information"]) > 5000


def test_lines_not_understood_stay_in_the_text() -> None:
    """Lines that mean nothing are kept as written and harm nothing."""
    strange = b"#Remarks:\n#\tChip number: 1\n# a note\n#\n#\tno separator\nno hash\n"
    header = parse_header(IV.replace(b"#Data:", strange + b"#Data:"))
    assert header.parameters["Chip number"] == "79"
    assert strange.decode() in header.text


def test_local_class_keeps_its_name() -> None:
    """A class made inside a function has `<locals>` in its path, and its own name all the same."""
    header = parse_header(IV.replace(b"IV.IV>", b"IV.make.<locals>.IV>"))
    assert header.procedure == "IV"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (r"a\\nb", r"a\nb"),
        (r"a\nb\tc\rd", "a\nb\tc\rd"),
        (r"25 \xb5m \u03a9 \U0001f600", "25 µm Ω 😀"),
        (r"C:\data\07\N{DEGREE SIGN}", r"C:\data\07\N{DEGREE SIGN}"),
        ("\\", "\\"),
        (r"\x4", r"\x4"),
        (r"\ud800 \U99999999", r"\ud800 \U99999999"),
        ("ñandú °C", "ñandú °C"),
    ],
)
def test_unescape(written: str, meant: str) -> None:
    """Escapes that PyMeasure writes are undone; what is none stays as written."""
    assert unescape(written) == meant


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_unescape_undoes_unicode_escape(text: str) -> None:
    """Whatever PyMeasure escapes comes back."""
    assert unescape(text.encode("unicode_escape").decode()) == text


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("2.11 V", 2.11, "V"),
        ("455", 455.0, None),
        ("0 C", 0.0, "C"),
        ("1e-06 V", 1e-6, "V"),
        ("-0.4 V", -0.4, "V"),
        (".5", 0.5, None),
        ("inf s", float("inf"), "s"),
        ("None", None, None),
        ("", None, None),
        ("DP + 1 V", None, None),
        ("2025-10-13", None, None),
        ("1.0.0", None, None),
        ("1_000", None, None),
        ("3 dirty chips", None, None),
        ("F1 (M92L02)", None, None),
        ("٣ V", None, None),
    ],
)
def test_quantity(text: str, value: float | None, unit: str | None) -> None:
    """Numbers with and without units are read, and nothing else is taken for one."""
    assert quantity(text) == Quantity(value, unit, text)


def test_quantity_nan() -> None:
    """`nan` is a number that is not one."""
    read = quantity("nan V")
    assert read.value != read.value
    assert read.unit == "V"


@given(st.binary() | st.binary().map(lambda tail: b"#Procedure: <a.b>\n" + tail))
def test_random_bytes_raise_only_the_two_errors(raw: bytes) -> None:
    """No bytes make the parser fail in another way than it says."""
    with contextlib.suppress(FileRejectedError, HeaderIncompleteError):
        parse_header(raw)


@given(st.integers(0, len(IV)), st.integers(0, len(IV)), st.binary(max_size=8))
def test_damaged_headers_raise_only_the_two_errors(start: int, length: int, junk: bytes) -> None:
    """A real header with any piece replaced is read, incomplete or refused."""
    try:
        header = parse_header(IV[:start] + junk + IV[start + length :])
    except (FileRejectedError, HeaderIncompleteError):
        return
    assert header.text.encode(header.encoding)


@pytest.mark.parametrize(
    "unit",
    [
        b"#",
        b"\n",
        b"#\t",
        b"#Data:",
        b"\n#Data: ",
        b"#\ta: \\\\\n",
        b"\\u12",
        b"x\r",
        b"\xff",
        b"#\t: : \n",
        b"<",
        b">",
    ],
)
def test_hostile_input_takes_linear_time(unit: bytes) -> None:
    """A megabyte of anything is judged in well under a second."""
    raw = b"#Procedure: <a.b>\n#Parameters:\n#\tX: " + unit * ((1 << 20) // len(unit))
    begun = time.perf_counter()
    for whole in (raw, raw[: 1 << 19] + b"\n#Data:\na,b\n", b"#Procedure: <" + raw[: 1 << 20]):
        with contextlib.suppress(FileRejectedError, HeaderIncompleteError):
            parse_header(whole, max_bytes=1 << 21)
    assert time.perf_counter() - begun < 3


class Probe(Procedure):
    """One parameter of each kind that the instrument program prints."""

    voltage = FloatParameter("VG (back) + offset", units="V")
    number = IntegerParameter("Chip number")
    words = Parameter("Information")
    sensor = Metadata("Sensor model", fget=lambda: "S120VC µ")
    DATA_COLUMNS = ["Vg (V)", "Temperature (°C)"]  # noqa: RUF012 -- as PyMeasure wants it


_printable = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-1e9, 1e9),
    st.integers(-(10**9), 10**9),
    _printable,
    st.booleans(),
)
def test_round_trip_through_pymeasure(voltage: float, number: int, words: str, evaluated: bool) -> None:
    """What PyMeasure's own `Results` writes is read back, value by value."""
    probe = Probe()
    probe.voltage, probe.number, probe.words = voltage, number, words
    probe.refresh_parameters()
    probe.evaluate_metadata()
    results = Results.__new__(Results)  # its constructor writes a file
    results.procedure, results.procedure_class = probe, Probe
    results.parameters = probe.parameter_objects()
    head = results.header().removesuffix("#Data:\n")
    raw = head + (results.metadata() if evaluated else "") + "#Data:\n" + ",".join(Probe.DATA_COLUMNS) + "\n"
    header = parse_header(raw.encode())
    assert header.procedure == "Probe"
    assert header.columns == tuple(Probe.DATA_COLUMNS)
    assert quantity(header.parameters["VG (back) + offset"]) == Quantity(float(f"{voltage:g}"), "V", f"{voltage:g} V")
    assert header.parameters["Chip number"] == str(number)
    assert header.parameters["Information"] == words
    assert header.metadata == ({"Sensor model": "S120VC µ"} if evaluated else {})
    assert header.has_metadata is evaluated


def test_one_header_takes_microseconds() -> None:
    """An archive of 30,000 files spends a second or two in here, not a minute."""
    raw = IV.replace(b"\n", b"\r\n")
    parse_header(raw)
    best = min(_seconds_for(raw, 200) for _ in range(5)) / 200
    assert best < 400e-6, f"{best * 1e6:.0f} µs"  # 20 µs where it was written


def _seconds_for(raw: bytes, times: int) -> float:
    begun = time.perf_counter()
    for _ in range(times):
        parse_header(raw)
    return time.perf_counter() - begun


@pytest.mark.skipif(not real_files(), reason="no real instrument files here")
def test_every_real_header_is_read() -> None:
    """All headers from the lab are read, and each line of theirs is understood."""
    for path in real_files():
        raw = path.read_bytes()
        header = parse_header(raw)
        assert header.procedure in path.name
        lines = header.text.count("#\t")
        assert lines == len(header.parameters) + len(header.metadata)
        assert header.has_metadata is (path.name != "It2025-09-25_10.csv")
