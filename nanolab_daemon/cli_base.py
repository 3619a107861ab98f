"""What all commands share: options, settings, hints at misspelt words, and how a mistake is told.

Does no work of its own and imports nothing heavy: `--help` has to be there at once.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from nanolab_daemon.errors import NanolabError, UsageError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from nanolab_daemon.config import Config
    from nanolab_daemon.procedures import Registry

PROGRAM = "nanolab-daemon"
EXIT_FAILED = 1
EXIT_REJECTS = 3
EXIT_INTERRUPTED = 130
MOST_OF_A_MESSAGE = 600
EXIT_BROKEN_PIPE = 141  # what a shell reports of a program that SIGPIPE ended

_SPELT = "nanolab-daemon"
_TYPED_AS = {
    **{"…": "...", "→": "->", "–": "-", "—": "-", "−": "-", "·": "-", "±": "+-", "×": "x", "≤": "<=", "≥": ">="},
    **{"µ": "u", "μ": "u", "Ω": "Ohm", "°": "deg", "²": "^2"},
}
_typed: dict[str, str | None] = {}
"""What was typed, as far as what is told to be typed next depends on it."""

Command = TypeVar("Command", bound=Callable[..., Any])


class Group(click.Group):
    """A group of commands in the order in which they were written, that knows what was meant by a misspelt one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give the commands as they stand in the program: the everyday ones first."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one may have been meant."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            from nanolab_daemon.settings import did_you_mean, escaped

            hint = did_you_mean(name, self.commands)
            ctx.fail(f"{escaped(name[:60])!r} is no command of {PROGRAM}{hint}.")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. A reader that has left is told apart before Click makes a failure of it."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise ReaderLeftError from error


class Word(click.Choice[str]):
    """One of some words; of a misspelt one it says which was meant."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Take the word."""
        if value in self.choices:
            return value
        from nanolab_daemon.settings import did_you_mean, shown

        words = [str(choice) for choice in self.choices]
        return self.fail(
            f"{shown(value)} is none of {', '.join(words)}{did_you_mean(str(value), words)}.", param, ctx
        )


class ReaderLeftError(Exception):
    """Whoever read the output has closed it."""


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line said of the settings; read at once, and again at each reload."""

    file: Path | None
    overrides: Mapping[str, object]

    def load(self) -> Config:
        """Read the settings from their four sources and check them, the procedures too."""
        from nanolab_daemon import config

        try:
            Path.cwd()
        except OSError as error:
            raise UsageError(
                f"The current folder is not there any more: {error.strerror}.", advice="Go to another one: cd ~"
            ) from error
        loaded = config.load(self.file, environ=os.environ, overrides=self.overrides)
        registry(loaded)
        return loaded


def registry(config: Config) -> Registry:
    """Give the registry of procedures with the configuration's own laid over it; a mistake there is a ConfigError."""
    from nanolab_daemon.procedures import Registry

    return Registry.builtin().with_overrides(config.procedures)


def settings_options(command: Command) -> Command:
    """Give a command `--config` and the flags that stand above it; it takes them as one argument, `given`."""
    options = (
        click.option("--config", "config_file", type=click.Path(path_type=Path, readable=False), metavar="FILE",
                     help="Settings; by default ./config.toml, then /etc/nanolab-daemon/config.toml."),
        folder_option("--raw-root", "Where the instruments write; only ever read."),
        folder_option("--stage-root", "Where staged runs go."),
        folder_option("--output-root", "Where sweep segments go."),
        folder_option("--state-dir", "Where the ledger is; on a local disk."),
        click.option("--workers", type=int, metavar="N", help="Worker processes in each pool; 0: one a CPU."),
    )  # fmt: skip

    import functools

    @functools.wraps(command)
    def with_given(
        config_file: Path | None,
        raw_root: str | None,
        stage_root: str | None,
        output_root: str | None,
        state_dir: str | None,
        workers: int | None,
        **rest: Any,
    ) -> Any:
        _typed["--config"] = None if config_file is None else str(config_file)
        overrides = {
            "paths.raw": raw_root,
            "paths.stage": stage_root,
            "paths.output": output_root,
            "paths.state": state_dir,
            "pools.stage_workers": workers,
            "pools.segment_workers": workers,
        }
        return command(given=Given(config_file, overrides), **rest)

    wrapped: Any = with_given
    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


def folder_option(flag: str, words: str) -> Callable[[Command], Command]:
    """Make an option that names a folder, which the shell completes."""
    return click.option(flag, metavar="FOLDER", shell_complete=folders, help=words)


def folders(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Have the shell complete the name of a folder."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="dir")]


def as_typed(text: str) -> str:
    """Put the `--config` that was given into the commands that a text tells to type, so that they can be typed so."""
    file = _typed.get("--config")
    if file is None:
        return text
    from nanolab_daemon import commands

    return commands.as_typed(text, file)


def json_option(command: Command) -> Command:
    """Give a command `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)


def examples(*lines: str) -> str:
    """Lay out a command's examples for the end of its help."""
    return "\b\nExamples:\n" + "\n".join(f"  {PROGRAM} {line}" for line in lines)


def day(text: str | None, flag: str) -> str | None:
    """Check a day given on the command line."""
    if text is None:
        return None
    import re
    from datetime import date

    try:
        if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            raise ValueError
        return date.fromisoformat(text).isoformat()
    except ValueError:
        from nanolab_daemon.settings import shown

        raise UsageError(f"{flag} = {shown(text)} is no day.", advice="Write it as 2025-09-30.") from None


def say_json(value: object) -> None:
    """Print a value as JSON that any terminal and any program can take."""
    import json

    click.echo(json.dumps(value, indent=2, ensure_ascii=True))


def _spelt_otherwise() -> str:
    """Give the name of a way to write what a terminal has no characters for: as one would type it, else escaped."""
    import codecs

    def spell(error: UnicodeError) -> tuple[str | bytes, int]:
        assert isinstance(error, UnicodeEncodeError)
        character = error.object[error.start]
        if character in _TYPED_AS:
            return _TYPED_AS[character], error.start + 1
        one = UnicodeEncodeError(error.encoding, error.object, error.start, error.start + 1, error.reason)
        return codecs.backslashreplace_errors(one)

    codecs.register_error(_SPELT, spell)
    return _SPELT


def entry(group: click.Group, argv: list[str] | None = None) -> int:
    """Run a command and give its exit code. A mistake becomes a message on standard error, never a traceback."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us: nobody wants to hear
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 -- for good
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:  # what a terminal can't show is written otherwise; it never ends the program
            reconfigure(errors=_spelt_otherwise())
    try:
        code = group.main(args=argv, prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        _complain_of_usage(error)
        return error.exit_code
    except click.Abort:
        complain("Interrupted.")
        return EXIT_INTERRUPTED
    except NanolabError as error:
        complain(error.message, error.advice)
        return error.exit_code
    except (ReaderLeftError, BrokenPipeError):
        # Python flushes once more at its exit, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        complain("What there is to say can't be written: the disk that standard output goes to is full.")
        return EXIT_FAILED
    except Exception as error:
        if type(error).__module__ != "sqlite3":  # it is not imported only to be named here
            raise
        from nanolab_daemon.catalog import remedy

        complain(f"The ledger can't be read: {error}.", remedy(error))
        return EXIT_FAILED
    finally:
        _typed.clear()  # they were this command's
    return code if isinstance(code, int) else 0


def _complain_of_usage(error: click.ClickException) -> None:
    """Tell what Click found wrong, and where help is. What was typed may hold anything and be of any length."""
    from nanolab_daemon.settings import escaped

    message = " ".join(escaped(line.strip()) for line in error.format_message().splitlines())
    if len(message) > MOST_OF_A_MESSAGE:
        message = message[:MOST_OF_A_MESSAGE] + "…"
    context = error.ctx if isinstance(error, click.UsageError) else None
    complain(message, f"{context.get_usage()}\nHelp: {context.command_path} --help" if context else "")


def is_screen(stream: TextIO) -> bool:
    """Tell whether a stream is a terminal that can move its cursor and show colours."""
    try:
        return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")
    except ValueError:  # it is closed
        return False


def can_show(text: str, stream: TextIO) -> bool:
    """Tell whether a stream can show these characters as they are."""
    try:
        text.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def tinted(text: str, colour: str | None, *, bold: bool = False, err: bool = False) -> str:
    """Colour a piece of text where it goes to a terminal that shows colours, and nobody has asked for none."""
    if not is_screen(sys.stderr if err else sys.stdout) or os.environ.get("NO_COLOR"):
        return text
    return click.style(text, fg=colour, bold=bold or None)


def complain(message: str, advice: str = "") -> None:
    """Tell a person on standard error what went wrong, and what to do."""
    click.echo(f"{tinted(f'{PROGRAM}:', 'red', bold=True, err=True)} {message}", err=True)
    for line in as_typed(advice).splitlines():
        click.echo(f"  {line}", err=True)
