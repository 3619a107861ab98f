"""Reads a raw file without disturbing its writer: opened for reading only, closed at once, never locked.

Tells what was read and whether it stood still meanwhile. Knows nothing of what the bytes mean.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from nanolab_daemon.errors import FileRejectedError, RejectCause
from nanolab_daemon.model import Fingerprint

LIMITS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
"""Errors that tell of a machine that is short of something: no file can be read then."""

SHARE_FAULTS = frozenset(
    {
        errno.EIO,
        errno.EREMOTEIO,
        errno.ESTALE,
        errno.ENODEV,
        errno.ENOTCONN,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ETIMEDOUT,
        errno.ESHUTDOWN,
    }
)
"""Errors that tell of the disk or the share on which a file lies."""

MACHINE_FAULTS = LIMITS | SHARE_FAULTS
"""Errors that are never the file's fault."""

_TRIES = 3
_LARGEST = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Contents:
    """A file's bytes; `fingerprint` is from before they were read, so that a later change is always seen."""

    data: bytes
    fingerprint: Fingerprint
    steady: bool  # nothing changed while it was read


def fingerprint(status: os.stat_result) -> Fingerprint:
    """Give the part of stat(2) that changes when the content does."""
    return fingerprint_of(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def fingerprint_of(size_bytes: int, mtime_ns: int, ctime_ns: int, inode: int) -> Fingerprint:
    """Do the same with what is known of it already."""
    if inode > _LARGEST or not (-_LARGEST <= mtime_ns <= _LARGEST and -_LARGEST <= ctime_ns <= _LARGEST):
        mtime_ns, ctime_ns, inode = _clamped(mtime_ns), _clamped(ctime_ns), _signed(inode)
    return Fingerprint._make((size_bytes, mtime_ns, ctime_ns, inode))


def _clamped(nanoseconds: int) -> int:
    """Keep times that lie centuries away within the whole numbers that the ledger can hold."""
    return max(-_LARGEST, min(nanoseconds, _LARGEST))


def _signed(inode: int) -> int:
    """Give an inode number as the ledger can hold it: network and overlay file systems use all 64 bits."""
    return inode - (1 << 64) if inode > _LARGEST else inode


def open_below(root: bytes | str, path: bytes) -> int:
    """Open what stands at `path`, relative to `root`, for reading; raises OSError, also where a link is on the way.

    Folder by folder, since a name may stand for something else by now than it did for the scan: no part is followed
    out of the raw folder. Works at any depth, beyond the length of a path that the kernel takes at once, too.
    """
    *folders, name = path.split(b"/")
    if b".." in folders or name == b"..":
        raise FileNotFoundError(errno.ENOENT, "leads out of the raw folder", path)
    at = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            below = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = below
        # O_NONBLOCK: opening a pipe would wait for its writer
        return os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=at)
    finally:
        os.close(at)


def read(root: bytes | str, path: bytes, max_bytes: int) -> Contents:
    """Read a regular file whole. Tries again when it changes meanwhile, and says so if it goes on changing.

    Raises OSError, or FileRejectedError (TOO_LARGE, NOT_INSTRUMENT_FILE for what is no regular file).
    """
    fd = open_below(root, path)
    try:
        for _ in range(_TRIES):
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode):
                raise FileRejectedError(RejectCause.NOT_INSTRUMENT_FILE, "This is no regular file.")
            if before.st_size > max_bytes:
                raise FileRejectedError(
                    RejectCause.TOO_LARGE,
                    f"The file has {before.st_size:,} bytes, more than the limit of {max_bytes:,}.",
                    advice="If it is a measurement, raise limits.max_file_mb in the configuration, and retry it.",
                )
            data = _read_all(fd, before.st_size)
            after = os.fstat(fd)
            steady = fingerprint(before) == fingerprint(after) and len(data) == before.st_size
            if steady:
                break
        return Contents(data, fingerprint(before), steady)
    finally:
        os.close(fd)


def _read_all(fd: int, size: int) -> bytes:
    """Read `size` bytes from the start; fewer if it has shrunk. What has grown meanwhile waits for next time."""
    parts: list[bytes] = []
    at = 0
    while at < size:
        part = os.pread(fd, size - at, at)
        if not part:
            break
        parts.append(part)
        at += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
