"""What stories share: for those about systemd an installation and machines to put it on, for the page a browser."""

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
from typing import TYPE_CHECKING

import pytest
from systemd_rig import Machine, why_not

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

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
        _call(base, "-m", "venv", "--without-pip", str(home))  # the tests' own pip and builder are the pinned ones
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start Debian's headless Chromium."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield browser
        browser.close()


@pytest.fixture(params=["light", "dark"])
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """Open a page that may do nothing that its policy forbids, raise no error and ask nobody else for anything."""
    context = browser.new_context(color_scheme=request.param, reduced_motion="reduce")
    page = context.new_page()
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda said: troubles.append(said.text) if said.type in ("error", "warning") else None)
    page.on("request", lambda asked: None if "//127.0.0.1:" in asked.url else troubles.append(asked.url))
    yield page
    context.close()
    assert not troubles


def _call(*command: str) -> None:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    subprocess.run(command, check=True, timeout=300, cwd="/", env=clean)
