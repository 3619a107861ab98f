"""A manifest that costs workers their lives: tried again for a while, never for ever."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import instrument
import polars as pl
import pytest
from lab import Lab, inline_pools, until

from nanolab_daemon import service
from nanolab_daemon.catalog import FILE_NAME, Catalog
from nanolab_daemon.config import Manifest
from nanolab_daemon.engine import MANIFEST_TRIES, Engine
from nanolab_daemon.errors import RejectCause
from nanolab_daemon.lane import Condemned
from nanolab_daemon.tasks import ManifestJob


def test_the_manifest_is_tried_again_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers that die of it once are no reason to leave it stale; a backfill ends all the same."""
    lab = Lab(tmp_path)
    lab.config = replace(lab.config, manifest=Manifest(refresh_s=0.0))
    lab.state.mkdir()
    catalog = Catalog.open(lab.state / FILE_NAME)
    with inline_pools():
        engine = Engine(lab.config, catalog)
        engine.start()
        died = 0

        def dies(now: float) -> list[object]:
            nonlocal died
            job = ManifestJob("ledger", died)
            died += 1
            return [Condemned(job, RejectCause.CRASHED, "killed", 2)]

        monkeypatch.setattr("nanolab_daemon.engine.MANIFEST_AGAIN_S", 0.0)
        monkeypatch.setattr(engine.cutting, "poll", dies)
        monkeypatch.setattr(engine.cutting, "offer", lambda *_, **__: None)
        for _ in range(MANIFEST_TRIES - 1):
            engine.step(0.0)
            assert not engine.idle
        engine.step(0.0)
        assert engine.idle
        engine.kill()
    catalog.close()


def test_a_daemon_rests_between_two_manifests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes long is not written for each measurement; what lacks is, at the next start at the latest."""
    lab = Lab(tmp_path)
    lab.config = replace(lab.config, manifest=Manifest(refresh_s=3600.0))
    manifest = lab.stage / "_manifest" / "manifest.parquet"
    monkeypatch.setattr(service, "MANIFEST_REST", 1e9)
    with lab.daemon():
        until(manifest.exists)
        instrument.iv(1).write(lab.raw / "one.csv")
        until(lambda: [run.segmentation for run in lab.runs().values()] == ["done"])
        done = time.time()
        until(lambda: (lab.status() or {"scanned_at": 0.0})["scanned_at"] > done)
        assert pl.read_parquet(manifest).height == 0
    monkeypatch.undo()
    with lab.daemon():
        lab.wait_quiet()
        assert pl.read_parquet(manifest).height == 1
