"""Freed memory goes back."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import re, ctypes
from pathlib import Path
from nanolab_daemon import memory

def rss():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
blocks = [libc.malloc(8000) for _ in range(8000)]
for block in blocks:
    ctypes.memset(block, 1, 8000)
for block in blocks[:-1:2] + blocks[1:-1:2]:  # the last one keeps all below it from being given back by itself
    libc.free(block)
full = rss()
memory.give_back()
assert rss() < full - 40_000, (full, rss())
memory.give_back()
"""


def test_what_lies_between_is_given_back() -> None:
    """Gaps below what is still in use are given back too, which the C library does not do by itself."""
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=60)
