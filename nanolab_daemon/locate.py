"""Which raw file a person means: a path in any form, a bare name, or a run id; and why some files don't count.

Looks at names and stat(2) only.
"""

# ruff: noqa: PTH109, PTH114, PTH117, PTH119 -- names of raw files are bytes, which pathlib does not take

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass

from nanolab_daemon.catalog import Catalog
from nanolab_daemon.config import Config
from nanolab_daemon.errors import UsageError
from nanolab_daemon.names import shown_path
from nanolab_daemon.scan import name_test

_RUN_ID = re.compile(r"[0-9a-f]{16}")
_SHOWN_MATCHES = 5


@dataclass(frozen=True, slots=True)
class Located:
    """What was meant: `path` is relative to raw, None where it lies outside; `full` the whole path."""

    path: bytes | None
    full: bytes


def locate(text: str, config: Config, catalog: Catalog | None) -> Located:
    """Find the file; a name that fits several, or none at all, is a UsageError that says so."""
    raw = os.fsencode(config.paths.raw)
    given = os.fsencode(text)
    if catalog is not None and _RUN_ID.fullmatch(text) and not os.path.lexists(given):
        run = catalog.run(text)
        if run is None:
            raise UsageError(f"No run {text} is published.", advice="Is it another state folder's? See --state-dir.")
        return Located(run.source, os.path.join(raw, run.source))
    here = os.path.join(os.getcwdb(), given)
    for full in (here, os.path.join(raw, given)):
        path = below(raw, full)
        if path is not None and (os.path.lexists(full) or (catalog is not None and catalog.file(path))):
            return Located(path, os.path.join(raw, path))
    if os.path.lexists(here):
        return Located(None, os.path.normpath(here))
    if catalog is not None:
        path = _by_name(text, given, catalog)
        if path is not None:
            return Located(path, os.path.join(raw, path))
    full = here if os.path.isabs(given) else os.path.join(raw, given)
    return Located(below(raw, full), full)


def below(raw: bytes, full: bytes) -> bytes | None:
    """Give a path relative to raw, through links on the way to either; None if it does not lie below."""
    top = os.path.normpath(raw)
    path = os.path.normpath(full)
    if path.startswith(top + b"/"):
        return path[len(top) + 1 :]
    real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    top = os.path.realpath(raw)
    return real[len(top) + 1 :] if real.startswith(top + b"/") else None


def why_not(located: Located, config: Config) -> str:
    """Say in words why a file does not count; empty if it does."""
    raw = os.fsencode(config.paths.raw)
    try:
        kind = os.lstat(located.full).st_mode
    except OSError as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return "There is no such file."
        return f"It can't be looked at: {error.strerror}."
    if located.path is None:
        if os.path.realpath(located.full) == os.path.realpath(raw):
            return "It is the raw folder itself; name a file in it."
        return f"It lies outside the raw folder ({shown_path(raw)}), and only what is below that counts."
    if stat.S_ISDIR(kind):
        return "It is a folder; files count, in folders of any depth."
    if stat.S_ISLNK(kind):
        return "It is a symbolic link; those are not followed. Put the file itself below the raw folder."
    if not stat.S_ISREG(kind):
        return "It is no regular file but a pipe, a socket or a device."
    linked = _linked_folder(raw, located.path)
    if linked is not None:
        return f"It is reached through a symbolic link ({shown_path(linked)}), and those are not followed."
    return _why_not_by_name(located.path, config)


def _why_not_by_name(path: bytes, config: Config) -> str:
    watch = config.watch
    if name_test(watch.include, watch.exclude)(path):
        return ""
    if not name_test(("*",), ())(path):
        return "Its name, or a folder's on the way to it, is that of a hidden, temporary or sync tool's own file."
    if not name_test(watch.include, ())(path):
        return f"Its name fits none of the patterns in watch.include ({', '.join(watch.include)})."
    return f"Its name fits a pattern in watch.exclude ({', '.join(watch.exclude)})."


def _linked_folder(raw: bytes, path: bytes) -> bytes | None:
    folder = os.path.dirname(path)
    linked = None
    while folder:
        if os.path.islink(os.path.join(raw, folder)):
            linked = folder
        folder = os.path.dirname(folder)
    return linked


def _by_name(text: str, given: bytes, catalog: Catalog) -> bytes | None:
    """Look among the known files for one of this name, or whose name is shown like this."""
    if b"/" not in given:
        # `instr` compares bytes; LIKE would treat them as text and `_` as any character
        where = "instr(path, ?) > 0"
        found = [r.path for r in catalog.files(where, (given,)) if os.path.basename(r.path) == given]
    else:
        found = []
    if not found and "\\" in text:
        found = [
            r.path for r in catalog.files() if shown_path(r.path) == text or shown_path(r.path).endswith("/" + text)
        ]
    if len(found) > 1:
        shown = "\n".join(shown_path(path) for path in found[:_SHOWN_MATCHES])
        more = f"\n… and {len(found) - _SHOWN_MATCHES} more" if len(found) > _SHOWN_MATCHES else ""
        raise UsageError(f"{len(found)} files have the name {shown_path(given)}.", advice=f"Name one:\n{shown}{more}")
    return found[0] if found else None
