"""The truth about the raw folder: which files there are and what stat(2) tells of them. Opens none of them."""

from __future__ import annotations

import fnmatch
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

from nanolab_daemon.model import Fingerprint
from nanolab_daemon.rawfile import fingerprint_of

_NEVER = re.compile(rb"[.~]|.*\.(?:tmp|part)\Z", re.DOTALL)
"""Hidden files, what editors, office programs and sync tools leave about, and what is still being copied."""


_NAMES = (sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())
"""How names that come as text become bytes again: `os.fsencode`, which takes thrice as long."""

_Found = tuple[bytes, int, int, int, int]
"""Name, size in bytes, times of modification and of change in ns, inode: as stat(2) tells them."""


class Listing:
    """The instrument files directly in one folder; `error` if it can't be listed.

    `unseen` names what may be an instrument file but could not be looked at. Most folders are as they were, which
    `mark` tells: their files are counted and made into nothing more.
    """

    __slots__ = ("_files", "_found", "error", "folder", "unseen")

    def __init__(
        self,
        folder: bytes,
        found: Sequence[_Found] = (),
        error: OSError | None = None,
        unseen: frozenset[bytes] = frozenset(),
    ) -> None:
        self.folder = folder
        self.error = error
        self.unseen = unseen
        self._found = found
        self._files: dict[bytes, Fingerprint] | None = None

    def __len__(self) -> int:
        return len(self._found)

    @property
    def files(self) -> dict[bytes, Fingerprint]:
        """The files as paths relative to raw."""
        if self._files is None:
            above = self.folder + b"/" if self.folder else b""
            self._files = {above + name: fingerprint_of(*status) for name, *status in self._found}
        return self._files

    @property
    def mark(self) -> int:
        """A number by which this listing is told from another of the same folder, as long as the program runs."""
        return hash((frozenset(self._found), self.unseen))


class NameTest:
    """The test of whether a path relative to raw is an instrument file's, judged by its name."""

    def __init__(self, include: Sequence[str], exclude: Sequence[str]) -> None:
        self._wanted = _union(pattern for pattern in include if "/" not in pattern) or (lambda _: None)
        self._wanted_paths = _union(pattern for pattern in include if "/" in pattern)
        self._refused = _union(pattern for pattern in exclude if "/" not in pattern)
        self._refused_paths = _union(pattern for pattern in exclude if "/" in pattern)
        self._quick = _at_once(include, exclude)

    def __call__(self, path: bytes) -> bool:
        """Tell whether a path counts."""
        folder, _, name = path.rpartition(b"/")
        return bool(self.within(folder)(name))

    def within(self, folder: bytes) -> Callable[[bytes], object]:
        """Make the test for the names in one folder, which is judged but once."""
        if folder and any(_NEVER.match(part) for part in folder.split(b"/")):
            return lambda _: False
        wanted_paths, refused_paths = self._wanted_paths, self._refused_paths
        if not (wanted_paths or refused_paths) and self._quick is not None:
            return self._quick
        above = folder + b"/" if folder else b""
        never, wanted, refused = _NEVER.match, self._wanted, self._refused

        def test(name: bytes) -> bool:
            if not wanted(name) and not (wanted_paths and wanted_paths(above + name)):
                return False
            return not (never(name) or (refused and refused(name)) or (refused_paths and refused_paths(above + name)))

        return test


def name_test(include: Sequence[str], exclude: Sequence[str]) -> NameTest:
    """Make the test of which files count.

    Patterns are those of a shell and are held against the file's name, or the whole path if they contain a slash.
    """
    return NameTest(include, exclude)


def _at_once(include: Sequence[str], exclude: Sequence[str]) -> Callable[[bytes], object] | None:
    """Make one pattern for names of what is else three; the regular expression engine needs no Python in between."""
    wanted, refused = (
        [fnmatch.translate(one) for one in patterns if "/" not in one] for patterns in (include, exclude)
    )
    if not wanted:
        return None
    no = b"(?!" + b"|".join([_NEVER.pattern, *(os.fsencode(one) for one in refused)]) + b")"
    return re.compile(no + b"(?:" + os.fsencode("|".join(wanted)) + b")", re.DOTALL).match


def _union(patterns: Iterable[str]) -> Callable[[bytes], object] | None:
    every = [fnmatch.translate(pattern) for pattern in patterns]
    if not every:
        return None
    return re.compile(os.fsencode("|".join(f"(?:{one})" for one in every)), re.DOTALL).match


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
    found: list[_Found] = []
    unseen: set[bytes] = set()
    below: list[bytes] = []
    try:
        if memory is not None:
            status = os.lstat(os.path.join(root, folder) if folder else os.path.join(root, b"."))
            memory[folder] = (status.st_mtime_ns, status.st_ino)
        above = folder + b"/" if folder else b""
        wanted = test.within(folder)
        # By descriptor: the kernel looks for each file in this folder, and not for the folder first each time.
        fd = os.open(os.path.join(root, folder), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    name = entry.name.encode(*_NAMES)
                    # Asked first, for what the listing tells itself: a folder that can't be looked at is no file that
                    # could not be seen, and the folder of a dead share is not looked at.
                    if entry.is_dir(follow_symlinks=False):
                        if not _NEVER.match(name):
                            below.append(above + name)
                    elif wanted(name):
                        try:
                            status = entry.stat(follow_symlinks=False)
                        except FileNotFoundError:
                            continue
                        except OSError:
                            unseen.add(above + name)
                            continue
                        if stat.S_ISREG(status.st_mode):
                            times = status.st_mtime_ns, status.st_ctime_ns
                            found.append((name, status.st_size, *times, status.st_ino))
        finally:
            os.close(fd)
    except OSError as error:
        return Listing(folder, error=error), []
    return Listing(folder, found, None, frozenset(unseen)), below
