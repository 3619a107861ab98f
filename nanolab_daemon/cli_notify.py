"""`nanolab-daemon notify`: tells people what they ought to know, in a process of its own, beside the daemon."""

from __future__ import annotations

import re
import signal
import threading
import time
from typing import TYPE_CHECKING

import click

from nanolab_daemon.cli_base import Given, Word, examples, settings_options
from nanolab_daemon.errors import EngineError, UsageError
from nanolab_daemon.secret import read_addresses, service
from nanolab_daemon.settings import escaped

if TYPE_CHECKING:
    from types import FrameType

    from nanolab_daemon.config import Config

KINDS = ("all", "rejected", "quarantined", "incomplete", "degraded", "paused", "silent")
_UNITS_S = {"m": 60.0, "h": 3600.0, "d": 86400.0}


@click.command(epilog=examples("notify --test", "notify", "notify --snooze rejected --for 2h"))
@settings_options
@click.option("--test", "is_test", is_flag=True, help="Send one message now, and say whether it was taken.")
@click.option("--snooze", type=Word(KINDS), help="Tell nothing of this kind for a while.")
@click.option("--for", "how_long", metavar="DURATION", help="How long to snooze: 30m, 2h, 7d; 0m ends it.")
def notify(given: Given, is_test: bool, snooze: str | None, how_long: str | None) -> int:
    """Tell people what they ought to know, by mail and the like.

    Sends notices to the addresses in [notify] urls_file, as long as it runs.
    Tells of rejected, quarantined and incomplete measurements, of a daemon that is degraded, paused or silent, and
    when all is well again; each once.
    """
    config = given.load()
    if snooze is not None or how_long is not None:
        return _snooze(config, snooze, how_long)
    urls = read_addresses(config.notify.urls_file)
    if is_test:
        return _test(urls)
    return _keep_looking(config, urls)


def _test(urls: list[str]) -> int:
    from nanolab_daemon.notices.book import Notice
    from nanolab_daemon.notices.post import apprise_send

    failed = 0
    for url in urls:
        notice = Notice("nanolab-daemon: a test", "If you can read this, notices arrive here.", grave=False)
        trouble = apprise_send([url])(notice)
        failed += bool(trouble)
        click.echo(f"{service(url)}: {f'NOT taken: {escaped(trouble)}' if trouble else 'taken'}")
    return int(failed > 0)


def _snooze(config: Config, kind: str | None, how_long: str | None) -> int:
    from zoneinfo import ZoneInfo

    from nanolab_daemon.notices.keeper import snooze
    from nanolab_daemon.report import moment

    if kind is None or how_long is None:
        raise UsageError("--snooze and --for go together, such as --snooze rejected --for 2h.")
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([mhd])", how_long)
    if found is None:
        raise UsageError(f"--for {how_long} is no duration: write 30m, 2h or 7d.")
    until = time.time() + float(found[1]) * _UNITS_S[found[2]]
    if not config.paths.state.is_dir():
        raise EngineError(f"There is no state folder {config.paths.state}.", advice="Was the daemon ever started?")
    snooze(config.paths.state, kind, until)
    what = "Notices of every kind" if kind == "all" else f"Notices of the kind {kind}"
    if until <= time.time():
        click.echo(f"{what} are sent again.")
        return 0
    click.echo(f"{what} wait until {moment(until, ZoneInfo(config.lab.timezone))}.")
    return 0


def _keep_looking(config: Config, urls: list[str]) -> int:
    from nanolab_daemon import cli_batch
    from nanolab_daemon.log import logger
    from nanolab_daemon.notices.keeper import LOOK_EVERY_S, Keeper
    from nanolab_daemon.notices.post import apprise_send

    cli_batch.configure_log(config)
    ended = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    keeper = Keeper(config, apprise_send(urls))
    logger(__name__).info("telling", count=len(urls))
    try:
        while not ended.is_set():
            keeper.look()
            ended.wait(LOOK_EVERY_S)
    finally:
        keeper.close()
    return 0
