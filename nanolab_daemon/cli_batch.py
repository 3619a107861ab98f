"""Commands that work to an end and then report: backfill, stage, preprocess, retry, and their dry runs."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO

import click

from nanolab_daemon.cli_base import EXIT_INTERRUPTED, EXIT_REJECTS, say_json

if TYPE_CHECKING:
    from nanolab_daemon.batch import Ended
    from nanolab_daemon.config import Config
    from nanolab_daemon.engine import Engine
    from nanolab_daemon.procedures import Registry
    from nanolab_daemon.tasks import Selection


def work(
    config: Config,
    command: str,
    *,
    selection: Selection | None = None,
    force: bool = False,
    stage: bool = True,
    segment: bool = True,
    as_json: bool = False,
    strict: bool = False,
) -> int:
    """Run one pass, show how far it has come, and say what it came to."""
    from nanolab_daemon import batch, cli_summary
    from nanolab_daemon.backlog import Rules
    from nanolab_daemon.catalog import FILE_NAME, Catalog
    from nanolab_daemon.cli_progress import progress
    from nanolab_daemon.tasks import Selection

    rules = Rules(
        force=force,
        selection=selection or Selection(),
        abandoned_after_s=config.watch.abandoned_after_s,
    )
    began = time.time()
    stream = sys.stderr if as_json else sys.stdout  # standard output is for the JSON alone
    with progress(stream, stage=stage, segment=segment) as shown:
        configure_log(config)  # now, as the bars have put themselves before standard error

        def on_step(engine: Engine) -> None:
            scanning = engine.source is not None and not engine.source.finished
            shown.show(engine.tally, scanning=scanning)

        ended: Ended = batch.run(config, command, stage=stage, segment=segment, rules=rules, on_step=on_step)
    catalog = Catalog.open_to_read(config.paths.state / FILE_NAME)
    try:
        found = cli_summary.summary(ended, catalog, command, began)
    finally:
        if catalog is not None:
            catalog.close()
    if as_json:
        say_json(found)
    else:
        click.echo("\n".join(cli_summary.lines(found, unicode=can_show(cli_summary.BLOCKS, sys.stdout))))
    if ended.interrupted:
        return EXIT_INTERRUPTED
    return EXIT_REJECTS if strict and found["rejected"] else 0


def dry_run(config: Config, selection: Selection, *, force: bool, segment: bool, as_json: bool, strict: bool) -> int:
    """Say what a pass would do, and write nothing."""
    from nanolab_daemon import cli_render
    from nanolab_daemon.backlog import Rules
    from nanolab_daemon.cli_progress import progress
    from nanolab_daemon.plan import plan

    rules = Rules(force=force, selection=selection, abandoned_after_s=config.watch.abandoned_after_s)
    with progress(sys.stderr, stage=True, segment=False) as shown:
        made = plan(
            config, rules, segment=segment, on_step=lambda tally, scanning: shown.show(tally, scanning=scanning)
        )
    cli_render.plan(made, as_json=as_json)
    return EXIT_REJECTS if strict and made.totals["rejected"] else 0


def remark_unknown(selection: Selection, registry: Registry) -> None:
    """Hint at procedures that the registry does not know: such files exist, but so do slips of the hand."""
    from nanolab_daemon.settings import did_you_mean, escaped

    known = [procedure.name for procedure in registry]
    for name in sorted(selection.procedures - set(known)):
        click.echo(f"Note: the registry has no procedure {escaped(name)}{did_you_mean(name, known)}.", err=True)


def configure_log(config: Config) -> None:
    """Send the log to whatever is standard error now."""
    from nanolab_daemon import log

    log.configure(config.log.level, config.log.format, sys.stderr)


def can_show(text: str, stream: TextIO) -> bool:
    """Tell whether a stream can show these characters as they are."""
    try:
        text.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
