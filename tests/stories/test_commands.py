"""The commands as a person meets them: real processes on a small raw folder, their exit codes and their words."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import instrument
import messy
import outputs
import pytest
from lab import Lab, toml, until

from nanolab_daemon import lock

PROGRAM = [sys.executable, "-m", "nanolab_daemon"]
IN_OPEN = 0x20
IN_ISDIR = 0x40000000


class Told:
    """What a finished command said; a traceback is never among it."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        assert "Traceback" not in err, err

    def __repr__(self) -> str:
        return f"exit {self.code}\n{self.out}\n{self.err}"


def begin(lab: Lab, *argv: str, **more: object) -> subprocess.Popen[str]:
    env = {**os.environ, **dict(more.pop("env", {}))}  # type: ignore[call-overload]
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        [*PROGRAM, *argv],
        cwd=lab.home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        **more,
    )


def end(process: subprocess.Popen[str]) -> Told:
    out, err = process.communicate(timeout=100)
    return Told(process.returncode, out, err)


def run(lab: Lab, *argv: str, **more: object) -> Told:
    return end(begin(lab, *argv, **more))


def make(home: Path) -> Lab:
    lab = Lab(home)
    (home / "config.toml").write_text(toml(lab.config))
    messy.fill(lab.raw)
    return lab


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return make(tmp_path)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Give a lab after a backfill, for commands that change nothing."""
    lab = make(tmp_path_factory.mktemp("done"))
    told = run(lab, "backfill")
    assert told.code == 0, told
    return lab


def stamps(*roots: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.lstat().st_mtime_ns, p.lstat().st_ino) for root in roots for p in root.rglob("*")}


class Opened:
    """Counts the raw files that anybody opens, as inotify tells."""

    def __init__(self, raw: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self._fd >= 0
        for folder in (raw, *(path for path in raw.rglob("*") if path.is_dir() and not path.is_symlink())):
            assert libc.inotify_add_watch(self._fd, os.fsencode(folder), IN_OPEN) >= 0

    def files(self) -> set[bytes]:
        found = set()
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._fd, 1 << 16):
                at = 0
                while at < len(data):
                    _, mask, _, size = struct.unpack_from("iIII", data, at)
                    if not mask & IN_ISDIR:
                        found.add(data[at + 16 : at + 16 + size].rstrip(b"\0"))
                    at += 16 + size
        return found


class TestBackfill:
    def test_from_a_dry_run_to_a_second_one(self, lab: Lab) -> None:
        before = stamps(lab.home)
        planned = run(lab, "backfill", "--dry-run")
        assert planned.code == 0
        assert stamps(lab.home) == before
        assert "4 staged, 3 rejected, 1 queued, 1 started, 1 duplicate, 1 superseded, 4 runs" in planned.out

        first = run(lab, "backfill", "--json")
        assert first.code == 0
        summary = json.loads(first.out)
        expected = {"found": 11, "known": 0, "staged": 4, "rejected": 3, "runs": 4, "duplicate": 1, "superseded": 1}
        assert {name: summary[name] for name in expected} == expected
        assert summary["agreement"]["IV"]["rate"] == 1.0
        assert {path: state for path, (state, _) in lab.files().items() if path != messy.ODD_NAME} == {
            os.fsencode(path): state for path, state in messy.VERDICTS.items()
        }
        assert not outputs.leftovers(lab.stage, lab.output)

        published, ledger = stamps(lab.stage, lab.output), lab.files()
        opened = Opened(lab.raw)
        second = run(lab, "backfill")
        assert second.code == 0
        assert opened.files() == set()
        assert stamps(lab.stage, lab.output) == published
        assert lab.files() == ledger
        assert "known               11" in second.out

    def test_strict_exits_with_3_where_a_file_is_rejected(self, lab: Lab) -> None:
        told = run(lab, "backfill", "--strict")
        assert told.code == 3
        assert "1 bad_rows" in told.out
        assert "nanolab-daemon rejects" in told.out

    def test_one_stage_after_the_other(self, lab: Lab) -> None:
        assert run(lab, "stage").code == 0
        assert not any(lab.output.rglob("*.parquet"))
        assert "no segments yet" in run(lab, "verify").out
        told = run(lab, "preprocess")
        assert told.code == 0
        assert "from 4 runs" in told.out
        assert run(lab, "verify").code == 0

    def test_a_selection(self, lab: Lab) -> None:
        told = run(lab, "pipeline", "--procedure", "IVg", "--procedure", "It", "--since", "2025-09-04", "--json")
        summary = json.loads(told.out)
        assert (summary["runs"], summary["unselected"]) == (2, 3)

    def test_in_a_pipe_it_writes_plain_lines(self, lab: Lab) -> None:
        told = run(lab, "backfill")
        assert all(line.isprintable() for line in told.out.splitlines())
        assert "█" in told.out or "▁" in told.out

    def test_where_only_ascii_can_be_shown(self, lab: Lab) -> None:
        told = run(lab, "backfill", env={"PYTHONIOENCODING": "ascii"})
        assert told.code == 0
        assert told.out.isascii()

    def test_on_a_terminal_it_draws_bars(self, lab: Lab) -> None:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [*PROGRAM, "backfill"],
            cwd=lab.home,
            stdout=theirs,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        )
        os.close(theirs)
        shown = bytearray()
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while part := os.read(ours, 4096):
                shown += part
        os.close(ours)
        assert process.wait(60) == 0
        assert b"\x1b[" in shown
        assert b"11/11" in shown
        assert b"backfill: done" in shown


@pytest.mark.slow
class TestInterrupted:
    def test_ctrl_c_ends_it_well_and_it_goes_on_later(self, tmp_path: Path) -> None:
        lab = make(tmp_path)
        instrument.lab(lab.raw, files=120)
        process = begin(lab, "backfill", "--workers", "1")
        until(lambda: any(lab.stage.rglob("part-*.parquet")), 60, "for a first run")
        process.send_signal(signal.SIGINT)
        told = end(process)
        assert told.code == 130
        assert "goes on where it stopped" in told.out
        assert run(lab, "backfill").code == 0
        assert run(lab, "verify").code == 0
        fresh = make(tmp_path / "fresh")
        instrument.lab(fresh.raw, files=120)
        assert run(fresh, "backfill").code == 0
        outputs.assert_equal(lab.snapshot(), fresh.snapshot(), ignoring=outputs.BOOKKEEPING)


class TestTwoEngines:
    def test_a_second_one_is_told_who_is_at_work(self, lab: Lab) -> None:
        first = begin(lab, "backfill")
        until(lambda: lock.holder(lab.state), 60, "for the lock")
        first.send_signal(signal.SIGSTOP)  # it keeps the lock for as long as this test needs
        try:
            for command in ("backfill", "stage", "run"):
                told = run(lab, command)
                assert told.code == 1
                assert f"in use by `nanolab-daemon backfill`, process {first.pid}" in told.err
            assert "Running: `backfill`" in run(lab, "status").out
            assert run(lab, "backfill", "--dry-run").code == 0
        finally:
            first.send_signal(signal.SIGCONT)
        assert end(first).code == 0

    @pytest.mark.slow
    def test_a_daemon_does_the_work_of_commands(self, lab: Lab) -> None:
        for path in lab.raw.rglob("*.csv"):  # fresh files would be followed for as long as their header says
            if path.is_file() and not path.is_symlink() and path.stat().st_mtime > messy.LONG_AGO:
                os.utime(path, (time.time() - 3600,) * 2)
        with lab.process() as daemon:
            told = run(lab, "backfill", "--json")
            assert told.code == 0
            assert json.loads(told.out)["done_by_daemon"] is True
            assert f"The daemon (process {daemon.pid}) does the work" in told.err
            lab.wait_quiet()
            assert lab.state_of("iv.csv") == "segmented"
            status = json.loads(run(lab, "status", "--json").out)
            assert (status["running"], status["command"], status["pid"]) == (True, "run", daemon.pid)
            assert status["live"]["pid"] == daemon.pid
            told = run(lab, "retry", "--skip-bad-rows", "bad.csv")
            assert told.code == 0
            until(lambda: lab.state_of("bad.csv") == "segmented", what="for the second stage")
            assert run(lab, "verify").code == 0
        assert "Not running" in run(lab, "status").out
        assert run(lab, "verify").code == 0


class TestQuestions:
    def test_status(self, done: Lab) -> None:
        told = run(done, "status")
        assert told.code == 0
        assert "Not running." in told.out
        assert "4 runs" in told.out
        assert str(done.state / "ledger.sqlite") in told.out

    def test_why_a_bad_file(self, done: Lab) -> None:
        told = run(done, "why", "bad.csv")
        assert told.code == 0
        line = messy.bad_line(instrument.iv(4))
        assert f">{line:>7}  0.1,oops,nan,nan,nan" in told.out
        assert "retry --skip-bad-rows" in told.out
        assert json.loads(run(done, "why", "--json", "bad.csv").out)["line"] == line

    def test_why_every_file(self, done: Lab) -> None:
        for name in [*messy.VERDICTS, os.fsdecode(messy.ODD_NAME), ".hidden.csv", "link.csv", "pipe.csv"]:
            told = run(done, "why", name)
            assert told.code == 0, told
            assert "to do" in told.out

    def test_why_a_file_that_is_not_there(self, done: Lab) -> None:
        told = run(done, "why", "nowhere.csv")
        assert told.code == 1
        assert "no such file" in told.out

    def test_rejects(self, done: Lab) -> None:
        told = run(done, "rejects")
        assert told.code == 0
        assert "not_instrument_file: 1 file" in told.out
        assert "hello,world" in told.out
        assert {group["cause"] for group in json.loads(run(done, "rejects", "--json").out)} == {
            "abandoned",
            "bad_rows",
            "not_instrument_file",
        }

    def test_show(self, done: Lab) -> None:
        told = run(done, "show", "day/ivg.csv", env={"COLUMNS": "70"})
        assert told.code == 0
        assert told.out.startswith("IVg of 2025-09-04, chip Alisson 79F: ")
        assert "I (nA)" in told.out
        assert max(map(len, told.out.splitlines())) <= 70
        found = json.loads(run(done, "show", "--json", "day/ivg.csv").out)
        assert sum(len(one["x"]) for one in (*found["segments"], *found["outside"])) == found["rows"]
        assert (
            run(done, "show", found["run_id"][:10]).out.splitlines()[1:]
            == run(done, "show", "day/ivg.csv").out.splitlines()[1:]
        )
        assert run(done, "show", "started.csv").code == 1

    def test_verify(self, done: Lab) -> None:
        told = run(done, "verify", "--json")
        assert told.code == 0
        assert json.loads(told.out)["problems"] == []

    def test_nobody_who_asks_writes(self, done: Lab) -> None:
        before = stamps(done.home)
        asking = (["status"], ["why", "iv.csv"], ["show", "iv.csv"], ["show", "started.csv"], ["rejects"], ["verify"])
        for argv in (*asking, ["backfill", "--dry-run"]):
            run(done, *argv)
        assert stamps(done.home) == before

    def test_a_reader_that_leaves_early_is_no_mishap(self, done: Lab) -> None:
        process = begin(done, "why", "iv.csv")
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait(60) == 141
        process.stderr.close()

    def test_verify_asks_workers_to_read_parquet(self, done: Lab) -> None:
        script = (
            "import sys\nfrom nanolab_daemon.cli import main\n"
            "if __name__ == '__main__':\n"
            "    assert main(['verify']) == 0 and main(['backfill']) == 0\n"
            "    print(sorted({'polars', 'pyarrow', 'numpy'} & sys.modules.keys()))\n"
        )
        command = [sys.executable, "-c", script]
        found = subprocess.run(command, cwd=done.home, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr
        assert found.stdout.splitlines()[-1] == "[]"


class TestRetry:
    def test_what_was_mended_is_staged(self, lab: Lab) -> None:
        run(lab, "backfill")
        assert run(lab, "retry", "--strict").code == 3
        told = run(lab, "retry", "--skip-bad-rows", "bad.csv")
        assert told.code == 0
        assert told.out.startswith("segmented   bad.csv")
        told = run(lab, "retry", "z-copy.csv", "nowhere.csv")
        assert told.code == 1
        assert "z-copy.csv: It was not refused." in told.err
        assert "nowhere.csv: There is no such file." in told.err


class TestRights:
    @pytest.fixture
    def open_lab(self, tmp_path: Path) -> Iterator[Lab]:
        """Give a lab that everyone may read, whose state folder nobody but its owner may write."""
        for folder in tmp_path.parents:
            if folder.stat().st_uid == os.geteuid() and folder.name.startswith("pytest-of-"):
                folder.chmod(0o755)
        lab = make(tmp_path)
        for folder in (lab.state, lab.stage, lab.output):
            folder.mkdir()
        for folder in (tmp_path, *tmp_path.parents[:2]):
            folder.chmod(0o755)
        lab.state.chmod(0o555)
        yield lab
        lab.state.chmod(0o755)

    def test_a_state_folder_without_the_right_to_write(self, open_lab: Lab) -> None:
        # Python may lie where other users can't go, so the child starts as it is and drops its rights then.
        script = (
            "import os, sys\nfrom nanolab_daemon.cli import main\n"
            "from nanolab_daemon import batch, cli_progress, log\nlog.configure()\nmain(['status'])\n"
            "os.geteuid() == 0 and (os.setgroups([]), os.setgid(65534), os.setuid(65534))\n"
            "sys.exit(main(['backfill']))"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=open_lab.home, capture_output=True, text=True, check=False
        )
        told = Told(done.returncode, done.stdout, done.stderr)
        assert told.code == 1, told
        assert f"The state folder {open_lab.state} can't be written" in told.err
        assert "--state-dir" in told.err
