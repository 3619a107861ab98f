"""For analysis: the published runs as Polars frames. Reading needs no daemon, no ledger and no settings.

    import nanolab_daemon as nl

    runs = nl.runs("data", procedure="IV", chip=71)
    runs.frame.select("run_id", "start_dt", "vsd_max_V").collect()
    runs.segments().filter(segment_type="forward_positive").collect()

What is chosen is read from the manifest; rows are read only when a frame is collected, and only of the runs chosen.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import date, datetime
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import polars as pl

from nanolab_daemon.errors import NanolabError
from nanolab_daemon.procedures import Registry
from nanolab_daemon.sections import LAB_PARTITION
from nanolab_daemon.settings import counted, did_you_mean

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

MANIFEST = Path("_manifest/manifest.parquet")
_LAB = LAB_PARTITION
ALL_LABS = "*"
LAYOUTS = (
    (Path("02_stage/raw_measurements"), Path("03_intermediate")),  # the laboratory's own, which `config.toml` has
    (Path("stage"), Path("output")),  # the demo's
)
"""Where the stage root and the output root lie below a folder of data."""


RUN_COLUMNS: dict[str, pl.DataType] = {
    **dict.fromkeys(("run_id", "proc"), pl.String()),
    "start_dt": pl.Datetime("us", "UTC"),
    "source_file": pl.String(),
    "with_light": pl.Boolean(),
    **dict.fromkeys(("wavelength_nm", "laser_voltage_V"), pl.Float64()),
    "chip_group": pl.String(),
    "chip_number": pl.Int64(),
    **dict.fromkeys(("sample", "procedure_version"), pl.String()),
}
"""What every staged file has, whatever its procedure."""

SEGMENT_COLUMNS: dict[str, pl.DataType] = {
    "segment_id": pl.Int64(),
    "segment_type": pl.String(),
    **dict.fromkeys(("segment_v_start", "segment_v_end"), pl.Float64()),
    "segment_direction": pl.String(),
    "point_in_segment": pl.Int64(),
}
"""What every segment has besides."""

Layout = tuple[tuple[str, pl.DataType], ...]


class NoRunsError(NanolabError):
    """There is nothing published where it was looked for, or a name is none of the manifest's."""


class Runs:
    """Some of the published runs: rows of the manifest, and behind each its data and its segments.

    Never changed: each choice gives a new one. A run that is published again meanwhile is read whole, as it was or as
    it is, as long as its file opens; collect again if a file has gone.
    """

    def __init__(self, frame: pl.LazyFrame, stage: Path, output: Path | None) -> None:
        self.frame = frame
        """The manifest's rows of these runs, a row a run."""
        self.stage, self.output = stage, output

    def filter(self, *predicates: pl.Expr, **equal: object) -> Self:
        """Choose among these runs, as `polars.LazyFrame.filter` does: `runs.filter(pl.col("rows") > 100)`."""
        return type(self)(self.frame.filter(*predicates, **equal), self.stage, self.output)

    def collect(self) -> pl.DataFrame:
        """Read the manifest's rows of these runs."""
        return self.frame.collect()

    def data(self) -> pl.LazyFrame:
        """Give the staged rows of all these runs, each with its run's constants; see the contract's staged columns.

        Runs of several procedures stand in one frame, with nulls where a procedure has no such column.
        """
        return _scan(_layouts(self._staged(self.frame)).values(), RUN_COLUMNS)

    def _staged(self, frame: pl.LazyFrame) -> list[Path]:
        return [self.stage / path for path in frame.select("path").collect()["path"]]

    def segments(self) -> pl.LazyFrame:
        """Give the rows of all segments of these runs: the staged columns and those that tell the segment.

        NoRunsError if the output root is not known.
        """
        if self.output is None:
            raise NoRunsError(
                f"The folder of segments is not known for {self.stage}.",
                advice='Name it: nl.runs(stage="…", output="…").',
            )
        cut = self.frame.filter(pl.col("segments") > 0)
        pieces = self._pieces()
        layouts = _layouts(self._staged(cut)).values()
        found = ([piece for path in paths for piece in pieces[path]] for paths in layouts)
        return _scan(found, RUN_COLUMNS | SEGMENT_COLUMNS)

    def _pieces(self) -> dict[Path, list[Path]]:
        """Give the segment files of each staged file that has some."""
        if self.output is None:
            return {}
        found = self.frame.filter(pl.col("segments") > 0).select("path", "segments_path", "segments").collect()
        return {
            self.stage / path: [self.output / folder / f"segment={n}/part-000.parquet" for n in range(count)]
            for path, folder, count in found.iter_rows()
        }

    def to_pandas(self) -> pd.DataFrame:
        """Read the manifest's rows of these runs into pandas. Of data: `runs.data().collect().to_pandas()`."""
        return self.collect().to_pandas()

    def to_duckdb(self, connection: duckdb.DuckDBPyConnection | None = None) -> duckdb.DuckDBPyConnection:
        """Give a DuckDB connection with the views `runs`, `data` and `segments` of these runs.

        `runs.to_duckdb().sql("SELECT proc, count(*) FROM data GROUP BY proc")`. Files are named to DuckDB, which
        reads what a question needs.
        """
        import duckdb

        db = connection if connection is not None else duckdb.connect()
        db.register("runs", self.collect().to_arrow())
        files = [str(path) for path in self._staged(self.frame)]
        pieces = [str(piece) for paths in self._pieces().values() for piece in paths]
        for name, paths, least in (
            ("data", files, RUN_COLUMNS),
            ("segments", pieces, RUN_COLUMNS | SEGMENT_COLUMNS),
        ):
            if not paths:
                db.register(name, _scan((), least).collect().to_arrow())
            else:
                db.read_parquet(paths, union_by_name=True, hive_partitioning=False).create_view(name, replace=True)
        return db

    def __len__(self) -> int:
        """Count the runs."""
        return int(self.frame.select(pl.len()).collect().item())

    def __repr__(self) -> str:
        return f"<{counted(len(self), 'run')} of {self.stage}>"


def runs(
    root: str | os.PathLike[str] | None = None,
    *,
    procedure: str | Collection[str] | None = None,
    chip: int | Collection[int] | None = None,
    chip_group: str | None = None,
    sample: str | None = None,
    since: str | date | datetime | None = None,
    until: str | date | datetime | None = None,
    complete: bool | None = None,
    lab: str | Collection[str] | None = None,
    stage: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
) -> Runs:
    """Give the published runs below a folder of data, or those of them that are asked for.

    `root` is the folder above both (`data`), or the stage root itself; or name `stage` and `output`. `procedure` and
    `chip` take one or several. `since` and `until` are days of the laboratory's own time zone, both included, or
    moments with a time zone, of which `until` is not. `complete`: whether the header's sweep was measured to its end.
    `lab`: one or several of the laboratories that share these folders, "" for the one without a name, "*" for all;
    left out, it is the one without a name if there is one, else all. Their frame then has a column `lab`.
    NoRunsError if nothing is published there; TypeError for a value of another kind than an argument takes;
    ValueError for a procedure that neither the manifest nor the program knows.
    """
    procedure, chip = _several("procedure", procedure, _text), _several("chip", chip, _whole)
    for name, text in (("chip_group", chip_group), ("sample", sample)):
        if text is not None:
            _text(name, text)
    if complete is not None and not isinstance(complete, bool):
        raise TypeError(f"complete={complete!r} is neither True nor False.")
    stage_root, output_root = _find(root, stage, output)
    frame = _manifests(stage_root, _several("lab", lab, _text))
    if procedure is not None:
        _known(procedure, frame)
    for column, wanted in (
        ("proc", procedure),
        ("chip_number", chip),
        ("chip_group", chip_group),
        ("sample", sample),
    ):
        if wanted is not None:
            frame = frame.filter(pl.col(column).is_in([wanted] if isinstance(wanted, str) else wanted))
    if since is not None:
        frame = frame.filter(_moment("since", since, lambda column, value: column >= value))
    if until is not None:
        frame = frame.filter(_moment("until", until, lambda column, value: column <= value, exclusive=True))
    if complete is not None:
        frame = frame.filter(pl.col("complete") == complete)
    return Runs(frame.sort("start_dt", "run_id"), stage_root, output_root)


def _manifests(stage: Path, wanted: list[str] | None) -> pl.LazyFrame:
    """Open the manifest, or those of several laboratories as one, in which each path has its laboratory's folder."""
    if wanted is None and (stage / MANIFEST).exists():
        return _manifest(stage / MANIFEST)
    there = _labs(stage)
    wanted = None if wanted == [ALL_LABS] else wanted
    for one in wanted or ():
        if one not in there:
            hint = did_you_mean(one, sorted(there))
            raise NoRunsError(
                f"No laboratory {one!r} publishes in {stage}{hint}; there are: {', '.join(sorted(there)) or 'none'}.",
                advice="Name one of these, or the folder that `nanolab-daemon check` calls stage.",
            )
    frames = [_of_lab(_manifest(there[name]), name) for name in sorted(there) if wanted is None or name in wanted]
    return pl.concat(frames, how="diagonal_relaxed")


def _of_lab(frame: pl.LazyFrame, name: str) -> pl.LazyFrame:
    """Say whose these runs are, and where below the roots that all share."""
    folder = f"{_LAB}{name}/" if name else ""
    paths = [(pl.lit(folder) + pl.col(column)).alias(column) for column in ("path", "segments_path")]
    return frame.with_columns(*paths, lab=pl.lit(name))


def _labs(stage: Path) -> dict[str, Path]:
    """Give the manifests of the laboratories that share a stage root, by their names; "" is the one without."""
    found = {path.parents[1].name.removeprefix(_LAB): path for path in stage.glob(f"{_LAB}*/{MANIFEST}")}
    return found | ({"": stage / MANIFEST} if (stage / MANIFEST).exists() else {})


def _manifest(path: Path) -> pl.LazyFrame:
    """Open the manifest, which must be one."""
    try:
        frame = pl.scan_parquet(path)
        frame.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise NoRunsError(
            f"{path} is no table that can be read: {error}.",
            advice="`nanolab-daemon verify --repair` writes it anew.",
        ) from error
    return frame


def _several(name: str, value: Any, one: Callable[[str, Any], Any]) -> list[Any] | None:
    """Give one or several values as a list, each as `one` has it."""
    if value is None:
        return None
    several = isinstance(value, Iterable) and not isinstance(value, str | bytes)
    return [one(name, each) for each in (value if several else [value])]


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name}={value!r} is no text: write it in quotes.")
    return value


def _whole(name: str, value: Any) -> int:
    """Take a whole number in any form but text; 75.0 is one, as pandas has it where some are lacking."""
    if not isinstance(value, bool) and isinstance(value, Real) and float(value).is_integer():
        return int(float(value)) if not isinstance(value, Integral) else int(value)
    raise TypeError(f"{name}={value!r} is no whole number: write it as {name}=75, or several as {name}=[75, 76].")


def _known(procedures: list[str], frame: pl.LazyFrame) -> None:
    """Refuse a procedure that neither the manifest nor the program knows."""
    builtin = {one.name for one in Registry.builtin()}
    published = set(frame.select(pl.col("proc").unique()).collect()["proc"])
    for one in procedures:
        if one not in builtin | published:
            hint = did_you_mean(one, sorted(published)) or did_you_mean(one, sorted(builtin))
            there = ", ".join(sorted(published)) or "none"
            raise ValueError(f"procedure={one!r} is none that is known{hint}; published are: {there}.")


def _moment(name: str, value: str | date | datetime, test: Any, *, exclusive: bool = False) -> pl.Expr:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"{name}={value!r} has no time zone: give a day, or a moment with one.")
        column = pl.col("start_dt")
        expression: pl.Expr = column < value if exclusive else test(column, value)
        return expression
    day = value.isoformat() if isinstance(value, date) else value
    try:
        date.fromisoformat(day)
    except ValueError:
        raise ValueError(f"{name}={value!r} is no day: write it as 2025-09-04.") from None
    found: pl.Expr = test(pl.col("date"), day)
    return found


def _find(
    root: str | os.PathLike[str] | None, stage: str | os.PathLike[str] | None, output: str | os.PathLike[str] | None
) -> tuple[Path, Path | None]:
    given = Path(output) if output is not None else None
    if stage is not None:
        return _checked(Path(stage)), given
    base = Path(root if root is not None else "data")
    for inner, beside in LAYOUTS:
        if _is_published(base / inner):
            return base / inner, given or base / beside
        if _is_published(base) and base.absolute().parts[-len(inner.parts) :] == inner.parts:
            return base, given or base.absolute().parents[len(inner.parts) - 1] / beside
    return _checked(base), given


def _is_published(stage: Path) -> bool:
    return bool(_labs(stage))


def _checked(stage: Path) -> Path:
    if not _is_published(stage):
        places = ", ".join(str(stage / inner) for inner, _ in LAYOUTS)
        raise NoRunsError(
            f"Nothing is published in {stage}: there is no {MANIFEST} in it, nor in {places}.",
            advice="Name the folder that `nanolab-daemon check` calls stage.",
        )
    return stage


def _layouts(files: Iterable[Path]) -> dict[Layout, list[Path]]:
    """Sort staged files by their columns: a file may have some that the registry does not know, and they are kept."""
    found: dict[Layout, list[Path]] = {}
    for path in files:
        try:
            layout = tuple(pl.read_parquet_schema(path).items())
        except FileNotFoundError as error:
            raise NoRunsError(
                f"{path} is in the manifest, but not there.",
                advice="Ask again; if it stays away, `nanolab-daemon verify --repair` makes it anew.",
            ) from error
        found.setdefault(layout, []).append(path)
    return found


def _scan(layouts: Iterable[list[Path]], least: Mapping[str, pl.DataType]) -> pl.LazyFrame:
    """Read files of several layouts as one frame; without any, it has no row and the columns that all files have."""
    frames = [pl.scan_parquet(paths, hive_partitioning=False) for paths in layouts if paths]
    if not frames:
        return pl.LazyFrame(schema=least)
    return frames[0] if len(frames) == 1 else pl.concat(frames, how="diagonal_relaxed")
