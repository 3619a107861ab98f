"""Both stages without any pool: the very functions that workers run, called one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nanolab_daemon import publish
from nanolab_daemon.segment import segment_batch
from nanolab_daemon.stage import stage_batch
from nanolab_daemon.tasks import (
    ManifestJob,
    Refused,
    Segmented,
    SegmentJob,
    SegmentOutcome,
    Staged,
    StageJob,
    StageOutcome,
    WorkSettings,
)

OWNER = "owner"


@dataclass(frozen=True)
class Folders:
    """The folders of a lab below one temporary folder."""

    root: Path
    owner: str = OWNER
    procedures: Mapping[str, object] | None = None
    min_segment_points: int = 5
    timezone: str = "America/Santiago"

    @property
    def raw(self) -> Path:
        return self.root / "raw"

    @property
    def stage(self) -> Path:
        return self.root / "stage"

    @property
    def output(self) -> Path:
        return self.root / "output"

    @property
    def settings(self) -> WorkSettings:
        return WorkSettings(
            raw_root=str(self.raw),
            stage_root=str(self.stage),
            output_root=str(self.output),
            owner=self.owner,
            timezone=self.timezone,
            procedures=self.procedures or {},
            min_segment_points=self.min_segment_points,
            max_file_bytes=1 << 24,
            max_header_bytes=1 << 16,
            max_columns=200,
        )

    def make(self) -> Folders:
        self.raw.mkdir(parents=True, exist_ok=True)
        for root in (self.stage, self.output):
            publish.make_temp_folder(root, self.owner)
        return self

    def put(self, path: str, contents: bytes) -> bytes:
        """Write a raw file; give its path as jobs name it."""
        (self.raw / path).parent.mkdir(parents=True, exist_ok=True)
        (self.raw / path).write_bytes(contents)
        return path.encode()

    def stage_jobs(self, *jobs: StageJob) -> list[StageOutcome]:
        return stage_batch(self.settings)(jobs, lambda *_: None)

    def staged(self, path: str, contents: bytes) -> Staged:
        """Write a raw file and stage it, which must succeed."""
        (outcome,) = self.stage_jobs(StageJob(self.put(path, contents)))
        assert isinstance(outcome, Staged), outcome
        return outcome

    def refused(self, contents: bytes, path: str = "x.csv") -> Refused:
        """Write a raw file and stage it, which must be refused, with nothing published."""
        before = sorted(self.stage.rglob("*"))
        (outcome,) = self.stage_jobs(StageJob(self.put(path, contents)))
        assert isinstance(outcome, Refused), outcome
        assert sorted(self.stage.rglob("*")) == before
        return outcome

    def cut_jobs(self, *jobs: SegmentJob | ManifestJob) -> list[SegmentOutcome]:
        return segment_batch(self.settings)(jobs, lambda _: None)

    def cut(self, staged: Staged) -> Segmented:
        """Cut a staged run, which must succeed."""
        target = f"{staged.facts.proc.lower()}_segments/{staged.target}"
        (outcome,) = self.cut_jobs(SegmentJob(staged.facts.run_id, staged.output.path, target))
        assert isinstance(outcome, Segmented), outcome
        return outcome

    def bundles(self) -> list[Path]:
        """Give what lies in the temporary folders, but for notes."""
        roots = (self.stage, self.output)
        return [path for root in roots for path in publish.temp_folder(root, self.owner).iterdir() if path.is_dir()]
