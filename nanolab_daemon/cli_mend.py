"""What `verify` does with its flags besides looking: `--repair` and `--rebuild`. Speaks on standard error."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from nanolab_daemon import cli_batch, cli_handover
from nanolab_daemon.settings import counted

if TYPE_CHECKING:
    from nanolab_daemon.config import Config
    from nanolab_daemon.engine import Engine
    from nanolab_daemon.verify import Verified

MOST_SHOWN = 20


def repair(config: Config, found: Verified) -> None:
    """Make again what is missing or damaged and can be made from a raw file; the daemon does it if there is one."""
    from nanolab_daemon import batch, publish
    from nanolab_daemon.verify import to_repair

    jobs = to_repair(config, found)
    if any(problem.kind == "manifest" for problem in found.problems):
        (config.paths.stage / publish.MANIFEST).unlink(missing_ok=True)  # it is written anew where there is none
    click.echo(f"Making {counted(len(jobs), 'run')} again from their raw files.", err=True)
    cli_batch.configure_log(config)
    if cli_batch.to_daemon(config, "retry"):
        limit_s = max(1, len(jobs)) * config.pools.task_timeout_s
        cli_handover.retry(config, jobs, skip_bad_rows=False, limit_s=limit_s)
    else:
        batch.run(config, "verify --repair", jobs=jobs)


def rebuild(config: Config) -> None:
    """Make a new ledger, and say what it was made of."""
    from nanolab_daemon.cli_progress import progress
    from nanolab_daemon.rebuild import rebuild as made_anew

    with progress(sys.stderr, stage=True, segment=True) as shown:
        cli_batch.configure_log(config)

        def on_step(engine: Engine) -> None:
            shown.show(engine.tally, scanning=engine.source is not None and not engine.source.finished)

        made = made_anew(config, on_step=on_step)
    if made.old_ledger is not None:
        click.echo(f"The old ledger is kept as {made.old_ledger}; delete it when all is well.", err=True)
    click.echo(f"{made.runs:,} published runs were read, and {made.ended.tally.found:,} raw files.", err=True)
    for one in made.passed_over[:MOST_SHOWN]:
        click.echo(f"Passed over: {one.folder}: {one.reason}", err=True)
    if len(made.passed_over) > MOST_SHOWN:
        click.echo(f"Passed over: and {len(made.passed_over) - MOST_SHOWN:,} more.", err=True)
