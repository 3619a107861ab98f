"""Whether the four folders fit each other: apart, of the right kind, the ledger on a local disk.

Speaks of mistakes of the configuration only; whether the machine is fit is asked by `check`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from dataclasses import fields
from itertools import combinations
from pathlib import Path

from nanolab_daemon.config import FLAGS, Config
from nanolab_daemon.errors import ConfigError, EngineError
from nanolab_daemon.mounts import mount_of
from nanolab_daemon.outputs import unanswering
from nanolab_daemon.settings import shown


def check_paths(config: Config, *, raw_may_be_missing: bool = False) -> None:
    """Refuse folders that can't work together, all mistakes in one ConfigError; EngineError if one does not answer.

    `raw_may_be_missing` is for a daemon that waits for a share to be mounted, or to answer.
    """
    paths = config.paths
    silent = unanswering((paths.raw, paths.stage, paths.output, paths.state))
    if silent and not (raw_may_be_missing and silent == [paths.raw]):
        raise EngineError(
            f"{shown(silent[0])} does not answer.",
            advice="Look at the server of that share, and at the network; then run the command again.",
        )
    mistakes = path_mistakes(config, raw_may_be_missing=raw_may_be_missing, leave_out=silent)
    if len(mistakes) == 1:
        raise ConfigError(mistakes[0])
    if mistakes:
        raise ConfigError("\n  ".join([f"The folders have {len(mistakes)} mistakes:", *mistakes]))


def path_mistakes(config: Config, *, raw_may_be_missing: bool = False, leave_out: Collection[Path] = ()) -> list[str]:
    """Say what is wrong with the folders, one sentence a mistake; some are left out since they don't answer."""
    every = {f"paths.{one.name}": getattr(config.paths, one.name) for one in fields(config.paths)}
    paths = {key: path for key, path in every.items() if path not in leave_out}
    mistakes = [
        f"{_named(key, path)} {trouble}"
        for key, path in paths.items()
        if (trouble := _trouble(key, path, raw_may_be_missing=raw_may_be_missing))
    ]
    for (key, path), (other_key, other) in combinations(paths.items(), 2):
        if lies_inside(path, other):
            relation = "is" if lies_inside(other, path) else "lies inside"
            mistakes.append(
                f"{_named(key, path)} {relation} {_named(other_key, other)}: give each a folder of its own."
            )
        elif lies_inside(other, path):
            mistakes.append(
                f"{_named(other_key, other)} lies inside {_named(key, path)}: give each a folder of its own."
            )
    mistakes += _state_on_network(config.paths.state)
    return mistakes


def lies_inside(inner: Path, outer: Path) -> bool:
    """Tell whether `inner` is `outer` or lies below it, through links, `..` and bind mounts too."""
    real_inner, real_outer = Path(os.path.realpath(inner)), Path(os.path.realpath(outer))
    if real_inner.is_relative_to(real_outer):
        return True
    try:
        wanted = real_outer.stat()
    except OSError:
        return False
    for one in (real_inner, *real_inner.parents):
        try:
            if os.path.samestat(one.stat(), wanted):
                return True
        except OSError:
            continue
    return False


def nearest_existing(path: Path) -> Path:
    """Return the path itself, or the deepest folder above it that exists."""
    real = Path(os.path.realpath(path))
    return next((one for one in (real, *real.parents) if os.path.lexists(one)), Path("/"))


def _trouble(key: str, path: Path, *, raw_may_be_missing: bool) -> str:
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        if key != "paths.raw" or raw_may_be_missing:
            return ""  # the others are made at the first start
        return f"does not exist: make it, mount it, or name another with {FLAGS[key]}."
    except NotADirectoryError:
        return f"can't exist: {shown(nearest_existing(path))}, on the way to it, is not a folder."
    except OSError as error:
        if key == "paths.raw" and raw_may_be_missing and isinstance(error, PermissionError):
            return ""  # it may be opened while the daemon waits, as it may where it alone is closed
        return f"can't be looked at: {error.strerror}."
    return "" if stat.S_ISDIR(kind) else "is not a folder."


def _state_on_network(state: Path) -> list[str]:
    try:
        mount = mount_of(state)
    except OSError:
        return []  # without a mount table nothing can be known; `check` says so
    if mount is None or not mount.remote:
        return []
    return [
        f"{_named('paths.state', state)} is on {mount.kind} ({shown(mount.point)}): "
        "locks can't be relied upon there; name a folder on a local disk."
    ]


def _named(key: str, path: Path) -> str:
    return f"{key} = {shown(path)}"
