"""What is not understood is told once a procedure, kind and name, and kept whole."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanolab_daemon import parquet
from nanolab_daemon.header import parse_header
from nanolab_daemon.procedures import Registry
from nanolab_daemon.remarks import MOST_NAMES, remarks

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from inprocess import Folders
from instrument import it, ivg
from procedure_files import header_of

REGISTRY = Registry.builtin()


def told(
    procedure: str = "IVg",
    *,
    parameters: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
    strange: str = "",
) -> tuple[str, ...]:
    """Give the remarks on a header with these parts."""
    lines = [f"#Procedure: <laser_setup.procedures.{procedure}>", "#Parameters:"]
    lines += [f"#\t{name}: {value}" for name, value in (parameters or {}).items()]
    lines += ["#Metadata:", *(f"#\t{name}: {value}" for name, value in (metadata or {}).items())]
    header = parse_header(("\n".join(lines) + f"\n{strange}#Data:\nVg (V),I (A)\n").encode())
    known = REGISTRY.get(procedure)
    return remarks(known, header, header.columns)


def test_ordinary_files_are_passed_over_in_silence() -> None:
    """What the lab's program writes today needs no word."""
    for measurement in (ivg(), it()):
        header = parse_header(measurement.data(0))
        assert remarks(REGISTRY.get(measurement.procedure), header, header.columns) == ()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("VG start", "-5"),
        ("VG start", "-5000 mV"),
        ("Irange", "1e-06 A"),
        ("Irange", "1 µA"),
        ("Laser wavelength", "455"),
        ("Laser wavelength", "455 nm"),
        ("Information", "None"),
        ("Information", "12 parsecs: ß \\u4e2d"),
        ("Chip number", "79"),
        ("I range", "0 A"),
        ("Comment", ""),
        ("Show more", "True"),
        ("Laser toggle", "False"),
        ("Laser frequency", "0 Hz"),
        ("Procedure version", "two"),
    ],
)
def test_values_of_all_years_are_understood(name: str, text: str) -> None:
    """Units present or not, with prefixes, old names, texts: nothing to say."""
    assert told(parameters={name: text}) == ()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("Magnet", "1 T", "a parameter 'Magnet' that the registry does not know"),
        ("VG start", "abc V", "'VG start' that is no number"),
        ("VG start", "", "'VG start' that is no number"),
        ("VG start", "DP + 1", "'VG start' that is no number"),
        ("VG start", "-5 A", "'VG start' with the unit 'A', where V is expected"),
        ("NPLC", "1 s", "'NPLC' with the unit 's', where no unit is expected"),
        ("Laser wavelength", "455 kg", "'Laser wavelength' with the unit 'kg', where nm is expected"),
        ("Laser wavelength", "red", "'Laser wavelength' that is no number"),
        ("Chip number", "79.5", "'Chip number' that is no whole number"),
        ("I range", "wide", "'I range' that is no number"),
        ("Show more", "perhaps", "'Show more' that is neither True nor False"),
        ("Ma\x85gnet\\", "1", "'Ma\\x85gnet\\\\' that the registry"),
    ],
)
def test_what_is_not_understood_is_told_without_its_value(name: str, text: str, words: str) -> None:
    """Each parameter that means nothing gets one sentence, the same whatever its value: thousands of files say it."""
    (remark,) = told(parameters={name: text})
    assert words in remark
    assert remark.startswith("IVg files have a parameter ")
    assert remark.endswith("its text is kept in the header record.")
    assert "\n" not in remark


def test_metadata() -> None:
    """A start time is known everywhere, a sensor model where there is a sensor; the rest is told."""
    assert told(metadata={"Start time": "1757018821.6"}) == ()
    assert told("Pwl", metadata={"Sensor model": "S130C"})[:-1] == told("Pwl")[:-1]
    (remark,) = told(metadata={"Weather": "rain"})
    assert "a metadata entry 'Weather' that the registry does not know" in remark


def test_columns_and_lines() -> None:
    """Columns and header lines that mean nothing are told too, and lines with # between the rows."""
    header = parse_header(b"#Procedure: <x.IVg>\n#Parameters:\n#Data:\nVg (V),I (A),Ig (A)\n")
    (column,) = remarks(REGISTRY.get("IVg"), header, header.columns)
    assert "a column 'Ig (A)' that the registry does not know: it is kept" in column
    (between,) = remarks(REGISTRY.get("IVg"), header, header.columns[:2], comments=True)
    assert "between their rows" in between
    (lines,) = told(strange="no hash\n#Remarks:\n#\tVG start: 7 V\n")
    assert "lines in their header that are not understood" in lines


def test_unknown_procedure_is_told_once_and_not_in_parts() -> None:
    """Of a procedure that nobody knows there is one thing to say."""
    assert told("Novel", parameters={"Magnet": "x T"}) == (
        "The procedure Novel is not in the registry: its files are staged as they are.",
    )


def test_a_damaged_header_does_not_flood() -> None:
    """Thousands of strange names are told as some, and as more of the same."""
    found = told(parameters={f"x{n}": "1" for n in range(5000)})
    assert len(found) == MOST_NAMES + 1
    assert "more of such" in found[-1]


def test_twice_the_same_name() -> None:
    """Of values under one name the last counts, as it does for PyMeasure; the name is told once, all are kept."""
    raw = b"#Procedure: <x.IVg>\n#Parameters:\n#\tVDS: 1 V\n#\tVDS: 3 V\n#\tVDS: 2 V\n#Data:\nVg (V),I (A)\n"
    header = parse_header(raw)
    assert (header.parameters["VDS"], header.repeated, header.unread) == ("2 V", ("VDS",), ())
    (remark,) = remarks(REGISTRY.get("IVg"), header, header.columns)
    assert "'VDS' more than once in their header: the last one counts" in remark
    assert remarks(None, header, header.columns)[1:] == (remark,)


NAMES = ["VDS", "NPLC", "Chip", "Chip name", "Chip group name", "I range", "Irange"]


@given(st.lists(st.sampled_from(NAMES), max_size=9))
def test_each_name_given_twice_is_told_once(names: list[str]) -> None:
    """One sentence a name that stands twice, one a parameter that has two names; other values, the same sentences."""
    found = []
    for value in "12":
        lines = "".join(f"#\t{name}: {value}{at}\n" for at, name in enumerate(names))
        header = parse_header(f"#Procedure: <x.IVg>\n#Parameters:\n{lines}#Data:\nVg (V),I (A)\n".encode())
        found.append(remarks(REGISTRY.get("IVg"), header, header.columns))
        last = {name: str(at) for at, name in enumerate(names)}
        assert all(header.parameters[name].endswith(at) for name, at in last.items())
    assert found[0] == found[1]
    twice = {name for name in names if names.count(name) > 1}
    assert {remark.split("'")[1] for remark in found[0] if "more than once" in remark} == twice
    chips, ranges = {"Chip", "Chip name", "Chip group name"} & set(names), {"I range", "Irange"} & set(names)
    assert len(found[0]) == len(twice) + (len(chips) > 1) + (len(ranges) > 1)


def test_old_and_present_name_together() -> None:
    """A parameter under two of its names is told with both; the present one counts."""
    both = {"Chip": "OLD", "Chip group name": "NEW", "Chip number": "3"}
    (remark,) = told(parameters=both)
    assert remark == (
        "IVg files have one parameter under the names 'Chip group name' and 'Chip': 'Chip group name' counts,"
        " all are kept in the header record."
    )
    known = REGISTRY.get("IVg")
    assert known is not None
    assert known.chip(header_of("IVg", both))[0] == "NEW"


def test_all_of_it_is_kept_in_the_staged_file(tmp_path: Path) -> None:
    """Every text that is not understood stands in the notes of the staged file, as it was written."""
    folders = Folders(tmp_path).make()
    measurement = ivg()
    strange = {"Magnet": "1 T", "VG step": "abc V", "NPLC": "1 s"}
    contents = (
        measurement.data()
        .replace(b"#Metadata:", b"".join(f"#\t{n}: {t}\r\n".encode() for n, t in strange.items()) + b"#Metadata:")
        .replace(b"#Data:", b"#\tWeather: rain\r\n# by hand\r\n#Data:")
        .replace(b"\r\n0.0,", b"\r\n#Metadata:\r\n#\tStart time: 5\r\n0.0,", 1)
    )
    staged = folders.staged("a.csv", contents)
    assert len(staged.remarks) == 8
    table, notes = parquet.read((folders.stage / staged.output.path).read_bytes())
    assert strange.items() <= json.loads(notes["parameters"]).items()
    assert json.loads(notes["metadata"])["Weather"] == "rain"
    assert "# by hand" in notes["header"]
    assert [text for _, text in json.loads(notes["comments"])] == ["#Metadata:", "#\tStart time: 5"]
    assert table.num_rows == staged.facts.rows == len(measurement.rows)
