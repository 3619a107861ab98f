"""The commands that make a service of this installation, and unmake it."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import click

from nanolab_daemon.cli_base import PROGRAM, Group, examples, folder_option


@click.group(
    cls=Group,
    epilog=examples("service install --raw-root /srv/lab/raw --now", "service uninstall"),
)
def service() -> None:
    """Make a systemd service of this installation, or take it away."""


@service.command(
    epilog=examples(
        "service install --raw-root /srv/lab/raw --now",
        "service install --now                                   (again: an upgrade)",
        "service install --name lab2 --raw-root /srv/lab2/raw    (a second laboratory)",
    )
)
@folder_option("--raw-root", "Where the instruments write; only ever read.")
@folder_option("--stage-root", "Where staged runs go; else below /var/lib/nanolab-daemon.")
@folder_option("--output-root", "Where segments go; likewise.")
@folder_option("--state-dir", "Where the ledger is, on a local disk; likewise.")
@click.option("--workers", type=int, metavar="N", help="Worker processes in each pool; 0: one a CPU.")
@click.option("--http", is_flag=True, help="With the web page, on http://127.0.0.1:8321/; systemd opens its socket.")
@click.option("--user", metavar="NAME", help="As whom it runs; by default nanolab, made if need be.")
@click.option("--name", default="", metavar="NAME", help="A name for this laboratory, if the machine has several.")
@click.option("--now", is_flag=True, help="Enable it and start it, too.")
def install(
    raw_root: str | None,
    stage_root: str | None,
    output_root: str | None,
    state_dir: str | None,
    workers: int | None,
    http: bool,
    user: str | None,
    name: str,
    now: bool,
) -> int:
    """Install the service, or bring it up to this version.

    Makes the user, the folders, the configuration from these flags, and a unit that starts this very installation.
    Done again it is an upgrade: the unit is written anew, the configuration stays as it was edited.
    """
    from nanolab_daemon import install as machine

    lab = machine.lab_named(name)
    machine.require_machine(_again())
    overrides: dict[str, str | int | None] = {
        "paths.raw": raw_root,
        "paths.stage": stage_root,
        "paths.output": output_root,
        "paths.state": state_dir,
        "pools.stage_workers": workers,
        "pools.segment_workers": workers,
        "http.enabled": True if http else None,
    }
    machine.install(machine.Wishes(lab, overrides, user, now), click.echo)
    return 0


@service.command(epilog=examples("service uninstall", "service uninstall --name lab2"))
@click.option("--name", default="", metavar="NAME", help="The name of the laboratory, if it was given one.")
def uninstall(name: str) -> int:
    """Stop the service and take it away. Data, user and configuration stay; it says where."""
    from nanolab_daemon import install as machine

    lab = machine.lab_named(name)
    machine.require_machine(_again(), binding=False)
    machine.uninstall(lab, click.echo)
    return 0


def _again() -> str:
    """Give the command that was typed, so that it works from any PATH."""
    program = Path(os.path.abspath(sys.argv[0]))  # noqa: PTH100 -- as it was called, not where links lead
    if program.name == PROGRAM and shutil.which(program):
        return shlex.join([str(program), *sys.argv[1:]])
    return shlex.join([sys.executable, "-m", "nanolab_daemon", *sys.argv[1:]])
