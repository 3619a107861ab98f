"""A procedure that nobody knows is staged as it is; once the configuration knows it, all of it is done again."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import instrument
from lab import Lab, toml, until

KNOWLEDGE = """
[procedures.Novel]
like = "IVg"
parameters = { "Magnet" = "float T" }
"""
UNKNOWN = "The procedure Novel is not in the registry"


def novel(lab: Lab, number: int) -> str:
    """Write a file of a procedure that is like IVg in all but its name."""
    known = instrument.ivg(number)
    measurement = instrument.Measurement(
        "Novel", {**known.parameters, "Magnet": "1 T"}, known.columns, known.rows, known.start_time
    )
    path = f"Novel_{number}.csv"
    measurement.write(lab.raw / path)
    return path


def command(lab: Lab, *arguments: str) -> str:
    """Run a command of the program on the lab; give what it prints, on both streams."""
    done = subprocess.run(
        [sys.executable, "-m", "nanolab_daemon", *arguments, "--config", str(lab.home / "config.toml")],
        capture_output=True,
        text=True,
        check=True,
        cwd=lab.home,
        timeout=60,
    )
    return done.stdout + done.stderr


def complete(lab: Lab) -> list[bool | None]:
    return [run.facts.completeness.complete for run in lab.runs().values()]


def test_a_backfill_makes_the_whole_of_it(tmp_path: Path) -> None:
    """Files of an unknown procedure are staged, said once; once it is configured, the next backfill cuts them."""
    lab = Lab(tmp_path)
    paths = [novel(lab, number) for number in range(3)]
    (lab.home / "config.toml").write_text(toml(lab.config))
    assert command(lab, "backfill").count(UNKNOWN) == 1
    assert {lab.state_of(path) for path in paths} == {"staged"}
    assert complete(lab) == [None] * 3

    (lab.home / "config.toml").write_text(toml(lab.config) + KNOWLEDGE)
    assert UNKNOWN not in command(lab, "backfill")
    assert {lab.state_of(path) for path in paths} == {"segmented"}
    assert complete(lab) == [True] * 3
    assert len(list(lab.output.glob("novel_segments/**/*.parquet"))) == 18
    command(lab, "verify")
    command(lab, "retry", *paths)
    assert {run.revision for run in lab.runs().values()} == {3}


def test_a_running_daemon_learns_it_at_sighup(tmp_path: Path) -> None:
    """The daemon takes over a new procedure without a restart; all its files, new and old, are cut."""
    lab = Lab(tmp_path)
    old = novel(lab, 0)
    lab.age()
    with lab.process() as daemon:
        until(lambda: lab.state_of(old) == "staged", what="for the unknown procedure's file")
        log = lab.home / "daemon.log"
        before = (lab.home / "config.toml").read_text()
        (lab.home / "config.toml").write_text(before + KNOWLEDGE)
        daemon.send_signal(signal.SIGHUP)
        until(lambda: "onfiguration" in log.read_text(), what="for the daemon to look at its configuration")
        assert "needs a restart" not in log.read_text()

        until(lambda: lab.state_of(old) == "segmented", what="for the file that was there")
        new = novel(lab, 1)
        until(lambda: lab.state_of(new) == "segmented", what="for the new file")
        assert complete(lab) == [True, True]
        assert log.read_text().count(UNKNOWN) == 1
