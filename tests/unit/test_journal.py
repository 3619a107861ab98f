"""Records as fields of the journal, and the page that describes them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanolab_daemon import journal

ROOT = Path(__file__).parents[2]


def test_a_record_becomes_message_priority_kind_and_a_field_a_key() -> None:
    record = {"event": "staged", "level": "info", "ts": "now", "logger": "nanolab_daemon.engine"}
    record |= {"run_id": "0123456789abcdef", "rows": 44, "complete": None, "source_file": "a b.csv"}  # type: ignore[dict-item]
    assert journal.fields(record) == {
        "MESSAGE": 'staged run_id=0123456789abcdef rows=44 source_file="a b.csv"',
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "nanolab-daemon",
        "MESSAGE_ID": journal.MESSAGE_IDS["staged"],
        "LOGGER": "nanolab_daemon.engine",
        "RUN_ID": "0123456789abcdef",
        "ROWS": "44",
        "SOURCE_FILE": "a b.csv",
    }


@pytest.mark.parametrize(("level", "priority"), [("debug", "7"), ("warning", "4"), ("error", "3"), ("critical", "2")])
def test_levels_are_the_journals_priorities(level: str, priority: str) -> None:
    assert journal.fields({"event": "x", "level": level})["PRIORITY"] == priority


def test_a_traceback_follows_the_message_on_lines_of_its_own() -> None:
    found = journal.fields({"event": "broken", "level": "error", "exception": "Traceback\n  line\nError: no"})
    assert found["MESSAGE"] == "broken\nTraceback\n  line\nError: no"


@given(st.dictionaries(st.text(min_size=1), st.one_of(st.text(), st.integers(), st.booleans(), st.lists(st.text()))))
def test_no_key_can_make_a_field_that_the_journal_drops_or_that_is_its_own(keys: dict[str, Any]) -> None:
    """Names that begin with _ are the journal's, and what it does not take it drops without a word."""
    found = journal.fields(
        {"event": "e", "level": "info"} | {k: v for k, v in keys.items() if k not in ("event", "level")}
    )
    assert all(re.fullmatch(r"[A-Z][A-Z0-9_]{0,63}", name) for name in found)
    assert found["PRIORITY"] == "6"
    assert found["MESSAGE"].startswith("e")


def test_only_the_stream_that_systemd_named_is_the_journal(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w") as stream:
        status = os.fstat(stream.fileno())
        here = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert journal.is_ours(stream.fileno(), here)
        assert not journal.is_ours(stream.fileno(), {})
    with (tmp_path / "other").open("w") as other:  # redirected since
        assert not journal.is_ours(other.fileno(), here)


def test_kinds_of_events_are_different_and_said_somewhere() -> None:
    ids = list(journal.MESSAGE_IDS.values())
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in ids)
    said = "".join(file.read_text() for file in (ROOT / "nanolab_daemon").glob("*.py") if file.name != "journal.py")
    assert [event for event in journal.MESSAGE_IDS if f'"{event}"' not in said] == []


def test_the_page_has_the_kinds_as_they_are() -> None:
    page = (ROOT / "docs/journal.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| (.+?) \| `([0-9a-f]{32})` \|$", page, re.MULTILINE))
    assert table == journal.MESSAGE_IDS
    assert f"MESSAGE_ID={journal.MESSAGE_IDS['rejected']}" in page
