"""The truth about the raw folder: which files there are and what stat(2) tells of them. Opens none of them."""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from nanolab_daemon.model import Fingerprint
from nanolab_daemon.rawfile import fingerprint

_NEVER = re.compile(rb"[.~]|.*\.(?:tmp|part)\Z", re.DOTALL)
"""Hidden files, what editors, office programs and sync tools leave about, and what is still being copied."""

NameTest = Callable[[bytes], bool]


@dataclass(frozen=True, slots=True)
class Listing:
    """The instrument files directly in one folder, as paths relative to raw; `error` if it can't be listed.

    `unseen` names what may be an instrument file but could not be looked at.
    """

    folder: bytes
    files: dict[bytes, Fingerprint]
    error: OSError | None = None
    unseen: frozenset[bytes] = frozenset()


def name_test(include: Sequence[str], exclude: Sequence[str]) -> NameTest:
    """Make the test of whether a path relative to raw is an instrument file's, judged by its name.

    Patterns are those of a shell and are held against the file's name, or the whole path if they contain a slash.
    """
    wanted = [_matcher(pattern) for pattern in include]
    refused = [_matcher(pattern) for pattern in exclude]

    def test(path: bytes) -> bool:
        parts = path.split(b"/")
        if any(_NEVER.match(part) for part in parts):
            return False
        return any(m(path, parts[-1]) for m in wanted) and not any(m(path, parts[-1]) for m in refused)

    return test


def _matcher(pattern: str) -> Callable[[bytes, bytes], bool]:
    match = re.compile(os.fsencode(fnmatch.translate(pattern)), re.DOTALL).match
    if "/" in pattern:
        return lambda path, name: match(path) is not None
    return lambda path, name: match(name) is not None


Memory = dict[bytes, tuple[int, int]]
"""What stat(2) told of each folder just before it was listed: its time of change and its inode."""


def walk(
    root: bytes,
    test: NameTest,
    start: bytes = b"",
    *,
    skip: frozenset[bytes] = frozenset(),
    memory: Memory | None = None,
) -> Iterator[Listing]:
    """List a folder and all below it, one after the other; symbolic links, pipes and devices are passed over.

    Folders in `skip` are not entered. `memory` is filled for later calls of `walk_changed`.
    """
    waiting = [start]
    while waiting:
        listing, below = _list(root, test, waiting.pop(), memory)
        yield listing
        waiting += sorted((folder for folder in below if folder not in skip), reverse=True)


def walk_changed(
    root: bytes, test: NameTest, memory: Memory, *, skip: frozenset[bytes] = frozenset()
) -> Iterator[Listing]:
    """List only the folders in which names have come or gone since `memory` was filled, and new ones below them.

    A folder's time of change tells of names, not of files that grow. Far cheaper than `walk`: one stat(2) a folder.
    """
    for folder, before in list(memory.items()):
        try:
            status = os.lstat(os.path.join(root, folder) if folder else os.path.join(root, b"."))
        except OSError:
            memory.pop(folder, None)  # the next full walk draws the conclusions
            continue
        if (status.st_mtime_ns, status.st_ino) == before:
            continue
        listing, below = _list(root, test, folder, memory)
        yield listing
        for new in below:
            if new not in memory and new not in skip:
                yield from walk(root, test, new, skip=skip, memory=memory)


def _list(root: bytes, test: NameTest, folder: bytes, memory: Memory | None) -> tuple[Listing, list[bytes]]:
    files: dict[bytes, Fingerprint] = {}
    unseen: set[bytes] = set()
    below: list[bytes] = []
    try:
        if memory is not None:
            status = os.lstat(os.path.join(root, folder) if folder else os.path.join(root, b"."))
            memory[folder] = (status.st_mtime_ns, status.st_ino)
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                path = os.path.join(folder, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    if not _NEVER.match(entry.name):
                        below.append(path)
                elif test(path):
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    except OSError:
                        unseen.add(path)
                        continue
                    if stat.S_ISREG(status.st_mode):
                        files[path] = fingerprint(status)
    except OSError as error:
        return Listing(folder, files, error), []
    return Listing(folder, files, None, frozenset(unseen)), below
