"""People are told by a process of its own: through real apprise, to a real receiver, about a real daemon."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import instrument
import pytest
from lab import Lab, toml, until

from nanolab_daemon.config import Notify

BAD = b"-0.7805,x,nan,nan,nan"


class Receiver:
    """Takes what is posted to it; `deaf` makes it answer that it can't now."""

    def __init__(self) -> None:
        self.got: list[dict[str, str]] = []
        self.tries = 0
        self.deaf = False
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.tries += 1
                if not receiver.deaf:
                    receiver.got.append(json.loads(body))
                self.send_response(503 if receiver.deaf else 200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"json://127.0.0.1:{self.server.server_address[1]}/"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def titles(self) -> list[str]:
        return [one["title"] for one in self.got]


pytestmark = pytest.mark.slow


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def lab_that_tells(home: Path, url: str, **notify: object) -> Lab:
    lab = Lab(home)
    (home / "urls").write_text(f"# who is to know\n{url}\n")
    settings = {"urls_file": home / "urls", "gather_s": 1.0, **notify}
    lab.config = replace(lab.config, notify=Notify(**settings))  # type: ignore[arg-type]
    (home / "config.toml").write_text(toml(lab.config))
    return lab


def command_of(lab: Lab, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "nanolab_daemon", "notify", "--config", str(lab.home / "config.toml"), *arguments]


def notify(lab: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = command_of(lab, *arguments)
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=lab.home, timeout=60)


@contextlib.contextmanager
def telling(lab: Lab) -> Iterator[subprocess.Popen[bytes]]:
    log = lab.home / "notify.log"
    log.write_bytes(b"")
    with log.open("ab") as file:
        process = subprocess.Popen(command_of(lab), stdout=file, stderr=file, cwd=lab.home)
    try:
        until(lambda: '"telling"' in log.read_text() or process.poll() is not None, what="for it to begin")
        yield process
    finally:
        process.terminate()
        assert process.wait(30) in (0, -signal.SIGKILL), log.read_text()


def bad(lab: Lab, number: int) -> None:
    data = instrument.iv(number, start=1757018821.0 + number).data().split(b"\r\n")
    data[-3] = BAD
    (lab.raw / f"IV_{number}.csv").write_bytes(b"\r\n".join(data))


def test_a_thousand_equal_rejects_are_one_notice_with_file_cause_and_remedy(
    tmp_path: Path, receiver: Receiver
) -> None:
    """Whatever comes after it waits for `repeat_s`; told or waiting, each of them is counted once."""
    lab = lab_that_tells(tmp_path, receiver.url, gather_s=6.0)
    with lab.process(), telling(lab):
        for number in range(1000):
            bad(lab, number)
        until(lambda: sum(state == "rejected" for state, _ in lab.files().values()) == 1000, 90)
        until(lambda: receiver.got, 60, "for a notice")
        until(lambda: told(receiver) + waiting(lab) == 1000, 30, "for all of them to be counted")
    (notice,) = receiver.got
    assert notice["title"].startswith("Rejected (bad_rows): ")
    lines = notice["message"].splitlines()
    assert len(lines) < 10
    assert all("IV_" in line and "Line" in line for line in lines[:5])
    assert re.fullmatch("and [0-9]+ more", lines[5])
    assert f"nanolab-daemon retry --config {lab.home}/config.toml --skip-bad-rows" in lines[-1]


def told(receiver: Receiver) -> int:
    """Add up the files that the titles of the notices speak of."""
    numbers = [re.search(r"([0-9,]+) files?$", title) for title in receiver.titles]
    return sum(int(found[1].replace(",", "")) for found in numbers if found)


def waiting(lab: Lab) -> int:
    """Count the files that are to be told of later."""
    return sum(heap["count"] for *_, heap in json.loads((lab.state / "notices.json").read_text())["book"]["heaps"])


def test_a_daemon_that_is_gone_and_back_is_told_also_over_a_restart(tmp_path: Path, receiver: Receiver) -> None:
    lab = lab_that_tells(tmp_path, receiver.url)
    with lab.process(), telling(lab):
        until(lab.status)
        lab.raw.rename(tmp_path / "away")
        until(lambda: receiver.titles, 60, "for a notice")
    assert receiver.titles[0].startswith("Degraded: The raw folder")
    (tmp_path / "away").rename(lab.raw)
    with lab.process(), telling(lab):
        until(lambda: len(receiver.titles) == 2, 60, "for the end of it")
    assert receiver.titles[1] == "Back to normal: degraded"


def test_a_receiver_that_fails_delays_no_file(tmp_path: Path, receiver: Receiver) -> None:
    lab = lab_that_tells(tmp_path, receiver.url)
    receiver.deaf = True
    with lab.process(), telling(lab):
        bad(lab, 1)
        until(lambda: receiver.tries, 60, "for a try")
        (lab.raw / "IV_2.csv").write_bytes(instrument.iv(2).data())
        until(lambda: lab.state_of("IV_2.csv") == "segmented")
    kept = json.loads((lab.state / "notices.json").read_text())
    assert len(kept["post"]) == 1
    receiver.deaf = False
    with telling(lab):
        until(lambda: receiver.titles == ["Rejected (bad_rows): 1 file"], 60, "for what waited")


def test_a_test_message_says_whether_it_arrives(tmp_path: Path, receiver: Receiver) -> None:
    lab = lab_that_tells(tmp_path, receiver.url)
    done = notify(lab, "--test")
    assert (done.returncode, done.stdout) == (0, "json: taken\n"), done.stderr
    assert receiver.titles == ["nanolab-daemon: a test"]
    receiver.deaf = True
    done = notify(lab, "--test")
    assert done.returncode == 1
    assert re.fullmatch("json: NOT taken: .*error=503.*\n", done.stdout), done.stdout
    assert receiver.url not in done.stdout


def test_a_snooze_is_kept(tmp_path: Path, receiver: Receiver) -> None:
    lab = lab_that_tells(tmp_path, receiver.url)
    with lab.process(), telling(lab):
        done = notify(lab, "--snooze", "rejected", "--for", "2h")
        assert done.returncode == 0, done.stderr
        found = re.search("Notices of the kind rejected wait until (.+)[.]", done.stdout)
        assert found is not None
        until_when = datetime.fromisoformat(found[1])
        assert until_when.utcoffset() == datetime.now(ZoneInfo(lab.config.lab.timezone)).utcoffset()
        assert abs((until_when - datetime.now(UTC)).total_seconds() - 7200) < 60
        bad(lab, 1)
        until(lambda: lab.state_of("IV_1.csv") == "rejected")
        heaps = lambda: json.loads((lab.state / "notices.json").read_text())["book"]["heaps"]  # noqa: E731
        until(heaps, 60, "for the notice to wait")
        assert not receiver.got
        done = notify(lab, "--snooze", "rejected", "--for", "0m")
        assert (done.returncode, done.stdout) == (0, "Notices of the kind rejected are sent again.\n")
        until(lambda: receiver.titles == ["Rejected (bad_rows): 1 file"], 60, "for what was snoozed")


def test_mistakes_are_told_and_betray_no_password(tmp_path: Path) -> None:
    lab = lab_that_tells(tmp_path, "nonsense://user:secret@host")
    done = notify(lab, "--test")
    assert done.returncode == 78
    assert "address 1 (nonsense:…)" in done.stderr
    assert "secret" not in done.stderr + done.stdout
    (tmp_path / "urls").unlink()
    assert "can't be read" in notify(lab).stderr
    assert notify(lab, "--snooze", "rejected").returncode == 2
    assert notify(lab, "--snooze", "rejected", "--for", "soon").returncode == 2


def test_one_is_enough(tmp_path: Path, receiver: Receiver) -> None:
    lab = lab_that_tells(tmp_path, receiver.url)
    with lab.process(), telling(lab) as first:
        done = notify(lab)
        assert done.returncode == 1
        assert "is in use by `nanolab-daemon notify`, process" in done.stderr
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        with telling(lab) as second:
            assert second.poll() is None


def test_other_notices_do_not_keep_a_reload_back(tmp_path: Path) -> None:
    """The daemon, which does not send them, takes over what else has changed."""
    lab = Lab(tmp_path)
    with lab.process() as daemon:
        lab.config = replace(lab.config, notify=Notify(gather_s=5.0), watch=replace(lab.config.watch, settle_s=0.3))
        (lab.home / "config.toml").write_text(toml(lab.config))
        daemon.send_signal(signal.SIGHUP)
        until(lambda: "configuration taken over" in (lab.home / "daemon.log").read_text())
    assert "watch.settle_s" in (lab.home / "daemon.log").read_text()
