"""Two pools in one program: idle workers killed, batches of poison, a threaded parent, a parent that is killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))  # handed on to the workers

from pool_tasks import Item, drive, work_off  # noqa: E402

from nanolab_daemon.pool import Pool  # noqa: E402
from nanolab_daemon.workpool import Died, Finished, OutOfMemory, Raised, TimedOut, WorkerLost  # noqa: E402

ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}

PROGRAM = """
import json, os, sys, time
from pool_tasks import drive, work_off
from nanolab_daemon.pool import Pool

def main():
    what = sys.argv[1]
    if what == "group_by":  # a parent with the threads of Polars
        import polars as pl
        pl.DataFrame({"key": [1, 2] * 5000}).group_by("key").agg(pl.len())
    limit_s = 10 if what == "group_by" else 60
    with Pool("story", "pool_tasks:factory", workers=2, settings=None, task_timeout_s=limit_s) as pool:
        drive(pool, until=lambda _: pool.idle == 2)
        if what in ("group_by", "facts"):
            outcomes = work_off(pool, {n: [(what, 1000)] for n in range(2)})
            print(json.dumps([getattr(outcome, "results", repr(outcome)) for outcome in outcomes]))
            return
        if what != "idle":
            for n in range(2):
                pool.submit(n, [(what, 60 if what == "sleep" else None)])
            while not all(w["item_index"] == 0 for w in pool.describe(0)["workers"]):
                time.sleep(0.001)
        print(json.dumps([w["pid"] for w in pool.describe(0)["workers"]]), flush=True)
        time.sleep(60)
"""
AS_PROGRAM = PROGRAM + '\nif __name__ == "__main__":\n    main()\n'
# Imports what a command line may import, and has no guard: a worker that loads it again runs it again.
AS_SCRIPT = "import polars\n" + PROGRAM + "\nmain()\n"


def make(name: str, **changes: Any) -> Pool[Any, Any]:
    options: dict[str, Any] = {"workers": 2, "settings": None, "task_timeout_s": 20.0}
    return Pool(name, "pool_tasks:factory", **(options | changes))


def pids(pool: Pool[Any, Any]) -> list[int]:
    return [worker["pid"] for worker in pool.describe(time.monotonic())["workers"]]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextmanager
def program(*command: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, *command], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def answer(*command: str) -> Any:
    with program(*command) as process:
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        return json.loads(said)


def test_idle_workers_killed_in_both_pools_lose_nothing() -> None:
    """What breaks a pool with shared queues for good is an event here: logged, counted, and work goes on."""
    with make("stage") as stage, make("segment") as segment:
        for round_ in range(1, 3):
            drive(stage, segment, until=lambda _: stage.idle == segment.idle == 2)
            for pid in pids(stage) + pids(segment):
                os.kill(pid, signal.SIGKILL)
            for pool in (stage, segment):
                outcomes = work_off(pool, {n: [("double", n)] for n in range(10)})
                done = {o.batch_id: o.results for o in outcomes if isinstance(o, Finished)}
                assert done == {n: [2 * n] for n in range(10)}
                drive(pool, until=lambda _, pool=pool, lost=2 * round_: pool.counts.lost_idle == lost)
        assert stage.counts == segment.counts
        assert stage.counts.lost_idle == stage.counts.replaced == 4


def test_workers_killed_at_random_moments_lose_nothing() -> None:
    """Each batch ends once, whether its worker is shot before, in or after it."""
    dice = random.Random(1)
    waiting = {n: [("double", n)] * 20 for n in range(200)}
    done: set[int] = set()
    killed: set[int] = set()
    with make("stage") as pool:
        drive(pool, until=lambda _: pool.idle == 2)
        end = time.monotonic() + 30
        out: dict[int, list[Item]] = {}
        while waiting or out:
            assert time.monotonic() < end, (waiting, out)
            while waiting and pool.idle:
                n, items = waiting.popitem()
                out[n] = items
                pool.submit(n, items)
            targets = [w["pid"] for w in pool.describe(0.0)["workers"] if w["state"] in {"idle", "busy"}]
            if targets and dice.random() < 0.03:
                victim = dice.choice(targets)
                os.kill(victim, signal.SIGKILL)
                killed.add(victim)
            for outcome in drive(pool, until=lambda _: True):
                if isinstance(outcome, Finished):
                    assert outcome.results == [2 * outcome.batch_id] * 20
                    del out[outcome.batch_id]
                    done.add(outcome.batch_id)
                elif isinstance(outcome, Died):
                    waiting[outcome.batch_id] = out.pop(outcome.batch_id)
                else:
                    assert isinstance(outcome, WorkerLost)
        drive(pool, until=lambda _: pool.counts.replaced == len(killed))
    assert done == set(range(200))
    assert len(killed) > 3


def test_a_mixed_load_of_poison_names_each_culprit() -> None:
    """Every kind of bad file at once, among good ones, in one pool object."""
    poison: dict[int, tuple[Item, type]] = {
        5: (("exit", 1), Died),
        11: (("segfault", None), Died),
        17: (("gil", None), TimedOut),
        23: (("swell", 100), OutOfMemory),
        29: (("raise", "bug"), Raised),
        35: (("sigterm_deaf", 60), TimedOut),
    }
    batches: dict[int, list[Item]] = {n: [("double", n)] * 4 for n in range(40)}
    for n, (item, _) in poison.items():
        batches[n][2] = item
    with make("stage", task_timeout_s=0.7, task_memory_mb=64) as pool:
        outcomes = {o.batch_id: o for o in work_off(pool, batches) if not isinstance(o, WorkerLost)}
        for n, (_, kind) in poison.items():
            culprit = outcomes.pop(n)
            assert isinstance(culprit, kind)
            assert culprit.item_index == 2
        assert all(o == Finished(n, [2 * n] * 4) for n, o in outcomes.items())
        assert pool.counts.lost_idle == 0
        assert pool.counts.replaced == len(poison)


def test_workers_of_a_parent_with_polars_threads_are_not_frozen() -> None:
    """The freeze that this project ends: fork a parent that has run Polars, and the child waits for ever."""
    assert answer("-c", AS_PROGRAM, "group_by") == [[7], [7]]


@pytest.mark.parametrize("way", ["command", "script", "module", "package"])
def test_workers_do_not_load_the_program(way: str, tmp_path: Path) -> None:
    """However the parent was started, its workers neither import nor run its main module."""
    (tmp_path / "tool").write_text(AS_SCRIPT)
    (tmp_path / "tool_module.py").write_text(AS_SCRIPT)
    (tmp_path / "tool_package").mkdir()
    (tmp_path / "tool_package" / "__main__.py").write_text(AS_SCRIPT)
    os.symlink(ROOT / "nanolab_daemon", tmp_path / "nanolab_daemon")
    command = {
        "command": ["-c", AS_SCRIPT],
        "script": [str(tmp_path / "tool")],
        "module": ["-m", "tool_module"],
        "package": ["-m", "tool_package"],
    }[way]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        facts = answer(*command, "facts")
    for (fact,) in facts:
        assert not fact["knows_parents_main"]
        assert "polars" not in fact["modules"]


@pytest.mark.parametrize("what", ["idle", "sleep", "gil"])
def test_no_worker_outlives_a_killed_parent(what: str) -> None:
    """SIGKILL leaves the parent no time to tell anyone; the kernel does."""
    with program("-c", AS_PROGRAM, what) as process:
        assert process.stdout is not None
        workers = json.loads(process.stdout.readline())
        assert all(alive(pid) for pid in workers)
        process.kill()
        end = time.monotonic() + 1
        while any(alive(pid) for pid in workers):
            assert time.monotonic() < end
            time.sleep(0.005)


def test_a_program_that_forgets_to_close_ends_all_the_same() -> None:
    """An exception that nobody catches ends the program, workers that hang included."""
    code = AS_PROGRAM.replace("with Pool(", "pool = Pool(").replace(" as pool:", "; pool.start()\n    if True:")
    code = code.replace("time.sleep(60)\n\nif", "raise SystemExit(5)\n\nif")
    with program("-c", code, "gil") as process:
        assert process.stdout is not None
        workers = json.loads(process.stdout.readline())
        assert process.wait(timeout=10) == 5
        assert not any(alive(pid) for pid in workers)
