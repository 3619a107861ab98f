"""The kernel's limits on inotify, how near this user is to them, and the line that raises one.

Watches nothing itself.
"""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

LIMITS = Path("/proc/sys/fs/inotify")
NAMESPACE_WATCHES = Path("/proc/sys/user/max_inotify_watches")
COMFORTABLE_SHARE = 0.8  # of the limit: other programs of the same user watch folders too
LEAST_QUEUED_EVENTS = 16384
_LEAST_ADVISED_WATCHES = 524288
_LEAST_ADVISED_INSTANCES = 256
SYSCTL_FILE = "/etc/sysctl.d/60-nanolab-daemon.conf"
_IN_CLOEXEC = os.O_CLOEXEC
_IN_OPEN = 0x20


def limit(name: str) -> int | None:
    """Return one of the kernel's limits, or None where it can't be read."""
    return _read(LIMITS / name)


def max_watches() -> int | None:
    """Return how many folders this user can watch: the lower of the limits of the kernel and of the namespace."""
    known = [value for value in (limit("max_user_watches"), _read(NAMESPACE_WATCHES)) if value is not None]
    return min(known, default=None)


def count_folders(root: Path, budget_s: float) -> tuple[int, bool]:
    """Count `root` and the folders below it, links not followed; the second value tells whether all were seen."""
    deadline = time.monotonic() + budget_s
    pending, count = [os.fspath(root)], 0
    while pending:
        folder = pending.pop()
        count += 1
        if time.monotonic() > deadline:
            return count + len(pending), False
        try:
            with os.scandir(folder) as entries:
                pending += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue  # gone or closed to this user: counted, nothing below it is known
    return count, True


def try_instance() -> str:
    """Open an inotify instance and close it; return why that failed, or an empty text."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    handle: int = libc.inotify_init1(_IN_CLOEXEC)
    if handle < 0:
        return os.strerror(ctypes.get_errno())
    os.close(handle)
    return ""


def advised_watches(folders: int) -> int:
    """Return the limit to set for this many folders: room for as many again, a power of two, never a small one."""
    return max(_LEAST_ADVISED_WATCHES, 1 << (2 * folders - 1).bit_length())


def advised_instances(current: int | None) -> int:
    """Return the limit to set where the current one is used up."""
    return max(_LEAST_ADVISED_INSTANCES, 2 * (current or 0))


def sysctl_remedy(name: str, value: int) -> str:
    """Return the line that raises a limit now and the one that keeps it so."""
    line = f"fs.inotify.{name}={value}"
    return f"sudo sysctl {line}; to keep it: echo '{line}' | sudo tee -a {SYSCTL_FILE}"


def _read(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def hears(folder: Path, limit_s: float = 1.0) -> bool:
    """Tell whether events come from a folder at all: watch it, open it, and wait for the news of that.

    Writes nothing. Some file systems in user space take a watch and stay silent for ever.
    """
    import ctypes
    import select

    libc = ctypes.CDLL(None, use_errno=True)
    handle: int = libc.inotify_init1(_IN_CLOEXEC | os.O_NONBLOCK)
    if handle < 0:
        return True  # no instance left: that is another trouble, with another remedy
    try:
        if libc.inotify_add_watch(handle, os.fsencode(folder), _IN_OPEN) < 0:
            return ctypes.get_errno() == errno.ENOSPC  # the limit of watches is another trouble too
        try:
            os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError:
            return False
        heard = select.poll()  # not select(2), which takes no descriptor above 1023
        heard.register(handle, select.POLLIN)
        return bool(heard.poll(1000 * limit_s))
    finally:
        os.close(handle)
