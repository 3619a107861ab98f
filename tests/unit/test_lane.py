"""Lane: who comes first, who is charged with a crash, and what becomes of those who were in the same batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanolab_daemon.errors import RejectCause
from nanolab_daemon.lane import Answer, Condemned, Lane, Trouble
from nanolab_daemon.pool import Pool
from nanolab_daemon.workpool import Died, Finished, OutOfMemory, Raised, Returned, StartFailed, TimedOut, WorkerLost


@dataclass(frozen=True)
class Job:
    key: str
    size: int = 1
    note: str = ""


class ScriptedPool:
    """A pool whose workers answer when the test says so."""

    def __init__(self, size: int = 1) -> None:
        self.size = size
        self.out: dict[int, list[Job]] = {}
        self.outcomes: list[Any] = []

    @property
    def idle(self) -> int:
        return self.size - len(self.out)

    def submit(self, number: int, jobs: Sequence[Job]) -> None:
        assert self.idle > 0
        self.out[number] = list(jobs)

    def cancel(self, number: int) -> None:
        if self.out.pop(number, None) is not None:
            self.outcomes.append(Died(number, None, 7, -9, "called back"))

    def poll(self, _: float) -> list[Any]:
        outcomes, self.outcomes = self.outcomes, []
        return outcomes

    def batches(self) -> list[list[str]]:
        return [[job.key for job in batch] for batch in self.out.values()]

    def finish(self) -> None:
        for number in list(self.out):
            self.outcomes.append(Finished(number, [job.key.upper() for job in self.out.pop(number)]))

    def die(self, culprit: int | None, how: str = "died") -> None:
        """Lose the worker that was given its batch first."""
        number = next(iter(self.out))
        del self.out[number]
        match how:
            case "died":
                self.outcomes.append(Died(number, culprit, 7, -11, "signal 11"))
            case "undone":
                self.outcomes.append(Returned(number, "a machine was lost"))
            case "late":
                self.outcomes.append(TimedOut(number, culprit, 7, 60.0))
            case "memory":
                self.outcomes.append(OutOfMemory(number, culprit, 7, "too much"))
            case _:
                self.outcomes.append(Raised(number, culprit, 7, "Traceback"))


class Line:
    """A lane before a scripted pool, with batches of four."""

    def __init__(self, workers: int = 1, **options: Any) -> None:
        self.pool = ScriptedPool(workers)
        self.lane: Lane[Job, str] = Lane(
            cast("Pool[Job, str]", self.pool),
            lambda job: job.key,
            size_bytes=lambda job: job.size,
            most_jobs=4,
            most_bytes=100,
            **options,
        )

    def offer(self, *keys: str, live: bool = False) -> None:
        for key in keys:
            self.lane.offer(Job(key), live=live)

    def next(self, **options: bool) -> list[list[str]]:
        self.lane.dispatch(**options)
        return self.pool.batches()

    def poll(self) -> list[Any]:
        return self.lane.poll(0.0)

    def work_off(self) -> list[list[str]]:
        """Dispatch and finish until nothing is left; give the batches in the order in which they went out."""
        seen: list[list[str]] = []
        while not self.lane.empty:
            seen += self.next()
            self.pool.finish()
            self.poll()
        return seen


def test_backlog_goes_in_batches_in_order() -> None:
    """The backlog is handed out in the order of offers, some jobs at a time."""
    line = Line()
    line.offer(*"abcdef")
    assert line.work_off() == [["a", "b", "c", "d"], ["e", "f"]]


def test_batches_end_by_size_too() -> None:
    """A batch takes no more once its bytes are many."""
    line = Line()
    for key, size in (("a", 99), ("b", 1), ("c", 1), ("d", 500), ("e", 1)):
        line.lane.offer(Job(key, size), live=False)
    assert line.work_off() == [["a", "b"], ["c", "d"], ["e"]]


def test_live_overtakes_the_backlog_alone() -> None:
    """A live job goes before all that waits, in a batch of its own."""
    line = Line()
    line.offer(*"abc")
    line.offer("x", live=True)
    assert line.work_off() == [["x"], ["a", "b", "c"]]


def test_offer_twice_is_one_job() -> None:
    """The same key waits once, with the newest job."""
    line = Line()
    line.lane.offer(Job("a", note="old"), live=False)
    line.lane.offer(Job("a", note="new"), live=False)
    assert line.lane.waiting == 1
    line.next()
    assert [job.note for batch in line.pool.out.values() for job in batch] == ["new"]


def test_backlog_becomes_live() -> None:
    """A job of the backlog that is offered as live overtakes; it is not done twice."""
    line = Line()
    line.offer(*"abc")
    line.offer("c", live=True)
    assert line.work_off() == [["c"], ["a", "b"]]


def test_offer_while_busy_waits_for_the_answer() -> None:
    """A key that is with a worker is not given to a second one; it is done once more afterwards."""
    line = Line(2)
    line.offer("a", live=True)
    line.next()
    line.lane.offer(Job("a", note="newer"), live=True)
    line.offer("b")
    assert line.next() == [["a"], ["b"]]
    assert line.lane.holds("a")
    line.pool.finish()
    assert [event.job.key for event in line.poll()] == ["a", "b"]
    line.next()
    assert [job.note for batch in line.pool.out.values() for job in batch] == ["newer"]


@pytest.mark.parametrize("busy", [False, True])
def test_what_either_offer_asked_for_is_done(busy: bool) -> None:
    """Two jobs of one key are merged, in line and while one is with a worker."""
    line = Line(merge=lambda old, new: replace(new, note=old.note + new.note))
    if busy:
        line.offer("a")
        line.next()
    for note in "xy":
        line.lane.offer(Job("a", note=note), live=False)
    line.pool.finish()
    line.poll()
    line.next()
    assert [job.note for batch in line.pool.out.values() for job in batch] == ["xy"]


def test_crash_charges_the_culprit_alone() -> None:
    """Who was at work when a worker died is tried alone; the others of its batch go on together, not charged."""
    line = Line()
    line.offer(*"abcd")
    line.next()
    line.pool.die(1)
    (trouble,) = line.poll()
    assert isinstance(trouble, Trouble)
    assert trouble.job == Job("b")
    assert trouble.pid == 7
    assert sorted(map(sorted, line.work_off())) == [["a", "c", "d"], ["b"]]


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("died", RejectCause.CRASHED),
        ("late", RejectCause.TIMED_OUT),
        ("memory", RejectCause.OUT_OF_MEMORY),
        ("raised", RejectCause.INTERNAL),
    ],
)
def test_second_crash_condemns(how: str, cause: RejectCause) -> None:
    """A job that loses a second worker, alone, is condemned with the cause, and done no more."""
    line = Line()
    line.offer(*"ab")
    line.next()
    line.pool.die(0, how)
    line.poll()
    assert line.next() == [["a"]]
    line.pool.die(None, how)  # nobody is named, but it was alone
    condemned, trouble = line.poll()
    assert condemned == Condemned(Job("a"), cause, condemned.words, 2)
    assert isinstance(trouble, Trouble)
    assert line.work_off() == [["b"]]


def test_without_a_culprit_each_is_tried_alone() -> None:
    """When nobody knows who did it, each of the batch is tried alone, and none is charged."""
    line = Line()
    line.offer(*"abc")
    line.next()
    line.pool.die(None)
    line.poll()
    assert line.next() == [["a"]]
    line.pool.die(None)  # the first charge
    line.poll()
    assert line.work_off() == [["b"], ["c"], ["a"]]


def test_what_comes_back_undone_is_nobodys_fault() -> None:
    """However often a machine is lost, its files are tried again in their old order, and none is charged."""
    line = Line()
    line.offer(*"abc")
    for _ in range(5):
        assert line.next() == [["a", "b", "c"]]
        line.pool.die(None, "undone")
        assert line.poll() == [Trouble("work came back undone: a machine was lost", 0)]
    assert line.work_off() == [["a", "b", "c"]]


def test_live_before_suspects_before_backlog() -> None:
    """What crashed once waits for live work, and the backlog for both."""
    line = Line()
    line.offer(*"abcd")
    line.next()
    line.pool.die(2)
    line.poll()
    line.offer("x", live=True)
    assert list(map(sorted, line.work_off())) == [["x"], ["c"], ["a", "b", "d"]]


def test_innocent_live_job_stays_live() -> None:
    """A live job whose worker was lost from outside is at once in line again, before the backlog."""
    line = Line()
    line.offer("x", live=True)
    line.next()
    line.offer(*"ab")
    line.pool.outcomes.append(WorkerLost(9, -9, "killed"))
    (trouble,) = line.poll()
    assert trouble == Trouble("a worker was lost: killed", 9)
    assert line.pool.batches() == [["x"]]


def test_change_during_a_crash_is_not_lost() -> None:
    """What was offered while its key was with a dying worker takes the place of what was lost."""
    line = Line()
    line.offer("a")
    line.next()
    line.lane.offer(Job("a", note="new"), live=True)
    line.pool.die(0)
    line.poll()
    line.next()
    assert [job.note for batch in line.pool.out.values() for job in batch] == ["new"]


def test_condemned_job_that_changed_meanwhile_is_tried_anew() -> None:
    """A job offered while the old one was being condemned begins without a charge."""
    line = Line()
    line.offer("a")
    line.next()
    line.pool.die(0)
    line.poll()
    line.next()
    line.offer("a")
    line.pool.die(0)
    assert isinstance(line.poll()[0], Condemned)
    assert line.next() == [["a"]]
    line.pool.die(0)
    assert not any(isinstance(event, Condemned) for event in line.poll())


def test_last_batches_are_shared_out() -> None:
    """When no more will come, what is left is shared among all workers, not given to one."""
    line = Line(2)
    line.offer(*"abcdef")
    assert line.next(last=True) == [["a"], ["b"]]
    other = Line(2)
    other.offer(*"abcdef")
    assert other.next() == [["a", "b", "c", "d"], ["e", "f"]]


def test_held_back_backlog() -> None:
    """With the backlog held back only live work and suspects go out."""
    line = Line(3)
    line.offer(*"ab")
    line.offer("x", live=True)
    assert line.next(backlog=False) == [["x"]]
    assert line.lane.waiting == 2


def test_withdraw_forgets_what_nobody_began() -> None:
    """At a stop, what waits is handed back and counted; what is with a worker still answers."""
    line = Line()
    line.offer("a", live=True)
    line.next()
    line.offer("b", "c")
    line.offer("d", live=True)
    assert line.lane.withdraw() == 3
    assert (line.lane.waiting, line.lane.busy) == (0, 1)
    line.pool.finish()
    assert line.poll() == [Answer(Job("a"), "A")]
    assert line.lane.empty


def test_workers_that_can_not_start_are_told() -> None:
    """Trouble at the start of a worker is no job's trouble."""
    line = Line()
    line.pool.outcomes.append(StartFailed("no library", 2.0))
    (trouble,) = line.poll()
    assert trouble.job is None
    assert "2.0 s" in trouble.words


@given(st.data())
def test_nothing_is_lost_nothing_is_doubled(data: st.DataObject) -> None:
    """Whatever is offered and whoever dies: each key is with one worker at most, and each last offer is answered."""
    line = Line(data.draw(st.integers(1, 3)))
    poison = data.draw(st.frozensets(st.sampled_from("abc")))
    last: dict[str, str] = {}
    answered: dict[str, str] = {}

    def take_in() -> None:
        for event in line.poll():
            if isinstance(event, Answer | Condemned):
                answered[event.job.key] = event.job.note
                assert isinstance(event, Answer) or event.job.key in poison

    def progress(*, machines_last: bool = False) -> None:
        if not line.pool.out:
            return
        first = next(iter(line.pool.out.values()))
        culprits = [at for at, job in enumerate(first) if job.key in poison]
        if not machines_last and data.draw(st.integers(0, 3)) == 0:
            line.pool.die(None, "undone")
        elif culprits:
            line.pool.die(data.draw(st.sampled_from([culprits[0], None])))
        else:
            line.pool.outcomes.append(Finished(next(iter(line.pool.out)), [job.key for job in first]))
            del line.pool.out[next(iter(line.pool.out))]
        take_in()

    for serial in range(data.draw(st.integers(1, 25))):
        match data.draw(st.sampled_from(["offer", "offer", "dispatch", "progress"])):
            case "offer":
                key = data.draw(st.sampled_from("abcdef"))
                last[key] = str(serial)
                line.lane.offer(Job(key, note=str(serial)), live=data.draw(st.booleans()))
            case "dispatch":
                line.next(backlog=data.draw(st.booleans()))
            case _:
                progress()
        keys = [key for batch in line.pool.batches() for key in batch]
        assert len(keys) == len(set(keys)) == line.lane.busy
    for _ in range(200):
        if line.lane.empty:
            break
        line.next()
        progress(machines_last=True)
    assert line.lane.empty
    assert answered == last


@given(
    shares=st.lists(st.sampled_from(["dead", "well"]), min_size=1, max_size=12),
    workers=st.integers(1, 3),
    live=st.booleans(),
    finished=st.booleans(),
)
def test_recall_forgets_what_is_named_and_charges_nobody(
    shares: list[str], workers: int, live: bool, finished: bool
) -> None:
    """Jobs of a share that is gone leave the lane wherever they are; the others are all done, none of them alone."""
    line = Line(workers)
    line.offer(*(f"{share}{number}" for number, share in enumerate(shares)), live=live)
    line.next()
    line.offer(*(f"{share}{number}" for number, share in enumerate(shares)))  # again, while some are with a worker
    if finished:
        line.pool.finish()
    recalled = line.lane.recall(lambda job: job.key.startswith("dead"))
    assert recalled <= shares.count("dead")
    seen: list[Any] = line.poll()
    while not line.lane.empty:
        for batch in line.next(last=True):
            assert not any(key.startswith("dead") for key in batch)
        line.pool.finish()
        seen += line.poll()
    assert not any(isinstance(event, Condemned) for event in seen)
    done = {event.job.key for event in seen if isinstance(event, Answer)}
    assert {key for key in done if key.startswith("well")} == {
        f"{share}{number}" for number, share in enumerate(shares) if share == "well"
    }
