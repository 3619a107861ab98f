"""The parts of the raw folder that are mounted by themselves: how each is watched, and whether it is there at all.

A lab often has one share for each instrument's PC. One that is not mounted leaves an empty folder behind, from which
nothing may be concluded. Reads the mount table only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nanolab_daemon.errors import EngineError
from nanolab_daemon.mounts import Mount, mount_at, mounts_under, read_mounts
from nanolab_daemon.sections import WatchMode

Hears = Callable[[Path], bool]


@dataclass(frozen=True, slots=True)
class Place:
    """The raw folder (path b"") or a mount below it. `gone` says why nothing may be concluded from it now."""

    path: bytes
    point: str  # where the file system that it is on is mounted
    kind: str
    mode: WatchMode  # events or scan
    why: str
    gone: str = ""
    silent: bool = False  # it is mounted, but does not answer


def survey(
    raw: Path,
    mode: WatchMode,
    known: Iterable[tuple[bytes, str, str]],
    *,
    table: Sequence[Mount],
    hears: Hears,
    deaf: Mapping[bytes, str],
    silent: Collection[bytes] = (),
) -> dict[bytes, Place]:
    """Find the places of a raw folder, given without links; asks no file system but by `hears`.

    `known` are those of before (path, mount point, kind); `deaf` those on which events were seen to fail, with words;
    `silent` those that don't answer.
    """
    root = raw
    found: dict[bytes, Place] = {}
    own = mount_at(root, table)
    mounts = [(b"", own)] if own is not None else []
    mounts += [(os.fsencode(mount.point.relative_to(root)), mount) for mount in mounts_under(root, table)]
    for path, mount in mounts:
        chosen, why = _mode(mount, root / os.fsdecode(path), mode, hears, deaf.get(path, ""))
        gone = f"{mount.point} ({mount.kind}) does not answer" if path in silent else ""
        found[path] = Place(path, str(mount.point), mount.kind, chosen, why, gone, silent=path in silent)
    for path, point, kind in known:
        now = found.get(path)
        # A share's folder may have gone with it, as those do that an automounter makes. The raw folder itself was on
        # another file system if that was mounted further down.
        moved_up = now is not None and len(Path(point).parts) > len(Path(now.point).parts)
        lacking = now is None if path else moved_up
        if lacking:
            found[path] = Place(path, point, kind, WatchMode.SCAN, "", f"{point} ({kind}) is not mounted")
    return found


def survey_for_a_pass(raw: Path, mode: WatchMode, known: Iterable[tuple[bytes, str, str]]) -> dict[bytes, Place]:
    """Find the places for a single pass, which tries no events; refuse a raw folder that is not what it was."""
    places = survey(Path(os.path.realpath(raw)), mode, known, table=read_mounts(), hears=lambda _: True, deaf={})
    if b"" in places and places[b""].gone:
        raise EngineError(
            f"The raw folder {raw} is not what it was: {places[b''].gone}.",
            advice="Mount it and run the command again; if it has moved for good, say so: --accept-missing.",
        )
    return places


def _mode(mount: Mount, folder: Path, wanted: WatchMode, hears: Hears, deaf: str) -> tuple[WatchMode, str]:
    if wanted is not WatchMode.AUTO:
        return wanted, "the configuration says so"
    if mount.remote:
        return WatchMode.SCAN, f"{mount.kind} tells nothing of what other machines write"
    if deaf:
        return WatchMode.SCAN, deaf
    if not hears(folder):
        return WatchMode.SCAN, f"no event came from {mount.kind} when it was tried"
    return WatchMode.EVENTS, f"{mount.kind} is local, and an event came when it was tried"


def below(places: Iterable[bytes], path: bytes) -> frozenset[bytes]:
    """Give those of the places that lie below another one."""
    return frozenset(p for p in places if p != path and (not path or p.startswith(path + b"/")))


def place_of(places: Iterable[bytes], path: bytes) -> bytes:
    """Give the place on which a file lies: the deepest one above it."""
    return max((p for p in places if not p or path.startswith(p + b"/")), key=len, default=b"")
