"""Flags follow the files: renamed, copied and deleted ones, and runs that an older version staged without any."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import instrument
import outputs
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lab import QUICK, Lab, assert_converged
from realdata import REAL_DATA, real_files

from nanolab_daemon import cli_render, cli_summary, report
from nanolab_daemon.catalog import FILE_NAME, Catalog
from nanolab_daemon.catalog_schema import STEPS
from nanolab_daemon.errors import EngineError
from nanolab_daemon.publish import MANIFEST
from nanolab_daemon.quality import MEANINGS
from nanolab_daemon.why import why

FITS, QUEUED, FAR, AHEAD = "IV2025-09-04_1.csv", "x/IV2025-09-01_2.csv", "IV2025-01-01_3.csv", "IV2026-01-01_4.csv"
NAMES = (FITS, QUEUED, FAR, AHEAD, "no date.csv", "2025-01-02/no date.csv")
SWEEP = instrument.iv(2, start=1757018821.0)
"""It began on 2025-09-04 in the lab's time."""


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def manifest(lab: Lab) -> pl.DataFrame:
    return pl.read_parquet((lab.stage / MANIFEST).read_bytes())


def flags(lab: Lab) -> dict[str, list[str] | None]:
    """Give the flags in the manifest of all runs whose raw file is there."""
    there = manifest(lab).filter(~pl.col("source_missing"))
    return dict(zip(there["run_id"].to_list(), there["flags"].to_list(), strict=True))


def put(lab: Lab, name: str, contents: bytes) -> None:
    path = lab.raw / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(contents)


class TestTheClock:
    def test_a_renamed_file_gives_and_takes_the_flag(self, lab: Lab) -> None:
        """The daemon follows a file to its new name, stages nothing again, and the manifest's flag is another one."""
        put(lab, FITS, SWEEP.data())
        lab.age()
        with lab.daemon():
            lab.wait_quiet()
            assert list(flags(lab).values()) == [[]]
            (lab.raw / FITS).rename(lab.raw / FAR)
            lab.wait_quiet()
            assert list(flags(lab).values()) == [["clock_mismatch"]]
            assert flags(lab) == flags(lab.fresh())
            (lab.raw / FAR).rename(lab.raw / "no date.csv")
            lab.wait_quiet()
            assert list(flags(lab).values()) == [[]]
        assert manifest(lab)["revision"].to_list() == [1]

    def test_one_copy_whose_name_fits_is_enough(self, lab: Lab) -> None:
        """Which of two copies came first, or is the source, changes nothing."""
        put(lab, FAR, SWEEP.data())
        lab.age()
        with lab.daemon():
            lab.wait_quiet()
            assert list(flags(lab).values()) == [["clock_mismatch"]]
            shutil.copy2(lab.raw / FAR, lab.raw / FITS)
            lab.wait_quiet()
            assert list(flags(lab).values()) == [[]]
            away = (lab.raw / FITS).rename(lab.home / "away.csv")
            lab.wait_quiet()
            assert list(flags(lab).values()) == [["clock_mismatch"]]
            away.rename(lab.raw / FITS)
            lab.wait_quiet()
            assert list(flags(lab).values()) == [[]]
            (lab.raw / FITS).write_bytes(b"something else\n")
            lab.age()
            lab.wait_quiet()
            assert list(flags(lab).values()) == [["clock_mismatch"]]

    def test_all_who_tell_it_tell_the_same(self, lab: Lab) -> None:
        """Manifest, `why`, `status` and the summary have the flag, with its words; the staged file can't have it."""
        put(lab, AHEAD, SWEEP.first(30).data())
        lab.age()
        ended = lab.backfill()
        assert list(flags(lab).values()) == [["incomplete", "clock_mismatch"]]
        run = why(lab.config, AHEAD).run
        assert run is not None
        assert run.flags is not None
        assert [(one.flag, one.meaning) for one in run.flags] == [
            (flag, MEANINGS[flag]) for flag in ("incomplete", "clock_mismatch")
        ]
        counts = {"incomplete": 1, "clock_mismatch": 1}
        with closing(ledger(lab)) as catalog:
            assert report.flags(catalog) == counts
            found = cli_summary.summary(ended, catalog, "backfill", 0.0)
        assert found["flags"] == counts
        assert "  flags: 1 incomplete, 1 clock_mismatch" in cli_summary.lines(found, unicode=True)
        (staged,) = lab.stage.glob("proc=*/date=*/run_id=*/*.parquet")
        assert pl.read_parquet_metadata(staged)["nanolab.flags"] == '["incomplete"]'

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["write", "cut", "copy", "move", "delete", "spoil", "look"]),
                *[st.sampled_from(NAMES)] * 2,
            ),
            min_size=2,
            max_size=9,
        )
    )
    @settings(max_examples=int(os.environ.get("SEQUENCES", "10")), suppress_health_check=list(HealthCheck))
    def test_whatever_happens_to_the_names(self, steps: Sequence[tuple[str, str, str]]) -> None:
        """After any moves, copies and deletions, live or not, the flags are those of a fresh backfill."""
        with tempfile.TemporaryDirectory(prefix="nanolab-test-") as home:
            lab = Lab(Path(home), watch=QUICK)
            with lab.daemon():
                for what, name, other in steps:
                    happen(lab, what, name, other)
                lab.wait_quiet()
            assert flags(lab) == flags(lab.fresh())
            assert_converged(lab)


def happen(lab: Lab, what: str, name: str, other: str) -> None:
    path, target = lab.raw / name, lab.raw / other
    path.parent.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    match what:
        case "write":
            path.write_bytes(SWEEP.data())
        case "cut":
            path.write_bytes(SWEEP.first(20).data())
        case "copy" if path.exists() and path != target:
            shutil.copyfile(path, target)
        case "move" if path.exists():
            path.rename(target)
        case "delete":
            path.unlink(missing_ok=True)
        case "spoil" if path.exists():
            path.write_bytes(b"no instrument's file\n")
        case "look":
            lab.wait_quiet()


# -- an upgrade


def ledger(lab: Lab) -> Catalog:
    found = Catalog.open_to_read(lab.state / FILE_NAME)
    assert found is not None
    return found


def make_old(lab: Lab) -> None:
    """Put a ledger of the first version in the place of today's, as that version would have left it."""
    path, new = lab.state / FILE_NAME, lab.state / "new.sqlite"
    path.rename(new)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(STEPS[0][1] + "PRAGMA user_version = 1;")
        db.execute("ATTACH ? AS new", (str(new),))
        for table in ("meta", "files", "runs"):
            columns = ", ".join(row[1] for row in db.execute(f"PRAGMA main.table_info({table})"))
            db.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM new.{table}")
        db.execute(
            "UPDATE runs SET segmentation = 'none', segment_files = '[]', rows_outside = NULL WHERE proc = 'It'"
        )
        db.execute("UPDATE files SET state = 'staged' WHERE proc = 'It' AND state = 'segmented'")
    new.unlink()
    shutil.rmtree(lab.output / "it_segments")


def sources(lab: Lab) -> Iterator[Path]:
    with closing(ledger(lab)) as catalog:
        yield from [lab.raw / os.fsdecode(run.source) for run in catalog.runs()]


class TestAnUpgrade:
    @pytest.fixture
    def old(self, lab: Lab) -> Lab:
        """Give a lab whose ledger is of the first version, with a copy and a file without a start time."""
        instrument.lab(lab.raw, 6)
        put(lab, "copy.csv", instrument.iv(0).data())
        put(lab, "copy too.csv", instrument.iv(0).data())
        put(lab, FAR, replace(instrument.iv(3), start_time=None).data())
        put(lab, QUEUED, SWEEP.first(30).data())
        lab.age()
        lab.backfill()
        make_old(lab)
        return lab

    def test_all_runs_get_what_they_lack(self, old: Lab) -> None:
        """A backfill with today's program over an older ledger ends where one without any ledger does."""
        ended = old.backfill()
        assert ended.tally.outcomes["rejected"] == 0
        assert_converged(old)
        assert flags(old) == flags(old.fresh())
        assert manifest(old)["segment_kind"].unique().sort().to_list() == ["light", "sweep"]
        assert set(manifest(old)["revision"]) == {2}
        again = old.backfill()
        assert again.tally.to_stage == 0

    def test_a_file_that_was_moved_meanwhile(self, old: Lab) -> None:
        """It is not known by its fingerprint any more, and its run gets its flags all the same."""
        (old.raw / QUEUED).rename(old.raw / AHEAD)
        old.backfill()
        assert_converged(old)
        assert flags(old) == flags(old.fresh())
        assert ["incomplete", "clock_mismatch"] in flags(old).values()

    def test_the_flags_of_a_vanished_file_are_not_known(self, old: Lab) -> None:
        """Its run stays; the manifest does not claim that it has no flags, and `why` says so."""
        (old.raw / QUEUED).unlink()
        old.backfill()
        lost = manifest(old).filter(pl.col("source_missing"))
        assert lost["flags"].to_list() == [None]
        run = why(old.config, QUEUED).run
        assert run is not None
        assert run.flags is None

    def test_the_daemon_does_it_too(self, old: Lab) -> None:
        """Without anybody asking, beside the files that come."""
        with old.daemon():
            old.wait_quiet()
        assert_converged(old)
        assert flags(old) == flags(old.fresh())

    def test_until_then_it_is_not_read(self, old: Lab) -> None:
        """`status` says what to do instead of failing on a column that is not there."""
        with pytest.raises(EngineError, match="older nanolab-daemon"):
            ledger(old)


# -- completeness, wherever it is told


@pytest.mark.parametrize(
    ("measurement", "expected_rows", "expected_end_s", "complete", "rule"),
    [
        (instrument.iv(0), 44, None, True, "44 of 44 rows, every set point as the header prescribes"),
        (instrument.iv(0).first(30), 44, None, False, "30 of 44 rows, cut short, each set point until then"),
        (instrument.it(1), None, 3.0, True, "the last row is at 3.001 s of 3 s"),
        (instrument.it(1).first(30), None, 3.0, False, "the last row is at 1.47458 s of 3 s"),
        (
            replace(instrument.it(1), procedure="Stress"),
            None, None, None, "nothing in the header tells where such a measurement ends",
        ),
        (replace(instrument.iv(0), procedure="Newest"), None, None, None, "the procedure is not known"),
    ],
)  # fmt: skip
def test_the_rule_is_told_everywhere(
    lab: Lab,
    measurement: instrument.Measurement,
    expected_rows: int | None,
    expected_end_s: float | None,
    complete: bool | None,
    rule: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What the header prescribes, whether it is reached, by which rule: in ledger, manifest and `why`, in words."""
    put(lab, "x.csv", measurement.data())
    lab.age()
    lab.backfill()
    with closing(ledger(lab)) as catalog:
        (known,) = catalog.runs()
    end = known.facts.completeness
    assert end.rule.startswith(rule)
    wanted = (expected_rows, expected_end_s, complete, end.rule)
    assert (end.expected_rows, end.expected_end_s, end.complete, end.rule) == wanted
    row = manifest(lab).row(0, named=True)
    assert tuple(row[n] for n in ("expected_rows", "expected_end_s", "complete", "completeness_rule")) == wanted
    assert row["flags"] == (["incomplete"] if complete is False else [])
    told = why(lab.config, "x.csv")
    assert told.run is not None
    assert (told.run.expected_rows, told.run.expected_end_s, told.run.complete, told.run.rule) == wanted
    cli_render.why(told, as_json=False)
    lines = capsys.readouterr().out
    word = {True: "yes", False: "no", None: "can't be known"}[complete]
    assert f"complete    {word}: {end.rule}" in lines
    assert ("incomplete: " + MEANINGS["incomplete"] in lines) == (complete is False)


# -- what a backfill says


def summary(lab: Lab) -> tuple[dict[str, object], list[str]]:
    ended = lab.backfill()
    with closing(ledger(lab)) as catalog:
        found = cli_summary.summary(ended, catalog, "backfill", 0.0)
    return found["agreement"], cli_summary.lines(found, unicode=True)


class TestAgreement:
    def test_each_procedure_is_told(self, lab: Lab) -> None:
        """Whole, cut short, contrary to the rule, unknown: each is counted, and the rate is of those judged."""
        iv, stress = instrument.iv(0), replace(instrument.it(9), procedure="Stress")
        put(lab, "1.csv", iv.data())
        put(lab, "2.csv", instrument.iv(1).first(30).data())
        put(lab, "3.csv", replace(instrument.iv(2), rows=[*instrument.iv(2).rows] * 2).data())
        put(lab, "4.csv", stress.data())
        swapped = [iv.rows[-1], *iv.rows[1:-1], iv.rows[0]]
        vvg = replace(instrument.ivg(4), procedure="VVg", columns=("Vg (V)", "VDS (V)", "t (s)", "a", "b"))
        put(lab, "5.csv", replace(vvg, rows=[*vvg.rows[1:], *vvg.rows[:1]]).data())
        put(lab, "6.csv", replace(instrument.iv(5), rows=swapped).data())
        lab.age()
        found, lines = summary(lab)
        assert found == {
            "IV": {"complete": 1, "incomplete": 1, "contrary": 2, "unknown": 0, "rate": 0.25},
            "Stress": {"complete": 0, "incomplete": 0, "contrary": 0, "unknown": 1, "rate": None},
            "VVg": {"complete": 0, "incomplete": 0, "contrary": 1, "unknown": 0, "rate": 0.0},
        }
        words = "other than the header can mean: is the rule right?"
        assert f"  IV: 1 of 4 complete as their header prescribes (25.0%), 1 incomplete, 2 {words}" in lines
        assert f"  VVg: 0 of 1 complete as their header prescribes (0.0%), 1 {words}" in lines
        assert "  Stress: 1 whose header tells no end" in lines

    @pytest.mark.slow
    @pytest.mark.skipif(not real_files(), reason="no real instrument files here")
    def test_the_real_files(self, lab: Lab) -> None:
        """No rule is contradicted by any real file; what is not whole is what was aborted."""
        for path in real_files():
            put(lab, str(path.relative_to(REAL_DATA)), path.read_bytes())
        lab.age(48 * 3600)
        found, _ = summary(lab)
        assert {proc: (n["contrary"], n["unknown"]) for proc, n in found.items()} == dict.fromkeys(found, (0, 0))  # type: ignore[index]
        told = manifest(lab).explode("flags").drop_nulls("flags")["flags"].value_counts().rows()
        with closing(ledger(lab)) as catalog:
            assert dict(told) == report.flags(catalog)
        assert outputs.leftovers(lab.stage, lab.output) == []
