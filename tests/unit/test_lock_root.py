"""Root is no substitute for the user to whom a state folder belongs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nanolab_daemon.errors import EngineError
from nanolab_daemon.lock import Lock


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root; CI runs as root")
def test_root_is_told_to_be_the_folders_user(tmp_path: Path) -> None:
    """What root would leave there, the daemon's user could not replace."""
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, 65534, 65534)
    with (
        pytest.raises(EngineError, match=r"nobody's, who could not replace .* sudo -u nobody"),
        Lock(state, "backfill"),
    ):
        pass
    assert not list(state.iterdir())
    os.chown(state, 0, 0)
    with Lock(state, "backfill"):
        pass
