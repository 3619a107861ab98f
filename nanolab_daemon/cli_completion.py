"""Completion in the shell: the script that a shell loads, and the answers to what it asks on each press of Tab.

Click knows the commands, options and choices; the ledger knows files and runs. An answer comes at once or not at all:
nothing is ever printed into a line that somebody is writing.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from nanolab_daemon.cli_base import PROGRAM, examples
from nanolab_daemon.errors import UsageError

if TYPE_CHECKING:
    from click.shell_completion import ShellComplete

    from nanolab_daemon.catalog import Catalog
    from nanolab_daemon.config import Config

VARIABLE = "_NANOLAB_DAEMON_COMPLETE"
"""By this variable of its environment the program knows that a shell asks."""

SHELLS = ("bash", "zsh", "fish")
MOST = 40
"""So many files or runs are offered, the newest."""

_SPECIAL = re.compile(r"([^\w@%+=:,./-])")
Items = list[CompletionItem[str]]
Offer = Callable[[click.Context, click.Parameter, str], Items]


@click.command(epilog=examples("completion bash", "completion zsh", "completion fish"))
@click.argument(
    "shell", required=False, metavar="[bash|zsh|fish]", shell_complete=lambda _ctx, _, begun: _begin(SHELLS, begun)
)
def completion(shell: str | None) -> int:
    """Print the script that completes commands in a shell.

    Without a name it is for the shell in SHELL. To have it in each new one:

    \b
      bash   echo 'eval "$(nanolab-daemon completion bash)"' >> ~/.bashrc
      zsh    echo 'eval "$(nanolab-daemon completion zsh)"' >> ~/.zshrc
      fish   nanolab-daemon completion fish > ~/.config/fish/completions/nanolab-daemon.fish
    """  # noqa: D301 -- Click leaves the lines after a backspace as they are
    name = shell or Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        from nanolab_daemon.settings import did_you_mean, shown

        raise UsageError(
            f"{shown(name)} is no shell that can be completed{did_you_mean(name, SHELLS)}.",
            advice=f"There are {', '.join(SHELLS)}: {PROGRAM} completion bash",
        )
    click.echo(_shells()[name](click.Group(), {}, PROGRAM, VARIABLE).source())
    return 0


def _begin(words: Iterable[str], begun: str) -> list[str]:
    return [word for word in words if word.startswith(begun)]


def answer(group: click.Group) -> int:
    """Answer a shell that completes a line; whatever goes wrong, it hears nothing."""
    instruction = os.environ[VARIABLE]
    shell, _, wanted = instruction.partition("_")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        known = _shells()
        if wanted == "complete" and shell in known:
            sys.stdout.write(known[shell](group, {}, PROGRAM, VARIABLE).complete() + "\n")
            sys.stdout.flush()
    except Exception:  # noqa: BLE001 -- a traceback would land in the line that is being written
        return 1
    return 0


def _shells() -> dict[str, type[ShellComplete]]:
    """Give Click's own answers, in scripts that keep quiet, and with names as a shell has to have them."""
    from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

    class Bash(BashComplete):
        source_template = BashComplete.source_template.replace("_complete $1)", "_complete $1 2>/dev/null)")

        def source(self) -> str:
            return ShellComplete.source(self)  # Click's own starts bash to learn its version, and may complain

        def format_completion(self, item: CompletionItem[str]) -> str:
            if item.type != "plain":
                return super().format_completion(item)
            quoted = _SPECIAL.sub(r"\\\1", item.value)
            return "plain," + quoted.replace("\\", 2 * "\\")  # the script's `read` takes one of two

    class Zsh(ZshComplete):
        source_template = ZshComplete.source_template.replace("%(prog_name)s)}", "%(prog_name)s 2>/dev/null)}")

    class Fish(FishComplete):
        # Of a name with a comma Click's script takes the part before it.
        source_template = FishComplete.source_template.replace('split ","', 'split -m1 ","').replace(
            "%(prog_name)s);", "%(prog_name)s 2>/dev/null);"
        )

    return {"bash": Bash, "zsh": Zsh, "fish": Fish}


# -- what the ledger knows ------------------------------------------------------------------------------------------


def files(where: str = "present") -> Offer:
    """Offer known raw files, by name or by path below raw: the newest of those that a condition selects."""

    def offer(ctx: click.Context, _: click.Parameter, incomplete: str) -> Items:
        return _asked(ctx, incomplete, lambda catalog: _files(catalog, incomplete, where))

    return offer


def runs(ctx: click.Context, _: click.Parameter, incomplete: str) -> Items:
    """Offer runs by the beginning of their id, and known raw files."""

    def found(catalog: Catalog) -> Iterator[CompletionItem[str]]:
        if re.fullmatch("[0-9a-f]+", incomplete):
            condition = "run_id >= ? AND run_id < ? ORDER BY staged_at DESC LIMIT ?"
            for run_id, proc, date, _source in catalog.run_ids(condition, (incomplete, incomplete + "g", MOST)):
                yield CompletionItem(run_id, help=f"{proc} of {date}")
        yield from _files(catalog, incomplete, "present AND run_id IS NOT NULL")

    return _asked(ctx, incomplete, found)


def procedures(ctx: click.Context, _: click.Parameter, incomplete: str) -> Items:
    """Offer the kinds of measurements, those of the settings too."""
    from nanolab_daemon.cli_base import registry
    from nanolab_daemon.procedures import Registry

    try:
        known = registry(_config(ctx))
    except Exception:  # noqa: BLE001 -- settings that are wrong are told when the command is given, not now
        known = Registry.builtin()
    small = incomplete.lower()
    return [CompletionItem(one.name) for one in known if one.name.lower().startswith(small)]


def _asked(ctx: click.Context, incomplete: str, found: Callable[[Catalog], Iterable[CompletionItem[str]]]) -> Items:
    """Ask the ledger; what it does not know the shell may, among the files that are there."""
    from nanolab_daemon.catalog import FILE_NAME, Catalog

    items: Items = []
    try:
        config = _config(ctx)
        catalog = Catalog.open_to_read(config.paths.state / FILE_NAME)
        if catalog is not None:
            try:
                items = list(found(catalog))
            finally:
                catalog.close()
    except Exception:  # noqa: BLE001 -- no settings, no ledger, a ledger of another version: the command will tell
        items = []
    return items or [CompletionItem(incomplete, type="file")]


def _files(catalog: Catalog, incomplete: str, where: str) -> Iterator[CompletionItem[str]]:
    given = os.fsencode(incomplete)
    condition = f"{where} AND instr(path, ?) > 0 ORDER BY judged_at DESC LIMIT ?"
    offered: set[str] = set()
    for path in catalog.paths(condition, (given, 10 * MOST)):
        name = os.fsdecode(path if path.startswith(given) else path.rpartition(b"/")[2])
        if name.startswith(incomplete) and name.isprintable() and name not in offered:
            offered.add(name)
            yield CompletionItem(name)
            if len(offered) == MOST:
                return


def _config(ctx: click.Context) -> Config:
    """Read the settings, but not the procedures: that would take as long as all the rest."""
    from nanolab_daemon import config

    overrides = {"paths.raw": ctx.params.get("raw_root"), "paths.state": ctx.params.get("state_dir")}
    return config.load(ctx.params.get("config_file"), environ=os.environ, overrides=overrides)
