"""When is a file done? Time is a parameter, so hours pass in no time."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanolab_daemon.model import FileState, Fingerprint
from nanolab_daemon.settle import LONGEST_WAIT_S, Glance, Patience, Rule, Track, decide, pause_s

PATIENCE = Patience(settle_s=1.0, quiet_s=60.0, poll_s=0.5, rescan_s=60.0)
MARK = Fingerprint(100, 1, 1, 1)
GROWN = Fingerprint(200, 2, 2, 1)
QUEUED, STARTED = Glance(FileState.QUEUED), Glance(FileState.STARTED)
MEASURING = Glance(FileState.MEASURING, rows=10, expected_rows=44)


def test_proven_is_done_at_once() -> None:
    """A file whose rows are all that its header prescribes is done at once, closed or not."""
    track = Track(MARK, changed_at=100.0).looked(Glance(FileState.MEASURING, rows=44, expected_rows=44, proven=True))
    assert decide(track, 100.0, PATIENCE).ready is Rule.PROVEN


def test_closed_is_done_when_it_stays_so() -> None:
    """A closed file with rows is done after settle_s without a change, and not before."""
    track = Track(MARK, changed_at=100.0).closed(100.5).looked(MEASURING)
    early = decide(track, 101.4, PATIENCE)
    assert early.ready is None
    assert early.again_at <= 101.5
    assert decide(track, 101.5, PATIENCE).ready is Rule.CLOSED


@pytest.mark.parametrize("glance", [QUEUED, STARTED])
def test_rowless_files_wait_without_limit(glance: Glance) -> None:
    """A header without rows is never done, however often it is closed and however long it stays as it is."""
    track = Track(MARK, changed_at=0.0, rowless=True).closed(1.0).looked(glance)
    for now in (2.0, 3600.0, 7 * 86400.0):
        assert decide(track, now, PATIENCE).ready is None


def test_a_change_voids_a_close() -> None:
    """What was closed and then changed is open again."""
    track = Track(MARK, changed_at=100.0).closed(100.0).looked(MEASURING).seen(GROWN, 100.2)
    assert track.closed_at is None
    assert track.glance is None
    assert not Track(MARK, 0.0, rowless=True).seen(GROWN, 1.0).rowless
    assert decide(track, 105.0, PATIENCE).ready is None


def test_quiet_is_never_shorter_than_the_silence_in_the_header() -> None:
    """A file that nobody closes is done when it has been quiet for longer than its measurement may be silent."""
    glance = Glance(FileState.MEASURING, rows=10, silence_s=600.0)
    track = Track(MARK, changed_at=0.0).looked(glance)
    assert decide(track, 599.0, PATIENCE).ready is None
    assert decide(track, 600.0, PATIENCE).ready is Rule.QUIET
    assert decide(Track(MARK, 0.0).looked(MEASURING), 60.0, PATIENCE).ready is Rule.QUIET


def test_each_republication_doubles_the_wait() -> None:
    """A writer that opens and closes for every row costs few publications: the wait doubles, up to an hour."""
    waits = []
    for republished in range(20):
        track = Track(MARK, 0.0, 0.0, MEASURING, republished)
        waits.append(next(s for s in (2.0**n for n in range(20)) if decide(track, s, PATIENCE).ready))
    assert waits[:4] == [1.0, 2.0, 4.0, 8.0]
    assert waits == sorted(waits)
    assert decide(Track(MARK, 0.0, 0.0, MEASURING, 1000), LONGEST_WAIT_S, PATIENCE).ready is Rule.CLOSED


def test_what_cannot_be_understood_settles_too() -> None:
    """A file that is no instrument file is handed on when it has settled, so that its rejection is spoken."""
    track = Track(MARK, 0.0).closed(0.0).looked(Glance(None))
    assert decide(track, 0.5, PATIENCE).ready is None
    assert decide(track, 1.0, PATIENCE).ready is Rule.CLOSED


@given(
    changed=st.floats(0, 1e6),
    closed=st.none() | st.floats(0, 1e6),
    glance=st.none() | st.sampled_from([QUEUED, STARTED, MEASURING, Glance(None)]),
    republished=st.integers(0, 50),
    later=st.floats(0, 1e6),
    rowless=st.booleans(),
)
def test_every_file_is_looked_at_again(
    changed: float, closed: float | None, glance: Glance | None, republished: int, later: float, rowless: bool
) -> None:
    """Whatever was observed, a file is done now or looked at again soon, later than now and within a rescan."""
    track = Track(MARK, changed, closed, glance, republished, rowless)
    now = max(changed, closed or 0.0) + later
    verdict = decide(track, now, PATIENCE)
    if verdict.ready is None:
        assert now < verdict.again_at <= now + PATIENCE.rescan_s
        assert math.isfinite(verdict.again_at)


@given(st.floats(0, 1e5), st.sampled_from([QUEUED, STARTED, MEASURING]))
def test_quiet_files_are_looked_at_less_often(age: float, glance: Glance) -> None:
    """The pause between looks lies between poll_s and rescan_s; that of a started file stays short."""
    pause = pause_s(Track(MARK, 0.0).looked(glance), age, PATIENCE)
    assert PATIENCE.poll_s <= pause <= PATIENCE.rescan_s
    if glance is not QUEUED:
        assert pause <= 1.0
