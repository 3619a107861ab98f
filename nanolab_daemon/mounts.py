"""What the kernel says of mounted file systems: which one a path is on, which lie below it, who else may write there.

Reads /proc/self/mountinfo and asks no file system; resolving a path on a dead share may hang all the same.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

MOUNT_TABLE = Path("/proc/self/mountinfo")

# Other computers, the host of a virtual machine or a program in user space can change files here without this kernel
# noticing: inotify stays silent, and locks may not hold.
REMOTE_KINDS = frozenset(
    {"9p", "afs", "autofs", "beegfs", "ceph", "cifs", "coda", "drvfs", "fuse", "gfs2", "glusterfs", "gpfs", "lustre"}
    | {"ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "prl_fs", "pvfs2", "smb3", "smbfs", "vboxsf", "virtiofs"}
    | {"vmhgfs", "wekafs"}
)
REMOTE_PREFIX = "fuse."  # fuse.sshfs, fuse.rclone, …; fuseblk is a local disk, such as NTFS on a stick
MEMORY_KINDS = frozenset({"tmpfs", "ramfs"})

_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the mount table."""

    mount_id: int
    parent_id: int
    device: str
    point: Path
    kind: str
    source: str

    @property
    def remote(self) -> bool:
        """Whether others can change files here unseen by this kernel."""
        return is_remote(self.kind)

    @property
    def in_memory(self) -> bool:
        """Whether everything here is gone after a restart of the machine."""
        return self.kind in MEMORY_KINDS


def is_remote(kind: str) -> bool:
    """Tell whether a kind of file system lies on a network or is made up by another program."""
    return kind in REMOTE_KINDS or kind.startswith(REMOTE_PREFIX)


def read_mounts(table: Path = MOUNT_TABLE) -> tuple[Mount, ...]:
    """Read the mount table; OSError where there is none."""
    return parse_mounts(table.read_bytes())


@lru_cache(maxsize=2)  # a daemon asks each second, and the table is what it was
def parse_mounts(text: bytes) -> tuple[Mount, ...]:
    """Parse a mount table; lines that make no sense are left out."""
    return tuple(mount for line in text.split(b"\n") if (mount := _parse_line(line)) is not None)


def mount_of(path: str | os.PathLike[str], mounts: Sequence[Mount] | None = None) -> Mount | None:
    """Return the mount that a path is on, links resolved; the path need not exist.

    The longest mount point wins only among those that can be seen: what was mounted over hides what is below it.
    So the tree is walked down as the kernel does, at each step to the nearest mount on the way.
    """
    return mount_at(Path(os.path.realpath(path)), read_mounts() if mounts is None else mounts)


def mount_at(real: Path, table: Sequence[Mount]) -> Mount | None:
    """Return the mount that a path without links is on, asking no file system."""
    covering = [mount for mount in table if real.is_relative_to(mount.point)]
    ids = {mount.mount_id for mount in covering}
    layer = [mount for mount in covering if mount.parent_id not in ids or mount.parent_id == mount.mount_id]
    found: Mount | None = None
    while layer:
        found = min(layer, key=lambda mount: len(mount.point.parts))
        layer = [mount for mount in covering if mount.parent_id == found.mount_id and mount is not found]
    return found


def mounts_below(path: str | os.PathLike[str], mounts: Sequence[Mount] | None = None) -> tuple[Mount, ...]:
    """Return the visible mounts below a folder, links resolved, without the one that the folder itself is on."""
    return mounts_under(Path(os.path.realpath(path)), read_mounts() if mounts is None else mounts)


def mounts_under(real: Path, table: Sequence[Mount]) -> tuple[Mount, ...]:
    """Return the visible mounts below a folder whose path has no links, asking no file system."""
    below = (mount for mount in table if mount.point != real and mount.point.is_relative_to(real))
    return tuple(mount for mount in below if mount_at(mount.point, table) is mount)


def _parse_line(line: bytes) -> Mount | None:
    # 36 35 98:0 /subfolder /mount\040point rw,noatime [optional fields…] - kind source options
    left, separator, right = line.partition(b" - ")
    fields, rest = left.split(b" "), right.split(b" ")  # only blanks part fields: a name may hold other white space
    if not separator or len(fields) < 5 or not rest[0] or not (fields[0].isdigit() and fields[1].isdigit()):
        return None
    return Mount(
        mount_id=int(fields[0]),
        parent_id=int(fields[1]),
        device=_text(fields[2]),
        point=Path(_text(fields[4])),
        kind=_text(rest[0]),
        source=_text(rest[1]) if len(rest) > 1 else "",
    )


def _text(raw: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), raw))
