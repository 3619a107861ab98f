"""Puts finished files where readers look for them: at once, whole, and on the disk before anyone says so.

A *bundle* is a folder made aside, under a name that no reader asks for, and moved into place in one step.
Knows nothing of Parquet; whether a bundle may replace another is the caller's decision.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import itertools
import os
import re
import secrets
import shutil
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from nanolab_daemon.errors import EngineError

MANIFEST = "_manifest/manifest.parquet"
LAB_MARK = ".nanolab-lab"
"""The table of all runs, below the stage root."""

TEMP_FOLDER = ".nanolab-tmp"
"""Below each output root, so that moving into place never leaves the file system."""

SET_ASIDE = "_set_aside"
"""Below each output root: what was in the way of a run and is not the program's. Nobody but a person removes it."""

MARK = b"nanolab.run_id"
"""Stands in the end of every Parquet file that the program writes."""

MOVES_A_NOTE = 256
"""So that what is known of them is let go of a piece at a time."""

_ANNOUNCED = "announced-"
_RUN_FOLDER = re.compile(r"/run_id=[0-9a-f]{16}\Z")
_TRY_BYTES = 1 << 20
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)
_me = f"{os.getpid()}-{secrets.token_hex(4)}"  # processes of several machines may share a temporary folder
_serial = itertools.count()
_announced = 0
_OURS = re.compile(r"(segment=[0-9]+/)?part-000\.parquet")


def temp_folder(root: Path, owner: str) -> Path:
    """Name the folder in which one engine (`owner`) makes its bundles below `root`."""
    return root / TEMP_FOLDER / owner


def make_temp_folder(root: Path, owner: str) -> Path:
    """Make an engine's temporary folder, empty but for notes: what an earlier life left in it was never published."""
    folder = temp_folder(root, owner)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for entry in folder.iterdir():
            if not entry.name.startswith(_ANNOUNCED):
                discard(entry)
    except OSError as error:
        raise EngineError(
            f"{root} can't be written: {error.strerror}.", advice="Give this user the right to write there."
        ) from error
    return folder


def remove_temp_folder(root: Path, owner: str) -> None:
    """Remove an engine's temporary folder, and the one around it when no other engine uses it."""
    folder = temp_folder(root, owner)
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # another engine's folder is in it, or there was none
        folder.parent.rmdir()


def try_for_room(folder: Path) -> None:
    """Write a megabyte into a file without a name; OSError if there is no room for it.

    A file system that has no such files is not tried. What lies in the folder is not touched, even by a crash.
    """
    try:
        fd = os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in (errno.EISDIR, errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL):
            return
        raise
    try:
        _write_out(fd, os.urandom(_TRY_BYTES))  # random: some file systems keep no zeros
        os.fsync(fd)
    finally:
        os.close(fd)


def try_to_write(root: Path, owner: str, device: int) -> None:
    """Write a megabyte below `root`, durably, and take it away again; OSError if that can't be done.

    `device` is that of the root as it was: what stands in the place of a disk that was unmounted is not written on.
    """
    if root.stat().st_dev != device:
        raise OSError(errno.ENOENT, "It is on another disk than it was", os.fspath(root))
    folder = temp_folder(root, owner)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{_me}-{next(_serial)}-try"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _write_out(fd, os.urandom(_TRY_BYTES))
        os.fsync(fd)
    finally:
        os.close(fd)
        path.unlink(missing_ok=True)


def write_bundle(temp: Path, files: Mapping[str, bytes | memoryview]) -> Path:
    """Write `files` (relative path → contents) into a new folder below `temp`, and give that folder.

    A relative path has one folder in it at most.
    """
    bundle = f"{temp}/{_me}-{next(_serial)}"
    # By plain system calls: an archive has a hundred thousand of these files, and Path costs as much as the kernel.
    os.mkdir(bundle)  # noqa: PTH102
    folders = {""}
    try:
        for name, contents in files.items():
            folder = os.path.dirname(name)
            if folder not in folders:
                os.mkdir(f"{bundle}/{folder}")  # noqa: PTH102
                folders.add(folder)
            _write(f"{bundle}/{name}", contents)
    except OSError:
        discard(Path(bundle))  # a full disk needs the room
        raise
    return Path(bundle)


def _write(path: str, contents: bytes | memoryview) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        _write_out(fd, contents)
    finally:
        os.close(fd)


def _write_out(fd: int, contents: bytes | memoryview) -> None:
    view = memoryview(contents)
    while view:
        view = view[os.write(fd, view) :]


def announce(temp: Path, moves: Collection[tuple[Path, str]]) -> None:
    """Note which bundles are about to be moved to which places, so that a crash leaves none that nobody knows of.

    The note must be on the disk (`sync`) before the first move. A folder keeps its inode number when it is moved.
    """
    global _announced  # noqa: PLW0603 -- a process writes one note after another
    # Begins with an end of line: the one before may have been cut off by a full disk.
    lines = "\n" + "".join(f"{bundle.stat().st_ino} {target}\n" for bundle, target in moves)
    note = temp / f"{_ANNOUNCED}{_me}-{_announced // MOVES_A_NOTE}"
    _announced += len(moves)
    fd = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, lines.encode())
    finally:
        os.close(fd)


def notes(root: Path, owner: str) -> list[Path]:
    """Give the notes of what was to be moved below a root."""
    return sorted(temp_folder(root, owner).glob(_ANNOUNCED + "*"))


def announced(root: Path, note: Path) -> list[str]:
    """Give the places to which bundles were announced to be moved and where these lie now, each once."""
    told: dict[str, None] = {}
    for line in note.read_text(errors="replace").split("\n"):
        inode, _, target = line.partition(" ")
        if target in told or not _RUN_FOLDER.search(target):  # a torn line was followed by no move
            continue
        with contextlib.suppress(OSError):
            if str((root / target).stat().st_ino) == inode:
                told[target] = None
    return list(told)


def place(bundle: Path, target: Path) -> bool:
    """Move a bundle to `target` unless something is published there; tell whether it was moved.

    rename(2) refuses to put a folder over one that is not empty, so two workers can't both succeed.
    """
    for last in (False,) * 9 + (True,):  # another thread may take an empty folder away as often as it is made
        try:
            bundle.rename(target)
        except FileNotFoundError:
            if last or not bundle.exists():
                raise
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise
        else:
            return True
    raise AssertionError


def clear_the_way(root: Path, target: Path) -> Path | None:
    """Move aside what stands where `target` or a folder above it is to be; give where it is now, None if nothing did.

    Only files and dangling links can be in the way: what is in a folder is dealt with when that is replaced.
    """
    for place in (*reversed(target.relative_to(root).parents), target.relative_to(root)):
        if os.path.lexists(root / place) and not (root / place).is_dir():
            return _set_aside(root, root / place, place)
    return None


def holds_exactly(target: Path, files: Iterable[tuple[str, int, str]]) -> bool:
    """Tell whether a published folder holds these files: relative path, bytes, SHA-256."""
    try:
        return all(
            (target / name).stat().st_size == size_bytes
            and hashlib.sha256((target / name).read_bytes()).hexdigest() == sha256
            for name, size_bytes, sha256 in files
        )
    except OSError:
        return False


def replace(bundle: Path, target: Path, *, known: bool = True) -> Path | None:
    """Put a bundle in the place of what is published at `target`: readers find the old one or the new one.

    Where the file system can't exchange two names, there is a moment between two renames in which neither is there.
    `known`: the ledger says that the old one is the program's; else that is looked at. What is not is set aside, and
    the place where it is now is given.
    """
    if place(bundle, target):
        return None
    try:
        _exchange(bundle, target)
        old = bundle
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise
        old = bundle.with_name(bundle.name + "-old")
        target.rename(old)
        bundle.rename(target)
    return _dispose(old, target, known=known)


def _dispose(old: Path, target: Path, *, known: bool) -> Path | None:
    """Remove a folder that was published at `target`; what is in it and is not ours is set aside."""
    root = old.parents[2]
    files = [path for path in old.rglob("*") if path.is_symlink() or not path.is_dir()]
    ours = [path for path in files if _is_ours(old, path, known=known)]
    if len(ours) == len(files):
        discard(old)
        return None
    for path in ours:
        path.unlink()
        with contextlib.suppress(OSError):  # the folder of a segment
            path.parent.rmdir()
    return _set_aside(root, old, target.relative_to(root))


def _is_ours(folder: Path, path: Path, *, known: bool) -> bool:
    if path.is_symlink() or not _OURS.fullmatch(str(path.relative_to(folder))):
        return False
    return known or MARK in _footer(path)


def _footer(path: Path) -> bytes:
    """Give the end of a Parquet file in which its notes stand; nothing of what is none."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 8))
        tail = file.read()
        length = int.from_bytes(tail[:4], "little") + 8
        if tail[4:] != b"PAR1" or length > size:
            return b""
        file.seek(size - length)
        return file.read()


def _set_aside(root: Path, path: Path, name: Path) -> Path:
    aside = root / SET_ASIDE / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{_me}-{next(_serial)}" / name
    aside.parent.mkdir(parents=True)
    path.rename(aside)
    return aside


def discard(path: Path) -> None:
    """Remove a bundle or a published folder; that it is gone already is no error."""
    shutil.rmtree(path, ignore_errors=True)


def withdraw(target: Path, temp: Path) -> None:
    """Take a published folder away in one step, so that no reader finds half of it, and remove it.

    The folders around it go with it, up to the root, when they are empty: they would say that runs exist. So they do
    when it is gone already: an earlier life may have come no further.
    """
    aside = temp / f"{_me}-{next(_serial)}-old"
    with contextlib.suppress(FileNotFoundError):
        target.rename(aside)
        with contextlib.suppress(FileNotFoundError):
            _dispose(aside, target, known=True)
    root = temp.parent.parent
    for folder in itertools.takewhile(lambda one: one != root, target.parents):
        try:
            folder.rmdir()
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return
            raise


def sync(root: Path) -> None:
    """Return when everything written below `root` so far, contents and names, survives a loss of power.

    syncfs(2): one call for a whole group of files. Measured, it costs less than fsync(2) of a single run's files
    and folders one by one. It also reports write errors that the kernel met after write(2) had returned.
    """
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(fd) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), os.fspath(root))
    finally:
        os.close(fd)


def _exchange(one: Path, other: Path) -> None:
    if _libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), os.fspath(one))
