"""Writes docs/procedures.md: what the registry says of each procedure, and what came of the files of all years.

Run it where a test says that the page is out of date: `python tests/procedures_page.py`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
from inprocess import Folders
from pymeasure_all import VARIANTS
from variants import COLUMNS, Variant

from nanolab_daemon import cli_procedures
from nanolab_daemon.procedures import Registry
from nanolab_daemon.tasks import NoRows, Segmented, Staged, StageJob

TESTS = Path(__file__).resolve().parent
PAGE = TESTS.parent / "docs" / "procedures.md"

INTRODUCTION = """\
# Procedures, and files of all years

This page is made by `python tests/procedures_page.py`; a test fails when it is out of date.

The registry (`nanolab_daemon/procedures.toml`) holds the parameters with their units, the columns, the older names of
both, the set points and the phases of each procedure; `nanolab-daemon check --procedures` prints all of it, with what
the configuration adds in `[procedures]`. [registry.md](registry.md) explains every key, the paths of sweeps, and the
segments with their labels.

"""
OUTCOMES = """
## What came of the files

Each file was written by PyMeasure, by a procedure with the parameters and columns that the lab's program had at the
time, and has gone through both stages. Values were compared to the last bit; set points come from a second
implementation of the instrument's formulas. Without its last row, no run is called complete whose end the header
tells (but Tt, whose program stops before its end: the last 2 s and a sampling time may lack unseen).
"""
NOTES = """
Empty fields: *columns* are today's; nothing was *told*. Where a procedure's column is not in the file, today's or one
of the past, the staged run has it as nulls. *Light* is on where the laser voltage is not 0; the wavelength stands in
dark headers too.
"""


def page() -> str:
    """Let PyMeasure write every variant, stage and cut it, and give the page."""
    registry = Registry.builtin()
    parts = [INTRODUCTION, "## What the registry says\n\n"]
    along = cli_procedures.along
    overview = [(one.name, one.segments or "", along(one), cli_procedures.end(one)) for one in registry]
    parts += _table(("procedure", "segments", "along", "a run is complete when"), overview)
    parts.append(OUTCOMES)
    head = ("file", "of", "columns in the file", "rows", "complete", "why", "light", "segments", "flags", "told")
    with tempfile.TemporaryDirectory() as name:
        folders = Folders(Path(name)).make()
        subprocess.run([sys.executable, str(TESTS / "pymeasure_all.py"), str(folders.raw)], check=True)
        for procedure in registry:
            of_it = [variant for variant in VARIANTS if variant.procedure == procedure.name]
            parts += [f"\n### {procedure.name}\n\n", *_table(head, [_outcome(folders, one) for one in of_it])]
    return "".join([*parts, NOTES])


def _outcome(folders: Folders, variant: Variant) -> tuple[str, ...]:
    columns = "" if tuple(variant.columns) == COLUMNS[variant.procedure] else ", ".join(variant.columns)
    (staged,) = folders.stage_jobs(StageJob(variant.path.encode()))
    if isinstance(staged, NoRows):
        return variant.name, variant.when, columns or "none", "0", "", staged.reason, "", "", "", ""
    assert isinstance(staged, Staged), staged
    facts, judged = staged.facts, staged.facts.completeness
    cut = folders.cut(staged) if facts.segment_kind else None
    return (
        variant.name,
        variant.when,
        columns,
        str(facts.rows),
        {True: "yes", False: "no", None: "unknown"}[judged.complete],
        judged.rule,
        ("on" if facts.with_light else "off") + (f", {facts.wavelength_nm:g} nm" if facts.wavelength_nm else ""),
        _segments(folders, cut) if cut else "",
        ", ".join(facts.flags),
        " ".join(staged.remarks),
    )


def _segments(folders: Folders, cut: Segmented) -> str:
    """Write the labels in their order, those that repeat once; numbered ones as a range."""
    labels = [pl.read_parquet(folders.output / output.path)["segment_type"][0] for output in cut.outputs]
    said = [f"{label} ×{times}" if times > 1 else label for label, times in Counter(labels).items()]
    if len(said) > 4 and all(re.fullmatch(r"plateau_\d+", label) for label in labels):
        said = [f"{labels[0]} to {labels[-1]}"]
    return ", ".join(said) + (f"; {cut.rows_outside} rows outside" if cut.rows_outside else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE} is written.")
