"""What the fuzz tests share: files that are damaged as bytes and as grammar, and how much work is tried.

`SEQUENCES=50000 ./go test tests/unit/test_fuzz_header.py tests/unit/test_fuzz_rows.py` tries so many of each.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import instrument
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from realdata import real_files

EXAMPLES = int(os.environ.get("SEQUENCES", "250"))

fuzzed = settings(
    max_examples=EXAMPLES,
    derandomize="SEQUENCES" not in os.environ,  # the same ones each time, unless more are asked for
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)

TOKENS = (
    b"\n", b"\r\n", b"\r", b"#", b"#\t", b"#Procedure: <", b">", b"#Parameters:\n", b"#Metadata:\n", b"#Data:\n",
    b"#\tStart time: ", b"#\tVSD step: 1e-300 V\n", b"#\tVSD end: 1e300 V\n",
    b"#\tChip number: 99999999999999999999\n",
    b"#\tLaser ON+OFF period: 1e308 s\n", b"#\tNPLC: nan\n", b"#\tIrange: -0 A\n", b": ", b",", b",,", b"\0", b"\x1a",
    b"\xff", b"\xc3\x28", b"\xef\xbb\xbf", b"\xfe\xff", b"\x1f\x8b\x08", b"../../etc/", b"%s%n", b"=", b"\x1b[2J",
    b"\\", b"\\u202e", b"\\ud800", b"\\x", b"\\U0011ffff", b"1e999", b"-inf", b"nan", b"1_0", b"0x10",
    b"\xe2\x80\xae",
    b"9" * 400, b" " * 400, b"source_file", b"run_id", b"Vsd (V)", b"t (s)", b"IVg", b"It", b"2025-13-45", b"1e400",
)  # fmt: skip


def _originals() -> Sequence[bytes]:
    real = [path.read_bytes()[:4000] for path in real_files()[:40:8]]
    made = [make(seed).data(12) for seed, make in enumerate((instrument.iv, instrument.ivg, instrument.it))]
    return [*made, instrument.iv(3).queued(), replace(instrument.it(4), start_time=None).data(5), *real]


ORIGINALS = _originals()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw an instrument file to which a few things were done: cut, doubled, swapped, overwritten, put in."""
    data = draw(st.sampled_from(ORIGINALS))
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.integers(0, 60)))
        match draw(st.integers(0, 7)):
            case 0:
                data = data[:start] + data[stop:]
            case 1:
                data = data[:stop] + data[start:stop] * draw(st.integers(1, 3)) + data[stop:]
            case 2:
                data = data[:start] + draw(st.binary(max_size=8)) + data[stop:]
            case 3:
                data = data[:start]
            case 4 | 5:
                data = data[:start] + draw(st.sampled_from(TOKENS)) + data[start:]
            case 6:  # lines in another order
                lines = data.split(b"\n")
                at, to = draw(st.integers(0, len(lines) - 1)), draw(st.integers(0, len(lines) - 1))
                lines.insert(to, lines.pop(at))
                data = b"\n".join(lines)
            case _:  # the value of a header line
                lines = data.split(b"\n")
                named = [at for at, line in enumerate(lines) if line.startswith(b"#\t")]
                if named:
                    at = draw(st.sampled_from(named))
                    lines[at] = lines[at].partition(b":")[0] + b": " + draw(st.sampled_from(TOKENS)).strip(b"\n")
                    data = b"\n".join(lines)
    return data


ANYTHING = st.one_of(st.binary(max_size=400), st.lists(st.sampled_from(TOKENS), max_size=25).map(b"".join), damaged())


def assert_linear(work: Callable[[Any], object], make: Callable[[int], Any], small: int = 1 << 15) -> None:
    """Fail if eight times the input costs far more than eight times the work; 64 times is a square.

    Measured as this thread's own time, the best of three; what is done within a moment is quick enough.
    """

    def cost_s(argument: Any) -> float:
        best = float("inf")
        for _ in range(3):
            began = time.thread_time()
            work(argument)
            best = min(best, time.thread_time() - began)
        return best

    one, eight = cost_s(make(small)), cost_s(make(8 * small))
    assert eight < max(32 * one, 0.1), f"{one:.4f} s for {small}, {eight:.4f} s for eight times as much"
