"""The ledger's runs → `_manifest/manifest.parquet`, one row a run, rebuilt whole and replaced in one step.

Reads the ledger beside its writer and changes nothing in it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from nanolab_daemon import parquet, publish, quality
from nanolab_daemon.catalog import Catalog, RunRecord
from nanolab_daemon.names import shown_path
from nanolab_daemon.procedures import Registry

PATH = publish.MANIFEST
PART_RUNS = 10_000
_NAME = "manifest.parquet"

_FIXED: tuple[tuple[str, pa.DataType], ...] = (
    ("run_id", pa.string()),
    ("proc", pa.string()),
    ("status", pa.string()),
    ("start_dt", pa.timestamp("us", "UTC")),
    ("date", pa.string()),
    ("date_origin", pa.string()),
    ("chip_group", pa.string()),
    ("chip_number", pa.int64()),
    ("sample", pa.string()),
    ("procedure_version", pa.string()),
    ("rows", pa.int64()),
    ("expected_rows", pa.int64()),
    ("expected_end_s", pa.float64()),
    ("complete", pa.bool_()),
    ("completeness_rule", pa.string()),
    ("flags", pa.list_(pa.string())),
    ("path", pa.string()),
    ("segments_path", pa.string()),
    ("source_file", pa.string()),
    ("source_sha256", pa.string()),
    ("source_missing", pa.bool_()),
    ("segment_kind", pa.string()),
    ("segments", pa.int64()),
    ("rows_outside_segments", pa.int64()),
    ("bad_rows_skipped", pa.int64()),
    ("with_light", pa.bool_()),
    ("wavelength_nm", pa.float64()),
    ("laser_voltage_V", pa.float64()),
    ("staged_at", pa.timestamp("us", "UTC")),
    ("segmented_at", pa.timestamp("us", "UTC")),
    ("revision", pa.int64()),
    ("version", pa.string()),
)


def write(ledger: Path, stage_root: Path, owner: str, on_part: Callable[[], None] = lambda: None) -> int:
    """Write the manifest as the ledger stands, durably; give the number of runs in it.

    A part of the runs is in memory at a time, however many there are; `on_part` is called after each.
    """
    catalog = Catalog.open_to_read(ledger)
    if catalog is None:
        raise FileNotFoundError(2, "the ledger is gone", str(ledger))
    bundle = publish.write_bundle(publish.temp_folder(stage_root, owner), {})
    try:
        rows = 0
        extra = _parameters(catalog.parameter_names())
        with parquet.writing(bundle / _NAME, table([], (), extra).schema) as writer:
            for part in catalog.runs_in_parts(PART_RUNS):
                misdated = quality.misdated(catalog.copies_of([run.run_id for run in part]))
                writer.write_table(table(part, misdated, extra))
                rows += len(part)
                on_part()
            writer.add_key_value_metadata({f"{parquet.META_PREFIX}runs": str(rows)})
        publish.sync(stage_root)
        target = stage_root / PATH
        target.parent.mkdir(exist_ok=True)
        (bundle / _NAME).replace(target)
        publish.sync(stage_root)  # the ledger is about to say that it is there
    finally:
        catalog.close()
        publish.discard(bundle)
    return rows


def table(runs: list[RunRecord], misdated: Collection[str], extra: Sequence[str] = ()) -> pa.Table:
    """Lay out rows of the manifest: fixed columns first, then every parameter that any procedure puts there.

    `misdated` are the runs whose clock disagrees with the names of their files; `extra` the names of parameters.
    """
    columns: dict[str, list[object]] = {name: [] for name, _ in _FIXED}
    parameters: dict[str, list[object]] = {name: [] for name in extra or _parameters(())}
    for run in runs:
        for (_, column), value in zip(columns.items(), _values(run, run.run_id in misdated), strict=True):
            column.append(value)
        for name, column in parameters.items():
            column.append(run.facts.parameters.get(name))
    arrays = [pa.array(columns[name], kind) for name, kind in _FIXED]
    arrays += [pa.array(values, pa.float64()) for values in parameters.values()]
    return pa.table(arrays, names=[*columns, *parameters])


def _parameters(those_of_runs: Iterable[str]) -> list[str]:
    """Give the names of the columns that come from headers: those of any procedure, and those that runs have."""
    return sorted({name for procedure in Registry.builtin() for name in procedure.manifest} | set(those_of_runs))


def _values(run: RunRecord, is_misdated: bool) -> tuple[object, ...]:
    facts, end = run.facts, run.facts.completeness
    done = run.segmentation == "done"
    return (
        facts.run_id,
        facts.proc,
        "segmented" if done else "staged",
        facts.start_us,
        facts.date,
        str(facts.date_origin),
        facts.chip_group,
        facts.chip_number,
        facts.sample,
        facts.procedure_version,
        facts.rows,
        end.expected_rows,
        end.expected_end_s,
        end.complete,
        end.rule,
        quality.with_clock(facts.flags, disagrees=is_misdated),
        run.stage_file.path,
        run.segments_folder if done and run.segment_files else None,
        shown_path(run.source),
        run.source_sha256,
        run.source_missing,
        facts.segment_kind,
        len(run.segment_files) if done else None,
        run.rows_outside if done else None,
        facts.bad_rows_skipped,
        facts.with_light,
        facts.wavelength_nm,
        facts.laser_voltage_V,
        _moment(run.staged_at),
        _moment(run.segmented_at),
        run.revision,
        run.version,
    )


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
