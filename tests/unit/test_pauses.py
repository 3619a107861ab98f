"""Pauses: how long a fault of the machine holds everything up, by a clock that is stepped by hand."""

from __future__ import annotations

import errno
import math

from hypothesis import given
from hypothesis import strategies as st

from nanolab_daemon.pauses import FORGOTTEN_AFTER_S, WAITS_S, Pauses, remedy


def test_waits_grow_until_work_succeeds() -> None:
    """Each try that fails is followed by a longer wait; the beginning stays what it was."""
    pauses, now = Pauses(), 100.0
    for wait_s in (*WAITS_S, WAITS_S[-1]):
        pause = pauses.fault("stage", "full", now)
        assert pause is not None
        assert pause.since == 100.0
        assert pauses.until == now + wait_s
        assert not pauses.due(now + wait_s - 0.01)
        now += wait_s
        assert pauses.due(now) == [pause]
    pauses.tried("stage")
    assert pauses.first is None
    assert pauses.until == math.inf
    again = pauses.fault("stage", "full", now + 1)  # it had only seemed to be mended
    assert again is not None
    assert again.until == now + 1 + WAITS_S[-1]
    assert again.since == 100.0
    pauses.tried("stage")
    assert pauses.worked("stage") is not None
    fresh = pauses.fault("stage", "full", now + 2)
    assert fresh is not None
    assert (fresh.since, fresh.tries) == (now + 2, 1)


def test_others_of_the_same_batch_change_nothing() -> None:
    """Of many writes that fail at once, one makes the pause."""
    pauses = Pauses()
    assert pauses.fault("stage", "full", 0.0) is not None
    assert pauses.fault("stage", "full", 0.1) is None
    assert pauses.fault("output", "full", 0.1) is not None
    assert pauses.first is not None
    assert pauses.first.place == "stage"


def test_work_elsewhere_ends_no_pause() -> None:
    """What is still held up is not over because something that was under way has succeeded."""
    pauses = Pauses()
    pauses.fault("stage", "full", 0.0)
    assert pauses.worked("stage") is None
    assert pauses.worked("output") is None
    assert pauses.first is not None


def test_a_fault_long_after_is_another_one() -> None:
    """A folder that is full again hours later is not full since then."""
    pauses = Pauses()
    pauses.fault("stage", "full", 0.0)
    pauses.tried("stage")
    later = pauses.fault("stage", "full", FORGOTTEN_AFTER_S + 10)
    assert later is not None
    assert later.since == FORGOTTEN_AFTER_S + 10


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["fault", "tried", "worked"]), st.floats(0, 40))))
def test_nothing_is_held_for_longer_than_the_longest_wait(steps: list[tuple[str, str, float]]) -> None:
    """Whatever happens, something is tried again within the longest wait, for as long as anything is held up."""
    pauses, now = Pauses(), 0.0
    for place, what, passed_s in steps:
        now += passed_s
        if what == "fault":
            pauses.fault(place, "why", now)
        elif what == "tried":
            pauses.tried(place)
        else:
            pauses.worked(place)
        assert (pauses.first is None) == (pauses.until == math.inf)
        if pauses.first is not None:
            assert pauses.until <= now + WAITS_S[-1]
            assert pauses.first.since <= now


def test_every_fault_has_a_remedy() -> None:
    """A person is told what to do, and that nothing else has to be done."""
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EMFILE, errno.EIO, 0, None, 9999):
        assert "by itself" in remedy(code)
