"""The page's process as the daemon keeps it: where it listens, how it is started again, what it inherits."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from lab import until

from nanolab_daemon import page as module
from nanolab_daemon.config import Config, Http
from nanolab_daemon.errors import ConfigError
from nanolab_daemon.page import FIRST_PAUSE_S, LONGEST_PAUSE_S, WELL_AFTER_S, Page

CONFIG = Config(http=Http(enabled=True, port=0))


@pytest.fixture
def page() -> Iterator[Page]:
    page = Page(CONFIG, environ={})
    yield page
    page.kill()


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process do nothing but live."""
    monkeypatch.setattr(module, "MODULE", "timeit")  # with the arguments of a page, it ends at once with a failure


def dead(page: Page) -> None:
    assert page._process is not None
    page._process.wait(20)


@pytest.mark.usefixtures("stand_in")
def test_it_is_started_again_with_growing_pauses_on_the_same_port(page: Page) -> None:
    now = 100.0
    page.start(now)
    described = page.describe()
    assert described is not None
    pauses = []
    for restarts in range(1, 10):
        dead(page)
        page.look(now)
        later = page.describe()
        assert later is not None
        assert (later["address"], later["restarts"], later["pid"]) == (described["address"], restarts, None)
        assert "has ended" in later["trouble"]
        pauses.append(page._start_at - now)
        page.look(page._start_at - 0.001)
        assert page._process is None
        now = page._start_at
        page.look(now)
        assert page._process is not None
    assert pauses[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert pauses[-1] == LONGEST_PAUSE_S


def test_after_a_while_of_health_pauses_are_short_again(page: Page) -> None:
    page.start(0.0)
    page._failures = 5
    page.look(WELL_AFTER_S + 1)
    assert page._failures == 0


def test_a_port_in_use_is_told_and_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        page = Page(replace(CONFIG, http=Http(enabled=True, port=port)), environ={})
        page.start(0.0)
        described = page.describe()
        assert described is not None
        assert f"127.0.0.1:{port} can't be listened on: Address already in use" in described["trouble"]
        assert described["address"] is None
    page.look(FIRST_PAUSE_S)
    try:
        described = page.describe()
        assert described is not None
        assert (described["address"], described["trouble"]) == (f"http://127.0.0.1:{port}/", None)
    finally:
        page.kill()


def test_a_page_that_is_not_wanted_costs_nothing() -> None:
    page = Page(Config(), environ={})
    page.start(0.0)
    page.look(1.0)
    page.stop()
    page.kill()
    assert page.describe() is None


def test_packages_that_lack_are_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NEEDS", ("jinja2", "no_such_package"))
    with pytest.raises(ConfigError, match="needs no_such_package, which") as caught:
        module.require_packages(CONFIG)
    assert "nanolab-daemon[http]" in caught.value.advice
    module.require_packages(Config())


HANDED_OVER = """
import os, sys
from nanolab_daemon.config import Config, Http
from nanolab_daemon.page import Page
os.dup2(int(sys.argv[1]), 3)
page = Page(Config(http=Http(enabled=True, port=1)), {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"})
page.start(0.0)
print(page.describe()["address"])
page.kill()
"""


def test_a_socket_of_systemd_goes_before_the_settings() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        done = subprocess.run(
            [sys.executable, "-c", HANDED_OVER, str(number)],
            pass_fds=[number],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stdout.strip() == f"http://127.0.0.1:{listener.getsockname()[1]}/"


def test_a_socket_meant_for_another_process_is_left_alone(page: Page) -> None:
    other = Page(CONFIG, environ={"LISTEN_PID": "1", "LISTEN_FDS": "1"})
    other.start(0.0)
    described = other.describe()
    other.kill()
    assert described is not None
    assert described["address"].startswith("http://127.0.0.1:")


def test_the_process_knows_nothing_of_the_daemons_systemd_and_is_killed_with_it(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/nowhere")
    page.start(0.0)
    assert page._process is not None
    environ = Path(f"/proc/{page._process.pid}/environ")
    assert b"NOTIFY_SOCKET" not in environ.read_bytes()
    os.kill(page._process.pid, signal.SIGHUP)
    page.kill()
    until(lambda: not environ.exists())
