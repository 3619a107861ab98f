"""The manifest: one row a run, whole at any moment."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import duckdb
import polars as pl
import pytest
from inprocess import Folders
from instrument import it, iv

from nanolab_daemon import manifest, publish
from nanolab_daemon.catalog import FILE_NAME, Catalog
from nanolab_daemon.procedures import RESERVED_MANIFEST_COLUMNS, Registry
from nanolab_daemon.registrar import Registrar
from nanolab_daemon.tasks import ManifestJob, ManifestWritten, SegmentJob, StageJob

PATH = "_manifest/manifest.parquet"


class Lab:
    """A ledger, and runs put into it."""

    def __init__(self, root: Path) -> None:
        self.ledger = root / FILE_NAME
        self.catalog = Catalog.open(self.ledger)
        self.folders = Folders(root, owner=self.catalog.ledger_id).make()
        self.registrar = Registrar(self.catalog, self.folders.stage, self.folders.output, time.time)

    def add(self, path: str, contents: bytes) -> None:
        staged = self.folders.staged(path, contents)
        self.registrar.staged(StageJob(path.encode()), staged)
        if staged.facts.is_cut:
            job = self.registrar.segment_job(staged.facts.run_id, live=False)
            assert isinstance(job, SegmentJob)
            self.registrar.segmented(job, self.folders.cut(staged))
        self.registrar.commit()

    def write(self) -> pl.DataFrame:
        manifest.write(self.ledger, self.folders.stage, self.folders.owner)
        return pl.read_parquet(self.folders.stage / PATH)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_one_row_tells_a_run(lab: Lab) -> None:
    """A run's row says what it is, where it lies, how complete it is, and which voltages it was made with."""
    lab.add("x/iv.csv", iv(1).first(30).data())
    lab.add("it.csv", it(2).data())
    frame = lab.write()
    first = frame.row(0, named=True)
    assert frame.height == 2
    wanted = {
        "proc": "IV",
        "status": "segmented",
        "date": "2025-09-04",
        "date_origin": "meta",
        "chip_group": "Alisson",
        "chip_number": 79,
        "sample": "F",
        "rows": 30,
        "expected_rows": 44,
        "complete": False,
        "completeness_rule": "30 of 44 rows, cut short, each set point until then as the header prescribes"
        " (zero-start-end-zero in two steps)",
        "flags": ["incomplete"],
        "segment_kind": "sweep",
        "source_file": "x/iv.csv",
        "source_missing": False,
        "revision": 1,
        "segments": 3,
        "vsd_start_V": -0.1,
        "vsd_end_V": 0.1,
        "vsd_step_V": 0.01,
        "vg_V": -0.4,
        "vds_V": None,
        "wavelength_nm": 455.0,
        "laser_period_s": None,
    }
    assert {key: first[key] for key in wanted} == wanted
    assert (lab.folders.stage / first["path"]).is_file()
    assert (lab.folders.output / first["segments_path"]).is_dir()
    second = frame.row(1, named=True)
    assert (second["status"], second["segments"], second["rows_outside_segments"]) == ("segmented", 3, 0)
    assert (second["laser_period_s"], second["complete"]) == (2.0, True)
    assert (second["flags"], second["segment_kind"], second["expected_end_s"]) == ([], "light", 3.0)


def test_in_parts_it_is_what_it_is_whole(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many runs are in memory at a time, the rows, their order and their types are the same; each is told."""
    for number in range(9):
        lab.add(f"2025-01-0{number % 3 + 1}/{number}.csv", (iv, it)[number % 2](number, start=1.7e9 - number).data())
    whole = lab.write()
    for most in (1, 2, 4, 9):
        monkeypatch.setattr(manifest, "PART_RUNS", most)
        told: list[None] = []
        manifest.write(lab.ledger, lab.folders.stage, lab.folders.owner, lambda told=told: told.append(None))
        assert pl.read_parquet(lab.folders.stage / PATH).equals(whole)
        assert len(told) == -(-9 // most)
    assert whole["start_dt"].is_sorted()


def test_no_parameter_takes_the_name_of_a_column() -> None:
    """A procedure of the user's can't bring a parameter into the manifest under the name of one of its columns."""
    fixed = set(manifest.table([], ()).column_names)
    fixed -= {name for procedure in Registry.builtin() for name in procedure.manifest}
    assert fixed <= RESERVED_MANIFEST_COLUMNS


def test_types_do_not_depend_on_contents(lab: Lab) -> None:
    """The columns and their types are the same without any run, and are plain for DuckDB."""
    empty = lab.write()
    lab.add("a.csv", iv(1).data())
    full = lab.write()
    assert empty.height == 0
    assert list(empty.schema.items()) == list(full.schema.items())
    assert pl.Null not in full.dtypes
    answer = duckdb.sql(f"select typeof(run_id), typeof(start_dt), typeof(flags) from '{lab.folders.stage / PATH}'")
    assert answer is not None
    assert answer.fetchall() == [("VARCHAR", "TIMESTAMP WITH TIME ZONE", "VARCHAR[]")]


def test_readers_always_find_a_whole_one(lab: Lab) -> None:
    """While it is rebuilt again and again, a reader finds a complete manifest."""
    lab.add("a.csv", iv(1).data())
    lab.write()
    wrong: list[object] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            try:
                contents = (lab.folders.stage / PATH).read_bytes()
            except OSError as error:
                wrong.append(error)
            else:
                if not contents.endswith(b"PAR1"):
                    wrong.append(contents[:10])

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(20):
        lab.write()
    stop.set()
    reader.join()
    assert wrong == []
    assert lab.folders.bundles() == []


def test_failed_manifest_leaves_the_old_one(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it can't be written, the old one stays and nothing is left behind; the worker blames the machine."""
    lab.add("a.csv", iv(1).data())
    before = lab.write()
    (outcome,) = lab.folders.cut_jobs(ManifestJob(str(lab.ledger), 7))
    assert outcome == ManifestWritten(7, 1)

    def fail(root: Path) -> None:
        raise OSError(5, "Input/output error", str(root))

    monkeypatch.setattr(publish, "sync", fail)
    (outcome,) = lab.folders.cut_jobs(ManifestJob(str(lab.ledger), 8))
    assert not isinstance(outcome, ManifestWritten)
    assert pl.read_parquet(lab.folders.stage / PATH).equals(before)
    assert lab.folders.bundles() == []
