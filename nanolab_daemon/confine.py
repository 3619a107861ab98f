"""Gives up, for this process and all that it starts, the right to write anywhere but in a few folders (Landlock).

A second wall beside systemd's: file systems that are mounted later appear inside a service writable, whatever its
unit says of the folder above them. Needs no rights itself, and can't be taken back.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

# System calls have these numbers on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38
LEAST_VERSION = 2
"""Version 1 forbids to move files from folder to folder, which publishing lives by."""

_WRITE_FILE = 1 << 1
_OF_FOLDERS = sum(1 << bit for bit in range(4, 14))  # remove and make files and folders of every kind; move between
_TRUNCATE = 1 << 14  # from version 3
ALWAYS = (Path("/dev"), Path("/proc"), Path("/tmp"), Path("/var/tmp"))  # noqa: S108 -- null, oom_score_adj, libraries


def write_only_below(folders: Iterable[Path]) -> str:
    """Give up writing outside `folders`, which must exist, and the ways every process needs.

    Call it while the process has one thread: others keep their rights. Returns why it could not be done, else "".
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG))
    if version < LEAST_VERSION:
        why = os.strerror(ctypes.get_errno()) if version < 0 else f"version {version} is too old"
        return f"this kernel offers no Landlock: {why}"
    rights = _WRITE_FILE | _OF_FOLDERS | (_TRUNCATE if version >= 3 else 0)
    wanted = struct.pack("=Q", rights)
    ruleset = libc.syscall(_CREATE_RULESET, wanted, ctypes.c_size_t(len(wanted)), ctypes.c_uint32(0))
    if ruleset < 0:
        return f"no rules could be made: {os.strerror(ctypes.get_errno())}"
    try:
        for folder in folders:
            _allow(libc, ruleset, folder, rights)
        for folder in ALWAYS:
            with contextlib.suppress(FileNotFoundError):
                _allow(libc, ruleset, folder, rights)
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)):
            return f"the rules were refused: {os.strerror(ctypes.get_errno())}"
    finally:
        os.close(ruleset)
    return ""


def _allow(libc: ctypes.CDLL, ruleset: int, folder: Path, rights: int) -> None:
    handle = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", rights, handle)
        if libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, ctypes.c_uint32(0)):
            number = ctypes.get_errno()
            raise OSError(number, f"Landlock: {os.strerror(number)}", str(folder))
    finally:
        os.close(handle)
