"""Which raw file a person means: a path in any form, a bare name, or a run id; and why some files don't count.

Looks at names and stat(2) only.
"""

# ruff: noqa: PTH109, PTH114, PTH117, PTH119 -- names of raw files are bytes, which pathlib does not take

from __future__ import annotations

import difflib
import os
import re
import stat
import time
from dataclasses import dataclass
from typing import NamedTuple

from nanolab_daemon.catalog import Catalog
from nanolab_daemon.config import Config
from nanolab_daemon.errors import UsageError
from nanolab_daemon.names import shown_path
from nanolab_daemon.scan import name_test, walk
from nanolab_daemon.settings import escaped

_RUN_ID = re.compile(r"[0-9a-f]{1,16}")
_WHOLE = 16
_SHOWN_MATCHES = 5
_SLIP = 2  # letters too many or too few
_MOST_COMPARED = 5000
_MOST_FOLDERS = 20_000
_SEARCH_S = 5.0


@dataclass(frozen=True, slots=True)
class Located:
    """What was meant: `path` is relative to raw, None where it lies outside; `full` the whole path.

    `by_run_id`: it was meant as the source of a run. `similar`: a known name that is much like one that is not there.
    """

    path: bytes | None
    full: bytes
    by_run_id: bool = False
    similar: str = ""


def locate(text: str, config: Config, catalog: Catalog | None) -> Located:
    """Find the file, by its path, its name, a run id or the beginning of one.

    A name that fits several, or a run id that fits none, is a UsageError that says so.
    """
    if "\0" in text:
        raise UsageError(f"{escaped(text)} is no name of a file: it holds a NUL.")
    if not text.strip():
        raise UsageError("No file is named.", advice="Name one by its path, by its name alone, or by its run id.")
    raw = os.fsencode(config.paths.raw)
    given = os.fsencode(text)
    is_id = catalog is not None and _RUN_ID.fullmatch(text) and not os.path.lexists(given)
    if is_id and catalog is not None and len(text) == _WHOLE:
        return _by_run_id(text, raw, catalog)
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
        if is_id:
            return _by_run_id(text, raw, catalog)
    path = _on_disk(given, raw, config)
    if path is not None:
        return Located(path, os.path.join(raw, path))
    full = here if os.path.isabs(given) else os.path.join(raw, given)
    path = below(raw, full)
    if path is None:
        full = os.path.normpath(here)
    return Located(path, full, similar="" if catalog is None else _similar(given, catalog))


def _by_run_id(text: str, raw: bytes, catalog: Catalog) -> Located:
    """Find the run whose id begins so."""
    found = list(catalog.run_ids("run_id >= ? AND run_id < ? LIMIT ?", (text, text + "g", _SHOWN_MATCHES + 1)))
    if len(found) == 1:
        source = found[0][3]
        return Located(source, os.path.join(raw, source), by_run_id=True)
    if found:
        shown = [f"{run_id}  {proc} of {date}, {shown_path(path)}" for run_id, proc, date, path in found]
        more = ["…"] if len(found) > _SHOWN_MATCHES else []
        listed = "\n".join(shown[:_SHOWN_MATCHES] + more)
        raise UsageError(f"Several runs begin with {text}.", advice=f"Name one:\n{listed}")
    if len(text) < _WHOLE:
        raise UsageError(
            f"No run begins with {text}, and no file has that name.",
            advice="Is it another state folder's? See --state-dir.",
        )
    near = next((one for one, *_ in catalog.run_ids() if _is_slip(text, one)), None)
    hint = f" (did you mean {near}?)" if near else ""
    raise UsageError(f"No run {text} is published{hint}.", advice="Is it another state folder's? See --state-dir.")


def _is_slip(text: str, run_id: str) -> bool:
    """Tell whether two ids differ in at most two places, as after a slip of the hand."""
    return sum(a != b for a, b in zip(text, run_id, strict=True)) <= 2


def _similar(given: bytes, catalog: Catalog) -> str:
    """Find the known file whose name is most like one that is not there; the newest of several."""
    wanted = os.path.basename(given).decode("utf-8", "replace").lower()
    names: dict[str, bytes] = {}
    for path in catalog.paths("present ORDER BY judged_at"):
        name = os.path.basename(path).decode("utf-8", "replace").lower()
        if abs(len(name) - len(wanted)) <= _SLIP or name == f"{wanted}.csv":
            names[name] = path
    if f"{wanted}.csv" in names:
        return shown_path(names[f"{wanted}.csv"])
    if wanted in names:
        return shown_path(names[wanted])
    near = difflib.get_close_matches(wanted, list(names)[-_MOST_COMPARED:], n=1, cutoff=0.8)
    return shown_path(names[near[0]]) if near else ""


def below(raw: bytes, full: bytes) -> bytes | None:
    """Give a path relative to raw, through links on the way to either; None if it does not lie below."""
    top = os.path.normpath(raw)
    path = os.path.normpath(full)
    if path.startswith(top + b"/"):
        return path[len(top) + 1 :]
    real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    top = os.path.realpath(raw)
    return real[len(top) + 1 :] if real.startswith(top + b"/") else None


class NotCounted(NamedTuple):
    """Why a file does not count, in words, and what to do if it ought to."""

    reason: str
    remedy: str


def why_not(located: Located, config: Config) -> str:
    """Say in words why a file does not count; empty if it does."""
    found = not_counted(located, config)
    return found.reason if found is not None else ""


def not_counted(located: Located, config: Config) -> NotCounted | None:
    """Tell why a file does not count, None if it does."""
    raw = os.fsencode(config.paths.raw)
    into_raw = f"If it is a measurement, copy it to a folder below {shown_path(raw)}."
    try:
        kind = os.lstat(located.full).st_mode
    except OSError as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            hint = f" (did you mean {located.similar}?)" if located.similar else ""
            return NotCounted(
                f"There is no such file{hint}.", "Check the name; names are relative to the raw folder."
            )
        return NotCounted(f"It can't be looked at: {error.strerror}.", "Give this user the right to do so.")
    if located.path is None:
        if os.path.realpath(located.full) == os.path.realpath(raw):
            return NotCounted("It is the raw folder itself; name a file in it.", "Name a file.")
        reason = f"It lies outside the raw folder ({shown_path(raw)}), and only what is below that counts."
        return NotCounted(reason, into_raw)
    if stat.S_ISDIR(kind):
        return NotCounted("It is a folder; files count, in folders of any depth.", "Name a file in it.")
    if stat.S_ISLNK(kind):
        return NotCounted(
            "It is a symbolic link; those are not followed. Put the file itself below the raw folder.", into_raw
        )
    if not stat.S_ISREG(kind):
        return NotCounted(
            "It is no regular file but a pipe, a socket or a device.", "Have the instrument write an ordinary file."
        )
    linked = _linked_folder(raw, located.path)
    if linked is not None:
        reason = f"It is reached through a symbolic link ({shown_path(linked)}), and those are not followed."
        return NotCounted(reason, "Mount that folder below the raw folder instead, or copy the files there.")
    return _not_by_name(located.path, config)


def _not_by_name(path: bytes, config: Config) -> NotCounted | None:
    watch = config.watch
    if name_test(watch.include, watch.exclude)(path):
        return None
    if not name_test(("*",), ())(path):
        return NotCounted(
            "Its name, or a folder's on the way to it, is that of a hidden, temporary or sync tool's own file.",
            "If it is a measurement, give it another name.",
        )
    if not name_test(watch.include, ())(path):
        return NotCounted(
            f"Its name fits none of the patterns in watch.include ({', '.join(watch.include)}).",
            "If it is a measurement, rename it, or add a pattern to watch.include in the configuration.",
        )
    return NotCounted(
        f"Its name fits a pattern in watch.exclude ({', '.join(watch.exclude)}).",
        "If it is a measurement, rename it, or take the pattern out of watch.exclude in the configuration.",
    )


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
    return _only(found, given)


def _on_disk(given: bytes, raw: bytes, config: Config) -> bytes | None:
    """Look below raw for a file of this name that the ledger does not know yet, for as long as a person waits."""
    if b"/" in given:
        return None
    test = name_test(config.watch.include, config.watch.exclude)
    found: list[bytes] = []
    end = time.monotonic() + _SEARCH_S
    for number, listing in enumerate(walk(raw, test)):
        path = listing.folder + b"/" + given if listing.folder else given
        if path in listing.files:
            found.append(path)
        if number >= _MOST_FOLDERS or time.monotonic() > end:
            break
    return _only(found, given)


def _only(found: list[bytes], given: bytes) -> bytes | None:
    """Give the one file that was found, None if none was; UsageError if several were."""
    if len(found) > 1:
        shown = "\n".join(shown_path(path) for path in found[:_SHOWN_MATCHES])
        more = f"\n… and {len(found) - _SHOWN_MATCHES} more" if len(found) > _SHOWN_MATCHES else ""
        raise UsageError(f"{len(found)} files have the name {shown_path(given)}.", advice=f"Name one:\n{shown}{more}")
    return found[0] if found else None
