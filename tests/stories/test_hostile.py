"""Names, headers and contents that mean harm: each refused for a clear reason or staged as it is.

The limits that are tried here stand in `config.toml`, section `[limits]` and `[pools]`.
"""

from __future__ import annotations

import gzip
import os
import random
import re
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import instrument
import polars as pl
import pytest
from lab import Lab, assert_converged, toml, until

from nanolab_daemon.catalog import FILE_NAME, Catalog, FileRecord
from nanolab_daemon.errors import RejectCause
from nanolab_daemon.rawfile import open_below
from nanolab_daemon.verify import verify

STAGED = re.compile(
    r"proc=[A-Za-z_][A-Za-z0-9_]{0,63}/date=\d{4}-\d\d-\d\d/run_id=[0-9a-f]{16}/part-000\.parquet"
    r"|_manifest/manifest\.parquet"
)
CUT = re.compile(
    r"[a-z0-9_]+_segments/proc=[A-Za-z_][A-Za-z0-9_]{0,63}/date=\d{4}-\d\d-\d\d/run_id=[0-9a-f]{16}"
    r"/segment=\d+/part-000\.parquet"
)
CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What no terminal is ever to be sent: all but the end of a line."""


def command(lab: Lab, *words: str, code: int = 0) -> str:
    (lab.home / "config.toml").write_text(toml(lab.config))
    line = [sys.executable, "-m", "nanolab_daemon", *words, "--config", str(lab.home / "config.toml")]
    done = subprocess.run(line, check=False, capture_output=True, cwd=lab.home, timeout=600)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == code, said
    return said


LAUNCHER = """
import os, sys
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, used = os.wait4(child, 0)
print(os.waitstatus_to_exitcode(status), used.ru_maxrss)
"""


def largest(lab: Lab, *words: str) -> int:
    """Run a command, and give in kB the most memory that it or a process of its own ever held at once.

    A process is told to have held what the one that started it had held until then (Linux counts the memory that
    exec(2) leaves behind). So a small one starts it, not that of the tests, which may have held far more.
    """
    (lab.home / "config.toml").write_text(toml(lab.config))
    line = [sys.executable, "-m", "nanolab_daemon", *words, "--config", str(lab.home / "config.toml")]
    launch = [sys.executable, "-I", "-S", "-c", LAUNCHER, *line]
    told = subprocess.run(launch, cwd=lab.home, stdout=subprocess.PIPE, text=True, check=True).stdout
    code, most = map(int, told.splitlines()[-1].split())
    assert code == 0
    return most


def records(lab: Lab) -> dict[bytes, FileRecord]:
    catalog = Catalog.open_to_read(lab.state / FILE_NAME)
    assert catalog is not None
    try:
        return {record.path: record for record in catalog.files("present")}
    finally:
        catalog.close()


def causes(lab: Lab) -> dict[str, RejectCause | None]:
    return {os.fsdecode(p): r.rejection.cause if r.rejection else None for p, r in records(lab).items()}


def tree(folder: Path, *but: Path) -> dict[str, tuple[int, int, int]]:
    """Give all that lies below a folder and when it changed, but what lies below some others."""
    found = {}
    for path in folder.rglob("*"):
        if not any(path == one or one in path.parents for one in but):
            status = path.lstat()
            found[str(path)] = (status.st_size, status.st_mtime_ns, status.st_ino)
    return found


def assert_inside(lab: Lab) -> None:
    """Fail unless all that was published has a path of the known form."""
    for root, form in ((lab.stage, STAGED), (lab.output, CUT)):
        for path in root.rglob("*"):
            assert not path.is_symlink()
            if path.is_file() and ".nanolab-tmp" not in path.parts:
                assert form.fullmatch(str(path.relative_to(root))), path


EVIL_NAMES = {
    "..": False, "../../evil": False, "/etc/passwd": False, "a/b": False, "a\\b": False, "a=b": False, "": False,
    "proc=IV": False, "a%2fb": False, "%s": False, " IV": False, "IV ": False, "IV\t": False, "I V": False,
    "a\x1b[31m": False, "A\u0421": False, "\u202eVI": False, "I\u200bV": False, "x" * 65: False, "x" * 5000: False,
    "-rf": False, "1V": False, "IV;rm": False, "$(id)": False, "*": False, "CON": True, "nul": True, "x" * 64: True,
    "_manifest": True, "__class__": True,
}  # fmt: skip
"""Names of procedures, and whether each is a plain word, however odd."""


def test_no_procedure_name_leads_out_of_the_roots(tmp_path: Path) -> None:
    """A procedure's name becomes part of a path, so only plain words are taken; the others are told why."""
    lab = Lab(tmp_path)
    template = instrument.iv(1)
    for number, name in enumerate(EVIL_NAMES):
        one = replace(template, procedure="Kind", start_time=f"{1757000000 + number}.5")
        data = one.data().replace(b"<laser_setup.procedures.Kind.Kind>", b"<" + name.encode() + b">")
        (lab.raw / f"{number:02}.csv").write_bytes(data)
    before = tree(tmp_path, lab.stage, lab.output, lab.state)
    lab.backfill()
    assert tree(tmp_path, lab.stage, lab.output, lab.state) == before
    assert_inside(lab)
    found = records(lab)
    for number, (name, plain) in enumerate(EVIL_NAMES.items()):
        record = found[f"{number:02}.csv".encode()]
        # what stands before the last dot is the module's name, which is no part of a path
        if plain or re.fullmatch(r"[A-Za-z_]\w{0,63}", name.rpartition(".")[2], re.ASCII):
            assert record.run_id, name
        else:
            assert record.rejection is not None, name
            assert record.rejection.cause is RejectCause.BAD_PROCEDURE_NAME, name
            assert record.rejection.line == 1
            assert not CONTROLS.search(record.rejection.reason)
    assert not verify(lab.config).problems


EVIL_FILES = [
    b"new\nline.csv", b"\x1b[2Jclear.csv", b"\x1b]0;title\x07.csv", b"caf\xe9.csv", "\u202egnp.csv".encode(),
    b"a=b.csv", b"proc=IV.csv", b"%s%n%d.csv", b"..csv.csv", b"...csv", b"back\\slash.csv", b"-rf.csv", b"$(id).csv",
    b"'quote\".csv", b"tab\t.csv", b"bell\x07.csv", b"cr\r.csv", b"c1\xc2\x9b31m.csv", b" blank .csv",
    b"[red]x.csv",
    b"run_id=0000000000000000.csv", b"x" * 251 + b".csv", "\U0001f600.csv".encode(), b"\xed\xa0\x80.csv",
]  # fmt: skip


def test_names_of_files_are_data(tmp_path: Path) -> None:
    """Whatever bytes a name is made of, the file is staged, found by `why`, and harms no terminal, log or table."""
    lab = Lab(tmp_path)
    for number, name in enumerate(EVIL_FILES):
        folder = lab.raw / os.fsdecode([b"plain", b"e\x1b[31mvil\n", b"date=2020-01-01"][number % 3])
        folder.mkdir(exist_ok=True)
        data = instrument.iv(number).data() if number % 4 else b"no instrument's file \x1b[2J\n"
        (folder / os.fsdecode(name)).write_bytes(data)
    lab.age()
    said = command(lab, "backfill", "--dry-run") + command(lab, "backfill")
    said += command(lab, "status") + command(lab, "rejects") + command(lab, "verify")
    kept = [name for name in EVIL_FILES if not name.startswith(b".")]
    found = records(lab)
    assert {path.rpartition(b"/")[2] for path in found} == set(kept)
    assert {path for path, r in found.items() if r.state == "segmented"} == {
        path for path in found if EVIL_FILES.index(path.rpartition(b"/")[2]) % 4
    }
    for path in found:
        said += command(lab, "why", os.fsdecode(lab.raw) + "/" + os.fsdecode(path))
    assert not (match := CONTROLS.search(said)), repr(said[max(0, match.start() - 80) : match.end() + 20])
    frame = pl.read_parquet(lab.stage / "_manifest" / "manifest.parquet")
    assert not any(CONTROLS.search(text) or "\n" in text for text in frame["source_file"])
    assert frame["source_file"].n_unique() == frame.height
    assert_inside(lab)


def test_what_a_header_says_harms_no_terminal(tmp_path: Path) -> None:
    """Control characters in names, values, labels and rows are escaped wherever they are shown, and kept as data."""
    lab = Lab(tmp_path)
    evil = "\x1b[2J\x1b]0;pwned\x07\u202e\x9b31m"
    one = instrument.iv(1)
    parameters = {**one.parameters, f"Name{evil}": f"value{evil}", "Information": evil, "Sample": evil}
    replace(one, parameters=parameters).write(lab.raw / "kept.csv")
    replace(instrument.iv(2), columns=("Vsd (V)", f"I{evil}", "a", "b", "c")).write(lab.raw / "label.csv")
    replace(instrument.iv(3), rows=["1,2,3,4,5", f"1,{evil},3,4,5"]).write(lab.raw / "row.csv")
    replace(instrument.iv(4), start_time=f"now{evil}").write(lab.raw / "start.csv")
    replace(instrument.iv(5), columns=(f"I{evil}", f"I{evil}")).write(lab.raw / "twice.csv")
    (lab.raw / "first.csv").write_bytes(f"#Procedure: {evil}\n".encode() * 3)
    lab.age()
    said = command(lab, "backfill", "--dry-run") + command(lab, "backfill")
    for words in (("status",), ("rejects",), ("rejects", "--json"), ("verify",)):
        said += command(lab, *words)
    for path in records(lab):
        said += command(lab, "why", os.fsdecode(path)) + command(lab, "why", "--json", os.fsdecode(path))
    assert not (match := CONTROLS.search(said)), repr(said[max(0, match.start() - 80) : match.end() + 20])
    assert pl.read_parquet(lab.stage / "**" / "part-000.parquet", columns=["sample"])["sample"].to_list().count(evil)
    with lab.process():
        lab.wait_quiet()  # it watches: a file that nobody is seen to close waits as long as its header allows
        (lab.raw / "row.csv").write_bytes((lab.raw / "row.csv").read_bytes() + b"again\n")
        lab.wait_quiet()
    assert not CONTROLS.search((lab.home / "daemon.log").read_text())


MB = 1 << 20


def giants(raw: Path) -> dict[str, RejectCause | None]:
    """Write files that are too much of something; give what each is refused for. Most of them take no room."""
    head = instrument.iv(1).header.encode()
    number = iter(range(1000))
    expected: dict[str, RejectCause | None] = {}

    def put(name: str, cause: RejectCause | None, *parts: bytes, size: int | None = None) -> None:
        with (raw / f"{name}.csv").open("wb") as file:
            for part in parts:
                file.write(part)
            if size is not None:
                file.truncate(size)
        expected[f"{name}.csv"] = cause

    def start() -> bytes:
        return head.replace(b"Start time: 17576", b"Start time: %d" % (20000 + next(number)))

    nul, big = RejectCause.NUL_BYTES, RejectCause.TOO_LARGE
    put("sparse 5 GB", big, start(), size=5 << 30)
    put("sparse 1 GB line", big, start() + b"1,", size=1 << 30)
    put("sparse 30 MB line", nul, start() + b"1,", size=30 * MB)
    put("NUL tail", nul, instrument.iv(2).data(), size=20000)
    put("NULs", nul, size=5 * MB)
    put("line of 30 MB", RejectCause.BAD_ROWS, start(), b"1" * (30 * MB), b"\r\n")
    put("torn line of 30 MB", None, start(), b"1" * (30 * MB))
    put("field of 1 MB", None, start(), b"0." + b"1" * MB, b",1,nan,nan,nan\r\n" + b"1,1,1,1,1\r\n" * 9)
    put("header of 30 MB", big, b"#Procedure: <a.IV>\n#Parameters:\n", b"#\ta: b\n" * (30 * MB // 7))
    put("header line of 30 MB", big, b"#Procedure: <a.IV>\n#\t", b"x" * (30 * MB))
    put("columns", big, b"#Procedure: <a.IV>\n#Data:\n", b",".join(b"%d" % n for n in range(100_000)) + b"\n")
    put("fields", RejectCause.BAD_ROWS, start(), b"1," * (15 * MB), b"\n")
    put("blank lines", None, start(), b"\n" * (30 * MB))
    put("comments", RejectCause.BAD_ROWS, start(), b"#\n" * (15 * MB))
    put("bad rows", RejectCause.BAD_ROWS, start(), b"x\n" * (15 * MB))
    put("rows, then a bad one", RejectCause.BAD_ROWS, start(), b"1,2,3,4,5\n" * (2 * MB), b"x\n")
    text = instrument.iv(3).data().decode()
    put("UTF-16", RejectCause.ENCODING, text.encode("utf-16"))
    put("UTF-32", RejectCause.ENCODING, text.encode("utf-32"))
    put("UTF-16 without a mark", RejectCause.ENCODING, text.encode("utf-16-le"))
    put("gzip", RejectCause.NOT_INSTRUMENT_FILE, gzip.compress(text.encode()))
    put("random", RejectCause.NOT_INSTRUMENT_FILE, b"\x8f" + random.Random(1).randbytes(300_000))
    put("empty", RejectCause.NOT_INSTRUMENT_FILE)
    instrument.iv(4).write(raw / "sound.csv")
    expected["sound.csv"] = None
    return expected


def test_giants_are_refused_in_bounded_memory(tmp_path: Path) -> None:
    """Lines, headers, columns and files beyond all measure have each a clear reason, and no worker swells."""
    lab = Lab(tmp_path, workers=1)
    limits = replace(lab.config.limits, max_file_mb=40)
    lab.config = replace(lab.config, limits=limits, pools=replace(lab.config.pools, task_memory_mb=640))
    expected = giants(lab.raw)
    lab.age()
    before = {path: path.stat().st_mtime_ns for path in lab.raw.iterdir()}
    most = largest(lab, "backfill")
    assert most < 400 << 10
    assert causes(lab) == expected
    found = records(lab)
    for path, record in found.items():
        assert record.attempts == 0, record
        assert record.reason
        assert len(record.reason) < 500
        if record.rejection is not None:
            assert record.reason[:60] in " ".join(command(lab, "why", os.fsdecode(path)).split())
        if record.rejection is not None and record.rejection.cause is RejectCause.TOO_LARGE:
            assert "limits." in record.rejection.advice, record
    assert found[b"field of 1 MB.csv"].rows == 10
    assert {path: path.stat().st_mtime_ns for path in lab.raw.iterdir()} == before
    assert not verify(lab.config).problems


@pytest.mark.parametrize("what", ["link", "dangling", "pipe", "folder", "device", "socket"])
def test_what_takes_the_place_of_a_file_is_not_opened(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the scan and the reading a name may come to stand for anything: no link is followed."""
    secret = instrument.iv(1).write(tmp_path / "secret" / "x.csv")
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    place = root / "a" / "x.csv"
    match what:
        case "link":
            place.symlink_to(secret)
        case "dangling":
            place.symlink_to(tmp_path / "nothing")
        case "pipe":
            os.mkfifo(place)
        case "folder":
            place.mkdir()
        case "device":
            try:
                os.mknod(place, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero
            except PermissionError:
                pytest.skip("only root can make a device")
        case _:
            with socket.socket(socket.AF_UNIX) as listener:
                monkeypatch.chdir(place.parent)  # a socket's whole path must be short
                listener.bind(place.name)
    with suppress(OSError):
        fd = open_below(str(root), b"a/x.csv")
        kind = os.fstat(fd).st_mode
        os.close(fd)
        assert not stat.S_ISREG(kind)
    lab = Lab(tmp_path / "lab")
    lab.config = replace(lab.config, paths=replace(lab.config.paths, raw=root))
    lab.backfill()
    assert not lab.files()
    shutil.rmtree(root / "a")
    (root / "a").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError):  # noqa: PT011 -- ENOTDIR or ELOOP, as the kernel likes
        open_below(str(root), b"a/x.csv")
    with pytest.raises(FileNotFoundError):
        open_below(str(root), b"../secret/x.csv")


@pytest.mark.long
def test_names_that_change_what_they_stand_for(tmp_path: Path) -> None:
    """While names flip between files, links and pipes, nothing from outside is published."""
    lab = Lab(tmp_path)
    secret = instrument.iv(99, start=1790000000.0)
    secret.write(tmp_path / "secret" / "0.csv")
    for number in range(8):
        instrument.iv(number).write(lab.raw / "day" / f"{number}.csv")
    ended = threading.Event()

    def flip() -> None:
        chance = random.Random(1)
        while not ended.is_set():
            folder, name = lab.raw / "day", f"{chance.randrange(8)}.csv"
            aside = lab.raw / ".aside"
            with suppress(OSError):
                match chance.randrange(3):
                    case 0:
                        (folder / name).rename(aside)
                        (folder / name).symlink_to(tmp_path / "secret" / "0.csv")
                        aside.replace(folder / name)
                    case 1:
                        (folder / name).rename(aside)
                        os.mkfifo(folder / name)
                        aside.replace(folder / name)
                    case _:
                        folder.rename(aside)
                        folder.symlink_to(tmp_path / "secret")
                        folder.unlink()
                        aside.rename(folder)
            with suppress(OSError):
                os.utime(folder / name, follow_symlinks=False)

    with lab.process():
        thread = threading.Thread(target=flip)
        thread.start()
        time.sleep(8)
        ended.set()
        thread.join()
        lab.age()
        lab.wait_quiet(60)
        starts = {run.facts.start_us for run in lab.runs().values()}
        assert not any(start > 1780000000 * 10**6 for start in starts)
        assert_converged(lab)


@contextmanager
def deep(root: Path, levels: int, name: str) -> Iterator[tuple[int, bytes]]:
    """Make folders in each other, more than a path can name; give the last one's descriptor and the way to it."""
    at = os.open(root, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=at)
        below = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    try:
        yield at, b"/".join([name.encode()] * levels)
    finally:
        os.close(at)
        subprocess.run(["rm", "-rf", root / name], check=True)


def write_at(fd: int, data: bytes) -> None:
    file = os.open("x.csv", os.O_WRONLY | os.O_CREAT, dir_fd=fd)
    os.write(file, data)
    os.close(file)


@pytest.mark.parametrize("mode", ["daemon", "backfill"])
def test_folders_deeper_than_a_path_can_name(tmp_path: Path, mode: str) -> None:
    """200 folders in each other are nothing special; what is beyond the longest path is counted."""
    lab = Lab(tmp_path)
    instrument.iv(1).write(lab.raw / "a" / "x.csv")
    with deep(lab.raw, 200, "deep") as (fd, way), deep(lab.raw, 30, "f" * 200) as (beyond, far):
        write_at(fd, instrument.iv(2).data())
        write_at(beyond, instrument.iv(3).data())
        if mode == "backfill":
            ended = lab.backfill()
            assert ended.tally.unreadable_folders >= 1
        else:
            with lab.process():
                until(lambda: len(lab.runs()) == 2)
                instrument.iv(4).write(lab.raw / "a" / "y.csv")
                until(lambda: lab.state_of("a/y.csv") == "segmented")
                status = lab.wait_quiet()
                assert status["tally"]["unreadable_folders"] >= 1
        found = records(lab)
        assert found[way + b"/x.csv"].state == "segmented"
        assert far + b"/x.csv" not in found
        with pytest.raises(OSError, match="too long"):
            os.stat(os.path.join(os.fsencode(lab.raw), far, b"x.csv"))


@pytest.mark.scale
@pytest.mark.timeout(900)
def test_a_hundred_thousand_tiny_files_in_one_folder(tmp_path: Path) -> None:
    """They are refused one by one, at a steady pace, while the daemon's own memory stays small."""
    lab = Lab(tmp_path, workers=2)
    for number in range(100_000):
        with open(lab.raw / f"{number}.csv", "w") as file:
            file.write(f"{number}\n")
    instrument.iv(1).write(lab.raw / "zzz.csv")
    lab.age()
    (lab.home / "config.toml").write_text(toml(lab.config))
    words = [sys.executable, "-m", "nanolab_daemon", "backfill", "--config", str(lab.home / "config.toml")]
    began, peak_mib = time.monotonic(), 0.0
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=lab.home) as backfill:
        while backfill.poll() is None:
            with suppress(OSError, StopIteration):
                lines = Path(f"/proc/{backfill.pid}/status").read_text().splitlines()
                peak_mib = max(peak_mib, next(int(x.split()[1]) for x in lines if x.startswith("VmHWM")) / 1024)
            time.sleep(0.2)
    first_s = time.monotonic() - began
    assert backfill.returncode == 0
    assert len(lab.files()) == 100_001
    assert lab.state_of("zzz.csv") == "segmented"
    began = time.monotonic()
    command(lab, "backfill")
    print(f"100,000 tiny files: {first_s:.0f} s, again {time.monotonic() - began:.1f} s, parent {peak_mib:.0f} MiB")
    assert peak_mib < 200
