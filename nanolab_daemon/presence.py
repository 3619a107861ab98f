"""Looks whether the published files are there as the ledger has them: names and sizes alone, no file is opened.

Run by a worker: it takes 7 µs a file, and many times that where the kernel does not have the inodes in memory. Reads
the ledger beside its writer; what it finds may be overtaken, so whoever acts on it looks once more.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanolab_daemon.catalog import Catalog
from nanolab_daemon.tasks import Began, Inspected, InspectJob

RUNS_A_CALL = 64
"""So many are read from the ledger at a time."""


@dataclass(frozen=True, slots=True)
class Roots:
    """Below which two folders runs are published; absolute."""

    stage: str
    output: str


def look_batch(roots: Roots) -> Callable[[Sequence[InspectJob], Began], list[Inspected]]:
    """Make the handler of a worker that does nothing else."""

    def handle(jobs: Sequence[InspectJob], began: Began) -> list[Inspected]:
        answers = []
        for at, job in enumerate(jobs):
            began(at)
            answers.append(look(job, roots))
        return answers

    return handle


def look(job: InspectJob, roots: Roots) -> Inspected:
    """Go on with a round from where the last piece ended, for as long as the job allows or to its end."""
    catalog = Catalog.open_to_read(Path(job.ledger))
    if catalog is None:  # it was taken away just now, which the engine finds out
        return Inspected(None, 0, ())
    try:
        number, lacking = _without_folder(catalog, roots) if job.folders else (0, [])
        after, looked, more = _piece(catalog, roots, job)
    finally:
        catalog.close()
    return Inspected(after, max(number, looked), tuple(dict.fromkeys(lacking + more)))


def _piece(catalog: Catalog, roots: Roots, job: InspectJob) -> tuple[str | None, int, list[str]]:
    until = time.monotonic() + job.limit_s
    after, number, lacking = job.after, 0, list[str]()
    on_the_way_back = after < job.origin
    while True:
        some = catalog.outputs_after(after, RUNS_A_CALL)
        for run_id, staged, cut in some:
            if on_the_way_back and run_id > job.origin:
                return None, number, lacking
            number += 1
            after = run_id
            if not (are_there(roots.stage, [staged]) and are_there(roots.output, cut)):
                lacking.append(run_id)
            if time.monotonic() >= until:
                return after, number, lacking
        if len(some) < RUNS_A_CALL:
            if on_the_way_back or not job.origin:
                return None, number, lacking
            on_the_way_back, after = True, ""


def _without_folder(catalog: Catalog, roots: Roots) -> tuple[int, list[str]]:
    """Count the runs, and find those of which a folder is gone: by the names in the folders around, a call a day."""
    names: dict[str, set[str]] = {}

    def is_there(root: str, folder: str) -> bool:
        above, _, name = folder.rpartition("/")
        path = f"{root}/{above}"
        if path not in names:
            names[path] = _names(path)
        return name in names[path]

    number = 0
    lacking: list[str] = []
    for run_id, staged, cut in catalog.published_folders():
        number += 1
        if not is_there(roots.stage, staged) or (cut is not None and not is_there(roots.output, cut)):
            lacking.append(run_id)
    return number, lacking


def _names(folder: str) -> set[str]:
    try:
        return set(os.listdir(folder))  # noqa: PTH208 -- names alone
    except OSError:
        return set()


def are_there(root: str, files: Iterable[Sequence[Any]]) -> bool:
    """Tell whether files, as the ledger keeps them (path, bytes, …), lie below a root with the size they should have.

    OSError if the folder itself does not answer; that a file can't be looked at is as if it were not there.
    """
    return all(_is_there(root, file[0], file[1]) for file in files)


def _is_there(root: str, path: str, size_bytes: int) -> bool:
    try:
        return bool(os.stat(f"{root}/{path}").st_size == size_bytes)  # noqa: PTH116 -- a hundred thousand times
    except OSError:
        return False
