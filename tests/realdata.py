"""Where the real instrument files are, if this machine has them; they are no part of the project."""

from __future__ import annotations

import os
from pathlib import Path

_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data" / "instrument_files"
REAL_DATA = Path(os.environ.get("REAL_DATA", _BESIDE))


def real_files() -> list[Path]:
    """Return the real files in a fixed order; none where there are none."""
    return sorted(REAL_DATA.rglob("*.csv"))
