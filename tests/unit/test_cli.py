"""The command line: help, hints, exit codes, what it prints; no work is done here."""

from __future__ import annotations

import io
import json
import logging
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import instrument
import messy
import pytest
from lab import Lab, toml, until

from nanolab_daemon import (
    __version__,
    batch,
    cli,
    cli_base,
    cli_batch,
    cli_handover,
    cli_render,
    cli_summary,
    commands,
    service,
)
from nanolab_daemon.batch import Ended
from nanolab_daemon.catalog import FILE_NAME
from nanolab_daemon.cli_progress import Count, Lines, progress
from nanolab_daemon.config import Config
from nanolab_daemon.errors import EngineError
from nanolab_daemon.plan import Plan, Row
from nanolab_daemon.report import RejectedFile, RejectGroup
from nanolab_daemon.scan import name_test
from nanolab_daemon.tally import Tally, Timeline

HEAVY = ("structlog", "rich", "watchdog", "polars", "pyarrow", "numpy", "sqlite3", "multiprocessing", "asyncio")
COMMANDS = sorted(cli.cli.commands)


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """Take away the handler that a command gave the root logger, as its stream is closed after the test."""
    root = logging.getLogger()
    handlers, level, own = root.handlers[:], root.level, logging.getLogger("nanolab_daemon").level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("nanolab_daemon").setLevel(own)
    logging.captureWarnings(False)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Give an empty lab whose configuration is in the current folder."""
    lab = Lab(tmp_path)
    (tmp_path / "config.toml").write_text(toml(lab.config))
    monkeypatch.chdir(tmp_path)
    return lab


Told = Callable[..., tuple[int, str, str]]


class TestHelp:
    @pytest.mark.parametrize("argv", [["--help"], ["--version"], ["backfill", "--help"], ["bakfill"]])
    def test_imports_nothing_heavy(self, argv: list[str]) -> None:
        script = (
            "import sys\nfrom nanolab_daemon.cli import main\nmain(sys.argv[1:])\n"
            f"print('heavy:', *({HEAVY!r} & sys.modules.keys()), file=sys.stderr)"
        ).replace(repr(HEAVY), repr(set(HEAVY)))
        done = subprocess.run([sys.executable, "-c", script, *argv], capture_output=True, text=True, check=True)
        assert done.stderr.splitlines()[-1] == "heavy:"

    def test_names_every_command_with_its_whole_purpose(self, told: Told) -> None:
        code, out, _ = told("--help")
        assert code == 0
        for name in COMMANDS:
            line = next(line for line in out.splitlines() if line.startswith(f"  {name} "))
            assert line.endswith("."), line
            assert not line.endswith("..."), line

    @pytest.mark.parametrize("name", COMMANDS)
    def test_of_a_command_has_an_example(self, told: Told, name: str) -> None:
        code, out, _ = told(name, "--help")
        assert code == 0
        assert f"  nanolab-daemon {name}" in out.partition("Examples:")[2]

    @pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"completion", "demo", "service"}))
    def test_of_a_command_that_touches_data_has_the_folders(self, told: Told, name: str) -> None:
        out = told(name, "--help")[1]
        for flag in ("--config", "--raw-root", "--stage-root", "--output-root", "--state-dir", "--workers"):
            assert flag in out

    def test_is_there_without_a_current_folder(self, tmp_path: Path) -> None:
        script = "import os, sys; os.rmdir(os.getcwd()); from nanolab_daemon.cli import main; sys.exit(main())"
        for argv, code in ((["--help"], 0), (["status"], 2)):
            folder = tmp_path / "gone"
            folder.mkdir()
            command = [sys.executable, "-c", script, *argv]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            assert done.returncode == code
            assert "Traceback" not in done.stderr

    @pytest.mark.parametrize(("argv", "line"), [([], "  backfill "), (["service"], "  uninstall ")])
    def test_is_told_where_no_command_is_given(self, told: Told, argv: list[str], line: str) -> None:
        code, out, err = told(*argv)
        assert (code, out) == (2, "")
        assert any(one.startswith(line) for one in err.splitlines())

    def test_version(self, told: Told) -> None:
        assert told("--version")[:2] == (0, f"nanolab-daemon {__version__}\n")


def leaves(group: click.Group, *above: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Give every command that is no group, with the words that call it."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, *above, name)
        else:
            yield (*above, name), command


LEAVES = dict(leaves(cli.cli))


def parsed(line: str) -> tuple[str, ...]:
    """Parse a command line as the program would; give the words that call the command. Mistakes raise."""
    program, *words = shlex.split(line)
    assert program == "nanolab-daemon"
    called = next(tuple(words[:n]) for n in (1, 2) if tuple(words[:n]) in LEAVES)
    LEAVES[called].make_context(" ".join(called), words[len(called) :])
    return called


class TestExamples:
    @pytest.mark.parametrize("words", LEAVES, ids=" ".join)
    def test_of_each_command_are_command_lines_of_it(self, words: tuple[str, ...]) -> None:
        lines = re.findall(r"^  (nanolab-daemon .*?)(?: {3,}\(.*\))?$", LEAVES[words].epilog or "", re.MULTILINE)
        assert lines
        for line in lines:
            assert parsed(line) == words

    def test_of_the_program_and_of_groups_are_command_lines(self) -> None:
        for group in (cli.cli, cli.cli.commands["service"]):
            for line in re.findall("^  (nanolab-daemon .*)$", group.epilog or "", re.MULTILINE):
                parsed(line)

    def test_in_the_readme_are_command_lines(self) -> None:
        text = (Path(__file__).parents[2] / "README.md").read_text()
        blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        begins = r"(?:^|/|^sudo (?:-u nanolab )?)"
        lines = re.findall(rf"{begins}(nanolab-daemon [^#/\n][^#\n]*?) *(?:#.*)?$", "\n".join(blocks), re.MULTILINE)
        assert len(lines) > 10
        for line in lines:
            parsed(line)

    def test_that_are_wrong_are_noticed(self) -> None:
        with pytest.raises(click.UsageError):
            parsed("nanolab-daemon backfill --dry-ruin")


class TestUsage:
    @pytest.mark.parametrize(
        ("argv", "words"),
        [
            (["bakfill"], "did you mean backfill?"),
            (["Status"], "did you mean status?"),
            (["backfill", "--dryrun"], "--dry-run"),
            (["stage", "--raw-rot", "x"], "--raw-root"),
            (["backfill", "--workers", "many"], "many"),
            (["backfill", "--since", "2025-9-1"], "2025-09-30"),
            (["backfill", "--until", "2025-02-30"], "is no day"),
            (["backfill", "--since", "2025-09-02", "--until", "2025-09-01"], "no run can be meant"),
            (["why"], "FILE"),
            (["xyzzy\x1b[1m"], "is no command"),
        ],
    )
    def test_a_slip_of_the_hand_exits_with_2(self, lab: Lab, told: Told, argv: list[str], words: str) -> None:
        code, out, err = told(*argv)
        assert (code, out) == (2, "")
        assert words in err
        assert "\x1b" not in err

    def test_an_unknown_procedure_is_hinted_at(self, lab: Lab, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(batch, "run", lambda *_, **__: Ended(Tally(), 1.0, interrupted=False))
        code, _, err = told("stage", "--procedure", "ivg")
        assert code == 0
        assert "did you mean IVg?" in err


class TestConfiguration:
    def mistake(self, told: Told, *argv: str) -> str:
        code, out, err = told(*argv)
        assert (code, out) == (78, "")
        assert err.startswith("nanolab-daemon: ")
        assert "Traceback" not in err
        return err

    def test_no_file(self, told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        err = self.mistake(told, "backfill")
        assert "--config FILE" in err
        assert "--raw-root FOLDER" in err

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("[paths]\nstge = 'x'", "did you mean stage?"),
            ("[paths]\nraw = 3", "paths.raw = 3"),
            ("[lab]\ntimezone = 'America/Santigo'", "did you mean America/Santiago?"),
            ("[paths\n", "is no TOML"),
            ("[procedures.IVg]\nswep = 1", "swep"),
        ],
    )
    def test_mistakes_in_the_file(self, told: Told, tmp_path: Path, text: str, words: str) -> None:
        file = tmp_path / "mine.toml"
        file.write_text(text)
        assert words in self.mistake(told, "status", "--config", str(file))

    def test_a_missing_raw_folder(self, lab: Lab, told: Told) -> None:
        for command in ("backfill", "stage", "preprocess", "retry"):
            assert "does not exist" in self.mistake(told, command, "--raw-root", "nowhere")

    def test_outputs_inside_raw(self, lab: Lab, told: Told) -> None:
        err = self.mistake(told, "backfill", "--stage-root", str(lab.raw / "stage"))
        assert "lies inside" in err
        assert not (lab.raw / "stage").exists()

    def test_check_exits_with_78_where_the_folders_are_wrong(self, lab: Lab, told: Told) -> None:
        code, out, _ = told("check", "--state-dir", str(lab.raw))
        assert code == 78
        assert "FAIL" in out

    def test_flags_override_the_file(self, lab: Lab, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[Config] = []
        monkeypatch.setattr(service, "run", lambda config, *, reload, **_: seen.extend([config, reload()]) or 0)
        code, _, _ = told("run", "--raw-root", "other", "--workers", "3")
        assert code == 0
        for config in seen:
            assert config.paths.raw == lab.home / "other"
            assert config.paths.stage == lab.stage
            assert (config.pools.stage_workers, config.pools.segment_workers) == (3, 3)


class TestErrors:
    def test_an_error_is_told_with_its_advice(self, lab: Lab, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object, **__: object) -> Ended:
            raise EngineError("The disk is full.", advice="Make room.\nThen go on.")

        monkeypatch.setattr(batch, "run", fail)
        assert told("backfill") == (1, "", "nanolab-daemon: The disk is full.\n  Make room.\n  Then go on.\n")

    def test_an_interrupt_exits_with_130(self, lab: Lab, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(batch, "run", lambda *_, **__: Ended(Tally(), 1.0, interrupted=True))
        code, out, _ = told("backfill")
        assert code == 130
        assert "goes on where it stopped" in out

    def test_ctrl_c_beside_a_daemon_says_that_it_goes_on(
        self, lab: Lab, told: Told, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(*_: object, **__: object) -> tuple[Ended, int]:
            raise KeyboardInterrupt

        monkeypatch.setattr(cli_batch, "to_daemon", lambda *_: True)
        monkeypatch.setattr(cli_handover, "backfill", interrupt)
        code, _, err = told("backfill")
        assert code == 130
        assert "The daemon goes on" in err


class TestWhatToType:
    def test_commands_that_are_told_hold_the_settings_that_were_given(self, lab: Lab, told: Told) -> None:
        (lab.home / "my lab.toml").write_text(toml(lab.config))
        for name in ("a.csv", "b.csv"):
            (lab.raw / name).write_bytes(messy.with_bad_row(instrument.iv(ord(name[0]))))
        lab.backfill()
        given = ["--config", "my lab.toml"]
        assert (
            "`nanolab-daemon retry --config 'my lab.toml' --skip-bad-rows a.csv`" in told("why", *given, "a.csv")[1]
        )
        assert "`nanolab-daemon retry --skip-bad-rows a.csv`" in told("why", "a.csv")[1]
        assert "nanolab-daemon retry --config 'my lab.toml' --skip-bad-rows FILE" in told("rejects", *given)[1]
        (lab.state / FILE_NAME).write_text("torn")
        assert "nanolab-daemon verify --config 'my lab.toml' --rebuild" in told("status", *given)[2]

    def test_words_that_are_no_commands_stay_as_they_are(self) -> None:
        text = "the user that runs nanolab-daemon reads it; nanolab-daemon runs; nanolab-daemon"
        assert commands.as_typed(text, "config.toml") == text
        assert commands.as_typed("nanolab-daemon run; x", "a b") == "nanolab-daemon run --config 'a b'; x"

    def test_one_command_says_nothing_in_the_name_of_the_one_before(self, lab: Lab, told: Told) -> None:
        told("status", "--config", "config.toml")
        assert cli_base.as_typed("nanolab-daemon run") == "nanolab-daemon run"

    def test_a_ledger_with_torn_pages_is_told_and_what_to_do(self, lab: Lab, told: Told) -> None:
        for seed in range(5):
            instrument.iv(seed).write(lab.raw / f"{seed}.csv")
        lab.backfill()
        ledger = lab.state / FILE_NAME
        data = ledger.read_bytes()
        ledger.write_bytes(data[: 4096 * 3] + b"\xaa" * (len(data) - 4096 * 3))
        for argv in (["status"], ["rejects"], ["why", "0.csv"], ["show", "0"], ["retry"]):
            code, out, err = told(*argv)
            assert (code, out) == (1, "")
            assert "verify --rebuild" in err


class TestCheck:
    def test_prints_a_line_a_finding(self, lab: Lab, told: Told) -> None:
        code, out, _ = told("check")
        assert code == 0
        assert all(re.match(r"(OK|WARN|FAIL) ", line) for line in out.splitlines())

    def test_json(self, lab: Lab, told: Told) -> None:
        findings = json.loads(told("check", "--json")[1])
        assert {"name", "status", "detail", "remedy"} == findings[0].keys()

    def test_procedures(self, lab: Lab, told: Told) -> None:
        out = told("check", "--procedures")[1]
        assert re.search(r"^IVg +sweep +Vg \(V\) ", out, re.MULTILINE)
        assert {one["name"] for one in json.loads(told("check", "--procedures", "--json")[1])} >= {"IV", "IVg", "It"}


def timeline(*counts: int, span_s: float = 1.0) -> dict[str, Any]:
    return {"span_s": span_s, "counts": list(counts)}


class TestSummary:
    def test_timelines_share_one_axis(self) -> None:
        both = {"stage": timeline(4, 4, 0, 0), "segment": timeline(0, 4, span_s=2.0)}
        first, second, axis = cli_summary.timeline(both, 4.0, unicode=True)
        half = cli_summary.WIDTH // 2
        bars = [line.partition("|")[2][:-1] for line in (first, second)]
        assert bars == ["█" * half + " " * half, " " * half + "█" * half]
        assert axis.split() == ["0", "s", "4.0", "s"]
        assert len(axis) == len(first) - 1

    def test_timelines_can_do_with_ascii(self) -> None:
        lines = cli_summary.timeline({"stage": timeline(1, 8), "segment": timeline(0)}, 2.0, unicode=False)
        assert "".join(lines).isascii()
        assert len(lines) == 2

    def test_nothing_done_has_no_timeline(self) -> None:
        assert cli_summary.timeline({"stage": timeline(0)}, 1.0, unicode=True) == []

    def lines(self, **changed: int) -> str:
        tally = Tally(found=100, **changed)
        tally.outcomes = Counter({"unselected": 5})
        found = cli_summary.summary(Ended(tally, 2.0, interrupted=False), None, "backfill", 0.0)
        return "\n".join(cli_summary.lines(found, unicode=True))

    def test_says_what_a_vanished_share_looks_like(self) -> None:
        assert "share that is not mounted" in self.lines(missing_ignored=90)
        assert "WARNING" not in self.lines()

    def test_says_that_folders_could_not_be_read(self) -> None:
        assert "WARNING: 2 folders can't be listed" in self.lines(unreadable_folders=2)

    def test_is_plain_data(self) -> None:
        tally = Tally(stage=Timeline())
        found = cli_summary.summary(Ended(tally, 0.0, interrupted=False), None, "stage", 0.0)
        assert json.loads(json.dumps(found)) == found


class TestProgress:
    def test_is_a_plain_line_in_a_pipe(self) -> None:
        stream = io.StringIO()
        Lines(stream, stage=True, segment=True, every_s=0).show(
            Tally(found=9, known=2, to_stage=7, staged_done=3, to_segment=2, segmented_done=1), scanning=True
        )
        (line,) = stream.getvalue().splitlines()
        assert "stage: 3 of 7 files" in line
        assert "preprocess: 1 of 2 runs" in line
        assert "scan so far: 9 files, 2 known" in line
        assert line.isprintable()

    def test_counts_files_ahead_of_the_scan(self, tmp_path: Path) -> None:
        for name in ("a.csv", "b/c.csv", "b/d.txt", ".hidden/e.csv"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        (tmp_path / "link.csv").symlink_to(tmp_path / "a.csv")
        with Count(tmp_path, name_test(("*.csv",), ())) as count:
            until(lambda: count.files == 2)
        stream = io.StringIO()
        Lines(stream, lambda: 40, stage=True, segment=False, every_s=0).show(
            Tally(found=9, known=2, to_stage=7, staged_done=3), scanning=True
        )
        assert "stage: 3 of 38 files" in stream.getvalue()

    def test_is_silent_for_a_while(self) -> None:
        stream = io.StringIO()
        with progress(stream, stage=True, segment=False) as shown:
            shown.show(Tally(), scanning=False)
        assert stream.getvalue() == ""

    def test_is_a_bar_for_each_stage_on_a_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "140")
        stream = Terminal()
        with progress(stream, stage=True, segment=True) as shown:
            shown.show(Tally(found=9, known=2, to_stage=7, staged_done=3), scanning=True)
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
        assert "3/7" in text
        assert "9 found, 2 known …" in text
        assert "preprocess" in text


class TestRender:
    def test_a_plan_as_json_is_a_line_a_file(self, capsys: pytest.CaptureFixture[str]) -> None:
        made = Plan([Row("a.csv", "stage", "new"), Row("b.csv", "reject", "why", line=3, text="x")])
        made.totals.update(found=2, staged=1, rejected=1)
        cli_render.plan(made, as_json=True)
        *rows, last = map(json.loads, capsys.readouterr().out.splitlines())
        assert [row["file"] for row in rows] == ["a.csv", "b.csv"]
        assert last["totals"]["staged"] == 1

    def test_a_thousand_equal_rejects_are_a_few_lines(self, capsys: pytest.CaptureFixture[str]) -> None:
        files = tuple(
            RejectedFile(f"IV_{n}.csv", "Line 7 has an empty field.", "Mend it.", "IV", 7, "1,,2", 0, "2025-09-04")
            for n in range(1000)
        )
        groups = (RejectGroup("bad_rows", 1000, "2025-09-04 10:00:00-03:00", ("Mend it.",), files),)
        cli_render.rejects(groups, as_json=False, ledger_exists=True)
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == cli_render.MOST_REJECTS + 3
        assert lines[0] == "bad_rows: 1,000 files, newest 2025-09-04 10:00:00-03:00"
        assert lines[-2:] == [
            "  … and 995 more: nanolab-daemon rejects --cause bad_rows --all",
            "  -> Mend it.",
        ]
        cli_render.rejects(groups, as_json=False, ledger_exists=True, most=None)
        assert len(capsys.readouterr().out.splitlines()) == 1002
        cli_render.rejects(groups, as_json=True, ledger_exists=True)
        (group,) = json.loads(capsys.readouterr().out)
        assert (group["count"], len(group["files"])) == (1000, 1000)

    def test_offending_text_is_kept_short(self) -> None:
        assert len(cli_render.offending(7, "x" * 500)) < 100
        assert cli_render.offending(None, None) == ""
        assert cli_render.offending(7, "1,x") == " [line 7: 1,x]"
