"""`status --watch`: how things stand, live, on a terminal or as a line of JSON now and then."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import click

from nanolab_daemon.errors import UsageError
from nanolab_daemon.report import Reporter, Status
from nanolab_daemon.terminal.screen import screen

if TYPE_CHECKING:
    from rich.console import RenderableType

    from nanolab_daemon.config import Config

JSON_EVERY_S = 0.5


def status(config: Config, *, as_json: bool) -> int:
    """Show how things stand until somebody has seen enough."""
    reporter = Reporter(config)

    def look() -> Status:
        return reporter.look(datetime.now(UTC))

    if as_json:
        return _lines(look)
    console = screen()
    if console is None:
        raise UsageError(
            "--watch draws on a terminal, and standard output is none.",
            advice="For a program: --watch --json, a line twice a second; else leave --watch away.",
        )
    from nanolab_daemon.terminal import live
    from nanolab_daemon.terminal import status as drawn

    def draw(found: Status, height: int) -> RenderableType:
        return drawn.fitting(found, console, height)

    live.watch(console, ZoneInfo(config.lab.timezone), look, draw)
    return 0


def _lines(look: Callable[[], Status]) -> int:
    try:
        while True:
            click.echo(json.dumps(asdict(look())))
            time.sleep(JSON_EVERY_S)
    except KeyboardInterrupt:
        return 0
