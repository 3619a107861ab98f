"""What decides over the outputs of a file besides its bytes: the terms on which it was done, told by a short digest.

A file that was done on other terms than those of today is done again, so that the outputs are those of a fresh
backfill after a change of the settings, too. Pure: no disk, no clock.
"""

from __future__ import annotations

import hashlib
from functools import cache

from nanolab_daemon.procedures import Registry, unknown_procedure
from nanolab_daemon.tasks import WorkSettings

OUTPUTS = 1
"""Of the program: raised when a version makes other outputs of the same file and the same settings."""


class Terms:
    """The terms of all procedures under some settings."""

    def __init__(self, settings: WorkSettings) -> None:
        self._registry = Registry.builtin().with_overrides(settings.procedures)
        limits = (settings.max_file_bytes, settings.max_header_bytes, settings.max_columns)
        self._common = (OUTPUTS, settings.timezone, settings.min_segment_points, limits)
        self.of = cache(self._of)

    def _of(self, proc: str | None) -> str:
        """Give the terms for the files of a procedure; None stands for a file that tells none."""
        procedure = None if proc is None else self._registry.get(proc) or unknown_procedure(proc)
        return hashlib.sha256(repr((self._common, procedure)).encode()).hexdigest()[:12]
