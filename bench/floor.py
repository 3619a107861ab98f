"""The yardstick: the least work that makes the published files out of an archive's raw files.

    python bench/floor.py RAW OUT [--processes 2]

The processes share the files out beforehand. Each does nothing but read, parse and write: the same files below the
same names as a backfill, every staged column and every segment, the header and the raw file's digest in the notes,
by the quickest way with PyArrow that is known here. No queue, no ledger, no judgement on whether a run is complete or
odd, no search for duplicates, no second process to hand a run to, no sync, nothing moved into place: straight to its
name.

Independent of the program but for the registry's lists of columns, the rule for run ids, and that pandas is kept out;
`all.py` compares what both have written.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import resource
import sys
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

sys.path.insert(0, str(Path(__file__).parent.parent))

from nanolab_daemon.worker import _WithoutPandas

ZONE = ZoneInfo("America/Santiago")
LEAST_ROWS = 5


def work(raw: str, out: str, files: list[str]) -> None:
    for key in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[key] = "1"
    sys.meta_path.insert(0, _WithoutPandas)
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from nanolab_daemon.identity import run_id
    from nanolab_daemon.procedures import Registry

    registry = Registry.builtin()
    zeros = pa.repeat(pa.scalar(0, pa.int8()), 1 << 14)
    every_other = pa.array(np.arange(0, 1 << 17, 2, dtype=np.int32))
    count = pa.array(np.arange(1 << 14))
    label, string, real, whole = pa.dictionary(pa.int8(), pa.string()), pa.string(), pa.float64(), pa.int64()
    truth, moment = pa.bool_(), pa.timestamp("us", "UTC")
    schemas: dict[tuple[str, ...], tuple[Any, list[str]]] = {}
    kept: dict[tuple[int, object, int], Any] = {}

    def constant(value: object, kind: Any, rows: int) -> Any:
        found = kept.get((id(kind), value, rows))
        if found is None:
            if value is None:
                found = pa.nulls(rows, kind)
            elif kind == label:
                found = pa.DictionaryArray.from_arrays(zeros.slice(0, rows), pa.array([value], pa.string()))
            else:
                found = pa.repeat(pa.scalar(value, kind), rows)
            if len(kept) < 2000:
                kept[id(kind), value, rows] = found
        return found

    def write(folder: str, columns: list[Any], names: tuple[str, ...], notes: dict[str, str]) -> None:
        if names not in schemas:
            texts = [name for name, column in zip(names, columns, strict=True) if column.type == label]
            fields = [(name, column.type) for name, column in zip(names, columns, strict=True)]
            schemas[names] = pa.schema(fields), texts
        schema, texts = schemas[names]
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(
            sink, schema, compression="lz4", use_dictionary=texts, write_statistics=False, store_schema=False
        ) as writer:
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            writer.add_key_value_metadata(notes)
        try:
            os.mkdir(folder)
        except FileNotFoundError:
            os.makedirs(folder)
        fd = os.open(folder + "/part-000.parquet", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(fd, sink.getvalue())
        os.close(fd)

    def parsed(body: bytes, width: int) -> list[Any]:
        text = np.frombuffer(body, np.uint8)
        ends = np.flatnonzero((text == 44) | (text == 13))
        cuts = np.empty(2 * len(ends) + 1, np.int32)
        cuts[0], cuts[1::2], cuts[2::2] = 0, ends, ends + 1
        cuts[2 * width :: 2 * width] += 1
        pieces = pa.StringArray.from_buffers(2 * len(ends), pa.py_buffer(cuts), pa.py_buffer(body))
        values = pieces.take(every_other.slice(0, len(ends))).cast(real)
        return list(values.to_numpy().reshape(-1, width).T.copy())

    def pieces_of(kind: str, values: Any) -> list[tuple[int, int, str, str]]:
        """Give first row, end, label and direction of each piece that is long enough."""
        if kind == "sweep":
            steps = np.diff(values)
            real = np.flatnonzero(np.abs(steps) >= 1e-3 * (1 - 1e-9))
            up = steps[real] > 0
            turns = real[1:][up[1:] != up[:-1]] + 1
            before, after = values[:-1], values[1:]
            crossings = np.flatnonzero(((before < 0) & (after >= 0)) | ((before > 0) & (after <= 0))) + 1
            edges = [0, *sorted({*turns.tolist(), *crossings.tolist()}), len(values)]
        else:
            edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
        found = []
        numbers = {"dark": 0, "light": 0}
        for a, b in pairwise(edges):
            if kind == "sweep":
                negative = bool((values[a:b] < 0).any())
                rises = values[b - 1] >= values[a]
                name = f"{'forward' if rises != negative else 'return'}_{'negative' if negative else 'positive'}"
                way = "increasing" if rises else "decreasing"
            else:
                word = "light" if values[a] else "dark"
                numbers[word] += 1
                name, way = f"{word}_{numbers[word]}", "constant"
            if b - a >= LEAST_ROWS:
                found.append((a, b, name, way))
        return found

    for path in files:
        with open(os.path.join(raw, path), "rb") as file:
            data = file.read()
        at = data.find(b"\n", data.find(b"#Data:")) + 1
        end = data.find(b"\n", at) + 1
        head, labels = data[:at].decode(), data[at:end].strip().decode().split(",")
        given = dict(line[2:].rstrip("\r").split(": ", 1) for line in head.split("\n") if line.startswith("#\t"))
        proc = head[: head.find(">")].rpartition(".")[2]
        known = registry.get(proc)
        read = dict(zip(labels, parsed(data[end:], len(labels)), strict=True))
        rows = len(read[labels[0]])
        volts, nm, chip = (
            given.get(name, "").split(" ")[0] for name in ("Laser voltage", "Laser wavelength", "Chip number")
        )
        name, seconds = run_id(proc, given["Start time"]), float(given["Start time"])
        columns = [pa.array(read[one]) if one in read else pa.nulls(rows, real) for one in known.columns]
        constants = (
            ("run_id", name, label),
            ("proc", proc, label),
            ("start_dt", round(seconds * 1e6), moment),
            ("source_file", path, label),
            ("with_light", bool(volts) and float(volts) != 0, truth),
            ("wavelength_nm", float(nm) if nm else None, real),
            ("laser_voltage_V", float(volts) if volts else None, real),
            ("chip_group", given.get("Chip group name"), string if "Chip number" not in given else label),
            ("chip_number", int(chip) if chip else None, whole),
            ("sample", given.get("Sample"), string if "Chip number" not in given else label),
            ("procedure_version", given.get("Procedure version"), label),
        )
        names = (*known.columns, *(one for one, _, _ in constants))
        same = [constant(value, kind, rows) for _, value, kind in constants]
        date = datetime.fromtimestamp(seconds, ZONE).date().isoformat()
        folder = f"proc={proc}/date={date}/run_id={name}"
        notes = {"nanolab.header": data[:end].decode(), "nanolab.source_sha256": hashlib.sha256(data).hexdigest()}
        write(f"{out}/stage/{folder}", columns + same, names, notes)
        if known.segments is None:
            continue
        del notes["nanolab.header"]
        timed = known.segments != "sweep"
        along = read[known.segment_column]
        for number, (a, b, kind, way) in enumerate(pieces_of(known.segments, along)):
            n = b - a
            own = [
                constant(number, whole, n),
                constant(kind, label, n),
                pa.repeat(pa.scalar(along[a], real), n),
                pa.repeat(pa.scalar(along[b - 1], real), n),
                constant(way, label, n),
                count.slice(0, n),
            ]
            more: tuple[str, ...] = ("segment_id", "segment_type", "segment_v_start", "segment_v_end")
            more += ("segment_direction", "point_in_segment")
            if timed:
                times = read[known.time]
                own += [pa.repeat(pa.scalar(times[i], real), n) for i in (a, b - 1)]
                more += ("segment_t_start_s", "segment_t_end_s")
            write(
                f"{out}/output/{proc.lower()}_segments/{folder}/segment={number}",
                [one.slice(a, n) for one in columns] + [one.slice(0, n) for one in same] + own,
                names + more,
                notes,
            )


def run(raw: Path, out: Path, processes: int) -> tuple[float, float]:
    """Do it; give wall clock, the start of the processes included, and CPU of all of them, in seconds."""
    files = sorted(os.path.relpath(os.path.join(d, f), raw) for d, _, names in os.walk(raw) for f in names)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    spawn = multiprocessing.get_context("spawn")
    shares = [files[i::processes] for i in range(processes)]
    workers = [spawn.Process(target=work, args=(str(raw), str(out), share)) for share in shares]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        if worker.exitcode:
            raise SystemExit("a process of the yardstick has failed")
    wall = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    wall, cpu = run(args.raw, args.out, args.processes)
    print(f"yardstick: {wall:.2f} s wall clock, {cpu:.2f} s CPU")
