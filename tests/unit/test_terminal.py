"""What is drawn on a terminal: it fits, it says what matters, and nothing that was written by others steers it."""

from __future__ import annotations

import io
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import instrument
import messy
import pytest
from lab import Lab, until
from rich.console import Console
from terminals import Tty, drawn, plain

from nanolab_daemon import report
from nanolab_daemon.catalog import FILE_NAME
from nanolab_daemon.check import Finding
from nanolab_daemon.check import Status as Grade
from nanolab_daemon.cli_base import is_screen
from nanolab_daemon.errors import EngineError
from nanolab_daemon.report import FileLine, RejectedFile, RejectGroup, Status, Totals
from nanolab_daemon.terminal import facts, file, live, rejects, status, tables
from nanolab_daemon.terminal.screen import clock, kept_end
from nanolab_daemon.verify import Problem
from nanolab_daemon.why import Line, row_mark, why

WIDTHS = (60, 80, 132)
NOW = datetime.now(UTC)


def line(name: str, state: str = "segmented", reason: str = "Its run is published with 4 segments.") -> FileLine:
    return FileLine(name, state, reason, "IV", None, 44, NOW.isoformat())


STATUS = Status(
    running=True,
    command="run",
    pid=4711,
    since=(NOW - timedelta(hours=3)).isoformat(sep=" ", timespec="seconds"),
    health="well",
    ledger="/srv/lab/state/" + "deep/" * 30 + "ledger.sqlite",
    ledger_exists=True,
    files={"measuring": 31, "rejected": 2, "segmented": 31_806},
    today=Totals(5, 2_000, 20),
    total=Totals(31_806, 12_345_678, 127_224),
    pending_segments=3,
    source_missing=1,
    flags={"incomplete": 12},
    last_files=tuple(line(f"2025-09-12/chip 75/IVg2025-09-12_{n}.csv") for n in range(5)),
    last_rejects=(line("2025-09-12/IV_bad.csv", "rejected", "Line 62 holds 'oops', which is no number."),),
    live={
        "queues": {"stage": [3, 1], "segment": [0, 0]},
        "following": 31,
        "watch": "events: ext4 is local, and an event came when it was tried",
        "page": {"address": "http://127.0.0.1:8321/", "restarts": 0},
        "pools": [{"name": "stage", "replaced": 2}],
        "measuring": {f"2025-09-12/It2025-09-12_{n}.csv": [n, 100 if n % 2 else None] for n in range(31)},
    },
)


class TestScreen:
    @pytest.mark.parametrize(("term", "expected"), [("xterm-256color", True), ("dumb", False), ("", False)])
    def test_is_a_terminal_that_is_not_dumb(self, term: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", term)
        assert is_screen(Tty()) is expected
        assert is_screen(io.StringIO()) is False

    def test_takes_nothing_for_markup(self) -> None:
        assert "[red]x[/red] :smile: [/]" in drawn("[red]x[/red] :smile: [/]")

    def test_keeps_tables_and_takes_the_colours_where_nobody_wants_them(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NO_COLOR", "1")
        text = drawn(status.picture(STATUS, 80))
        assert "\x1b[32m" not in text
        assert "\x1b[31m" not in text
        assert "Measuring now" in text

    @pytest.mark.parametrize(
        ("text", "width", "shown"),
        [
            ("a/b.csv", 10, "a/b.csv"),
            ("2025/chip/b.csv", 11, "…/b.csv"),
            ("2025/chip/b.csv", 12, "…/chip/b.csv"),
            ("2025/a_long_name.csv", 8, "…ame.csv"),
            ("", 3, ""),
        ],
    )
    def test_of_a_path_the_end_is_kept(self, text: str, width: int, shown: str) -> None:
        assert kept_end(text, width) == shown

    def test_the_day_is_told_unless_it_is_today(self) -> None:
        assert clock(NOW.isoformat(), NOW) == f"{NOW:%H:%M:%S}"
        assert clock("2025-09-04 11:12:13-03:00", NOW) == "2025-09-04 11:12"
        assert clock("unknown") == "unknown"


@pytest.mark.parametrize("width", WIDTHS)
class TestStatus:
    def test_says_what_runs_what_is_measured_and_what_was_refused(self, width: int) -> None:
        text = plain(drawn(status.picture(STATUS, width), width))
        for words in ("Running: run, process 4711", "(3 h", "31,806 segmented", "12,345,678", "and 11 more"):
            assert words in text
        assert "IVg2025-09-12_4.csv" in text
        assert "IV_bad.csv" in text
        assert "Line 62" in text

    def test_fits_into_the_lines_there_are(self, width: int) -> None:
        made = Console(file=io.StringIO(), width=width, height=24, force_terminal=True)
        shown = made.render_lines(status.fitting(STATUS, made, 30), pad=False)
        assert len(shown) <= 30
        text = "\n".join("".join(part.text for part in row) for row in shown)
        assert "IV_bad.csv" in text

    def test_says_that_nothing_runs_and_that_there_is_no_ledger(self, width: int) -> None:
        empty = replace(
            STATUS, running=False, live=None, ledger_exists=False, files={}, last_files=(), last_rejects=()
        )
        text = plain(drawn(status.picture(empty, width), width))
        assert "Not running." in text
        assert "none yet" in text


class TestHealth:
    @pytest.mark.parametrize(
        ("health", "style"),
        [("well", "green"), ("at work", "green"), ("well, but deaf", "yellow"), ("paused since …", "bold red")],
    )
    def test_has_the_colour_of_its_gravity(self, health: str, style: str) -> None:
        assert status.health_style(health) == style

    @pytest.mark.parametrize(
        ("seconds", "words"), [(0.4, "0 s"), (59, "59 s"), (3600, "1 h"), (3725, "1 h 2 min"), (90_000, "1 d 1 h")]
    )
    def test_how_long_is_told_in_two_units(self, seconds: float, words: str) -> None:
        assert status.lasted(seconds) == words


class TestReporter:
    @pytest.fixture
    def lab(self, tmp_path: Path) -> Lab:
        lab = Lab(tmp_path)
        instrument.iv(0).write(lab.raw / "iv.csv")
        lab.backfill()
        return lab

    def test_reads_the_ledger_only_when_it_has_changed(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(report, "RECHECK_S", 1e9)
        reporter = report.Reporter(lab.config)
        assert reporter.look(NOW).total.runs == 1
        opened: list[Path] = []
        real = report.Catalog.open_to_read
        monkeypatch.setattr(report.Catalog, "open_to_read", lambda path: opened.append(path) or real(path))
        assert reporter.look(NOW).total.runs == 1
        assert opened == []
        instrument.iv(1).write(lab.raw / "iv1.csv")
        lab.backfill()
        opened.clear()
        assert reporter.look(NOW).total.runs == 2
        assert opened == [lab.state / FILE_NAME]

    def test_notices_that_the_ledger_has_gone(self, lab: Lab) -> None:
        reporter = report.Reporter(lab.config)
        assert reporter.look(NOW).ledger_exists
        (lab.state / FILE_NAME).unlink()
        assert not reporter.look(NOW).ledger_exists


@pytest.fixture(scope="module")
def messy_lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Give a lab after a backfill over a messy folder."""
    lab = Lab(tmp_path_factory.mktemp("messy"))
    messy.fill(lab.raw)
    lab.backfill()
    return lab


class TestWhy:
    @pytest.mark.parametrize("width", WIDTHS)
    @pytest.mark.parametrize("name", [*messy.VERDICTS, "link.csv", "pipe.csv", ".hidden.csv", "nowhere.csv"])
    def test_says_the_same_as_the_plain_lines(self, messy_lab: Lab, name: str, width: int) -> None:
        found = why(messy_lab.config, name)
        words = "".join(plain(drawn(file.picture(found, width), width)).split())
        told = [*facts.verdict(found), *facts.circumstances(found)]
        for fact in told:
            if fact.name != "output":
                assert "".join(fact.text.split()) in words
        assert "".join(found.next.split()) in words

    def test_points_at_the_field_that_is_wrong(self, messy_lab: Lab) -> None:
        text = plain(drawn(file.picture(why(messy_lab.config, "bad.csv"), 80)))
        rows = text.splitlines()
        at = next(number for number, row in enumerate(rows) if "oops," in row)
        assert rows[at].startswith("  >")
        assert rows[at + 1].index("^^^^") == rows[at].index("oops")

    def test_the_offending_line_is_red(self, messy_lab: Lab) -> None:
        text = drawn(file.picture(why(messy_lab.config, "bad.csv"), 80))
        assert any("\x1b[1;31m" in row and "oops" in row for row in text.splitlines())

    @pytest.mark.parametrize(
        ("text", "width", "mark"),
        [
            ("1,2,3", 3, None),
            ("1,x,3", 3, (2, 3)),
            ("1,,3", 3, (2, 3)),
            ("1,2,3,4,5", 3, (5, 9)),
            ("1,2", 3, (3, 4)),
            ("", 3, (0, 1)),
            ("1,2,nan,inf", 4, None),
            ("1,2,3,4…", 6, None),
            ("1,x,3,4…", 6, (2, 3)),
        ],
    )
    def test_where_a_row_goes_wrong(self, text: str, width: int, mark: tuple[int, int] | None) -> None:
        assert row_mark(text, width) == mark

    def test_points_nowhere_where_nothing_is_known(self) -> None:
        assert facts.pointer(Line(7, "x", True)) == ""


def rejected(number: int) -> RejectGroup:
    files = tuple(
        RejectedFile(
            f"2025/IV_{n}.csv", f"Line {n} has an empty field.", "Mend it.", "IV", n, "1,,2", 0, "2025-09-04"
        )
        for n in range(number)
    )
    return RejectGroup("bad_rows", number, "2025-09-04 10:00:00-03:00", ("Mend it.",), files)


@pytest.mark.parametrize("width", WIDTHS)
class TestRejects:
    def test_a_thousand_equal_ones_are_a_few_lines(self, width: int) -> None:
        text = plain(drawn(rejects.picture([rejected(1000)], width, most=5), width))
        assert len(text.splitlines()) < 16
        assert "1,000 files" in text
        assert "2025-09-04 10:00" in text
        assert "and995more:nanolab-daemonrejects--causebad_rows--all" in "".join(text.split())
        assert text.count("-> Mend it.") == 1

    def test_all_of_them_if_asked(self, width: int) -> None:
        text = plain(drawn(rejects.picture([rejected(50)], width, most=None), width))
        assert all(f"IV_{n}.csv" in text for n in range(50))
        assert "more" not in text


@pytest.mark.parametrize("width", WIDTHS)
class TestTables:
    def test_findings_show_their_remedies_and_are_counted(self, width: int) -> None:
        found = [
            Finding("raw", Grade.OK, "/srv/lab/raw can be read", ""),
            Finding("stage space", Grade.WARN, "little is left", "Make room."),
            Finding("state", Grade.FAIL, "it is read-only", "Mount it again."),
        ]
        text = plain(drawn(tables.findings(found), width))
        assert "-> Make room." in text
        assert "1 well, 1 doubtful, 1 wrong" in text

    def test_problems_show_what_to_do(self, width: int) -> None:
        text = plain(
            drawn(tables.problems([Problem("lost", "proc=IV/x\x1b[1m", "It is gone.", "Repair it.")]), width)
        )
        assert "proc=IV/x\\x1b[1m It is gone." in text
        assert "-> Repair it." in text


class TestLive:
    def test_one_that_hangs_does_not_keep_anybody_waiting(self) -> None:
        hang = threading.Event()
        with live.Looker(hang.wait, every_s=0.01) as looker:
            assert looker.seen.found is None
            hang.set()
            until(lambda: looker.seen.found)

    def test_what_goes_wrong_is_told_beside_the_last_picture(self) -> None:
        answers = iter([1, EngineError("The ledger is torn."), 3])

        def look() -> int:
            answer = next(answers, 3)
            if isinstance(answer, EngineError):
                gate.wait()
                raise answer
            return answer

        gate = threading.Event()
        with live.Looker(look, every_s=0.01) as looker:
            until(lambda: looker.seen.found == 1)
            gate.set()
            until(lambda: looker.seen.serial >= 3)
            until(lambda: looker.seen.found == 3 and not looker.seen.trouble)
