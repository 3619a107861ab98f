"""Every procedure of the lab's program, of every year, written by PyMeasure, through both stages: the right run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import reference
from inprocess import Folders
from pymeasure_all import VARIANTS
from variants import PARAMETERS, Variant

from nanolab_daemon import parquet
from nanolab_daemon.model import FileState
from nanolab_daemon.procedures import Registry
from nanolab_daemon.tasks import NoRows, StageJob

TESTS = Path(__file__).resolve().parents[1]

WITH_ROWS = [variant for variant in VARIANTS if variant.rows]
KINDS = {"VL (V)": "light", "wl (nm)": "wavelength"}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder into which PyMeasure has written every variant, in a process of its own."""
    folder = tmp_path_factory.mktemp("instrument")
    subprocess.run([sys.executable, str(TESTS / "pymeasure_all.py"), str(folder)], check=True, timeout=100)
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path).make()


def named(variant: Variant) -> str:
    return variant.name


def bits(values: Sequence[float | None]) -> list[str | None]:
    """Write numbers so that equal texts are equal bits; all NaNs are alike."""
    return [None if value is None else float(value).hex() for value in values]


def test_every_procedure_of_the_registry_is_there() -> None:
    """No procedure of the registry goes without a file, and none has an unknown layout."""
    assert {variant.procedure for variant in VARIANTS} == {procedure.name for procedure in Registry.builtin()}
    assert len({variant.path for variant in VARIANTS}) == len(VARIANTS)


@pytest.mark.parametrize("variant", WITH_ROWS, ids=named)
def test_staged_rightly(variant: Variant, raw: Path, folders: Folders) -> None:
    """A file becomes a run with canonical columns, every value to the last bit, the right facts and verdict."""
    staged = folders.staged(variant.path, (raw / variant.path).read_bytes())
    facts, judged = staged.facts, staged.facts.completeness
    table = pl.read_parquet(folders.stage / staged.output.path)
    rows = list(variant.rows) * variant.runs

    assert facts.proc == variant.procedure
    assert tuple(table.columns[: len(variant.staged_columns)]) == variant.staged_columns
    assert table.columns[len(variant.staged_columns)] == "run_id"
    places = {variant.aliases.get(name, name): at for at, name in enumerate(variant.columns)}
    for name in variant.staged_columns:
        assert table.schema[name] == pl.Float64
        wanted = [row[places[name]] if name in places else None for row in rows]
        assert bits(table[name].to_list()) == bits(wanted), name

    assert (facts.with_light, facts.wavelength_nm, facts.laser_voltage_V) == (
        variant.lit,
        variant.wavelength,
        variant.volts,
    )
    of_a_chip = Registry.builtin().get(variant.procedure).chip_group is not None  # type: ignore[union-attr]
    values = variant.values if of_a_chip else {}
    assert (facts.chip_group, facts.chip_number, facts.sample) == (
        values.get("chip_group"),
        values.get("chip_number"),
        values.get("sample"),
    )
    assert facts.procedure_version == variant.values.get("procedure_version")
    assert facts.date_origin == ("meta" if variant.start is not None else "mtime")
    if variant.start is not None:
        assert facts.start_us == round(variant.start * 1e6)

    _, notes = parquet.read((folders.stage / staged.output.path).read_bytes())
    for attribute in {"info", "sample"} & set(variant.values):
        label = variant.names.get(attribute, PARAMETERS[attribute][1])
        assert json.loads(notes["parameters"])[label] == variant.values[attribute]

    assert judged.complete is variant.complete, judged.rule
    if isinstance(variant.expected, tuple):
        assert judged.expected_rows in variant.expected
    else:
        assert judged.expected_end_s == variant.expected
    assert judged.rule
    assert len(staged.remarks) == len(variant.remarks), staged.remarks
    for words, remark in zip(variant.remarks, staged.remarks, strict=True):
        assert words in remark


@pytest.mark.parametrize("variant", [one for one in WITH_ROWS if one.complete is not False], ids=named)
def test_one_row_less_is_told(variant: Variant, raw: Path, folders: Folders) -> None:
    """The same file without its last row is no complete run, wherever its header tells the end."""
    whole = (raw / variant.path).read_bytes()
    staged = folders.staged(variant.path, whole[: whole.rindex(b"\n", 0, -1) + 1])
    assert staged.facts.rows == len(variant.rows) - 1
    assert staged.facts.completeness.complete is variant.cut, staged.facts.completeness.rule


@pytest.mark.parametrize("variant", WITH_ROWS, ids=named)
def test_cut_rightly(variant: Variant, raw: Path, folders: Folders) -> None:
    """A run that has segments is cut as the plain reading of the rule cuts its rows; others are not."""
    staged = folders.staged(variant.path, (raw / variant.path).read_bytes())
    along = variant.cut_along
    assert staged.facts.is_cut is (along is not None)
    if along is None:
        return
    rows = list(variant.rows) * variant.runs
    values = [row[list(variant.columns).index(along)] for row in rows]
    if along in KINDS or variant.procedure == "ItVg":
        pieces = reference.phases(values, KINDS.get(along, "plateau"))
    else:
        pieces = reference.segments(values, variant.sweep_step)
    cut = folders.cut(staged)
    found = [pl.read_parquet(folders.output / output.path) for output in cut.outputs]
    assert [(one["segment_type"][0], one["segment_direction"][0], one.height) for one in found] == [
        (piece.kind, piece.direction, piece.stop - piece.start) for piece in pieces
    ]
    for number, (one, piece) in enumerate(zip(found, pieces, strict=True)):
        assert one["segment_id"].to_list() == [number] * one.height
        assert one["point_in_segment"].to_list() == list(range(one.height))
        assert bits(one[along].to_list()) == bits(values[piece.start : piece.stop])
    assert cut.rows_outside + sum(one.height for one in found) == len(rows)
    assert pieces


def test_rows_are_awaited_from_a_procedure_without_columns(raw: Path, folders: Folders) -> None:
    """A Wait writes no data, so its line of labels is empty: the file waits like any other, its header is not bad."""
    (outcome,) = folders.stage_jobs(StageJob(folders.put("wait.csv", (raw / "wait.csv").read_bytes())))
    assert isinstance(outcome, NoRows)
    assert (outcome.state, outcome.proc) == (FileState.STARTED, "Wait")
    refused = folders.refused((raw / "wait.csv").read_bytes() + b"1.0\r\n")
    assert (refused.rejection.cause, refused.rejection.line, refused.rejection.text) == ("bad_columns", 10, "1.0")


def test_writing_into_a_file_again_is_told(raw: Path, folders: Folders) -> None:
    """A second run into the same file leaves its metadata between the rows: kept apart, and the run is not whole."""
    staged = folders.staged("twice.csv", (raw / "ivg-written-twice.csv").read_bytes())
    assert staged.facts.rows == 122
    assert "more than the 61" in staged.facts.completeness.rule


def test_schemas_of_a_procedure_are_one(raw: Path, folders: Folders) -> None:
    """All runs of a procedure, of all years, and all segments, have one schema: they are scanned without options."""
    segments: dict[str, int] = {}
    for variant in WITH_ROWS:
        staged = folders.staged(variant.path, (raw / variant.path).read_bytes())
        if staged.facts.is_cut:
            cut = folders.cut(staged)
            rows = staged.facts.rows - cut.rows_outside
            segments[variant.procedure] = segments.get(variant.procedure, 0) + rows
    for name in {variant.procedure for variant in WITH_ROWS}:
        rows = sum(len(one.rows) * one.runs for one in WITH_ROWS if one.procedure == name)
        assert scanned(folders.stage / f"proc={name}") == rows
        if name in segments:
            assert scanned(folders.output / f"{name.lower()}_segments") == segments[name]


def scanned(folder: Path) -> int:
    """Scan all files of a folder, which must have one schema, in one order; give the number of rows."""
    files = list(folder.rglob("*.parquet"))
    schemas = {tuple(pl.read_parquet_schema(file).items()) for file in files}
    assert len(schemas) == 1, folder
    return pl.scan_parquet(folder / "**/*.parquet").collect().height


def test_a_column_that_nobody_knows(raw: Path, folders: Folders) -> None:
    """A column of one file alone is kept, and all runs are scanned together by the options that README names."""
    options: dict[str, Any] = {"missing_columns": "insert", "extra_columns": "ignore"}
    readme = " ".join((TESTS.parent / "README.md").read_text(encoding="utf-8").split())
    assert ", ".join(f'{key}="{value}"' for key, value in options.items()) in readme
    contents = (raw / "ivg-2024-09.csv").read_bytes()
    head, rows = contents.split(b"#Data:\r\n")
    more = [line + (b",1.0" if at else b",Lockin X (V)") for at, line in enumerate(rows.splitlines())]
    other = head.replace(b"#\tStart time: 1", b"#\tStart time: 2") + b"#Data:\r\n" + b"\r\n".join(more) + b"\r\n"
    staged = [folders.staged(*one) for one in {"a": contents, "b": other}.items()]
    assert ["Lockin X (V)" in " ".join(one.remarks) for one in staged] == [False, True]
    files = [folders.stage / one.output.path for one in staged]
    for order in (files, files[::-1]):
        frame = pl.scan_parquet(order, **options).collect()
        assert frame["Vg (V)"].null_count() == 0
        assert frame.height == 122
