"""An archive in the lab's mix: what a cluster publishes of it is what this machine publishes, byte for byte."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import outputs
import pytest
from dask_lab import cluster
from lab import Lab
from stories.test_dask import on

from nanolab_daemon import batch, verify

FILES = int(os.environ.get("DASK_FILES", "318"))  # of 31,806


@pytest.mark.timeout(120 + FILES)
def test_an_archive_comes_out_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "bench")
    monkeypatch.delitem(sys.modules, "archive", raising=False)
    import archive

    here, there = Lab(tmp_path / "here", workers=2), Lab(tmp_path / "there", workers=2)
    archive.make(here.raw, FILES)
    there.raw.rmdir()
    there.raw.symlink_to(here.raw)
    batch.run(here.config, "backfill")
    with cluster(tmp_path / "dask") as found:
        batch.run(on(there, found).config, "backfill")
    assert len(there.runs()) == FILES
    for root, other in ((here.stage, there.stage), (here.output, there.output)):
        names = [name for name in outputs.published(root) if "_manifest" not in name]
        assert names == [name for name in outputs.published(other) if "_manifest" not in name]
        assert [name for name in names if (root / name).read_bytes() != (other / name).read_bytes()] == []
    assert not verify.verify(there.config).problems
