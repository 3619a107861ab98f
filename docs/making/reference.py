"""The pages of the reference: everything that the code knows by name, and what it means.

Each function gives a page. A name without a meaning is a KeyError, so that nothing new goes untold.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pyarrow.parquet as pq
from prometheus_client.core import Metric

from making import answers, source, words
from making.tables import code, plain, table
from nanolab_daemon import cli_base, config, journal, manifest, parquet, service
from nanolab_daemon.cli import cli
from nanolab_daemon.errors import QUARANTINE, ConfigError, RejectCause, UsageError
from nanolab_daemon.model import FileState
from nanolab_daemon.procedures import Registry
from nanolab_daemon.sections import RULES, SECTIONS
from nanolab_daemon.settings import shown
from nanolab_daemon.tally import Latency, Tally
from nanolab_daemon.web.metrics import Numbers
from nanolab_daemon.web.state import health

HOME = "reference"


def pages(data: Path) -> dict[str, str]:
    """Give all pages by their paths; `data` is a folder in which measurements were worked off (the demo's)."""
    made = {
        "settings": settings(),
        "commands": commands(),
        "columns": columns(data),
        "states": states(),
        "causes": causes(),
        "events": events(),
        "metrics": metrics(),
        "answers": _page(answers.page()),
    }
    return {f"{HOME}/{name}.md": text for name, text in made.items()}


# -- settings


def settings() -> str:
    """Give every key of the configuration."""
    comments = dict(_comments(config.default_text()))
    parts = [
        "# Settings",
        "Every key of `config.toml`. A key that is missing means the default. `config.toml` in the source is the same"
        " list as a file to begin with; `nanolab-daemon check` says which file is read.",
        "The environment overrides the file, as `NANOLAB_<SECTION>_<KEY>` (lists comma separated); the command line"
        " overrides both. Unknown keys and bad values are refused, with what would be right.",
        "Where *reload* says yes, a running daemon takes a change over with SIGHUP (`systemctl reload`); the others"
        " need a restart. If one of them has changed, a reload takes over nothing, and says so.",
    ]
    for section, kind in SECTIONS.items():
        rows = []
        for one in fields(kind):
            key = f"{section}.{one.name}"
            rows.append(
                (
                    f"`{one.name}`",
                    code(_default(one.default)),
                    _rule(key),
                    "yes" if key.startswith(service.RELOADABLE) else "restart",
                    plain(_sentence(comments[key])),
                )
            )
        parts += [f"## `[{section}]`", table(("key", "default", "value", "reload", "meaning"), rows)]
        flags: dict[str, list[str]] = {
            flag: [] for key, flag in config.FLAGS.items() if key.startswith(f"{section}.")
        }
        for key, flag in config.FLAGS.items():
            if flag in flags:
                flags[flag].append(code(key))
        if flags:
            told = (f"`{flag}` sets {' and '.join(keys)}" for flag, keys in flags.items())
            parts.append(f"On the command line: {', '.join(told)}.")
        variables = [name for name, key in config.VARIABLES.items() if key.startswith(f"{section}.")]
        parts.append(f"In the environment: {', '.join(map(code, variables))}.")
        if section == "notify":
            parts.append("`nanolab-daemon notify`, a process of its own, reads them when it starts.")
    parts += [
        "## `[procedures]`",
        "Adds to or overrides the registry of procedures, a table each: see [the registry](../registry.md). Taken"
        " over at a reload. It can be set in the file alone.",
    ]
    return _page(parts)


def _comments(text: str) -> Iterator[tuple[str, str]]:
    """Give the comment of each key in the commented file of defaults."""
    section = ""
    for line in text.splitlines():
        if found := re.fullmatch(r"\[(\w+)\]", line.strip()):
            section = found[1]
        elif found := re.match(r"(\w+) = (\".*?\"|\[.*?\]|[^#\s]+)\s*(?:#\s*(.*))?$", line):
            yield f"{section}.{found[1]}", found[3] or ""


def _default(value: object) -> str:
    return '""' if value is None else shown(value)


def _rule(key: str) -> str:
    """Say what a value may be, in the words in which a wrong one is refused."""
    try:
        RULES[key].parse(object())
    except ValueError as error:
        words_ = re.sub(r"^must (be|name) ", lambda found: "" if found[1] == "be" else "name ", str(error))
        return re.sub(r'"[^"]*"|\["[^]]*"\]', lambda found: f"`{found[0]}`", words_)
    raise AssertionError(f"{key} takes anything")


# -- commands


def commands() -> str:
    """Give every command with its options, as `--help` has them."""
    parts = [
        "# Commands",
        "`nanolab-daemon COMMAND`. All of this is also in `nanolab-daemon COMMAND --help`.",
        "## Exit codes",
        table(("code", "meaning"), ((code(number), words.EXIT_CODES[number]) for number in exit_codes())),
    ]
    for path, command in every_command(cli):
        if isinstance(command, click.Group) and path:
            parts += [f"## {path}", _prose(command.help)]
            continue
        if not path:
            continue
        context = click.Context(command, info_name=f"nanolab-daemon {path}")
        usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
        parts += [f"## {path}", f"```text\n{usage}\n```", _prose(command.help)]
        options = [one for one in command.get_params(context) if isinstance(one, click.Option)]
        parts.append(table(("option", "meaning"), (_option(one, context) for one in options)))
        if command.epilog:
            parts.append(f"```sh\n{_examples(command.epilog)}\n```")
    return _page(parts)


def every_command(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Give a group and all below it, each with the words that call it."""
    yield path, group
    for name, command in group.commands.items():
        full = f"{path} {name}".strip()
        if isinstance(command, click.Group):
            yield from every_command(command, full)
        else:
            yield full, command


def exit_codes() -> list[int]:
    """Give the codes that a command ends with on purpose."""
    constants = (cli_base.EXIT_FAILED, cli_base.EXIT_REJECTS, cli_base.EXIT_INTERRUPTED)
    return sorted({0, *constants, UsageError.exit_code, ConfigError.exit_code})


def _option(option: click.Option, context: click.Context) -> tuple[str, str]:
    names, help_ = option.get_help_record(context) or (", ".join(option.opts), option.help or "")
    return code(names), plain(help_)


def _prose(text: str | None) -> str:
    return plain(inspect.cleandoc((text or "").replace("\f", "").replace("\b\n", "")))


def _examples(epilog: str) -> str:
    lines = epilog.replace("\b", "").strip().splitlines()
    return "\n".join(line.strip() for line in lines if line.strip() and line.strip() != "Examples:")


# -- columns


def columns(data: Path) -> str:
    """Give the columns of all three kinds of Parquet files, with the types that the demo's files have."""
    staged = sorted((data / layout_of("stage")).glob("proc=*/date=*/run_id=*/part-000.parquet"))
    cut = sorted((data / layout_of("output")).glob("*/proc=*/date=*/run_id=*/segment=0/part-000.parquet"))
    constant = _types(staged, of=lambda name, proc: name not in proc.columns)
    in_segments = _types(cut, of=lambda name, proc: name not in proc.columns and name not in constant)
    noted = sorted({key for path in staged for key in _notes(path)} | set(words.METADATA_KEYS))
    fixed = {one.name: str(one.type) for one in manifest.table([], ()).schema}
    registry = Registry.builtin()
    extra = {name: (old, one.name) for one in registry for name, old in one.manifest.items()}
    parts = [
        "# Columns",
        "## A staged run",
        "First the data columns of its procedure, in the order of the table below, each a 64-bit float; then, the"
        " same in every row:",
        table(
            ("column", "type", "meaning"),
            ((code(name), kind, words.CONSTANT_COLUMNS[name]) for name, kind in constant.items()),
        ),
        "In the Parquet metadata, under `nanolab.`:",
        table(("key", "meaning"), ((code(key), words.METADATA_KEYS[key]) for key in noted)),
        "## Data columns",
        "A procedure has one set of columns; where an older file lacks one, it is there as nulls. What the registry"
        " does not know comes after those that it knows.",
        table(("procedure", "columns"), ((one.name, ", ".join(map(code, one.columns)) or "-") for one in registry)),
        "## A segment",
        "The columns of the staged run, then:",
        table(
            ("column", "type", "meaning"),
            ((code(name), kind, words.SEGMENT_COLUMNS[name]) for name, kind in in_segments.items()),
        ),
        "## The manifest",
        "`_manifest/manifest.parquet` below the stage root; a row a run.",
        table(
            ("column", "type", "meaning"),
            (
                (code(name), _type(kind), words.MANIFEST_COLUMNS[name])
                for name, kind in fixed.items()
                if name not in extra
            ),
        ),
        "Then parameters of the header, as 64-bit floats, null where a procedure has no such parameter:",
        table(
            ("column", "parameter", "procedures"),
            (
                (
                    code(name),
                    " or ".join(dict.fromkeys(code(one.manifest[name]) for one in registry if name in one.manifest)),
                    ", ".join(one.name for one in registry if name in one.manifest),
                )
                for name in sorted(extra)
            ),
        ),
    ]
    return _page(parts)


def layout_of(root: str) -> Path:
    """Give where a root lies below the folder that holds `data`, by the default settings."""
    default = {one.name: one.default for one in fields(SECTIONS["paths"])}[root]
    assert isinstance(default, Path)
    return default


def _types(files: Iterable[Path], of: Any) -> dict[str, str]:
    registry = Registry.builtin()
    found: dict[str, str] = {}
    for path in files:
        schema = pq.read_schema(path)
        proc = registry.get(path.parts[[part.startswith("proc=") for part in path.parts].index(True)][5:])
        for one in schema:
            if of(one.name, proc):
                found.setdefault(one.name, _type(str(one.type)))
    return found


def _notes(path: Path) -> Iterator[str]:
    for key in pq.read_schema(path).metadata or {}:
        name = key.decode()
        if name.startswith(parquet.META_PREFIX):
            yield name.removeprefix(parquet.META_PREFIX)


def _type(arrow: str) -> str:
    names = {
        "string": "String",
        "large_string": "String",
        "int64": "Int64",
        "double": "Float64",
        "bool": "Boolean",
        "timestamp[us, tz=UTC]": "Datetime (µs, UTC)",
    }
    return "List of String" if arrow.startswith("list") else names[arrow]


# -- files


def states() -> str:
    """Give the states of a raw file."""
    rows = ((code(state), *words.STATES[state]) for state in FileState)
    return _page(
        [
            "# States of a file",
            "What `why`, `status`, the page and the ledger say of a raw file. The usual way is `queued`, `started`,"
            " `measuring`, `staged`, `segmented`. Whatever was concluded, a file whose bytes change is judged anew.",
            table(("state", "what is known", "what to do"), rows),
        ]
    )


def causes() -> str:
    """Give the causes of rejections, with what the program says and the remedy."""
    said = source.refusals()
    parts = [
        "# Why files are refused",
        "A refused file harms no other. Nothing of it is published, nothing of it is lost, and it is tried again by"
        " itself when its bytes change. `nanolab-daemon rejects` lists them by cause, `nanolab-daemon why FILE` shows"
        " the line, and `nanolab-daemon retry FILE` tries again at once.",
    ]
    for cause in RejectCause:
        what, remedy = words.CAUSES[cause]
        parts += [f"## {cause}", what, f"**What to do.** {remedy}"]
        if cause in QUARANTINE:
            parts.append("Its content is in [quarantine](../limits.md#quarantine).")
        reasons = [f"* {plain(one.reason)} {_advice(one)}".rstrip() for one in said.get(cause, ())]
        if reasons:
            parts += ["In its words:", "\n".join(reasons)]
    return _page(parts)


def _advice(one: source.Refusal) -> str:
    return f"*{plain(one.advice)}*" if one.advice else ""


# -- what programs hear


def events() -> str:
    """Give all records of the log: their levels, fields, and ids in the journal."""
    found = source.events()
    kept = [found[name] for name in journal.MESSAGE_IDS]
    others = sorted((one for name, one in found.items() if name not in journal.MESSAGE_IDS), key=lambda one: one.name)
    keys = sorted({key for one in found.values() for key in one.keys})
    return _page(
        [
            "# Events and fields of the log",
            "How to ask the journal, and what fields every record has, is told in [the journal](../journal.md). Here"
            " is the whole list, from the code. Under systemd the fields are in capital letters.",
            "## Events that keep their id",
            "Programs may rely on these, in all versions.",
            table(
                ("event", "level", "when", "fields", "`MESSAGE_ID`"),
                (
                    (
                        plain(one.name),
                        ", ".join(sorted(one.levels)),
                        words.EVENTS[one.name],
                        _listed(one.keys),
                        code(journal.MESSAGE_IDS[one.name]),
                    )
                    for one in kept
                ),
            ),
            "## Other events",
            "Their words may change.",
            table(
                ("event", "level", "fields"),
                ((plain(one.name), ", ".join(sorted(one.levels)), _listed(one.keys)) for one in others),
            ),
            "## Fields",
            table(("field", "meaning"), ((code(key), words.FIELDS[key]) for key in keys)),
        ]
    )


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(map(code, sorted(keys)))


def metrics() -> str:
    """Give all metrics, as Prometheus reads them."""
    return _page(
        [
            "# Metrics",
            "What `/metrics` answers, where `[http]` is on. [Monitoring](../monitoring/README.md) tells how to have"
            " Prometheus and Grafana read it.",
            table(
                ("metric", "type", "labels", "meaning"),
                (
                    (code(name), family.type, _listed(_labels(family)), plain(family.documentation))
                    for name, family in every_metric().items()
                ),
            ),
        ]
    )


ANSWER: Mapping[str, Any] = {
    "since": 0.0,
    "tally": {**Tally().as_dict(), "outcomes": {"staged": 1}, "causes": {"bad_rows": 1}},
    "latency": Latency().as_dict(),
    "lost_events": 0,
    "queues": {"stage": [0, 0], "segment": [0, 0]},
    "oldest_in_line_s": 0.0,
    "following": 0,
    "measuring": {},
    "scanned_at": 1.0,
    "rescan_s": 60.0,
    "pools": [{"name": "stage", "size": 1, "ready": 1, "idle": 1, "replaced": 0, "workers": [{"rss_mb": 1}]}],
    "page": {"restarts": 0},
}
"""What a daemon says of itself that has done a little."""


def every_metric() -> dict[str, Metric]:
    """Give all families of metrics by the names that are asked for, made for a daemon that has done a little."""
    made = Numbers(ANSWER, {}, {}, {}, health(ANSWER)).collect()
    return {f"{one.name}_total" if one.type == "counter" else one.name: one for one in made}


def _labels(family: Metric) -> set[str]:
    return {label for sample in family.samples for label in sample.labels} - {"le"}


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _page(parts: Iterable[str]) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"
