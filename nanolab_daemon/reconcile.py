"""At start, the disk is held against the ledger: published files that somebody has taken away, or cut short.

Looks at names and sizes alone, so that it costs a start little; `verify` looks into the files.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from nanolab_daemon.catalog import Catalog

MOST_WITHOUT_ASKING = 20
"""More than so many, and more than half of all: the folder is another one, or somebody meant it."""


class Lacking(NamedTuple):
    """Runs of which a published file is not as the ledger has it."""

    sources: tuple[bytes, ...]  # the raw files from which they can be made again
    orphans: tuple[str, ...]  # run ids of those whose raw file has vanished
    runs: int  # all that the ledger knows

    @property
    def too_many(self) -> bool:
        """Whether so many are lacking that nothing is done without being asked."""
        number = len(self.sources) + len(self.orphans)
        return number > MOST_WITHOUT_ASKING and 2 * number > self.runs


def lacking(catalog: Catalog, stage: Path, output: Path) -> Lacking:
    """Find the runs of which a file is gone or of another size."""
    sources: list[bytes] = []
    orphans: list[str] = []
    runs = 0
    stage_root, output_root = f"{stage}/", f"{output}/"
    for run_id, source, vanished, staged, segments in catalog.outputs():
        runs += 1
        if _is_there(stage_root, staged) and all(_is_there(output_root, file) for file in segments):
            continue
        if vanished:
            orphans.append(run_id)
        else:
            sources.append(source)
    return Lacking(tuple(sources), tuple(orphans), runs)


def _is_there(root: str, file: list[object]) -> bool:
    try:
        return os.stat(f"{root}{file[0]}").st_size == file[1]  # noqa: PTH116 -- a hundred thousand times
    except OSError:
        return False
