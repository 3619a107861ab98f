"""The commands in a real terminal: colours and none, the live views and how they end, completion in a real shell."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import instrument
import messy
import pytest
from lab import Lab, toml, until
from terminals import ALTERNATE, ORDINARY, Terminal, plain

PROGRAM = [sys.executable, "-m", "nanolab_daemon"]
SHELLS = [shell for shell in ("bash", "zsh", "fish") if shutil.which(shell)]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Give a lab after a backfill over a messy folder, for commands that change nothing."""
    lab = Lab(tmp_path_factory.mktemp("done"))
    (lab.home / "config.toml").write_text(toml(lab.config))
    messy.fill(lab.raw)
    instrument.iv(30).write(lab.raw / "chip 75, top" / "IV 30, again.csv")
    lab.backfill()
    return lab


def seen(lab: Lab, *argv: str, columns: int = 80, env: dict[str, str] | None = None) -> str:
    """Run a command in a terminal to its end and give all that it wrote."""
    with Terminal([*PROGRAM, *argv], lab.home, columns=columns, env=env) as terminal:
        assert terminal.end() == 0, terminal.text
        raw = terminal.raw
    assert "Traceback" not in raw
    return raw


def piped(lab: Lab, *argv: str, **env: str) -> str:
    done = subprocess.run(
        [*PROGRAM, *argv], cwd=lab.home, capture_output=True, text=True, check=True, env={**os.environ, **env}
    )
    return done.stdout


COMMANDS = [["status"], ["why", "bad.csv"], ["rejects"], ["show", "iv.csv"], ["check"]]


class TestColours:
    @pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
    def test_are_shown_on_a_terminal_and_nowhere_else(self, lab: Lab, argv: list[str]) -> None:
        shown = seen(lab, *argv, columns=60)
        assert re.search(r"\x1b\[[0-9;]*3[1-6]m", shown)
        assert max(len(line) for line in plain(shown).splitlines()) <= 60
        assert "\x1b" not in piped(lab, *argv)

    def test_are_left_out_where_nobody_wants_them(self, lab: Lab) -> None:
        shown = seen(lab, "why", "bad.csv", env={"NO_COLOR": "1"})
        assert not re.search(r"\x1b\[[0-9;]*3[1-6]m", shown)
        assert "^^^^" in shown

    def test_a_dumb_terminal_has_the_plain_lines(self, lab: Lab) -> None:
        assert "\x1b" not in (shown := seen(lab, "rejects", env={"TERM": "dumb"}))
        assert shown.replace("\r\n", "\n") == piped(lab, "rejects")

    def test_a_mistake_is_red_on_a_terminal(self, lab: Lab) -> None:
        with Terminal([*PROGRAM, "statsu"], lab.home) as terminal:
            assert terminal.end() == 2
            assert "\x1b[31m" in terminal.raw
            assert "did you mean status?" in terminal.text


class TestLive:
    @pytest.mark.parametrize("end", ["q", "q\n", "\x03", "SIGTERM", "\x1b"], ids=["q", "q⏎", "^C", "SIGTERM", "Esc"])
    def test_ends_cleanly_and_gives_the_screen_back(self, lab: Lab, end: str) -> None:
        with Terminal([*PROGRAM, "status", "--watch"], lab.home) as terminal:
            terminal.shows("Not running.", "1 duplicate", "Last files", "q ends it")
            assert terminal.raw.count(ALTERNATE) == 1
            terminal.signal(signal.SIGTERM) if end == "SIGTERM" else terminal.type(end)
            began = time.monotonic()
            assert terminal.end() == 0
            assert time.monotonic() - began < 5
            assert terminal.raw.count(ORDINARY) == 1
            assert "Traceback" not in terminal.text

    def test_follows_the_size_of_the_window(self, lab: Lab) -> None:
        with Terminal([*PROGRAM, "status", "--watch"], lab.home, columns=100) as terminal:
            assert "published" in terminal.shows("Last files", "q ends it")
            terminal.resize(60, 20)
            terminal.until(lambda: max(map(len, terminal.frame.splitlines())) <= 60 and "q ends" in terminal.frame)
            assert "published" not in terminal.frame.partition("Last files")[2]
            assert len(terminal.frame.splitlines()) <= 20
            terminal.type("q")
            assert terminal.end() == 0

    def test_rests_on_ctrl_z_and_comes_back(self, lab: Lab) -> None:
        shell = ["bash", "--norc", "-i"]
        with Terminal(shell, lab.home, env={"PS1": "prompt> "}) as terminal:
            terminal.until(lambda: "prompt> " in terminal.text)
            terminal.type(f"{' '.join(PROGRAM)} status --watch\n")
            terminal.shows("Not running.", "q ends it")
            terminal.type("\x1a")
            terminal.until(lambda: "Stopped" in terminal.text and terminal.raw.count(ORDINARY) == 1)
            terminal.type("fg\n")
            terminal.until(lambda: terminal.raw.count(ALTERNATE) == 2)
            terminal.shows("Not running.", "q ends it")
            terminal.type("q")
            terminal.until(lambda: terminal.raw.count(ORDINARY) == 2)
            terminal.type("exit\n")
            assert terminal.end() == 0

    def test_ends_with_its_terminal(self, lab: Lab) -> None:
        with Terminal([*PROGRAM, "status", "--watch"], lab.home) as terminal:
            terminal.shows("q ends it")
            terminal.signal(signal.SIGHUP)
            assert terminal.end() == 0

    def test_begins_with_a_picture_and_not_with_an_empty_frame(self, lab: Lab) -> None:
        for argv in (["status", "--watch"], ["show", "--watch", "iv.csv"]):
            with Terminal([*PROGRAM, *argv], lab.home) as terminal:
                terminal.shows("q ends it")
                terminal.type("q")
                assert terminal.end() == 0
                assert "Layout" not in terminal.raw
                assert "body" not in terminal.raw

    def test_in_a_pipe_it_says_what_to_type(self, lab: Lab) -> None:
        for argv in (["status", "--watch"], ["show", "--watch", "iv.csv"]):
            done = subprocess.run([*PROGRAM, *argv], cwd=lab.home, capture_output=True, text=True, check=False)
            assert (done.returncode, done.stdout) == (2, "")
            assert "--watch" in done.stderr

    def test_for_a_program_it_is_a_line_now_and_then(self, lab: Lab) -> None:
        process = subprocess.Popen(
            [*PROGRAM, "status", "--watch", "--json"], cwd=lab.home, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
        assert first["total"] == second["total"]
        process.stdout.close()  # the reader has seen enough
        assert process.wait(30) == 141

    def test_follows_a_daemon_and_a_measurement(self, tmp_path: Path) -> None:
        """It shows a daemon that starts, a file that grows, its run, and the end of the daemon."""
        lab = Lab(tmp_path)
        (lab.home / "config.toml").write_text(toml(lab.config))
        whole = instrument.iv(1)
        with Terminal([*PROGRAM, "status", "--watch"], lab.home) as terminal:
            terminal.shows("Not running.", "none yet")
            with lab.daemon():
                terminal.shows("Running: run", "well")
                with (lab.raw / "now.csv").open("wb") as writer:
                    writer.write(whole.data(10))
                    writer.flush()
                    terminal.shows("Measuring now", "now.csv", "10 of 44 rows")
                    writer.write(whole.data()[len(whole.data(10)) :])
                until(lambda: lab.state_of("now.csv") == "segmented")
                terminal.shows("1 segmented", "44")
            terminal.shows("Not running.", "1 segmented")
            terminal.type("q")
            assert terminal.end() == 0

    @pytest.mark.slow
    def test_a_daemon_that_hangs_does_not_keep_it_from_ending(self, tmp_path: Path) -> None:
        lab = Lab(tmp_path)
        with lab.process() as daemon:
            with Terminal([*PROGRAM, "status", "--watch"], lab.home) as terminal:
                terminal.shows("Running: run")
                daemon.send_signal(signal.SIGSTOP)
                terminal.shows("as it was", "s ago")
                terminal.type("q")
                assert terminal.end() == 0
            daemon.send_signal(signal.SIGCONT)

    def test_the_curve_grows_while_it_is_measured(self, tmp_path: Path) -> None:
        lab = Lab(tmp_path)
        (lab.home / "config.toml").write_text(toml(lab.config))
        whole = instrument.iv(1)
        file = lab.raw / "now.csv"
        file.write_bytes(whole.data(10))
        with Terminal([*PROGRAM, "show", "--watch", "now.csv"], lab.home, lines=30) as terminal:
            terminal.shows("10 of 44 rows (22 %)", "Vsd (mV)", "q ends it")
            with file.open("ab") as writer:
                writer.write(whole.data(30)[len(whole.data(10)) :])
            terminal.shows("30 of 44 rows (68 %)")
            file.unlink()  # as when the writer renames it
            terminal.shows("no such file", "30 of 44 rows")
            terminal.type("q")
            assert terminal.end() == 0


# -- completion -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with the command as it is installed."""
    folder = tmp_path_factory.mktemp("bin")
    script = folder / "nanolab-daemon"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m nanolab_daemon "$@"\n')
    script.chmod(0o755)
    return folder


class Bash(Terminal):
    """A bash in which the completion is loaded."""

    PROMPT = "prompt> "

    def __init__(self, lab: Lab, command: Path) -> None:
        path = f"{command}:{os.environ['PATH']}"
        super().__init__(["bash", "--norc", "--noprofile", "-i"], lab.home, columns=200, env={"PATH": path})
        self.type(f"PS1='{self.PROMPT}'; bind 'set enable-bracketed-paste off'; bind 'set bell-style none'\n")
        self.type("bind 'set completion-query-items 0'; bind 'set page-completions off'\n")
        self.type('eval "$(nanolab-daemon completion bash)"; echo loa""ded\n')
        # Until the prompt is there, what is typed is echoed by the kernel and not by the shell.
        self.until(lambda: self.text.rpartition("loaded\n")[1:] == ("loaded\n", self.PROMPT))

    def completed(self, typed: str, *, keys: str = "\t") -> str:
        """Type the beginning of a line and Tab; give the line as it is then."""
        before = len(self.text)
        self.type(f"{typed}{keys}")
        # A mark that is typed comes on the screen only when the completion is done.
        self.type("@@")
        self.until(lambda: "@@" in self.text[before:])
        line = (
            self.text[before:].rpartition(self.PROMPT)[2] if self.PROMPT in self.text[before:] else self.text[before:]
        )
        self.type("\x15")  # takes the line away
        return plain(line).partition("@@")[0].replace("\x07", "").replace("\x08", "")


@pytest.fixture(scope="module")
def bash(lab: Lab, command: Path) -> Iterator[Bash]:
    with Bash(lab, command) as terminal:
        yield terminal


class TestCompletion:
    @pytest.mark.parametrize(
        ("typed", "completed"),
        [
            ("nanolab-daemon stat", "nanolab-daemon status "),
            ("nanolab-daemon service un", "nanolab-daemon service uninstall "),
            ("nanolab-daemon backfill --dr", "nanolab-daemon backfill --dry-run "),
            ("nanolab-daemon backfill --procedure LaserC", "nanolab-daemon backfill --procedure LaserCalibration "),
            ("nanolab-daemon rejects --cause bad_r", "nanolab-daemon rejects --cause bad_rows "),
            ("nanolab-daemon why aband", "nanolab-daemon why abandoned.csv "),
            ("nanolab-daemon why chip", "nanolab-daemon why chip\\ 75,\\ top/IV\\ 30,\\ again.csv "),
            ("nanolab-daemon show day/", "nanolab-daemon show day/ivg.csv "),
            ("nanolab-daemon retry b", "nanolab-daemon retry bad.csv "),
            ("nanolab-daemon check --raw-root ra", "nanolab-daemon check --raw-root raw/"),
            ("nanolab-daemon status --config conf", "nanolab-daemon status --config config.toml "),
            ("nanolab-daemon completion fi", "nanolab-daemon completion fish "),
            ("nanolab-daemon why nothing_of_the_kind", "nanolab-daemon why nothing_of_the_kind"),
        ],
    )
    def test_in_bash(self, bash: Bash, typed: str, completed: str) -> None:
        assert bash.completed(typed) == completed

    def test_of_a_run_id(self, lab: Lab, bash: Bash) -> None:
        run_id = next(iter(lab.runs()))
        assert bash.completed(f"nanolab-daemon show {run_id[:8]}") == f"nanolab-daemon show {run_id} "

    def test_says_nothing_where_the_settings_are_wrong(self, bash: Bash, lab: Lab) -> None:
        (lab.home / "torn.toml").write_text("[paths\n")
        typed = "nanolab-daemon why --config torn.toml iv"
        assert bash.completed(typed) == typed

    @pytest.mark.parametrize("shell", SHELLS)
    def test_the_script_is_one_that_the_shell_reads(self, lab: Lab, shell: str) -> None:
        script = piped(lab, "completion", shell)
        done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")

    def test_is_answered_without_anything_heavy(self, lab: Lab) -> None:
        script = (
            "import sys\nfrom nanolab_daemon import cli\ncode = cli.main()\n"
            "print({'rich', 'polars', 'pyarrow', 'numpy', 'structlog', 'nanolab_daemon.engine'} & sys.modules.keys())"
        )
        environment = {
            **os.environ,
            "_NANOLAB_DAEMON_COMPLETE": "bash_complete",
            "COMP_WORDS": "nanolab-daemon show i",
            "COMP_CWORD": "2",
        }
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=lab.home, env=environment, capture_output=True, text=True, check=True
        )
        assert set(done.stdout.splitlines()) >= {"plain,iv.csv", "plain,it.csv", "set()"}
