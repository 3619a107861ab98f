"""Any bytes as rows, and any file through the first stage: exact numbers or a declared refusal, in bounded memory."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import polars as pl
import pytest
from fuzz import ANYTHING, assert_linear, damaged, fuzzed
from hypothesis import example, given
from hypothesis import strategies as st
from inprocess import Folders

from nanolab_daemon.errors import FileRejectedError
from nanolab_daemon.header import parse_header
from nanolab_daemon.model import FileState
from nanolab_daemon.probe import Probe
from nanolab_daemon.procedures import Registry
from nanolab_daemon.rows import read_rows
from nanolab_daemon.tasks import NoRows, Refused, Staged, StageJob

SCRAPS = (
    b"1", b"-2.5e-3", b"nan", b"inf", b",", b",", b"\n", b"\n", b"\r\n", b" ", b"\t", b"#", b"\0", b'"', b"'", b"x",
    b"1e999", b"1_0", b"0x1", b"\xff", b"\xef\xbb\xbf", b"\r", b";", b"9" * 330, b"nan(1)", b"+", b"-", b".", b"e",
)  # fmt: skip
BODY = st.lists(st.sampled_from(SCRAPS), max_size=40).map(b"".join)


def bits(value: float) -> bytes:
    return b"nan" if value != value else struct.pack("d", value)


@fuzzed
@given(st.one_of(BODY, st.binary(max_size=200)), st.integers(0, 4), st.booleans())
@example(b"\r1", 1, True)
@example(b"1\r\n\r2\r\n3\r\r\n", 1, True)
def test_any_bytes_are_rows_or_a_declared_error(body: bytes, width: int, skip: bool) -> None:
    """Accepted lines hold exactly the numbers that their text means; a refused file names one line that is not."""
    lines = body.split(b"\n")
    try:
        found = read_rows(body, width, 1, skip_bad=skip)
    except FileRejectedError as error:
        assert error.line is not None  # noqa: PT017 -- it need not be refused
        assert 1 <= error.line <= len(lines)  # noqa: PT017
        assert width == 0 or not skip
        return
    meant = []
    for line in lines:
        with suppress(ValueError):
            if line.startswith(b"#") or b"\r" in line.rstrip(b"\r"):
                continue  # a return within a line is none of the blanks that count for nothing
            values = [float(field) for field in line.split(b",")]
            if len(values) == width and not set(line) & set(b"_\x0b\x0c\x85"):
                meant.append([bits(value) for value in values])
    read = zip(*([bits(value) for value in column.to_pylist()] for column in found.columns), strict=True)
    assert [list(row) for row in read] == meant
    assert found.count == len(meant)


@fuzzed
@given(st.one_of(damaged(), ANYTHING), st.booleans())
def test_any_file_is_staged_or_refused_and_the_probe_agrees(data: bytes, skip: bool) -> None:
    """Nothing but the declared outcomes leaves the first stage; the look from the daemon's thread fits with it."""
    with tempfile.TemporaryDirectory() as folder:
        folders = Folders(Path(folder)).make()
        path = folders.put("x.csv", data)
        (outcome,) = folders.stage_jobs(StageJob(path, skip_bad_rows=skip))
        glance = Probe(Registry.builtin(), folders.settings.max_header_bytes).look(os.fsencode(folders.raw), path)
        assert isinstance(outcome, Staged | NoRows | Refused), outcome
        published = sorted(folders.stage.rglob("*.parquet"))
        assert len(published) == isinstance(outcome, Staged)
        assert all(folders.stage.resolve() in file.resolve().parents for file in published)
        if isinstance(outcome, NoRows):
            # whole lines that are blank or comments are no rows, which a quick look does not tell
            assert glance.state in (outcome.state, FileState.MEASURING)
        if isinstance(outcome, Staged):
            assert glance.rows >= outcome.facts.rows
            header = parse_header(data)
            body = data[header.data_offset :]
            if b"#" not in body and not outcome.facts.bad_rows_skipped and b"" not in body.split(b"\n")[:-1]:
                plain = all(line.strip() for line in body.split(b"\n")[:-1])
                assert not plain or glance.rows == outcome.facts.rows
            frame = pl.read_parquet(published[0])
            assert frame.height == outcome.facts.rows
            folders.cut(outcome) if outcome.facts.is_cut else None


SHAPES: dict[str, Callable[[int], bytes]] = {
    "one line": lambda n: b"1" * n + b"\n",
    "one line of fields": lambda n: b"1," * (n // 2) + b"\n",
    "blank lines": lambda n: b"\n" * n,
    "lone carriage returns": lambda n: b"\r" * n,
    "short rows": lambda n: b"1,2\n" * (n // 4),
    "short rows, a bad one at the end": lambda n: b"1,2\n" * (n // 4) + b"x\n",
    "short rows, the first bad": lambda n: b"x\n" + b"1,2\n" * (n // 4),
    "bad rows": lambda n: b"x\n" * (n // 2),
    "quotes": lambda n: b'"' * n + b"\n",
    "NULs": lambda n: b"1,2\n" + b"\0" * n,
    "comments": lambda n: b"#\n" * (n // 2),
    "rows and comments": lambda n: b"1,2\n#\n" * (n // 6),
    "blanks": lambda n: b" " * n + b",1\n",
    "exponents": lambda n: b"1e" + b"1" * n + b",2\n",
}


def read(body: bytes, *, skip_bad: bool = False) -> None:
    with suppress(FileRejectedError):
        read_rows(body, 2, 1, skip_bad=skip_bad)


@pytest.mark.long  # it compares times, which a busy machine upsets
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_work_grows_as_the_bytes_do(shape: str, skip: bool) -> None:
    """No rows make the reader try anything again and again."""
    assert_linear(lambda body: read(body, skip_bad=skip), SHAPES[shape])


MEASURE = """
import resource, sys
from test_fuzz_rows import SHAPES, read
size, shape, skip = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "True"
read(SHAPES[shape](1000), skip_bad=skip)
body = SHAPES[shape](size)
# What was at its peak so far is forgotten, so that only the reading counts.
open("/proc/self/clear_refs", "w").write("5")
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) << 10
before = peak()
read(body, skip_bad=skip)
print((peak() - before) / size)
"""
TIMES_ITS_SIZE = 10
"""`limits.max_file_mb` says that ten times as much memory may be needed for a file."""


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_memory_is_bounded_by_the_size_of_the_file(shape: str, skip: bool) -> None:
    """Reading 32 MB of anything takes no more than `config.toml` says that it may."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), str(here.parents[1])])
    command = [sys.executable, "-c", MEASURE, str(32 << 20), shape, str(skip)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert float(done.stdout) < TIMES_ITS_SIZE
