"""Commands that work to an end and then report: backfill, stage, preprocess, retry, and their dry runs."""

from __future__ import annotations

import logging
import shutil
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

import click

from nanolab_daemon.cli_base import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_REJECTS,
    as_typed,
    can_show,
    complain,
    is_screen,
    say_json,
    tinted,
)
from nanolab_daemon.settings import counted

if TYPE_CHECKING:
    from nanolab_daemon.batch import Ended
    from nanolab_daemon.config import Config
    from nanolab_daemon.engine import Engine
    from nanolab_daemon.procedures import Registry
    from nanolab_daemon.tally import Tally
    from nanolab_daemon.tasks import Selection

_SUMMARY_COLOURS = {"rejected": "red", "WARNING:": "yellow", "missing": "yellow", "waiting": "yellow"}


def work(
    config: Config,
    command: str,
    *,
    selection: Selection | None = None,
    force: bool = False,
    accept_missing: bool = False,
    stage: bool = True,
    segment: bool = True,
    as_json: bool = False,
    strict: bool = False,
) -> int:
    """Run one pass, show how far it has come, and say what it came to."""
    from nanolab_daemon import batch, cli_handover, cli_summary
    from nanolab_daemon.backlog import Rules
    from nanolab_daemon.catalog import FILE_NAME, Catalog
    from nanolab_daemon.cli_progress import Count, progress
    from nanolab_daemon.layout import check_paths
    from nanolab_daemon.scan import name_test
    from nanolab_daemon.tasks import Selection

    chosen = selection or Selection()
    rules = Rules(
        force=force,
        selection=chosen,
        abandoned_after_s=config.watch.abandoned_after_s,
        accept_missing=accept_missing,
    )
    check_paths(config)
    handed_over = to_daemon(config, command)
    following = 0
    began = time.time()
    stream = sys.stderr if as_json else sys.stdout  # standard output is for the JSON alone
    with (
        Count(config.paths.raw, name_test(config.watch.include, config.watch.exclude), wanted=stage) as count,
        progress(stream, stage=stage, segment=segment or handed_over, counted=lambda: count.files) as shown,
    ):
        configure_log(config, rejects=False)  # now, as the bars have put themselves before standard error

        def show(tally: Tally, scanning: bool) -> None:
            shown.show(tally, scanning=scanning)

        def on_step(engine: Engine) -> None:
            show(engine.tally, engine.source is not None and not engine.source.finished)

        ended: Ended
        if handed_over:
            try:
                ended, following = cli_handover.backfill(config, rules, show=show)
            except KeyboardInterrupt:
                complain("Interrupted. The daemon goes on with the work.")
                return EXIT_INTERRUPTED
        else:
            ended = batch.run(config, command, stage=stage, segment=segment, rules=rules, on_step=on_step)
    catalog = Catalog.open_to_read(config.paths.state / FILE_NAME)
    try:
        found = cli_summary.summary(ended, catalog, command, began)
    finally:
        if catalog is not None:
            catalog.close()
    if as_json:
        say_json({**found, "done_by_daemon": handed_over, "following": following})
    else:
        _print_summary(found)
        if following:
            click.echo(
                f"  The daemon follows {counted(following, 'file')} that are fresh or being written,"
                " and goes on with them."
            )
    if ended.interrupted:
        return EXIT_INTERRUPTED
    return EXIT_REJECTS if strict and found["rejected"] else 0


def _print_summary(found: dict[str, Any]) -> None:
    """Print what a pass came to; on a terminal with colours, and what is long goes on below its beginning."""
    from nanolab_daemon import cli_summary

    unicode = can_show(cli_summary.BLOCKS, sys.stdout)
    if not is_screen(sys.stdout):
        click.echo(as_typed("\n".join(cli_summary.lines(found, unicode=unicode))))
        return
    width = shutil.get_terminal_size().columns
    room = max(20, min(cli_summary.WIDTH, width - cli_summary.BESIDE))
    head, *rest = cli_summary.lines(found, unicode=unicode, width=room)
    click.echo(tinted(head, "yellow" if found["interrupted"] else "green", bold=True))
    for line in map(as_typed, rest):
        whole = line
        if len(line) > width and "|" not in line:  # what is drawn stays as it is
            whole = textwrap.fill(line, width, subsequent_indent=" " * cli_summary.NOTE_AT, break_on_hyphens=False)
        word = line.split(maxsplit=1)[0] if line.strip() else ""
        click.echo(tinted(whole, _SUMMARY_COLOURS.get(word)) if found.get(word) != 0 else whole)


def retry(config: Config, names: tuple[str, ...], *, skip_bad_rows: bool, as_json: bool, strict: bool) -> int:
    """Try refused files again, and say what became of each."""
    from dataclasses import asdict

    from nanolab_daemon import again, batch, cli_handover, cli_render
    from nanolab_daemon.layout import check_paths

    check_paths(config)
    chosen = again.choose(config, names, skip_bad_rows=skip_bad_rows)
    configure_log(config, rejects=False)
    interrupted = False
    if chosen.jobs and to_daemon(config, "retry"):
        limit_s = len(chosen.jobs) * config.pools.task_timeout_s
        cli_handover.retry(config, chosen.jobs, skip_bad_rows=skip_bad_rows, limit_s=limit_s)
    elif chosen.jobs:
        interrupted = batch.run(config, "retry", jobs=chosen.jobs).interrupted
    found = again.became(config, chosen.jobs)
    if as_json:
        left = [asdict(one) for one in chosen.left_alone]
        say_json({"tried": [asdict(one) for one in found], "left_alone": left, "interrupted": interrupted})
    else:
        cli_render.tried(found)
        if not found and not names:
            click.echo("No file is rejected: there is nothing to try again.")
    for left_alone in chosen.left_alone:
        complain(f"{left_alone.file}: {left_alone.reason}")
    if interrupted:
        return EXIT_INTERRUPTED
    if chosen.left_alone:
        return EXIT_FAILED
    return EXIT_REJECTS if strict and any(one.state == "rejected" for one in found) else 0


def to_daemon(config: Config, command: str) -> bool:
    """Tell whether a daemon is there to do the work, and say so."""
    from nanolab_daemon import cli_handover, lock

    holder = lock.holder(config.paths.state)
    if holder is None or holder.command != "run" or not cli_handover.daemon_runs(config):
        return False  # another engine, if any, is named when the lock is refused
    also = "" if command in ("backfill", "pipeline", "retry") else ", both stages of it"
    click.echo(f"The daemon (process {holder.pid}) does the work{also}; this command shows how it goes.", err=True)
    return True


def dry_run(config: Config, selection: Selection, *, force: bool, segment: bool, as_json: bool, strict: bool) -> int:
    """Say what a pass would do, and write nothing."""
    from nanolab_daemon import cli_render
    from nanolab_daemon.backlog import Rules
    from nanolab_daemon.cli_progress import Count, progress
    from nanolab_daemon.plan import plan
    from nanolab_daemon.scan import name_test

    rules = Rules(force=force, selection=selection, abandoned_after_s=config.watch.abandoned_after_s)
    with (
        Count(config.paths.raw, name_test(config.watch.include, config.watch.exclude)) as count,
        progress(sys.stderr, stage=True, segment=False, counted=lambda: count.files) as shown,
    ):
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


def configure_log(config: Config, *, rejects: bool = True) -> None:
    """Send the log to whatever is standard error now.

    Without `rejects` a terminal has no line for each refused file: the command counts them at its end.
    """
    from nanolab_daemon import log

    log.configure(config.log.level, config.log.format, sys.stderr)
    if not rejects and is_screen(sys.stderr):
        for handler in logging.getLogger().handlers:
            handler.addFilter(_is_no_reject)


def _is_no_reject(record: logging.LogRecord) -> bool:
    return not (isinstance(record.msg, dict) and record.msg.get("event") == "rejected")
