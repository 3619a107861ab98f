"""The pool with real workers: order, limits, endings, replacement, start and close."""

from __future__ import annotations

import ast
import gc
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))  # handed on to the workers

from pool_tasks import drive, work_off  # noqa: E402

from nanolab_daemon import pool as pool_module  # noqa: E402
from nanolab_daemon.errors import EngineError  # noqa: E402
from nanolab_daemon.pool import Pool, is_starved  # noqa: E402
from nanolab_daemon.workpool import Died, Finished, Outcome, OutOfMemory, Raised, StartFailed, TimedOut, WorkerLost  # noqa: E402


def make(entry: str = "pool_tasks:factory", **changes: Any) -> Pool[Any, Any]:
    options: dict[str, Any] = {"workers": 2, "settings": None, "task_timeout_s": 20.0}
    return Pool("test", entry, **(options | changes))


@pytest.fixture(scope="module")
def shared() -> Iterator[Pool[Any, Any]]:
    """One pool for all tests that kill its workers: what it survives, it survives in a row."""
    with make(task_timeout_s=0.7, task_memory_mb=64) as pool:
        yield pool


@pytest.fixture
def pool() -> Iterator[Pool[Any, Any]]:
    with make() as pool:
        drive(pool, until=lambda _: pool.ready == 2)
        yield pool


def pids(pool: Pool[Any, Any]) -> list[int]:
    return [worker["pid"] for worker in pool.describe(time.monotonic())["workers"]]


def only(outcomes: list[Outcome[Any]]) -> Outcome[Any]:
    (outcome,) = outcomes
    return outcome


def run(pool: Pool[Any, Any], *items: tuple[str, Any]) -> Outcome[Any]:
    return only(work_off(pool, {1: list(items)}))


def result(pool: Pool[Any, Any], verb: str, argument: object = None) -> Any:
    outcome = run(pool, (verb, argument))
    assert isinstance(outcome, Finished), outcome
    return outcome.results[0]


# ---- work


def test_results_come_back_in_order(pool: Pool[Any, Any]) -> None:
    """Each batch is answered once, one result an item, in the order of its items."""
    batches = {n: [("double", n * 10 + i) for i in range(5)] for n in range(300)}
    outcomes = work_off(pool, batches)
    assert {o.batch_id: o.results for o in outcomes if isinstance(o, Finished)} == {
        n: [2 * (n * 10 + i) for i in range(5)] for n in range(300)
    }
    assert pool.counts == pool_module.Counts(started=2)


def test_two_workers_work_at_the_same_time(pool: Pool[Any, Any], tmp_path: Path) -> None:
    """Two batches that wait for each other both end."""
    outcomes = work_off(pool, {n: [("meet", str(tmp_path))] for n in range(2)})
    assert len({o.results[0] for o in outcomes if isinstance(o, Finished)}) == 2


def test_large_messages_pass_both_ways(pool: Pool[Any, Any]) -> None:
    """Batches and results larger than any pipe buffer go through without anyone waiting for ever."""
    batches = {n: [("double", b"x" * 3_000_000), ("big", 3_000_000)] for n in range(2)}
    sizes = [[len(r) for r in o.results] for o in work_off(pool, batches) if isinstance(o, Finished)]
    assert sizes == [[6_000_000, 3_000_000]] * 2


def test_the_settings_reach_the_factory() -> None:
    """The factory gets what the pool was built with, however large."""
    settings = {"root": "/data", "table": list(range(100_000))}
    with make(settings=settings, workers=1) as pool:
        assert result(pool, "settings") == settings


def test_an_empty_batch_is_finished_at_once(pool: Pool[Any, Any]) -> None:
    """No items, no results, no special case."""
    assert run(pool) == Finished(1, [])


def test_submit_without_an_idle_worker_is_a_mistake(pool: Pool[Any, Any], tmp_path: Path) -> None:
    """The queue lives with the caller, not here."""
    gate = tmp_path / "gate"
    for n in range(2):
        pool.submit(n, [("wait_for", str(gate))])
    with pytest.raises(RuntimeError, match="no idle worker"):
        pool.submit(2, [("double", 1)])
    gate.touch()
    drive(pool, until=lambda outcomes: len(outcomes) == 2)


def test_describe_says_who_does_what(pool: Pool[Any, Any], tmp_path: Path) -> None:
    """Pid, batch, item and times of a busy worker, in plain values."""
    gate = tmp_path / "gate"
    pool.submit(7, [("double", 1), ("wait_for", str(gate))])
    worker: dict[str, Any] = {}

    def at_second_item(_: list[Outcome[Any]]) -> bool:
        worker.update(next(w for w in pool.describe(time.monotonic())["workers"] if w["state"] == "busy"))
        return bool(worker["item_index"] == 1)

    with pytest.raises(TimeoutError):  # nothing happens meanwhile, so the loop sleeps
        drive(pool, until=lambda _: False, within_s=0.05)
    drive(pool, until=at_second_item)
    assert worker["batch_id"] == 7
    assert worker["items"] == 2
    assert worker["busy_s"] >= worker["item_s"] >= 0
    gate.touch()
    drive(pool, until=lambda outcomes: len(outcomes) == 1)


# ---- endings


def died(exitcode: int, words: str) -> Callable[[Outcome[Any]], bool]:
    return lambda o: isinstance(o, Died) and o.exitcode == exitcode and words in o.cause


def raised(words: str) -> Callable[[Outcome[Any]], bool]:
    return lambda o: isinstance(o, Raised) and words in o.traceback


def timed_out(outcome: Outcome[Any]) -> bool:
    return isinstance(outcome, TimedOut) and 0.7 <= outcome.after_s < 5


def out_of_memory(words: str) -> Callable[[Outcome[Any]], bool]:
    return lambda o: isinstance(o, OutOfMemory) and words in o.cause


@pytest.mark.parametrize(
    ("item", "is_expected"),
    [
        (("exit", 3), died(3, "exit code 3")),
        (("exit", 0), died(0, "exit code 0")),
        (("signal", signal.SIGKILL), died(-9, "not by this program")),
        (("signal", signal.SIGTERM), died(-15, "SIGTERM")),
        (("signal", signal.SIGRTMIN + 3), died(-(signal.SIGRTMIN + 3), "signal")),
        (("segfault", None), died(-11, "SIGSEGV")),
        (("raise", "told"), raised("ValueError: told")),
        (("sys_exit", 1), raised("SystemExit")),
        (("memory_error", None), out_of_memory("MemoryError")),
        (("bomb", 5000), out_of_memory("MemoryError")),
        (("swell", 100), out_of_memory("64 are allowed")),
        (("loop", None), timed_out),
        (("gil", None), timed_out),
        (("sigterm_deaf", 60), timed_out),
        (("signal", signal.SIGSTOP), timed_out),
    ],
    ids=lambda value: f"{value[0]} {value[1] or ''}".strip() if isinstance(value, tuple) else "",
)
def test_a_bad_item_is_named_and_nobody_else_suffers(
    shared: Pool[Any, Any], item: tuple[str, Any], is_expected: Callable[[Outcome[Any]], bool]
) -> None:
    """Whatever an item does to its worker: it is named, the worker is replaced, all other batches finish."""
    before = shared.counts
    batches = {n: [("double", n), ("double", n), ("double", n)] for n in range(8)}
    batches[3][1] = item
    outcomes = {o.batch_id: o for o in work_off(shared, batches) if not isinstance(o, WorkerLost | StartFailed)}
    culprit = outcomes.pop(3)
    assert is_expected(culprit), culprit
    assert not isinstance(culprit, Finished)
    assert culprit.item_index == 1
    assert outcomes == {n: Finished(n, [2 * n] * 3) for n in batches if n != 3}
    assert shared.counts.replaced == before.replaced + 1
    drive(shared, until=lambda _: shared.ready == 2)
    assert shared.counts.lost_idle == before.lost_idle


@pytest.mark.parametrize(
    ("item", "kind"),
    [(("before", None), Died), (("after", 60), TimedOut), (("short", None), Raised)]
    + [((verb, None), Raised) for verb in ("unpicklable", "unreadable")],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_no_item_is_blamed_for_what_concerns_the_batch(
    shared: Pool[Any, Any], item: tuple[str, Any], kind: type[Died | TimedOut | Raised]
) -> None:
    """A death before the first item or after the last, and a bad answer, name the batch alone."""
    outcome = run(shared, item)
    assert isinstance(outcome, kind)
    assert outcome.item_index is None
    assert result(shared, "double", 4) == 8


def test_the_time_limit_is_that_of_an_item() -> None:
    """A batch may take longer than the limit as long as each of its items does not."""
    with make(task_timeout_s=0.6, workers=1) as pool:
        assert run(pool, *[("sleep", 0.25)] * 3) == Finished(1, [None] * 3)


def test_a_batch_that_its_worker_never_took_goes_to_the_next(pool: Pool[Any, Any]) -> None:
    """A worker killed between two batches costs nothing: the one just handed to it is handed on."""
    victim = pids(pool)[0]  # first in line
    os.kill(victim, signal.SIGSTOP)
    pool.submit(1, [("pid", None)])
    os.kill(victim, signal.SIGKILL)
    outcomes = drive(pool, until=lambda outcomes: len(outcomes) == 2)
    (lost,) = (o for o in outcomes if isinstance(o, WorkerLost))
    (finished,) = (o for o in outcomes if isinstance(o, Finished))
    assert (lost.pid, lost.exitcode) == (victim, -9)
    assert finished.results != [victim]
    assert pool.counts.lost_idle == 1


def test_a_worker_that_does_not_take_its_batch_is_replaced() -> None:
    """A stopped idle worker holds a batch up for one time limit, and the batch is not charged for it."""
    with make(task_timeout_s=0.3, workers=1) as pool:
        drive(pool, until=lambda _: pool.idle == 1)
        os.kill(pids(pool)[0], signal.SIGSTOP)
        outcomes = work_off(pool, {1: [("double", 1)]})
    assert isinstance(outcomes[0], WorkerLost)
    assert "did not take" in outcomes[0].cause
    assert outcomes[1:] == [Finished(1, [2])]


# ---- start


def test_a_worker_that_cannot_start_is_told_once_then_ends_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """The traceback comes once; after some attempts, each after a longer pause, the pool gives up with it."""
    monkeypatch.setattr(pool_module, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(pool_module, "START_ATTEMPTS", 3)
    told: list[Outcome[Any]] = []
    with make("pool_tasks:broken_factory") as pool:
        with pytest.raises(EngineError, match="no such library here"):
            drive(pool, until=lambda outcomes: bool(told.extend(outcomes[len(told) :])))
        assert pool.counts.started <= 6
    assert len(told) == 1
    assert isinstance(told[0], StartFailed)
    assert "ImportError: no such library here" in told[0].cause


@pytest.mark.parametrize(
    ("entry", "words"),
    [("no_such_module:factory", "ModuleNotFoundError"), ("pool_tasks:dying_factory", "exit code 9")],
)
def test_a_failed_start_says_why(entry: str, words: str) -> None:
    """A missing module and a death while loading are both failures to start."""
    with make(entry, workers=1) as pool:
        outcome = only(drive(pool, until=bool))
    assert isinstance(outcome, StartFailed)
    assert words in outcome.cause
    assert outcome.retry_in_s == pool_module.FIRST_PAUSE_S


def test_the_pause_between_attempts_doubles() -> None:
    """No storm of processes: stepping the clock by hand shows when the next attempt is due."""
    with make("pool_tasks:broken_factory", workers=1) as pool:
        now = time.monotonic()
        pauses = []
        for attempt in range(1, 4):
            while pool.describe(now)["workers"]:
                pool.poll(now)
            due = pool.next_deadline()
            assert due is not None
            pauses.append(round(due - now, 3))
            pool.poll(due - 0.001)
            assert pool.counts.started == attempt
            now = due
            pool.poll(now)
    assert pauses == [0.5, 1.0, 2.0]


def test_a_pool_recovers_when_starting_works_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What kept workers from starting may go away by itself."""
    monkeypatch.setattr(pool_module, "FIRST_PAUSE_S", 0.01)
    with make("pool_tasks:flaky_factory", settings=str(tmp_path / "now"), workers=1) as pool:
        drive(pool, until=bool)
        (tmp_path / "now").touch()
        assert result(pool, "double", 2) == 4


def test_a_machine_that_gives_no_more_processes_is_waited_for(pool: Pool[Any, Any]) -> None:
    """An error of the system while starting a worker is a failed start, not the end of the program."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # no new descriptor
    try:
        os.kill(pids(pool)[0], signal.SIGKILL)
        outcomes = drive_without_descriptors(pool)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [type(outcome) for outcome in outcomes] == [WorkerLost, StartFailed]
    assert "Too many open files" in outcomes[1].cause  # type: ignore[union-attr]
    drive(pool, until=lambda _: pool.ready == 2)


def drive_without_descriptors(pool: Pool[Any, Any]) -> list[Outcome[Any]]:
    outcomes: list[Outcome[Any]] = []
    end = time.monotonic() + 10
    while len(outcomes) < 2:
        outcomes += pool.poll(time.monotonic())
        assert time.monotonic() < end
    return outcomes


def test_a_memory_limit_below_what_a_worker_needs_is_told_at_start() -> None:
    """Not at each file, as if the files were to blame."""
    with make(workers=1, task_memory_mb=2) as pool:
        outcome = only(drive(pool, until=bool))
    assert isinstance(outcome, StartFailed)
    assert "task_memory_mb is 2" in outcome.cause


def test_a_worker_that_hangs_while_loading_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time is a parameter: two minutes later, by the caller's clock."""
    with make(workers=1) as pool:
        os.kill(pids(pool)[0], signal.SIGSTOP)
        later = time.monotonic() + pool_module.START_TIMEOUT_S
        outcomes: list[Outcome[Any]] = []
        while not outcomes:
            outcomes = pool.poll(later)
    assert isinstance(outcomes[0], StartFailed)
    assert "did not load" in outcomes[0].cause


# ---- what a worker is


def test_a_worker_is_born_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name, environment, signals, standard files; nothing of the parent's program, nothing heavy."""
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("WATCHDOG_USEC", "1")
    monkeypatch.setenv("POLARS_MAX_THREADS", "16")
    with make() as pool:
        facts = [
            o.results[0] for o in work_off(pool, {n: [("facts", None)] for n in range(2)}) if isinstance(o, Finished)
        ]
    for fact in facts:
        assert fact["comm"] in {"nl-test-0", "nl-test-1"}
        assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & set(fact["environ"])
        assert fact["environ"]["POLARS_MAX_THREADS"] == "1"
        assert fact["sigint"]
        assert not fact["sigmask"]
        assert fact["stdin"] == "/dev/null"
        assert fact["stdout_is_stderr"]
        assert fact["threads"] == 1
        assert not {"polars", "pyarrow", "numpy", "pytest"} & set(fact["modules"])
        assert not fact["knows_parents_main"]


def test_arrow_does_not_bring_pandas_into_a_worker(pool: Pool[Any, Any]) -> None:
    """Arrow imports pandas, where it is installed, the first time that it makes a scalar: not in a worker."""
    (done,) = work_off(pool, {1: [("scalar", 1.5)]})
    assert isinstance(done, Finished)
    assert done.results == [(1.5, False)]


def test_a_worker_holds_no_end_of_anothers_pipe(pool: Pool[Any, Any]) -> None:
    """Else the death of one would not be seen while another lives. True of replacements too."""
    work_off(pool, {1: [("exit", 1)]})
    drive(pool, until=lambda _: pool.ready == 2)
    for outcome in work_off(pool, {n: [("fds", None)] for n in range(4)}):
        assert isinstance(outcome, Finished)
        links = outcome.results[0]
        assert sum(link.startswith("socket:") for link in links) == 1, links
        assert sum("nanolab-progress" in link for link in links) == 1, links
        assert not any("eventpoll" in link for link in links), links


def test_ctrl_c_and_hangup_do_not_reach_a_worker(pool: Pool[Any, Any]) -> None:
    """They go to the whole process group; what to do about it is the parent's affair."""
    for pid in pids(pool):
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGHUP)
    work_off(pool, {n: [("double", 1)] for n in range(4)})
    assert pool.counts.replaced == 0


def test_the_parent_imports_nothing_heavy() -> None:
    """The process that owns pools must not run the threads of Polars or Arrow."""
    code = "import sys, nanolab_daemon.pool; print([m for m in ('polars', 'pyarrow', 'numpy') if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ast.literal_eval(said.stdout) == []


# ---- close


def test_settings_change_between_batches() -> None:
    """Workers that live take over new settings with their next batch, those that start later have them; none dies."""
    with make(settings="old", workers=2) as pool:
        drive(pool, until=lambda _: pool.ready == 2)
        assert result(pool, "settings") == "old"
        pool.reconfigure("new")
        for _ in range(4):
            assert result(pool, "settings") == "new"
        pool.reconfigure("newest")
        os.kill(pids(pool)[0], signal.SIGKILL)
        drive(pool, until=lambda _: pool.counts.replaced == 1 and pool.ready == 2)
        for _ in range(4):
            assert result(pool, "settings") == "newest"


def test_a_cancelled_batch_ends_with_its_worker(pool: Pool[Any, Any], tmp_path: Path) -> None:
    """The worker that hangs over a cancelled batch is replaced, nobody is named guilty, and the other works on."""
    pool.submit(1, [("sleep", 60)])
    pool.submit(2, [("double", 2)])
    pool.cancel(1)
    pool.cancel(7)  # nobody has it
    outcomes = drive(pool, until=lambda seen: len(seen) == 2)
    ended = next(outcome for outcome in outcomes if isinstance(outcome, Died))
    assert (ended.batch_id, ended.item_index) == (1, None)
    assert any(isinstance(outcome, Finished) and outcome.batch_id == 2 for outcome in outcomes)
    drive(pool, until=lambda _: pool.ready == 2)
    assert pool.counts.replaced == 1


def test_close_lets_busy_workers_finish(pool: Pool[Any, Any]) -> None:
    """What was begun is told by close itself, and the workers are gone."""
    workers = pids(pool)
    for n in range(2):
        pool.submit(n, [("sleep", 0.05), ("double", n)])
    outcomes = pool.close(10)
    assert sorted(o.batch_id for o in outcomes if isinstance(o, Finished)) == [0, 1]
    assert not any(os.path.exists(f"/proc/{pid}") for pid in workers)
    assert pool.close() == pool.kill() == []


def test_close_kills_at_the_limit(pool: Pool[Any, Any]) -> None:
    """A batch that does not end in time is told as such, with no item to blame."""
    pool.submit(0, [("gil", None)])
    pool.submit(1, [("double", 1)])
    outcomes = {o.batch_id: o for o in pool.close(0.3) if isinstance(o, Died | Finished)}
    assert isinstance(outcomes[0], Died)
    assert outcomes[0].item_index is None
    assert outcomes[1] == Finished(1, [2])


def test_close_right_after_start() -> None:
    """Workers that are still loading have nothing to finish."""
    pool = make()
    pool.start()
    assert pool.close() == []


def test_an_exception_in_the_block_kills() -> None:
    """Whoever leaves in a hurry does not wait for a batch."""
    pool = make()

    def leave_in_a_hurry() -> None:
        with pool:
            drive(pool, until=lambda _: pool.idle == 2)
            pool.submit(1, [("sleep", 60)])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        leave_in_a_hurry()
    assert pool.ready == 0


def test_no_descriptor_and_no_zombie_is_left() -> None:
    """After many deaths and a close, the parent holds what it held before."""
    make().close()  # not started: nothing
    with make():
        pass  # the first pool of a process starts multiprocessing's resource tracker, which stays
    gc.collect()
    before = sorted(os.listdir("/proc/self/fd"))
    with make() as pool:
        work_off(pool, {n: [("exit", 1)] for n in range(4)})
        pool.kill()
    assert sorted(os.listdir("/proc/self/fd")) == before
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    states = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in children]
    assert "Z" not in states


def test_one_thread_owns_the_pool(pool: Pool[Any, Any]) -> None:
    """The kernel ends a worker with the thread that started it, so no other thread may start one."""
    errors: list[Exception] = []

    def trespass() -> None:
        for call in (lambda: pool.poll(0.0), lambda: pool.submit(1, []), pool.kill):
            try:
                call()
            except RuntimeError as error:
                errors.append(error)

    thread = threading.Thread(target=trespass)
    thread.start()
    thread.join()
    assert len(errors) == 3


@pytest.mark.parametrize(
    ("state", "cpu_s", "is_it"),
    [("R", 0.5, True), ("D", 0.0, True), ("R", 59.0, False), ("S", 0.0, False), ("T", 0.0, False), ("Z", 0.0, False)],
)
def test_who_gets_no_cpu_is_not_to_blame(state: str, cpu_s: float, is_it: bool) -> None:
    """Past its limit, a worker that was not let run has more patience; one that ran or sleeps has not."""
    assert is_starved(state, cpu_s, 60.0) is is_it
