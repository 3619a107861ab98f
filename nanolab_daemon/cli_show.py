"""`show`: the curve of a measurement, in the terminal or as points for a program."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

import click

from nanolab_daemon import cli_completion
from nanolab_daemon.cli_base import Given, can_show, examples, json_option, say_json, settings_options
from nanolab_daemon.errors import UsageError
from nanolab_daemon.terminal.screen import screen

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from nanolab_daemon.config import Config
    from nanolab_daemon.terminal.trace import Trace

_PIPE_LINES = 24
_PROMPT_LINES = 2


@click.command(
    epilog=examples(
        "show 0123456789abcdef",
        "show 0123",
        "show --log IVg2025-09-12_1.csv",
        "show --watch 2025-09-12/IV2025-09-12_4.csv",
        "show --y 'VL (V)' It2025-09-04_3.csv",
    )
)
@settings_options
@click.option("--log", is_flag=True, help="Draw the size of the values on a logarithmic scale.")
@click.option("--x", metavar="COLUMN", help="Draw along this column; usually the swept one, or the time.")
@click.option("--y", metavar="COLUMN", help="Draw this column; usually the measured one.")
@click.option("-w", "--watch", is_flag=True, help="Draw it live, as it grows, until q or Ctrl-C.")
@json_option
@click.argument("run", shell_complete=cli_completion.runs)
def show(given: Given, run: str, log: bool, x: str | None, y: str | None, watch: bool, as_json: bool) -> int:
    """Draw the curve of a measurement, its segments coloured.

    RUN is a run id or its beginning, or a raw file: a path or a name, as for `why`. A file that is still being
    measured is drawn as far as it is written; its writer is not disturbed. JSON has all points, by segment.
    """
    from nanolab_daemon.terminal import trace

    config = given.load()
    if watch:
        return _watch(config, lambda: trace.trace(config, run, x=x, y=y), log=log)
    found = trace.trace(config, run, x=x, y=y)
    if as_json:
        say_json(trace.as_data(found))
    else:
        _print(found, log=log)
    return 0


def _print(found: Trace, *, log: bool) -> None:
    from nanolab_daemon.terminal import show as drawn

    console = screen()
    if console is None:
        ascii_only = not can_show("⡠µ─", sys.stdout)
        columns = shutil.get_terminal_size((80, _PIPE_LINES)).columns
        for line in drawn.lines(found, columns, _PIPE_LINES, log=log, ascii_only=ascii_only):
            click.echo(line)
        return
    height = console.height - _PROMPT_LINES
    console.print(drawn.picture(found, console.width, height, log=log, ascii_only=console.options.ascii_only))


def _watch(config: Config, look: Callable[[], Trace], *, log: bool) -> int:
    console = screen()
    if console is None:
        raise UsageError("--watch draws on a terminal, and standard output is none.", advice="Leave --watch away.")
    from zoneinfo import ZoneInfo

    from nanolab_daemon.terminal import live
    from nanolab_daemon.terminal import show as drawn

    look()  # a mistake is told at once, and on an ordinary screen

    def draw(found: Trace, height: int) -> RenderableType:
        ascii_only = console.options.ascii_only
        return drawn.picture(found, console.width, height, log=log, ascii_only=ascii_only, fits=True)

    live.watch(console, ZoneInfo(config.lab.timezone), look, draw)
    return 0
