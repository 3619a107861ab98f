"""What workers do for `--dry-run` and `verify`: read, judge, compare. They write nothing at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow as pa

from nanolab_daemon import parquet
from nanolab_daemon.facts import Lab
from nanolab_daemon.plan import CutQuestion, Planned
from nanolab_daemon.procedures import Registry
from nanolab_daemon.stage import stage_file
from nanolab_daemon.sweeps import cut
from nanolab_daemon.tasks import Staged, StageJob, WorkSettings

Began = Callable[[int], None]


def plan_batch(settings: WorkSettings) -> Callable[[Sequence[StageJob | CutQuestion], Began], list[Planned]]:
    """Make the handler of the workers that try files out."""
    lab = Lab(registry=Registry.builtin().with_overrides(settings.procedures), timezone=ZoneInfo(settings.timezone))
    stage_root = Path(settings.stage_root)

    def answer(job: StageJob | CutQuestion) -> Planned:
        if isinstance(job, CutQuestion):
            try:
                return Planned(None, _segments((stage_root / job.stage_path).read_bytes(), settings))
            except (OSError, pa.ArrowInvalid):
                return Planned(None, None)  # lost or damaged: a pass makes it again from its raw file
        outcome, encoded = stage_file(replace(job, dry=False), settings, lab)  # encodes in memory, writes nothing
        swept = isinstance(outcome, Staged) and outcome.facts.swept
        return Planned(outcome, _segments(encoded, settings) if swept and encoded is not None else None)

    def handle(jobs: Sequence[StageJob | CutQuestion], began: Began) -> list[Planned]:
        answers = []
        for at, job in enumerate(jobs):
            began(at)
            answers.append(answer(job))
        return answers

    return handle


def _segments(staged: bytes | memoryview, settings: WorkSettings) -> int | None:
    table, notes = parquet.read(staged)
    if "sweep" not in notes:
        return None
    sweep = json.loads(notes["sweep"])
    return len(cut(table.column(sweep["column"]).to_numpy(), sweep["step"], settings.min_segment_points))
