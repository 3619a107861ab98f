"""What the unit tests share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nanolab_daemon import cli


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command line in this process; give its exit code and what it said on both streams."""

    def run(*argv: str) -> tuple[int, str, str]:
        code = cli.main(list(argv))
        said = capsys.readouterr()
        return code, said.out, said.err

    return run
