"""The command line: reads what a person wants, calls the part that does it, prints, and gives the exit code.

Decides nothing about files or runs. Heavy modules are imported inside the commands, so that `--help` stays quick.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nanolab_daemon import __version__, cli_completion
from nanolab_daemon.cli_base import (
    EXIT_FAILED,
    Command,
    Given,
    Group,
    Word,
    as_typed,
    day,
    entry,
    examples,
    json_option,
    registry,
    say_json,
    settings_options,
)
from nanolab_daemon.cli_notify import notify
from nanolab_daemon.cli_service import service
from nanolab_daemon.cli_show import show
from nanolab_daemon.errors import ConfigError, EngineError, RejectCause, UsageError

if TYPE_CHECKING:
    from nanolab_daemon.tasks import Selection


def main(argv: list[str] | None = None) -> int:
    """Be `nanolab-daemon`."""
    if argv is None and cli_completion.VARIABLE in os.environ:
        return cli_completion.answer(cli)
    return entry(cli, argv)


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples("run", "backfill --dry-run", "status --watch", "why It2025-09-04_3.csv", "show 0123456789abcdef"),
)
@click.version_option(__version__, prog_name="nanolab-daemon", message="%(prog)s %(version)s")
def cli() -> None:
    """Turn the CSV files of the lab's instruments into Parquet runs and sweep segments.

    Raw files are only ever read. What is done and why stands in the ledger, in the state folder.
    """


# -- the work -------------------------------------------------------------------------------------------------------


@cli.command(epilog=examples("run", "run --config /etc/nanolab-daemon/config.toml"))
@settings_options
@click.option("--confine", is_flag=True, help="Give up writing anywhere but in the stage, output and state folders.")
def run(given: Given, confine: bool) -> int:
    """Watch and process files as they are written.

    Runs until SIGTERM or SIGINT; SIGHUP reads the settings again.
    """
    import contextlib
    import faulthandler

    from nanolab_daemon import cli_batch
    from nanolab_daemon import service as daemon

    with contextlib.suppress(OSError, ValueError):  # standard error is no file
        faulthandler.enable()  # a watchdog's SIGABRT leaves the stacks of all threads
    config = given.load()
    cli_batch.configure_log(config)
    return daemon.run(config, reload=given.load, confine=confine)


def selection_options(command: Command) -> Command:
    """Give a command the options that select measurements."""
    for option in (
        click.option("--procedure", "procedures", multiple=True, metavar="NAME",
                     shell_complete=cli_completion.procedures,
                     help="Only this kind of measurement, such as IVg; may be given several times."),
        click.option("--until", metavar="YYYY-MM-DD", help="Only runs of this day and before, in the lab's time."),
        click.option("--since", metavar="YYYY-MM-DD", help="Only runs of this day and after, in the lab's time."),
    ):  # fmt: skip
        command = option(command)
    return command


def pass_options(command: Command) -> Command:
    """Give a command the options of one pass over the raw folder."""
    for option in (
        json_option,
        click.option("--strict", is_flag=True, help="Exit with 3 if a file was rejected."),
        click.option("--dry-run", is_flag=True, help="Say what would be done, file by file, and write nothing."),
        click.option(
            "--accept-missing",
            is_flag=True,
            help="Believe it when most known raw files are gone: they were taken away on purpose.",
        ),
        click.option("--force", is_flag=True, help="Do known and unchanged files again too."),
        selection_options,
    ):
        command = option(command)
    return command


def _one_pass(
    given: Given,
    command: str,
    *,
    since: str | None,
    until: str | None,
    procedures: tuple[str, ...],
    force: bool,
    accept_missing: bool,
    dry_run: bool,
    strict: bool,
    as_json: bool,
    segment: bool,
) -> int:
    from nanolab_daemon import cli_batch

    config = given.load()
    selection = _selection(since, until, procedures)
    cli_batch.remark_unknown(selection, registry(config))
    if dry_run:
        return cli_batch.dry_run(config, selection, force=force, segment=segment, as_json=as_json, strict=strict)
    return cli_batch.work(
        config,
        command,
        selection=selection,
        force=force,
        accept_missing=accept_missing,
        segment=segment,
        as_json=as_json,
        strict=strict,
    )


@cli.command(epilog=examples("backfill", "backfill --dry-run", "backfill --since 2025-09-01 --procedure IVg"))
@settings_options
@pass_options
def backfill(given: Given, **options: object) -> int:
    """Process all files that are new or changed.

    Every raw file that the ledger does not know as it stands now goes through both stages.

    Can be interrupted at any point and run again: what is done is not done twice.
    """
    return _one_pass(given, "backfill", segment=True, **options)  # type: ignore[arg-type]


@cli.command(epilog=examples("pipeline", "pipeline --dry-run"))
@settings_options
@pass_options
def pipeline(given: Given, **options: object) -> int:
    """Do the same as `backfill`."""
    return _one_pass(given, "pipeline", segment=True, **options)  # type: ignore[arg-type]


@cli.command(epilog=examples("stage", "stage --procedure It"))
@settings_options
@pass_options
def stage(given: Given, **options: object) -> int:
    """Do the first stage alone: raw files to runs."""
    return _one_pass(given, "stage", segment=False, **options)  # type: ignore[arg-type]


@cli.command(epilog=examples("preprocess"))
@settings_options
@json_option
def preprocess(given: Given, as_json: bool) -> int:
    """Do the second stage alone: runs to segments."""
    from nanolab_daemon import cli_batch

    return cli_batch.work(given.load(), "preprocess", stage=False, as_json=as_json)


# -- questions ------------------------------------------------------------------------------------------------------


@cli.command(epilog=examples("status", "status --watch", "status --json"))
@settings_options
@click.option(
    "-w", "--watch", is_flag=True, help="Show it live, until q or Ctrl-C; with --json, a line twice a second."
)
@json_option
def status(given: Given, watch: bool, as_json: bool) -> int:
    """Say whether the daemon runs, and how things stand.

    Queues, today's and all counts, the last files and rejects. Works with and without a daemon.
    """
    from datetime import UTC, datetime

    from nanolab_daemon import cli_render, report

    config = given.load()
    if watch:
        from nanolab_daemon import cli_watch

        return cli_watch.status(config, as_json=as_json)
    cli_render.status(report.status(config, datetime.now(UTC)), as_json=as_json)
    return 0


@cli.command(epilog=examples("why data/01_raw/2025-09-04/It2025-09-04_3.csv", "why 0123456789abcdef"))
@settings_options
@json_option
@click.argument("file", shell_complete=cli_completion.files())
def why(given: Given, file: str, as_json: bool) -> int:
    """Tell everything that is known of one raw file.

    FILE is a path (from here or from the raw folder), a name, or the run id of a published run.
    """
    from nanolab_daemon import cli_render
    from nanolab_daemon.why import why

    found = why(given.load(), file)
    cli_render.why(found, as_json=as_json)
    return 0 if found.known or found.exists else EXIT_FAILED


cli.add_command(show)


@cli.command(epilog=examples("rejects", "rejects --cause bad_rows --all", "rejects --json"))
@settings_options
@click.option(
    "--cause", type=Word([str(cause) for cause in RejectCause]), help="Only what was refused for this cause."
)
@click.option("--all", "every", is_flag=True, help="List all files, not only the newest few of each cause.")
@json_option
def rejects(given: Given, cause: str | None, every: bool, as_json: bool) -> int:
    """List the files that were refused, with the reasons.

    By cause, the most frequent first: how many, the newest, and what to do. JSON always has all files.
    """
    from nanolab_daemon import cli_render, report
    from nanolab_daemon.catalog import FILE_NAME

    config = given.load()
    found = tuple(group for group in report.rejects(config) if cause in (None, group.cause))
    there = (config.paths.state / FILE_NAME).exists()
    if not found and (lost := report.ledger_lost(config)):
        raise EngineError(f"What was rejected is not known. {as_typed(lost)}")
    most = None if every else cli_render.MOST_REJECTS
    cli_render.rejects(found, as_json=as_json, ledger_exists=there, most=most, cause=cause)
    return 0


@cli.command(epilog=examples("retry", "retry It2025-09-04_3.csv", "retry --skip-bad-rows It2025-09-04_3.csv"))
@settings_options
@click.option("--skip-bad-rows", is_flag=True, help="Leave out lines that are no numbers; how many is recorded.")
@click.option("--strict", is_flag=True, help="Exit with 3 if a file is rejected again.")
@json_option
@click.argument(
    "files", nargs=-1, metavar="[FILE]...", shell_complete=cli_completion.files("present AND state = 'rejected'")
)
def retry(given: Given, files: tuple[str, ...], skip_bad_rows: bool, strict: bool, as_json: bool) -> int:
    """Try refused files again: all of them, or those named."""
    from nanolab_daemon import cli_batch

    return cli_batch.retry(given.load(), files, skip_bad_rows=skip_bad_rows, as_json=as_json, strict=strict)


@cli.command(epilog=examples("verify", "verify --repair", "verify --rebuild", "verify --json"))
@settings_options
@click.option("--repair", is_flag=True, help="Make what is missing or damaged again from the raw files, then look.")
@click.option(
    "--rebuild", is_flag=True, help="Make a new ledger from what is published and the raw files, then look."
)
@json_option
def verify(given: Given, repair: bool, rebuild: bool, as_json: bool) -> int:
    """Compare the ledger with the disk, both ways.

    Every published run is there, whole and readable; nothing else is there. Exits with 1 if not.

    A ledger that is damaged or lost is made anew with --rebuild; the old one is kept beside it. Neither of the
    two flags ever removes a file that the program has not written.
    """
    from nanolab_daemon import cli_mend, cli_render
    from nanolab_daemon.verify import verify

    config = given.load()
    if rebuild:
        cli_mend.rebuild(config)
    found = verify(config)
    if repair and found.problems:
        cli_mend.repair(config, found)
        found = verify(config)
    cli_render.verified(found, as_json=as_json)
    return EXIT_FAILED if found.problems else 0


@cli.command(epilog=examples("check", "check --procedures", "check --raw-root /mnt/lab --json"))
@settings_options
@click.option("--procedures", is_flag=True, help="Print the table of procedures instead, as the settings have it.")
@json_option
def check(given: Given, procedures: bool, as_json: bool) -> int:
    """Check the settings and this machine.

    One line each, with the remedy. Exits with 1 if something does not work, and with 78 if the settings
    themselves are wrong.
    """
    from nanolab_daemon import cli_procedures, cli_render
    from nanolab_daemon.check import Status, check, worst
    from nanolab_daemon.layout import path_mistakes

    config = given.load()
    if procedures:
        known = registry(config)
        if as_json:
            say_json(cli_procedures.data(known))
        else:
            cli_render.procedures(known)
        return 0
    findings = check(config)
    cli_render.findings(findings, as_json=as_json)
    if path_mistakes(config):
        return ConfigError.exit_code
    return EXIT_FAILED if worst(findings) is Status.FAIL else 0


@cli.command(epilog=examples("demo", "demo --speed 5 --keep ./demo-lab"))
@click.option("--keep", type=click.Path(path_type=Path), metavar="FOLDER", help="Make the lab here and leave it.")
@click.option("--speed", type=float, default=1.0, metavar="X", help="So many times faster than usual.")
def demo(keep: Path | None, speed: float) -> int:
    """Show the daemon at work in a temporary lab.

    A simulated instrument writes files, the daemon processes them. Needs no settings.
    """
    from nanolab_daemon import demo as lab

    return lab.main(keep=keep, speed=speed)


cli.add_command(notify)
cli.add_command(service)
cli.add_command(cli_completion.completion)


def _selection(since: str | None, until: str | None, procedures: tuple[str, ...]) -> Selection:
    from nanolab_daemon.tasks import Selection

    first, last = day(since, "--since"), day(until, "--until")
    if first and last and first > last:
        raise UsageError(f"--since {first} is after --until {last}: no run can be meant.")
    return Selection(frozenset(procedures), first, last)
