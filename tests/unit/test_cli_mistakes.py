"""Whatever is typed, a person reads what is wrong: one message, an exit code of the table, never a traceback."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import click
import instrument
import messy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lab import Lab, toml

from nanolab_daemon import cli, cli_base

Told = Callable[..., tuple[int, str, str]]


def commands(
    group: click.Group = cli.cli, above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Give every command that does something, with the words that it is called by."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*above, name))
        else:
            yield (*above, name), command


COMMANDS = dict(commands())
WITH_SETTINGS = [words for words, command in COMMANDS.items() if any(p.name == "config_file" for p in command.params)]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Give a lab in which nothing was done yet, its settings in the current folder."""
    lab = Lab(tmp_path / "lab")
    (tmp_path / "lab" / "config.toml").write_text(toml(lab.config))
    monkeypatch.chdir(tmp_path / "lab")
    return lab


def needed(command: click.Command) -> list[str]:
    """Give the arguments without which a command is not complete."""
    return [
        str(parameter.name)
        for parameter in command.params
        if isinstance(parameter, click.Argument) and parameter.required
    ]


def assert_refused(told: tuple[int, str, str], *codes: int) -> None:
    code, out, err = told
    assert code in codes, told
    assert out == ""
    assert "Traceback" not in err
    assert err.strip()
    # What was typed is shown, but never steers the terminal.
    assert all(line.isprintable() for line in err.splitlines()), err
    assert len(err.splitlines()) < 12
    assert max(map(len, err.splitlines())) < 1000


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
class TestUsage:
    def test_an_option_that_is_misspelt_is_named_with_the_one_meant(
        self, lab: Lab, told: Told, words: tuple[str, ...]
    ) -> None:
        for option in COMMANDS[words].params:
            flag = option.opts[0]
            if not isinstance(option, click.Option) or len(flag) < 5:
                continue
            slip = flag[:-2] + flag[-1] + flag[-2] if flag[-1] != flag[-2] else flag + "x"
            result = told(*words, slip)
            assert_refused(result, 2)
            assert flag in result[2]

    def test_an_option_without_its_value(self, lab: Lab, told: Told, words: tuple[str, ...]) -> None:
        for option in COMMANDS[words].params:
            if isinstance(option, click.Option) and not option.is_flag:
                result = told(*words, option.opts[0])
                assert_refused(result, 2)
                assert option.opts[0] in result[2]

    def test_an_argument_too_many(self, lab: Lab, told: Told, words: tuple[str, ...]) -> None:
        if any(parameter.nargs == -1 for parameter in COMMANDS[words].params):
            pytest.skip("it takes any number")
        result = told(*words, *needed(COMMANDS[words]), "bash", "sur\x1bplus")
        assert_refused(result, 2)
        assert "unexpected extra argument" in result[2]

    def test_an_argument_too_few(self, lab: Lab, told: Told, words: tuple[str, ...]) -> None:
        for missing in needed(COMMANDS[words]):
            result = told(*words)
            assert_refused(result, 2)
            assert missing.upper() in result[2]

    def test_an_argument_that_is_empty_or_odd(self, lab: Lab, told: Told, words: tuple[str, ...]) -> None:
        if words in {("run",), ("demo",), ("service", "install"), ("service", "uninstall")}:
            pytest.skip("it takes none")
        for odd in ("", "\0", "\x1b[2J", "x" * 5000, "\udcff", "../../..", "/dev/null/x", "~", "*"):
            if needed(COMMANDS[words]) or any(parameter.nargs == -1 for parameter in COMMANDS[words].params):
                code, _, err = told(*words, odd)
                assert code in (0, 1, 2), odd  # `why` tells of a folder, too
                assert "Traceback" not in err
                assert all(line.isprintable() for line in err.splitlines())


@pytest.mark.parametrize("words", WITH_SETTINGS, ids=" ".join)
class TestSettings:
    @pytest.mark.parametrize(
        "make",
        [
            lambda path: None,
            lambda path: path.mkdir(),
            lambda path: path.write_bytes(b"\xff\xfe\x00bin"),
            lambda path: path.write_text("[paths\n"),
            lambda path: path.write_text("[path]\nraw = 'x'\n"),
            lambda path: path.write_text("[paths]\nraw = ['x']\n"),
            lambda path: path.symlink_to(path),
            lambda path: path.write_text("x = 1\n" * 10),
        ],
        ids=["missing", "folder", "binary", "torn", "misspelt", "list", "loop", "twice"],
    )
    def test_a_file_of_settings_that_is_none(
        self, lab: Lab, told: Told, words: tuple[str, ...], make: Callable[[Path], object]
    ) -> None:
        path = lab.home / "other.toml"
        make(path)
        assert_refused(told(*words, "--config", str(path), *needed(COMMANDS[words])), 78)

    @pytest.mark.parametrize(
        "wrong",
        [["--workers", "-1"], ["--workers", "99999999999999999999"], ["--workers", "x"], ["--state-dir", ""]],
        ids=shlex.join,
    )
    def test_a_value_that_can_not_be(self, lab: Lab, told: Told, words: tuple[str, ...], wrong: list[str]) -> None:
        assert_refused(told(*words, *wrong, *needed(COMMANDS[words])), 2, 78)

    def test_a_state_folder_that_is_a_file(self, lab: Lab, told: Told, words: tuple[str, ...]) -> None:
        file = lab.home / "plain"
        file.write_text("")
        code, _, err = told(*words, "--state-dir", str(file), *needed(COMMANDS[words]))
        assert code in (0, 1, 78), err  # who only asks finds no ledger there
        assert "Traceback" not in err

    def test_an_environment_that_is_wrong(
        self, lab: Lab, told: Told, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NANOLAB_POOLS_STAGE_WORKERS", "many")
        assert_refused(told(*words, *needed(COMMANDS[words])), 78)


WORDS = st.sampled_from(
    [word for words, command in COMMANDS.items() for word in (*words, *(o for p in command.params for o in p.opts))]
)
ANYTHING = st.text(st.characters(exclude_characters="\0"), max_size=12)
HARMLESS = [words for words in COMMANDS if words[0] in ("status", "why", "show", "rejects", "check", "completion")]


@given(words=st.sampled_from(HARMLESS), rest=st.lists(st.one_of(WORDS, ANYTHING), max_size=5))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_words_at_all(
    lab: Lab, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], rest: list[str]
) -> None:
    """A question with any arguments ends with an exit code of the table, and says why if it was refused."""
    code = cli.main([*words, *(word for word in rest if word not in ("--watch", "-w"))])
    said = capsys.readouterr()
    assert code in (0, 1, 2, 78)
    assert "Traceback" not in said.err
    assert code == 0 or said.err or said.out
    assert all(line.isprintable() for line in said.err.splitlines())
    assert os.getcwd() == str(lab.home)


def test_ctrl_c_while_it_is_read_in_is_no_traceback() -> None:
    script = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'click':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from nanolab_daemon.__main__ import main\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", script, "status"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "nanolab-daemon: Interrupted.\n")


def test_no_name_is_no_file(lab: Lab, told: Told) -> None:
    lab.backfill()
    for name in ("", " "):
        found = told("why", name)
        assert_refused(found, 2)
        assert "No file is named." in found[2]


def test_what_was_rejected_is_not_told_without_its_ledger(lab: Lab, told: Told) -> None:
    """An empty list would say that all is well."""
    instrument.iv(1).write(lab.raw / "IV_1.csv")
    lab.age()
    lab.backfill()
    assert told("rejects", "--json")[:2] == (0, "[]\n")
    for path in lab.state.glob("ledger*"):
        path.unlink()
    for more in ([], ["--json"]):
        found = told("rejects", *more)
        assert_refused(found, 1)
        assert "What was rejected is not known" in found[2]
        assert "verify --rebuild" in found[2]


@pytest.mark.parametrize(
    ("encoding", "text", "shown"),
    [
        ("ascii", "… µA ± 2 → Ω≥\u2026", "... uA +- 2 -> Ohm>=..."),
        ("latin-1", "µA … ½", "µA ... ½"),
        ("ascii", "日\x1b½", "\\u65e5\x1b\\xbd"),
        ("utf-8", "… µA", "… µA"),
    ],
)
def test_what_a_terminal_has_no_characters_for_is_written_as_one_types_it(
    monkeypatch: pytest.MonkeyPatch, encoding: str, text: str, shown: str
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", stream)
    group = click.Group(commands={"say": click.Command("say", callback=lambda: stream.write(text))})
    cli_base.entry(group, ["say"])
    stream.flush()
    assert stream.buffer.getvalue() == shown.encode(encoding)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "name", ["--help.csv", "-x.csv", "a b.csv", "$HOME.csv", "it's.csv", "\udcff.csv", "-- .csv"]
)
def test_a_remedy_does_when_it_is_typed_what_it_says(lab: Lab, told: Told, name: str) -> None:
    (lab.raw / name).write_bytes(messy.with_bad_row(instrument.iv(1)))
    lab.age()
    lab.backfill()
    _, out, _ = told("why", "--json", "--", name)
    command = re.search("`nanolab-daemon (retry [^`]+)`", json.loads(out)["next"])
    assert command is not None, out
    code, said, _ = told(*shlex.split(command[1]))
    assert code == 0, said
    assert lab.state_of(name) == "segmented"


def test_a_refused_file_is_not_waited_for(lab: Lab, told: Told) -> None:
    sound = instrument.iv(1)
    replace(sound, rows=["1,2"] * 44).write(lab.raw / "short.csv")
    lab.age()
    lab.backfill()
    code, _, said = told("show", "short.csv")
    assert code == 1
    assert "short.csv is refused: Line 22 has 2 fields" in said
    assert "nanolab-daemon why short.csv" in said
