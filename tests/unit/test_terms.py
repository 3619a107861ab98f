"""Terms: the same settings give the same digest in every process; whatever changes the outputs changes it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from nanolab_daemon.tasks import WorkSettings
from nanolab_daemon.terms import Terms

SETTINGS = WorkSettings(
    raw_root="/raw",
    stage_root="/stage",
    output_root="/out",
    owner="me",
    timezone="America/Santiago",
    procedures={},
    min_segment_points=5,
    max_file_bytes=1 << 20,
    max_header_bytes=1 << 16,
    max_columns=100,
)


def test_terms_are_the_same_in_every_process() -> None:
    """They are kept in the ledger, so no hash that differs from process to process may be in them."""
    script = (
        "from nanolab_daemon.tasks import WorkSettings; from nanolab_daemon.terms import Terms;"
        f"t = Terms({SETTINGS!r}); print(t.of('IV'), t.of('Novel'), t.of(None))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        )
        .stdout.split()[0:3]
        .__repr__()
        for seed in ("1", "2")
    }
    here = Terms(SETTINGS)
    assert told == {repr([here.of("IV"), here.of("Novel"), here.of(None)])}


@pytest.mark.parametrize(
    "change",
    [
        {"timezone": "UTC"},
        {"min_segment_points": 6},
        {"max_columns": 7},
        {"max_file_bytes": 1},
        {"max_header_bytes": 1},
    ],
)
def test_what_concerns_all_changes_all(change: dict[str, Any]) -> None:
    before, after = Terms(SETTINGS), Terms(replace(SETTINGS, **change))
    assert all(before.of(proc) != after.of(proc) for proc in ("IV", "It", "Novel", None))


@pytest.mark.parametrize("change", [{"raw_root": "/moved"}, {"stage_root": "/else"}, {"owner": "you"}])
def test_where_the_folders_lie_changes_nothing(change: dict[str, Any]) -> None:
    assert Terms(SETTINGS).of("IV") == Terms(replace(SETTINGS, **change)).of("IV")


def test_a_procedure_changes_its_own_terms_and_those_of_its_likes() -> None:
    """What a procedure is like follows; all others stay as they are."""
    before = Terms(SETTINGS)
    after = Terms(replace(SETTINGS, procedures={"It": {"manifest": {"info": "NPLC"}}, "Novel": {"like": "IVg"}}))
    assert before.of("It") != after.of("It")
    assert before.of("ITt") != after.of("ITt")
    assert before.of("Novel") != after.of("Novel")
    assert {proc for proc in ("IV", "IVg", "Tt", "Other", None) if before.of(proc) != after.of(proc)} == set()
