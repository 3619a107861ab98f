"""At start, the disk is held against the ledger: published files that somebody has taken away, or cut short.

Looks at names and sizes alone, so that it costs a start little; `verify` looks into the files.
"""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from nanolab_daemon.catalog import Catalog
from nanolab_daemon.outputs import Outputs

RUNS_A_CALL = 64
"""Of whose files a share is asked at a time."""

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


def lacking(catalog: Catalog, stage: Path, output: Path, outputs: Outputs) -> Lacking:
    """Find the runs of which a file is gone or of another size; OSError if a folder does not answer."""
    sources: list[bytes] = []
    orphans: list[str] = []
    number = 0
    runs = catalog.outputs()
    while some := list(islice(runs, RUNS_A_CALL)):
        number += len(some)
        staged = outputs.call(stage, _are_there, f"{stage}/", [[run[3]] for run in some])
        cut = outputs.call(output, _are_there, f"{output}/", [run[4] for run in some])
        for (run_id, source, vanished, _, _), *there in zip(some, staged, cut, strict=True):
            if all(there):
                continue
            if vanished:
                orphans.append(run_id)
            else:
                sources.append(source)
    return Lacking(tuple(sources), tuple(orphans), number)


def _are_there(root: str, runs: list[list[Any]]) -> list[bool]:
    return [all(_is_there(root, file) for file in files) for files in runs]


def _is_there(root: str, file: list[Any]) -> bool:
    try:
        return bool(os.stat(f"{root}{file[0]}").st_size == file[1])  # noqa: PTH116 -- a hundred thousand times
    except OSError:
        return False
