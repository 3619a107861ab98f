"""What the stories about systemd share: an installation as a laboratory would have it, and machines to put it on."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from systemd_rig import Machine, why_not

ROOT = Path(__file__).parents[2]
LIBRARIES = "/opt/libraries"
"""Where a machine sees the tests' own, wherever this clone is: a service sees no temporary or home folder."""
BINDING = "systemd-python==235"


@pytest.fixture(scope="session")
def installation() -> Iterator[Path]:
    """Install the wheel and systemd-python into a folder, beside the tests' own libraries; give the command."""
    if trouble := why_not():
        pytest.skip(trouble)
    home = Path(tempfile.mkdtemp(prefix="nanolab-test-", dir="/opt"))
    home.chmod(0o755)
    python = home / "bin/python"
    try:
        base: str = sys._base_executable  # type: ignore[attr-defined]
        _call(base, "-m", "venv", str(home))
        site = next(home.glob("lib/python3*/site-packages"))
        (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
        # The builder is the pinned one, where `./go` made the environment.
        isolation = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
        pip = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-installed"]
        _call(*pip, *isolation, BINDING, str(ROOT))
        (site / "libraries.pth").write_text(LIBRARIES)
        yield home / "bin/nanolab-daemon"
    finally:
        shutil.rmtree(home)


@pytest.fixture(scope="module")
def machine(installation: Path) -> Iterator[Machine]:
    """Boot a machine on which the program is installed, but no service of it."""
    with Machine(binds={LIBRARIES: Path(sysconfig.get_path("purelib"))}) as machine:
        yield machine


def _call(*command: str) -> None:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    subprocess.run(command, check=True, timeout=300, cwd="/", env=clean)
