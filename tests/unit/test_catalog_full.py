"""A ledger whose disk takes nothing: what is to be recorded stands as before, and is recorded when the disk does.

The limit on file sizes makes the very write(2) of SQLite fail, as a full disk would.
"""

from __future__ import annotations

import resource
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanolab_daemon.catalog import FILE_NAME, Catalog, FileRecord
from nanolab_daemon.model import FileState, Fingerprint
from nanolab_daemon.registrar import UNKNOWN


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Let no file of this process grow."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    most = min((path.stat().st_size for path in folder.glob("*-wal")), default=0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def record(path: int, reason: str) -> FileRecord:
    return FileRecord(
        path=b"%d" % path,
        present=True,
        fingerprint=Fingerprint(path, 1, 1, path),
        sha256=None,
        state=FileState.REJECTED,
        reason=reason,
        proc=None,
        run_id=None,
        rows=None,
        rejection=None,
        attempts=0,
        republished=0,
        skip_bad_rows=False,
        version="1",
        seen_at=0.0,
        judged_at=0.0,
    )


def record_and_fail(catalog: Catalog, what: FileRecord) -> None:
    with catalog.all_or_nothing():
        catalog.put_file(what)
        raise OSError("no")


CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 5), st.sampled_from(["a", "b" * 5000])),
        st.tuples(st.just("unknown"), st.integers(0, 5), st.just("")),
        st.tuples(st.just("commit"), st.just(0), st.just("")),
        st.tuples(st.just("commit on a full disk"), st.just(0), st.just("")),
        st.tuples(st.just("undone"), st.integers(0, 5), st.just("c")),
    ),
    max_size=12,
)


@given(CHANGES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
def test_nothing_is_lost_and_nothing_comes_twice(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, int, str]]
) -> None:
    """However often the disk is full at a commit, and whatever is undone, the ledger ends as if it never had been."""
    folder = tmp_path_factory.mktemp("state")
    catalog = Catalog.open(folder / FILE_NAME)
    expected: dict[bytes, FileRecord] = {}
    try:
        for what, path, reason in changes:
            if what == "put":
                catalog.put_file(record(path, reason))
                expected[b"%d" % path] = record(path, reason)
            elif what == "unknown" and b"%d" % path in expected:
                catalog.set_fingerprint(b"%d" % path, UNKNOWN)
                known = expected[b"%d" % path]
                expected[b"%d" % path] = FileRecord(
                    **{**{name: getattr(known, name) for name in FileRecord.__slots__}, "fingerprint": UNKNOWN}
                )
            elif what == "commit":
                catalog.commit()
            elif what == "commit on a full disk" and catalog.uncommitted:
                with full_disk(folder), pytest.raises(sqlite3.OperationalError):
                    catalog.commit()
                assert catalog.uncommitted
            elif what == "undone":
                with pytest.raises(OSError, match="no"):
                    record_and_fail(catalog, record(path, reason))
            assert {one.path: one for one in catalog.files()} == expected
        catalog.commit()
    finally:
        catalog.close()
    reopened = Catalog.open(folder / FILE_NAME)
    assert {one.path: one for one in reopened.files()} == expected
    reopened.close()


def test_what_is_rolled_back_is_gone(tmp_path: Path) -> None:
    """A rollback forgets what was not committed, also after a commit that failed."""
    catalog = Catalog.open(tmp_path / FILE_NAME)
    catalog.put_file(record(1, "a"))
    catalog.commit()
    catalog.put_file(record(2, "b"))
    with full_disk(tmp_path), pytest.raises(sqlite3.OperationalError):
        catalog.commit()
    catalog.rollback()
    assert not catalog.uncommitted
    assert [one.path for one in catalog.files()] == [b"1"]
    catalog.close()
