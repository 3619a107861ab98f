"""Questions to the ledger: status, why, rejects, what to retry, and whether ledger and disk agree."""

from __future__ import annotations

import os
import shutil
import socket
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import instrument
import messy
import pytest
from lab import InlinePool, Lab

from nanolab_daemon import again, control, report, verify
from nanolab_daemon.catalog import FILE_NAME, Catalog
from nanolab_daemon.errors import UsageError
from nanolab_daemon.lock import Lock
from nanolab_daemon.publish import MANIFEST, TEMP_FOLDER
from nanolab_daemon.why import Why, why


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Give a lab after a backfill over a messy folder."""
    monkeypatch.setattr(verify, "Pool", InlinePool)
    monkeypatch.setattr(verify, "LOOK_AGAIN_AFTER_S", 0.0)
    monkeypatch.chdir(tmp_path)
    lab = Lab(tmp_path / "lab")
    messy.fill(lab.raw)
    lab.backfill()
    return lab


def now() -> datetime:
    return datetime.now(UTC)


class TestStatus:
    def test_before_there_is_a_ledger(self, tmp_path: Path) -> None:
        found = report.status(Lab(tmp_path).config, now())
        assert (found.running, found.ledger_exists, found.total.runs) == (False, False, 0)
        assert not (tmp_path / "state").exists()

    def test_counts_states_runs_rows_and_segments(self, lab: Lab) -> None:
        found = report.status(lab.config, now())
        states = [*messy.VERDICTS.values(), "segmented"]
        assert found.files == {state: states.count(state) for state in sorted(set(states))}
        assert found.total.runs == 4
        assert found.total == found.today
        assert found.pending_segments == 0
        assert {one.file for one in found.last_rejects} == {"bad.csv", "text.csv", "abandoned.csv"}

    def test_today_ends_at_midnight_in_the_lab(self, lab: Lab) -> None:
        tomorrow = report.status(lab.config, now() + timedelta(days=1))
        assert (tomorrow.today.runs, tomorrow.total.runs) == (0, 4)

    def test_does_not_wait_long_for_a_daemon_that_hangs(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        assert control.LOOK_S <= 3
        monkeypatch.setattr(control, "LOOK_S", 0.1)
        monkeypatch.chdir(lab.state)  # the name of a socket is short
        with Lock(lab.state, "run"), socket.socket(socket.AF_UNIX) as deaf:
            deaf.bind(control.FILE_NAME)
            deaf.listen()
            for told in (report.status(lab.config, now()).health, why(lab.config, "iv.csv").live_trouble):
                assert told.startswith("The daemon does not answer: nothing came within 0.1 s.")

    def test_says_who_holds_the_lock(self, lab: Lab) -> None:
        with Lock(lab.state, "backfill"):
            found = report.status(lab.config, now())
        assert (found.running, found.command, found.pid, found.health) == (True, "backfill", os.getpid(), "at work")
        assert found.live is None

    def test_gives_the_daemons_own_answer(self, lab: Lab) -> None:
        with lab.daemon():
            found = report.status(lab.config, now())
        assert found.live is not None
        assert found.live["pid"] == os.getpid()
        assert found.health == "well"

    def test_leaves_no_trace_beside_the_ledger(self, lab: Lab) -> None:
        before = sorted(os.listdir(lab.state))
        report.status(lab.config, now())
        assert sorted(os.listdir(lab.state)) == before


class TestWhy:
    @pytest.mark.parametrize(("file", "state"), messy.VERDICTS.items())
    def test_knows_every_state(self, lab: Lab, file: str, state: str) -> None:
        found = why(lab.config, file)
        assert (found.file, found.state, found.known, found.exists) == (file, state, True, True)
        assert found.reason.endswith(".")
        assert found.next.endswith((".", "FILE`."))

    def test_takes_a_path_in_any_form(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        (lab.home / "link").symlink_to(lab.raw)
        monkeypatch.chdir(lab.raw / "day")
        for text in (
            "ivg.csv",
            "./ivg.csv",
            "../day/ivg.csv",
            "day/ivg.csv",
            str(lab.raw / "day" / "ivg.csv"),
            str(lab.home / "link" / "day" / "ivg.csv"),
        ):
            assert why(lab.config, text).file == "day/ivg.csv"
        monkeypatch.chdir("/")
        assert why(lab.config, "ivg.csv").file == "day/ivg.csv"  # by its name alone

    @pytest.mark.parametrize("form", ["od\\xffd\\nname.csv", os.fsdecode(messy.ODD_NAME)])
    def test_takes_names_that_are_no_utf8(self, lab: Lab, form: str) -> None:
        found = why(lab.config, form)
        assert (found.file, found.state) == ("od\\xffd\\nname.csv", "segmented")

    def test_takes_a_run_id(self, lab: Lab) -> None:
        for run_id, run in lab.runs().items():
            found = why(lab.config, run_id)
            assert found.run is not None
            assert found.run.run_id == run_id
            assert (
                os.fsencode(found.full_path) == os.path.join(os.fsencode(lab.raw), run.source) or "\\x" in found.file
            )

    def test_refuses_a_run_id_that_nobody_published(self, lab: Lab) -> None:
        with pytest.raises(UsageError, match="No run 0123456789abcdef"):
            why(lab.config, "0123456789abcdef")

    def test_refuses_a_name_that_several_files_have(self, lab: Lab) -> None:
        for folder in ("one", "two"):
            instrument.it(20).write(lab.raw / folder / "same.csv")
        lab.backfill()
        with pytest.raises(UsageError, match=r"2 files have the name same\.csv") as caught:
            why(lab.config, "same.csv")
        assert "one/same.csv" in caught.value.advice

    def test_shows_the_bad_line_and_its_neighbours(self, lab: Lab) -> None:
        found = why(lab.config, "bad.csv")
        line = messy.bad_line(instrument.iv(4))
        assert (found.line, found.text, found.cause) == (line, "0.1,oops,nan,nan,nan", "bad_rows")
        assert [one.number for one in found.lines] == list(range(line - 2, line + 3))
        assert [one.text for one in found.lines if one.offending] == ["0.1,oops,nan,nan,nan"]
        assert "retry --skip-bad-rows" in found.next
        assert found.expected_rows == (44,)

    def test_shows_header_rows_and_outputs(self, lab: Lab) -> None:
        found = why(lab.config, "iv.csv")
        assert found.header is not None
        assert found.header.procedure == "IV"
        assert found.header.parameters["VSD step"] == "0.01 V"
        assert (found.rows, found.expected_rows) == (44, (44,))
        assert found.run is not None
        assert (found.run.complete, found.run.revision, len(found.run.outputs)) == (True, 1, 5)
        assert all(output.there and Path(output.path).is_absolute() for output in found.run.outputs)

    @pytest.mark.parametrize(("file", "other"), [("z-copy.csv", "iv.csv"), ("z-short.csv", "day/ivg.csv")])
    def test_names_the_file_that_is_published_instead(self, lab: Lab, file: str, other: str) -> None:
        found = why(lab.config, file)
        assert found.run is not None
        assert found.run.published_from == other

    @pytest.mark.parametrize(
        ("file", "reason"),
        [
            ("link.csv", "symbolic link"),
            ("pipe.csv", "no regular file"),
            (".hidden.csv", "hidden"),
            ("notes.txt", "watch.include"),
            ("day", "folder"),
            ("nowhere.csv", "no such file"),
            ("/etc/passwd", "outside the raw folder"),
        ],
    )
    def test_says_why_a_file_does_not_count(self, lab: Lab, file: str, reason: str) -> None:
        found = why(lab.config, file)
        assert not found.known
        assert reason in found.reason

    def test_says_that_the_raw_folder_is_no_file(self, lab: Lab) -> None:
        assert "raw folder itself" in why(lab.config, str(lab.raw)).reason

    def test_says_that_a_folder_on_the_way_is_a_link(self, lab: Lab) -> None:
        (lab.raw / "away").symlink_to(lab.raw / "day")
        instrument.it(30).write(lab.raw / "day" / "new.csv")
        assert "through a symbolic link (away)" in why(lab.config, str(lab.raw / "away" / "new.csv")).reason

    def test_tells_of_a_file_that_was_not_seen_yet(self, lab: Lab) -> None:
        instrument.it(31).write(lab.raw / "new.csv")
        found = why(lab.config, "new.csv")
        assert "not seen it yet" in found.reason
        assert "backfill" in found.next
        assert found.header is not None

    def test_tells_that_a_file_has_changed_since(self, lab: Lab) -> None:
        instrument.iv(4).write(lab.raw / "bad.csv")
        found = why(lab.config, "bad.csv")
        assert found.changed_since
        assert "changed since" in found.next

    def test_tells_of_a_file_that_has_gone(self, lab: Lab) -> None:
        (lab.raw / "it.csv").unlink()
        lab.backfill()
        found = why(lab.config, "it.csv")
        assert found.exists is False
        assert "has gone" in found.reason
        assert found.run is not None
        assert found.run.source_missing

    @pytest.mark.parametrize("root", ["stage", "output"])
    def test_tells_that_a_published_file_has_gone_and_what_makes_it_again(self, lab: Lab, root: str) -> None:
        shown = why(lab.config, "it.csv").run
        assert shown is not None
        run = lab.runs()[shown.run_id]
        shutil.rmtree(next(getattr(lab, root).rglob(f"run_id={run.run_id}")))
        assert "`nanolab-daemon verify --repair`" in why(lab.config, "it.csv").next
        (lab.raw / "it.csv").unlink()
        lab.backfill()
        if root == "output":  # segments are made from the staged file
            assert (lab.output / run.segments_folder).is_dir()
            shutil.rmtree(lab.stage / run.folder)
        assert "Put that one back; then" in why(lab.config, "it.csv").next

    @pytest.mark.parametrize("name", ["../none.csv", "/none/none.csv", "a/../../../none.csv"])
    def test_a_path_elsewhere_is_taken_from_here_and_told_to_be_none(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        (lab.home / "none.csv").write_text("beside raw")
        (lab.home / "here").mkdir()
        monkeypatch.chdir(lab.home / "here" if name.startswith("a/") else lab.raw.parent.parent)
        found = why(lab.config, name)
        assert found.full_path == os.path.normpath(Path.cwd() / name)
        assert "There is no such file" in found.reason

    def test_works_without_a_ledger(self, tmp_path: Path) -> None:
        lab = Lab(tmp_path / "empty")
        instrument.it(1).write(lab.raw / "it.csv")
        found: Why = why(lab.config, "it.csv")
        assert (found.known, found.exists) == (False, True)


class TestRejects:
    def test_groups_by_cause(self, lab: Lab) -> None:
        groups = {group.cause: [one.file for one in group.files] for group in report.rejects(lab.config)}
        assert groups == {
            "abandoned": ["abandoned.csv"],
            "bad_rows": ["bad.csv"],
            "not_instrument_file": ["text.csv"],
        }

    def test_gives_reason_line_text_and_advice(self, lab: Lab) -> None:
        (one,) = next(group.files for group in report.rejects(lab.config) if group.cause == "bad_rows")
        assert (one.line, one.text) == (messy.bad_line(instrument.iv(4)), "0.1,oops,nan,nan,nan")
        assert "oops" in one.reason
        assert "retry --skip-bad-rows" in one.advice

    def test_is_empty_without_a_ledger(self, tmp_path: Path) -> None:
        assert report.rejects(Lab(tmp_path).config) == ()


class TestRetry:
    def test_takes_all_rejects_by_default(self, lab: Lab) -> None:
        chosen = again.choose(lab.config, (), skip_bad_rows=False)
        assert [job.path for job in chosen.jobs] == [b"abandoned.csv", b"bad.csv", b"text.csv"]
        assert all(job.force and not job.skip_bad_rows for job in chosen.jobs)

    @pytest.mark.parametrize(
        ("file", "words"),
        [
            ("z-copy.csv", "not refused"),
            ("z-short.csv", "not refused"),
            ("queued.csv", "no rows yet"),
            ("nowhere.csv", "no such file"),
            ("notes.txt", "watch.include"),
        ],
    )
    def test_says_why_it_leaves_a_file_alone(self, lab: Lab, file: str, words: str) -> None:
        chosen = again.choose(lab.config, (file,), skip_bad_rows=False)
        assert not chosen.jobs
        assert words in chosen.left_alone[0].reason

    def test_a_file_with_bad_rows_is_staged_without_them(self, lab: Lab) -> None:
        chosen = again.choose(lab.config, ("bad.csv",), skip_bad_rows=True)
        lab.backfill("retry", jobs=chosen.jobs)
        (one,) = again.became(lab.config, chosen.jobs)
        assert one.state == "segmented"
        found = why(lab.config, "bad.csv")
        assert found.run is not None
        assert found.run.bad_rows_skipped == 1

    def test_a_published_file_mends_its_outputs(self, lab: Lab) -> None:
        found = why(lab.config, "iv.csv")
        assert found.run is not None
        for output in found.run.outputs[:2]:
            Path(output.path).unlink()
        assert len(verify.verify(lab.config).problems) == 2
        chosen = again.choose(lab.config, ("iv.csv",), skip_bad_rows=False)
        lab.backfill("retry", jobs=chosen.jobs)
        assert verify.verify(lab.config).problems == ()


class TestVerify:
    def test_finds_nothing_wrong_after_a_backfill(self, lab: Lab) -> None:
        found = verify.verify(lab.config)
        assert found.problems == ()
        assert found.notes == ()
        assert (found.runs, found.files) == (4, sum(1 for p in lab.home.rglob("part-*.parquet")))

    def test_knows_nothing_without_a_ledger(self, tmp_path: Path) -> None:
        found = verify.verify(Lab(tmp_path).config)
        assert (found.problems, found.runs) == ((), 0)

    def kinds(self, lab: Lab) -> list[tuple[str, str]]:
        return [(one.kind, one.detail) for one in verify.verify(lab.config).problems]

    def test_finds_a_file_that_is_lost(self, lab: Lab) -> None:
        next(lab.stage.rglob("part-*.parquet")).unlink()
        assert self.kinds(lab) == [("damaged", "is not there")]

    def test_finds_bytes_that_have_changed(self, lab: Lab) -> None:
        path = next(lab.output.rglob("part-*.parquet"))
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        assert self.kinds(lab) == [("damaged", "holds other bytes than were published (its SHA-256 differs)")]

    def test_finds_a_file_that_was_cut(self, lab: Lab) -> None:
        path = next(lab.stage.rglob("part-*.parquet"))
        path.write_bytes(path.read_bytes()[:-10])
        (problem,) = verify.verify(lab.config).problems
        assert "bytes, not" in problem.detail
        assert "verify --repair" in problem.remedy

    @pytest.mark.parametrize("root", ["stage", "output"])
    def test_finds_foreign_files_and_what_another_ledger_left(self, lab: Lab, root: str) -> None:
        top = lab.stage if root == "stage" else lab.output
        folder = next(path for path in top.rglob("proc=*") if path.is_dir())
        (folder / "mine.csv").write_text("x")
        left = folder / "date=2020-01-01" / "run_id=00000000000000aa"
        left.mkdir(parents=True)
        (left / "part-000.parquet").write_text("x")
        assert [kind for kind, _ in self.kinds(lab)] == ["foreign", "stale"]

    def test_finds_a_segment_too_many(self, lab: Lab) -> None:
        run = next(path for path in lab.output.rglob("run_id=*"))
        (run / "segment=99").mkdir()
        (run / "segment=99" / "part-000.parquet").write_text("x")
        assert [kind for kind, _ in self.kinds(lab)] == ["stale"]

    def test_finds_temporary_files_of_no_living_engine(self, lab: Lab) -> None:
        catalog = Catalog.open_to_read(lab.state / FILE_NAME)
        assert catalog is not None
        own = catalog.ledger_id
        catalog.close()
        for owner in (own, "0123456789ab"):
            (lab.stage / TEMP_FOLDER / owner / "1-0").mkdir(parents=True)
            (lab.stage / TEMP_FOLDER / owner / "1-0" / "part-000.parquet").write_text("x")
        assert [kind for kind, _ in self.kinds(lab)] == ["temporary", "temporary"]
        with Lock(lab.state, "run"):  # its own temporary files are a living engine's
            assert [kind for kind, _ in self.kinds(lab)] == ["temporary"]

    def test_finds_segments_that_do_not_tile_their_run(self, lab: Lab) -> None:
        catalog = Catalog.open(lab.state / FILE_NAME)
        run = next(run for run in catalog.runs() if run.segment_files)
        catalog.put_run(replace(run, rows_outside=(run.rows_outside or 0) + 3))
        catalog.close()
        assert "segments" in [kind for kind, _ in self.kinds(lab)]

    def test_finds_a_manifest_that_is_lost_or_behind(self, lab: Lab) -> None:
        manifest = lab.stage / MANIFEST
        old = manifest.read_bytes()
        instrument.it(40).write(lab.raw / "new.csv")
        lab.backfill()
        assert self.kinds(lab) == []
        manifest.write_bytes(old)
        ((kind, detail),) = self.kinds(lab)
        assert kind == "manifest"
        assert "1 are lacking" in detail
        manifest.unlink()
        assert self.kinds(lab) == [("manifest", "is not there")]
        lab.backfill()  # a start without one writes it anew
        assert self.kinds(lab) == []

    def test_a_run_without_segments_yet_is_a_note(self, lab: Lab) -> None:
        instrument.iv(41).write(lab.raw / "new.csv")
        lab.backfill(segment=False)
        found = verify.verify(lab.config)
        assert found.problems == ()
        assert len(found.notes) == 1
        assert "preprocess" in found.notes[0]

    def test_segments_of_an_earlier_revision_are_stale(self, lab: Lab) -> None:
        instrument.iv(0, reach=0.2).write(lab.raw / "iv.csv")
        grown = instrument.ivg(1)
        replace(grown, rows=[*grown.rows, grown.rows[-1]]).write(lab.raw / "day" / "ivg.csv")
        lab.backfill(segment=False)
        assert "stale" in [kind for kind, _ in self.kinds(lab)]
        lab.backfill()
        assert self.kinds(lab) == []
