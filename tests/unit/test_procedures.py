"""The registry: what it holds, what a user may lay over it, and what it refuses."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanolab_daemon.errors import ConfigError, FileRejectedError
from nanolab_daemon.model import SegmentKind
from nanolab_daemon.procedures import RESERVED_COLUMNS, Light, Procedure, Registry, unknown_procedure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from procedure_files import header_of

PT100 = ("Plate T (degC)", "Ambient T (degC)", "Clock (ms)")
BUILTIN = Registry.builtin()


def known(name: str, registry: Registry = BUILTIN) -> Procedure:
    procedure = registry.get(name)
    assert procedure is not None
    return procedure


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("IV", ("Vsd (V)", "I (A)", *PT100)),
        ("IVT", ("Vsd (V)", "I (A)", *PT100)),
        ("IVg", ("Vg (V)", "I (A)", *PT100, "Vds (V)")),
        ("IVgT", ("Vg (V)", "I (A)", *PT100, "Vds (V)")),
        ("VVg", ("Vg (V)", "VDS (V)", "t (s)", *PT100)),
        ("VVgCooldown", ("Vg (V)", "VDS (V)", "t (s)", *PT100)),
        ("It", ("t (s)", "I (A)", "VL (V)", *PT100, "Timestamp")),
        ("ITt", ("t (s)", "I (A)", "VL (V)", *PT100, "Timestamp")),
        ("It2", ("t (s)", "I (A)", "VL (V)", *PT100, "Timestamp")),
        ("Vt", ("t (s)", "VDS (V)", "VL (V)", *PT100)),
        ("Pt", ("t (s)", "P (W)", "VL (V)")),
        ("ItVg", ("t (s)", "I (A)", "Vg (V)")),
        ("ItWl", ("t (s)", "I (A)", "wl (nm)")),
        ("LaserCalibration", ("VL (V)", "Power (W)")),
        ("Pwl", ("Wavelength (nm)", "Power (W)", "Time (s)")),
        ("Iwl", ("Wavelength (nm)", "I (A)", "t (s)")),
        ("Tt", ("Time (s)", *PT100)),
        ("Stress", ("t (s)", *PT100)),
        ("FakeProcedure", ("t (s)", "fake_data")),
        ("Wait", ()),
    ],
)
def test_columns(name: str, columns: tuple[str, ...]) -> None:
    """Each procedure has the columns of the instrument program: today's, the sensor's, those of the past."""
    assert known(name).columns == columns


def test_all_procedures_are_there() -> None:
    """The registry holds the twenty procedures that the lab's files come from."""
    assert len(BUILTIN) == 20
    assert BUILTIN.get("NoSuchThing") is None


@pytest.mark.parametrize(
    ("name", "column"),
    [
        *[("IV", "Vsd (V)"), ("IVT", "Vsd (V)"), ("IVg", "Vg (V)"), ("IVgT", "Vg (V)"), ("VVg", "Vg (V)")],
        ("VVgCooldown", "Vg (V)"),
    ],
)
def test_sweeps_are_cut(name: str, column: str) -> None:
    """Sweeps of a voltage at the sample are cut into segments along that voltage."""
    assert known(name).segments is SegmentKind.SWEEP
    assert known(name).segment_column == known(name).swept == column


@pytest.mark.parametrize(
    ("name", "kind", "column"),
    [
        *[(name, "light", "VL (V)") for name in ("It", "ITt", "It2", "Vt", "Pt")],
        ("ItVg", "plateau", "Vg (V)"),
        ("ItWl", "wavelength", "wl (nm)"),
    ],
)
def test_time_series_are_cut_into_phases(name: str, kind: str, column: str) -> None:
    """Time series are cut where the level of the laser, the gate or the wavelength is set anew."""
    procedure = known(name)
    assert (procedure.segments, procedure.segment_column, procedure.time) == (kind, column, "t (s)")


@pytest.mark.parametrize("name", ["LaserCalibration", "Pwl", "Iwl", "Tt", "Stress", "FakeProcedure", "Wait"])
def test_others_are_not_cut(name: str) -> None:
    """Calibrations, and series in which nothing is set, have no second stage."""
    assert (known(name).segments, known(name).segment_column) == (None, None)


def test_old_columns_get_their_present_names() -> None:
    """Columns of Tt have had three sets of names."""
    tt = known("Tt")
    middle = ("Time (s)", "Plate Temperature (degC)", "Ambient Temperature (degC)", "Clock")
    assert tt.canonical_columns(middle) == tt.columns
    assert tt.canonical_columns(("Time (s)", "Temperature (°C)")) == ("Time (s)", "Plate T (degC)")
    assert tt.canonical("Humidity") == "Humidity"
    with pytest.raises(FileRejectedError, match="two names of one column"):
        tt.canonical_columns(("Clock", "Clock (ms)"))


@pytest.mark.parametrize(
    ("procedure", "old", "present"),
    [
        ("IV", "Chip", "Chip group name"),
        ("IVg", "Comment", "Information"),
        ("IVg", "I range", "Irange"),
        ("It", "Initial temperature", "Initial (current) T"),
        ("It", "Hot plate start time", "T step start time"),
        ("Tt", "Hot plate temperature step", "T step"),
    ],
)
def test_old_parameters_are_found(procedure: str, old: str, present: str) -> None:
    """A parameter is found under its present name in files that have it under an old one."""
    assert known(procedure).parameter(header_of(procedure, {old: "7"}), present) == "7"
    assert known(procedure).parameter(header_of(procedure, {old: "7", present: "8"}), present) == "8"
    assert known(procedure).parameter(header_of(procedure, {}), present) is None


@pytest.mark.parametrize(
    ("procedure", "parameters", "light"),
    [
        ("IV", {"Laser voltage": "2.11 V", "Laser wavelength": "455"}, Light(True, 455.0, 2.11)),
        ("IVg", {"Laser voltage": "0 V", "Laser wavelength": "455"}, Light(False, 455.0, 0.0)),
        ("It", {"Laser wavelength": "565"}, Light(False, 565.0, None)),
        ("It", {"Laser voltage": "nan V"}, Light(False, None, None)),
        ("It", {"Laser voltage": "500 mV"}, Light(True, None, 0.5)),
        ("It", {"Laser voltage": "0.5V"}, Light(True, None, 0.5)),
        ("It", {"Laser voltage": "3 furlong"}, Light(True, None, None)),
        ("It", {"Laser voltage": "0 mV"}, Light(False, None, 0.0)),
        ("ItWl", {"Wavelength": "350 nm"}, Light(False, 350.0, None)),
        ("LaserCalibration", {"Laser wavelength": "455", "Laser voltage end": "5 V"}, Light(False, 455.0, None)),
        ("Tt", {"Laser voltage": "1 V"}, Light(False, None, None)),
    ],
)
def test_light_is_the_voltage(procedure: str, parameters: dict[str, str], light: Light) -> None:
    """The laser was on if its voltage was not 0; the wavelength stands in dark headers too."""
    assert known(procedure).light(header_of(procedure, parameters)) == light


def test_chip() -> None:
    """Chip and sample are read where the procedure has them."""
    chip = {"Chip group name": "Alisson ", "Chip number": "79", "Sample": "D"}
    assert known("IV").chip(header_of("IV", chip)) == ("Alisson ", 79, "D")
    assert known("IV").chip(header_of("IV", {"Chip number": "a"})) == (None, None, None)
    assert known("Pt").chip(header_of("Pt", chip)) == (None, None, None)


def test_manifest_values() -> None:
    """Swept and fixed voltages and the period go to the manifest, in their units, as far as the header has them."""
    ivg = {"VDS": "0.1 V", "VG start": "-5 V", "VG end": "5 V", "VG step": "0.05 V"}
    values = {"vds_V": 0.1, "vg_start_V": -5.0, "vg_end_V": 5.0, "vg_step_V": 0.05}
    assert known("IVg").manifest_values(header_of("IVg", ivg)) == values
    it = header_of("It", {"VG": "DP + 1 V", "VDS": "100 mV", "Laser ON+OFF period": "120 s"})
    assert known("It").manifest_values(it) == {"vds_V": 0.1, "laser_period_s": 120.0}


def test_user_adds_a_procedure() -> None:
    """A procedure needs no code: a table in the configuration is enough."""
    table: dict[str, Any] = {
        "like": "IVg",
        "columns": ["Vg (V)", "I (A)", "Ileak (A)"],
        "column_aliases": {"Igate (A)": "Ileak (A)"},
        "paths": ["start-end"],
        "parameters": {"Pressure": "float Pa"},
        "manifest": {"pressure_Pa": "Pressure"},
    }
    registry = BUILTIN.with_overrides({"IVgP": table})
    added = known("IVgP", registry)
    assert added.canonical("Igate (A)") == "Ileak (A)"
    assert added.manifest["vg_start_V"] == "VG start"
    assert added.number(header_of("IVgP", {"Pressure": "3 Pa"}), "Pressure") == 3.0
    assert BUILTIN.get("IVgP") is None
    assert len(registry) == len(BUILTIN) + 1


def test_override_reaches_those_that_are_alike() -> None:
    """A column added to IV is in IVT too, for IVT is like IV."""
    registry = BUILTIN.with_overrides({"IV": {"columns": ["Vsd (V)", "I (A)", "t (s)"]}})
    assert known("IVT", registry).columns == ("Vsd (V)", "I (A)", "t (s)")
    assert known("IVT", registry).paths == known("IVT").paths


def test_empty_text_takes_an_entry_away() -> None:
    """An inherited name is removed by an empty text."""
    registry = BUILTIN.with_overrides({"IV": {"manifest": {"vg_V": ""}}})
    assert "vg_V" not in known("IV", registry).manifest


def test_empty_text_takes_a_name_away() -> None:
    """What `like` brings and the new procedure lacks is taken away by an empty text."""
    table = {"like": "IV", "swept": "", "segments": "", "laser_voltage": "", "repeat": ""}
    added = known("IVdark", BUILTIN.with_overrides({"IVdark": table}))
    assert (added.swept, added.laser_voltage, added.repeat) == (None, None, None)


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "VG", "I (A)", "IV", "float V"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["VG", "I (A)", "kind", "since", "lit"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(["like", *Procedure.__dataclass_fields__]), _anything, max_size=3))
def test_no_value_breaks_the_check(table: dict[str, Any]) -> None:
    """Whatever stands in the configuration is taken, or refused by name."""
    try:
        BUILTIN.with_overrides({"IVg": table})
    except ConfigError as error:
        assert "procedures." in error.message  # noqa: PT017 -- any error, or none


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"IV": 3}, ["procedures.IV", "3", "table"]),
        ({"I V": {}}, ["procedures.I V", "plain word"]),
        ({"IV": {"colums": []}}, ["procedures.IV.colums", "did you mean 'columns'"]),
        ({"IV": {"frobnicate": 1}}, ["procedures.IV.frobnicate", "the keys are"]),
        ({"IV": {"columns": "Vsd (V)"}}, ["procedures.IV.columns", "list of column names"]),
        ({"IV": {"columns": [1]}}, ["procedures.IV.columns", "list of column names"]),
        ({"IV": {"columns": ["Vsd (V)", "Vsd (V)"]}}, ["procedures.IV.columns", "once"]),
        ({"IV": {"columns": ["Vsd (V)", "proc"]}}, ["procedures.IV.columns", "'proc'", "another name"]),
        ({"IV": {"columns": ["V"]}}, ["procedures.IV.swept", "'Vsd (V)'", "one of the columns (V)"]),
        ({"IV": {"column_aliases": ["a"]}}, ["procedures.IV.column_aliases", "table of texts"]),
        ({"IV": {"column_aliases": {"I (A)": "Vsd (V)"}}}, ["procedures.IV.column_aliases.I (A)", "not itself"]),
        ({"IV": {"column_aliases": {"J": "K"}}}, ["procedures.IV.column_aliases.J", "'K'", "one of the columns"]),
        ({"IV": {"parameters": {"VG": 1}}}, ["procedures.IV.parameters", "table of texts"]),
        ({"IV": {"parameters": {"VG": "flot V"}}}, ["procedures.IV.parameters.VG", "'flot V'", "float, int"]),
        ({"IV": {"renamed": {"VG": "VSD end"}}}, ["procedures.IV.renamed.VG", "not itself a parameter"]),
        ({"IV": {"renamed": {"Gate": "Vg"}}}, ["procedures.IV.renamed.Gate", "'Vg'", "one of the parameters"]),
        ({"IV": {"swept": 1}}, ["procedures.IV.swept", "1", "one of the columns"]),
        ({"IV": {"paths": "start-end"}}, ["procedures.IV.paths", "list of paths"]),
        ({"IV": {"paths": ["up"]}}, ["procedures.IV.paths", "'up'", "'start-end'"]),
        ({"IV": {"paths": [{"since": "2025-01-01"}]}}, ["procedures.IV.paths", "a kind"]),
        ({"IV": {"paths": [{"kind": "start-end", "form": 1}]}}, ["procedures.IV.paths.form", "since"]),
        ({"IV": {"paths": [{"kind": "start-end", "since": "July"}]}}, ["procedures.IV.paths.since", "2025-07-17"]),
        ({"IV": {"paths": [{"kind": "start-end", "below_version": 2}]}}, ["paths.below_version", "2.0.0"]),
        ({"IV": {"start": "VSD begin"}}, ["procedures.IV.start", "'VSD begin'", "one of the parameters"]),
        ({"IV": {"segments": "yes"}}, ["procedures.IV.segments", "'yes'", "'sweep', 'light', 'plateau'"]),
        ({"IV": {"segments": True}}, ["procedures.IV.segments", "True", "one of 'sweep'"]),
        ({"IV": {"segments": ["sweep"]}}, ["procedures.IV.segments", "['sweep']", "one of 'sweep'"]),
        ({"IV": {"segmented": True}}, ["procedures.IV.segmented", "did you mean 'segments'"]),
        ({"It": {"level": "VG"}}, ["procedures.It.level", "'VG'", "one of the columns (t (s), I (A), VL (V)"]),
        ({"It": {"level": ""}}, ["procedures.It.level", "given, because segments is"]),
        ({"It": {"segments": "sweep"}}, ["procedures.It.swept", "given, because segments is"]),
        ({"IV": {"manifest": {"VG": "VG"}}}, ["procedures.IV.manifest.VG", "vds_V"]),
        ({"IV": {"manifest": {"status": "VG"}}}, ["procedures.IV.manifest.status", "another name"]),
        ({"IV": {"manifest": {"x": "Sample"}}}, ["procedures.IV.manifest.x", "'Sample'", "numbers"]),
        ({"IV": {"silences": ["Step time"]}}, ["procedures.IV.silences", "list of tables"]),
        ({"IV": {"silences": [{"Nap": 1}]}}, ["procedures.IV.silences.Nap", "one of the parameters"]),
        ({"IV": {"silences": [{"Step time": True}]}}, ["procedures.IV.silences.Step time", "factor"]),
        ({"It": {"phases": [{"VG": 1, "lit": 1}]}}, ["procedures.It.phases.lit", "true or false"]),
        ({"It": {"stops": "never"}}, ["procedures.It.stops", "'after' or 'before'"]),
        ({"New": {"columns": ["a"], "segments": "sweep"}}, ["procedures.New.swept", "segments"]),
        ({"New": {"columns": ["a"], "segments": "light"}}, ["procedures.New.level", "segments"]),
        ({"New": {"paths": ["start-end"]}}, ["procedures.New.start", "paths"]),
        ({"New": {"like": "Old"}}, ["procedures.New.like", "'Old'", "name of a procedure"]),
        ({"A": {"like": "B"}, "B": {"like": "A"}}, ["like", "like this one"]),
        ({"A": {"like": 5}}, ["procedures.A.like", "5"]),
        ({"A": {"like": ["IV"]}}, ["procedures.A.like", "['IV']"]),
        ({"IV": {"repeat": "Nr"}}, ["procedures.IV.repeat", "'Nr'", "one of the parameters"]),
        ({"IV": {"paths": [{"kind": "start-end", "since": "20250717"}]}}, ["procedures.IV.paths.since"]),
        (
            {"IV": {"paths": [{"kind": "start-end", "since": "2026-01-01", "until": "2025-12-31"}]}},
            ["procedures.IV.paths.until = '2025-12-31'", "2026-01-01"],
        ),
        ({"IV": {"paths": []}}, ["procedures.IV.paths = []", "one path at least", "start"]),
        ({"IV": {"paths": [], "start": "", "end": ""}}, ["procedures.IV.paths = []", "one path at least", "swept"]),
        ({"ItVg": {"paths": [], "start": "", "end": ""}}, ["procedures.ItVg.paths = []", "counts set points"]),
        ({"It": {"phases": [], "older_phases": [{"VG": 1}]}}, ["procedures.It.phases", "older_phases is"]),
        ({"IV": {"metadata": {"Start time": "str"}}}, ["procedures.IV.metadata.Start time = 'str'", "'float'"]),
        ({"IV": {"parameters": {"Start time": "int"}}}, ["procedures.IV.parameters.Start time = 'int'", "'float'"]),
        ({"IV": {"column_aliases": {"Day": "date"}}}, ["procedures.IV.column_aliases.Day = 'date'"]),
        ({"iv": {}}, ["procedures.iv", "differs from 'IV' in more than case", "iv_segments"]),
        ({"Foo": {}, "fOO": {}}, ["procedures.fOO", "differs from 'Foo' in more than case", "foo_segments"]),
        ({"IV": {"parameters": {"VSD step": "float A"}}}, ["procedures.IV.step", "in V, as start is", "A"]),
        (
            {"IV": {"parameters": {"Laser voltage": "float mV"}}},
            ["procedures.IV.laser_voltage", "parameter in V", "mV"],
        ),
        ({"IV": {"parameters": {"Laser wavelength": "float um"}}}, ["procedures.IV.wavelength", "in nm", "um"]),
        ({"IV": {"parameters": {"Burn-in time": "float min"}}}, ["procedures.IV.burn_in", "in s", "min"]),
        ({"IV": {"parameters": {"Chip number": "float"}}}, ["procedures.IV.chip_number = 'Chip number'", "type int"]),
    ],
)
def test_mistakes_are_named(overrides: dict[str, Any], words: list[str]) -> None:
    """A mistake in the configuration is told with its key, its value and what would be right."""
    with pytest.raises(ConfigError) as caught:
        BUILTIN.with_overrides(overrides)
    for word in words:
        assert word in str(caught.value)


ROLES = ["start", "end", "step", "repeat", "burn_in", "laser_voltage", "wavelength", "chip_number"]
SPANS = ["phases", "older_phases", "silences"]


@pytest.mark.parametrize("role", [*ROLES, *SPANS])
@pytest.mark.parametrize("kind", ["str", "bool", "float", "int", "choice"])
def test_a_role_takes_numbers_only(role: str, kind: str) -> None:
    """A part that is a number in all arithmetic can't be played by a text or a switch; the place is told."""
    base = "It" if role in SPANS else "IV"
    value: Any = [{"X": 1}] if role in SPANS else "X"
    table = {"like": base, "parameters": {"X": kind}, role: value}
    if kind in (("int",) if role == "chip_number" else ("float", "int", "choice")):
        assert known("New", BUILTIN.with_overrides({"New": table})).parameters["X"].kind == kind
        return
    with pytest.raises(ConfigError) as caught:
        BUILTIN.with_overrides({"New": table})
    wanted = "type int" if role == "chip_number" else "a number (float, int, choice)"
    for word in (f"procedures.New.{role} = 'X'", wanted, f"its type is {kind}"):
        assert word in str(caught.value)


@pytest.mark.parametrize("name", sorted(RESERVED_COLUMNS))
def test_names_of_the_outputs_are_no_columns(name: str) -> None:
    """What the outputs call their own is no data column, by name or by alias; that of a file may be renamed."""
    with pytest.raises(ConfigError, match=f"'{name}': this must be another name"):
        BUILTIN.with_overrides({"New": {"columns": ["x", name]}})
    with pytest.raises(ConfigError, match=f"column_aliases.x = '{name}'"):
        BUILTIN.with_overrides({"New": {"columns": ["y"], "column_aliases": {"x": name}}})
    renamed = {"New": {"columns": ["y"], "column_aliases": {name: "y"}}}
    assert known("New", BUILTIN.with_overrides(renamed)).canonical(name) == "y"


def test_folders_of_outputs_are_reserved() -> None:
    """A reader takes date=… and segment=… in a path for columns."""
    assert {"run_id", "proc", "date", "segment"} <= RESERVED_COLUMNS


@given(st.permutations(["Foo", "foo", "FOO", "Bar"]), st.integers(1, 4))
def test_names_differ_in_more_than_case(names: list[str], count: int) -> None:
    """Procedures whose segments would share a folder are refused, whichever comes first; others are not."""
    chosen = names[:count]
    clash = len({name.lower() for name in chosen}) < len(chosen)
    try:
        registry = BUILTIN.with_overrides({name: {"columns": ["x"]} for name in chosen})
    except ConfigError as error:
        assert clash
        assert "foo_segments" in str(error)  # noqa: PT017 -- where they clash
    else:
        assert not clash
        assert len(registry) == len(BUILTIN) + count


def test_a_sweep_without_a_known_path_is_written_without_paths() -> None:
    """A swept column alone is enough to cut a run; its end is then not known, and nothing is refused."""
    own = known("New", BUILTIN.with_overrides({"New": {"columns": ["x"], "swept": "x", "segments": "sweep"}}))
    assert (own.paths, own.segment_column) == ((), "x")


def test_digest_is_stable_and_tells_registries_apart() -> None:
    """Equal registries have equal digests, whatever the order of keys; others have others."""
    assert BUILTIN.with_overrides({}).digest == BUILTIN.digest
    assert BUILTIN.with_overrides({"IV": {"segments": "sweep"}}).digest == BUILTIN.digest
    changed = BUILTIN.with_overrides({"IV": {"segments": ""}})
    assert changed.digest != BUILTIN.digest
    assert len(changed.digest) == 64


def test_registry_goes_to_workers() -> None:
    """Registry and procedures are pickled without loss."""
    changed = BUILTIN.with_overrides({"IV": {"segments": ""}})
    assert pickle.loads(pickle.dumps(changed)).digest == changed.digest
    assert pickle.loads(pickle.dumps(known("Tt"))) == known("Tt")


def test_unknown_procedure_has_the_common_names() -> None:
    """Of a procedure that nobody described, light and chip are known all the same."""
    procedure = unknown_procedure("Novel")
    header = header_of("Novel", {"Laser voltage": "1 V", "Chip": "C", "Chip number": "3"})
    assert procedure.light(header).on
    assert procedure.chip(header) == ("C", 3, None)
    assert procedure.columns == ()


def test_nothing_heavy_is_imported() -> None:
    """The daemon's parent process reads headers without numpy, Polars or Arrow."""
    code = (
        "import json, sys; import nanolab_daemon.header, nanolab_daemon.identity, nanolab_daemon.ramps;"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"numpy", "polars", "pyarrow", "pandas"} & set(json.loads(done.stdout))
