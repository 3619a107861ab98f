"""Faults of every kind, met by a real backfill or daemon: `why` names file, line, cause and remedy of each."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import instrument
import pytest
from lab import Lab, toml, until

from nanolab_daemon import cli

SITE = Path(__file__).parents[1] / "poison_site"
LONG_AGO = 1_600_000_000
WHY = ("file", "state", "because", "to do")


@dataclass(frozen=True)
class Fault:
    """What is done to the raw folder, and what `why` has to say of it. `line` and `shown`: of the raw file."""

    make: Callable[[Path], object]
    state: str
    because: str
    remedy: str
    cause: str | None = None
    line: int | None = None
    shown: str = ""
    mark: str = ""
    also: Mapping[str, str] = field(default_factory=dict)  # further facts, by their name


def seeded(seed: int) -> instrument.Measurement:
    return instrument.iv(seed, start=1757018821.0 + 100_000 * seed)


def first_row(measurement: instrument.Measurement) -> int:
    """Give the line of the first row, from 1."""
    return measurement.data().split(b"\r\n").index(b"#Data:") + 3


def with_row(seed: int, row: int, text: bytes) -> bytes:
    """Write a file in which one row (from 0) is another."""
    measurement = seeded(seed)
    lines = measurement.data().split(b"\r\n")
    lines[first_row(measurement) - 1 + row] = text
    return b"\r\n".join(lines)


def write(data: bytes, *, age: int | None = None) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        if age is not None:
            os.utime(path, (age, age))

    return make


def beside(name: str, other: bytes, mine: bytes) -> Callable[[Path], None]:
    """Write another file besides."""

    def make(path: Path) -> None:
        write(other)(path.with_name(name))
        write(mine)(path)

    return make


def poisonous(word: str, seed: int) -> bytes:
    one = seeded(seed)
    return replace(one, parameters={**one.parameters, "Information": f"poison={word}"}).data()


LABELS = ("Vsd (V)", "I (A)", "Plate T (degC)", "Ambient T (degC)", "Clock (ms)")
FIRST = first_row(seeded(0))
COPY = "the_same.csv"
ODD = seeded(16).header.split("\r\n").index(r"#	Information: test 71: muerto :( \xb5 ") + 1
MANY = replace(seeded(20), columns=[f"c{n} (V)" for n in range(1500)], rows=[",".join(["1"] * 1500)])

FAULTS: dict[str, Fault] = {
    "empty.csv": Fault(
        write(b""), "rejected", "it is empty", "copy the original again", "not_instrument_file"
    ),
    "queued.csv": Fault(write(seeded(1).queued()), "queued", "still in the queue", "Wait for the measurement"),
    "started.csv": Fault(write(seeded(2).data(0)), "started", "no rows yet", "Wait for the measurement"),
    "abandoned.csv": Fault(
        write(seeded(3).queued(), age=LONG_AGO), "rejected", "was never made", "should rows come", "abandoned"
    ),
    "torn_header.csv": Fault(
        write(seeded(4).data()[:300], age=LONG_AGO), "rejected", "ends before its column labels",
        "Copy the original again", "bad_header", seeded(4).data()[:300].count(b"\n") + 1, "#\\t",
    ),
    "unknown_procedure.csv": Fault(
        write(replace(seeded(5), procedure="Hall").data()), "staged", "published", "describe it under [procedures]",
        also={"complete": "the procedure is not known"},
    ),
    "procedure_name.csv": Fault(
        write(seeded(6).data().replace(b".IV>", b".IV/../x>")), "rejected", "no plain word",
        "Mend the name in the first line", "bad_procedure_name", 1, "#Procedure:",
    ),
    "missing_column.csv": Fault(
        write(replace(seeded(7), columns=LABELS[:4]).data()), "rejected", "has 5 fields where the labels name 4",
        "retry --skip-bad-rows missing_column.csv", "bad_rows", FIRST, "nan,nan,nan", "^^^^",
    ),
    "twice_column.csv": Fault(
        write(replace(seeded(8), columns=("Vsd (V)", "I (A)", "I (A)", *LABELS[3:])).data()), "rejected",
        "stands twice", "Mend the line of column labels", "bad_columns", FIRST - 1, "Vsd (V),I (A),I (A)",
    ),
    "taken_column.csv": Fault(
        write(replace(seeded(9), columns=("Vsd (V)", "run_id", *LABELS[2:])).data()), "rejected",
        "the outputs use themselves", "procedures.IV.column_aliases", "bad_columns", FIRST - 1, "Vsd (V),run_id",
    ),
    "bad_number.csv": Fault(
        write(with_row(10, 10, b"0.1,oops,nan,nan,nan")), "rejected", "holds 'oops', which is no number",
        "retry --skip-bad-rows bad_number.csv", "bad_rows", FIRST + 10, "0.1,oops,nan,nan,nan", "    ^^^^",
    ),
    "decimal comma.csv": Fault(
        write(with_row(11, 3, b"0,1,1e-9,nan,nan,nan")), "rejected", "has 6 fields where the labels name 5",
        "retry --skip-bad-rows 'decimal comma.csv'", "bad_rows", FIRST + 3, "0,1,1e-9,nan,nan,nan", "^^^^",
    ),
    "short_row.csv": Fault(
        write(with_row(12, 3, b"0.1,1e-9")), "rejected", "has 2 fields where the labels name 5", "Mend the line",
        "bad_rows", FIRST + 3, "0.1,1e-9", "^",
    ),
    "long_row.csv": Fault(
        write(with_row(13, 3, b"0.1,1e-9,nan,nan,nan,7,8")), "rejected", "has 7 fields where the labels name 5",
        "Mend the line", "bad_rows", FIRST + 3, "0.1,1e-9,nan,nan,nan,7,8", "^^^^",
    ),
    "empty_field.csv": Fault(
        write(with_row(14, 3, b"0.1,,nan,nan,nan")), "rejected", "has an empty field", "Mend the line", "bad_rows",
        FIRST + 3, "0.1,,nan,nan,nan", "^",
    ),
    "utf16.csv": Fault(
        write(seeded(15).data().decode().encode("utf-16")), "rejected", "UTF-16", "Save it as UTF-8", "encoding", 1,
        "\\xff\\xfe#",
    ),
    "mixed_encodings.csv": Fault(
        write(seeded(16).data().replace(b"muerto", "µ".encode() + b"\x81")), "rejected", "neither UTF-8 nor",
        "Save it as UTF-8", "encoding", ODD, "\\x81",
    ),
    "nul_tail.csv": Fault(
        write(seeded(17).data() + b"\0" * 4096), "rejected", "holds NUL bytes", "Copy the file again", "nul_bytes",
        FIRST + 44, "\\x00\\x00",
    ),
    "nul_middle.csv": Fault(
        write(with_row(18, 20, b"0.0\0\0\0,1e-9,nan,nan,nan")), "rejected", "holds NUL bytes", "Copy the file again",
        "nul_bytes", FIRST + 20, "0.0\\x00\\x00\\x00,1e-9",
    ),
    "huge_line.csv": Fault(
        write(with_row(19, 5, b"0.1," + b"9" * 3_000_000 + b"x,nan,nan,nan")), "rejected", "which is no number",
        "Mend the line", "bad_rows", FIRST + 5, "0.1,99999",
    ),
    "many_columns.csv": Fault(
        write(MANY.data()), "rejected", "1,500 columns, more than the limit of 1,000", "raise limits.max_columns",
        "too_large", first_row(MANY) - 1, "c0 (V),c1 (V)",
    ),
    "huge_header.csv": Fault(
        write(b"#Procedure: <a.IV.IV>\r\n#Parameters:\r\n" + b"#\tx: y\r\n" * 200_000), "rejected",
        "goes on past 1,048,576 bytes", "raise limits.max_header_kb", "too_large",
    ),
    "bad_start_time.csv": Fault(
        write(replace(seeded(21), start_time="yesterday").data()), "rejected", "The Start time 'yesterday'",
        "Mend the line of the start time", "bad_start_time", FIRST - 3, "Start time: yesterday",
    ),
    "no_labels.csv": Fault(
        write(seeded(22).data().replace(",".join(LABELS).encode(), b"")), "rejected", "no column has a name",
        "Mend the line of column labels", "bad_columns", FIRST, "nan,nan,nan",
    ),
    "not_a_csv.csv": Fault(
        write(b"PK\x03\x04 a zip\n1,2\n"), "rejected", "no file of the instrument program",
        "copy the original again", "not_instrument_file", 1, "PK\\x03\\x04",
    ),
    "z_copy.csv": Fault(
        beside(COPY, seeded(23).data(), seeded(23).data()), "duplicate", "the same bytes as another file",
        "published once, from the_same.csv",
    ),
    "half_copy.csv": Fault(
        beside("half_copy (renamed).csv", seeded(24).data(), seeded(24).first(20).data()), "superseded",
        "the same run with 44 rows; this one has 20", "then take half_copy (renamed).csv out of raw",
    ),
    "aborted.csv": Fault(
        write(seeded(25).first(23).data()), "segmented", "published", "Measure again if you need the rest",
        also={"complete": "no: 23 of 44 rows", "flag": "incomplete"},
    ),
    "link.csv": Fault(
        lambda path: path.symlink_to("aborted.csv"), "not in the ledger", "a symbolic link",
        "copy it to a folder below",
    ),
    "pipe.csv": Fault(os.mkfifo, "not in the ledger", "no regular file but a pipe", "an ordinary file"),
    "notes.txt": Fault(write(b"buy tape"), "not in the ledger", "none of the patterns in watch.include (*.csv)",
                       "add a pattern to watch.include"),
    "x_tmp.csv": Fault(write(seeded(26).data()), "not in the ledger", "a pattern in watch.exclude (*_tmp.csv)",
                       "take the pattern out of watch.exclude"),
    ".hidden.csv": Fault(write(seeded(26).data()), "not in the ledger", "hidden, temporary", "give it another name"),
    "../outside.csv": Fault(write(seeded(27).data()), "not in the ledger", "lies outside the raw folder",
                            "copy it to a folder below"),
    "crashes.csv": Fault(
        write(poisonous("exit", 28)), "rejected", "a worker died", "Look at the file", "crashed",
        also={"attempts": "2 workers were lost over it"},
    ),
    "defect.csv": Fault(
        write(poisonous("raise", 29)), "rejected", "an error of its own", "report this as a defect", "internal"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Give a lab in which everything has gone wrong, after a backfill by a process of its own."""
    lab = Lab(tmp_path_factory.mktemp("faults"))
    lab.config = replace(lab.config, watch=replace(lab.config.watch, exclude=("*_tmp.csv",)))
    (lab.home / "config.toml").write_text(toml(lab.config))
    for name, fault in FAULTS.items():
        fault.make(lab.raw / name)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(SITE), os.environ.get("PYTHONPATH")])),
        "POISON_LOG": str(lab.home / "tries"),
        "POISON_STATE": str(lab.home / "met"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "nanolab_daemon", "backfill"],
        cwd=lab.home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return lab


class Said:
    """What `why` said of a file: its facts by name, and the lines of the raw file that it showed."""

    def __init__(self, lab: Lab, name: str, capsys: pytest.CaptureFixture[str], code: int = 0) -> None:
        with contextlib.chdir(lab.home):
            assert cli.main(["why", name]) == code
            self.text = capsys.readouterr().out
            cli.main(["why", "--json", name])
        self.data = json.loads(capsys.readouterr().out)
        self.name = self.text.splitlines()[0]

    def __getitem__(self, fact: str) -> str:
        """Give a fact, with the lines on which it goes on."""
        found = [line for line in self.text.splitlines() if line.startswith(f"  {fact:<11} ")]
        assert found, f"nothing is said of {fact}:\n{self.text}"
        return " ".join(line[14:] for line in found)

    @property
    def offending(self) -> tuple[int, str, str]:
        """Give number and text of the line that is shown as the offending one, and what points into it below."""
        lines = self.text.splitlines()
        (at,) = [number for number, line in enumerate(lines) if line.startswith("    > ")]
        number, _, text = lines[at][5:].lstrip().partition("  ")
        below = lines[at + 1] if "^" in lines[at + 1] else ""
        return int(number), text, below[len(lines[at]) - len(text) :]


@pytest.mark.parametrize("name", FAULTS)
def test_why_names_file_line_cause_and_remedy(lab: Lab, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    fault = FAULTS[name]
    if fault.state == "duplicate" and lab.state_of(name) != "duplicate":  # which of two is the source is chance
        name, fault = COPY, replace(fault, remedy=f"published once, from {name}")
    said = Said(lab, str(lab.raw / name) if name.startswith("..") else name, capsys)
    assert os.path.basename(name) in said.name
    assert said["state"] == fault.state
    assert fault.because in said["because"]
    assert fault.remedy in said["to do"]
    if fault.cause is not None:
        assert said["cause"] == fault.cause
    assert said.data["line"] == fault.line
    if fault.line is not None:
        number, text, pointer = said.offending
        assert number == fault.line
        assert fault.shown in text
        assert len(text) <= 600
        if fault.mark:
            assert pointer.endswith(fault.mark)
            start, stop = next(one["mark"] for one in said.data["lines"] if one["offending"])
            assert pointer == " " * start + "^" * (stop - start)
    for fact, words in fault.also.items():
        assert words in said[fact]
    assert all(line.isprintable() for line in said.text.splitlines())


def test_rejects_tells_of_all_causes_with_their_remedies(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.chdir(lab.home):
        assert cli.main(["rejects"]) == 0
    text = capsys.readouterr().out
    causes = {fault.cause for fault in FAULTS.values() if fault.cause}
    groups = dict.fromkeys(causes, "")
    cause = ""
    for line in text.splitlines():
        if not line.startswith(" "):
            cause = line.partition(":")[0]
        groups[cause] += line + "\n"
    assert set(groups) == causes
    assert all("  -> " in group for group in groups.values())
    bad_rows = sum(fault.cause == "bad_rows" for fault in FAULTS.values())
    assert f"bad_rows: {bad_rows} files, newest " in text
    assert "nanolab-daemon rejects --cause bad_rows --all" in text


def test_one_cause_alone_and_all_of_it(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(lab.home / "config.toml")
    assert cli.main(["rejects", "--config", config, "--cause", "bad_rows", "--all"]) == 0
    text = capsys.readouterr().out
    names = [name for name, fault in FAULTS.items() if fault.cause == "bad_rows"]
    assert all(name in text for name in names)
    assert "more" not in text
    assert "not_a_csv" not in text
    assert cli.main(["rejects", "--config", config, "--cause", "bad_row"]) == 2
    assert "did you mean bad_rows?" in capsys.readouterr().err
    assert cli.main(["rejects", "--config", config, "--cause", "timed_out"]) == 0
    assert "No file is rejected for timed_out." in capsys.readouterr().out


# -- while a daemon runs --------------------------------------------------------------------------------------------


@pytest.fixture
def followed(tmp_path: Path) -> Iterator[Lab]:
    """Give a lab with a daemon in it."""
    lab = Lab(tmp_path)
    (lab.home / "config.toml").write_text(toml(lab.config))
    with lab.daemon():
        yield lab


def test_a_file_that_grows(followed: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    whole = instrument.iv(1)
    with (followed.raw / "now.csv").open("wb") as writer:
        writer.write(whole.data(10))
        writer.flush()
        until(lambda: (followed.status() or {}).get("measuring"), what="for the daemon to follow it")
        said = Said(followed, "now.csv", capsys)
        assert "10 rows of 44" in said["right now"]
        assert "the daemon takes it by itself" in said["to do"] or "Nothing is to be done" in said["to do"]


def test_a_file_that_vanished(followed: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    file = instrument.iv(1).write(followed.raw / "iv.csv")
    followed.age()
    until(lambda: followed.state_of("iv.csv") == "segmented")
    file.unlink()
    until(lambda: followed.state_of("iv.csv") is None)
    said = Said(followed, "iv.csv", capsys)
    assert "Its raw file has gone" in said["because"]
    assert "Its run stays published" in said["to do"]
    assert "(not there)" in said["file"]


def test_a_file_that_was_mended(followed: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    file = followed.raw / "bad.csv"
    file.write_bytes(with_row(10, 10, b"0.1,oops,nan,nan,nan"))
    followed.age()
    until(lambda: followed.state_of("bad.csv") == "rejected")
    assert "retry --skip-bad-rows bad.csv" in Said(followed, "bad.csv", capsys)["to do"]
    file.write_bytes(seeded(10).data())
    until(lambda: followed.state_of("bad.csv") == "segmented")
    assert Said(followed, "bad.csv", capsys)["to do"] == "Nothing is to be done."


def test_a_name_that_is_not_there(followed: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    instrument.iv(1).write(followed.raw / "2025-09-04" / "IV2025-09-04_1.csv")
    followed.age()
    until(lambda: followed.state_of("2025-09-04/IV2025-09-04_1.csv") == "segmented")
    said = Said(followed, "IV2025-09-04_l.csv", capsys, code=1)
    assert "did you mean 2025-09-04/IV2025-09-04_1.csv?" in said["because"]
    assert "Check the name" in said["to do"]


@pytest.mark.skipif(os.geteuid() != 0, reason="another user is needed, whom only root can become")
def test_a_file_without_the_right_to_read_it(tmp_path: Path) -> None:
    """Another user's backfill says that it can't read the file, and who has to be given the right."""
    lab = Lab(tmp_path)
    (lab.home / "config.toml").write_text(toml(lab.config))
    file = instrument.iv(1).write(lab.raw / "secret.csv")
    file.chmod(0o600)
    for folder in (lab.stage, lab.output, lab.state):
        folder.mkdir()
        os.chown(folder, 65534, 65534)
    # Python may lie where other users can't go, so everything is imported before the rights are dropped.
    script = (
        f"import os, sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "import lab\nfrom nanolab_daemon import batch, config, locate, why\nfrom nanolab_daemon.cli import main\n"
        "from nanolab_daemon.terminal import facts\n"
        "from nanolab_daemon import log\nlog.configure()\nmain(['why', 'secret.csv'])\n"
        "os.chmod('.', 0o755); os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "with lab.inline_pools():\n    batch.run(config.load(None, environ={}), 'backfill')\n"
        "print('---')\nsys.exit(main(['why', 'secret.csv']))"
    )
    for folder in tmp_path.parents:
        if folder.stat().st_uid == os.geteuid() and folder.name.startswith(("pytest-of-", "pytest-")):
            folder.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=lab.home, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.partition("---")[2]
    assert "state       waiting" in said
    assert "can't be opened for now: Permission denied" in said
    assert "Let the user that runs nanolab-daemon read it" in said
