"""A laboratory in which everything goes wrong at once, for 40 seconds; `SOAK_S=3600` makes it an hour.

`SOAK_S=3600 ./go test -m slow -s tests/stories/test_soak.py`
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from soak import Soak

SECONDS = float(os.environ.get("SOAK_S", "40"))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(2 * SECONDS + 600)
def test_soak(tmp_path: Path) -> None:
    """Nothing is lost, doubled or wrong, and the daemon ends as light as it began; `Soak` holds all of it to that."""
    figures = Soak(tmp_path, SECONDS).run()
    print(json.dumps(figures.as_dict()))
    assert figures.runs
    assert figures.did["worker killed"]
    assert figures.did["daemon killed"] + figures.did["daemon stopped"]
