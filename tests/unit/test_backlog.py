"""One pass over the raw folder: what it offers, what it follows, what it concludes."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanolab_daemon import backlog as module
from nanolab_daemon.backlog import Backlog, Rules
from nanolab_daemon.catalog import Catalog, FileRecord
from nanolab_daemon.errors import EngineError
from nanolab_daemon.model import FileState
from nanolab_daemon.rawfile import fingerprint
from nanolab_daemon.registrar import AGAIN, UNKNOWN, Registrar
from nanolab_daemon.scan import name_test
from nanolab_daemon.tally import Tally
from nanolab_daemon.tasks import StageJob


class Passes:
    """A raw folder and a ledger, and passes over the one with the other."""

    def __init__(self, root: Path, catalog: Catalog) -> None:
        self.raw = root / "raw"
        self.raw.mkdir()
        self.catalog = catalog
        self.registrar = Registrar(catalog, root / "stage", root / "output", time.time)
        self.tally = Tally()

    def write(self, name: str, contents: bytes = b"x", *, age_s: float = 0.0) -> Path:
        path = self.raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents)
        os.utime(path, (time.time() - age_s,) * 2)
        return path

    def know(self, name: str, state: FileState = FileState.REJECTED, **changes: Any) -> None:
        """Let the ledger know a file as it is."""
        values: dict[str, Any] = {
            "path": name.encode(),
            "present": True,
            "fingerprint": fingerprint((self.raw / name).stat()),
            "sha256": f"sha of {name}",
            "state": state,
            "reason": "why",
            **dict.fromkeys(("proc", "run_id", "rows", "rejection")),
            **{"attempts": 0, "republished": 0, "skip_bad_rows": False, "version": "0.1"},
            **{"seen_at": 1.0, "judged_at": 2.0},
        }
        self.catalog.put_file(FileRecord(**{**values, **changes}))

    def run(self, meanwhile: Callable[[], None] | None = None, **rules: Any) -> dict[str, StageJob]:
        """Make one pass; give what it offers. `meanwhile` happens once all folders are listed, and none compared."""
        self.tally = Tally()
        backlog = Backlog(
            self.raw,
            name_test(["*.csv"], []),
            self.catalog,
            self.tally,
            rules=Rules(**rules),
            registrar=self.registrar,
        )
        backlog.start()
        if meanwhile is not None:
            backlog._thread.join(20)
            assert not backlog._thread.is_alive()
            meanwhile()
        offered: list[StageJob] = []
        try:
            while not backlog.finished:
                offered += backlog.take(7)
        finally:
            backlog.stop()
        assert len({job.path for job in offered}) == len(offered)
        return {os.fsdecode(job.path): job for job in offered}

    def state(self, name: str) -> FileState | None:
        record = self.catalog.file(name.encode())
        return record.state if record and record.present else None


@pytest.fixture
def passes(tmp_path: Path) -> Iterator[Passes]:
    with closing(Catalog.open(tmp_path / "state" / "ledger.sqlite")) as catalog:
        yield Passes(tmp_path, catalog)


def test_offers_what_is_new_or_changed(passes: Passes) -> None:
    """New and changed files are offered; known ones are not opened. A changed one says which bytes are known."""
    for name in ("known.csv", "changed.csv", "d/new.csv", "again.csv"):
        passes.write(name)
    passes.know("known.csv")
    passes.know("changed.csv", fingerprint=UNKNOWN)
    passes.know("again.csv", fingerprint=AGAIN)
    offered = passes.run()
    assert set(offered) == {"changed.csv", "d/new.csv", "again.csv"}
    assert offered["d/new.csv"].known_sha256 is None
    assert offered["changed.csv"].known_sha256 == "sha of changed.csv"
    assert (passes.tally.found, passes.tally.known) == (4, 1)


def test_unreadable_files_are_tried_each_time(passes: Passes) -> None:
    """What could not be read is offered again although it has not changed."""
    passes.write("a.csv")
    passes.know("a.csv", FileState.WAITING, sha256=None)
    assert set(passes.run()) == {"a.csv"}


def test_force_offers_everything(passes: Passes) -> None:
    """By force known files are offered too, to be published anew."""
    passes.write("a.csv")
    passes.know("a.csv")
    (job,) = passes.run(force=True).values()
    assert (job.force, job.known_sha256) == (True, None)


def test_leave_to_skip_bad_rows_is_kept_for_those_bytes(passes: Passes) -> None:
    """Leave once given holds for the bytes it was given for."""
    passes.write("a.csv")
    passes.know("a.csv", fingerprint=UNKNOWN, skip_bad_rows=True)
    (job,) = passes.run().values()
    assert (job.skip_bad_rows, job.skip_bad_rows_of) == (False, "sha of a.csv")


@pytest.mark.parametrize(("age_s", "state"), [(100.0, FileState.QUEUED), (100000.0, FileState.REJECTED)])
def test_file_without_rows_is_given_up_in_time(passes: Passes, age_s: float, state: FileState) -> None:
    """A file without rows waits for a day, and is rejected then, without being opened."""
    passes.write("a.csv", age_s=age_s)
    passes.know("a.csv", FileState.QUEUED)
    assert passes.run() == {}
    assert passes.state("a.csv") is state


def test_renamed_files_are_followed(passes: Passes, monkeypatch: pytest.MonkeyPatch) -> None:
    """When all files are renamed at once, all are followed; none counts as missing, however many they are."""
    monkeypatch.setattr(module, "SHRINK_FILES", 2)
    for number in range(8):
        passes.write(f"{number}.csv", str(number).encode())
        passes.know(f"{number}.csv")
    for number in range(8):
        (passes.raw / "d").mkdir(exist_ok=True)
        (passes.raw / f"{number}.csv").rename(passes.raw / "d" / f"{number}.csv")
    assert passes.run() == {}
    assert [record.path for record in passes.catalog.files("present")] == [b"d/%d.csv" % n for n in range(8)]
    assert (passes.tally.missing, passes.tally.missing_ignored) == (0, 0)


def test_returned_file_needs_no_work(passes: Passes) -> None:
    """A file that had vanished and is back as it was is not opened."""
    passes.write("a.csv")
    passes.know("a.csv", present=False)
    assert passes.run() == {}
    assert passes.state("a.csv") is FileState.REJECTED


def test_missing_files_are_concluded(passes: Passes) -> None:
    """A file that is gone, or whose folder is, is noted as missing."""
    for name in ("a.csv", "d/e/b.csv", "d/c.csv"):
        passes.write(name)
        passes.know(name)
    (passes.raw / "a.csv").unlink()
    (passes.raw / "d/e/b.csv").unlink()
    (passes.raw / "d/e").rmdir()
    passes.run()
    assert [passes.state(name) for name in ("a.csv", "d/e/b.csv", "d/c.csv")] == [None, None, FileState.REJECTED]
    assert passes.tally.missing == 2


def test_sudden_shrink_is_no_deletion(passes: Passes) -> None:
    """When most of many files are gone at once, nothing is concluded."""
    for number in range(30):
        passes.write(f"{number}.csv")
        passes.know(f"{number}.csv")
    for number in range(25):
        (passes.raw / f"{number}.csv").unlink()
    passes.run()
    assert (passes.tally.missing, passes.tally.missing_ignored) == (0, 25)
    assert passes.state("0.csv") is FileState.REJECTED


def test_folder_that_can_not_be_listed_proves_nothing(passes: Passes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files below a folder that can't be listed are not missing."""
    for name in ("d/a.csv", "d/e/b.csv", "f/c.csv"):
        passes.write(name)
        passes.know(name)
    real = os.scandir

    def scandir(folder: int) -> Any:
        if os.readlink(f"/proc/self/fd/{folder}").endswith("/d"):
            raise PermissionError(13, "Permission denied")
        return real(folder)

    (passes.raw / "f/c.csv").unlink()
    monkeypatch.setattr(os, "scandir", scandir)
    passes.run()
    assert [passes.state(name) for name in ("d/a.csv", "d/e/b.csv", "f/c.csv")] == [
        FileState.REJECTED,
        FileState.REJECTED,
        None,
    ]
    assert passes.tally.unreadable_folders == 1


def test_raw_folder_that_can_not_be_listed_ends_the_pass(passes: Passes) -> None:
    """Without the raw folder there is nothing to be said of any file."""
    passes.raw.rmdir()
    with pytest.raises(EngineError, match="can't be listed"):
        passes.run()


def test_stopped_pass_concludes_nothing(passes: Passes) -> None:
    """A pass that is ended half way knows nothing of what it has not seen."""
    passes.write("a.csv")
    passes.know("a.csv")
    (passes.raw / "a.csv").unlink()
    backlog = Backlog(
        passes.raw,
        name_test(["*.csv"], []),
        passes.catalog,
        passes.tally,
        rules=Rules(),
        registrar=passes.registrar,
    )
    backlog.start()
    backlog.stop()
    assert list(backlog.take(10)) == []
    assert passes.state("a.csv") is FileState.REJECTED


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "grow", "delete", "know", "wait", "forget", "start"]),
        st.sampled_from(["a.csv", "d/b.csv"]),
    ),
    min_size=1,
    max_size=5,
)


@given(_STEPS)
@settings(max_examples=30)
def test_what_a_pass_remembers_hides_nothing(steps: list[tuple[str, str]]) -> None:
    """A pass that passes over settled folders offers, counts and concludes what one without memory would."""
    with (
        tempfile.TemporaryDirectory() as home,
        closing(Catalog.open(Path(home) / "state" / "ledger.sqlite")) as ledger,
    ):
        passes = Passes(Path(home), ledger)
        for name in ("a.csv", "d/b.csv"):
            passes.write(name, age_s=3600.0)
            passes.know(name)
        for what, name in steps:
            path = passes.raw / name
            there = path.exists()
            passes.run()  # so that there is something to remember
            match what:
                case "write":
                    passes.write(name, age_s=3600.0)
                case "grow" if there:
                    passes.write(name, path.read_bytes() + b"x", age_s=3600.0)
                case "delete" if there:
                    path.unlink()
                case "know" if there:
                    passes.know(name)
                case "wait" if there:
                    passes.know(name, FileState.WAITING, sha256=None)
                case "start" if there:
                    passes.know(name, FileState.STARTED)
                case "forget" if ledger.file(name.encode()):
                    ledger.set_fingerprint(name.encode(), AGAIN)
            offered = set(passes.run())
            counted = (passes.tally.found, passes.tally.known)
            state = {n: passes.state(n) for _, n in steps}
            ledger._settled.clear()
            assert set(passes.run()) == offered
            assert (passes.tally.found, passes.tally.known) == counted
            assert {n: passes.state(n) for _, n in steps} == state


@given(
    before=st.sets(st.sampled_from(["a.csv", "b.csv", "d/a.csv", "d/b.csv"])),
    gone=st.sets(st.sampled_from(["a.csv", "b.csv", "d/a.csv", "d/b.csv"])),
    arriving=st.sets(st.sampled_from(["c.csv", "d/c.csv", "e/c.csv", "e/f/c.csv", "a.csv"])),
    judged=st.sets(st.sampled_from(["a.csv", "b.csv", "d/a.csv", "d/b.csv"])),
)
@settings(max_examples=40)
def test_what_is_recorded_while_a_pass_runs_is_not_gone(
    before: set[str], gone: set[str], arriving: set[str], judged: set[str]
) -> None:
    """A folder is listed at one moment and compared at another; only what was known and not there has vanished.

    A verdict that is changed meanwhile, by what other files hold, keeps nothing from having vanished.
    """
    with (
        tempfile.TemporaryDirectory() as home,
        closing(Catalog.open(Path(home) / "state" / "ledger.sqlite")) as catalog,
    ):
        passes = Passes(Path(home), catalog)
        for name in before:
            passes.write(name)
            passes.know(name)
        for name in before & gone:
            (passes.raw / name).unlink()

        def meanwhile() -> None:
            for name in arriving:
                passes.write(name)
                passes.know(name)
            for name in before & judged:
                catalog.set_state(os.fsencode(name), FileState.DUPLICATE, "Another file holds the same.")

        passes.run(meanwhile)
        assert {name for name in before | arriving if passes.state(name) is None} == (before & gone) - arriving
        assert passes.tally.missing == len((before & gone) - arriving)
        passes.run()  # what it could not tell, the next one can
        assert {name for name in before | arriving if passes.state(name) is None} == (before & gone) - arriving
