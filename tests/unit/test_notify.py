"""What systemd is told, and when; nothing of it is imported where it does not listen."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nanolab_daemon.errors import ConfigError
from nanolab_daemon.notify import EXTEND_S, Notifier

WATCHED = {"WATCHDOG_USEC": "8000000", "WATCHDOG_PID": str(os.getpid())}


@pytest.fixture
def told() -> list[str]:
    return []


def test_the_watchdog_is_fed_four_times_an_interval_however_fast_the_loop_is(told: list[str]) -> None:
    notifier = Notifier(WATCHED, send=told.append)
    for turn in range(1000):  # of ten milliseconds each
        notifier.alive(100.0 + turn / 100)
    assert told == ["WATCHDOG=1"] * 5


def test_a_loop_that_stands_feeds_nothing(told: list[str]) -> None:
    """There is no thread and no timer behind it."""
    notifier = Notifier(WATCHED, send=told.append)
    notifier.alive(100.0)
    notifier.status(lambda: "ready", 200.0)
    notifier.ready()
    assert told.count("WATCHDOG=1") == 1


@pytest.mark.parametrize(
    "environ", [{}, WATCHED | {"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}]
)
def test_where_nobody_watches_nothing_is_fed(told: list[str], environ: dict[str, str]) -> None:
    notifier = Notifier(environ, send=told.append)
    notifier.alive(100.0)
    assert told == []


def test_a_reload_says_when_it_began_as_newer_systemds_ask(told: list[str]) -> None:
    notifier = Notifier({}, send=told.append)
    notifier.reloading()
    notifier.ready()
    notifier.stopping()
    reloading, ready, stopping = told
    word, _, moment = reloading.partition("\n")
    assert (word, ready, stopping) == ("RELOADING=1", "READY=1", "STOPPING=1")
    assert moment.removeprefix("MONOTONIC_USEC=").isdigit()


def test_a_start_asks_for_more_time_before_it_runs_out(told: list[str]) -> None:
    notifier = Notifier({}, send=told.append)
    moments = [100.0 + turn / 10 for turn in range(600)]
    sent_at = []
    for now in moments:
        before = len(told)
        notifier.starting(now)
        if len(told) > before:
            sent_at.append(now)
    assert set(told) == {f"EXTEND_TIMEOUT_USEC={round(EXTEND_S * 1e6)}"}
    assert all(after - before < EXTEND_S / 2 for before, after in itertools.pairwise(sent_at))
    assert len(sent_at) < 10


def test_the_status_is_one_line_told_when_it_changes_and_at_most_once_a_second(told: list[str]) -> None:
    notifier = Notifier({}, send=told.append)
    for turn in range(30):
        notifier.status(lambda turn=turn: f"{turn // 20}\nfiles", 100.0 + turn / 10)  # type: ignore[misc]
    assert told == ["STATUS=0 files", "STATUS=1 files"]


def test_without_a_listener_nothing_is_said_and_nothing_imported() -> None:
    script = (
        "import sys, time; from nanolab_daemon import service, cli, log; from nanolab_daemon.notify import Notifier\n"
        "n = Notifier({}); n.starting(1); n.ready(); n.alive(2); n.status(str, 3); n.reloading(); n.stopping()\n"
        "log.configure(); log.logger().info('x')\n"
        "assert not n.listening\n"
        "assert not [m for m in sys.modules if m.partition('.')[0] == 'systemd'], 'imported'"
    )
    environ = {key: value for key, value in os.environ.items() if key not in ("NOTIFY_SOCKET", "JOURNAL_STREAM")}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_listener_without_the_binding_is_a_mistake_that_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "systemd").mkdir()
    (tmp_path / "systemd/__init__.py").write_text("raise ImportError('none')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "systemd", raising=False)
    with pytest.raises(ConfigError) as caught:
        Notifier({"NOTIFY_SOCKET": "/run/systemd/notify"})
    assert caught.value.exit_code == 78
    assert f"sudo {sys.executable} -m pip install 'systemd-python" in caught.value.advice
