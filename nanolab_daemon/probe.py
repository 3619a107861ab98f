"""A look into a file that is being measured: its state, how many rows it has, whether they are all.

Reads the header and what has been appended since the last look, with the standard library alone, since it runs in the
parent process. What it says decides when a file is staged, never what is published.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from nanolab_daemon.errors import FileRejectedError, HeaderIncompleteError
from nanolab_daemon.header import parse_header
from nanolab_daemon.model import FileState, Header
from nanolab_daemon.procedures import Registry
from nanolab_daemon.ramps import expectation, is_proven, longest_silence_s, proof_column
from nanolab_daemon.rawfile import open_below
from nanolab_daemon.settle import Glance

_CHUNK = 1 << 20
_UNREADABLE = Glance(None)


@dataclass(slots=True)
class Probe:
    """Looks into one file, again and again. Not safe for two files."""

    registry: Registry
    max_header_bytes: int
    _head: bytes = b""
    _header: Header | None = None
    _counted_to: int = 0
    _rows: int = 0
    _last_line: bytes = b""

    def look(self, root: bytes | str, path: bytes) -> Glance:
        """Look into the file at `path` below `root` as it is now; raises OSError if it can't be opened."""
        fd = open_below(root, path)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return _UNREADABLE
            if not self._head or os.pread(fd, len(self._head), 0) != self._head:
                self._restart(os.pread(fd, self.max_header_bytes, 0))
            if self._header is None:
                return _UNREADABLE
            self._count(fd)
        finally:
            os.close(fd)
        return self._glance(self._header)

    def _restart(self, start: bytes) -> None:
        """Read the header, which the writer rewrites when the measurement starts, and count from its end."""
        self._head, self._header, self._rows, self._last_line = b"", None, 0, b""
        try:
            header = parse_header(start, max_bytes=self.max_header_bytes)
        except (FileRejectedError, HeaderIncompleteError):
            return
        self._header = header
        self._head = start[: header.data_offset]
        self._counted_to = header.data_offset

    def _count(self, fd: int) -> None:
        while True:
            part = os.pread(fd, _CHUNK, self._counted_to)
            end = part.rfind(b"\n") + 1
            if not end:
                return
            whole = part[:end]
            self._rows += whole.count(b"\n")
            self._last_line = whole[whole.rfind(b"\n", 0, end - 1) + 1 :]
            self._counted_to += end
            if len(part) < _CHUNK:
                return

    def _glance(self, header: Header) -> Glance:
        procedure = self.registry.get(header.procedure)
        waiting = FileState.STARTED if header.has_metadata else FileState.QUEUED
        expected = expectation(procedure, header).rows
        return Glance(
            state=FileState.MEASURING if self._rows else waiting,
            rows=self._rows,
            expected_rows=expected[0] if expected else None,
            proven=self._proven(header),
            silence_s=longest_silence_s(procedure, header),
            proc=header.procedure,
        )

    def _proven(self, header: Header) -> bool:
        procedure = self.registry.get(header.procedure)
        column = proof_column(procedure)
        if procedure is None or column is None or not self._rows:
            return False
        names = [procedure.canonical(name) for name in header.columns]
        fields = self._last_line.split(b",")
        if column not in names or len(fields) != len(names):
            return False
        try:
            value = float(fields[names.index(column)])
        except ValueError:
            return False
        return is_proven(procedure, header, self._rows, value)
